package cairn;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeSet;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.Message;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.SendReceipt;
import org.junit.jupiter.api.Test;

/** Messages with a delivery timestamp, and their recall. */
class DelayTest {
    /** Makes a topic for messages of a type: the client looks whether a topic takes what it is to send. It has one queue. */
    static String topic(String name, String type) throws Exception {
        String topic = name + "-" + GrpcTest.RUN;
        Process p = new ProcessBuilder(System.getProperty("cairn.bin"), "topic", "create", topic, "--queues", "1", "--attribute", "+message.type=" + type,
            "-n", System.getProperty("cairn.nameserver")).redirectErrorStream(true).redirectOutput(ProcessBuilder.Redirect.DISCARD).start();
        assertEquals(0, p.waitFor());
        return topic;
    }

    static Message message(String topic, String body, long deliverAt) {
        return GrpcTest.PROVIDER.newMessageBuilder().setTopic(topic).setTag("t").setKeys("key-" + body.replace(' ', '-')).setDeliveryTimestamp(deliverAt)
            .setBody(body.getBytes(StandardCharsets.UTF_8)).build();
    }

    private static final Pattern CODE = Pattern.compile("response-code=(\\d+)");

    /** The code of the protocol that a call is refused with; the client says it in words only. */
    static int refusal(ThrowingCall call) {
        Matcher m = CODE.matcher(assertThrows(ClientException.class, call::run).getMessage());
        assertTrue(m.find());
        return Integer.parseInt(m.group(1));
    }

    interface ThrowingCall {
        void run() throws Exception;
    }

    @Test
    void deliveryTimestamps() throws Exception {
        String topic = topic("delay", "DELAY");
        Map<String, Long> due = new HashMap<>();
        List<String> got = new ArrayList<>();
        try (Producer p = GrpcTest.producer(false, topic); SimpleConsumer c = GrpcTest.simple(topic + "-group", topic, "*")) {
            long began = System.currentTimeMillis();
            for (int i = 4; i > 0; i--) { // the last one first
                String body = "delayed " + i;
                due.put(body, began + 500 + i * 500);
                p.send(message(topic, body, due.get(body)));
            }
            due.put("past", began - 1000);
            p.send(message(topic, "past", began - 1000));
            boolean inTime = System.currentTimeMillis() < began + 1000;
            GrpcTest.eventually(40, "all delivered", () -> {
                for (MessageView m : GrpcTest.receive(c, Duration.ofSeconds(20))) {
                    String body = GrpcTest.text(m);
                    long early = due.get(body) - System.currentTimeMillis();
                    assertTrue(early <= 0, body + " came " + early + " ms early");
                    assertEquals(1, m.getDeliveryAttempt());
                    if (!body.equals("past")) {
                        assertEquals(Optional.of(due.get(body)), m.getDeliveryTimestamp());
                    }
                    GrpcTest.ack(c, m);
                    got.add(body);
                }
                return got.size() >= due.size();
            });
            assertEquals(due.size(), got.size());
            assertEquals(new TreeSet<>(due.keySet()), new TreeSet<>(got));
            if (inTime) { // all were sent before the first was due
                assertEquals(List.of("past", "delayed 1", "delayed 2", "delayed 3", "delayed 4"), got);
            }
            assertEquals(40012, refusal(() -> p.send(message(topic, "in two years", began + Duration.ofDays(730).toMillis()))));
        }
    }

    @Test
    void whatIsRecalledNeverComes() throws Exception {
        String topic = topic("recall", "DELAY");
        List<String> got = new ArrayList<>();
        try (Producer p = GrpcTest.producer(false, topic); SimpleConsumer c = GrpcTest.simple(topic + "-group", topic, "*")) {
            long began = System.currentTimeMillis();
            SendReceipt recalled = p.send(message(topic, "recalled", began + 2000));
            SendReceipt delivered = p.send(message(topic, "delivered", began + 2100));
            for (int i = 0; i < 2; i++) { // the second time it is gone already, which is what was wanted
                assertEquals(recalled.getMessageId(), p.recallMessage(topic, recalled.getRecallHandle()).getMessageId());
            }
            GrpcTest.eventually(40, "the other one delivered", () -> {
                for (MessageView m : GrpcTest.receive(c, Duration.ofSeconds(20))) {
                    GrpcTest.ack(c, m);
                    got.add(GrpcTest.text(m));
                }
                return !got.isEmpty();
            });
            assertEquals(List.of("delivered"), got);
            assertEquals(40400, refusal(() -> p.recallMessage(topic, delivered.getRecallHandle())));
            assertEquals(40000, refusal(() -> p.recallMessage(topic, "bm90IGEgaGFuZGxl")));
        }
    }
}
