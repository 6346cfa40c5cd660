package cairn;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.charset.StandardCharsets;
import java.text.SimpleDateFormat;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Date;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageConst;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.remoting.RPCHook;
import org.apache.rocketmq.remoting.protocol.RemotingCommand;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** What applications use beside sending and consuming, with the clients 4.9 and 5.5 alike. */
class ClientFeaturesTest {
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

    static DefaultMQProducer started(DefaultMQProducer p, String instance) throws Exception {
        p.setNamesrvAddr(RemotingTest.NAMESRV);
        p.setInstanceName(instance + RUN);
        p.start();
        return p;
    }

    static String body(MessageExt m) {
        return new String(m.getBody(), StandardCharsets.UTF_8);
    }

    /** Sends numbered messages, each in its turn to the next queue, and answers those of each queue. */
    static Map<Integer, List<String>> numbered(String topic, String prefix, int count) throws Exception {
        List<MessageQueue> queues = producer.fetchPublishMessageQueues(topic);
        Map<Integer, List<String>> sent = new ConcurrentHashMap<>();
        for (int i = 0; i < count; i++) {
            MessageQueue q = queues.get(i % queues.size());
            producer.send(RemotingTest.message(topic, "t", "", prefix + i), q);
            sent.computeIfAbsent(q.getQueueId(), k -> new ArrayList<>()).add(prefix + i);
        }
        return sent;
    }

