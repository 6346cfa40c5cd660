package cairn;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.util.List;
import java.util.Map;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** Delays of any length, and recall: since 5.0 and 5.3.2. The 4.9 client has no calls for them. */
class TimerTest {
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

    @Test
    void byDeliverTimeMillisecondsAndSeconds() throws Exception {
        String topic = RemotingTest.topic("timer", 1);
        DelayTest.Arrivals got = new DelayTest.Arrivals(topic);
        long began = System.currentTimeMillis();
        Message seconds = DelayTest.message(topic, "by seconds");
        seconds.setDelayTimeSec(6);
        assertNotNull(producer.send(seconds).getRecallHandle());
        Message at = DelayTest.message(topic, "at a time");
        at.setDeliverTimeMs(began + 4000);
        assertNotNull(producer.send(at).getRecallHandle());
        Message ms = DelayTest.message(topic, "by ms");
        ms.setDelayTimeMs(2000);
        assertNotNull(producer.send(ms).getRecallHandle());
        Message past = DelayTest.message(topic, "past");
        past.setDeliverTimeMs(began - 1000);
        assertNull(producer.send(past).getRecallHandle());
        long took = System.currentTimeMillis() - began;
        RemotingTest.eventually(40, "all consumed", () -> got.bodies.size() >= 4);
        got.check(Map.of("past", began, "by ms", began + 2000, "at a time", began + 4000, "by seconds", began + 6000), took);
        got.consumer.shutdown();
    }

    @Test
    void whatIsRecalledNeverComes() throws Exception {
        String topic = RemotingTest.topic("recall", 1);
        DelayTest.Arrivals got = new DelayTest.Arrivals(topic);
        Message gone = DelayTest.message(topic, "recalled");
        gone.setDelayTimeMs(4000);
        SendResult recalled = producer.send(gone);
        Message stays = DelayTest.message(topic, "delivered");
        stays.setDelayTimeMs(6000);
        SendResult delivered = producer.send(stays);
        for (int i = 0; i < 2; i++) {
            assertEquals(recalled.getMsgId(), producer.recallMessage(topic, recalled.getRecallHandle()));
        }
        RemotingTest.eventually(40, "the other one consumed", () -> !got.bodies.isEmpty());
        assertEquals(604, assertThrows(MQBrokerException.class, () -> producer.recallMessage(topic, delivered.getRecallHandle())).getResponseCode());
        assertThrows(Exception.class, () -> producer.recallMessage(topic, "bm90IGEgaGFuZGxl"));
        assertEquals(List.of("delivered"), got.bodies);
        got.consumer.shutdown();
    }

    @Test
    void aDelayOverTheLongestIsRefused() throws Exception {
        String topic = RemotingTest.topic("too-long");
        Message m = DelayTest.message(topic, "in two years");
        m.setDeliverTimeMs(System.currentTimeMillis() + 2L * 365 * 24 * 3600 * 1000);
        assertEquals(13, assertThrows(MQBrokerException.class, () -> producer.send(m)).getResponseCode());
    }
}
