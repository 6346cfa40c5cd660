package cairn;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.compression.CompressionType;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.common.sysflag.MessageSysFlag;
import org.apache.rocketmq.remoting.protocol.body.LockBatchRequestBody;
import org.apache.rocketmq.remoting.protocol.body.UnlockBatchRequestBody;
import org.apache.rocketmq.remoting.protocol.statictopic.TopicQueueMappingDetail;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** What the client has since 5.0, or shows only there. */
class ClientFeatures5Test {
    static final String RUN = RemotingTest.RUN;
    static DefaultMQProducer producer;

    @BeforeAll
    static void start() throws Exception {
        RemotingTest.start();
        producer = RemotingTest.producer;
    }

    @AfterAll
    static void stop() {
        RemotingTest.stop();
    }

    @Test
    void bodiesAreCompressedInEachWay() throws Exception {
        String topic = RemotingTest.topic("compressed");
        Map<String, MessageExt> got = new ConcurrentHashMap<>();
        DefaultMQPushConsumer c = RemotingTest.consumer("compressed-group-" + RUN, "compressed", topic, "*");
        c.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> {
            ms.forEach(m -> got.put(m.getMsgId(), m));
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        c.start();
        for (CompressionType type : CompressionType.values()) {
            DefaultMQProducer p = new DefaultMQProducer("compressed-" + type + RUN);
            p.setNamesrvAddr(RemotingTest.NAMESRV);
            p.setInstanceName("compressed-" + type + RUN);
            p.setCompressType(type);
            p.start();
            String text = (type + " is what this is compressed with. ").repeat(2000);
            SendResult sent = p.send(RemotingTest.message(topic, "t", "", text));
            RemotingTest.eventually(40, type + " consumed", () -> got.containsKey(sent.getMsgId()));
            MessageExt m = got.get(sent.getMsgId());
            assertEquals(text, new String(m.getBody(), StandardCharsets.UTF_8));
            assertEquals(type, MessageSysFlag.getCompressionType(m.getSysFlag()));
            assertTrue(m.getStoreSize() < text.length() / 4, "stored in " + m.getStoreSize() + " bytes");
            assertEquals(text, new String(producer.viewMessage(topic, sent.getOffsetMsgId()).getBody(), StandardCharsets.UTF_8));
            p.shutdown();
        }
        c.shutdown();
    }

    /** This client sends the name space beside each request and leaves topics and groups as they are. */
    @Test
    void aNamespaceOfTheSecondKind() throws Exception {
        String topic = RemotingTest.topic("space2");
        DefaultMQProducer p = new DefaultMQProducer("space2-" + RUN);
        p.setNamesrvAddr(RemotingTest.NAMESRV);
        p.setInstanceName("space2-" + RUN);
        p.setNamespaceV2("space2");
        p.start();
        RemotingTest.Inbox box = new RemotingTest.Inbox();
        DefaultMQPushConsumer c = RemotingTest.consumer("space2-group-" + RUN, "space2-c", topic, "*");
        c.setNamespaceV2("space2");
        c.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> {
            box.put(ms);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        c.start();
        Map<String, String> sent = new ConcurrentHashMap<>();
        for (int i = 0; i < 20; i++) {
            sent.put(p.send(RemotingTest.message(topic, "t", "", "m" + i)).getMsgId(), "m" + i);
        }
        RemotingTest.eventually(40, "consumed", () -> box.seen.size() == 20);
        box.check(sent);
        c.shutdown();
        p.shutdown();
    }

    static Set<Integer> lock(String group, String client, Set<MessageQueue> queues) throws Exception {
        LockBatchRequestBody body = new LockBatchRequestBody();
        body.setConsumerGroup(group);
        body.setClientId(client);
        body.setMqSet(queues);
        return PopTest.api().lockBatchMQ(PopTest.ADDRESS, body, 5000).stream().map(MessageQueue::getQueueId).collect(Collectors.toSet());
    }

    static void unlock(String group, String client, Set<MessageQueue> queues) throws Exception {
        UnlockBatchRequestBody body = new UnlockBatchRequestBody();
        body.setConsumerGroup(group);
        body.setClientId(client);
        body.setMqSet(queues);
        PopTest.api().unlockBatchMQ(PopTest.ADDRESS, body, 5000, false);
    }

    @Test
    void aQueueIsLockedForOneConsumerOfAGroup() throws Exception {
        PopTest.producer = producer;
        String topic = RemotingTest.topic("locked");
        Set<MessageQueue> all = Set.copyOf(producer.fetchPublishMessageQueues(topic));
        MessageQueue one = all.stream().filter(q -> q.getQueueId() == 1).findFirst().orElseThrow();
        String group = "locked-" + RUN;
        assertEquals(Set.of(0, 1, 2, 3), lock(group, "a", all));
        assertEquals(Set.of(), lock(group, "b", all));
        assertEquals(Set.of(0, 1, 2, 3), lock(group + "-other", "b", all));
        unlock(group, "b", all);
        assertEquals(Set.of(), lock(group, "b", all));
        unlock(group, "a", Set.of(one));
        assertEquals(Set.of(1), lock(group, "b", all));
        assertEquals(Set.of(0, 2, 3), lock(group, "a", all));
    }

    @Test
    @KnownDifference(value = "a static topic is not made, and who asks for one is told so", reference = "nothing was thrown")
    void thereAreNoStaticTopics() throws Exception {
        PopTest.producer = producer;
        String topic = "static-" + RUN;
        MQBrokerException e = assertThrows(MQBrokerException.class, () -> PopTest.api().createStaticTopic(PopTest.ADDRESS, "TBW102",
            new TopicConfig(topic, 1, 1, 6), new TopicQueueMappingDetail(topic, 1, "broker-a", 1), false, 5000));
        assertEquals(3, e.getResponseCode());
    }

    @Test
    void topicsOfUnits() throws Exception {
        PopTest.producer = producer;
        String topic = "unit-" + RUN;
        String group = "unit-group-" + RUN;
        DefaultMQProducer p = new DefaultMQProducer("unit-" + RUN);
        p.setNamesrvAddr(RemotingTest.NAMESRV);
        p.setInstanceName("unit-" + RUN);
        p.setUnitMode(true);
        p.start();
        p.send(RemotingTest.message(topic, "t", "", "of a unit"));
        RemotingTest.Inbox box = new RemotingTest.Inbox();
        PopTest.group("unit-group"); // made by a tool, which knows nothing of units
        DefaultMQPushConsumer c = RemotingTest.consumer(group, "unit-c", topic, "*");
        c.setUnitMode(true);
        c.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> {
            box.put(ms);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        c.start();
        RemotingTest.eventually(40, "consumed", () -> box.seen.size() == 1);
        assertTrue(PopTest.api().getUnitTopicList(true, 5000).getTopicList().contains(topic));
        assertFalse(PopTest.api().getUnitTopicList(true, 5000).getTopicList().contains("%RETRY%" + group));
        for (List<String> lists : List.of(List.copyOf(PopTest.api().getHasUnitSubTopicList(true, 5000).getTopicList()),
            List.copyOf(PopTest.api().getHasUnitSubUnUnitTopicList(true, 5000).getTopicList()))) {
            assertTrue(lists.contains("%RETRY%" + group), lists.toString());
            assertFalse(lists.contains(topic));
        }
        c.shutdown();
        p.shutdown();
    }
}
