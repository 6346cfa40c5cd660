package javaimport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/javastore"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/pop"
	"github.com/cairnmq/cairn/store"
	"github.com/cairnmq/cairn/txn"
)

var epoch = time.Date(2026, 3, 1, 12, 30, 0, 0, time.UTC)

// java is a store folder as a Java broker would leave it.
type java struct {
	t        testing.TB
	dir      string
	log      []byte
	at       int64            // ms: store time of the next message
	offsets  map[place]int64  // next offset of each queue
	queues   map[place][]byte // consume queues
	noQueues bool
}

const base = 1 << 20 // position of the commitlog's first byte

func newJava(t testing.TB) *java {
	return &java{t: t, dir: t.TempDir(), at: epoch.UnixMilli(), offsets: map[place]int64{}, queues: map[place][]byte{}}
}

// put stores a message with these properties, and answers its offset.
func (j *java) put(topic string, queue int32, id, body string, props ...string) int64 {
	j.t.Helper()
	pairs := map[string]string{message.PropUniqueKey: id}
	for i := 0; i < len(props); i += 2 {
		pairs[props[i]] = props[i+1]
	}
	at := place{topic, queue}
	m := message.Message{
		Topic: topic, QueueID: queue, QueueOffset: j.offsets[at], Body: []byte(body), Properties: message.EncodeProperties(pairs),
		BornTimestamp: j.at - 3, StoreTimestamp: j.at, BornHost: netip.MustParseAddrPort("10.0.0.1:5000"),
		StoreHost: netip.MustParseAddrPort("10.0.0.2:10911"), PhysicalOffset: base + int64(len(j.log)),
	}
	if id == "" {
		m.Properties = nil
	}
	position := base + len(j.log)
	var err error
	if j.log, err = m.AppendEncode(j.log); err != nil {
		j.t.Fatal(err)
	}
	entry := binary.BigEndian.AppendUint64(nil, uint64(position))
	entry = binary.BigEndian.AppendUint32(entry, uint32(base+len(j.log)-position))
	j.queues[at] = append(j.queues[at], binary.BigEndian.AppendUint64(entry, uint64(j.at+77_000))...)
	j.offsets[at]++
	return m.QueueOffset
}

// start lets a queue begin at an offset, as after the commitlog's first files were deleted.
func (j *java) start(topic string, queue int32, offset int64) {
	at := place{topic, queue}
	j.offsets[at] = offset
	j.queues[at] = slices.Repeat(append(make([]byte, 8), 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0), int(offset))
}

func (j *java) write(name, text string) {
	j.t.Helper()
	file := filepath.Join(j.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		j.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		j.t.Fatal(err)
	}
}

func (j *java) folder() *javastore.Folder {
	j.t.Helper()
	j.write(fmt.Sprintf("commitlog/%020d", base), string(j.log)+strings.Repeat("\x00", 4096))
	if !j.noQueues {
		for at, entries := range j.queues {
			j.write(fmt.Sprintf("consumequeue/%s/%d/%020d", at.topic, at.queue, 0), string(entries)+strings.Repeat("\x00", 200))
		}
	}
	f, err := javastore.OpenFolder(j.dir)
	if err != nil {
		j.t.Fatal(err)
	}
	return f
}

