package cairn;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import java.util.regex.MatchResult;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** Groups with virtual queues: ordinary pulling consumers, more than there are queues, all with work. */
@OnlyCairn("virtual queues")
class VirtualQueuesTest {
    static final int MESSAGES = Integer.getInteger("cairn.messages", 20_000);
    static final Pattern LAG = Pattern.compile("\"lag\": *(\\d+)");

    @BeforeAll
    static void start() throws Exception {
        RemotingTest.start();
    }

    @AfterAll
    static void stop() {
        RemotingTest.stop();
    }

    /** The group is made, or changed under its consumers, as an operator does it: the client of 4.9 knows no attributes. */
    static void virtual(String group, boolean on) throws Exception {
        cairn("group", "create", group, "--attributes", "+queues.virtual=" + on);
    }

    /** What the command line says. */
    static String cairn(String... args) throws Exception {
        List<String> command = new ArrayList<>(List.of(System.getProperty("cairn.bin"), "--nameserver", RemotingTest.NAMESRV));
        command.addAll(1, List.of(args));
        Process p = new ProcessBuilder(command).redirectErrorStream(true).start();
        String said = new String(p.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        assertEquals(0, p.waitFor(), said);
        return said;
    }

    /** Waits until the broker knows that the group has consumed everything: then nothing is left that could come once more. */
    static void settled(String group) throws Exception {
        RemotingTest.eventually(60, group + " has committed everything", () -> {
            try {
                List<MatchResult> lags = LAG.matcher(cairn("group", "show", group, "-o", "json")).results().collect(Collectors.toList());
                return !lags.isEmpty() && lags.stream().allMatch(m -> m.group(1).equals("0"));
            } catch (Exception e) {
                throw new IllegalStateException(e);
            }
        });
    }

    /** Messages of 100 at a time go to one queue after the other. */
    static void send(String topic, int from, int to, Map<String, String> sent) throws Exception {
        for (int i = from; i < to; i += 100) {
            List<Message> batch = new ArrayList<>();
            for (int j = i; j < Math.min(i + 100, to); j++) {
                batch.add(RemotingTest.message(topic, "t", "", "m" + j));
            }
            String[] ids = RemotingTest.producer.send(batch).getMsgId().split(",");
            assertEquals(batch.size(), ids.length);
            for (int j = 0; j < ids.length; j++) {
                sent.put(ids[j], "m" + (i + j));
            }
        }
    }

    static DefaultMQPushConsumer counting(RemotingTest.Inbox box, AtomicInteger count, String group, String instance, String topic) throws Exception {
        DefaultMQPushConsumer c = RemotingTest.consumer(group, instance, topic, "*");
        c.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> {
            box.put(ms);
            count.addAndGet(ms.size());
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        c.start();
        return c;
    }

    /** A consumer in a process of its own, which takes messages and is never done with them. */
    public static final class Stuck {
        public static void main(String[] args) throws Exception {
            DefaultMQPushConsumer c = new DefaultMQPushConsumer(args[1]);
            c.setNamesrvAddr(args[0]);
            c.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
            c.subscribe(args[2], "*");
            c.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> {
                System.out.println("has " + ms.get(0).getMsgId());
                try {
                    new CountDownLatch(1).await();
                } catch (InterruptedException e) {
                    Thread.currentThread().interrupt();
                }
                return ConsumeConcurrentlyStatus.RECONSUME_LATER;
            });
            c.start();
            System.out.println("started");
            new CountDownLatch(1).await();
        }
    }

    static Process stuck(String group, String topic) throws Exception {
        String java = Path.of(System.getProperty("java.home"), "bin", "java").toString();
        return new ProcessBuilder(java, "-Xmx128m", "-Drocketmq.client.logRoot=" + System.getProperty("rocketmq.client.logRoot"),
            "-Drocketmq.log.root=" + System.getProperty("rocketmq.log.root"), "-cp", System.getProperty("java.class.path"), Stuck.class.getName(),
            RemotingTest.NAMESRV, group, topic).redirectErrorStream(true).start();
    }

    @Test
    void twelveConsumersOfFourQueuesAllGetWorkAndEachMessageComesOnce() throws Exception {
        String topic = RemotingTest.topic("virtual");
        String group = "virtual-group-" + RemotingTest.RUN;
        virtual(group, true);
        RemotingTest.Inbox box = new RemotingTest.Inbox();
        List<DefaultMQPushConsumer> consumers = new ArrayList<>();
        List<AtomicInteger> counts = new ArrayList<>();
        for (int i = 0; i < 11; i++) {
            counts.add(new AtomicInteger());
            consumers.add(counting(box, counts.get(i), group, "virtual" + i, topic));
        }
        RemotingTest.share(topic, 4, consumers);
        Process twelfth = stuck(group, topic);
        HashSet<String> held = new HashSet<>();
        AtomicReference<String> said = new AtomicReference<>("");
        Thread reader = new Thread(() -> {
            try (BufferedReader r = new BufferedReader(new InputStreamReader(twelfth.getInputStream(), StandardCharsets.UTF_8))) {
                for (String line = r.readLine(); line != null; line = r.readLine()) {
                    String now = line;
                    said.updateAndGet(s -> s + now + "\n");
                    if (line.startsWith("has ")) {
                        synchronized (held) {
                            held.add(line.substring(4));
                        }
                    }
                }
            } catch (java.io.IOException e) {
                // it was killed
            }
        });
        reader.start();
        try {
            RemotingTest.eventually(60, "the twelfth is there", () -> said.get().contains("started"));
            Map<String, String> sent = new ConcurrentHashMap<>();
            int half = MESSAGES / 2;
            send(topic, 0, half, sent);
            // it may begin to pull when the others have got all of these
            for (long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(60); !said.get().contains("has "); half += 100) {
                assertTrue(System.nanoTime() < end, "the twelfth has got nothing");
                send(topic, half, half + 100, sent);
                RemotingTest.eventually(60, "the last ones are with somebody", () -> box.seen.size() >= sent.size() || said.get().contains("has "));
            }
            synchronized (held) {
                held.forEach(id -> assertTrue(!box.seen.containsKey(id), id + " is with two consumers"));
            }
            twelfth.destroyForcibly().waitFor();
            int all = half + MESSAGES / 2;
            send(topic, half, all, sent);
            RemotingTest.eventually(60, "all consumed", () -> box.seen.size() >= sent.size());
            settled(group);
            assertEquals(all, sent.size());
            box.check(sent);
            counts.forEach(n -> assertTrue(n.get() > MESSAGES / 100, "one of eleven consumers got " + n + " of " + MESSAGES + " messages: " + counts));
            System.out.println(all + " sent and consumed once by eleven of twelve consumers of four queues: " + counts + ", the twelfth was killed with "
                + held.size() + " or more");
        } finally {
            twelfth.destroyForcibly();
            consumers.forEach(DefaultMQPushConsumer::shutdown);
        }
    }

    @Test
    void nothingIsLostWhenVirtualQueuesAreTurnedOnAndOff() throws Exception {
        String topic = RemotingTest.topic("switched");
        String group = "switched-group-" + RemotingTest.RUN;
        virtual(group, false);
        RemotingTest.Inbox box = new RemotingTest.Inbox();
        List<DefaultMQPushConsumer> consumers = new ArrayList<>();
        List<AtomicInteger> counts = new ArrayList<>();
        for (int i = 0; i < 6; i++) {
            counts.add(new AtomicInteger());
            consumers.add(counting(box, counts.get(i), group, "switched" + i, topic));
        }
        Map<String, String> sent = new ConcurrentHashMap<>();
        AtomicBoolean over = new AtomicBoolean();
        AtomicReference<Throwable> failed = new AtomicReference<>();
        Thread sender = new Thread(() -> {
            try {
                for (int i = 0; i < MESSAGES || !over.get(); i += 100) {
                    send(topic, i, i + 100, sent);
                    RemotingTest.eventually(60, "few messages wait", () -> box.seen.size() + 200 > sent.size());
                }
            } catch (Throwable e) {
                failed.set(e);
            }
        });
        sender.start();
        boolean[] switches = {true, false, true, false};
        for (boolean on : switches) {
            int before = box.seen.size();
            RemotingTest.eventually(60, "consumers are at work", () -> box.seen.size() >= before + 2000 || failed.get() != null);
            virtual(group, on);
            RemotingTest.eventually(30, "consumers know that virtual queues are " + on, () -> queues(topic, consumers) == (on ? 24 : 4));
        }
        over.set(true);
        sender.join();
        assertEquals(null, failed.get());
        RemotingTest.eventually(120, "all consumed", () -> box.seen.keySet().containsAll(sent.keySet()));
        assertEquals(sent.keySet(), new HashSet<>(box.seen.keySet()));
        long twice = box.seen.values().stream().filter(n -> n.get() > 1).count();
        System.out.println(sent.size() + " sent and consumed once or, while queues changed hands, more often (" + twice + ") by " + counts);
        // Clients commit with their next pull, so it may be the last batch that a queue got.
        int most = 100 * 4 * switches.length;
        assertTrue(twice <= most, twice + " messages came more than once; what was not committed when queues changed hands is at most " + most);
        consumers.forEach(DefaultMQPushConsumer::shutdown);
    }

    static long queues(String topic, List<DefaultMQPushConsumer> consumers) {
        return consumers.stream().mapToLong(c -> c.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable().keySet().stream()
            .filter(q -> q.getTopic().equals(topic)).count()).sum();
    }

    @Test
    void litePullConsumersShareAQueue() throws Exception {
        String topic = RemotingTest.topic("virtual-lite", 1);
        String group = "virtual-lite-group-" + RemotingTest.RUN;
        virtual(group, true);
        RemotingTest.Inbox box = new RemotingTest.Inbox();
        List<DefaultLitePullConsumer> consumers = new ArrayList<>();
        int[] counts = new int[3];
        for (int i = 0; i < counts.length; i++) {
            DefaultLitePullConsumer c = new DefaultLitePullConsumer(group);
            c.setNamesrvAddr(RemotingTest.NAMESRV);
            c.setInstanceName("virtual-lite" + i + RemotingTest.RUN);
            c.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
            c.setPullBatchSize(4);
            c.subscribe(topic, "*");
            c.start();
            consumers.add(c);
        }
        Map<String, String> sent = new ConcurrentHashMap<>();
        for (int i = 0; i < 600; i++) {
            sent.put(RemotingTest.producer.send(RemotingTest.message(topic, "t", "", "m" + i)).getMsgId(), "m" + i);
        }
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(60);
        while (box.seen.size() < sent.size() && System.nanoTime() < end) {
            for (int i = 0; i < counts.length; i++) {
                List<MessageExt> ms = consumers.get(i).poll(20);
                counts[i] += ms.size();
                box.put(ms);
            }
        }
        box.check(sent);
        for (int n : counts) {
            assertTrue(n > 0, "a consumer of three got nothing");
        }
        consumers.forEach(DefaultLitePullConsumer::shutdown);
    }

    @Test
    void aMessageThatFailedComesAgainOnce() throws Exception {
        String topic = RemotingTest.topic("virtual-retry", 1);
        String group = "virtual-retry-group-" + RemotingTest.RUN;
        virtual(group, true);
        AtomicInteger times = new AtomicInteger();
        RemotingTest.Inbox again = new RemotingTest.Inbox();
        List<DefaultMQPushConsumer> pushed = new ArrayList<>();
        for (int i = 0; i < 2; i++) {
            DefaultMQPushConsumer c = RemotingTest.consumer(group, "virtual-push" + i, topic, "*");
            c.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> {
                if (ms.get(0).getReconsumeTimes() == 0) {
                    times.incrementAndGet();
                    ctx.setDelayLevelWhenNextConsume(1);
                    return ConsumeConcurrentlyStatus.RECONSUME_LATER;
                }
                again.put(ms);
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
            c.start();
            pushed.add(c);
        }
        RemotingTest.share(topic, 1, pushed);
        for (int i = 0; i < 50; i++) {
            RemotingTest.producer.send(RemotingTest.message(topic, "t", "", "again" + i));
        }
        RemotingTest.eventually(60, "all again", () -> again.seen.size() >= 50);
        settled(group);
        assertEquals(50, times.get());
        assertEquals(50, again.seen.size());
        again.seen.forEach((id, n) -> assertEquals(1, n.get(), id));
        pushed.forEach(DefaultMQPushConsumer::shutdown);
    }
}
