package cairn;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.net.ServerSocket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.BooleanSupplier;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.common.namesrv.NamesrvConfig;
import org.apache.rocketmq.namesrv.NamesrvController;
import org.apache.rocketmq.remoting.netty.NettyServerConfig;
import org.apache.rocketmq.remoting.protocol.admin.ConsumeStats;
import org.apache.rocketmq.remoting.protocol.admin.TopicStatsTable;
import org.apache.rocketmq.remoting.protocol.body.CMResult;
import org.apache.rocketmq.remoting.protocol.body.ClusterInfo;
import org.apache.rocketmq.remoting.protocol.body.ConsumeMessageDirectlyResult;
import org.apache.rocketmq.remoting.protocol.body.ConsumerConnection;
import org.apache.rocketmq.remoting.protocol.body.ConsumerRunningInfo;
import org.apache.rocketmq.remoting.protocol.body.KVTable;
import org.apache.rocketmq.remoting.protocol.body.QueryConsumeQueueResponseBody;
import org.apache.rocketmq.remoting.protocol.body.TopicConfigSerializeWrapper;
import org.apache.rocketmq.remoting.protocol.route.TopicRouteData;
import org.apache.rocketmq.remoting.protocol.subscription.SubscriptionGroupConfig;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** What mqadmin and the dashboard ask: they use this client. */
class AdminTest {
    static final String NAMESRV = System.getProperty("cairn.nameserver");
    static final String BROKER = System.getProperty("cairn.remoting");
    static final String RUN = Long.toString(System.currentTimeMillis(), 36);
    static DefaultMQAdminExt admin;
    static DefaultMQProducer producer;

    @BeforeAll
    static void start() throws Exception {
        admin = new DefaultMQAdminExt(10_000);
        admin.setNamesrvAddr(NAMESRV);
        admin.setInstanceName("admin" + RUN);
        admin.start();
        producer = new DefaultMQProducer("admin-producer");
        producer.setNamesrvAddr(NAMESRV);
        producer.setInstanceName("admin-producer" + RUN);
        producer.start();
    }

    @AfterAll
    static void stop() {
        producer.shutdown();
        admin.shutdown();
    }

    static void eventually(long seconds, String what, BooleanSupplier f) throws InterruptedException {
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(seconds);
        while (!f.getAsBoolean()) {
            assertTrue(System.nanoTime() < end, "not within " + seconds + " s: " + what);
            TimeUnit.MILLISECONDS.sleep(20);
        }
    }

    static String topic(String name, int queues) throws Exception {
        String topic = name + "-" + RUN;
        TopicConfig c = new TopicConfig(topic, queues, queues, 6);
        admin.createAndUpdateTopicConfig(BROKER, c);
        return topic;
    }

    @Test
    void clusterAndBroker() throws Exception {
        ClusterInfo info = admin.examineBrokerClusterInfo();
        assertEquals(Set.of("broker-a"), info.getBrokerAddrTable().keySet());
        assertEquals(BROKER, info.getBrokerAddrTable().get("broker-a").selectBrokerAddr());
        KVTable runtime = admin.fetchBrokerRuntimeStats(BROKER);
        for (String key : new String[] {"brokerVersionDesc", "putTps", "getTransferredTps", "msgPutTotalTodayNow", "bootTimestamp", "commitLogDiskRatio"}) {
            assertTrue(runtime.getTable().containsKey(key), key);
        }
    }

