// Rerun: mvn -q -f message/testdata/golden/pom.xml -Dout="$(mktemp -d)" compile exec:java

import com.alibaba.fastjson2.JSON;
import com.alibaba.fastjson2.JSONWriter;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TimeZone;
import java.util.TreeMap;
import java.util.TreeSet;
import org.apache.rocketmq.client.java.message.MessageIdCodec;
import org.apache.rocketmq.client.java.misc.Utilities;
import org.apache.rocketmq.common.TopicFilterType;
import org.apache.rocketmq.common.UtilAll;
import org.apache.rocketmq.common.compression.CompressionType;
import org.apache.rocketmq.common.compression.CompressorFactory;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageAccessor;
import org.apache.rocketmq.common.message.MessageClientIDSetter;
import org.apache.rocketmq.common.message.MessageConst;
import org.apache.rocketmq.common.message.MessageDecoder;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageExtBrokerInner;
import org.apache.rocketmq.common.message.MessageVersion;
import org.apache.rocketmq.common.sysflag.MessageSysFlag;
import org.apache.rocketmq.store.MessageExtEncoder;
import org.apache.rocketmq.store.config.MessageStoreConfig;

/** Writes what the official Java code makes of known messages: one .bin per record, batch and body, and manifest.json. */
public class Golden {
    private final Path dir;
    private final Map<String, Object> manifest = new LinkedHashMap<>();

    private Golden(Path dir) {
        this.dir = dir;
    }

    public static void main(String[] args) throws Exception {
        TimeZone.setDefault(TimeZone.getTimeZone("UTC"));
        Golden golden = new Golden(Path.of(args[0]));
        golden.records();
        golden.batches();
        golden.offsetIds();
        golden.uniqueIds();
        golden.properties();
        golden.bodies();
        golden.tags();
        golden.manifest.put("reserved", new TreeSet<>(MessageConst.STRING_HASH_SET));
        String json = JSON.toJSONString(golden.manifest, JSONWriter.Feature.PrettyFormat);
        Files.writeString(golden.dir.resolve("manifest.json"), json + "\n");
    }

    private static String base64(byte[] bytes) {
        return Base64.getEncoder().encodeToString(bytes);
    }

    private void write(String file, byte[] bytes) throws Exception {
        Files.write(dir.resolve(file), bytes);
    }

    private static InetSocketAddress host(String ip, int port) throws Exception {
        return new InetSocketAddress(InetAddress.getByName(ip), port);
    }

    private static String hostString(InetSocketAddress host) {
        String ip = host.getAddress().getHostAddress();
        return (ip.contains(":") ? "[" + ip + "]" : ip) + ":" + host.getPort();
    }

    /** About 5 KB, which clients compress, and which does not shrink to nothing. */
    private static byte[] plainBody() {
        StringBuilder text = new StringBuilder();
        for (int i = 0; i < 120; i++) {
            text.append("order ").append(i * 7919 % 1009).append(" of customer ").append(i % 17).append(", für 石 🪨\n");
        }
        return text.toString().getBytes(StandardCharsets.UTF_8);
    }

    private static MessageExtBrokerInner message(String topic, byte[] body) throws Exception {
        MessageExtBrokerInner m = new MessageExtBrokerInner();
        m.setTopic(topic);
        m.setBody(body);
        m.setBodyCRC(UtilAll.crc32(body));
        m.setQueueId(3);
        m.setFlag(-7);
        m.setQueueOffset(0x0102030405060708L);
        m.setCommitLogOffset(0x1112131415161718L);
        m.setBornTimestamp(1700000000123L);
        m.setBornHost(host("10.1.2.3", 54321));
        m.setStoreTimestamp(1700000000456L);
        m.setStoreHost(host("192.168.200.250", 10911));
        m.setReconsumeTimes(2);
        m.setPreparedTransactionOffset(0x2122232425262728L);
        return m;
    }

    private static Map<String, String> someProperties() {
        Map<String, String> p = new TreeMap<>();
        p.put("TAGS", "TagA");
        p.put("KEYS", "k1 k2");
        p.put("WAIT", "true");
        p.put("UNIQ_KEY", "0A01020300011B2C3D4E5F6071820001");
        p.put("größe", "石=🪨");
        return p;
    }

