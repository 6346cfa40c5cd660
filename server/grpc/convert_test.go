package grpc

import (
	"bytes"
	"crypto/md5"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/message"
)

var testLevels = func() delay.Levels {
	levels, err := delay.ParseLevels(delay.DefaultLevels)
	if err != nil {
		panic(err)
	}
	return levels
}()

// converted is what a client reads of a stored message.
func converted(t testing.TB, topic *pb.Resource, m *message.Message, d *delivery) *pb.Message {
	t.Helper()
	c, err := newConverter(topic, testLevels)
	if err != nil {
		t.Fatal(err)
	}
	var resp pb.ReceiveMessageResponse
	if err := proto.Unmarshal(*c.convert(m, d), &resp); err != nil {
		t.Fatalf("what was encoded cannot be read: %v", err)
	}
	if len(resp.ProtoReflect().GetUnknown()) > 0 {
		t.Fatal("unknown fields")
	}
	return resp.GetMessage()
}

// expected is built the long way.
func expected(topic *pb.Resource, m *message.Message, d *delivery) *pb.Message {
	p := message.DecodeProperties(m.Properties)
	s := &pb.SystemProperties{
		MessageId:    p["UNIQ_KEY"],
		BodyDigest:   &pb.Digest{Type: pb.DigestType_MD5, Checksum: fmt.Sprintf("%X", md5.Sum(m.Body))},
		BodyEncoding: pb.Encoding_IDENTITY, MessageType: pb.MessageType_NORMAL,
		BornTimestamp: timestamppb.New(time.UnixMilli(m.BornTimestamp)), BornHost: p["__BORNHOST"],
		StoreTimestamp: timestamppb.New(time.UnixMilli(m.StoreTimestamp)), StoreHost: m.StoreHost.String(),
		QueueId: m.QueueID, QueueOffset: proto.Int64(m.QueueOffset), DeliveryAttempt: proto.Int32(d.attempt),
	}
	if s.BornHost == "" {
		s.BornHost = m.BornHost.Addr().String()
	}
	if d.handle != "" {
		s.ReceiptHandle = proto.String(d.handle)
	}
	if d.invisible > 0 {
		s.InvisibleDuration = durationpb.New(d.invisible)
	}
	for name, field := range map[string]**string{"TAGS": &s.Tag, "__SHARDINGKEY": &s.MessageGroup, "TRACE_CONTEXT": &s.TraceContext, "__LITE_TOPIC": &s.LiteTopic} {
		if v, ok := p[name]; ok {
			*field = proto.String(v)
		}
	}
	for key := range strings.SplitSeq(p["KEYS"], " ") {
		if key != "" {
			s.Keys = append(s.Keys, key)
		}
	}
	if v, ok := p["_SYS_MSG_PRIORITY_"]; ok {
		n, _ := strconv.Atoi(v)
		s.Priority, s.MessageType = proto.Int32(int32(n)), pb.MessageType_PRIORITY
	} else if s.LiteTopic != nil {
		s.MessageType = pb.MessageType_LITE
	}
	if s.MessageGroup != nil {
		s.MessageType = pb.MessageType_FIFO
	}
	for _, name := range []string{"TIMER_DELIVER_MS", "TIMER_OUT_MS"} { // the broker's word is the last
		if v, ok := p[name]; ok {
			ms, _ := strconv.ParseInt(v, 10, 64)
			s.DeliveryTimestamp, s.MessageType = timestamppb.New(time.UnixMilli(ms)), pb.MessageType_DELAY
		}
	}
	if p["TRAN_MSG"] == "true" || m.SysFlag != 0 {
		s.MessageType = pb.MessageType_TRANSACTION
	}
	if p["DLQ_ORIGIN_TOPIC"] != "" || p["DLQ_ORIGIN_MESSAGE_ID"] != "" {
		s.DeadLetterQueue = &pb.DeadLetterQueue{Topic: p["DLQ_ORIGIN_TOPIC"], MessageId: p["DLQ_ORIGIN_MESSAGE_ID"]}
	}
	out := &pb.Message{Topic: topic, SystemProperties: s, Body: m.Body, UserProperties: map[string]string{}}
	for k, v := range p {
		if !message.IsReserved(k) && k != "__SHARDINGKEY" && k != "TRACE_CONTEXT" && (k != "__transactionId__" || m.SysFlag == 0) {
			out.UserProperties[k] = v
		}
	}
	return out
}

