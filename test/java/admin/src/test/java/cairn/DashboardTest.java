package cairn;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.regex.Pattern;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.remoting.protocol.admin.ConsumeStats;
import org.apache.rocketmq.remoting.protocol.admin.TopicOffset;
import org.apache.rocketmq.remoting.protocol.body.BrokerStatsData;
import org.apache.rocketmq.remoting.protocol.body.CMResult;
import org.apache.rocketmq.remoting.protocol.body.ClusterInfo;
import org.apache.rocketmq.remoting.protocol.body.ConsumerConnection;
import org.apache.rocketmq.remoting.protocol.body.ConsumerRunningInfo;
import org.apache.rocketmq.remoting.protocol.body.GroupList;
import org.apache.rocketmq.remoting.protocol.body.ProducerTableInfo;
import org.apache.rocketmq.remoting.protocol.subscription.SubscriptionGroupConfig;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;
import org.apache.rocketmq.tools.admin.api.MessageTrack;
import org.apache.rocketmq.tools.admin.api.TrackType;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/**
 * The calls of each page of the RocketMQ Dashboard (2.x) and of each task of rocketmq-exporter (0.0.3), in their order, against a
 * topic with ten messages of which a consumer that is online has taken all.
 */
class DashboardTest {
    static final String NAMESRV = System.getProperty("cairn.nameserver");
    static final String BROKER = System.getProperty("cairn.remoting");
    static final String RUN = Long.toString(System.currentTimeMillis(), 36);
    static final String TOPIC = "dash-" + RUN, GROUP = "dash-group-" + RUN, PRODUCERS = "dash-producer-" + RUN;
    static final int MESSAGES = 10;
    static DefaultMQAdminExt admin;
    static DefaultMQProducer producer;
    static DefaultMQPushConsumer consumer;
    static final List<SendResult> sent = new ArrayList<>();
    static final AtomicInteger taken = new AtomicInteger();