// everything is a store with something of each kind.
func everything(t testing.TB) *java {
	j := newJava(t)
	j.write("config/topics.json", `{"topicConfigTable":{"orders":{"readQueueNums":4,"writeQueueNums":4},"empty":{"readQueueNums":1,"writeQueueNums":1},
		"%RETRY%g":{"readQueueNums":1,"writeQueueNums":1},"%RETRY%p_orders":{"readQueueNums":1,"writeQueueNums":1},
		"rmq_sys_wheel_timer":{},"SCHEDULE_TOPIC_XXXX":{},"RMQ_SYS_TRANS_HALF_TOPIC":{}}}`)
	j.write("config/subscriptionGroup.json", `{"subscriptionGroupTable":{"g":{"retryMaxTimes":3},"p":{},"CID_ONSAPI_PULL":{}}}`)
	j.write("config/consumerOffset.json", `{"offsetTable":{"orders@g":{0:2,1:501},"orders@p":{0:5},"empty@g":{0:40},
		"%RETRY%p_orders@p":{0:1},"RMQ_SYS_TRANS_HALF_TOPIC@CID_RMQ_SYS_TRANS":{0:1}}}`)
	j.write("config/delayOffset.json", `{"offsetTable":{3:1}}`)
	j.start("orders", 1, 500)
	j.start("empty", 0, 40)
	for i := range 6 {
		j.put("orders", 0, fmt.Sprintf("o-%d", i), fmt.Sprintf("order %d", i), message.PropKeys, fmt.Sprintf("k%d", i), message.PropTags, "a")
		j.at += int64(i % 2)
	}
	j.put("orders", 1, "o-500", "order 500")
	j.put("orders", 1, "o-501", "order 501")
	j.put("gone", 0, "x", "of a topic that was deleted")
	j.at += 5

	real := []string{message.PropRealTopic, "orders", message.PropRealQueueID, "2"}
	due := func(ms int64) string { return fmt.Sprint(epoch.UnixMilli() + ms) }
	j.put(timerTopic, 0, "t-fired", "timer that fired", append(real, message.PropTimerOut, due(1000))...)
	j.put(timerTopic, 0, "t-waits", "timer that waits", append(real, message.PropTimerOut, due(90_000), message.PropTimerDeliver, due(90_640))...)
	j.put(timerTopic, 0, "t-rolls", "timer that rolls", append(real, message.PropTimerOut, due(900_000))...)
	j.put(timerTopic, 0, "t-recalled", "timer that was recalled", append(real, message.PropTimerOut, due(95_000))...)
	j.put(timerTopic, 0, "recall", "", append(real, message.PropTimerOut, due(95_000), message.PropTimerDelUniqKey, "orders+t-recalled")...)
	j.put(timerTopic, 0, "t-rolls", "timer that rolls", append(real, message.PropTimerOut, due(900_000), message.PropTimerRollTimes, "1")...)
	j.put("orders", 2, "t-fired", "timer that fired", append(real, message.PropTimerOut, due(1000))...)
	j.put(scheduleTopic, 2, "l-done", "level that is done", append(real, message.PropDelayLevel, "3")...)
	j.put(scheduleTopic, 2, "l-waits", "level that waits", append(real, message.PropDelayLevel, "3")...)
	j.at += 9

	half := append(real, message.PropTranMsg, "true", message.PropProducerGroup, "pg")
	j.put(halfTopic, 0, "h-aside", "half that was put aside", half...)
	ended := j.put(halfTopic, 0, "h-ended", "half that was rolled back", half...)
	j.put(halfTopic, 0, "h-committed", "half that was committed", half...)
	j.put(halfTopic, 0, "h-open", "half that is open", half...)
	j.put(opTopic, 0, "", fmt.Sprintf("%d,", ended))
	j.put("orders", 2, "h-committed", "half that was committed", real...)

	revive := []string{message.PropRealTopic, reviveTopic + "DefaultCluster", message.PropRealQueueID, "0"}
	popped := epoch.UnixMilli()
	j.put(timerTopic, 0, "ck", fmt.Sprintf(`{"bm":1,"so":1,"pt":%d,"it":60000,"q":0,"t":"orders","c":"p","ro":0,"n":3,"d":[0,1,3]}`, popped),
		append(revive, message.PropTags, checkpointTag)...)
	j.put(timerTopic, 0, "ack", fmt.Sprintf(`{"ao":2,"so":1,"c":"p","t":"orders","q":0,"pt":%d}`, popped), append(revive, message.PropTags, ackTag)...)
	j.put("%RETRY%p_orders", 0, "o-0", "order 0")
	j.put("%RETRY%p_orders", 0, "o-3", "order 3")
	j.put("%RETRY%g", 0, "o-1", "order 1")
	return j
}

// found is what a store of Cairn holds, as text.
func found(t testing.TB, fs vfs.FS) []string {
	t.Helper()
	s, err := store.Open(context.Background(), options(fs))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := s.Verify(context.Background()); err != nil {
		t.Error(err)
	}
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	topics := map[string]int32{"orders": 4, "empty": 1, "%RETRY%g": 1, "%RETRY%p": 1}
	for _, name := range slices.Sorted(maps.Keys(topics)) {
		topic, err := s.Catalog.Topic(name)
		if err != nil {
			t.Fatal(err)
		}
		for q := range topics[name] {
			low, high, err := s.Bounds(topic.ID, q)
			if err != nil {
				t.Fatal(err)
			}
			say("%s/%d from %d to %d", name, q, low, high)
			entries, err := s.Entries(topic.ID, q, 0, 100, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				buf := store.NewBuffer()
				b, err := s.ReadByPosition(e.Position, buf)
				if err != nil {
					t.Fatal(err)
				}
				m, _, err := message.Decode(b)
				if err != nil {
					t.Fatal(err)
				}
				id, _ := message.Property(m.Properties, message.PropUniqueKey)
				say("  %d %s %q stored +%d born +%d from %s", m.QueueOffset, id, m.Body, m.StoreTimestamp-epoch.UnixMilli(), m.BornTimestamp-epoch.UnixMilli(), m.BornHost)
				buf.Release()
			}
			for _, name := range []string{"g", "p"} {
				g, err := s.Catalog.Group(name)
				if err != nil {
					t.Fatal(err)
				}
				if c, ok, err := s.Pop.Cursor(g.ID, topic.ID, q); err != nil {
					t.Fatal(err)
				} else if ok {
					say("  %s is at %d, hands out from %d", name, c.Committed, c.Next)
				}
			}
		}
	}
	return append(out, waiting(t, s)...)
}

