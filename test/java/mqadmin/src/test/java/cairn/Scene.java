package cairn;

import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageQueue;

/** The clients that mqadmin is asked about, and the verbs by which the transcript moves them. */
final class Scene implements AutoCloseable {
    private final Words words;
    private final String nameserver;
    private final Path folder;
    private final Map<String, DefaultMQProducer> producers = new HashMap<>();
    private final Map<String, DefaultMQPushConsumer> consumers = new HashMap<>();
    private final Map<String, AtomicInteger> consumed = new HashMap<>();

    Scene(Words words, String nameserver, Path folder) {
        this.words = words;
        this.nameserver = nameserver;
        this.folder = folder;
    }

    void play(String[] line) throws Exception {
        switch (line[0]) {
            case "!producer":
                producer(line[1]);
                break;
            case "!send":
                send(line[1], line[2], Integer.parseInt(line[3]), Integer.parseInt(line[4]), line.length > 5 ? Integer.parseInt(line[5]) : 0);
                break;
            case "!consumer":
                consumer(line[1], line[2], line[3], line[4].equals("fails"));
                break;
            case "!consumed":
                consumed(line[1], Integer.parseInt(line[2]));
                break;
            case "!stop":
                consumers.remove(line[1]).shutdown();
                break;
            case "!file":
                Files.writeString(folder.resolve(line[1]), String.join(" ", Arrays.copyOfRange(line, 2, line.length)));
                break;
            default:
                throw new IllegalArgumentException("no verb: " + line[0]);
        }
    }

    /** !producer GROUP: one whose sends are traced. */
    private void producer(String group) throws Exception {
        DefaultMQProducer p = new DefaultMQProducer(group, null, true, null);
        p.setNamesrvAddr(nameserver);
        p.setInstanceName(group);
        p.setClientIP("client");
        p.start();
        producers.put(group, p);
    }

    /** !send GROUP TOPIC QUEUE COUNT [LEVEL]: the last one's ids become $ID_TOPIC and $OFFSETID_TOPIC, its key is TOPIC-QUEUE-NUMBER. */
    private void send(String group, String topic, int queue, int count, int level) throws Exception {
        for (int i = 0; i < count; i++) {
            String text = topic + "-" + queue + "-" + i;
            Message m = new Message(topic, i % 2 == 0 ? "red" : "blue", text, text.getBytes(StandardCharsets.UTF_8));
            m.setDelayTimeLevel(level);
            SendResult sent = producers.get(group).send(m, new MessageQueue(topic, "broker-a", queue));
            words.set("ID_" + name(topic), sent.getMsgId());
            words.set("OFFSETID_" + name(topic), sent.getOffsetMsgId());
        }
    }

    private static String name(String topic) {
        return topic.toUpperCase().replace('-', '_');
    }

    /** !consumer GROUP TOPIC EXPRESSION ok|fails: one that fails takes no message a second time. */
    private void consumer(String group, String topic, String expression, boolean fails) throws Exception {
        DefaultMQPushConsumer c = new DefaultMQPushConsumer(group);
        c.setNamesrvAddr(nameserver);
        c.setInstanceName(group);
        c.setClientIP("client");
        c.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        c.subscribe(topic, expression);
        c.setPersistConsumerOffsetInterval(1000);
        if (fails) {
            c.setMaxReconsumeTimes(0);
        }
        AtomicInteger count = consumed.computeIfAbsent(group, g -> new AtomicInteger());
        c.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            count.addAndGet(messages.size());
            return fails ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        c.start();
        consumers.put(group, c);
    }

    /** !consumed GROUP COUNT: waits until the group's consumers have had so many messages. */
    private void consumed(String group, int count) throws InterruptedException {
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(60);
        while (consumed.get(group).get() < count) {
            if (System.nanoTime() > end) {
                throw new IllegalStateException(group + " got " + consumed.get(group) + " messages, not " + count);
            }
            TimeUnit.MILLISECONDS.sleep(20);
        }
    }

    @Override
    public void close() {
        consumers.values().forEach(DefaultMQPushConsumer::shutdown);
        producers.values().forEach(DefaultMQProducer::shutdown);
    }
}