    private void records() throws Exception {
        List<Object> out = new ArrayList<>();

        record(out, "v1-bare", message("T", new byte[0]), new TreeMap<>(), false);
        record(out, "v1-plain", message("TopicTest", "hello, broker".getBytes(StandardCharsets.UTF_8)), someProperties(), false);
        record(out, "v1-plain-store", message("TopicTest", "hello, broker".getBytes(StandardCharsets.UTF_8)), someProperties(), true);

        MessageExtBrokerInner prepared = message("HalfTopic", new byte[] {0, 1, 2, (byte) 0xFF});
        prepared.setSysFlag(MessageSysFlag.TRANSACTION_PREPARED_TYPE | MessageSysFlag.MULTI_TAGS_FLAG);
        record(out, "v1-prepared", prepared, someProperties(), false);

        record(out, "v1-topic-127", message("t".repeat(127), new byte[] {1}), someProperties(), true);
        record(out, "v2-topic-128", message("t".repeat(128), new byte[] {1}), someProperties(), true);
        record(out, "v2-topic-300", message("%LMQ%" + "n".repeat(295), plainBody()), someProperties(), true);

        MessageExtBrokerInner bornV6 = message("V6", new byte[] {1, 2, 3});
        bornV6.setBornHost(host("2001:db8::1:2", 40000));
        bornV6.setBornHostV6Flag();
        record(out, "v1-born-v6", bornV6, someProperties(), false);

        MessageExtBrokerInner storeV6 = message("V6", new byte[] {1, 2, 3});
        storeV6.setStoreHost(host("fe80::1", 65535));
        storeV6.setStoreHostAddressV6Flag();
        record(out, "v1-store-v6", storeV6, someProperties(), false);

        MessageExtBrokerInner bothV6 = message("b".repeat(200), new byte[] {1, 2, 3});
        bothV6.setBornHost(host("2001:db8::1:2", 40000));
        bothV6.setBornHostV6Flag();
        bothV6.setStoreHost(host("::1", 10911));
        bothV6.setStoreHostAddressV6Flag();
        record(out, "v2-both-v6", bothV6, someProperties(), true);

        for (CompressionType type : CompressionType.values()) {
            byte[] body = CompressorFactory.getCompressor(type).compress(plainBody(), 5);
            MessageExtBrokerInner m = message("Compressed", body);
            m.setSysFlag(MessageSysFlag.COMPRESSED_FLAG | type.getCompressionFlag());
            record(out, "v1-" + type.name().toLowerCase(), m, someProperties(), false);
        }
        manifest.put("records", out);
    }

    /** Encodes by the client's encoder, or by the broker's, which leaves the two offsets 0. */
    private void record(List<Object> out, String name, MessageExtBrokerInner m, Map<String, String> properties, boolean byBroker)
        throws Exception {
        for (Map.Entry<String, String> p : properties.entrySet()) {
            MessageAccessor.putProperty(m, p.getKey(), p.getValue());
        }
        byte[] bytes;
        if (byBroker) {
            boolean longTopic = m.getTopic().getBytes(StandardCharsets.UTF_8).length > Byte.MAX_VALUE;
            m.setVersion(longTopic ? MessageVersion.MESSAGE_VERSION_V2 : MessageVersion.MESSAGE_VERSION_V1);
            m.setPropertiesString(MessageDecoder.messageProperties2String(properties));
            m.setCommitLogOffset(0);
            MessageExtEncoder encoder = new MessageExtEncoder(new MessageStoreConfig());
            if (encoder.encode(m) != null) {
                throw new IllegalStateException(name + ": refused by the broker's encoder");
            }
            ByteBuffer buffer = encoder.getEncoderBuffer();
            bytes = new byte[buffer.getInt(0)];
            buffer.get(0, bytes);
            m.setQueueOffset(ByteBuffer.wrap(bytes).getLong(MessageDecoder.QUEUE_OFFSET_POSITION));
        } else {
            // The client writes its map in hash order; a sorted map is what the other side can repeat.
            MessageExt sorted = new SortedMessage(m, new TreeMap<>(properties));
            bytes = MessageDecoder.encode(sorted, false);
        }
        MessageExt back = MessageDecoder.decode(ByteBuffer.wrap(bytes), true, false, false, false, true);
        if (back == null || !back.getTopic().equals(m.getTopic()) || !Arrays.equals(bodyOf(back), m.getBody())
            || !propertiesOf(back).equals(properties)) {
            throw new IllegalStateException(name + ": the client cannot read it");
        }
        write(name + ".bin", bytes);
        Map<String, Object> row = new LinkedHashMap<>();
        row.put("file", name + ".bin");
        row.put("topic", m.getTopic());
        row.put("queueId", m.getQueueId());
        row.put("flag", m.getFlag());
        row.put("sysFlag", m.getSysFlag());
        row.put("queueOffset", m.getQueueOffset());
        row.put("physicalOffset", m.getCommitLogOffset());
        row.put("bodyCRC", m.getBodyCRC());
        row.put("bornTimestamp", m.getBornTimestamp());
        row.put("bornHost", hostString((InetSocketAddress) m.getBornHost()));
        row.put("storeTimestamp", m.getStoreTimestamp());
        row.put("storeHost", hostString((InetSocketAddress) m.getStoreHost()));
        row.put("reconsumeTimes", m.getReconsumeTimes());
        row.put("preparedOffset", m.getPreparedTransactionOffset());
        row.put("body", base64(m.getBody()));
        row.put("properties", properties);
        row.put("offsetId", back.getMsgId());
        out.add(row);
    }