// TestConvert holds the hand-made encoding against the generated one.
func TestConvert(t *testing.T) {
	text := rapid.StringMatching(`[a-zA-Z0-9äß€ _./-]{1,40}`)
	system := rapid.SampledFrom([]string{"TAGS", "KEYS", "UNIQ_KEY", "__BORNHOST", "BORN_TIMESTAMP", "__SHARDINGKEY",
		"TRACE_CONTEXT", "TRAN_MSG", "REAL_TOPIC", "REAL_QID", "__transactionId__", "DLQ_ORIGIN_TOPIC", "DLQ_ORIGIN_MESSAGE_ID", "__LITE_TOPIC", "CLUSTER", "WAIT", "PGROUP"})
	number := rapid.SampledFrom([]string{"_SYS_MSG_PRIORITY_", "TIMER_DELIVER_MS", "TIMER_OUT_MS"})
	host := rapid.SampledFrom([]netip.AddrPort{netip.MustParseAddrPort("10.1.2.3:10911"), netip.MustParseAddrPort("[2001:db8::1]:7")})
	rapid.Check(t, func(t *rapid.T) {
		props := rapid.MapOf(text, text).Draw(t, "user")
		for k := range rapid.MapOf(system, rapid.Bool()).Draw(t, "system") {
			props[k] = rapid.OneOf(text, rapid.Just("true")).Draw(t, k)
		}
		for k := range rapid.MapOf(number, rapid.Bool()).Draw(t, "numbers") {
			props[k] = strconv.Itoa(int(rapid.Int32Range(0, 1<<31-1).Draw(t, k)))
		}
		m := &message.Message{
			Topic: "T", QueueID: rapid.Int32Range(0, 1<<20).Draw(t, "queue"), QueueOffset: rapid.Int64Min(0).Draw(t, "offset"),
			BornTimestamp: rapid.Int64Range(-5000, 4e12).Draw(t, "born"), StoreTimestamp: rapid.Int64Range(0, 4e12).Draw(t, "stored"),
			BornHost: host.Draw(t, "host"), StoreHost: host.Draw(t, "store host"),
			Body:       rapid.SliceOfN(rapid.Byte(), 0, 3000).Draw(t, "body"),
			Properties: message.EncodeProperties(props),
			SysFlag:    rapid.SampledFrom([]int32{0, message.FlagPrepared, message.FlagCommit}).Draw(t, "flags"),
		}
		d := &delivery{
			handle: rapid.StringMatching(`[ -~]{0,90}`).Draw(t, "handle"), attempt: rapid.Int32Range(1, 1000).Draw(t, "attempt"),
			invisible: time.Duration(rapid.Int64Range(0, int64(12*time.Hour)).Draw(t, "invisible")),
		}
		topic := &pb.Resource{Name: rapid.StringMatching(`[a-z]{1,200}`).Draw(t, "topic"), ResourceNamespace: "ns"}
		c, err := newConverter(topic, testLevels)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // a converter is used for message after message
			var resp pb.ReceiveMessageResponse
			if err := proto.Unmarshal(*c.convert(m, d), &resp); err != nil {
				t.Fatalf("what was encoded cannot be read: %v", err)
			}
			if want := expected(topic, m, d); !proto.Equal(resp.GetMessage(), want) {
				t.Fatalf("converted\n%v\nwant\n%v", resp.GetMessage(), want)
			}
		}
	})
}

