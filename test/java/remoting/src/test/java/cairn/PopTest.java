package cairn;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.ClientConfig;
import org.apache.rocketmq.client.consumer.AckResult;
import org.apache.rocketmq.client.consumer.AckStatus;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.consumer.PopResult;
import org.apache.rocketmq.client.consumer.PopStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.impl.MQClientAPIImpl;
import org.apache.rocketmq.client.impl.mqclient.DoNothingClientRemotingProcessor;
import org.apache.rocketmq.client.impl.mqclient.MQClientAPIExt;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageAccessor;
import org.apache.rocketmq.common.message.MessageConst;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageRequestMode;
import org.apache.rocketmq.remoting.netty.NettyClientConfig;
import org.apache.rocketmq.remoting.protocol.admin.ConsumeStats;
import org.apache.rocketmq.remoting.protocol.header.AckMessageRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.ChangeInvisibleTimeRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.ExtraInfoUtil;
import org.apache.rocketmq.remoting.protocol.header.NotificationRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.PopMessageRequestHeader;
import org.apache.rocketmq.remoting.protocol.subscription.SubscriptionGroupConfig;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** Push consumers that pop because their group was told to (mqadmin setConsumeMode), without a change of their code: since 5.0. */
class PopTest {
    static final String ADDRESS = System.getProperty("cairn.remoting");
    static final String BROKER = "broker-a";
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

    static MQClientAPIImpl api() {
        return producer.getDefaultMQProducerImpl().getMqClientFactory().getMQClientAPIImpl();
    }

    static String group(String name) throws Exception {
        SubscriptionGroupConfig config = new SubscriptionGroupConfig();
        config.setGroupName(name + "-" + RemotingTest.RUN);
        api().createSubscriptionGroup(ADDRESS, config, 5000);
        return config.getGroupName();
    }

    static void mode(String topic, String group, MessageRequestMode mode, int share) throws Exception {
        api().setMessageRequestMode(ADDRESS, topic, group, mode, share, 5000);
    }

    static DefaultMQPushConsumer consumer(String group, String instance) throws MQClientException {
        DefaultMQPushConsumer c = new DefaultMQPushConsumer(group);
        c.setNamesrvAddr(RemotingTest.NAMESRV);
        c.setInstanceName(instance + RemotingTest.RUN);
        c.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        c.setClientRebalance(false);
        return c;
    }

    static boolean popped(MessageExt m) {
        return receipt(m) != null;
    }

    static String body(MessageExt m) {
        return new String(m.getBody(), StandardCharsets.UTF_8);
    }

