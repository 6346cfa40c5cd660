package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/txn"
)

// later makes the record of a note that waits: a delayed one, or with half a half message whose producer is asked then.
func (n note) later(t tb, at int64, half bool) record.Record {
	t.Helper()
	r := n.record(t)
	m, _, err := message.Decode(r.Payload[topicBytes:])
	if err != nil {
		t.Fatal(err)
	}
	r.Kind = record.KindDelayed
	add := AppendDelayed
	if half {
		r.Kind, add = record.KindHalf, AppendHalf
	}
	if r.Payload, err = add(nil, at, n.topic, &m); err != nil {
		t.Fatal(err)
	}
	return r
}

// patient is a store under test with the simplest model of its messages that can be.
type patient struct {
	disk   *vfs.MemFS
	opts   Options
	clock  *clock.Fake
	s      *Store
	topic  kvindex.ID
	sent   []*waiter
	queues [2][]*waiter // in the order in which they became visible
}

// waiter is a message of the model.
type waiter struct {
	id    string
	queue int
	timer delay.Point     // while it is pending
	half  record.Position // of a transaction's
	hour  int64           // in which that was stored, ms
	state string          // pending, half, parked, recalled, rolled-back, expired; "" in its queue
	since time.Time       // when it became visible
}

func (x *patient) now() int64 { return x.clock.Now().UnixMilli() }

func newPatient(t tb) *patient {
	x := &patient{disk: vfs.NewCrashableMem(), clock: clock.NewFake(epoch)}
	x.opts = testOptions(place{x.disk, "data"}, x.clock)
	x.opts.SegmentSize, x.opts.Retention, x.opts.horizon = 16<<10, 8*time.Hour, 0
	x.s = mustOpen(t, x.opts)
	x.topic = putTopic(t, x.s, "later")
	return x
}

func (x *patient) pick(t *rapid.T, state ...string) *waiter {
	var in []*waiter
	for _, w := range x.sent {
		if slices.Contains(state, w.state) {
			in = append(in, w)
		}
	}
	if len(in) == 0 {
		return nil
	}
	return rapid.SampledFrom(in).Draw(t, "message")
}

func (x *patient) visible(w *waiter) {
	w.state, w.since = "", x.clock.Now()
	x.queues[w.queue] = append(x.queues[w.queue], w)
}

// unlisted says that a pending message may have outlived its part of the key index: it is overdue, or was committed when that
// was gone, until it is carried forward.
func (x *patient) unlisted(w *waiter) bool {
	return w.timer.Due <= x.now() || w.half > 0 && x.now()-w.hour > x.opts.Retention.Milliseconds()
}

// send sends one proposal of messages of all kinds.
func (x *patient) send(t *rapid.T) {
	var recs []record.Record
	var ws []*waiter
	for range rapid.IntRange(1, 6).Draw(t, "messages") {
		w := &waiter{id: fmt.Sprintf("id%d", len(x.sent)+len(ws)), queue: rapid.IntRange(0, 1).Draw(t, "queue")}
		n := note{topic: x.topic, queue: int32(w.queue), id: w.id, keys: "k", body: w.id + strings.Repeat(".", 400)}
		r := n.record(t)
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 1, 2:
			due := x.now() + rapid.SampledFrom([]int64{-1, 0, 1, 50, 60_000, 3_600_000, 7 * 3_600_000, 30 * 3_600_000}).Draw(t, "delay")
			if r = n.later(t, due, false); due > x.now() {
				w.state, w.timer.Due = "pending", due
			}
		case 3:
			r, w.state = n.later(t, x.now()+6000, true), "half"
		}
		recs, ws = append(recs, r), append(ws, w)
	}
	p := proposal(t, x.s, recs)
	for i, w := range ws {
		switch w.state {
		case "pending":
			w.timer.Origin = p.Positions[i]
		case "half":
			w.half, w.hour = p.Positions[i], x.clock.Now().Truncate(time.Hour).UnixMilli()
		default:
			x.visible(w)
		}
	}
	x.sent = append(x.sent, ws...)
}

func dueTimers(s *Store, now int64, most int) ([]delay.Timer, error) {
	look, err := s.Delay.Look(now, most, nil)
	if err == nil {
		look.Done(false)
	}
	return look.Due, err
}