// TestConvertWaited: a message that waited says until when.
func TestConvertWaited(t *testing.T) {
	stored := time.UnixMilli(1_700_000_000_000)
	for name, c := range map[string]struct {
		flags int32
		props map[string]string
		kind  pb.MessageType
		due   time.Duration // after it was stored, 0 for not known
	}{
		"timer":                        {0, map[string]string{"TIMER_DELAY_SEC": "5", "TIMER_OUT_MS": "1700000005001"}, pb.MessageType_DELAY, 5001 * time.Millisecond},
		"delivery time":                {0, map[string]string{"TIMER_DELIVER_MS": "1700000003000"}, pb.MessageType_DELAY, 3 * time.Second},
		"level":                        {0, map[string]string{"DELAY": "3"}, pb.MessageType_DELAY, 10 * time.Second},
		"level beyond the last":        {0, map[string]string{"DELAY": "99"}, pb.MessageType_DELAY, 2 * time.Hour},
		"no level":                     {0, map[string]string{"DELAY": "x"}, pb.MessageType_DELAY, 0},
		"transaction":                  {message.FlagCommit, map[string]string{"__transactionId__": "1"}, pb.MessageType_TRANSACTION, 0},
		"transaction with a time":      {message.FlagCommit, map[string]string{"TIMER_DELIVER_MS": "1700000003000"}, pb.MessageType_TRANSACTION, 3 * time.Second},
		"transaction with a level":     {message.FlagCommit, map[string]string{"DELAY": "3"}, pb.MessageType_TRANSACTION, 0},
		"transaction that was checked": {message.FlagPrepared, map[string]string{"TRAN_MSG": "true", "TRANSACTION_CHECK_TIMES": "2", "CHECK_IMMUNITY_TIME_IN_SECONDS": "9"}, pb.MessageType_TRANSACTION, 0},
	} {
		c.props["REAL_TOPIC"], c.props["REAL_QID"], c.props["colour"] = "T", "1", "red"
		m := &message.Message{SysFlag: c.flags, Properties: message.EncodeProperties(c.props), StoreTimestamp: stored.UnixMilli()}
		got := converted(t, resource("T"), m, &delivery{})
		s := got.GetSystemProperties()
		if s.GetMessageType() != c.kind || fmt.Sprint(got.GetUserProperties()) != "map[colour:red]" {
			t.Errorf("%s: %v", name, got)
		}
		if known := s.DeliveryTimestamp != nil; known != (c.due > 0) || known && !s.GetDeliveryTimestamp().AsTime().Equal(stored.Add(c.due)) {
			t.Errorf("%s: due at %v", name, s.GetDeliveryTimestamp().AsTime())
		}
	}
}

// TestConvertCommand: the question for the end of a transaction carries the message as a receive would.
func TestConvertCommand(t *testing.T) {
	m := &message.Message{
		SysFlag: message.FlagPrepared, BornTimestamp: 5, StoreTimestamp: 6, Body: bytes.Repeat([]byte("half "), 100),
		BornHost: netip.MustParseAddrPort("10.1.2.3:4711"), StoreHost: netip.MustParseAddrPort("10.1.2.3:10911"),
		Properties: message.EncodeProperties(map[string]string{"UNIQ_KEY": "01AB", "TRAN_MSG": "true", "colour": "red"}),
	}
	topic := &pb.Resource{Name: "T", ResourceNamespace: "ns"}
	c, err := newConverter(topic, testLevels)
	if err != nil {
		t.Fatal(err)
	}
	var cmd pb.TelemetryCommand
	if err := proto.Unmarshal(c.command(m, "0000000000000123"+"01AB"), &cmd); err != nil {
		t.Fatal(err)
	}
	recover := cmd.GetRecoverOrphanedTransactionCommand()
	if recover.GetTransactionId() != "000000000000012301AB" || len(cmd.ProtoReflect().GetUnknown()) > 0 {
		t.Errorf("%v", &cmd)
	}
	if want := expected(topic, m, &delivery{attempt: 1}); !proto.Equal(recover.GetMessage(), want) {
		t.Errorf("asked for\n%v\nwant\n%v", recover.GetMessage(), want)
	}
}

