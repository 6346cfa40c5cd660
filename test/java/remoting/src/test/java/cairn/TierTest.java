package cairn;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicIntegerArray;
import java.util.concurrent.atomic.AtomicLongArray;
import java.util.stream.Stream;
import org.apache.rocketmq.client.QueryResult;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/**
 * The messages of many topics leave the broker for an object store, all but the last segments: who reads from offset 0, by time, by
 * key and by id does not notice. -Dcairn.messages=5000000 -Dcairn.topics=1000 -Dcairn.segment=64MiB -Dheap=3g is the long form;
 * -Dcairn.tier=URL takes another object store than a folder.
 */
@OnlyCairn("a broker of the test's own, with an object store")
class TierTest {
    static final int COUNT = Integer.getInteger("cairn.messages", 120_000);
    static final int TOPICS = Integer.getInteger("cairn.topics", 50);
    static final String SEGMENT = System.getProperty("cairn.segment", "16MiB");
    static final String TIER = System.getProperty("cairn.tier", "");
    static final int MARKS = 8;
    static final int READERS = 16;

    @TempDir
    Path home;

    final AtomicLongArray sent = new AtomicLongArray(COUNT); // hash of the id by number
    final AtomicInteger failed = new AtomicInteger();
    final long[] markedAt = new long[MARKS]; // ms: before it were the first COUNT * (i + 1) / (MARKS + 1)
    String nameServer;

    static String topic(int n) {
        return "tier-" + n % TOPICS;
    }

    static String key(int n) {
        return "key-" + n;
    }

    /** The body of a message, which no two have in common. */
    static byte[] body(int n) {
        byte[] random = new byte[100 + n % 100];
        new Random(n).nextBytes(random);
        return ByteBuffer.allocate(4 + random.length).putInt(n).put(random).array();
    }

    @Test
    void readersDoNotNoticeTheTier() throws Exception {
        String url = TIER.isEmpty() ? "file://" + Files.createDirectory(home.resolve("tier")) : TIER;
        BrokerProcess broker = new BrokerProcess(home, "cold", "--nameserver", "127.0.0.1:0", "--remoting", "127.0.0.1:0", "--segment-size", SEGMENT,
            "--tiered.url", url, "--retention", "1s", "--durability", "interval");
        broker.start();
        DefaultMQProducer producer = new DefaultMQProducer("tier-producer");
        try {
            nameServer = broker.address("nameserver");
            producer.setNamesrvAddr(nameServer);
            producer.setInstanceName("tier");
            producer.setSendMsgTimeout(30_000);
            producer.setDefaultTopicQueueNums(1);
            producer.start();
            double seconds = seconds(() -> send(producer));
            System.out.printf("tier: %d messages of %d topics sent at %.0f/s%n", COUNT, TOPICS, COUNT / seconds);
            seconds = seconds(() -> RemotingTest.eventually(60 + COUNT / 10_000, "all but the last segments have gone", () -> segments() <= 2));
            System.out.printf("tier: %.1f s later only %d segments were left%n", seconds, segments());
            seconds = seconds(this::readAll);
            System.out.printf("tier: all read from offset 0 at %.0f/s%n", COUNT / seconds);
            byTime(producer);
            byKeyAndId(producer);
        } finally {
            producer.shutdown();
            broker.stop();
        }
    }

    interface Work {
        void run() throws Exception;
    }

    static double seconds(Work work) throws Exception {
        long began = System.nanoTime();
        work.run();
        return (System.nanoTime() - began) / 1e9;
    }

    /** How many segments the log has. */
    long segments() {
        try (Stream<Path> files = Files.list(home.resolve("cold").resolve("log"))) {
            return files.filter(f -> f.getFileName().toString().matches("[0-9]{20}")).count();
        } catch (java.io.IOException e) {
            throw new IllegalStateException(e);
        }
    }

    void send(DefaultMQProducer producer) throws Exception {
        Semaphore window = new Semaphore(512);
        for (int n = 0, mark = 0; n < COUNT; n++) {
            if (mark < MARKS && n == marked(mark)) {
                window.acquire(512); // all before it are stored
                markedAt[mark] = System.currentTimeMillis() + 1;
                RemotingTest.eventually(1, "the next millisecond", later(markedAt[mark++]));
                window.release(512);
            }
            Message m = new Message(topic(n), "", key(n), body(n));
            if (n < TOPICS) { // makes the topic
                sent.set(n, ManyMessagesTest.hash(producer.send(m).getMsgId()));
                continue;
            }
            window.acquire();
            int number = n;
            producer.send(m, new SendCallback() {
                @Override
                public void onSuccess(SendResult r) {
                    sent.set(number, ManyMessagesTest.hash(r.getMsgId()));
                    window.release();
                }

                @Override
                public void onException(Throwable e) {
                    failed.incrementAndGet();
                    window.release();
                }
            });
        }
        window.acquire(512);
        assertEquals(0, failed.get());
    }