// fire does what the broker's scheduler does, for a few timers at a time.
func (x *patient) fire(t *rapid.T) {
	most := rapid.IntRange(1, 5).Draw(t, "most")
	timers, err := dueTimers(x.s, x.now(), most)
	if err != nil {
		t.Fatal(err)
	}
	var want []*waiter
	for _, w := range x.sent {
		if w.state == "pending" && w.timer.Due <= x.now() {
			want = append(want, w)
		}
	}
	slices.SortFunc(want, func(a, b *waiter) int {
		return cmp.Or(cmp.Compare(a.timer.Due, b.timer.Due), cmp.Compare(a.timer.Origin, b.timer.Origin))
	})
	want = want[:min(most, len(want))]
	if len(timers) != len(want) {
		t.Fatalf("%d timers are due, the model has %d", len(timers), len(want))
	}
	old, err := x.s.PositionAt(x.now() - delay.Horizon.Milliseconds())
	if err != nil {
		t.Fatal(err)
	}
	buf := NewBuffer()
	defer buf.Release()
	var recs []record.Record
	for i := range timers {
		tm := &timers[i]
		if tm.Point != want[i].timer {
			t.Fatalf("timer %+v, the model has %+v", tm, want[i].timer)
		}
		if tm.Position >= old {
			recs = append(recs, delay.Fire{From: tm.Point, To: tm.Point}.Record())
			continue
		}
		layout, err := x.s.ReadStored(tm.Position, tm.Size, buf)
		if err != nil {
			t.Fatal(err)
		}
		recs = append(recs, CopyRecord(tm.Point, true, tm.Topic, layout))
	}
	if len(recs) == 0 {
		return
	}
	for i, out := range mustAppend(t, x.s, recs...) {
		if out.Refused {
			t.Fatalf("firing %v was refused", timers[i].Point)
		}
	}
	for _, w := range want {
		x.visible(w)
	}
}

// early asks for what must not be: to fire what is not due.
func (x *patient) early(t *rapid.T) {
	w := x.pick(t, "pending")
	if w == nil || w.timer.Due <= x.now() {
		return
	}
	out := mustAppend(t, x.s, delay.Fire{From: delay.Point{}, To: w.timer}.Record())
	if !out[0].Refused {
		t.Fatalf("a timer fired %d ms early", w.timer.Due-x.now())
	}
}

func (x *patient) recall(t *rapid.T) {
	w := x.pick(t, "pending", "")
	if w == nil {
		return
	}
	pending := w.state == "pending"
	at, found, err := x.s.DelayedByID(x.topic, w.id)
	if err != nil || found != pending && !x.unlisted(w) || found && at != w.timer {
		t.Fatalf("timer of %s by its id: %v, %v, %v; the model: %+v", w.id, at, found, err, w)
	}
	out := mustAppend(t, x.s, delay.Recall{Point: w.timer, Topic: x.topic}.Record())
	if out[0].Refused == pending {
		t.Fatalf("recall of %+v: %+v", w, out[0])
	}
	if pending {
		w.state = "recalled"
	}
}

func (x *patient) end(t *rapid.T) {
	w := x.pick(t, "half", "parked", "rolled-back", "")
	if w == nil || w.half == 0 {
		return
	}
	e := txn.End{Position: w.half, Action: rapid.SampledFrom([]txn.Action{txn.Commit, txn.Rollback}).Draw(t, "action")}
	if e.Action == txn.Commit && rapid.Bool().Draw(t, "delayed") {
		e.Due = x.now() + rapid.SampledFrom([]int64{0, 5000, 9 * 3_600_000}).Draw(t, "delay")
	}
	open := w.state == "half" || w.state == "parked"
	if out := mustAppend(t, x.s, e.Record()); out[0].Refused == open {
		t.Fatalf("end of %+v: %+v", w, out[0])
	}
	switch {
	case !open:
	case e.Action == txn.Rollback:
		w.state = "rolled-back"
	case e.Due > x.now() || x.now()-w.hour > delay.Horizon.Milliseconds(): // too old to be pointed at: it needs a copy
		w.state, w.timer = "pending", delay.Point{Due: max(e.Due, x.now()), Origin: w.half}
	default:
		x.visible(w)
	}
}

func (x *patient) check(t *rapid.T) {
	w := x.pick(t, "half")
	if w == nil {
		return
	}
	c := txn.Check{Position: w.half, Next: x.now() + 30_000}
	if rapid.IntRange(0, 3).Draw(t, "park") == 0 {
		c.Park, w.state = txn.NoAnswer, "parked"
	}
	mustAppend(t, x.s, txn.ChecksRecord([]txn.Check{c}))
}