func TestConvertCompressedBodies(t *testing.T) {
	plain := bytes.Repeat([]byte("all that is gold does not glitter "), 200)
	for _, kind := range []message.CompressionType{message.CompressionLegacy, message.CompressionLZ4, message.CompressionZstd, message.CompressionZlib} {
		packed, flags, err := message.Compress(kind, plain)
		if err != nil {
			t.Fatal(err)
		}
		got := converted(t, &pb.Resource{Name: "T"}, &message.Message{SysFlag: flags, Body: packed}, &delivery{})
		if !bytes.Equal(got.GetBody(), plain) || got.GetSystemProperties().GetBodyEncoding() != pb.Encoding_IDENTITY {
			t.Errorf("%v: %d bytes, %v", kind, len(got.GetBody()), got.GetSystemProperties().GetBodyEncoding())
		}
		if want := fmt.Sprintf("%X", md5.Sum(plain)); got.GetSystemProperties().GetBodyDigest().GetChecksum() != want {
			t.Errorf("%v: the digest is not of the body that is handed over", kind)
		}
	}
}

// TestConvertDamagedBody: what claims to be compressed and is not reaches the client as it is.
func TestConvertDamagedBody(t *testing.T) {
	body := []byte("no such format")
	got := converted(t, &pb.Resource{Name: "T"}, &message.Message{SysFlag: message.FlagCompressed, Body: body}, &delivery{})
	if !bytes.Equal(got.GetBody(), body) || got.GetSystemProperties().GetBodyEncoding() != pb.Encoding_GZIP {
		t.Errorf("got %q, %v", got.GetBody(), got.GetSystemProperties().GetBodyEncoding())
	}
}

// TestStoredAndBack: what a client sends is what a client receives.
func TestStoredAndBack(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_123)
	sent := &pb.Message{
		Topic: &pb.Resource{Name: "T"}, UserProperties: map[string]string{"a": "1", "b": "zwei", "nothing": ""}, Body: []byte("hello"),
		SystemProperties: &pb.SystemProperties{
			Tag: proto.String("red"), Keys: []string{"k1", "k2"}, MessageId: "0123", MessageType: pb.MessageType_NORMAL,
			BornTimestamp: timestamppb.New(now.Add(-time.Minute)), BornHost: "laptop", TraceContext: proto.String("00-abc-def-01"),
			BodyEncoding: pb.Encoding_IDENTITY,
		},
	}
	m, err := stored("T", sent, netip.MustParseAddrPort("10.0.0.9:555"), now)
	if err != nil {
		t.Fatal(err)
	}
	p := message.DecodeProperties(m.Properties)
	want := map[string]string{"a": "1", "b": "zwei", "TAGS": "red", "KEYS": "k1 k2", "UNIQ_KEY": "0123", "RECONSUME_TIME": "0", "PGROUP": "T",
		"__BORNHOST": "laptop", "BORN_TIMESTAMP": "1699999940123", "TRACE_CONTEXT": "00-abc-def-01"}
	if fmt.Sprint(p) != fmt.Sprint(want) {
		t.Errorf("stored properties\n%v\nwant\n%v", p, want)
	}
	if m.BornTimestamp != 1699999940123 || m.SysFlag != 0 {
		t.Errorf("born %d, flags %d", m.BornTimestamp, m.SysFlag)
	}
	got := converted(t, sent.GetTopic(), &m, &delivery{handle: "h", attempt: 1, invisible: time.Minute})
	s := got.GetSystemProperties()
	if s.GetTag() != "red" || fmt.Sprint(s.GetKeys()) != "[k1 k2]" || s.GetMessageId() != "0123" || s.GetBornHost() != "laptop" ||
		s.GetTraceContext() != "00-abc-def-01" || !s.GetBornTimestamp().AsTime().Equal(now.Add(-time.Minute)) {
		t.Errorf("came back as %v", s)
	}
	if fmt.Sprint(got.GetUserProperties()) != "map[a:1 b:zwei]" || string(got.GetBody()) != "hello" {
		t.Errorf("came back as %v", got)
	}
}

