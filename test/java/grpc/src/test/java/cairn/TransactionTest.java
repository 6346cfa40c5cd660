package cairn;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.Transaction;
import org.apache.rocketmq.client.apis.producer.TransactionChecker;
import org.apache.rocketmq.client.apis.producer.TransactionResolution;
import org.junit.jupiter.api.Test;

/** Transactions with the gRPC client. The broker asks after a second, the reference after five to thirteen, then every eight. */
class TransactionTest {
    /** The words of a body answer the broker's questions in turn, the last one all that follow. */
    static class ByBody implements TransactionChecker {
        final Map<String, AtomicInteger> asked = new ConcurrentHashMap<>();

        @Override
        public TransactionResolution check(MessageView m) {
            String body = GrpcTest.text(m);
            int question = asked.computeIfAbsent(body, k -> new AtomicInteger()).getAndIncrement();
            String[] words = body.split(" ");
            switch (words[Math.min(question, words.length - 1)]) {
                case "commit":
                    return TransactionResolution.COMMIT;
                case "rollback":
                    return TransactionResolution.ROLLBACK;
                default:
                    return TransactionResolution.UNKNOWN;
            }
        }

        int times(String body) {
            return asked.getOrDefault(body, new AtomicInteger()).get();
        }
    }

    static Producer producer(String topic, TransactionChecker checker) throws Exception {
        return GrpcTest.PROVIDER.newProducerBuilder().setClientConfiguration(GrpcTest.configuration(false)).setTopics(topic).setTransactionChecker(checker).build();
    }

    static Transaction send(Producer p, String topic, String body) throws Exception {
        Transaction t = p.beginTransaction();
        p.send(GrpcTest.message(topic, "t", body), t);
        return t;
    }

    /** Acknowledges what comes until a body came. */
    static List<String> receiveUntil(SimpleConsumer c, String last) throws Exception {
        List<String> got = new ArrayList<>();
        GrpcTest.eventually(60, last + " delivered", () -> {
            for (MessageView m : GrpcTest.receive(c, Duration.ofSeconds(20))) {
                GrpcTest.ack(c, m);
                got.add(GrpcTest.text(m));
            }
            return got.contains(last);
        });
        return got;
    }

    @Test
    void commitRollbackAndWhatTheProducerSaysWhenItIsAsked() throws Exception {
        String topic = GrpcTest.topic("tx", "TRANSACTION", 1);
        ByBody checker = new ByBody();
        try (Producer p = producer(topic, checker); SimpleConsumer c = GrpcTest.simple(GrpcTest.group("tx-group", false), topic, "*")) {
            Transaction back = send(p, topic, "rollback");
            back.rollback();
            Transaction done = send(p, topic, "commit");
            done.commit();
            assertEquals(List.of("commit"), receiveUntil(c, "commit"));
            send(p, topic, "unknown rollback");
            send(p, topic, "unknown commit");
            send(p, topic, "unknown unknown commit");
            List<String> rest = receiveUntil(c, "unknown unknown commit");
            assertEquals(2, rest.size());
            assertEquals(new TreeSet<>(List.of("unknown commit", "unknown unknown commit")), new TreeSet<>(rest));
            assertTrue(checker.times("unknown rollback") >= 2);
            assertTrue(checker.times("unknown unknown commit") >= 3);
        }
    }

    @Test
    @KnownDifference(value = "a client that was not answered can ask again, and learns how the transaction ended", reference = "but was: <50001>")
    void aTransactionEndsInOneWay() throws Exception {
        String topic = GrpcTest.topic("ended", "TRANSACTION", 1);
        try (Producer p = producer(topic, new ByBody())) {
            Transaction back = send(p, topic, "rollback");
            back.rollback();
            Transaction done = send(p, topic, "commit");
            done.commit();
            assertEquals(40008, DelayTest.refusal(done::rollback));
            assertEquals(40008, DelayTest.refusal(back::commit));
            done.commit();
            back.rollback();
        }
    }

    @Test
    void anotherProducerForTheTopicIsAskedForADeadOne() throws Exception {
        String topic = GrpcTest.topic("orphans", "TRANSACTION", 1);
        try (Producer dead = producer(topic, m -> TransactionResolution.UNKNOWN)) {
            send(dead, topic, "rollback");
            send(dead, topic, "commit");
        }
        ByBody checker = new ByBody();
        try (Producer alive = producer(topic, checker); SimpleConsumer c = GrpcTest.simple(GrpcTest.group("orphans-group", false), topic, "*")) {
            assertEquals(List.of("commit"), receiveUntil(c, "commit"));
            GrpcTest.eventually(40, "asked for both", () -> checker.times("rollback") > 0);
            send(alive, topic, "its own").commit();
            assertEquals(List.of("its own"), receiveUntil(c, "its own"));
        }
    }
}