    @Test
    void tracesAreFoundByTheirMessage() throws Exception {
        String topic = RemotingTest.topic("traced");
        DefaultMQProducer traced = started(new DefaultMQProducer("traced-" + RUN, true, null), "traced");
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer("traced-group-" + RUN, true, null);
        consumer.setNamesrvAddr(RemotingTest.NAMESRV);
        consumer.setInstanceName("traced-c" + RUN);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        RemotingTest.Inbox box = new RemotingTest.Inbox();
        consumer.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> {
            box.put(ms);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        try {
            SendResult sent = traced.send(RemotingTest.message(topic, "t", "traced-key-" + RUN, "watched"));
            assertTrue(sent.isTraceOn());
            assertEquals("DefaultRegion", sent.getRegionId());
            RemotingTest.eventually(40, "consumed", () -> box.seen.containsKey(sent.getMsgId()));
            for (String key : List.of(sent.getMsgId(), "traced-key-" + RUN)) {
                Set<String> kinds = ConcurrentHashMap.newKeySet();
                RemotingTest.eventually(40, "the traces of sending and consuming under " + key + ", found " + kinds, () -> {
                    long now = System.currentTimeMillis();
                    try {
                        for (MessageExt m : producer.queryMessage("RMQ_SYS_TRACE_TOPIC", key, 32, now - 600_000, now + 600_000).getMessageList()) {
                            for (String record : body(m).split("\u0002")) {
                                if (record.contains(sent.getMsgId())) {
                                    kinds.add(record.split("\u0001")[0]);
                                }
                            }
                        }
                    } catch (Exception e) {
                        return false; // none is there yet
                    }
                    return kinds.equals(Set.of("Pub", "SubBefore", "SubAfter"));
                });
            }
        } finally {
            consumer.shutdown();
            traced.shutdown();
        }
    }

    static long queuesOf(DefaultMQPushConsumer c, String topic) {
        return c.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable().keySet().stream().filter(q -> q.getTopic().equals(topic)).count();
    }

    static DefaultMQPushConsumer ordered(Map<Integer, List<String>> got, AtomicInteger slow, String group, String instance, String topic) throws Exception {
        DefaultMQPushConsumer c = RemotingTest.consumer(group, instance, topic, "*");
        c.registerMessageListener((MessageListenerOrderly) (ms, ctx) -> {
            for (MessageExt m : ms) {
                got.computeIfAbsent(m.getQueueId(), k -> java.util.Collections.synchronizedList(new ArrayList<>())).add(body(m));
                if (slow != null && slow.decrementAndGet() > 0) {
                    try {
                        TimeUnit.MILLISECONDS.sleep(10);
                    } catch (InterruptedException e) {
                        return ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT;
                    }
                }
            }
            return ConsumeOrderlyStatus.SUCCESS;
        });
        c.start();
        return c;
    }

    @Test
    void anOrderlyConsumerTakesOverWhereTheOtherStopped() throws Exception {
        String topic = RemotingTest.topic("handed");
        String group = "handed-group-" + RUN;
        Map<Integer, List<String>> first = new ConcurrentHashMap<>();
        Map<Integer, List<String>> second = new ConcurrentHashMap<>();
        DefaultMQPushConsumer one = ordered(first, new AtomicInteger(1000), group, "handed1", topic);
        RemotingTest.share(topic, 4, List.of(one));
        Map<Integer, List<String>> sent = numbered(topic, "", 400);
        RemotingTest.eventually(30, "the first has begun", () -> first.values().stream().mapToInt(List::size).sum() > 50);
        DefaultMQPushConsumer two = ordered(second, null, group, "handed2", topic);
        // by themselves clients look every 20 s; a queue of which they have messages they unlock only 20 s later
        RemotingTest.eventually(15, "the first is told that another joined", () -> queuesOf(one, topic) == 2);
        RemotingTest.eventually(70, "the second has what the first gave away", () -> queuesOf(two, topic) == 2);
        one.shutdown();
        RemotingTest.eventually(60, "the second has the rest", () -> sent.entrySet().stream().allMatch(e -> {
            Set<String> got = new HashSet<>(first.getOrDefault(e.getKey(), List.of()));
            got.addAll(second.getOrDefault(e.getKey(), List.of()));
            return got.equals(new HashSet<>(e.getValue()));
        }));
        RemotingTest.share(topic, 4, List.of(two));
        for (Map<Integer, List<String>> got : List.of(first, second)) {
            got.forEach((queue, numbers) -> {
                List<Integer> n = new ArrayList<>();
                numbers.forEach(s -> n.add(Integer.valueOf(s)));
                assertEquals(new ArrayList<>(new TreeSet<>(n)), n, "queue " + queue);
            });
        }
        two.shutdown();
    }

    @Test
    void broadcastingConsumersKeepTheirOwnPlace() throws Exception {
        String topic = RemotingTest.topic("broadcast");
        List<DefaultMQPushConsumer> consumers = new ArrayList<>();
        List<RemotingTest.Inbox> boxes = new ArrayList<>();
        for (int i = 0; i < 3; i++) {
            RemotingTest.Inbox box = new RemotingTest.Inbox();
            DefaultMQPushConsumer c = RemotingTest.consumer("broadcast-group-" + RUN, "broadcast" + i, topic, "*");
            c.setMessageModel(RemotingTest.broadcasting());
            c.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> {
                box.put(ms);
                return ms.get(0).getTags().equals("fails") ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
            c.start();
            consumers.add(c);
            boxes.add(box);
        }
        for (int i = 0; i < 40; i++) {
            producer.send(RemotingTest.message(topic, i % 10 == 0 ? "fails" : "works", "", "m" + i));
        }
        for (RemotingTest.Inbox box : boxes) {
            RemotingTest.eventually(40, "everybody has all", () -> box.seen.size() == 40);
        }
        RemotingTest.caughtUp(topic, producer, consumers);
        boxes.forEach(box -> box.seen.forEach((id, n) -> assertEquals(1, n.get(), id)));
        assertEquals(0, sentBack("broadcast-group-" + RUN), "what fails is dropped");
        consumers.forEach(DefaultMQPushConsumer::shutdown);
    }

    static long sentBack(String group) {
        try {
            return producer.maxOffset(new MessageQueue("%RETRY%" + group, "broker-a", 0));
        } catch (MQClientException e) {
            return 0; // there is no such topic
        }
    }

    static DefaultLitePullConsumer lite(String group, String instance) throws Exception {
        DefaultLitePullConsumer c = new DefaultLitePullConsumer(group);
        c.setNamesrvAddr(RemotingTest.NAMESRV);
        c.setInstanceName(instance + RUN);
        c.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        c.setPollTimeoutMillis(500);
        return c;
    }

    static void poll(DefaultLitePullConsumer c, Collection<String> into) {
        c.poll().forEach(m -> into.add(body(m)));
    }

    @Test
    void litePullConsumersShareASubscription() throws Exception {
        String topic = RemotingTest.topic("shared");
        Map<Integer, List<String>> sent = numbered(topic, "m", 100);
        producer.send(RemotingTest.message(topic, "other", "", "not asked for"));
        Set<String> want = new TreeSet<>();
        sent.values().forEach(want::addAll);
        List<DefaultLitePullConsumer> consumers = List.of(lite("shared-group-" + RUN, "shared1"), lite("shared-group-" + RUN, "shared2"));
        for (DefaultLitePullConsumer c : consumers) {
            c.subscribe(topic, "t");
            c.start();
        }
        List<String> got = new ArrayList<>();
        RemotingTest.eventually(60, "all polled", () -> {
            consumers.forEach(c -> poll(c, got));
            return new HashSet<>(got).size() >= want.size();
        });
        assertEquals(want, new TreeSet<>(got));
        RemotingTest.eventually(30, "each has its queues", () -> {
            try {
                return consumers.get(0).fetchMessageQueues(topic).size() == 4 && consumers.stream().allMatch(c -> {
                    try {
                        return c.assignment().size() == 2;
                    } catch (Exception e) {
                        throw new IllegalStateException(e);
                    }
                });
            } catch (Exception e) {
                throw new IllegalStateException(e);
            }
        });
        consumers.forEach(DefaultLitePullConsumer::shutdown);
    }

    @Test
    void litePullConsumerSeeksPausesAndCommits() throws Exception {
        String topic = RemotingTest.topic("seeks", 2);
        Map<Integer, List<String>> sent = numbered(topic, "m", 20);
        DefaultLitePullConsumer c = lite("seeks-group-" + RUN, "seeks");
        c.setAutoCommit(false);
        c.start();
        List<MessageQueue> queues = new ArrayList<>(c.fetchMessageQueues(topic));
        assertEquals(2, queues.size());
        c.assign(queues);
        List<String> got = new ArrayList<>();
        RemotingTest.eventually(30, "all polled", () -> {
            poll(c, got);
            return got.size() >= 20;
        });
        assertEquals(List.of(), c.poll(1000)); // its pulls wait at the end
        got.clear();
        c.pause(List.of(queues.get(1)));
        for (MessageQueue q : queues) {
            c.seekToBegin(q);
        }
        List<String> ofFirst = sent.get(queues.get(0).getQueueId());
        RemotingTest.eventually(30, "one queue polled again", () -> {
            poll(c, got);
            return got.size() >= ofFirst.size();
        });
        poll(c, got);
        assertEquals(ofFirst, got);
        c.resume(List.of(queues.get(1)));
        RemotingTest.eventually(30, "the other, too", () -> {
            poll(c, got);
            return got.size() >= 20;
        });
        assertEquals(List.of(), c.poll(1000));
        got.clear();
        for (MessageQueue q : queues) {
            c.seekToEnd(q);
        }
        numbered(topic, "late", 2);
        RemotingTest.eventually(30, "what came after the end", () -> {
            poll(c, got);
            return got.size() >= 2;
        });
        assertEquals(Set.of("late0", "late1"), new HashSet<>(got));
        assertEquals(0L, c.offsetForTimestamp(queues.get(0), 0L));
        assertEquals(11L, c.offsetForTimestamp(queues.get(0), System.currentTimeMillis() + 60_000));
        c.commitSync();
        RemotingTest.eventually(20, "committed", () -> queues.stream().allMatch(q -> {
            try {
                return c.committed(q) == 11L;
            } catch (Exception e) {
                throw new IllegalStateException(e);
            }
        }));
        c.shutdown();
    }

    @Test
    @SuppressWarnings("deprecation")
    void pullConsumer() throws Exception {
        String topic = RemotingTest.topic("pulled", 1);
        AtomicBoolean waits = new AtomicBoolean();
        CountDownLatch waiting = new CountDownLatch(1);
        DefaultMQPullConsumer c = new DefaultMQPullConsumer("pulled-group-" + RUN, new RPCHook() {
            @Override
            public void doBeforeRequest(String address, RemotingCommand request) {
                if (request.getCode() == 11 && waits.get()) {
                    waiting.countDown();
                }
            }

            @Override
            public void doAfterResponse(String address, RemotingCommand request, RemotingCommand response) {
            }
        });
        c.setNamesrvAddr(RemotingTest.NAMESRV);
        c.setInstanceName("pulled" + RUN);
        c.start();
        try {
            MessageQueue queue = c.fetchSubscribeMessageQueues(topic).iterator().next();
            assertEquals(PullStatus.NO_NEW_MSG, c.pull(queue, "*", 0, 32).getPullStatus());
            for (int i = 0; i < 10; i++) {
                producer.send(RemotingTest.message(topic, i % 2 == 0 ? "even" : "odd", "", "m" + i), queue);
            }
            long between = System.currentTimeMillis();
            PullResult found = c.pull(queue, "odd", 0, 4);
            assertEquals(PullStatus.FOUND, found.getPullStatus());
            assertEquals(List.of("m1", "m3", "m5", "m7"), bodies(found));
            assertEquals(10, found.getMaxOffset());
            assertEquals(List.of("m9"), bodies(c.pull(queue, "odd", found.getNextBeginOffset(), 4)));
            RemotingTest.eventually(40, "the client knows from a heartbeat that the broker has expressions", () -> {
                try {
                    return bodies(c.pull(queue, MessageSelector.bySql("TAGS = 'even'"), 0, 2)).equals(List.of("m0", "m2"));
                } catch (MQClientException e) {
                    return false;
                } catch (Exception e) {
                    throw new IllegalStateException(e);
                }
            });
            assertEquals(PullStatus.NO_MATCHED_MSG, c.pull(queue, "none", 0, 32).getPullStatus());
            assertEquals(PullStatus.OFFSET_ILLEGAL, c.pull(queue, "*", 77, 32).getPullStatus());
            assertEquals(10, c.pull(queue, "*", 77, 32).getNextBeginOffset());
            assertEquals(0, c.minOffset(queue));
            assertEquals(10, c.maxOffset(queue));
            assertEquals(10, c.searchOffset(queue, between + 60_000));
            Thread sender = new Thread(() -> {
                try {
                    waiting.await();
                    producer.send(RemotingTest.message(topic, "late", "", "late"), queue);
                } catch (Exception e) {
                    throw new IllegalStateException(e);
                }
            });
            sender.start();
            waits.set(true);
            assertEquals(List.of("late"), bodies(c.pullBlockIfNotFound(queue, "*", 10, 32)));
            sender.join();
            c.updateConsumeOffset(queue, 11);
            c.getDefaultMQPullConsumerImpl().getOffsetStore().persist(queue);
            RemotingTest.eventually(20, "committed", () -> {
                try {
                    return c.fetchConsumeOffset(queue, true) == 11L;
                } catch (MQClientException e) {
                    throw new IllegalStateException(e);
                }
            });
            c.sendMessageBack(found.getMsgFoundList().get(0), 1);
            MessageQueue retry = new MessageQueue("%RETRY%pulled-group-" + RUN, "broker-a", 0);
            RemotingTest.eventually(20, "it comes to the group's retry topic", () -> {
                try {
                    return c.maxOffset(retry) == 1;
                } catch (MQClientException e) {
                    throw new IllegalStateException(e);
                }
            });
            MessageExt again = c.pull(retry, "*", 0, 32).getMsgFoundList().get(0);
            assertEquals(1, again.getReconsumeTimes());
            assertEquals(topic, again.getProperty(MessageConst.PROPERTY_RETRY_TOPIC));
        } finally {
            c.shutdown();
        }
    }

    static List<String> bodies(PullResult r) {
        List<String> out = new ArrayList<>();
        assertNotNull(r.getMsgFoundList(), r.toString());
        r.getMsgFoundList().forEach(m -> out.add(body(m)));
        return out;
    }

    @Test
    void messagesOfABatchKeepTheirProperties() throws Exception {
        String topic = RemotingTest.topic("batch");
        Map<String, MessageExt> got = new ConcurrentHashMap<>();
        DefaultMQPushConsumer c = RemotingTest.consumer("batch-group-" + RUN, "batch", topic, "even || odd");
        c.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> {
            ms.forEach(m -> got.put(body(m), m));
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        c.start();
        List<Message> batch = new ArrayList<>();
        for (int i = 0; i < 10; i++) {
            Message m = RemotingTest.message(topic, i == 9 ? "dropped" : i % 2 == 0 ? "even" : "odd", "batch-key-" + i + "-" + RUN, "m" + i);
            m.putUserProperty("number", Integer.toString(i));
            m.putUserProperty("unicode", "schön " + i);
            m.setFlag(i);
            batch.add(m);
        }
        SendResult sent = producer.send(batch);
        String[] ids = sent.getMsgId().split(",");
        String[] offsetIds = sent.getOffsetMsgId().split(",");
        assertEquals(10, ids.length);
        assertEquals(10, offsetIds.length);
        RemotingTest.eventually(40, "consumed", () -> got.size() == 9);
        for (int i = 0; i < 9; i++) {
            MessageExt m = got.get("m" + i);
            assertEquals(ids[i], m.getMsgId());
            assertEquals(i % 2 == 0 ? "even" : "odd", m.getTags());
            assertEquals("batch-key-" + i + "-" + RUN, m.getKeys());
            assertEquals(Integer.toString(i), m.getUserProperty("number"));
            assertEquals("schön " + i, m.getUserProperty("unicode"));
            assertEquals(i, m.getFlag());
            assertEquals(sent.getQueueOffset() + i, m.getQueueOffset());
            assertEquals("m" + i, body(producer.viewMessage(topic, offsetIds[i])));
        }
        long now = System.currentTimeMillis();
        List<MessageExt> byKey = producer.queryMessage(topic, "batch-key-7-" + RUN, 10, now - 600_000, now + 600_000).getMessageList();
        assertEquals(List.of("m7"), List.of(body(byKey.get(0))));
        c.shutdown();
    }

    @Test
    void namespacesKeepTopicsAndGroupsApart() throws Exception {
        String topic = "spaced-" + RUN;
        List<DefaultMQPushConsumer> consumers = new ArrayList<>();
        List<DefaultMQProducer> producers = new ArrayList<>();
        Map<String, Set<String>> got = new ConcurrentHashMap<>();
        Map<String, AtomicInteger> failed = new ConcurrentHashMap<>();
        for (String space : List.of("one", "two")) {
            DefaultMQProducer p = new DefaultMQProducer("spaced-producer-" + RUN);
            p.setNamespace(space);
            producers.add(started(p, "spaced-" + space));
            for (int i = 0; i < 10; i++) {
                p.send(RemotingTest.message(topic, "t", "", space + i)); // makes the topic
            }
            DefaultMQPushConsumer c = new DefaultMQPushConsumer("spaced-group-" + RUN);
            c.setNamespace(space);
            c.setNamesrvAddr(RemotingTest.NAMESRV);
            c.setInstanceName("spaced-c-" + space + RUN);
            c.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
            c.subscribe(topic, "*");
            c.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> {
                for (MessageExt m : ms) {
                    assertEquals(topic, m.getTopic());
                    if (failed.computeIfAbsent(body(m), k -> new AtomicInteger()).getAndIncrement() == 0 && body(m).endsWith("5")) {
                        ctx.setDelayLevelWhenNextConsume(1);
                        return ConsumeConcurrentlyStatus.RECONSUME_LATER;
                    }
                    got.computeIfAbsent(space, k -> ConcurrentHashMap.newKeySet()).add(body(m));
                }
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
            c.start();
            consumers.add(c);
        }
        for (String space : List.of("one", "two")) {
            RemotingTest.eventually(60, "all of " + space, () -> got.getOrDefault(space, Set.of()).size() == 10);
            assertTrue(got.get(space).stream().allMatch(s -> s.startsWith(space)));
        }
        assertFalse(producer.fetchPublishMessageQueues("one%" + topic).isEmpty());
        consumers.forEach(DefaultMQPushConsumer::shutdown);
        producers.forEach(DefaultMQProducer::shutdown);
    }

    /** Has the broker say that there is no offset, as it does for queues that lost their beginning. */
    static final RPCHook NOT_YOUNG = new RPCHook() {
        @Override
        public void doBeforeRequest(String address, RemotingCommand request) {
            if (request.getCode() == 14) {
                request.addExtField("setZeroIfNotFound", "false");
            }
        }

        @Override
        public void doAfterResponse(String address, RemotingCommand request, RemotingCommand response) {
        }
    };

    static Set<String> startingAt(String topic, ConsumeFromWhere where, long time, RPCHook hook) throws Exception {
        Set<String> got = ConcurrentHashMap.newKeySet();
        String name = where.name().replace('_', '-') + (hook == null ? "-young" : "") + RUN;
        DefaultMQPushConsumer c = new DefaultMQPushConsumer("from-" + name, hook, new org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueAveragely());
        c.setNamesrvAddr(RemotingTest.NAMESRV);
        c.setInstanceName(name);
        c.setConsumeFromWhere(where);
        c.setConsumeTimestamp(new SimpleDateFormat("yyyyMMddHHmmss").format(new Date(time)));
        c.subscribe(topic, "*");
        c.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> {
            ms.forEach(m -> got.add(body(m)));
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        c.start();
        RemotingTest.share(topic, 2, List.of(c));
        Set<String> later = new HashSet<>();
        numbered(topic, "later-" + name, 2).values().forEach(later::addAll);
        RemotingTest.eventually(30, "what came later, in each queue", () -> got.containsAll(later));
        RemotingTest.caughtUp(topic, producer, List.of(c));
        c.shutdown();
        got.removeIf(s -> s.startsWith("later"));
        return got;
    }

    @Test
    void consumersBeginWhereTheyWant() throws Exception {
        String topic = RemotingTest.topic("from", 2);
        Set<String> all = new HashSet<>();
        numbered(topic, "old", 10).values().forEach(all::addAll);
        long between = RemotingTest.later(1000); // the consumers' time has whole seconds
        Set<String> fresh = new HashSet<>();
        numbered(topic, "new", 10).values().forEach(fresh::addAll);
        all.addAll(fresh);
        assertEquals(all, startingAt(topic, ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET, 0, NOT_YOUNG));
        assertEquals(fresh, startingAt(topic, ConsumeFromWhere.CONSUME_FROM_TIMESTAMP, between, NOT_YOUNG));
        assertEquals(Set.of(), startingAt(topic, ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET, 0, NOT_YOUNG));
        assertEquals(all, startingAt(topic, ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET, 0, null)); // a young topic: from its beginning
    }

    @Test
    void topicsAreMadeOnDemand() throws Exception {
        for (Object[] row : new Object[][] {{"TBW102", 0, 4}, {"TBW102", 2, 2}, {"TBW102", 100, 8}, {"DefaultCluster", 100, 16}}) {
            DefaultMQProducer p = new DefaultMQProducer("maker-" + RUN);
            p.setCreateTopicKey((String) row[0]);
            if ((int) row[1] > 0) {
                p.setDefaultTopicQueueNums((int) row[1]);
            }
            String topic = "made-" + row[0] + "-" + row[1] + "-" + RUN;
            started(p, topic);
            p.send(RemotingTest.message(topic, "", "", "first"));
            assertEquals((int) row[2], producer.fetchPublishMessageQueues(topic).size(), topic);
            p.shutdown();
        }
        DefaultMQProducer p = new DefaultMQProducer("maker-" + RUN);
        p.setCreateTopicKey("SELF_TEST_TOPIC"); // a topic whose permission is not inherited
        started(p, "refused");
        assertThrows(MQClientException.class, () -> p.send(RemotingTest.message("refused-" + RUN, "", "", "x")));
        p.shutdown();
    }

    @Test
    void whatFailsTooOftenIsADeadLetter() throws Exception {
        String topic = RemotingTest.topic("dead", 1);
        String group = "dead-group-" + RUN;
        List<Integer> tries = new java.util.concurrent.CopyOnWriteArrayList<>();
        DefaultMQPushConsumer c = RemotingTest.consumer(group, "dead", topic, "*");
        c.setMaxReconsumeTimes(2);
        c.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> {
            tries.add(ms.get(0).getReconsumeTimes());
            ctx.setDelayLevelWhenNextConsume(1);
            return ConsumeConcurrentlyStatus.RECONSUME_LATER;
        });
        c.start();
        SendResult sent = producer.send(RemotingTest.message(topic, "tag", "key", "never"));
        MessageQueue dead = new MessageQueue("%DLQ%" + group, "broker-a", 0);
        RemotingTest.eventually(60, "in the dead letters", () -> {
            try {
                return producer.maxOffset(dead) == 1;
            } catch (MQClientException e) {
                return false; // there is no such topic yet
            }
        });
        assertEquals(List.of(0, 1, 2), tries);
        c.shutdown();
        DefaultLitePullConsumer reader = lite("dead-reader-" + RUN, "dead-reader");
        reader.start();
        reader.assign(List.of(dead));
        List<MessageExt> got = new ArrayList<>();
        RemotingTest.eventually(30, "read", () -> {
            got.addAll(reader.poll(500));
            return !got.isEmpty();
        });
        assertEquals(1, got.size(), got.toString());
        MessageExt m = got.get(0);
        assertEquals("never", body(m));
        assertEquals(sent.getMsgId(), m.getMsgId());
        assertEquals(topic, m.getProperty(MessageConst.PROPERTY_RETRY_TOPIC));
        assertEquals(sent.getOffsetMsgId(), m.getProperty(MessageConst.PROPERTY_ORIGIN_MESSAGE_ID));
        assertEquals("tag", m.getTags());
        reader.shutdown();
    }

    @Test
    void anExpressionIsCheckedAtTheStart() throws Exception {
        String topic = RemotingTest.topic("checked");
        DefaultMQPushConsumer bad = RemotingTest.consumer("checked-group-" + RUN, "checked", topic, "*");
        bad.subscribe(topic, MessageSelector.bySql("number > > 3"));
        bad.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> ConsumeConcurrentlyStatus.CONSUME_SUCCESS);
        MQClientException e = assertThrows(MQClientException.class, bad::start);
        assertTrue(e.getMessage().contains("CODE: 23"), e.getMessage());
        bad.shutdown();
    }

    /** Of consumers of a group that want different things one decides what the broker gives, whoever spoke last; clients drop what they did not ask for. */
    @Test
    void oneSubscriptionOfAGroupCounts() throws Exception {
        String topic = RemotingTest.topic("mixed", 2);
        ConcurrentLinkedQueue<String> got = new ConcurrentLinkedQueue<>();
        List<DefaultMQPushConsumer> consumers = new ArrayList<>();
        for (String tag : List.of("a", "b")) {
            DefaultMQPushConsumer c = RemotingTest.consumer("mixed-group-" + RUN, "mixed-" + tag, topic, tag);
            c.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> {
                ms.forEach(m -> got.add(m.getTags() + " to " + tag));
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
            c.start();
            consumers.add(c);
        }
        RemotingTest.share(topic, 1, consumers);
        for (int i = 0; i < 40; i++) {
            producer.send(RemotingTest.message(topic, i % 2 == 0 ? "a" : "b", "", "m" + i), producer.fetchPublishMessageQueues(topic).get(i / 2 % 2));
        }
        RemotingTest.eventually(40, "what one of them wants, in its queue",
            () -> Set.of("a to a", "b to b").stream().anyMatch(s -> got.stream().filter(s::equals).count() == 10));
        assertTrue(Set.of("b to b", "a to a").containsAll(got), got.toString());
        consumers.forEach(DefaultMQPushConsumer::shutdown);
    }
}