func (x *patient) advance(t *rapid.T) {
	x.clock.Advance(time.Duration(rapid.SampledFrom([]int64{1, 50, 7000, 61_000, 1_800_000, 3_600_000, 5 * 3_600_000}).Draw(t, "ms")) * time.Millisecond)
}

func (x *patient) expire(t *rapid.T) {
	if err := x.s.Expire(context.Background(), x.clock.Now()); err != nil {
		t.Fatal(err)
	}
	first := x.s.log.First()
	for _, w := range x.sent {
		if (w.state == "half" || w.state == "parked") && w.half < first {
			w.state = "expired"
		}
	}
}

// crash is a power cut: what was acknowledged is there again.
func (x *patient) crash(t *rapid.T) {
	clone := x.disk.CrashClone(vfs.CrashCloneCfg{})
	mustClose(t, x.s)
	x.disk, x.opts.FS = clone, clone
	x.s = mustOpen(t, x.opts)
}

// compare looks at everything that the model knows.
func (x *patient) compare(t *rapid.T) {
	cutoff := kvindex.HourOf(x.clock.Now().Add(-x.opts.Retention).UnixMilli())
	for q, want := range x.queues {
		low, high, err := x.s.Bounds(x.topic, int32(q))
		if err != nil || high != int64(len(want)) {
			t.Fatalf("queue %d: %d to %d, %v, the model has %d", q, low, high, err, len(want))
		}
		for _, w := range want[:low] {
			if kvindex.HourOf(w.since.UnixMilli()) >= cutoff {
				t.Fatalf("queue %d lost %+v", q, w)
			}
		}
		for i, m := range readAll(t, x.s, x.topic, int32(q), low, 1<<20) {
			w := want[int(low)+i]
			if id, _ := message.Property(m.Properties, message.PropUniqueKey); string(id) != w.id || m.StoreTimestamp != w.since.UnixMilli() ||
				!strings.HasPrefix(string(m.Body), w.id+".") {
				t.Fatalf("queue %d: message %d is %s of %d, want %+v", q, i, id, m.StoreTimestamp, w)
			}
		}
	}
	if err := delay.Check(x.s.Reader()); err != nil {
		t.Fatal(err)
	}
	if err := txn.CheckRows(x.s.Reader()); err != nil {
		t.Fatal(err)
	}
	x.lookUp(t)
}

// lookUp asks for one message by its unique id, which its key index hour may have outlived.
func (x *patient) lookUp(t *rapid.T) {
	if len(x.sent) == 0 {
		return
	}
	w := rapid.SampledFrom(x.sent).Draw(t, "looked up")
	buf := NewBuffer()
	defer buf.Release()
	ends, err := x.s.Query(x.topic, kvindex.IndexUniqueID, w.id, 0, 1<<60, 9, buf)
	if err != nil || len(ends) > 1 || len(ends) == 0 && w.state == "pending" && !x.unlisted(w) {
		t.Fatalf("%+v is found %d times, %v", w, len(ends), err)
	}
	if len(ends) == 0 {
		return
	}
	m := decodeAll(t, buf.B, ends)[0]
	state, _ := message.Property(m.Properties, PropState)
	want := map[string]string{
		"": "", "pending": "delayed until", "half": "transaction undecided, asked", "parked": "transaction undecided and parked",
		"recalled": "recalled", "rolled-back": "transaction rolled-back", "expired": "transaction expired",
	}[w.state]
	if !strings.HasPrefix(string(state), want) || want == "" && len(state) > 0 {
		t.Fatalf("%+v is said to be %q", w, state)
	}
	if w.state == "" && x.queues[w.queue][m.QueueOffset] != w {
		t.Fatalf("%+v is said to have offset %d", w, m.QueueOffset)
	}
}

// TestMessagesThatWaitAgainstAModel: none comes early, is lost or comes twice; none that was recalled or rolled back comes;
// they come in the order of their due times; over retention, copies and power cuts.
func TestMessagesThatWaitAgainstAModel(t *testing.T) {
	skipWithoutMemory(t)
	rapid.Check(t, func(t *rapid.T) {
		x := newPatient(t)
		t.Repeat(map[string]func(*rapid.T){
			"send": x.send, "send more": x.send, "fire": x.fire, "fire more": x.fire, "early": x.early, "recall": x.recall,
			"end": x.end, "check": x.check, "advance": x.advance, "expire": x.expire, "crash": x.crash, "": x.compare,
		})
		mustVerify(t, x.s)
		mustClose(t, x.s)
	})
}