    static java.util.function.BooleanSupplier later(long ms) {
        return () -> System.currentTimeMillis() >= ms;
    }

    static int marked(int mark) {
        return (int) ((long) COUNT * (mark + 1) / (MARKS + 1));
    }

    /** Every message, from offset 0 of all queues, once and as it was sent. */
    void readAll() throws Exception {
        DefaultMQPullConsumer consumer = new DefaultMQPullConsumer("tier-reader");
        consumer.setNamesrvAddr(nameServer);
        consumer.setInstanceName("tier-reader");
        consumer.setConsumerPullTimeoutMillis(60_000);
        consumer.start();
        AtomicIntegerArray times = new AtomicIntegerArray(COUNT);
        AtomicInteger next = new AtomicInteger();
        ExecutorService readers = Executors.newFixedThreadPool(READERS);
        List<Future<?>> ends = new ArrayList<>();
        for (int r = 0; r < READERS; r++) {
            ends.add(readers.submit(() -> {
                for (int t = next.getAndIncrement(); t < TOPICS; t = next.getAndIncrement()) {
                    read(consumer, topic(t), times);
                }
                return null;
            }));
        }
        for (Future<?> end : ends) {
            end.get();
        }
        readers.shutdown();
        for (int n = 0; n < COUNT; n++) {
            assertEquals(1, times.get(n), "deliveries of message " + n);
        }
        consumer.shutdown();
    }

    void read(DefaultMQPullConsumer consumer, String topic, AtomicIntegerArray times) throws Exception {
        Set<MessageQueue> queues = consumer.fetchSubscribeMessageQueues(topic);
        assertEquals(1, queues.size());
        MessageQueue queue = queues.iterator().next();
        for (long offset = 0; ; ) {
            PullResult r = consumer.pull(queue, "*", offset, 128);
            if (r.getPullStatus() == PullStatus.NO_NEW_MSG) {
                return;
            }
            assertEquals(PullStatus.FOUND, r.getPullStatus(), topic + " at " + offset);
            for (MessageExt m : r.getMsgFoundList()) {
                times.incrementAndGet(check(m));
                assertEquals(offset++, m.getQueueOffset(), "offsets of " + topic);
            }
            assertEquals(offset, r.getNextBeginOffset());
        }
    }

    /** Compares a message with the one that was sent, and answers its number. */
    int check(MessageExt m) {
        int n = ByteBuffer.wrap(m.getBody()).getInt();
        org.junit.jupiter.api.Assertions.assertArrayEquals(body(n), m.getBody());
        assertEquals(topic(n), m.getTopic());
        assertEquals(key(n), m.getKeys());
        assertEquals(sent.get(n), ManyMessagesTest.hash(m.getMsgId()), "id of message " + n);
        return n;
    }

    /** The first offset from a time on is that of the first message which was sent then. */
    void byTime(DefaultMQProducer producer) throws Exception {
        double[] took = new double[MARKS];
        for (int mark = 0; mark < MARKS; mark++) {
            int before = marked(mark);
            for (int t = 0; t < TOPICS; t += Math.max(1, TOPICS / 20)) {
                MessageQueue q = producer.fetchPublishMessageQueues(topic(t)).get(0);
                long at = markedAt[mark];
                long[] offset = new long[1];
                took[mark] = Math.max(took[mark], seconds(() -> offset[0] = producer.searchOffset(q, at)));
                assertEquals((long) (before - t + TOPICS - 1) / TOPICS, offset[0], "first message of " + q.getTopic() + " from mark " + mark + " on");
            }
        }
        System.out.printf("tier: found by time, the slowest in %.3f s%n", java.util.Arrays.stream(took).max().orElse(0));
    }

    void byKeyAndId(DefaultMQProducer producer) throws Exception {
        double slowest = 0;
        for (int i = 0; i < 100; i++) {
            int n = (int) ((long) COUNT * i / 100);
            MessageExt[] found = new MessageExt[1];
            slowest = Math.max(slowest, seconds(() -> {
                QueryResult r = producer.queryMessage(topic(n), key(n), 32, 0, Long.MAX_VALUE);
                assertEquals(1, r.getMessageList().size(), "messages with the key of " + n);
                found[0] = r.getMessageList().get(0);
            }));
            assertEquals(n, check(found[0]));
            MessageExt byId = producer.viewMessage(topic(n), found[0].getMsgId());
            assertEquals(n, check(byId));
            assertEquals(found[0].getQueueOffset(), byId.getQueueOffset());
        }
        System.out.printf("tier: found by key, the slowest in %.3f s%n", slowest);
    }
}
