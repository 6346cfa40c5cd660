package cairn;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.BooleanSupplier;
import org.apache.rocketmq.client.QueryResult;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.consumer.store.ReadOffsetType;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.impl.consumer.DefaultMQPushConsumerImpl;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** What an application does with the Remoting client, 4.9 and 5.5 alike. */
class RemotingTest {
    static final String NAMESRV = System.getProperty("cairn.nameserver");
    static final String RUN = Long.toString(System.currentTimeMillis(), 36);
    static DefaultMQProducer producer;

    @BeforeAll
    static void start() throws Exception {
        producer = new DefaultMQProducer("producer-" + RUN);
        producer.setNamesrvAddr(NAMESRV);
        producer.setInstanceName("producer-" + RUN);
        producer.start();
    }

    @AfterAll
    static void stop() {
        producer.shutdown();
    }

    static String topic(String name) throws Exception {
        return topic(name, 4);
    }

    static String topic(String name, int queues) throws Exception {
        String topic = name + "-" + RUN;
        for (java.lang.reflect.Method m : DefaultMQProducer.class.getMethods()) { // its parameters differ between 4.9 and 5.x
            if (m.getName().equals("createTopic") && m.getParameterCount() == 4) {
                Object last = m.getParameterTypes()[3] == int.class ? Integer.valueOf(0) : Map.of();
                m.invoke(producer, "TBW102", topic, queues, last);
                return topic;
            }
        }
        throw new IllegalStateException("no createTopic");
    }

    static void eventually(long seconds, String what, BooleanSupplier f) throws InterruptedException {
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(seconds);
        while (!f.getAsBoolean()) {
            assertTrue(System.nanoTime() < end, "not within " + seconds + " s: " + what);
            TimeUnit.MILLISECONDS.sleep(20);
        }
    }

    /** Counts deliveries of each message id. */
    static class Inbox {
        final Map<String, AtomicInteger> seen = new ConcurrentHashMap<>();
        final Map<String, String> bodies = new ConcurrentHashMap<>();

        void put(List<MessageExt> ms) {
            for (MessageExt m : ms) {
                bodies.put(m.getMsgId(), new String(m.getBody(), StandardCharsets.UTF_8));
                seen.computeIfAbsent(m.getMsgId(), k -> new AtomicInteger()).incrementAndGet();
            }
        }

        void check(Map<String, String> sent) {
            assertEquals(sent.keySet(), new HashSet<>(seen.keySet()));
            seen.forEach((id, n) -> assertEquals(1, n.get(), id));
            sent.forEach((id, body) -> assertEquals(body, bodies.get(id), id));
        }
    }

    static DefaultMQPushConsumer consumer(String group, String instance, String topic, String expression) throws Exception {
        DefaultMQPushConsumer c = new DefaultMQPushConsumer(group);
        c.setNamesrvAddr(NAMESRV);
        c.setInstanceName(instance + RUN);
        c.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        c.subscribe(topic, expression);
        return c;
    }

