package cairn;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;

import java.net.ServerSocket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Map;
import java.util.Queue;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** One of two brokers is restarted while an application goes on: it sees no error and loses nothing. */
@OnlyCairn("brokers of a test's own, two under one name server")
class RestartTest {
    final Map<String, String> sent = new ConcurrentHashMap<>(); // broker by message id
    final Queue<Throwable> errors = new ConcurrentLinkedQueue<>();
    final AtomicBoolean over = new AtomicBoolean();
    final AtomicInteger number = new AtomicInteger();
    DefaultMQProducer producer;
    String topic;

    Message next() {
        return new Message(topic, ("m" + number.incrementAndGet()).getBytes(StandardCharsets.UTF_8));
    }

    void note(SendResult r) {
        sent.put(r.getMsgId(), r.getMessageQueue().getBrokerName());
    }

    void sendAndWait() {
        while (!over.get()) {
            try {
                note(producer.send(next()));
            } catch (Exception e) {
                errors.add(e);
            }
        }
    }

    void sendWithCallbacks() {
        Semaphore under = new Semaphore(16);
        while (!over.get()) {
            under.acquireUninterruptibly();
            try {
                producer.send(next(), new SendCallback() {
                    @Override
                    public void onSuccess(SendResult r) {
                        note(r);
                        under.release();
                    }

                    @Override
                    public void onException(Throwable e) {
                        errors.add(e);
                        under.release();
                    }
                });
            } catch (Exception e) {
                errors.add(e);
                under.release();
            }
        }
        under.acquireUninterruptibly(16);
    }

    private static boolean within(BooleanCall f) {
        try {
            return f.get();
        } catch (MQClientException e) {
            return false;
        }
    }

    interface BooleanCall {
        boolean get() throws MQClientException;
    }

    long sentTo(String broker) {
        return sent.values().stream().filter(broker::equals).count();
    }

    @Test
    void nobodyNotices(@TempDir Path home) throws Exception {
        int port;
        try (ServerSocket s = new ServerSocket(0)) {
            port = s.getLocalPort();
        }
        BrokerProcess stays = new BrokerProcess(home, "stays", "--remoting", "127.0.0.1:0", "--nameserver", "127.0.0.1:0");
        stays.start();
        String names = stays.address("nameserver");
        BrokerProcess restarts = new BrokerProcess(home, "restarts", "--remoting", "127.0.0.1:" + port, "--nameserver", "off", "--name-servers", names);
        restarts.start();
        topic = "restart-" + RemotingTest.RUN;
        producer = new DefaultMQProducer("restart-producer");
        producer.setNamesrvAddr(names);
        producer.setInstanceName("restart-producer" + RemotingTest.RUN);
        producer.setPollNameServerInterval(1000);
        producer.setSendMsgTimeout(10_000); // of all tries together, also where the machine is slow
        producer.start();
        Set<String> got = ConcurrentHashMap.newKeySet();
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer("restart-group");
        try {
            // the template's route has both: the client makes the topic on both
            RemotingTest.eventually(30, "both are known", () -> within(() -> producer.fetchPublishMessageQueues("TBW102").size() == 16));
            RemotingTest.producer = producer;
            RemotingTest.topic("restart");
            RemotingTest.eventually(30, "the topic is on both", () -> within(() -> producer.fetchPublishMessageQueues(topic).size() == 8));
            consumer.setNamesrvAddr(names);
            consumer.setInstanceName("restart-consumer" + RemotingTest.RUN);
            consumer.setPollNameServerInterval(1000);
            consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
            consumer.subscribe(topic, "*");
            consumer.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> {
                ms.forEach(m -> got.add(m.getMsgId()));
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
            consumer.start();
            Thread[] senders = {new Thread(this::sendAndWait), new Thread(this::sendAndWait), new Thread(this::sendWithCallbacks)};
            for (Thread t : senders) {
                t.start();
            }
            for (int round = 0; round < 3; round++) {
                long before = sentTo("restarts");
                RemotingTest.eventually(60, "sends to both", () -> sentTo("restarts") > before + 100 && sentTo("stays") > 100);
                restarts.stop();
                long alone = sentTo("stays");
                RemotingTest.eventually(60, "sends to the one that is left", () -> sentTo("stays") > alone + 200);
                restarts.start();
            }
            long again = sentTo("restarts");
            RemotingTest.eventually(60, "sends to both again", () -> sentTo("restarts") > again + 100);
            over.set(true);
            for (Thread t : senders) {
                t.join(60_000);
                assertFalse(t.isAlive(), "a send is never answered");
            }
            assertEquals(0, errors.size(), () -> errors.size() + " of " + number + " sends failed, first: " + errors.peek());
            RemotingTest.eventually(90, "all consumed", () -> got.containsAll(sent.keySet()));
        } finally {
            over.set(true);
            consumer.shutdown();
            producer.shutdown();
            restarts.kill();
            stays.kill();
        }
    }
}