    /** Both ways to share queues: all of them by everybody, and each by some. */
    void aThousandMessagesComeOnce(String name, int share) throws Exception {
        String topic = RemotingTest.topic(name);
        String group = group(name + "-group");
        mode(topic, group, MessageRequestMode.POP, share);
        RemotingTest.Inbox box = new RemotingTest.Inbox();
        AtomicInteger pulled = new AtomicInteger();
        List<DefaultMQPushConsumer> consumers = List.of(consumer(group, name + "1"), consumer(group, name + "2"), consumer(group, name + "3"));
        for (DefaultMQPushConsumer c : consumers) {
            c.subscribe(topic, "*");
            c.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> {
                ms.stream().filter(m -> !popped(m)).forEach(m -> pulled.incrementAndGet());
                box.put(ms);
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
            c.start();
        }
        Map<String, String> sent = new ConcurrentHashMap<>();
        for (int i = 0; i < 1000; i++) {
            sent.put(producer.send(RemotingTest.message(topic, "t", "k" + i, "m" + i)).getMsgId(), "m" + i);
        }
        RemotingTest.eventually(60, "all consumed", () -> box.seen.size() >= sent.size());
        TimeUnit.SECONDS.sleep(1); // for what would come twice
        box.check(sent);
        assertEquals(0, pulled.get());
        consumers.forEach(DefaultMQPushConsumer::shutdown);
    }

    @Test
    void aThousandMessagesComeOnceToConsumersOfAllQueues() throws Exception {
        aThousandMessagesComeOnce("pop-all", -1);
    }

    @Test
    void aThousandMessagesComeOnceToConsumersOfSomeQueues() throws Exception {
        aThousandMessagesComeOnce("pop-some", 1);
    }

    @Test
    void aFailedMessageComesAgain() throws Exception {
        String topic = RemotingTest.topic("pop-retry");
        String group = group("pop-retry-group");
        mode(topic, group, MessageRequestMode.POP, -1);
        Map<String, Queue<Integer>> times = new ConcurrentHashMap<>();
        DefaultMQPushConsumer c = consumer(group, "pop-retry");
        c.subscribe(topic, "*");
        c.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> {
            MessageExt m = ms.get(0);
            assertEquals(topic, m.getTopic());
            times.computeIfAbsent(body(m), k -> new ConcurrentLinkedQueue<>()).add(m.getReconsumeTimes());
            return m.getReconsumeTimes() == 0 && body(m).equals("fails") ? ConsumeConcurrentlyStatus.RECONSUME_LATER
                : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        c.start();
        long began = System.nanoTime();
        producer.send(RemotingTest.message(topic, "", "", "fails"));
        producer.send(RemotingTest.message(topic, "", "", "works"));
        RemotingTest.eventually(40, "consumed again", () -> times.getOrDefault("fails", new ConcurrentLinkedQueue<>()).size() >= 2);
        long took = System.nanoTime() - began;
        assertEquals(List.of(0, 1), List.copyOf(times.get("fails")));
        assertEquals(List.of(0), List.copyOf(times.get("works")));
        assertTrue(took >= TimeUnit.MILLISECONDS.toNanos(9_900), "the client asks for 10 s: " + took); // its clock and ours
        assertTrue(took < TimeUnit.SECONDS.toNanos(20), "nothing else holds it up: " + took);
        c.shutdown();
    }

    @Test
    void whatAStuckConsumerHoldsComesToAnother() throws Exception {
        String topic = RemotingTest.topic("pop-stuck");
        String group = group("pop-stuck-group");
        mode(topic, group, MessageRequestMode.POP, -1);
        CountDownLatch held = new CountDownLatch(1);
        CountDownLatch free = new CountDownLatch(1);
        DefaultMQPushConsumer stuck = consumer(group, "pop-stuck");
        stuck.setPopInvisibleTime(5000);
        stuck.subscribe(topic, "*");
        stuck.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> {
            held.countDown();
            try {
                free.await();
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        stuck.setConsumeThreadMin(1);
        stuck.setConsumeThreadMax(1);
        stuck.start();
        producer.send(RemotingTest.message(topic, "", "", "held"));
        assertTrue(held.await(30, TimeUnit.SECONDS));
        stuck.suspend();
        Queue<Integer> times = new ConcurrentLinkedQueue<>();
        DefaultMQPushConsumer other = consumer(group, "pop-other");
        other.subscribe(topic, "*");
        other.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> {
            ms.forEach(m -> times.add(m.getReconsumeTimes()));
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        other.start();
        RemotingTest.eventually(30, "come to the other", () -> !times.isEmpty());
        assertEquals(1, times.size());
        assertTrue(times.peek() >= 1, "the stuck one's last pop may have got it once more: " + times);
        free.countDown();
        stuck.shutdown();
        other.shutdown();
    }

    @Test
    void filtersHold() throws Exception {
        String topic = RemotingTest.topic("pop-filter");
        Map<String, Set<String>> got = new ConcurrentHashMap<>();
        Map<String, MessageSelector> selectors = Map.of("tags", MessageSelector.byTag("a || c"), "sql", MessageSelector.bySql("n > 4 AND TAGS = 'a'"));
        List<DefaultMQPushConsumer> consumers = new ArrayList<>();
        for (Map.Entry<String, MessageSelector> e : selectors.entrySet()) {
            String group = group("pop-" + e.getKey());
            mode(topic, group, MessageRequestMode.POP, -1);
            Set<String> mine = got.computeIfAbsent(e.getKey(), k -> ConcurrentHashMap.newKeySet());
            DefaultMQPushConsumer c = consumer(group, "pop-" + e.getKey());
            c.subscribe(topic, e.getValue());
            c.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> {
                ms.forEach(m -> mine.add(body(m)));
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
            c.start();
            consumers.add(c);
        }
        for (int i = 0; i < 9; i++) {
            Message m = RemotingTest.message(topic, List.of("a", "b", "c").get(i % 3), "", "m" + i);
            m.putUserProperty("n", Integer.toString(i));
            producer.send(m);
        }
        Map<String, Set<String>> want = Map.of("tags", Set.of("m0", "m2", "m3", "m5", "m6", "m8"), "sql", Set.of("m6"));
        RemotingTest.eventually(30, "what the filters want", () -> want.equals(got));
        TimeUnit.SECONDS.sleep(1); // for what they do not want
        assertEquals(want, got);
        consumers.forEach(DefaultMQPushConsumer::shutdown);
    }

    @Test
    void theModeChangesUnderTheConsumer() throws Exception {
        String topic = RemotingTest.topic("pop-mode");
        String group = group("pop-mode-group");
        Map<String, Boolean> got = new ConcurrentHashMap<>();
        DefaultMQPushConsumer c = consumer(group, "pop-mode");
        c.setPopInvisibleTime(5000); // what is on its way when the mode changes is dropped by the client, and comes again after this
        c.subscribe(topic, "*");
        c.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> {
            ms.forEach(m -> got.put(body(m), popped(m)));
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        c.start();
        AtomicInteger next = new AtomicInteger();
        for (MessageRequestMode mode : List.of(MessageRequestMode.PULL, MessageRequestMode.POP, MessageRequestMode.PULL, MessageRequestMode.POP)) {
            mode(topic, group, mode, -1);
            RemotingTest.eventually(60, "consumed by " + mode, () -> {
                String body = "m" + next.getAndIncrement();
                try {
                    producer.send(RemotingTest.message(topic, "", "", body));
                    RemotingTest.eventually(40, body + " consumed", () -> got.containsKey(body));
                } catch (Exception e) {
                    throw new AssertionError(e);
                }
                return got.get(body) == (mode == MessageRequestMode.POP);
            });
        }
        assertEquals(next.get(), got.size());
        c.shutdown();
    }

    static PopMessageRequestHeader pop(String topic, String group, int most) {
        PopMessageRequestHeader h = new PopMessageRequestHeader();
        h.setConsumerGroup(group);
        h.setTopic(topic);
        h.setQueueId(-1);
        h.setMaxMsgNums(most);
        h.setInvisibleTime(30_000);
        h.setPollTime(5_000);
        h.setBornTime(System.currentTimeMillis());
        h.setInitMode(0);
        h.setExpType("TAG");
        h.setExp("*");
        return h;
    }

    /** Where a message is that was popped, as its receipt says it: retries may lie elsewhere. */
    static ChangeInvisibleTimeRequestHeader change(MessageExt m, String group, String receipt, long ms) {
        String[] at = ExtraInfoUtil.split(receipt);
        ChangeInvisibleTimeRequestHeader h = new ChangeInvisibleTimeRequestHeader();
        h.setConsumerGroup(group);
        h.setTopic(ExtraInfoUtil.getRealTopic(at, m.getTopic(), group));
        h.setQueueId(ExtraInfoUtil.getQueueId(at));
        h.setOffset(ExtraInfoUtil.getQueueOffset(at));
        h.setExtraInfo(receipt);
        h.setInvisibleTime(ms);
        return h;
    }

    static AckMessageRequestHeader ack(MessageExt m, String group, String receipt) {
        String[] at = ExtraInfoUtil.split(receipt);
        AckMessageRequestHeader h = new AckMessageRequestHeader();
        h.setConsumerGroup(group);
        h.setTopic(ExtraInfoUtil.getRealTopic(at, m.getTopic(), group));
        h.setQueueId(ExtraInfoUtil.getQueueId(at));
        h.setOffset(ExtraInfoUtil.getQueueOffset(at));
        h.setExtraInfo(receipt);
        return h;
    }

    static String receipt(MessageExt m) {
        return m.getProperty(MessageConst.PROPERTY_POP_CK);
    }

    /** The client inside the Java proxy, which asks for more than a consumer does. */
    static MQClientAPIExt proxy() {
        MQClientAPIExt api = new MQClientAPIExt(new ClientConfig(), new NettyClientConfig(), new DoNothingClientRemotingProcessor(null), null);
        api.start();
        return api;
    }

    static AckStatus acknowledge(MQClientAPIExt api, MessageExt m, String group, String receipt) throws Exception {
        return api.ackMessageAsync(ADDRESS, ack(m, group, receipt), 5000).get().getStatus();
    }

    static List<MessageExt> popAll(MQClientAPIExt api, String topic, String group, int count) throws Exception {
        List<MessageExt> got = new ArrayList<>();
        while (got.size() < count) {
            PopResult popped = api.popMessageAsync(ADDRESS, BROKER, pop(topic, group, 32), 10_000).get();
            assertEquals(PopStatus.FOUND, popped.getPopStatus());
            got.addAll(popped.getMsgFoundList());
        }
        assertEquals(count, got.size());
        return got;
    }

    @Test
    void receiptsSurviveAllThatTheProxyDoesWithThem() throws Exception {
        String topic = RemotingTest.topic("pop-proxy", 2);
        String group = group("pop-proxy-group");
        MQClientAPIExt api = proxy();
        NotificationRequestHeader ask = new NotificationRequestHeader();
        ask.setConsumerGroup(group);
        ask.setTopic(topic);
        ask.setQueueId(-1);
        ask.setBornTime(System.currentTimeMillis());
        assertEquals(false, api.notification(ADDRESS, ask, 5000).get());
        ask.setPollTime(20_000);
        CompletableFuture<Boolean> told = api.notification(ADDRESS, ask, 25_000);
        for (int i = 0; i < 12; i++) {
            producer.send(RemotingTest.message(topic, "", "", "m" + i));
        }
        assertTrue(told.get());

        List<MessageExt> got = popAll(api, topic, group, 12);
        MessageExt odd = got.remove(11);
        List<String> receipts = got.stream().map(PopTest::receipt).collect(Collectors.toList());
        assertEquals(AckStatus.OK, api.batchAckMessageAsync(ADDRESS, topic, group, receipts, 5000).get().getStatus());
        AckResult longer = api.changeInvisibleTimeAsync(ADDRESS, BROKER, change(odd, group, receipt(odd), 60_000), 5000).get();
        assertEquals(AckStatus.OK, longer.getStatus());
        AckResult now = api.changeInvisibleTimeAsync(ADDRESS, BROKER, change(odd, group, longer.getExtraInfo(), 0), 5000).get();
        assertEquals(AckStatus.OK, now.getStatus());
        MessageExt again = popAll(api, topic, group, 1).get(0);
        assertEquals(body(odd), body(again));
        assertEquals(1, again.getReconsumeTimes());
        assertEquals(AckStatus.OK, acknowledge(api, again, group, receipt(again)));
        PopMessageRequestHeader once = pop(topic, group, 32);
        once.setPollTime(0);
        assertEquals(PopStatus.POLLING_NOT_FOUND, api.popMessageAsync(ADDRESS, BROKER, once, 5000).get().getPopStatus());
        api.shutdown();
    }

    @Test
    @KnownDifference(value = "a consumer is told that a message is not its own any more", reference = "expected: <NO_EXIST> but was: <OK>")
    void receiptsThatAreSpentAreRefused() throws Exception {
        String topic = RemotingTest.topic("pop-spent", 1);
        String group = group("pop-spent-group");
        MQClientAPIExt api = proxy();
        for (int i = 0; i < 2; i++) {
            producer.send(RemotingTest.message(topic, "", "", "m" + i));
        }
        List<MessageExt> got = popAll(api, topic, group, 2);
        MessageExt done = got.get(0), longer = got.get(1);
        assertEquals(AckStatus.OK, acknowledge(api, done, group, receipt(done)));
        assertEquals(AckStatus.OK, api.changeInvisibleTimeAsync(ADDRESS, BROKER, change(longer, group, receipt(longer), 60_000), 5000).get().getStatus());
        for (MessageExt m : got) {
            assertEquals(AckStatus.NO_EXIST, acknowledge(api, m, group, receipt(m)));
        }
        api.shutdown();
    }

    /** As mqadmin consumerProgress shows it. */
    @Test
    @KnownDifference(value = "what is acknowledged is left to nobody", reference = "expected: <1> but was: <")
    void whatIsLeftToConsumeIsCountedToTheMessage() throws Exception {
        String topic = RemotingTest.topic("pop-counted", 1);
        String group = group("pop-counted-group");
        MQClientAPIExt api = proxy();
        for (int i = 0; i < 12; i++) {
            producer.send(RemotingTest.message(topic, "", "", "m" + i));
        }
        List<MessageExt> got = popAll(api, topic, group, 12);
        MessageExt first = got.remove(0);
        for (MessageExt m : got) {
            assertEquals(AckStatus.OK, acknowledge(api, m, group, receipt(m)));
        }
        ConsumeStats stats = api().getConsumeStats(ADDRESS, group, topic, 5000);
        assertEquals(1, stats.computeTotalDiff());
        assertEquals(1, stats.computeInflightTotalDiff());
        assertEquals(AckStatus.OK, acknowledge(api, first, group, receipt(first)));
        assertEquals(0, api().getConsumeStats(ADDRESS, group, topic, 5000).computeTotalDiff());
        api.shutdown();
    }

    static List<String> popInOrder(MQClientAPIExt api, String topic, String group, int most, int wait) throws Exception {
        PopMessageRequestHeader h = pop(topic, group, most);
        h.setOrder(true);
        h.setPollTime(wait);
        held.clear();
        PopResult popped = api.popMessageAsync(ADDRESS, BROKER, h, 10_000).get();
        if (popped.getPopStatus() == PopStatus.FOUND) {
            held.addAll(popped.getMsgFoundList());
        }
        return held.stream().map(m -> body(m) + " " + m.getReconsumeTimes()).collect(Collectors.toList());
    }

    /** What popInOrder has got last. */
    static final List<MessageExt> held = new ArrayList<>();

    /** Of a group and topic that are not marked as ordered; no message goes before another of its queue. */
    @Test
    void popsInOrderHoldUpTheQueue() throws Exception {
        String topic = RemotingTest.topic("pop-order", 1);
        String group = group("pop-order-group");
        MQClientAPIExt api = proxy();
        for (int i = 0; i < 5; i++) {
            Message m = RemotingTest.message(topic, "", "", "m" + i);
            MessageAccessor.putProperty(m, MessageConst.PROPERTY_SHARDING_KEY, "group" + i);
            producer.send(m);
        }
        assertEquals(List.of("m0 0", "m1 0"), popInOrder(api, topic, group, 2, 5000));
        MessageExt m0 = held.get(0), m1 = held.get(1);
        assertEquals(List.of(), popInOrder(api, topic, group, 2, 0));
        assertEquals(AckStatus.OK, acknowledge(api, m0, group, receipt(m0)));
        assertEquals(List.of(), popInOrder(api, topic, group, 2, 0));
        AckResult back = api.changeInvisibleTimeAsync(ADDRESS, BROKER, change(m1, group, receipt(m1), 0), 5000).get();
        assertEquals(AckStatus.OK, back.getStatus());
        assertEquals(List.of("m1 1"), popInOrder(api, topic, group, 1, 5000));
        MessageExt again = held.get(0);
        assertEquals(List.of(), popInOrder(api, topic, group, 32, 0));
        assertEquals(AckStatus.OK, acknowledge(api, again, group, receipt(again)));
        assertEquals(List.of("m2 0", "m3 0", "m4 0"), popInOrder(api, topic, group, 32, 5000));
        api.shutdown();
    }

    @Test
    void modesAreForTopicsThatAreThere() throws Exception {
        String topic = RemotingTest.topic("pop-none", 1);
        String group = group("pop-none-group");
        assertEquals(17, assertThrows(MQClientException.class, () -> mode("none-" + topic, group, MessageRequestMode.POP, -1)).getResponseCode());
        assertEquals(16, assertThrows(MQClientException.class, () -> mode("%RETRY%" + group, group, MessageRequestMode.POP, -1)).getResponseCode());
    }

    @Test
    @KnownDifference(value = "who sets the mode of a group that is not there has most likely misspelt it", reference = "nothing was thrown")
    void modesAreForGroupsThatAreThere() throws Exception {
        String topic = RemotingTest.topic("pop-none-mode", 1);
        assertEquals(26, assertThrows(MQClientException.class, () -> mode(topic, "none-" + topic, MessageRequestMode.POP, -1)).getResponseCode());
    }
}
