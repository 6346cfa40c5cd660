package cairn;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.exception.RequestTimeoutException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.RequestCallback;
import org.apache.rocketmq.client.utils.MessageUtil;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageAccessor;
import org.apache.rocketmq.common.message.MessageConst;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** Requests that wait for a reply: the broker passes it to the client that asked. */
class RequestReplyTest {
    static final String REPLY_TOPIC = "DefaultCluster_REPLY_TOPIC";
    static String topic;
    static DefaultMQProducer asks; // a client of its own: replies go to a client id
    static DefaultMQProducer replies;
    static DefaultMQPushConsumer consumer;

    @BeforeAll
    static void start() throws Exception {
        RemotingTest.start();
        topic = RemotingTest.topic("request");
        asks = producer("asks");
        replies = producer("replies");
        consumer = RemotingTest.consumer("request-group-" + RemotingTest.RUN, "request", topic, "answered");
        consumer.registerMessageListener((MessageListenerConcurrently) (ms, ctx) -> {
            for (MessageExt m : ms) {
                try {
                    replies.send(MessageUtil.createReplyMessage(m, answer(new String(m.getBody(), StandardCharsets.UTF_8))), 3000);
                } catch (Exception e) {
                    return ConsumeConcurrentlyStatus.RECONSUME_LATER;
                }
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        RemotingTest.share(topic, 4, List.of(consumer));
    }

    @AfterAll
    static void stop() {
        consumer.shutdown();
        replies.shutdown();
        asks.shutdown();
        RemotingTest.stop();
    }

    static DefaultMQProducer producer(String name) throws Exception {
        DefaultMQProducer p = new DefaultMQProducer(name + "-" + RemotingTest.RUN);
        p.setNamesrvAddr(RemotingTest.NAMESRV);
        p.setInstanceName(name + "-" + RemotingTest.RUN);
        p.start();
        return p;
    }

    static byte[] answer(String question) {
        return ("answer to " + question).getBytes(StandardCharsets.UTF_8);
    }

    static void check(Message reply, String question) {
        assertEquals("answer to " + question, new String(reply.getBody(), StandardCharsets.UTF_8));
        assertEquals(REPLY_TOPIC, reply.getTopic());
        long pushed = Long.parseLong(reply.getProperty(MessageConst.PROPERTY_PUSH_REPLY_TIME));
        long arrived = Long.parseLong(reply.getProperty(MessageConst.PROPERTY_REPLY_MESSAGE_ARRIVE_TIME));
        assertTrue(pushed <= arrived && arrived - pushed < 10_000, pushed + " and " + arrived);
    }

    @Test
    void aRequestIsAnswered() throws Exception {
        for (int i = 0; i < 50; i++) {
            check(asks.request(RemotingTest.message(topic, "answered", "", "sync " + i), 10_000), "sync " + i);
        }
        String large = "x".repeat(20_000); // compressed on both ways
        check(asks.request(RemotingTest.message(topic, "answered", "", large), 10_000), large);
        MessageQueue queue = asks.fetchPublishMessageQueues(topic).get(1);
        check(asks.request(RemotingTest.message(topic, "answered", "", "to a queue"), queue, 10_000), "to a queue");
        check(asks.request(RemotingTest.message(topic, "answered", "", "selected"), (queues, m, arg) -> queues.get((int) arg), 2, 10_000), "selected");
    }

    static RequestCallback into(CompletableFuture<Message> future) {
        return new RequestCallback() {
            @Override
            public void onSuccess(Message reply) {
                if (reply != null) { // the client says with null that the request is sent
                    future.complete(reply);
                }
            }

            @Override
            public void onException(Throwable e) {
                future.completeExceptionally(e);
            }
        };
    }

    @Test
    void aRequestIsAnsweredLater() throws Exception {
        @SuppressWarnings("unchecked")
        CompletableFuture<Message>[] got = new CompletableFuture[50];
        for (int i = 0; i < got.length; i++) {
            got[i] = new CompletableFuture<>();
            asks.request(RemotingTest.message(topic, "answered", "", "async " + i), into(got[i]), 10_000);
        }
        for (int i = 0; i < got.length; i++) {
            check(got[i].get(20, TimeUnit.SECONDS), "async " + i);
        }
    }

    @Test
    void aRequestThatNobodyAnswersEnds() throws Exception {
        assertThrows(RequestTimeoutException.class, () -> asks.request(RemotingTest.message(topic, "ignored", "", "who?"), 1000));
    }

    /** A reply as a consumer makes it, to a client with this id. */
    static Message replyTo(String client) throws Exception {
        MessageExt asked = new MessageExt();
        asked.setTopic(topic);
        MessageAccessor.putProperty(asked, MessageConst.PROPERTY_CLUSTER, "DefaultCluster");
        MessageAccessor.putProperty(asked, MessageConst.PROPERTY_CORRELATION_ID, "none");
        if (client != null) {
            MessageAccessor.putProperty(asked, MessageConst.PROPERTY_MESSAGE_REPLY_TO_CLIENT, client);
        }
        return MessageUtil.createReplyMessage(asked, answer("nobody"));
    }

    @Test
    void aReplyToNobodyIsRefused() throws Exception {
        MessageQueue queue = replies.fetchPublishMessageQueues(REPLY_TOPIC).get(0);
        DefaultMQProducer gone = producer("gone");
        // sent once, so that the broker has heard of it
        assertThrows(RequestTimeoutException.class, () -> gone.request(RemotingTest.message(topic, "ignored", "", "bye"), 500));
        String id = gone.buildMQClientId();
        replies.send(replyTo(id), queue); // it waits for no such reply and takes it all the same
        gone.shutdown();
        for (String client : new String[] {"nobody", id}) {
            MQBrokerException e = assertThrows(MQBrokerException.class, () -> replies.send(replyTo(client), queue));
            assertEquals(1, e.getResponseCode());
            assertEquals("push reply message fail, channel of <" + client + "> not found.", e.getErrorMessage());
        }
        Message nameless = replyTo(null);
        assertNull(nameless.getProperty(MessageConst.PROPERTY_MESSAGE_REPLY_TO_CLIENT));
        MQBrokerException e = assertThrows(MQBrokerException.class, () -> replies.send(nameless, queue));
        assertEquals("reply message properties[REPLY_TO_CLIENT] is null", e.getErrorMessage());
    }
}
