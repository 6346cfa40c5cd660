package cairn;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Set;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.remoting.protocol.body.CMResult;
import org.apache.rocketmq.remoting.protocol.body.ConsumeMessageDirectlyResult;
import org.apache.rocketmq.remoting.protocol.body.ConsumerConnection;
import org.apache.rocketmq.remoting.protocol.body.ConsumerRunningInfo;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** What tools do with consumers that are there: they have them consume a message, and ask what they are about. */
class ConsumersTest {
    @BeforeAll
    static void start() throws Exception {
        AdminTest.start();
    }

    @AfterAll
    static void stop() {
        AdminTest.stop();
    }

    static DefaultMQPushConsumer consumer(String group, String instance, String topic) throws Exception {
        DefaultMQPushConsumer c = new DefaultMQPushConsumer(group);
        c.setNamesrvAddr(AdminTest.NAMESRV);
        c.setInstanceName(instance + AdminTest.RUN);
        c.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        c.subscribe(topic, "*");
        return c;
    }

    static ConsumerConnection connection(String group) {
        try {
            return AdminTest.admin.examineConsumerConnectionInfo(group);
        } catch (Exception e) {
            return new ConsumerConnection();
        }
    }

    /** A listener that does as the message says, from its second delivery on: the first is the ordinary one. */
    @Test
    void aMessageIsConsumedDirectly() throws Exception {
        String topic = AdminTest.topic("direct", 1);
        String group = "direct-group-" + AdminTest.RUN;
        AtomicInteger consumed = new AtomicInteger();
        DefaultMQPushConsumer c = consumer(group, "direct", topic);
        c.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> {
            assertEquals(topic, ms.get(0).getTopic());
            if (consumed.incrementAndGet() <= 5) {
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            }
            switch (ms.get(0).getTags()) {
                case "later":
                    return ConsumeConcurrentlyStatus.RECONSUME_LATER;
                case "throws":
                    throw new IllegalStateException("as it was told");
                case "null":
                    return null;
                case "sleeps":
                    try {
                        Thread.sleep(12_000);
                    } catch (InterruptedException e) {
                        return null;
                    }
                    return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
                default:
                    return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            }
        });
        List<String> tags = List.of("good", "later", "throws", "null", "sleeps");
        SendResult[] sent = new SendResult[tags.size()];
        for (int i = 0; i < sent.length; i++) {
            sent[i] = AdminTest.producer.send(new Message(topic, tags.get(i), "x".getBytes(StandardCharsets.UTF_8)));
        }
        c.start();
        try {
            AdminTest.eventually(40, "consumed in the ordinary way", () -> consumed.get() == 5);
            String id = c.buildMQClientId();
            List<CMResult> want = List.of(CMResult.CR_SUCCESS, CMResult.CR_LATER, CMResult.CR_THROW_EXCEPTION, CMResult.CR_RETURN_NULL);
            for (int i = 0; i < want.size(); i++) {
                // by its unique id and by its offset id
                for (String message : List.of(sent[i].getMsgId(), sent[i].getOffsetMsgId())) {
                    ConsumeMessageDirectlyResult r = AdminTest.admin.consumeMessageDirectly(group, id, topic, message);
                    assertEquals(want.get(i), r.getConsumeResult(), tags.get(i));
                    assertFalse(r.isOrder());
                }
            }
            DefaultMQAdminExt patient = new DefaultMQAdminExt(30_000); // the broker waits for ten seconds
            patient.setNamesrvAddr(AdminTest.NAMESRV);
            patient.setInstanceName("patient" + AdminTest.RUN);
            patient.start();
            try {
                MQClientException late = assertThrows(MQClientException.class,
                    () -> patient.consumeMessageDirectly(group, id, topic, sent[4].getOffsetMsgId()));
                assertEquals(207, late.getResponseCode(), late.getMessage());
            } finally {
                patient.shutdown();
            }
            MQClientException gone = assertThrows(MQClientException.class,
                () -> AdminTest.admin.consumeMessageDirectly(group, "nobody", topic, sent[0].getOffsetMsgId()));
            assertEquals(1, gone.getResponseCode());
            assertTrue(gone.getMessage().contains("The Consumer <" + group + "> <nobody> not online"), gone.getMessage());
        } finally {
            c.shutdown();
        }
    }

    @Test
    void anOrderlyConsumerConsumesDirectlyAndSaysWhatItHolds() throws Exception {
        String topic = AdminTest.topic("direct-ordered", 2);
        String group = "direct-ordered-group-" + AdminTest.RUN;
        AtomicInteger consumed = new AtomicInteger();
        DefaultMQPushConsumer c = consumer(group, "direct-ordered", topic);
        c.registerMessageListener((MessageListenerOrderly) (ms, ctx) -> {
            consumed.addAndGet(ms.size());
            return ConsumeOrderlyStatus.SUCCESS;
        });
        c.start();
        try {
            SendResult sent = AdminTest.producer.send(new Message(topic, "x".getBytes(StandardCharsets.UTF_8)));
            AdminTest.eventually(40, "consumed", () -> consumed.get() == 1);
            String id = c.buildMQClientId();
            ConsumeMessageDirectlyResult r = AdminTest.admin.consumeMessageDirectly(group, id, topic, sent.getOffsetMsgId());
            assertEquals(CMResult.CR_SUCCESS, r.getConsumeResult());
            assertTrue(r.isOrder());
            ConsumerRunningInfo info = AdminTest.admin.getConsumerRunningInfo(group, id, false);
            assertEquals("true", info.getProperties().getProperty(ConsumerRunningInfo.PROP_CONSUME_ORDERLY));
            assertEquals(2, info.getMqTable().entrySet().stream().filter(e -> e.getKey().getTopic().equals(topic) && e.getValue().isLocked()).count());
        } finally {
            c.shutdown();
        }
    }

    @Test
    void whatTheMembersOfAGroupWantIsSeen() throws Exception {
        String topic = AdminTest.topic("members", 4);
        String more = AdminTest.topic("members-more", 1);
        String group = "members-group-" + AdminTest.RUN;
        DefaultMQPushConsumer[] members = new DefaultMQPushConsumer[2];
        try {
            for (int i = 0; i < members.length; i++) {
                members[i] = consumer(group, "members" + i, topic);
                members[i].registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> ConsumeConcurrentlyStatus.CONSUME_SUCCESS);
                members[i].start();
            }
            Set<String> ids = Set.of(members[0].buildMQClientId(), members[1].buildMQClientId());
            AdminTest.eventually(30, "both are there", () -> connection(group).getConnectionSet().stream()
                .map(c -> c.getClientId()).collect(Collectors.toSet()).equals(ids));
            for (String id : ids) {
                AdminTest.eventually(30, id + " has half of the queues", () -> {
                    try {
                        return AdminTest.admin.getConsumerRunningInfo(group, id, false).getMqTable().keySet().stream()
                            .filter(q -> q.getTopic().equals(topic)).count() == 2;
                    } catch (Exception e) {
                        throw new IllegalStateException(e);
                    }
                });
            }
            members[0].subscribe(more, "a || b"); // the other does not: the group is inconsistent
            AdminTest.eventually(60, "its new subscription is seen",
                () -> connection(group).getSubscriptionTable().containsKey(more));
            assertEquals("a || b", connection(group).getSubscriptionTable().get(more).getSubString());
            members[0].unsubscribe(more);
            AdminTest.eventually(60, "it is gone again", () -> !connection(group).getSubscriptionTable().containsKey(more));
        } finally {
            for (DefaultMQPushConsumer c : members) {
                if (c != null) {
                    c.shutdown();
                }
            }
        }
        MQBrokerException nobody = assertThrows(MQBrokerException.class, () -> AdminTest.admin.examineConsumerConnectionInfo(group));
        assertEquals(206, nobody.getResponseCode());
    }

    @Test
    void aLitePullConsumerTellsWhatItIsAbout() throws Exception {
        String topic = AdminTest.topic("told", 2);
        String group = "told-group-" + AdminTest.RUN;
        DefaultLitePullConsumer c = new DefaultLitePullConsumer(group);
        c.setNamesrvAddr(AdminTest.NAMESRV);
        c.setInstanceName("told" + AdminTest.RUN);
        c.subscribe(topic, "*");
        c.start();
        try {
            AdminTest.eventually(40, "it has its queues", () -> {
                c.poll(100);
                try {
                    return c.assignment().size() == 2;
                } catch (MQClientException e) {
                    throw new IllegalStateException(e);
                }
            });
            ConsumerRunningInfo info = AdminTest.admin.getConsumerRunningInfo(group, c.buildMQClientId(), false);
            assertEquals(2, info.getMqTable().size());
            assertEquals("CONSUME_ACTIVELY", info.getProperties().getProperty(ConsumerRunningInfo.PROP_CONSUME_TYPE));
        } finally {
            c.shutdown();
        }
    }
}
