package cairn;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageClientExt;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.remoting.protocol.admin.TopicOffset;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** What tools see of messages that wait: for their time, or for the end of their transaction. */
class WaitingTest {
    static final String SCHEDULE_TOPIC = "SCHEDULE_TOPIC_XXXX";
    static final String HALF_TOPIC = "RMQ_SYS_TRANS_HALF_TOPIC";
    static final String STATE = "CAIRN_STATE";

    @BeforeAll
    static void start() throws Exception {
        AdminTest.start();
    }

    @AfterAll
    static void stop() {
        AdminTest.stop();
    }

    static Message message(String topic, String key) {
        return new Message(topic, "t", key, "waits".getBytes(StandardCharsets.UTF_8));
    }

    /** A message by each way to ask for one: they all find it, and agree on its state. */
    static MessageClientExt find(String topic, String key, SendResult sent) throws Exception {
        MessageClientExt found = (MessageClientExt) AdminTest.admin.viewMessage(topic, sent.getMsgId());
        long now = System.currentTimeMillis();
        List<MessageExt> byKey = AdminTest.admin.queryMessage(topic, key, 32, now - 3_600_000, now + 3_600_000).getMessageList();
        assertEquals(1, byKey.size());
        for (MessageExt m : List.of(byKey.get(0), AdminTest.admin.viewMessage(topic, found.getOffsetMsgId()))) {
            assertEquals(found.getCommitLogOffset(), m.getCommitLogOffset());
            assertEquals(found.getProperty(STATE), m.getProperty(STATE));
        }
        assertEquals(topic, found.getTopic());
        assertEquals("waits", new String(found.getBody(), StandardCharsets.UTF_8));
        return found;
    }

    /** Waits until the message has this state; null is that of one in its queue. */
    static void becomes(String state, String topic, SendResult sent) throws Exception {
        AdminTest.eventually(20, "its state is " + state, () -> {
            try {
                return Objects.equals(state, AdminTest.admin.viewMessage(topic, sent.getMsgId()).getProperty(STATE));
            } catch (Exception e) {
                throw new IllegalStateException(e);
            }
        });
    }

    static long maxOffset(String topic, int queue) throws Exception {
        Map<MessageQueue, TopicOffset> queues = AdminTest.admin.examineTopicStats(topic).getOffsetTable();
        return queues.get(new MessageQueue(topic, "broker-a", queue)).getMaxOffset();
    }

    /** What the broker counts of a delay level: what it has let go, what it has got. */
    static long[] level(int level) throws Exception {
        String[] n = AdminTest.admin.fetchBrokerRuntimeStats(AdminTest.BROKER).getTable().getOrDefault("scheduleMessageOffset_" + level, "0,0").split(",");
        return new long[] {Long.parseLong(n[0]), Long.parseLong(n[1])};
    }

    static SendResult sendDelayed(String topic, String key, int level) throws Exception {
        Message m = message(topic, key);
        m.setDelayTimeLevel(level);
        return AdminTest.producer.send(m);
    }

    @Test
    void delayedMessages() throws Exception {
        String topic = AdminTest.topic("delayed", 1);
        long before = maxOffset(SCHEDULE_TOPIC, 17);
        long[] counted = level(18);
        SendResult sent = sendDelayed(topic, "later", 18); // two hours
        assertTrue(find(topic, "later", sent).getProperty(STATE).startsWith("delayed until "));
        assertEquals(before + 1, maxOffset(SCHEDULE_TOPIC, 17));
        assertEquals(counted[1] + 1, level(18)[1]);
        assertEquals(0, maxOffset(topic, 0));
        AdminTest.producer.recallMessage(topic, sent.getRecallHandle());
        assertEquals("recalled", find(topic, "later", sent).getProperty(STATE));
        assertEquals(counted[0] + 1, level(18)[0]);

        SendResult soon = sendDelayed(topic, "soon", 1);
        becomes(null, topic, soon);
        assertEquals(1, maxOffset(topic, 0));
        assertEquals(0, find(topic, "soon", soon).getQueueOffset());
    }

    /** The broker's question is answered with commit. */
    static TransactionMQProducer committer(String group) throws Exception {
        TransactionMQProducer p = new TransactionMQProducer(group);
        p.setNamesrvAddr(AdminTest.NAMESRV);
        p.setInstanceName(group);
        p.setTransactionListener(new TransactionListener() {
            @Override
            public LocalTransactionState executeLocalTransaction(Message m, Object arg) {
                return (LocalTransactionState) arg;
            }

            @Override
            public LocalTransactionState checkLocalTransaction(MessageExt m) {
                return LocalTransactionState.COMMIT_MESSAGE;
            }
        });
        p.start();
        return p;
    }

    static SendResult sendHalf(TransactionMQProducer p, String topic, String key, LocalTransactionState end) throws Exception {
        Message m = message(topic, key);
        m.putUserProperty("CHECK_IMMUNITY_TIME_IN_SECONDS", "3600"); // nobody is asked unless a tool has it so
        return p.sendMessageInTransaction(m, end);
    }

    @Test
    void halfMessages() throws Exception {
        String topic = AdminTest.topic("half", 1);
        TransactionMQProducer p = committer(topic + "-producer");
        try {
            SendResult back = sendHalf(p, topic, "back", LocalTransactionState.ROLLBACK_MESSAGE);
            becomes("transaction rolled-back", topic, back);
            find(topic, "back", back);
            SendResult open = sendHalf(p, topic, "open", LocalTransactionState.UNKNOW);
            MessageClientExt found = find(topic, "open", open);
            assertEquals("transaction undecided, asked 0 times", found.getProperty(STATE));
            assertTrue(maxOffset(HALF_TOPIC, 0) >= 1);
            assertEquals(0, maxOffset(topic, 0));
            assertTrue(AdminTest.admin.resumeCheckHalfMessage(topic, found.getOffsetMsgId()));
            becomes(null, topic, open);
            assertEquals(1, maxOffset(topic, 0));
            assertEquals(0, find(topic, "open", open).getQueueOffset());
        } finally {
            p.shutdown();
        }
    }
}