    @Test
    void topicsFromCreationToDeletion() throws Exception {
        String topic = topic("life", 3);
        TopicRouteData route = admin.examineTopicRouteInfo(topic);
        assertEquals(3, route.getQueueDatas().get(0).getReadQueueNums());
        TopicStatsTable stats = admin.examineTopicStats(topic);
        assertEquals(3, stats.getOffsetTable().size());
        for (int i = 0; i < 6; i++) {
            producer.send(new Message(topic, "x".getBytes(StandardCharsets.UTF_8)), new MessageQueue(topic, "broker-a", i % 3));
        }
        stats = admin.examineTopicStats(topic);
        stats.getOffsetTable().values().forEach(o -> assertEquals(2, o.getMaxOffset()));
        assertTrue(admin.fetchAllTopicList().getTopicList().contains(topic));
        assertEquals(3, admin.examineTopicConfig(BROKER, topic).getWriteQueueNums());
        admin.deleteTopicInBroker(Set.of(BROKER), topic);
        admin.deleteTopicInNameServer(Set.of(NAMESRV), topic);
        assertThrows(MQClientException.class, () -> admin.examineTopicRouteInfo(topic));
        topic("life", 3);
        admin.examineTopicStats(topic).getOffsetTable().values().forEach(o -> assertEquals(0, o.getMaxOffset()));
    }

    @Test
    void groupsOffsetsAndReset() throws Exception {
        String topic = topic("reset", 2);
        String group = "reset-group-" + RUN;
        SubscriptionGroupConfig config = new SubscriptionGroupConfig();
        config.setGroupName(group);
        config.setRetryMaxTimes(5);
        admin.createAndUpdateSubscriptionGroupConfig(BROKER, config);
        assertEquals(5, admin.examineSubscriptionGroupConfig(BROKER, group).getRetryMaxTimes());
        for (int i = 0; i < 10; i++) {
            producer.send(new Message(topic, "x".getBytes(StandardCharsets.UTF_8)), new MessageQueue(topic, "broker-a", i % 2));
        }
        Map<MessageQueue, Long> moved = admin.resetOffsetByTimestamp(topic, group, -1, true);
        assertEquals(2, moved.size());
        moved.values().forEach(o -> assertEquals(5L, o));
        ConsumeStats stats = admin.examineConsumeStats(group, topic);
        assertEquals(0, stats.computeTotalDiff());
        admin.resetOffsetByTimestamp(topic, group, 0, true);
        assertEquals(10, admin.examineConsumeStats(group, topic).computeTotalDiff());
        assertTrue(admin.queryTopicConsumeByWho(topic).getGroupList().contains(group));
        admin.deleteSubscriptionGroup(BROKER, group, true);
        assertFalse(admin.getAllSubscriptionGroup(BROKER, 10_000).getSubscriptionGroupTable().containsKey(group));
    }

    @Test
    void kvConfigAndWritePermission() throws Exception {
        admin.createAndUpdateKvConfig("cairn-test", "k-" + RUN, "v");
        assertEquals("v", admin.getKVConfig("cairn-test", "k-" + RUN));
        admin.deleteKvConfig("cairn-test", "k-" + RUN);
        assertThrows(MQClientException.class, () -> admin.getKVConfig("cairn-test", "k-" + RUN));
        String topic = topic("perm", 1);
        assertTrue(admin.wipeWritePermOfBroker(NAMESRV, "broker-a") > 0);
        assertEquals(4, admin.examineTopicRouteInfo(topic).getQueueDatas().get(0).getPerm());
        assertTrue(admin.addWritePermOfBroker(NAMESRV, "broker-a") > 0);
        assertEquals(6, admin.examineTopicRouteInfo(topic).getQueueDatas().get(0).getPerm());
    }

