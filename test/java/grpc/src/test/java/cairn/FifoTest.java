package cairn;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.apis.consumer.ConsumeResult;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.PushConsumer;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.Message;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.junit.jupiter.api.Test;

/** Messages of a message group come in the order in which they were sent. */
class FifoTest {
    static final int GROUPS = 5;
    static final int MESSAGES = 20;

    static Message message(String topic, String group, String body) {
        return GrpcTest.PROVIDER.newMessageBuilder().setTopic(topic).setTag("t").setMessageGroup(group).setBody(body.getBytes(StandardCharsets.UTF_8)).build();
    }

    /** Sends the same number of messages to each group, and answers what is to come of each. */
    static Map<String, List<Integer>> send(Producer p, String topic) throws Exception {
        Map<String, List<Integer>> sent = new HashMap<>();
        for (int i = 0; i < MESSAGES; i++) {
            for (int g = 0; g < GROUPS; g++) {
                p.send(message(topic, "group " + g, Integer.toString(i)));
                sent.computeIfAbsent("group " + g, k -> new ArrayList<>()).add(i);
            }
        }
        return sent;
    }

    @Test
    void pushConsumersKeepTheOrderAlsoWhenTheyFail() throws Exception {
        String topic = GrpcTest.topic("fifo-push", "FIFO", 4);
        String group = GrpcTest.group("fifo-push-group", true);
        Map<String, List<Integer>> tried = new HashMap<>();
        AtomicInteger done = new AtomicInteger();
        List<PushConsumer> consumers = new ArrayList<>();
        try (Producer p = GrpcTest.producer(false, topic)) {
            for (int c = 0; c < 2; c++) {
                consumers.add(GrpcTest.PROVIDER.newPushConsumerBuilder().setClientConfiguration(GrpcTest.configuration(false))
                    .setConsumerGroup(group).setSubscriptionExpressions(Map.of(topic, FilterExpression.SUB_ALL))
                    .setMessageListener(m -> {
                        synchronized (tried) {
                            List<Integer> of = tried.computeIfAbsent(m.getMessageGroup().get(), k -> new ArrayList<>());
                            int i = Integer.parseInt(GrpcTest.text(m));
                            boolean fails = i == 7 && !of.contains(7) && m.getMessageGroup().get().equals("group 2");
                            of.add(i);
                            if (!fails) {
                                done.incrementAndGet();
                            }
                            return fails ? ConsumeResult.FAILURE : ConsumeResult.SUCCESS;
                        }
                    }).build());
            }
            Map<String, List<Integer>> want = send(p, topic);
            GrpcTest.eventually(60, "all consumed", () -> done.get() >= GROUPS * MESSAGES);
            want.get("group 2").add(7, 7); // once in vain
            synchronized (tried) {
                assertEquals(want, tried);
            }
        } finally {
            // Each waits for its receives to end: 20 s.
            CompletableFuture.allOf(consumers.stream().map(c -> CompletableFuture.runAsync(() -> {
                try {
                    c.close();
                } catch (IOException e) {
                    throw new UncheckedIOException(e);
                }
            })).toArray(CompletableFuture[]::new)).join();
        }
    }

    @Test
    void aSimpleConsumerGetsNothingBehindWhatItHolds() throws Exception {
        String topic = GrpcTest.topic("fifo-simple", "FIFO", 4);
        try (Producer p = GrpcTest.producer(false, topic); SimpleConsumer c = GrpcTest.simple(GrpcTest.group("fifo-simple-group", true), topic, "*")) {
            Map<String, List<Integer>> want = send(p, topic);
            Map<String, List<Integer>> got = new HashMap<>();
            AtomicInteger n = new AtomicInteger();
            GrpcTest.eventually(60, "all received", () -> {
                Map<String, List<Integer>> held = new HashMap<>();
                List<MessageView> first = GrpcTest.receive(c, Duration.ofSeconds(30));
                first.forEach(m -> held.computeIfAbsent(m.getMessageGroup().get(), k -> new ArrayList<>()).add(Integer.parseInt(GrpcTest.text(m))));
                if (n.get() == 0 && held.size() < GROUPS) { // the others do not wait for those that are held
                    for (MessageView m : GrpcTest.receive(c, Duration.ofSeconds(30))) {
                        assertFalse(held.containsKey(m.getMessageGroup().get()), m.getMessageGroup() + " is held");
                        got.computeIfAbsent(m.getMessageGroup().get(), k -> new ArrayList<>()).add(Integer.parseInt(GrpcTest.text(m)));
                        GrpcTest.ack(c, m);
                        n.incrementAndGet();
                    }
                }
                held.forEach((group, messages) -> got.computeIfAbsent(group, k -> new ArrayList<>()).addAll(messages));
                first.forEach(m -> GrpcTest.ack(c, m));
                return n.addAndGet(first.size()) >= GROUPS * MESSAGES;
            });
            assertEquals(want, got);
        }
    }

    @Test
    @KnownDifference(value = "who forgets to mark the group keeps the order all the same", reference = "expected: <[]> but was: <[1]>")
    void theOrderDoesNotNeedAMarkedGroup() throws Exception {
        String topic = GrpcTest.topic("fifo-unmarked", "FIFO", 1);
        try (Producer p = GrpcTest.producer(false, topic); SimpleConsumer c = GrpcTest.simple(GrpcTest.group("fifo-unmarked-group", false), topic, "*")) {
            for (String body : List.of("0", "1")) {
                p.send(message(topic, "group", body));
            }
            List<String> first = new ArrayList<>();
            GrpcTest.eventually(30, "one received", () -> {
                GrpcTest.receive(c, 1, Duration.ofSeconds(60)).forEach(m -> first.add(GrpcTest.text(m)));
                return !first.isEmpty();
            });
            assertEquals(List.of("0"), first);
            List<String> behind = new ArrayList<>();
            GrpcTest.receive(c, 1, Duration.ofSeconds(60)).forEach(m -> behind.add(GrpcTest.text(m)));
            assertEquals(List.of(), behind);
        }
    }
}
