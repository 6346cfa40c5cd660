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
        String topic = GrpcTest.topic("delay", "DELAY", 1);
        Map<String, Long> due = new HashMap<>();
        List<String> got = new ArrayList<>();
        try (Producer p = GrpcTest.producer(false, topic); SimpleConsumer c = GrpcTest.simple(GrpcTest.group("delay-group", false), topic, "*")) {
            long began = System.currentTimeMillis();
            for (int i = 4; i > 0; i--) { // the last one first; the reference knows whole seconds only
                String body = "delayed " + i;
                due.put(body, began + i * 2000);
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
        String topic = GrpcTest.topic("recall", "DELAY", 1);
        List<String> got = new ArrayList<>();
        try (Producer p = GrpcTest.producer(false, topic); SimpleConsumer c = GrpcTest.simple(GrpcTest.group("recall-group", false), topic, "*")) {
            long began = System.currentTimeMillis();
            SendReceipt recalled = p.send(message(topic, "recalled", began + 4000));
            p.send(message(topic, "delivered", began + 6000));
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
        }
    }

    @Test
    @KnownDifference(value = "what cannot be recalled is the client's to know and no failure of the server", reference = "but was: <50001>")
    void whatCannotBeRecalledIsRefused() throws Exception {
        String topic = GrpcTest.topic("refused", "DELAY", 1);
        try (Producer p = GrpcTest.producer(false, topic); SimpleConsumer c = GrpcTest.simple(GrpcTest.group("refused-group", false), topic, "*")) {
            SendReceipt delivered = p.send(message(topic, "delivered", System.currentTimeMillis() + 2000));
            GrpcTest.eventually(40, "delivered", () -> !GrpcTest.receive(c, Duration.ofSeconds(20)).isEmpty());
            assertEquals(40400, refusal(() -> p.recallMessage(topic, delivered.getRecallHandle())));
            assertEquals(40000, refusal(() -> p.recallMessage(topic, "bm90IGEgaGFuZGxl")));
        }
    }
}
