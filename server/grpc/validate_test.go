package grpc

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func codeOf(err error) pb.Code {
	var r *refusal
	switch {
	case err == nil:
		return pb.Code_OK
	case errors.As(err, &r):
		return r.code
	}
	return pb.Code_INTERNAL_SERVER_ERROR
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// good is a message that passes; change spoils it.
func good(change ...func(*pb.Message)) *pb.Message {
	m := &pb.Message{
		Topic: &pb.Resource{Name: "T"}, Body: []byte("x"),
		SystemProperties: &pb.SystemProperties{MessageId: "01ABC", MessageType: pb.MessageType_NORMAL, BodyEncoding: pb.Encoding_IDENTITY},
	}
	for _, f := range change {
		f(m)
	}
	return m
}

func system(f func(s *pb.SystemProperties)) func(*pb.Message) {
	return func(m *pb.Message) { f(m.SystemProperties) }
}

func user(k, v string) func(*pb.Message) {
	return func(m *pb.Message) { m.UserProperties = map[string]string{k: v} }
}

func kind(k pb.MessageType) func(*pb.Message) {
	return system(func(s *pb.SystemProperties) { s.MessageType = k })
}

func messageGroup(g string) func(*pb.Message) {
	return system(func(s *pb.SystemProperties) { s.MessageGroup, s.MessageType = &g, pb.MessageType_FIFO })
}

func deliverIn(d time.Duration) func(*pb.Message) { return deliverAt(time.Now().Add(d)) }

func deliverAt(t time.Time) func(*pb.Message) {
	return system(func(s *pb.SystemProperties) {
		s.DeliveryTimestamp, s.MessageType = timestamppb.New(t), pb.MessageType_DELAY
	})
}

func delayedTransaction(d time.Duration) func(*pb.Message) {
	return func(m *pb.Message) {
		deliverIn(d)(m)
		kind(pb.MessageType_TRANSACTION)(m)
	}
}

func tag(v string) func(*pb.Message) {
	return system(func(s *pb.SystemProperties) { s.Tag = &v })
}

func keys(v ...string) func(*pb.Message) {
	return system(func(s *pb.SystemProperties) { s.Keys = v })
}

func manyProperties(n int) func(*pb.Message) {
	return func(m *pb.Message) {
		m.UserProperties = map[string]string{}
		for i := range n {
			m.UserProperties[fmt.Sprint("p", i)] = "v"
		}
	}
}

const testMaxBody = 1 << 20

// illegalMessages is also what the tests through a client go by.
var illegalMessages = []struct {
	name   string
	change func(*pb.Message)
	want   pb.Code
}{
	{"good", func(*pb.Message) {}, pb.Code_OK},
	{"empty body", func(m *pb.Message) { m.Body = nil }, pb.Code_MESSAGE_BODY_EMPTY},
	{"largest body", func(m *pb.Message) { m.Body = make([]byte, testMaxBody) }, pb.Code_OK},
	{"body too large", func(m *pb.Message) { m.Body = make([]byte, testMaxBody+1) }, pb.Code_MESSAGE_BODY_TOO_LARGE},
	{"no id", system(func(s *pb.SystemProperties) { s.MessageId = "" }), pb.Code_ILLEGAL_MESSAGE_ID},
	{"blank id", system(func(s *pb.SystemProperties) { s.MessageId = "  " }), pb.Code_ILLEGAL_MESSAGE_ID},
	{"id with a separator", system(func(s *pb.SystemProperties) { s.MessageId = "a\x02TAGS\x01b" }), pb.Code_ILLEGAL_MESSAGE_ID},
	{"no system properties", func(m *pb.Message) { m.SystemProperties = nil }, pb.Code_ILLEGAL_MESSAGE_ID},
	{"tag", tag("red"), pb.Code_OK},
	{"blank tag", tag("  "), pb.Code_ILLEGAL_MESSAGE_TAG},
	{"tag with a bar", tag("a||b"), pb.Code_ILLEGAL_MESSAGE_TAG},
	{"tag with a control character", tag("a\nb"), pb.Code_ILLEGAL_MESSAGE_TAG},
	{"keys", keys("a", "b"), pb.Code_OK},
	{"blank key", keys("a", " "), pb.Code_ILLEGAL_MESSAGE_KEY},
	{"key with a control character", keys("a\x01"), pb.Code_ILLEGAL_MESSAGE_KEY},
	{"system property", user("UNIQ_KEY", "x"), pb.Code_ILLEGAL_MESSAGE_PROPERTY_KEY},
	{"property without a name", user("", "x"), pb.Code_ILLEGAL_MESSAGE_PROPERTY_KEY},
	{"property name with a control character", user("a\x02", "x"), pb.Code_ILLEGAL_MESSAGE_PROPERTY_KEY},
	{"property value with a control character", user("a", "x\x7f"), pb.Code_ILLEGAL_MESSAGE_PROPERTY_KEY},
	{"trace context with a control character", system(func(s *pb.SystemProperties) { s.TraceContext = proto.String("\x02") }), pb.Code_ILLEGAL_MESSAGE_PROPERTY_KEY},
	{"128 properties", manyProperties(128), pb.Code_OK},
	{"129 properties", manyProperties(129), pb.Code_MESSAGE_PROPERTIES_TOO_LARGE},
	{"17 KiB of properties", user("a", strings.Repeat("x", 17<<10)), pb.Code_MESSAGE_PROPERTIES_TOO_LARGE},
	{"17 KiB of keys", keys(strings.Repeat("x", 17<<10)), pb.Code_MESSAGE_PROPERTIES_TOO_LARGE},
	{"blank group", messageGroup(" "), pb.Code_ILLEGAL_MESSAGE_GROUP},
	{"group of 65 characters", messageGroup(strings.Repeat("g", 65)), pb.Code_ILLEGAL_MESSAGE_GROUP},
	{"group of 64 characters", messageGroup(strings.Repeat("g", 64)), pb.Code_ILLEGAL_MESSAGE_GROUP},
	{"group with a control character", messageGroup("g\t"), pb.Code_ILLEGAL_MESSAGE_GROUP},
	{"no delivery time", system(func(s *pb.SystemProperties) {
		s.DeliveryTimestamp, s.MessageType = &timestamppb.Timestamp{Nanos: -1}, pb.MessageType_DELAY
	}), pb.Code_ILLEGAL_DELIVERY_TIME},
	{"delivery after the last year", system(func(s *pb.SystemProperties) {
		s.DeliveryTimestamp, s.MessageType = &timestamppb.Timestamp{Seconds: 1 << 62}, pb.MessageType_DELAY
	}), pb.Code_ILLEGAL_DELIVERY_TIME},
	{"recovery before now", system(func(s *pb.SystemProperties) {
		s.OrphanedTransactionRecoveryDuration = durationpb.New(-time.Second)
	}), pb.Code_BAD_REQUEST},
	{"recovery after two hours", system(func(s *pb.SystemProperties) {
		s.OrphanedTransactionRecoveryDuration = durationpb.New(2 * time.Hour)
	}), pb.Code_BAD_REQUEST},
	{"negative priority", system(func(s *pb.SystemProperties) { s.Priority = proto.Int32(-1) }), pb.Code_BAD_REQUEST},
	{"declared FIFO without a group", kind(pb.MessageType_FIFO), pb.Code_MESSAGE_PROPERTY_CONFLICT_WITH_TYPE},
	{"declared normal with a group", func(m *pb.Message) {
		messageGroup("g")(m)
		kind(pb.MessageType_NORMAL)(m)
	}, pb.Code_MESSAGE_PROPERTY_CONFLICT_WITH_TYPE},
	{"FIFO and delayed", func(m *pb.Message) {
		messageGroup("g")(m)
		deliverIn(time.Minute)(m)
	}, pb.Code_MESSAGE_PROPERTY_CONFLICT_WITH_TYPE},
	{"nothing declared", kind(pb.MessageType_MESSAGE_TYPE_UNSPECIFIED), pb.Code_OK},
}

func TestCheckMessage(t *testing.T) {
	for _, c := range illegalMessages {
		_, err := checkMessage(good(c.change), testMaxBody)
		if codeOf(err) != c.want {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func TestKinds(t *testing.T) {
	for _, c := range []struct {
		change func(*pb.Message)
		want   pb.MessageType
		topic  string
	}{
		{func(*pb.Message) {}, pb.MessageType_NORMAL, "NORMAL"},
		{kind(pb.MessageType_MESSAGE_TYPE_UNSPECIFIED), pb.MessageType_NORMAL, "NORMAL"},
		{messageGroup("g"), pb.MessageType_FIFO, "FIFO"},
		{deliverIn(time.Minute), pb.MessageType_DELAY, "DELAY"},
		{kind(pb.MessageType_TRANSACTION), pb.MessageType_TRANSACTION, "TRANSACTION"},
		{delayedTransaction(time.Minute), pb.MessageType_TRANSACTION, "TRANSACTION"},
		{system(func(s *pb.SystemProperties) {
			s.Priority, s.MessageType = proto.Int32(3), pb.MessageType_PRIORITY
		}), pb.MessageType_PRIORITY, "PRIORITY"},
		{system(func(s *pb.SystemProperties) {
			s.LiteTopic, s.MessageType = proto.String("l"), pb.MessageType_LITE
		}), pb.MessageType_LITE, "LITE"},
	} {
		got, err := checkMessage(good(c.change), testMaxBody)
		if err != nil || got != c.want {
			t.Errorf("%v, %v, want %v", got, err, c.want)
		}
		for topic := range acceptTypes {
			want := topic == c.topic || topic == "UNSPECIFIED" || topic == "MIXED" && got <= pb.MessageType_TRANSACTION
			if accepts(topic, got) != want {
				t.Errorf("topic of type %s, %v message: accepted %v", topic, got, !want)
			}
		}
	}
}

func TestNames(t *testing.T) {
	for _, c := range []struct{ namespace, name, want string }{
		{"", "T", "T"}, {"ns", "T", "ns%T"}, {"ns", "%RETRY%g", "%RETRY%ns%g"}, {"ns", "%DLQ%g", "%DLQ%ns%g"}, {"", "%RETRY%g", "%RETRY%g"},
	} {
		if got := nameOf(&pb.Resource{ResourceNamespace: c.namespace, Name: c.name}); got != c.want {
			t.Errorf("%q in %q: %q, want %q", c.name, c.namespace, got, c.want)
		}
	}
	long := strings.Repeat("x", 128)
	for _, c := range []struct {
		name         string
		topic, group pb.Code
	}{
		{"T-1_a%b|c", pb.Code_OK, pb.Code_OK},
		{"", pb.Code_ILLEGAL_TOPIC, pb.Code_ILLEGAL_CONSUMER_GROUP},
		{"a b", pb.Code_ILLEGAL_TOPIC, pb.Code_ILLEGAL_CONSUMER_GROUP},
		{"größe", pb.Code_ILLEGAL_TOPIC, pb.Code_ILLEGAL_CONSUMER_GROUP},
		{long, pb.Code_ILLEGAL_TOPIC, pb.Code_ILLEGAL_CONSUMER_GROUP},
		{long[:121], pb.Code_OK, pb.Code_ILLEGAL_CONSUMER_GROUP},
		{long[:120], pb.Code_OK, pb.Code_OK},
		{"SCHEDULE_TOPIC_XXXX", pb.Code_ILLEGAL_TOPIC, pb.Code_OK},
		{"rmq_sys_wheel_timer", pb.Code_ILLEGAL_TOPIC, pb.Code_OK},
		{"CID_RMQ_SYS_x", pb.Code_OK, pb.Code_ILLEGAL_CONSUMER_GROUP},
	} {
		if _, err := topicOf(&pb.Resource{Name: c.name}); codeOf(err) != c.topic {
			t.Errorf("topic %q: %v, want %v", c.name, err, c.topic)
		}
		if _, err := groupOf(&pb.Resource{Name: c.name}); codeOf(err) != c.group {
			t.Errorf("group %q: %v, want %v", c.name, err, c.group)
		}
	}
}

func TestVersions(t *testing.T) {
	for s, want := range map[string]version{"5.0.3": {5, 0, 3}, "5.1.10-rc2": {5, 1, 10}, "v5.2.0": {5, 2, 0}, "5.0.3.1": {5, 0, 3}} {
		if got, ok := parseVersion(s); !ok || got != want {
			t.Errorf("%s: %v, %v", s, got, ok)
		}
	}
	for _, s := range []string{"", "5", "5.1", "a.b.c", "5..1", "V4_9_1", "99999999999999999999.1.1"} {
		if got, ok := parseVersion(s); ok {
			t.Errorf("%q read as %v", s, got)
		}
	}
	for _, c := range []struct {
		v, w version
		want bool
	}{{version{5, 0, 3}, version{5, 0, 3}, true}, {version{5, 0, 10}, version{5, 0, 3}, true}, {version{4, 9, 9}, version{5, 0, 3}, false},
		{version{5, 0, 2}, version{5, 0, 3}, false}, {version{6, 0, 0}, version{5, 0, 3}, true}} {
		if c.v.atLeast(c.w) != c.want {
			t.Errorf("%v at least %v: %v", c.v, c.w, !c.want)
		}
	}
}

func FuzzParseVersion(f *testing.F) {
	for _, s := range []string{"5.0.3", "5.1.4-SNAPSHOT", "", ".", "1.2.3.4.5"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, ok := parseVersion(s)
		for _, n := range v {
			if ok && n < 0 {
				t.Errorf("%q: %v", s, v)
			}
		}
	})
}