// TestALongTimerNeitherPinsTheLogNorLosesItsBody: its segment goes, and a year later it is there.
func TestALongTimerNeitherPinsTheLogNorLosesItsBody(t *testing.T) {
	c := clock.NewFake(epoch)
	o := testOptions(newPlace(t), c)
	o.SegmentSize, o.Retention, o.horizon = 16<<10, 8*time.Hour, 0
	s := mustOpen(t, o)
	topic := putTopic(t, s, "later")
	due := epoch.Add(365 * 24 * time.Hour)
	mustAppend(t, s, note{topic: topic, id: "far", body: "far" + strings.Repeat(".", 800)}.later(t, due.UnixMilli(), false))
	var most int64
	for range 60 { // a day goes by in steps of a few hours, many times faster afterwards
		for i := range 30 {
			send(t, s, note{topic: topic, queue: 1, id: fmt.Sprint(i), body: strings.Repeat(".", 900)})
		}
		c.Advance(5 * time.Hour)
		if err := s.Expire(context.Background(), c.Now()); err != nil {
			t.Fatal(err)
		}
		most = max(most, s.Stats().LogBytes)
	}
	if s.log.First() == 0 || most > 500<<10 {
		t.Fatalf("the log begins at %d and had up to %d bytes", s.log.First(), most)
	}
	mustVerify(t, s)
	mustClose(t, s)
	s = mustOpen(t, o)
	c.Advance(due.Sub(c.Now()))
	timers, err := dueTimers(s, c.Now().UnixMilli(), 9)
	if err != nil || len(timers) != 1 || timers[0].Position == timers[0].Origin {
		t.Fatalf("timers %+v, %v", timers, err)
	}
	buf := NewBuffer()
	defer buf.Release()
	layout, err := s.ReadStored(timers[0].Position, timers[0].Size, buf)
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, s, CopyRecord(timers[0].Point, true, topic, layout))
	got := readAll(t, s, topic, 0, 0, 9)
	if len(got) != 1 || !strings.HasPrefix(string(got[0].Body), "far.") {
		t.Fatalf("%d messages", len(got))
	}
	mustClose(t, s)
}

// TestTimersOfADeletedTopicGoNowhere: they cost their row until they are due, and hold nothing up.
func TestTimersOfADeletedTopicGoNowhere(t *testing.T) {
	c := clock.NewFake(epoch)
	o := testOptions(newPlace(t), c)
	s := mustOpen(t, o)
	topic, other := putTopic(t, s, "gone"), putTopic(t, s, "other")
	due := epoch.Add(time.Minute).UnixMilli()
	for _, id := range []kvindex.ID{topic, other} {
		mustAppend(t, s, note{topic: id, id: "t", body: "b"}.later(t, due, false), note{topic: id, id: "h", body: "b"}.later(t, due, true))
	}
	gone, err := s.Catalog.TopicByID(topic)
	if err != nil {
		t.Fatal(err)
	}
	del, err := s.Catalog.DeleteTopic(gone)
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, s, del)
	c.Advance(time.Hour)
	timers, err := dueTimers(s, c.Now().UnixMilli(), 9)
	if err != nil || len(timers) != 2 {
		t.Fatalf("%d timers, %v", len(timers), err)
	}
	mustAppend(t, s, delay.Fire{From: timers[0].Point, To: timers[1].Point}.Record())
	if err := s.Txn.Each(false, 0, func(h *txn.Half) bool {
		return s.Propose(endProposal(h.Position)) == nil
	}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both transactions to end", func() bool {
		n := 0
		return s.Txn.Each(false, 0, func(*txn.Half) bool { n++; return true }) == nil && n == 0
	})
	mustAppend(t, s, delay.Recall{}.Record()) // refused, and answered when the queues show what the rows do
	if low, high, err := s.Bounds(topic, 0); low != 0 || high != 0 || err != nil {
		t.Fatalf("the deleted topic's queue: %d to %d, %v", low, high, err)
	}
	if _, high, err := s.Bounds(other, 0); high != 2 || err != nil {
		t.Fatalf("the other's queue ends at %d, %v", high, err)
	}
	if err := delay.Check(s.Reader()); err != nil {
		t.Fatal(err)
	}
	if err := txn.CheckRows(s.Reader()); err != nil {
		t.Fatal(err)
	}
	mustVerify(t, s)
	mustClose(t, s)
}
