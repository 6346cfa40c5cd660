package cairn;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.client.producer.TransactionSendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** Transactions with the Remoting client, 4.9 and 5.5 alike. The broker asks after a second, the reference after five to thirteen, then every eight. */
class TransactionTest {
    @BeforeAll
    static void start() throws Exception {
        RemotingTest.start();
    }

    @AfterAll
    static void stop() {
        RemotingTest.stop();
    }

    /** The first word of a body is the state after the send, the others answer the broker's questions in turn. */
    static class ByBody implements TransactionListener {
        final Map<String, AtomicInteger> asked = new ConcurrentHashMap<>();

        static LocalTransactionState state(String body, int question) {
            String[] words = body.split(" ");
            switch (words[Math.min(question, words.length - 1)]) {
                case "commit":
                    return LocalTransactionState.COMMIT_MESSAGE;
                case "rollback":
                    return LocalTransactionState.ROLLBACK_MESSAGE;
                default:
                    return LocalTransactionState.UNKNOW;
            }
        }

        @Override
        public LocalTransactionState executeLocalTransaction(Message m, Object arg) {
            return state(new String(m.getBody(), StandardCharsets.UTF_8), 0);
        }

        @Override
        public LocalTransactionState checkLocalTransaction(MessageExt m) {
            String body = new String(m.getBody(), StandardCharsets.UTF_8);
            return state(body, asked.computeIfAbsent(body, k -> new AtomicInteger()).incrementAndGet());
        }

        int times(String body) {
            return asked.getOrDefault(body, new AtomicInteger()).get();
        }
    }

    static TransactionMQProducer producer(String group, String instance, ByBody listener) throws Exception {
        TransactionMQProducer p = new TransactionMQProducer(group);
        p.setNamesrvAddr(RemotingTest.NAMESRV);
        p.setInstanceName(instance + RemotingTest.RUN);
        p.setTransactionListener(listener);
        p.start();
        return p;
    }

    static TransactionSendResult send(TransactionMQProducer p, Message m) throws Exception {
        TransactionSendResult r = p.sendMessageInTransaction(m, null);
        assertEquals(SendStatus.SEND_OK, r.getSendStatus());
        assertEquals(r.getMsgId(), r.getTransactionId());
        return r;
    }

    @Test
    void commitRollbackAndWhatTheProducerSaysWhenItIsAsked() throws Exception {
        String topic = RemotingTest.topic("tx");
        DelayTest.Arrivals got = new DelayTest.Arrivals(topic);
        ByBody listener = new ByBody();
        TransactionMQProducer p = producer(topic + "-producer", "tx", listener);
        for (String body : new String[] {"commit", "rollback", "unknown commit", "unknown rollback", "unknown unknown commit"}) {
            send(p, DelayTest.message(topic, body));
        }
        Map<String, Integer> want = Map.of("commit", 0, "unknown commit", 1, "unknown unknown commit", 2);
        RemotingTest.eventually(60, "all consumed", () -> got.bodies.size() >= want.size());
        assertEquals(new TreeSet<>(want.keySet()), new TreeSet<>(got.bodies));
        want.forEach((body, n) -> assertTrue(listener.times(body) >= n, body));
        assertTrue(listener.times("unknown rollback") >= 1);
        MessageExt m = got.messages.get("commit");
        assertEquals(topic + "-producer", m.getProperty("PGROUP"));
        assertTrue(m.getPreparedTransactionOffset() > 0);
        p.shutdown();
        got.consumer.shutdown();
        assertEquals(want.size(), got.bodies.size());
    }

    @Test
    @KnownDifference(value = "who sends what was consumed on, with its properties, does not mean another transaction",
        reference = "expected: <null> but was: <true>")
    void aCommittedMessageIsNoHalfMessageAnyMore() throws Exception {
        String topic = RemotingTest.topic("tx-props");
        DelayTest.Arrivals got = new DelayTest.Arrivals(topic);
        TransactionMQProducer p = producer(topic + "-producer", "tx-props", new ByBody());
        send(p, DelayTest.message(topic, "commit"));
        RemotingTest.eventually(60, "consumed", () -> got.bodies.size() == 1);
        p.shutdown();
        got.consumer.shutdown();
        assertEquals(null, got.messages.get("commit").getProperty("TRAN_MSG"));
    }

    @Test
    void anotherProducerOfTheGroupIsAskedForADeadOne() throws Exception {
        String topic = RemotingTest.topic("orphans");
        DelayTest.Arrivals got = new DelayTest.Arrivals(topic);
        ByBody first = new ByBody();
        ByBody second = new ByBody();
        TransactionMQProducer dead = producer(topic + "-producer", "dead", first);
        for (String body : new String[] {"unknown commit", "unknown rollback"}) {
            Message m = DelayTest.message(topic, body);
            m.putUserProperty("CHECK_IMMUNITY_TIME_IN_SECONDS", "3"); // by then it is dead
            send(dead, m);
        }
        dead.shutdown();
        TransactionMQProducer alive = producer(topic + "-producer", "alive", second);
        send(alive, DelayTest.message(topic, "rollback")); // the broker does not hear of a producer that never sent
        RemotingTest.eventually(40, "asked for both", () -> second.times("unknown rollback") > 0 && !got.bodies.isEmpty());
        assertEquals(Set.of("unknown commit"), Set.copyOf(got.bodies));
        assertEquals(1, got.bodies.size());
        assertEquals(0, first.times("unknown commit"));
        assertTrue(second.times("unknown commit") >= 1);
        alive.shutdown();
        got.consumer.shutdown();
    }
}