// waiting is what is not to be had yet.
func waiting(t testing.TB, s *store.Store) (out []string) {
	t.Helper()
	text := func(at int64, size int32) string {
		buf := store.NewBuffer()
		defer buf.Release()
		b, err := s.ReadStored(record.Position(at), size, buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(message.BodyOf(b))
	}
	err := s.Delay.Each(delay.Point{}, func(m *delay.Timer) bool {
		out = append(out, fmt.Sprintf("%s: due +%d in queue %d", text(int64(m.Position), m.Size), m.Due-epoch.UnixMilli(), m.Queue))
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Txn.Each(false, 0, func(h *txn.Half) bool {
		out = append(out, fmt.Sprintf("%s: of %s, asked first +%d", text(int64(h.Position), h.Size), h.Group, h.CheckAt-epoch.UnixMilli()))
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	orders, err := s.Catalog.Topic("orders")
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Catalog.Group("p")
	if err != nil {
		t.Fatal(err)
	}
	err = s.Pop.EachFrom(p.ID, orders.ID, pop.Ref{}, func(e *pop.Expired) bool {
		out = append(out, fmt.Sprintf("p has order %d until +%d", e.Offset, e.VisibleAt-epoch.UnixMilli()))
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func options(fs vfs.FS) store.Options {
	return store.Options{FS: fs, Dir: "data", Engine: kvindex.KindPebble, SegmentSize: 64 << 10, CacheBytes: 8 << 20, Clock: clock.NewFake(epoch.Add(time.Hour)), Logger: zerolog.Nop()}
}

func run(fs vfs.FS, f *javastore.Folder, written func()) (Report, error) {
	return Run(context.Background(), f, Options{Store: options(fs), Clock: clock.NewFake(epoch.Add(time.Hour)), written: written})
}

// wanted is what of everything has to be found.
const wanted = `%RETRY%g/0 from 0 to 1
  0 o-1 "order 1" stored +17 born +14 from 10.0.0.1:5000
%RETRY%p/0 from 0 to 0
empty/0 from 40 to 40
  g is at 40, hands out from 40
orders/0 from 0 to 6
  0 o-0 "order 0" stored +0 born +-3 from 10.0.0.1:5000
  1 o-1 "order 1" stored +0 born +-3 from 10.0.0.1:5000
  2 o-2 "order 2" stored +1 born +-2 from 10.0.0.1:5000
  3 o-3 "order 3" stored +1 born +-2 from 10.0.0.1:5000
  4 o-4 "order 4" stored +2 born +-1 from 10.0.0.1:5000
  5 o-5 "order 5" stored +2 born +-1 from 10.0.0.1:5000
  g is at 2, hands out from 2
  p is at 5, hands out from 5
orders/1 from 500 to 502
  500 o-500 "order 500" stored +3 born +0 from 10.0.0.1:5000
  501 o-501 "order 501" stored +3 born +0 from 10.0.0.1:5000
  g is at 501, hands out from 501
orders/2 from 0 to 2
  0 t-fired "timer that fired" stored +8 born +5 from 10.0.0.1:5000
  1 h-committed "half that was committed" stored +17 born +14 from 10.0.0.1:5000
orders/3 from 0 to 0
level that waits: due +77008 in queue 2
timer that waits: due +90640 in queue 2
timer that rolls: due +900000 in queue 2
half that is open: of pg, asked first +6017
p has order 4 until +60000
p has order 3 until +3600000`

func checkFound(t testing.TB, what string, fs vfs.FS) {
	t.Helper()
	got, want := found(t, fs), strings.Split(wanted, "\n")
	for i := range max(len(got), len(want)) {
		g, w := "nothing", "nothing"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Fatalf("%s: line %d is %s, want %s", what, i, g, w)
		}
	}
}

// No timer comes before the time that its sender gave, however the Java broker has rounded that.
func TestWished(t *testing.T) {
	const stored, out = 1_000_250, 1_090_000
	for _, c := range []struct {
		property, value string
		want            int64
	}{
		{message.PropTimerDeliver, "1091000", 1_091_000}, {message.PropTimerDeliver, "1090001", 1_090_001}, {message.PropTimerDeliver, "5", out},
		{message.PropTimerDelayMs, "90001", 1_090_251}, {message.PropTimerDelaySec, "90", 1_090_250},
		{message.PropTimerDelaySec, "95", out + maxPrecision}, // written again
		{message.PropKeys, "k", out}, {message.PropTimerDeliver, "soon", out},
	} {
		m := &javastore.Message{}
		m.StoreTimestamp, m.Properties = stored, message.AppendProperty(nil, c.property, c.value)
		if got := wished(m, out); got != c.want {
			t.Errorf("%s=%s: %d, want %d", c.property, c.value, got, c.want)
		}
	}
}

func TestImportOfEverything(t *testing.T) {
	fs := vfs.NewMem()
	java := everything(t)
	f := java.folder()
	report, err := run(fs, f, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := Report{Topics: 3, Groups: 2, Offsets: 4, Messages: 11, Delayed: 3, Halves: 1, InFlight: 2, Skipped: map[string]int64{"gone": 1}, Bytes: int64(len(java.log))}
	if !reflect.DeepEqual(report, want) {
		t.Errorf("report %+v, want %+v", report, want)
	}
	checkFound(t, "imported", fs)
	if again, err := run(fs, f, nil); !again.Before {
		t.Errorf("it had ended before: %+v", again)
	} else if err != nil {
		t.Errorf("once more: %v", err)
	}
	checkFound(t, "imported once more", fs)
}

// TestImportGoesOn: a process that is killed after any proposal leaves a folder from which the next run comes to the same end.
func TestImportGoesOn(t *testing.T) {
	f := everything(t).folder()
	total := 0
	if _, err := run(vfs.NewMem(), f, func() { total++ }); err != nil {
		t.Fatal(err)
	}
	if total < 10 {
		t.Fatalf("%d proposals: too few to be killed between", total)
	}
	for stop := range total {
		fs := vfs.NewCrashableMem()
		var killed *vfs.MemFS
		n := 0
		_, err := run(fs, f, func() {
			if n == stop {
				killed = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, uint64(stop)))})
			}
			n++
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := run(killed, f, nil); err != nil {
			t.Fatalf("after %d proposals: %v", stop+1, err)
		}
		checkFound(t, fmt.Sprintf("killed after %d proposals", stop+1), killed)
	}
}

// TestImportWithoutConsumeQueues: of a store with its consume queues in RocksDB the messages themselves tell of their queues. A topic
// that was deleted and made anew has the messages since.
func TestImportWithoutConsumeQueues(t *testing.T) {
	j := newJava(t)
	j.noQueues = true
	j.write("config/topics.json", `{"topicConfigTable":{"orders":{"readQueueNums":2,"writeQueueNums":2}}}`)
	j.write("config/subscriptionGroup.json", `{"subscriptionGroupTable":{"g":{}}}`)
	j.write("config/consumerOffset.json", `{"offsetTable":{"orders@g":{0:1,1:9}}}`)
	j.start("orders", 0, 30)
	j.put("orders", 0, "a", "of the topic before")
	j.start("orders", 0, 0)
	j.put("orders", 0, "b", "anew")
	j.put("orders", 0, "c", "anew, too")
	fs := vfs.NewMem()
	report, err := run(fs, j.folder(), nil)
	if err != nil || report.Messages != 3 {
		t.Fatalf("%+v, %v", report, err)
	}
	s, err := store.Open(context.Background(), options(fs))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // only read
	orders, err := s.Catalog.Topic("orders")
	if err != nil {
		t.Fatal(err)
	}
	for queue, want := range map[int32][2]int64{0: {0, 2}, 1: {9, 9}} {
		if low, high, err := s.Bounds(orders.ID, queue); low != want[0] || high != want[1] || err != nil {
			t.Errorf("queue %d from %d to %d, %v, want %v", queue, low, high, err, want)
		}
	}
}

func TestImportRefuses(t *testing.T) {
	fs := vfs.NewMem()
	if _, err := run(fs, everything(t).folder(), nil); err != nil {
		t.Fatal(err)
	}
	other := everything(t)
	other.put("orders", 0, "more", "stored since")
	if _, err := run(fs, other.folder(), nil); !errors.Is(err, ErrChanged) {
		t.Errorf("another store: %v", err)
	}
	used := vfs.NewMem()
	s, err := store.Open(context.Background(), options(used))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Append(context.Background(), s.Catalog.PutTopic(other.folder().Topics[0])); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := run(used, other.folder(), nil); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("a folder with a topic: %v", err)
	}
	holes := newJava(t)
	holes.noQueues = true
	holes.write("config/topics.json", `{"topicConfigTable":{"orders":{}}}`)
	holes.put("orders", 0, "a", "a")
	holes.offsets[place{"orders", 0}] = 7
	holes.put("orders", 0, "b", "b")
	if _, err := run(vfs.NewMem(), holes.folder(), nil); !errors.Is(err, ErrUnsupported) {
		t.Errorf("offsets with holes: %v", err)
	}
}