    /** What is empty the client leaves null. */
    private static Map<String, String> propertiesOf(MessageExt m) {
        return m.getProperties() == null ? Map.of() : m.getProperties();
    }

    private static byte[] bodyOf(MessageExt m) {
        return m.getBody() == null ? new byte[0] : m.getBody();
    }

    /** A copy that hands out its properties in the order of their keys. */
    private static class SortedMessage extends MessageExt {
        private final Map<String, String> sorted;

        SortedMessage(MessageExt m, Map<String, String> sorted) {
            super(m.getQueueId(), m.getBornTimestamp(), m.getBornHost(), m.getStoreTimestamp(), m.getStoreHost(), null);
            this.sorted = sorted;
            setTopic(m.getTopic());
            setBody(m.getBody());
            setBodyCRC(m.getBodyCRC());
            setFlag(m.getFlag());
            setSysFlag(m.getSysFlag());
            setQueueOffset(m.getQueueOffset());
            setCommitLogOffset(m.getCommitLogOffset());
            setReconsumeTimes(m.getReconsumeTimes());
            setPreparedTransactionOffset(m.getPreparedTransactionOffset());
        }

        @Override
        public Map<String, String> getProperties() {
            return sorted;
        }
    }

    private static Message batchItem(int flag, byte[] body, Map<String, String> properties) {
        Message m = new Message("BatchTopic", body) {
            @Override
            public Map<String, String> getProperties() {
                return properties;
            }
        };
        m.setFlag(flag);
        return m;
    }

    private void batches() throws Exception {
        List<Object> out = new ArrayList<>();
        batch(out, "batch-1", List.of(batchItem(0, "one".getBytes(StandardCharsets.UTF_8), someProperties())));
        batch(out, "batch-3", List.of(
            batchItem(1, "first".getBytes(StandardCharsets.UTF_8), someProperties()),
            batchItem(-1, plainBody(), new TreeMap<>(Map.of("TAGS", "标签"))),
            batchItem(0, new byte[] {0}, new TreeMap<>())));
        manifest.put("batches", out);
    }

    private void batch(List<Object> out, String name, List<Message> messages) throws Exception {
        byte[] bytes = MessageDecoder.encodeMessages(messages);
        List<Message> back = MessageDecoder.decodeMessages(ByteBuffer.wrap(bytes));
        if (back.size() != messages.size()) {
            throw new IllegalStateException(name + ": the client reads " + back.size() + " messages");
        }
        write(name + ".bin", bytes);
        List<Object> items = new ArrayList<>();
        for (Message m : messages) {
            Map<String, Object> item = new LinkedHashMap<>();
            item.put("flag", m.getFlag());
            item.put("body", base64(m.getBody()));
            item.put("properties", m.getProperties());
            items.add(item);
        }
        Map<String, Object> row = new LinkedHashMap<>();
        row.put("file", name + ".bin");
        row.put("items", items);
        out.add(row);
    }

    private void offsetIds() throws Exception {
        List<Object> out = new ArrayList<>();
        String[] ips = {"127.0.0.1", "255.254.253.252", "::1", "2001:db8:1:2:3:4:5:6"};
        long[] positions = {0, 1, 0x0A0B0C0D0E0FL, Long.MAX_VALUE};
        for (int i = 0; i < ips.length; i++) {
            InetSocketAddress host = host(ips[i], 10911 + i);
            String id = MessageDecoder.createMessageId(host, positions[i]);
            if (MessageDecoder.decodeMessageId(id).getOffset() != positions[i]) {
                throw new IllegalStateException(id + ": the client reads another position");
            }
            Map<String, Object> row = new LinkedHashMap<>();
            row.put("host", hostString(host));
            row.put("position", positions[i]);
            row.put("id", id);
            out.add(row);
        }
        manifest.put("offsetIds", out);
    }