    static DefaultMQPushConsumer collect(Inbox box, String group, String instance, String topic, String expression) throws Exception {
        DefaultMQPushConsumer c = consumer(group, instance, topic, expression);
        c.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> {
            box.put(ms);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        c.start();
        return c;
    }

    /** What comes while queues change hands may come twice: waits until each consumer has as many queues of the topic. */
    static void share(String topic, int queues, List<DefaultMQPushConsumer> consumers) throws Exception {
        eventually(30, "each consumer has " + queues + " queues", () -> consumers.stream().allMatch(c ->
            c.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable().keySet().stream()
                .filter(q -> q.getTopic().equals(topic)).count() == queues));
    }

    /** Waits until consumers that pull have done with all that their queues of a topic have: nothing is left that could come once more. */
    static void caughtUp(String topic, DefaultMQProducer asked, List<DefaultMQPushConsumer> consumers) throws Exception {
        for (DefaultMQPushConsumer c : consumers) {
            DefaultMQPushConsumerImpl impl = c.getDefaultMQPushConsumerImpl();
            for (MessageQueue q : asked.fetchPublishMessageQueues(topic)) {
                long end = asked.maxOffset(q);
                eventually(30, "everything is consumed of " + q, () -> !impl.getRebalanceImpl().getProcessQueueTable().containsKey(q)
                    || impl.getOffsetStore().readOffset(q, ReadOffsetType.READ_FROM_MEMORY) >= end);
            }
        }
    }

    /** A time after all that was stored before the call, and not after what is stored from now on. */
    static long later() throws InterruptedException {
        return later(1);
    }

    /** The same, at the beginning of a unit of so many milliseconds. */
    static long later(long unit) throws InterruptedException {
        long stored = System.currentTimeMillis();
        eventually(10, "the clock goes on", () -> System.currentTimeMillis() / unit > stored / unit);
        return System.currentTimeMillis() / unit * unit;
    }

    static Message message(String topic, String tag, String key, String body) {
        return new Message(topic, tag, key, body.getBytes(StandardCharsets.UTF_8));
    }

    @Test
    void everyKindOfSendReachesTwoConsumersOfAGroupOnce() throws Exception {
        String topic = topic("kinds");
        Inbox box = new Inbox();
        DefaultMQPushConsumer one = collect(box, "kinds-group-" + RUN, "one", topic, "*");
        DefaultMQPushConsumer two = collect(box, "kinds-group-" + RUN, "two", topic, "*");
        share(topic, 2, List.of(one, two));
        Map<String, String> sent = new ConcurrentHashMap<>();
        for (int i = 0; i < 200; i++) {
            SendResult r = producer.send(message(topic, "t", "k" + i, "sync " + i));
            assertEquals(SendStatus.SEND_OK, r.getSendStatus());
            sent.put(r.getMsgId(), "sync " + i);
        }
        CountDownLatch answered = new CountDownLatch(200);
        List<Throwable> errors = new ArrayList<>();
        for (int i = 0; i < 200; i++) {
            String body = "async " + i;
            producer.send(message(topic, "t", "", body), new SendCallback() {
                @Override
                public void onSuccess(SendResult r) {
                    sent.put(r.getMsgId(), body);
                    answered.countDown();
                }

                @Override
                public void onException(Throwable e) {
                    errors.add(e);
                    answered.countDown();
                }
            });
        }
        assertTrue(answered.await(30, TimeUnit.SECONDS));
        assertEquals(List.of(), errors);
        List<Message> batch = new ArrayList<>();
        for (int i = 0; i < 20; i++) {
            batch.add(message(topic, "t", "", "batch " + i));
        }
        String[] ids = producer.send(batch).getMsgId().split(",");
        assertEquals(20, ids.length);
        for (int i = 0; i < 20; i++) {
            sent.put(ids[i], "batch " + i);
        }
        char[] large = new char[100_000];
        Arrays.fill(large, 'x');
        sent.put(producer.send(message(topic, "t", "", new String(large))).getMsgId(), new String(large));
        producer.sendOneway(message(topic, "t", "", "one way"));
        eventually(40, "all consumed", () -> box.seen.size() == sent.size() + 1);
        box.bodies.forEach((id, body) -> {
            if (body.equals("one way")) {
                sent.put(id, body);
            }
        });
        box.check(sent);
        one.shutdown();
        two.shutdown();
    }

    @Test
    void tagsChooseAndBroadcastReachesAll() throws Exception {
        String topic = topic("tags");
        Inbox chosen = new Inbox();
        Inbox first = new Inbox();
        Inbox second = new Inbox();
        DefaultMQPushConsumer a = collect(chosen, "tags-a-" + RUN, "a", topic, "a || c");
        List<DefaultMQPushConsumer> all = new ArrayList<>();
        for (Inbox box : List.of(first, second)) {
            DefaultMQPushConsumer c = consumer("tags-all-" + RUN, "b" + all.size(), topic, "*");
            c.setMessageModel(broadcasting());
            c.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> {
                box.put(ms);
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
            c.start();
            all.add(c);
        }
        Map<String, String> want = new ConcurrentHashMap<>();
        for (int i = 0; i < 60; i++) {
            String tag = String.valueOf("abc".charAt(i % 3));
            SendResult r = producer.send(message(topic, tag, "", tag));
            if (!tag.equals("b")) {
                want.put(r.getMsgId(), tag);
            }
        }
        eventually(40, "the chosen tags consumed", () -> chosen.seen.size() == 40);
        chosen.check(want);
        eventually(40, "both have all", () -> first.seen.size() == 60 && second.seen.size() == 60);
        a.shutdown();
        all.forEach(DefaultMQPushConsumer::shutdown);
    }


    @SuppressWarnings("unchecked")
    static <T> T broadcasting() throws Exception {
        Class<?> type = Arrays.stream(DefaultMQPushConsumer.class.getMethods())
            .filter(m -> m.getName().equals("setMessageModel")).findFirst().orElseThrow().getParameterTypes()[0];
        return (T) Arrays.stream(type.getEnumConstants()).filter(c -> c.toString().equals("BROADCASTING")).findFirst().orElseThrow();
    }

    @Test
    void orderlyConsumersKeepTheOrderOfEachQueue() throws Exception {
        String topic = topic("orderly");
        List<MessageQueue> queues = producer.fetchPublishMessageQueues(topic);
        assertEquals(4, queues.size());
        Map<Integer, List<Integer>> got = new ConcurrentHashMap<>();
        AtomicInteger count = new AtomicInteger();
        List<DefaultMQPushConsumer> consumers = new ArrayList<>();
        for (int i = 0; i < 2; i++) {
            DefaultMQPushConsumer c = consumer("orderly-group-" + RUN, "o" + i, topic, "*");
            c.registerMessageListener((MessageListenerOrderly) (ms, ctx) -> {
                for (MessageExt m : ms) {
                    got.computeIfAbsent(m.getQueueId(), k -> new ArrayList<>()).add(Integer.parseInt(new String(m.getBody(), StandardCharsets.UTF_8)));
                    count.incrementAndGet();
                }
                return ConsumeOrderlyStatus.SUCCESS;
            });
            c.start();
            consumers.add(c);
        }
        share(topic, 2, consumers);
        for (int i = 0; i < 200; i++) {
            producer.send(message(topic, "", "", Integer.toString(i)), queues.get(i % 4));
        }
        eventually(60, "all consumed", () -> count.get() >= 200);
        for (List<Integer> numbers : got.values()) {
            List<Integer> sorted = new ArrayList<>(new java.util.TreeSet<>(numbers));
            assertEquals(sorted, numbers);
        }
        consumers.forEach(DefaultMQPushConsumer::shutdown);
    }

    @Test
    void aFailedMessageComesAgain() throws Exception {
        String topic = topic("retry");
        Map<String, AtomicInteger> tries = new ConcurrentHashMap<>();
        Set<Integer> reconsumed = ConcurrentHashMap.newKeySet();
        AtomicInteger done = new AtomicInteger();
        DefaultMQPushConsumer c = consumer("retry-group-" + RUN, "r", topic, "*");
        c.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> {
            for (MessageExt m : ms) {
                assertEquals(topic, m.getTopic());
                reconsumed.add(m.getReconsumeTimes());
                if (tries.computeIfAbsent(new String(m.getBody(), StandardCharsets.UTF_8), k -> new AtomicInteger()).incrementAndGet() < 3) {
                    return ConsumeConcurrentlyStatus.RECONSUME_LATER;
                }
                done.incrementAndGet();
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        c.start();
        for (int i = 0; i < 5; i++) {
            producer.send(message(topic, "", "", "m" + i));
        }
        eventually(90, "each consumed at its third try", () -> done.get() == 5);
        assertTrue(reconsumed.containsAll(List.of(0, 1, 2)), reconsumed.toString());
        c.shutdown();
    }

    @Test
    void messagesAreFoundByKeyUniqueIdAndOffsetId() throws Exception {
        String topic = topic("find");
        SendResult r = producer.send(message(topic, "tag", "order-7 second", "look"));
        long now = System.currentTimeMillis();
        for (String key : List.of("order-7", "second")) {
            QueryResult q = producer.queryMessage(topic, key, 10, now - 600_000, now + 600_000);
            assertEquals(1, q.getMessageList().size());
            assertEquals(r.getMsgId(), q.getMessageList().get(0).getMsgId());
        }
        MessageExt byUnique = producer.viewMessage(topic, r.getMsgId());
        assertArrayEquals("look".getBytes(StandardCharsets.UTF_8), byUnique.getBody());
        MessageExt byOffset = producer.viewMessage(topic, r.getOffsetMsgId());
        assertEquals(r.getQueueOffset(), byOffset.getQueueOffset());
        assertEquals("tag", byOffset.getTags());
        assertThrows(Exception.class, () -> producer.viewMessage(topic, "0A0A0A0A0000000000000000000000FF"));
    }

    @Test
    void litePullConsumerSeeksByOffsetAndTime() throws Exception {
        String topic = topic("pull");
        MessageQueue queue = producer.fetchPublishMessageQueues(topic).get(0);
        for (int i = 0; i < 10; i++) {
            producer.send(message(topic, "", "", "old " + i), queue);
        }
        long between = later();
        for (int i = 0; i < 5; i++) {
            producer.send(message(topic, "", "", "new " + i), queue);
        }
        DefaultLitePullConsumer c = new DefaultLitePullConsumer("pull-group-" + RUN);
        c.setNamesrvAddr(NAMESRV);
        c.setInstanceName("pull" + RUN);
        c.setAutoCommit(false);
        c.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        c.start();
        c.assign(List.of(queue));
        assertEquals(10L, c.offsetForTimestamp(queue, between));
        List<String> got = new ArrayList<>();
        eventually(30, "all pulled", () -> {
            c.poll(500).forEach(m -> got.add(new String(m.getBody(), StandardCharsets.UTF_8)));
            return got.size() >= 15;
        });
        // Its next pull waits at the end now. A seek while a pull is being answered makes the client hand out what that
        // pull brought, or commit where it began.
        assertEquals(List.of(), c.poll(1000));
        got.clear();
        c.seek(queue, 10);
        eventually(30, "the new ones pulled", () -> {
            c.poll(500).forEach(m -> got.add(new String(m.getBody(), StandardCharsets.UTF_8)));
            return got.size() >= 5;
        });
        assertEquals(List.of("new 0", "new 1", "new 2", "new 3", "new 4"), got);
        c.commitSync();
        c.shutdown(); // tells the broker; asking before would have the 4.9 client forget what it has not told yet
        DefaultLitePullConsumer next = new DefaultLitePullConsumer("pull-group-" + RUN);
        next.setNamesrvAddr(NAMESRV);
        next.setInstanceName("pull-next" + RUN);
        next.start();
        eventually(20, "the offset committed", () -> {
            try {
                return next.committed(queue) == 15L;
            } catch (Exception e) {
                throw new IllegalStateException(e);
            }
        });
        next.shutdown();
    }

    @Test
    void refusalsHaveTheProtocolsCodes() throws Exception {
        DefaultMQProducer strict = new DefaultMQProducer("strict-" + RUN);
        strict.setNamesrvAddr(NAMESRV);
        strict.setInstanceName("strict" + RUN);
        strict.setRetryTimesWhenSendFailed(0);
        strict.start();
        String topic = topic("refuse");
        assertFalse(strict.fetchPublishMessageQueues(topic).isEmpty());
        MessageQueue none = new MessageQueue(topic, "broker-a", 99);
        assertEquals(29, assertThrows(MQBrokerException.class, () -> strict.send(message(topic, "", "", "x"), none)).getResponseCode());
        strict.shutdown();
    }
}
