package cairn;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.charset.StandardCharsets;
import java.util.Collection;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageAccessor;
import org.apache.rocketmq.common.message.MessageExt;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** Delayed messages with the Remoting client, 4.9 and 5.5 alike. */
class DelayTest {
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

    /** Notes what arrives in a topic of one queue, and when. */
    static class Arrivals {
        final List<String> bodies = new CopyOnWriteArrayList<>();
        final Map<String, Long> at = new ConcurrentHashMap<>();
        final Map<String, MessageExt> messages = new ConcurrentHashMap<>();
        final DefaultMQPushConsumer consumer;

        Arrivals(String topic) throws Exception {
            consumer = RemotingTest.consumer(topic + "-group", topic, topic, "*");
            consumer.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> {
                long now = System.currentTimeMillis();
                for (MessageExt m : ms) {
                    String body = new String(m.getBody(), StandardCharsets.UTF_8);
                    at.put(body, now);
                    messages.put(body, m);
                    bodies.add(body);
                }
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
            consumer.start();
        }

        /**
         * Checks that each came once, none before its due time, and that they lie in the queue in the order of these times. The
         * latter is promised when they were sent in less time than lies between them, and the reference knows whole seconds only.
         */
        void check(Map<String, Long> due, long sendingTook) {
            due.forEach((body, t) -> assertTrue(at.get(body) >= t, () -> body + " came " + (t - at.get(body)) + " ms early"));
            assertEquals(sorted(due.keySet(), Comparator.naturalOrder()), sorted(bodies, Comparator.naturalOrder()));
            if (sendingTook < 500) {
                assertEquals(sorted(bodies, Comparator.comparing(due::get)), sorted(bodies, Comparator.comparing(b -> messages.get(b).getQueueOffset())));
            }
        }

        static List<String> sorted(Collection<String> bodies, Comparator<String> order) {
            return bodies.stream().sorted(order).collect(Collectors.toList());
        }
    }

    static Message message(String topic, String body) {
        return RemotingTest.message(topic, "t", "key-" + body.replace(' ', '-'), body);
    }

    @Test
    void levelsAndTimersComeInDueOrder() throws Exception {
        String topic = RemotingTest.topic("delay", 1);
        Arrivals got = new Arrivals(topic);
        long began = System.currentTimeMillis();
        Map<String, String[]> properties = Map.of(
            "by seconds", new String[] {"TIMER_DELAY_SEC", "7"},
            "by ms", new String[] {"TIMER_DELAY_MS", "3000"},
            "at a time", new String[] {"TIMER_DELIVER_MS", Long.toString(began + 5000)},
            "past", new String[] {"TIMER_DELIVER_MS", Long.toString(began - 1000)});
        for (Map.Entry<String, String[]> e : properties.entrySet()) {
            Message m = message(topic, e.getKey());
            MessageAccessor.putProperty(m, e.getValue()[0], e.getValue()[1]);
            assertEquals(SendStatus.SEND_OK, producer.send(m).getSendStatus());
        }
        Message level = message(topic, "level 1");
        level.setDelayTimeLevel(1);
        assertEquals(SendStatus.SEND_OK, producer.send(level).getSendStatus());
        long took = System.currentTimeMillis() - began;
        RemotingTest.eventually(40, "all consumed", () -> got.bodies.size() >= 5);
        got.check(Map.of("past", began, "level 1", began + 1000, "by ms", began + 3000, "at a time", began + 5000, "by seconds", began + 7000), took);
        MessageExt m = got.messages.get("level 1");
        assertEquals(topic, m.getTopic());
        assertEquals("1", m.getProperty("DELAY"));
        assertEquals(topic, m.getProperty("REAL_TOPIC"));
        assertEquals(Integer.toString(m.getQueueId()), m.getProperty("REAL_QID"));
        got.consumer.shutdown();
    }

    @Test
    void theListenerChoosesTheDelayOfTheNextTry() throws Exception {
        String topic = RemotingTest.topic("delay-retry");
        List<Long> tries = new CopyOnWriteArrayList<>();
        List<Integer> counts = new CopyOnWriteArrayList<>();
        AtomicReference<Throwable> failed = new AtomicReference<>();
        DefaultMQPushConsumer before = RemotingTest.collect(new RemotingTest.Inbox(), topic + "-group", "before", topic, "*");
        before.shutdown(); // the group and its retry topic are there now; else the client looks for the latter after 20 s or more
        DefaultMQPushConsumer c = RemotingTest.consumer(topic + "-group", "r", topic, "*");
        c.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> {
            tries.add(System.nanoTime());
            counts.add(ms.get(0).getReconsumeTimes());
            if (!ms.get(0).getTopic().equals(topic)) {
                failed.set(new AssertionError("came with topic " + ms.get(0).getTopic()));
            }
            ctx.setDelayLevelWhenNextConsume(1);
            return tries.size() < 3 ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        c.start();
        producer.send(message(topic, "stubborn"));
        RemotingTest.eventually(40, "a third try", () -> counts.size() == 3);
        assertEquals(List.of(0, 1, 2), counts);
        for (int i = 1; i < 3; i++) {
            long pause = TimeUnit.NANOSECONDS.toMillis(tries.get(i) - tries.get(i - 1));
            assertTrue(pause >= 1000, "try " + (i + 1) + " came after " + pause + " ms");
        }
        assertEquals(null, failed.get());
        c.shutdown();
    }
}