    @BeforeAll
    static void start() throws Exception {
        admin = new DefaultMQAdminExt(10_000);
        admin.setNamesrvAddr(NAMESRV);
        admin.setInstanceName("dash" + RUN);
        admin.start();
        admin.createAndUpdateTopicConfig(BROKER, new TopicConfig(TOPIC, 4, 4, 6));
        producer = new DefaultMQProducer(PRODUCERS);
        producer.setNamesrvAddr(NAMESRV);
        producer.setInstanceName("dash-producer" + RUN);
        producer.start();
        consumer = new DefaultMQPushConsumer(GROUP);
        consumer.setNamesrvAddr(NAMESRV);
        consumer.setInstanceName("dash-consumer" + RUN);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setPersistConsumerOffsetInterval(200);
        consumer.subscribe(TOPIC, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (list, context) -> {
            taken.addAndGet(list.size());
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        for (int i = 0; i < MESSAGES; i++) {
            Message m = new Message(TOPIC, "tag", "key-" + i + "-" + RUN, ("body " + i).getBytes(StandardCharsets.UTF_8));
            sent.add(producer.send(m, new MessageQueue(TOPIC, "broker-a", i % 4)));
        }
        AdminTest.eventually(30, "the messages to be taken", () -> taken.get() >= MESSAGES);
        AdminTest.eventually(30, "the offsets to be committed", () -> {
            try {
                return admin.examineConsumeStats(GROUP, TOPIC).computeTotalDiff() == 0;
            } catch (Exception e) {
                return false;
            }
        });
    }

    @AfterAll
    static void stop() {
        consumer.shutdown();
        producer.shutdown();
        admin.shutdown();
    }

    static String master() throws Exception {
        ClusterInfo info = admin.examineBrokerClusterInfo();
        assertEquals(Set.of("broker-a"), info.getClusterAddrTable().get("DefaultCluster"));
        return info.getBrokerAddrTable().get("broker-a").getBrokerAddrs().get(0L);
    }

    @Test
    void clusterPage() throws Exception {
        Map<String, String> t = admin.fetchBrokerRuntimeStats(master()).getTable();
        for (String key : List.of("brokerVersionDesc", "bootTimestamp", "putTps", "getTransferredTps", "msgPutTotalTodayMorning", "msgPutTotalTodayNow",
            "msgPutTotalYesterdayMorning", "msgGetTotalTodayMorning", "msgGetTotalTodayNow", "msgGetTotalYesterdayMorning")) {
            assertNotNull(t.get(key), key);
        }
        assertEquals(3, t.get("putTps").trim().split(" ").length);
        long puts = Long.parseLong(t.get("msgPutTotalTodayNow")) - Long.parseLong(t.get("msgPutTotalTodayMorning"));
        assertTrue(puts >= MESSAGES, "sent today: " + puts);
        assertEquals("broker-a", admin.getBrokerConfig(master()).getProperty("brokerName"));
    }

    @Test
    void topicPage() throws Exception {
        assertTrue(admin.fetchAllTopicList().getTopicList().contains(TOPIC));
        assertEquals(4, admin.getAllTopicConfig(master(), 10_000).getTopicConfigTable().get(TOPIC).getWriteQueueNums());
        assertEquals(4, admin.examineTopicConfig(master(), TOPIC).getReadQueueNums());
        assertEquals(4, admin.examineTopicRouteInfo(TOPIC).getQueueDatas().get(0).getReadQueueNums());
        Map<MessageQueue, TopicOffset> offsets = admin.examineTopicStats(TOPIC).getOffsetTable();
        assertEquals(MESSAGES, offsets.values().stream().mapToLong(o -> o.getMaxOffset() - o.getMinOffset()).sum());
        assertTrue(offsets.values().stream().allMatch(o -> o.getLastUpdateTimestamp() > 0));
        assertEquals(Set.of(GROUP), admin.queryTopicConsumeByWho(TOPIC).getGroupList());
        assertEquals(0, admin.examineConsumeStats(GROUP, TOPIC).computeTotalDiff());

        String other = "dash-other-" + RUN;
        admin.createAndUpdateTopicConfig(master(), new TopicConfig(other, 1, 1, 6));
        assertEquals(0, producer.send(new Message(other, "x".getBytes(StandardCharsets.UTF_8))).getQueueOffset());
        admin.deleteTopicInBroker(Set.of(master()), other);
        admin.deleteTopicInNameServer(Set.of(NAMESRV), other);
        assertFalse(admin.fetchAllTopicList().getTopicList().contains(other));
    }

    @Test
    void consumerPage() throws Exception {
        SubscriptionGroupConfig all = admin.getAllSubscriptionGroup(master(), 10_000).getSubscriptionGroupTable().get(GROUP);
        assertEquals(16, all.getRetryMaxTimes());
        ConsumeStats stats = admin.examineConsumeStats(GROUP);
        assertEquals(MESSAGES, stats.getOffsetTable().entrySet().stream().filter(e -> e.getKey().getTopic().equals(TOPIC))
            .mapToLong(e -> e.getValue().getConsumerOffset()).sum());
        assertTrue(stats.getOffsetTable().entrySet().stream().filter(e -> e.getKey().getTopic().equals(TOPIC)).allMatch(e -> e.getValue().getLastTimestamp() > 0));
        assertEquals(stats.getOffsetTable().keySet(), admin.examineConsumeStats(master(), GROUP, null, 3000).getOffsetTable().keySet());
        ConsumerConnection c = admin.examineConsumerConnectionInfo(GROUP);
        assertEquals(1, c.getConnectionSet().size());
        assertTrue(c.getSubscriptionTable().containsKey(TOPIC));
        assertEquals(1, admin.examineConsumerConnectionInfo(GROUP, master()).getConnectionSet().size());
        ConsumerRunningInfo info = admin.getConsumerRunningInfo(GROUP, c.getConnectionSet().iterator().next().getClientId(), true);
        assertEquals(4, info.getMqTable().keySet().stream().filter(q -> q.getTopic().equals(TOPIC)).count());
        assertNotNull(info.getJstack());

        SubscriptionGroupConfig changed = admin.examineSubscriptionGroupConfig(master(), GROUP);
        changed.setRetryMaxTimes(7);
        admin.createAndUpdateSubscriptionGroupConfig(master(), changed);
        assertEquals(7, admin.examineSubscriptionGroupConfig(master(), GROUP).getRetryMaxTimes());
        changed.setRetryMaxTimes(16);
        admin.createAndUpdateSubscriptionGroupConfig(master(), changed);

        String gone = "dash-gone-" + RUN;
        SubscriptionGroupConfig g = new SubscriptionGroupConfig();
        g.setGroupName(gone);
        admin.createAndUpdateSubscriptionGroupConfig(master(), g);
        // What resets offsets of a group that nobody is in: the page falls back to the old way when the new one says CONSUMER_NOT_ONLINE.
        Map<MessageQueue, Long> moved = admin.resetOffsetByTimestamp(TOPIC, gone, 0, true);
        assertEquals(4, moved.size());
        assertEquals(4, admin.resetOffsetByTimestampOld(gone, TOPIC, 0, true).size());
        assertEquals(MESSAGES, admin.examineConsumeStats(gone, TOPIC).computeTotalDiff());
        admin.deleteSubscriptionGroup(master(), gone, true);
        assertFalse(admin.getAllSubscriptionGroup(master(), 10_000).getSubscriptionGroupTable().containsKey(gone));
    }

    @Test
    void producerPage() throws Exception {
        assertEquals(1, admin.examineProducerConnectionInfo(PRODUCERS, TOPIC).getConnectionSet().size());
    }

    @Test
    void messagePage() throws Exception {
        SendResult first = sent.get(0);
        assertEquals("body 0", new String(admin.viewMessage(TOPIC, first.getMsgId()).getBody(), StandardCharsets.UTF_8));
        assertEquals("body 0", new String(admin.viewMessage(TOPIC, first.getOffsetMsgId()).getBody(), StandardCharsets.UTF_8));
        List<MessageExt> found = admin.queryMessage(TOPIC, "key-3-" + RUN, 64, 0, System.currentTimeMillis()).getMessageList();
        assertEquals(1, found.size());
        assertEquals("body 3", new String(found.get(0).getBody(), StandardCharsets.UTF_8));
        List<MessageTrack> track = admin.messageTrackDetail(found.get(0));
        assertEquals(1, track.size());
        assertEquals(GROUP, track.get(0).getConsumerGroup());
        assertEquals(TrackType.CONSUMED, track.get(0).getTrackType());
        assertEquals(CMResult.CR_SUCCESS, admin.consumeMessageDirectly(GROUP, consumer.buildMQClientId(), TOPIC, first.getMsgId()).getConsumeResult());

        // A page of a topic within a time is pulled, from where the times say.
        DefaultMQPullConsumer pull = new DefaultMQPullConsumer("TOOLS_CONSUMER");
        pull.setNamesrvAddr(NAMESRV);
        pull.setInstanceName("dash-pull" + RUN);
        pull.start();
        try {
            int n = 0;
            for (MessageQueue q : pull.fetchSubscribeMessageQueues(TOPIC)) {
                long min = pull.searchOffset(q, 0), max = pull.searchOffset(q, System.currentTimeMillis() + 60_000);
                assertEquals(pull.minOffset(q), min);
                assertEquals(pull.maxOffset(q), max);
                PullResult r = pull.pull(q, "*", min, 32);
                n += r.getMsgFoundList().size();
            }
            assertEquals(MESSAGES, n);
        } finally {
            pull.shutdown();
        }
    }

    @Test
    void deadLetterPage() {
        MQClientException none = assertThrows(MQClientException.class, () -> admin.examineTopicRouteInfo("%DLQ%" + GROUP));
        assertEquals(17, none.getResponseCode()); // the page says then that there is nothing
    }

    /** Users and rights come with a later release: the page says so. */
    @Test
    void aclPage() {
        for (MQBrokerException e : List.of(
            assertThrows(MQBrokerException.class, () -> admin.listUser(BROKER, "")), assertThrows(MQBrokerException.class, () -> admin.listAcl(BROKER, "", "")))) {
            assertEquals(3, e.getResponseCode());
            assertTrue(e.getErrorMessage().contains("later release"), e.getErrorMessage());
        }
    }

    /** Once a minute the dashboard notes these for its charts. */
    @Test
    void chartsCollector() throws Exception {
        BrokerStatsData[] put = new BrokerStatsData[1];
        BrokerStatsData[] got = new BrokerStatsData[1];
        AdminTest.eventually(90, "a minute of rates", () -> {
            try {
                put[0] = admin.viewBrokerStatsData(master(), "TOPIC_PUT_NUMS", TOPIC);
                got[0] = admin.viewBrokerStatsData(master(), "GROUP_GET_NUMS", TOPIC + "@" + GROUP);
                return put[0].getStatsMinute().getSum() >= MESSAGES && got[0].getStatsMinute().getSum() >= MESSAGES;
            } catch (Exception e) {
                return false;
            }
        });
        for (BrokerStatsData d : List.of(put[0], got[0])) {
            assertNotNull(d.getStatsHour());
            assertNotNull(d.getStatsDay());
            assertTrue(d.getStatsMinute().getTps() > 0);
        }
    }

    /** The six tasks of the exporter. */
    @Test
    void exporterTasks() throws Exception {
        ProducerTableInfo producers = admin.getAllProducerInfo(master());
        assertEquals(1, producers.getData().get(PRODUCERS).size());
        int topics = 0;
        for (String topic : admin.fetchAllTopicList().getTopicList()) {
            admin.examineTopicStats(topic);
            GroupList groups = admin.queryTopicConsumeByWho(topic);
            for (String group : groups.getGroupList()) {
                admin.examineConsumeStats(group, topic);
            }
            topics++;
        }
        assertTrue(topics > 1);
        for (String stat : List.of("TOPIC_PUT_NUMS", "TOPIC_PUT_SIZE")) {
            AdminTest.eventually(90, stat, () -> answered(stat, TOPIC));
        }
        for (String stat : List.of("GROUP_GET_NUMS", "GROUP_GET_SIZE")) {
            AdminTest.eventually(90, stat, () -> answered(stat, TOPIC + "@" + GROUP));
        }
        for (String stat : List.of("BROKER_PUT_NUMS", "BROKER_GET_NUMS")) {
            AdminTest.eventually(90, stat, () -> answered(stat, "DefaultCluster"));
        }
        // One of these that is missing or reads otherwise makes the exporter leave out the whole broker.
        Map<String, String> t = admin.fetchBrokerRuntimeStats(master()).getTable();
        for (String key : List.of("msgPutTotalTodayNow", "msgGetTotalTodayNow", "msgPutTotalTodayMorning", "msgGetTotalTodayMorning",
            "msgPutTotalYesterdayMorning", "msgGetTotalYesterdayMorning", "sendThreadPoolQueueSize", "sendThreadPoolQueueCapacity", "pullThreadPoolQueueSize",
            "pullThreadPoolQueueCapacity", "queryThreadPoolQueueSize", "queryThreadPoolQueueCapacity", "sendThreadPoolQueueHeadWaitTimeMills",
            "pullThreadPoolQueueHeadWaitTimeMills", "queryThreadPoolQueueHeadWaitTimeMills", "remainTransientStoreBufferNumbs",
            "commitLogMinOffset", "commitLogMaxOffset", "dispatchMaxBuffer", "dispatchBehindBytes", "putMessageTimesTotal", "putMessageEntireTimeMax",
            "getMessageEntireTimeMax", "putMessageSizeTotal", "startAcceptSendRequestTimeStamp", "bootTimestamp", "earliestMessageTimeStamp", "pageCacheLockTimeMills")) {
            assertNotNull(t.get(key), key);
            Long.parseLong(t.get(key));
        }
        for (String key : List.of("putMessageAverageSize", "consumeQueueDiskRatio", "commitLogDiskRatio")) {
            Double.parseDouble(t.get(key));
        }
        Double.parseDouble(t.get("remainHowManyDataToFlush").split(" ")[0]); // its unit comes behind
        Integer.parseInt(t.get("brokerVersion"));
        for (String key : List.of("putTps", "getTotalTps", "getMissTps", "getFoundTps")) {
            for (String rate : t.get(key).trim().split(" ")) {
                Double.parseDouble(rate);
            }
        }
        assertTrue(Pattern.compile("Total : [0-9.]+ [KMGT]iB, Free : [0-9.]+ [KMGT]iB\\.").matcher(t.get("commitLogDirCapacity")).matches(), t.get("commitLogDirCapacity"));
        assertTrue(t.get("putMessageDistributeTime").contains("[<=0ms]:"), t.get("putMessageDistributeTime"));
        assertTrue(t.get("runtime").matches("\\[ [0-9]+ days, [0-9]+ hours, [0-9]+ minutes, [0-9]+ seconds ]"), t.get("runtime"));
    }

    private static boolean answered(String stat, String key) {
        try {
            return admin.viewBrokerStatsData(BROKER, stat, key).getStatsMinute().getSum() > 0;
        } catch (Exception e) {
            return false;
        }
    }
}
