package broker

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/store"
	"github.com/cairnmq/cairn/tiered"
)

var (
	brokerHost = netip.MustParseAddrPort("10.1.2.3:10911")
	clientHost = netip.MustParseAddrPort("10.9.8.7:4711")
)

// testBroker is a whole broker over a disk in memory, or over a folder where the engine under test knows no other (see
// onEngine). When the test ends the view is compared with the log.
type testBroker struct {
	*Broker
	fs      vfs.FS
	dir     string // "": data
	engine  string // "": Pebble
	segment int64  // bytes of a log segment; 0: 1 MiB
	retain  time.Duration
	tier    *tiered.Tier // nil: none
	opts    Options
}

// openBroker opens one on a fresh disk; change may alter the options.
func openBroker(t testing.TB, change ...func(*Options)) *testBroker {
	t.Helper()
	tb := &testBroker{}
	tb.openOn(t, change...)
	t.Cleanup(func() {
		if tb.Broker != nil {
			tb.close(t)
		}
	})
	return tb
}

// openOn opens it for the first time, on a fresh disk; who calls it closes it.
func (tb *testBroker) openOn(t testing.TB, change ...func(*Options)) {
	t.Helper()
	tb.opts = Options{Advertise: brokerHost, AutoCreateTopics: true, AutoCreateGroups: true, Logger: zerolog.Nop()}
	for _, f := range change {
		f(&tb.opts)
	}
	tb.fs = vfs.NewMem()
	onEngine(t, tb)
	tb.open(t)
}

// folder is where its data are.
func (tb *testBroker) folder() string { return cmp.Or(tb.dir, "data") }

func (tb *testBroker) open(t testing.TB) {
	t.Helper()
	b, err := Open(context.Background(), store.Options{
		FS: tb.fs, Dir: tb.folder(), Engine: tb.engine, CacheBytes: 8 << 20, SegmentSize: cmp.Or(tb.segment, 1<<20), Retention: tb.retain,
		Tier: tb.tier, Logger: zerolog.Nop(),
	}, tb.opts)
	if err != nil {
		t.Fatalf("open broker: %v", err)
	}
	tb.Broker = b
}

func (tb *testBroker) close(t testing.TB) {
	t.Helper()
	if err := tb.store.Verify(context.Background()); err != nil {
		t.Errorf("the view is not what the log says: %v", err)
	}
	if err := tb.Close(); err != nil {
		t.Errorf("close broker: %v", err)
	}
	tb.Broker = nil
}

// restart closes and opens again on the same disk.
func (tb *testBroker) restart(t testing.TB) {
	t.Helper()
	tb.close(t)
	tb.open(t)
}

func withClock(c clock.Clock) func(*Options) { return func(o *Options) { o.Clock = c } }

// topicOf makes a topic with so many queues.
func (tb *testBroker) topicOf(t testing.TB, name string, queues int32) *catalog.Topic {
	t.Helper()
	topic := catalog.Topic{Name: name, ReadQueues: queues, WriteQueues: queues, Perm: permReadWrite}
	if err := tb.PutTopic(context.Background(), topic, ""); err != nil {
		t.Fatalf("put topic %s: %v", name, err)
	}
	made, err := tb.Topic(name)
	if err != nil {
		t.Fatalf("topic %s: %v", name, err)
	}
	return made
}

func (tb *testBroker) group(t testing.TB, name string) *catalog.Group {
	t.Helper()
	g, err := tb.EnsureGroup(context.Background(), name)
	if err != nil {
		t.Fatalf("ensure group %s: %v", name, err)
	}
	return g
}

// plain is a message with a body and properties, given as key, value, key, value ….
func plain(body string, properties ...string) message.Message {
	m := message.Message{Body: []byte(body), BornTimestamp: 1234, BornHost: clientHost}
	for i := 0; i+1 < len(properties); i += 2 {
		m.Properties = message.AppendProperty(m.Properties, properties[i], properties[i+1])
	}
	return m
}

// send stores messages in one queue of a topic, which is made with 8 queues when it is not there.
func (tb *testBroker) send(t testing.TB, topic string, queue int32, messages ...message.Message) []SendResult {
	t.Helper()
	res, err := tb.Send(context.Background(), &SendRequest{
		Topic: topic, QueueID: queue, Messages: messages, DefaultTopic: templateTopic, DefaultQueues: 8,
	})
	if err != nil {
		t.Fatalf("send to %s: %v", topic, err)
	}
	return res
}

// sendBodies stores n messages with the bodies 0, 1, 2 …, one batch.
func (tb *testBroker) sendBodies(t testing.TB, topic string, queue int32, n int) []SendResult {
	t.Helper()
	messages := make([]message.Message, n)
	for i := range messages {
		messages[i] = plain(fmt.Sprint(i))
	}
	return tb.send(t, topic, queue, messages...)
}

// decodeAll decodes the messages of an answer.
func decodeAll(t testing.TB, b []byte, ends []int) (out []message.Message) {
	t.Helper()
	start := 0
	for _, end := range ends {
		m, n, err := message.Decode(b[start:end])
		if err != nil || n != end-start {
			t.Fatalf("decode: %d of %d bytes, %v", n, end-start, err)
		}
		out = append(out, m)
		start = end
	}
	return out
}

func (tb *testBroker) pull(t testing.TB, group, topic string, queue int32, offset int64) *PullResult {
	t.Helper()
	res, err := tb.Pull(context.Background(), &PullRequest{
		Group: group, Topic: topic, QueueID: queue, Offset: offset, CommitOffset: -1,
	})
	if err != nil {
		t.Fatalf("pull: %v", err)
	}
	return res
}

func wantCode(t testing.TB, what string, err error, want Code) {
	t.Helper()
	if err == nil || CodeOf(err) != want {
		t.Errorf("%s: error %v with code %d, want code %d", what, err, CodeOf(err), want)
	}
}

type recordPosition = record.Position

func mustTopicID(t testing.TB, tb *testBroker, topic string) kvindex.ID {
	t.Helper()
	found, err := tb.Topic(topic)
	if err != nil {
		t.Fatal(err)
	}
	return found.ID
}