// TestStoredGzip: Remoting clients read zlib, so true gzip is not kept.
func TestStoredGzip(t *testing.T) {
	plain := bytes.Repeat([]byte("one ring "), 1000)
	zlib, _, err := message.Compress(message.CompressionZlib, plain)
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string][]byte{"gzip": gzipped(t, plain), "zlib": zlib} {
		sent := &pb.Message{Body: body, SystemProperties: &pb.SystemProperties{MessageId: "1", BodyEncoding: pb.Encoding_GZIP}}
		m, err := stored("T", sent, netip.AddrPort{}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if m.SysFlag != gzipFlags || message.CompressionOf(m.SysFlag) != message.CompressionZlib || m.Body[0] != 0x78 {
			t.Errorf("%s: flags %x, first byte %x", name, m.SysFlag, m.Body[0])
		}
		got := converted(t, &pb.Resource{Name: "T"}, &m, &delivery{})
		if !bytes.Equal(got.GetBody(), plain) {
			t.Errorf("%s came back as %d bytes", name, len(got.GetBody()))
		}
	}
	torn := &pb.Message{Body: gzipped(t, plain)[:20], SystemProperties: &pb.SystemProperties{BodyEncoding: pb.Encoding_GZIP}}
	if _, err := stored("T", torn, netip.AddrPort{}, time.Now()); codeOf(err) != pb.Code_MESSAGE_CORRUPTED {
		t.Errorf("torn gzip: %v", err)
	}
}

func BenchmarkConvert(b *testing.B) {
	m := &message.Message{
		Topic: "T", QueueID: 3, QueueOffset: 123456, BornTimestamp: 1_700_000_000_000, StoreTimestamp: 1_700_000_000_001,
		BornHost: netip.MustParseAddrPort("10.1.2.3:4711"), StoreHost: netip.MustParseAddrPort("10.1.2.3:10911"), Body: make([]byte, 128),
		Properties: message.EncodeProperties(map[string]string{"UNIQ_KEY": "01ABCDEF0123456789ABCDEF0123456789", "TAGS": "TagA", "KEYS": "k1",
			"CLUSTER": "DefaultCluster", "MSG_REGION": "DefaultRegion", "TRACE_ON": "true", "RECONSUME_TIME": "0", "PGROUP": "TopicTest",
			"__BORNHOST": "laptop", "BORN_TIMESTAMP": "1700000000000", "color": "red"}),
	}
	c, err := newConverter(&pb.Resource{Name: "TopicTest"}, testLevels)
	if err != nil {
		b.Fatal(err)
	}
	d := &delivery{handle: strings.Repeat("x", 60), attempt: 1, invisible: time.Minute}
	b.ReportAllocs()
	for b.Loop() {
		c.convert(m, d)
	}
}

// TestDeliveryTime: nothing is stored as due before the time that was asked for.
func TestDeliveryTime(t *testing.T) {
	for want, at := range map[int64]*timestamppb.Timestamp{
		5000: {Seconds: 5}, 5001: {Seconds: 5, Nanos: 1}, 5002: {Seconds: 5, Nanos: 2_000_000}, 6000: {Seconds: 5, Nanos: 999_999_999}, 0: {Seconds: -5},
	} {
		if got := deliveryTime(&pb.SystemProperties{DeliveryTimestamp: at}); got != want {
			t.Errorf("%v: %d, want %d", at, got, want)
		}
	}
}