    /** What tools ask a consumer through the broker, and what the broker has counted of its work. */
    @Test
    void aConsumerThatIsOnline() throws Exception {
        String topic = topic("online", 1);
        String group = "online-group-" + RUN;
        AtomicInteger got = new AtomicInteger();
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group);
        consumer.setNamesrvAddr(NAMESRV);
        consumer.setInstanceName("online" + RUN);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "a || b");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            got.addAndGet(messages.size());
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        try {
            SendResult sent = producer.send(new Message(topic, "a", "x".getBytes(StandardCharsets.UTF_8)));
            eventually(40, "the message is consumed", () -> got.get() == 1);

            ConsumerConnection connection = admin.examineConsumerConnectionInfo(group);
            assertEquals(1, connection.getConnectionSet().size());
            assertEquals("a || b", connection.getSubscriptionTable().get(topic).getSubString());
            String clientId = connection.getConnectionSet().iterator().next().getClientId();
            ConsumerRunningInfo info = admin.getConsumerRunningInfo(group, clientId, true);
            assertTrue(info.getMqTable().keySet().stream().anyMatch(q -> q.getTopic().equals(topic)));
            assertFalse(info.getJstack().isEmpty());

            ConsumeMessageDirectlyResult direct = admin.consumeMessageDirectly(group, clientId, topic, sent.getOffsetMsgId());
            assertEquals(CMResult.CR_SUCCESS, direct.getConsumeResult());
            assertEquals(2, got.get());
            assertThrows(MQClientException.class, () -> admin.getConsumerRunningInfo(group, "nobody", false));

            Map<String, Map<MessageQueue, Long>> status = admin.getConsumeStatus(topic, group, clientId);
            assertEquals(Set.of(clientId), status.keySet());
            assertEquals(1, admin.viewBrokerStatsData(BROKER, "TOPIC_PUT_NUMS", topic).getStatsMinute().getSum());
            assertEquals(1, admin.viewBrokerStatsData(BROKER, "GROUP_GET_NUMS", topic + "@" + group).getStatsDay().getSum());
            assertThrows(MQClientException.class, () -> admin.viewBrokerStatsData(BROKER, "TOPIC_PUT_NUMS", "none"));
            assertEquals(1, admin.queryConsumeTimeSpan(topic, group).size());
            assertTrue(admin.getAllProducerInfo(BROKER).getData().containsKey("admin-producer"));
            assertEquals(1, admin.examineProducerConnectionInfo("admin-producer", topic).getConnectionSet().size());
            assertEquals("a || b", admin.querySubscription(group, topic).getSubString());
            QueryConsumeQueueResponseBody queue = admin.queryConsumeQueue(BROKER, topic, 0, 0, 10, group);
            assertEquals(1, queue.getMaxQueueIndex());
            assertTrue(queue.getQueueData().get(0).isEval());
        } finally {
            consumer.shutdown();
        }
        eventually(20, "the consumer's offset is written", () -> {
            try {
                return admin.examineConsumeStats(group, topic).computeTotalDiff() == 0;
            } catch (Exception e) {
                return false;
            }
        });
        assertTrue(admin.fetchConsumeStatsInBroker(BROKER, false, 10_000).getConsumeStatsList().stream().anyMatch(m -> m.containsKey(group)));
        admin.cloneGroupOffset(group, group + "-copy", topic, true);
        assertTrue(admin.queryTopicsByConsumer(group + "-copy").getTopicList().contains(topic));
    }

    @Test
    void listsAndConfiguration() throws Exception {
        admin.createAndUpdateTopicConfigList(BROKER, List.of(new TopicConfig("list1-" + RUN, 1, 1, 6), new TopicConfig("list2-" + RUN, 2, 2, 6)));
        TopicConfigSerializeWrapper topics = admin.getAllTopicConfig(BROKER, 10_000);
        assertEquals(2, topics.getTopicConfigTable().get("list2-" + RUN).getReadQueueNums());
        assertFalse(admin.getUserTopicConfig(BROKER, false, 10_000).getTopicConfigTable().containsKey("TBW102"));
        SubscriptionGroupConfig group = new SubscriptionGroupConfig();
        group.setGroupName("list-group-" + RUN);
        admin.createAndUpdateSubscriptionGroupConfigList(BROKER, List.of(group));
        assertTrue(admin.getUserSubscriptionGroup(BROKER, 10_000).getSubscriptionGroupTable().containsKey("list-group-" + RUN));
        Properties config = admin.getBrokerConfig(BROKER);
        assertEquals("broker-a", config.getProperty("brokerName"));
        assertEquals(BROKER, config.getProperty("brokerIP1") + ":" + config.getProperty("listenPort"));
        Properties change = new Properties();
        change.setProperty("slaveReadEnable", "true");
        assertThrows(MQBrokerException.class, () -> admin.updateBrokerConfig(BROKER, change));
        assertTrue(admin.cleanExpiredConsumerQueueByAddr(BROKER));
        assertTrue(admin.deleteExpiredCommitLogByAddr(BROKER));
    }

    /** Cairn was started with this address as an external name server and has been trying since. */
    @Test
    void anApacheNameServerRoutesToCairn() throws Exception {
        NettyServerConfig net = new NettyServerConfig();
        net.setListenPort(Integer.parseInt(System.getProperty("cairn.apache").split(":")[1]));
        NamesrvConfig conf = new NamesrvConfig();
        NamesrvController controller = new NamesrvController(conf, net);
        assertTrue(controller.initialize());
        controller.start();
        DefaultMQAdminExt other = new DefaultMQAdminExt(10_000);
        other.setNamesrvAddr(System.getProperty("cairn.apache"));
        other.setInstanceName("apache" + RUN);
        other.start();
        try {
            String topic = topic("apache", 2);
            eventually(40, "Cairn's topic routed by the Apache name server", () -> {
                try {
                    return other.examineTopicRouteInfo(topic).getBrokerDatas().get(0).selectBrokerAddr().equals(BROKER);
                } catch (Exception e) {
                    return false;
                }
            });
        } finally {
            other.shutdown();
            controller.shutdown();
        }
    }

    /** A Java broker registers with Cairn's name server, is routed to, takes and gives messages, and is forgotten when it stops. */
    @Test
    void anApacheBrokerRegistersWithCairn(@TempDir Path home) throws Exception {
        int port;
        try (ServerSocket s = new ServerSocket(0)) {
            port = s.getLocalPort();
        }
        Path conf = home.resolve("broker.conf");
        Files.writeString(conf, String.join("\n", "brokerClusterName=ApacheCluster", "brokerName=apache-" + RUN, "brokerId=0", "brokerIP1=127.0.0.1",
            "listenPort=" + port, "haListenPort=" + (port + 1), "namesrvAddr=" + NAMESRV, "storePathRootDir=" + home.resolve("store"),
            "storePathCommitLog=" + home.resolve("store/commitlog"), "mappedFileSizeCommitLog=16777216", "autoCreateTopicEnable=true", ""));
        Process broker = new ProcessBuilder(Path.of(System.getProperty("java.home"), "bin", "java").toString(), "-Xmx512m", "-Duser.home=" + home,
            "-Drocketmq.home.dir=" + home, "-cp", System.getProperty("java.class.path"), "org.apache.rocketmq.broker.BrokerStartup", "-c", conf.toString())
            .redirectErrorStream(true).redirectOutput(home.resolve("broker.out").toFile()).start();
        try {
            String address = "127.0.0.1:" + port;
            eventually(60, "the Java broker known by Cairn's name server", () -> {
                try {
                    return admin.examineBrokerClusterInfo().getBrokerAddrTable().get("apache-" + RUN).selectBrokerAddr().equals(address);
                } catch (Exception e) {
                    return false;
                }
            });
            String topic = "on-apache-" + RUN;
            admin.createAndUpdateTopicConfig(address, new TopicConfig(topic, 1, 1, 6));
            eventually(30, "its topic routed", () -> {
                try {
                    return admin.examineTopicRouteInfo(topic).getBrokerDatas().get(0).selectBrokerAddr().equals(address);
                } catch (Exception e) {
                    return false;
                }
            });
            eventually(30, "a message taken by the Java broker, which turns sends down while it is cold", () -> {
                try {
                    producer.send(new Message(topic, "through Cairn's name server".getBytes(StandardCharsets.UTF_8)));
                    return admin.examineTopicStats(topic).getOffsetTable().values().iterator().next().getMaxOffset() > 0;
                } catch (Exception e) {
                    return false;
                }
            });
        } finally {
            broker.destroyForcibly().waitFor();
        }
        eventually(30, "the stopped broker forgotten", () -> {
            try {
                return !admin.examineBrokerClusterInfo().getBrokerAddrTable().containsKey("apache-" + RUN);
            } catch (Exception e) {
                return false;
            }
        });
    }
}
