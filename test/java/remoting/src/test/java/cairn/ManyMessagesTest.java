package cairn;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.ByteBuffer;
import java.util.List;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicIntegerArray;
import java.util.concurrent.atomic.AtomicLongArray;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.junit.jupiter.api.Test;

/** Messages are sent to 8 queues while one group consumes: each comes exactly once, with the id and body that it was sent with. */
class ManyMessagesTest {
    static final int COUNT = Integer.getInteger("cairn.messages", 20_000);

    static long hash(String id) {
        long h = 1125899906842597L;
        for (int i = 0; i < id.length(); i++) {
            h = 31 * h + id.charAt(i);
        }
        return h | 1; // never 0, which says that nothing was noted
    }

    @Test
    void eachComesOnceAsSent() throws Exception {
        String run = Long.toString(System.currentTimeMillis(), 36);
        String topic = "many-" + run;
        DefaultMQProducer producer = new DefaultMQProducer("many-producer-" + run);
        producer.setNamesrvAddr(RemotingTest.NAMESRV);
        producer.setInstanceName("many" + run);
        producer.setSendMsgTimeout(30_000);
        producer.setDefaultTopicQueueNums(8);
        producer.start();
        AtomicLongArray sent = new AtomicLongArray(COUNT);
        AtomicLongArray got = new AtomicLongArray(COUNT);
        AtomicIntegerArray times = new AtomicIntegerArray(COUNT);
        AtomicInteger arrived = new AtomicInteger();
        AtomicInteger failed = new AtomicInteger();
        Semaphore window = new Semaphore(512);
        long began = System.nanoTime();
        // the first send makes the topic, so that the consumer finds it at start
        sent.set(0, hash(producer.send(message(topic, 0)).getMsgId()));
        assertEquals(8, producer.fetchPublishMessageQueues(topic).size());
        DefaultMQPushConsumer consumer = RemotingTest.consumer("many-group-" + run, "many", topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> {
            for (MessageExt m : ms) {
                ByteBuffer body = ByteBuffer.wrap(m.getBody());
                int n = body.getInt();
                assertEquals(128, m.getBody().length);
                got.set(n, hash(m.getMsgId()));
                if (times.incrementAndGet(n) == 1) {
                    arrived.incrementAndGet();
                }
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        for (int i = 1; i < COUNT; i++) {
            int n = i;
            window.acquire();
            producer.send(message(topic, n), new SendCallback() {
                @Override
                public void onSuccess(SendResult r) {
                    sent.set(n, hash(r.getMsgId()));
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
        RemotingTest.eventually(60 + COUNT / 5_000, "all consumed", () -> arrived.get() == COUNT);
        double seconds = (System.nanoTime() - began) / 1e9;
        RemotingTest.caughtUp(topic, producer, List.of(consumer));
        for (int i = 0; i < COUNT; i++) {
            assertEquals(1, times.get(i), "deliveries of message " + i);
            assertEquals(sent.get(i), got.get(i), "id of message " + i);
        }
        System.out.printf("%d messages sent and consumed once in %.1f s: %.0f/s%n", COUNT, seconds, COUNT / seconds);
        assertTrue(seconds > 0);
        consumer.shutdown();
        producer.shutdown();
    }

    static Message message(String topic, int n) {
        return new Message(topic, ByteBuffer.allocate(128).putInt(n).array());
    }
}
