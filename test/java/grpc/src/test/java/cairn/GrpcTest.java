package cairn;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.BooleanSupplier;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.consumer.ConsumeResult;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.PushConsumer;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.Message;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.SendReceipt;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** What an application does with the gRPC client, over TLS and plain text. */
class GrpcTest {
    static final String ENDPOINT = System.getProperty("cairn.grpc");
    static final String RUN = Long.toString(System.currentTimeMillis(), 36);
    static final ClientServiceProvider PROVIDER = ClientServiceProvider.loadService();

    static ClientConfiguration configuration(boolean tls) {
        return ClientConfiguration.newBuilder().setEndpoints(ENDPOINT).enableSsl(tls).build();
    }

    /** Makes a topic for messages of a type: the client looks whether a topic takes what it is to send. */
    static String topic(String name, String type, int queues) throws Exception {
        String topic = name + "-" + RUN;
        tool("topic", "create", topic, "--queues", Integer.toString(queues), "--attribute", "+message.type=" + type);
        return topic;
    }

    /** Makes a group; in order are those whose messages of a message group follow each other. */
    static String group(String name, boolean inOrder) throws Exception {
        String group = name + "-" + RUN;
        tool("group", "create", group, "--orderly=" + inOrder);
        return group;
    }

    private static void tool(String... arguments) throws Exception {
        List<String> command = new ArrayList<>(List.of(System.getProperty("cairn.bin")));
        command.addAll(List.of(arguments));
        command.addAll(List.of("--nameserver", System.getProperty("cairn.nameserver")));
        Process p = new ProcessBuilder(command).redirectErrorStream(true).start();
        String said = new String(p.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        assertEquals(0, p.waitFor(), said);
    }

    static Producer producer(boolean tls, String topic) throws Exception {
        return PROVIDER.newProducerBuilder().setClientConfiguration(configuration(tls)).setTopics(topic).build();
    }

    static SimpleConsumer simple(String group, String topic, String tags) throws Exception {
        return PROVIDER.newSimpleConsumerBuilder().setClientConfiguration(configuration(false)).setConsumerGroup(group)
            .setAwaitDuration(Duration.ofSeconds(5)).setSubscriptionExpressions(Map.of(topic, new FilterExpression(tags))).build();
    }

    static Message message(String topic, String tag, String body) {
        return PROVIDER.newMessageBuilder().setTopic(topic).setTag(tag).setKeys("key-" + body).addProperty("colour", "red")
            .setBody(body.getBytes(StandardCharsets.UTF_8)).build();
    }

    static String text(MessageView m) {
        ByteBuffer b = m.getBody();
        byte[] bytes = new byte[b.remaining()];
        b.get(bytes);
        return new String(bytes, StandardCharsets.UTF_8);
    }

    static void eventually(long seconds, String what, BooleanSupplier f) throws InterruptedException {
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(seconds);
        while (!f.getAsBoolean()) {
            assertTrue(System.nanoTime() < end, "not within " + seconds + " s: " + what);
            TimeUnit.MILLISECONDS.sleep(20);
        }
    }

    @ParameterizedTest
    @ValueSource(booleans = {true, false})
    void aPushConsumerGetsEachMessageOnce(boolean tls) throws Exception {
        String topic = topic("push-" + tls, "NORMAL", 8);
        String group = group("push-group-" + tls, false);
        Map<String, String> sent = new ConcurrentHashMap<>();
        Map<String, AtomicInteger> got = new ConcurrentHashMap<>();
        Map<String, String> bodies = new ConcurrentHashMap<>();
        try (Producer p = producer(tls, topic)) {
            sent.put(p.send(message(topic, "t", "first")).getMessageId().toString(), "first");
            try (PushConsumer c = PROVIDER.newPushConsumerBuilder().setClientConfiguration(configuration(tls)).setConsumerGroup(group)
                .setSubscriptionExpressions(Map.of(topic, FilterExpression.SUB_ALL))
                .setMessageListener(m -> {
                    bodies.put(m.getMessageId().toString(), text(m));
                    got.computeIfAbsent(m.getMessageId().toString(), k -> new AtomicInteger()).incrementAndGet();
                    return ConsumeResult.SUCCESS;
                }).build()) {
                for (int i = 0; i < 100; i++) {
                    SendReceipt r = p.send(message(topic, "t", "m" + i));
                    sent.put(r.getMessageId().toString(), "m" + i);
                }
                CompletableFuture<?>[] all = new CompletableFuture<?>[100];
                for (int i = 0; i < all.length; i++) {
                    String body = "async" + i;
                    all[i] = p.sendAsync(message(topic, "t", body)).thenAccept(r -> sent.put(r.getMessageId().toString(), body));
                }
                CompletableFuture.allOf(all).get(30, TimeUnit.SECONDS);
                eventually(40, "all consumed", () -> got.size() == sent.size());
                assertEquals(sent, bodies);
                got.forEach((id, n) -> assertEquals(1, n.get(), id));
            }
        }
    }

    @Test
    void aSimpleConsumerReceivesAcknowledgesAndChangesTheInvisibleTime() throws Exception {
        String topic = topic("simple", "NORMAL", 8);
        try (Producer p = producer(false, topic)) {
            p.send(message(topic, "wanted", "one"));
            p.send(message(topic, "other", "two"));
            p.send(message(topic, "wanted", "three"));
            try (SimpleConsumer c = simple(group("simple-group", false), topic, "wanted")) {
                Set<String> got = new HashSet<>();
                MessageView[] three = new MessageView[1];
                eventually(30, "both wanted ones received", () -> {
                    for (MessageView m : receive(c, Duration.ofSeconds(20))) {
                        assertEquals(1, m.getDeliveryAttempt());
                        assertEquals("wanted", m.getTag().orElse(""));
                        assertEquals("red", m.getProperties().get("colour"));
                        assertEquals(List.of("key-" + text(m)), List.copyOf(m.getKeys()));
                        got.add(text(m));
                        if (text(m).equals("one")) {
                            ack(c, m);
                        } else {
                            three[0] = m;
                        }
                    }
                    return got.equals(Set.of("one", "three"));
                });
                assertNotNull(three[0]);
                c.changeInvisibleDuration(three[0], Duration.ofSeconds(1));
                MessageView[] again = new MessageView[1];
                eventually(20, "the other one comes again", () -> {
                    for (MessageView m : receive(c, Duration.ofSeconds(20))) {
                        again[0] = m;
                    }
                    return again[0] != null;
                });
                assertEquals("three", text(again[0]));
                assertEquals(2, again[0].getDeliveryAttempt());
                ack(c, again[0]);
                assertEquals(Collections.emptyList(), receive(c, Duration.ofSeconds(10)));
            }
        }
    }

    static List<MessageView> receive(SimpleConsumer c, Duration invisible) {
        return receive(c, 16, invisible);
    }

    static List<MessageView> receive(SimpleConsumer c, int most, Duration invisible) {
        try {
            return c.receive(most, invisible);
        } catch (Exception e) {
            if (e.toString().contains("404")) { // nothing there within the wait
                return List.of();
            }
            throw new IllegalStateException(e);
        }
    }

    static void ack(SimpleConsumer c, MessageView m) {
        try {
            c.ack(m);
        } catch (Exception e) {
            throw new IllegalStateException(e);
        }
    }

    @Test
    void aFailingListenerGetsTheMessageAgain() throws Exception {
        String topic = topic("again", "NORMAL", 8);
        String group = group("again-group", false);
        AtomicInteger attempts = new AtomicInteger();
        try (Producer p = producer(false, topic)) {
            p.send(message(topic, "t", "stubborn"));
            try (PushConsumer c = PROVIDER.newPushConsumerBuilder().setClientConfiguration(configuration(false)).setConsumerGroup(group)
                .setSubscriptionExpressions(Map.of(topic, FilterExpression.SUB_ALL))
                .setMessageListener(m -> {
                    attempts.set(m.getDeliveryAttempt());
                    return m.getDeliveryAttempt() < 2 ? ConsumeResult.FAILURE : ConsumeResult.SUCCESS;
                }).build()) {
                eventually(60, "a second attempt", () -> attempts.get() == 2);
            }
        }
    }

    @Test
    @KnownDifference(value = "what is not there is made on demand for clients of both protocols", reference = "40402")
    void topicsAndGroupsAreMadeOnDemand() throws Exception {
        String topic = "demanded-" + RUN;
        try (Producer p = producer(false, topic); SimpleConsumer c = simple("demanded-group-" + RUN, topic, "*")) {
            p.send(message(topic, "t", "first"));
            eventually(30, "received", () -> receive(c, Duration.ofSeconds(20)).stream().anyMatch(m -> text(m).equals("first")));
        }
    }
}