    private void uniqueIds() throws Exception {
        List<Object> out = new ArrayList<>();
        String id = MessageClientIDSetter.createUniqID();
        Thread.sleep(20); // the client takes an id of this very millisecond for last month's
        // pid, class loader, time and counter are the client's; the address is one of those kept for documents.
        String rest = id.substring(id.length() - 24);
        uniqueId(out, "CB007107" + rest, true);
        uniqueId(out, "20010DB8000000000000000000000001" + rest, true);
        // 27 days after the month's start: of last month, unless this one is as old.
        String late = String.format("%08X", 27L * 86400_000 + 12345);
        uniqueId(out, "CB007107" + rest.substring(0, 12) + late + "0007", true);
        String grpc = MessageIdCodec.getInstance().nextMessageId().toString();
        uniqueId(out, grpc.substring(0, 2) + "020000000001" + grpc.substring(14), false);
        manifest.put("uniqueIds", out);
    }

    private static void uniqueId(List<Object> out, String id, boolean remoting) {
        Map<String, Object> row = new LinkedHashMap<>();
        row.put("id", id);
        row.put("now", System.currentTimeMillis());
        if (remoting) {
            row.put("time", MessageClientIDSetter.getNearlyTimeFromID(id).getTime());
        }
        out.add(row);
    }

    private void properties() {
        List<Object> out = new ArrayList<>();
        String[] odd = {
            MessageDecoder.messageProperties2String(someProperties()),
            "a\u0001b", "a\u0001b\u0002c\u0001d", "", "\u0002", "\u0002\u0002a\u0001b\u0002", "a\u0001\u0002b\u00012\u0002",
            "\u0001x\u0002b\u00012\u0002", "ab\u0002c\u0001d\u0002", "abcdef\u0002c\u0001d\u0002", "a\u0001b\u0001c\u0002",
            "a\u00011\u0002b\u00012\u0002a\u00013\u0002", "\u0001\u0001x\u0002", "a\u0001\u0001\u0002", "ü\u0001\u0002石\u0001石",
        };
        for (String encoded : odd) {
            Map<String, Object> row = new LinkedHashMap<>();
            row.put("encoded", base64(encoded.getBytes(StandardCharsets.UTF_8)));
            row.put("properties", new TreeMap<>(MessageDecoder.string2messageProperties(encoded)));
            out.add(row);
        }
        manifest.put("properties", out);
    }

    private void bodies() throws Exception {
        List<Object> out = new ArrayList<>();
        write("body-plain.bin", plainBody());
        for (CompressionType type : CompressionType.values()) {
            byte[] compressed = CompressorFactory.getCompressor(type).compress(plainBody(), 5);
            body(out, "body-" + type.name().toLowerCase(), type.getCompressionFlag(), compressed);
        }
        body(out, "body-legacy", 0, CompressorFactory.getCompressor(CompressionType.ZLIB).compress(plainBody(), 5));
        body(out, "body-grpc-gzip", CompressionType.ZLIB.getCompressionFlag(), Utilities.compressBytesGZIP(plainBody()));
        manifest.put("bodies", out);
    }

    private void body(List<Object> out, String name, int compressionFlag, byte[] compressed) throws Exception {
        write(name + ".bin", compressed);
        Map<String, Object> row = new LinkedHashMap<>();
        row.put("file", name + ".bin");
        row.put("sysFlag", MessageSysFlag.COMPRESSED_FLAG | compressionFlag);
        out.add(row);
    }

    private void tags() {
        List<Object> out = new ArrayList<>();
        String[] tags = {"", "*", "TagA", "TagB", "Aa", "BB", "größe", "标签", "🪨🪨", "a-🪨-z", "x".repeat(200), "TagA || TagB",
            "polygenelubricants", "f5a5a608"}; // the least hash, and 0
        for (String tag : tags) {
            Map<String, Object> row = new LinkedHashMap<>();
            row.put("tag", tag);
            row.put("hash", MessageExtBrokerInner.tagsString2tagsCode(TopicFilterType.SINGLE_TAG, tag));
            out.add(row);
        }
        manifest.put("tags", out);
    }
}
