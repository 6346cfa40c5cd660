package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/tiered"
	"github.com/cairnmq/cairn/tiered/objects"
	"github.com/cairnmq/cairn/txn"
)

// lossy is a store whose writes fail when it is told so, carried out or not.
type lossy struct {
	objects.Store
	after int  // writes that succeed before one that fails; negative: all do
	does  bool // the one that fails is carried out
}

var errLossy = errors.New("the store does not answer")

func (l *lossy) write(do func() error) error {
	l.after--
	if l.after != -1 {
		return do()
	}
	if l.does {
		if err := do(); err != nil {
			return err
		}
	}
	return errLossy
}

func (l *lossy) Put(ctx context.Context, name string, content io.ReadSeeker, size int64) error {
	return l.write(func() error { return l.Store.Put(ctx, name, content, size) })
}

func (l *lossy) Create(ctx context.Context, name string, content []byte) error {
	return l.write(func() error { return l.Store.Create(ctx, name, content) })
}

// keeper is a store with a tier, and the simplest model of what is in both.
type keeper struct {
	t      *rapid.T
	tb     *testing.T
	bucket *lossy
	disk   *vfs.MemFS
	clock  *clock.Fake
	opts   Options
	s      *Store
	topics map[string]*keptTopic
	wait   []*keptWaiter
	parts  []*keptPart
	gone   record.Position // parts before it have left the manifest
	sent   int
	seen   keptCounts
}

// keptCounts is what happened at all, over all runs.
type keptCounts struct{ parts, cleared, compacted, dropped, trimmed, carried, copied, givenUp int }

type keptTopic struct {
	id      kvindex.ID
	reserve string // the attribute; "": none
	queues  [2]keptQueue
}

type keptQueue struct {
	min, local int64
	msgs       []keptMessage // from offset 0 on
}

type keptMessage struct {
	time     int64 // ms
	id, body string
}

// keptWaiter is a timer, or a half message.
type keptWaiter struct {
	topic    *keptTopic
	queue    int32
	half     bool
	point    delay.Point
	id, body string
}

// keptPart is a part of the tier as it was uploaded.
type keptPart struct {
	tiered.Part
	offloaded bool
	queues    map[queueKey]keptMessage // the last message of each, whose id is the offset
}

func newKeeper(t *rapid.T, tb *testing.T) *keeper {
	folder, err := objects.OpenFolder(tb.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	x := &keeper{
		t: t, tb: tb, disk: vfs.NewCrashableMem(), clock: clock.NewFake(epoch), bucket: &lossy{Store: folder, after: -1},
		topics: map[string]*keptTopic{},
	}
	x.opts = testOptions(place{x.disk, "data"}, x.clock)
	x.opts.SegmentSize, x.opts.horizon = 16<<10, 0
	x.opts.Retention, x.opts.TierRetention = 2*time.Hour, 12*time.Hour
	x.open()
	x.putTopic("a", "")
	return x
}

func (x *keeper) open() {
	tier, err := tiered.Open(context.Background(), x.bucket, tiered.Options{Memory: 1 << 20})
	if err == nil {
		_, err = tier.Manifests().Claim(context.Background(), tiered.StoreID{1})
	}
	if err != nil {
		x.t.Fatal(err)
	}
	x.opts.Tier = tier
	x.s = mustOpen(x.t, x.opts)
}

func (x *keeper) close() {
	mustClose(x.t, x.s)
	x.opts.Tier.Close()
}

func (x *keeper) now() int64 { return x.clock.Now().UnixMilli() }

func (x *keeper) putTopic(name, reserve string) {
	topic := catalog.Topic{Name: name, ReadQueues: 2, WriteQueues: 2, Perm: 6}
	if reserve != "" {
		topic.Attributes = map[string]string{catalog.AttrReserveTime: reserve}
	}
	id := kvindex.ID(mustAppend(x.t, x.s, x.s.Catalog.PutTopic(topic))[0].Offset)
	if x.topics[name] == nil {
		x.topics[name] = &keptTopic{id: id}
	}
	x.topics[name].reserve = reserve
}

// keeps is for how long (ms) the tier keeps a topic's messages.
func (x *keeper) keeps(topic *keptTopic) int64 {
	hours, err := strconv.ParseInt(topic.reserve, 10, 64)
	if err != nil || hours < 0 {
		return x.opts.TierRetention.Milliseconds()
	}
	return hours * time.Hour.Milliseconds()
}

func (x *keeper) topic() {
	name := topicNames.Draw(x.t, "name")
	if topic := x.topics[name]; topic != nil && rapid.IntRange(0, 4).Draw(x.t, "delete") == 0 {
		rec, err := x.s.Catalog.DeleteTopic(&catalog.Topic{ID: topic.id})
		if err != nil {
			x.t.Fatal(err)
		}
		mustAppend(x.t, x.s, rec)
		delete(x.topics, name)
		return
	}
	x.putTopic(name, rapid.SampledFrom([]string{"", "-1", "0", "1", "6", "30"}).Draw(x.t, "reserve"))
}

func (x *keeper) some() *keptTopic {
	if x.topics["a"] == nil {
		x.putTopic("a", "")
	}
	for _, name := range []string{"b", "c"} {
		if topic := x.topics[name]; topic != nil && rapid.Bool().Draw(x.t, name) {
			return topic
		}
	}
	return x.topics["a"]
}

// write makes a message that no other is.
func (x *keeper) write(topic *keptTopic, queue int32) note {
	x.sent++
	id := fmt.Sprint("id-", x.sent)
	size := rapid.SampledFrom([]int{0, 100, 3000}).Draw(x.t, "size")
	return note{topic: topic.id, queue: queue, id: id, keys: "k", body: id + strings.Repeat("x", size)}
}

func (x *keeper) send() {
	topic := x.some()
	for range rapid.IntRange(1, 4).Draw(x.t, "batches") {
		queue := rapid.Int32Range(0, 1).Draw(x.t, "queue")
		var notes []note
		for range rapid.IntRange(1, 6).Draw(x.t, "messages") {
			notes = append(notes, x.write(topic, queue))
		}
		send(x.t, x.s, notes...)
		for _, n := range notes {
			x.arrive(topic, queue, n.id, n.body)
		}
	}
}

func (x *keeper) arrive(topic *keptTopic, queue int32, id, body string) {
	q := &topic.queues[queue]
	q.msgs = append(q.msgs, keptMessage{x.s.applied.Load().Timestamp, id, body})
}

// later sends one that waits.
func (x *keeper) later() {
	topic, half := x.some(), rapid.Bool().Draw(x.t, "half")
	queue := rapid.Int32Range(0, 1).Draw(x.t, "queue")
	due := x.now() + rapid.SampledFrom([]int64{1, 2, 20, 50}).Draw(x.t, "hours")*time.Hour.Milliseconds()
	n := x.write(topic, queue)
	p := proposal(x.t, x.s, []record.Record{n.later(x.t, due, half)})
	x.wait = append(x.wait, &keptWaiter{topic, queue, half, delay.Point{Due: due, Origin: p.Positions[0]}, n.id, n.body})
}

// commit ends a transaction: its message is there unless retention took it.
func (x *keeper) commit() {
	i := slices.IndexFunc(x.wait, func(w *keptWaiter) bool { return w.half })
	if i < 0 {
		return
	}
	w := x.wait[i]
	out := mustAppend(x.t, x.s, txn.End{Position: w.point.Origin, Action: txn.Commit}.Record())
	if gone := w.point.Origin < x.gone; out[0].Refused != gone {
		x.t.Fatalf("commit of a half message at %d: %+v; parts before %d have gone", w.point.Origin, out[0], x.gone)
	} else if gone {
		x.wait = slices.Delete(x.wait, i, i+1)
		x.seen.givenUp++
		return
	}
	w.half = false
	if timer, ok, err := x.s.Delay.Get(delay.Point{Due: x.s.applied.Load().Timestamp, Origin: w.point.Origin}); err != nil {
		x.t.Fatal(err)
	} else if ok { // too old to be pointed at
		w.point = timer.Point
		return
	}
	x.wait = slices.Delete(x.wait, i, i+1)
	x.arrive(w.topic, w.queue, w.id, w.body)
}

// fire does what the broker's scheduler does, and finds every timer that is due with its body.
func (x *keeper) fire() {
	timers, err := dueTimers(x.s, x.now(), 1000)
	if err != nil {
		x.t.Fatal(err)
	}
	old, err := x.s.PositionAt(x.now() - delay.Horizon.Milliseconds())
	if err != nil {
		x.t.Fatal(err)
	}
	for i := range timers {
		tm := &timers[i]
		at := slices.IndexFunc(x.wait, func(w *keptWaiter) bool { return !w.half && w.point == tm.Point })
		if at < 0 {
			x.t.Fatalf("timer %+v is none of the model's", tm)
		}
		w := x.wait[at]
		x.wait = slices.Delete(x.wait, at, at+1)
		if tm.Position >= old {
			mustAppend(x.t, x.s, delay.Fire{From: tm.Point, To: tm.Point}.Record())
		} else {
			layout, err := x.s.ReadStored(tm.Position, tm.Size, &Buffer{})
			if err != nil {
				x.t.Fatalf("the body of timer %+v: %v", tm, err)
			}
			mustAppend(x.t, x.s, CopyRecord(tm.Point, true, tm.Topic, layout))
			x.seen.copied++
		}
		if tm.Position != tm.Origin {
			x.seen.carried++
		}
		x.arrive(w.topic, w.queue, w.id, w.body)
	}
	for _, w := range x.wait {
		if !w.half && w.point.Due <= x.now() && x.alive(w.topic) {
			x.t.Fatalf("a timer of %v did not fire", w.point)
		}
	}
}

func (x *keeper) alive(topic *keptTopic) bool {
	for _, t := range x.topics {
		if t == topic {
			return true
		}
	}
	return false
}

func (x *keeper) trim() {
	topic, queue := x.some(), rapid.Int32Range(0, 1).Draw(x.t, "queue")
	q := &topic.queues[queue]
	to := rapid.Int64Range(0, int64(len(q.msgs))).Draw(x.t, "to")
	mustAppend(x.t, x.s, record.Record{Kind: record.KindTrim, Payload: encodeTrim([]trim{{topic.id, queue, to}})})
	q.trim(to)
}

func (q *keptQueue) trim(to int64) bool {
	if to <= q.min {
		return false
	}
	q.min, q.local = to, max(q.local, to)
	return true
}

func (x *keeper) advance() {
	x.clock.Advance(rapid.SampledFrom([]time.Duration{time.Millisecond, 10 * time.Minute, time.Hour, 7 * time.Hour}).Draw(x.t, "by"))
}

// patiently does something until it succeeds, over writes that are lost.
func (x *keeper) patiently(do func() error) {
	if rapid.IntRange(0, 2).Draw(x.t, "lossy") == 0 {
		x.bucket.after, x.bucket.does = rapid.IntRange(0, 6).Draw(x.t, "after"), rapid.Bool().Draw(x.t, "carried out")
	}
	for {
		err := do()
		if err == nil {
			x.bucket.after = -1
			return
		}
		if !errors.Is(err, errLossy) {
			x.t.Fatal(err)
		}
		x.bucket.after = -1
		if rapid.Bool().Draw(x.t, "restart") {
			x.restart()
		}
	}
}

func (x *keeper) upload() {
	x.patiently(func() error {
		for {
			if _, done, err := x.s.Upload(context.Background()); done || err != nil {
				return err
			}
		}
	})
	for _, p := range x.opts.Tier.Manifests().View().Parts {
		if len(x.parts) == 0 || p.Start > x.parts[len(x.parts)-1].Start {
			x.parts = append(x.parts, x.list(p))
		}
	}
}

// list says what a new part has of which queue.
func (x *keeper) list(p tiered.Part) *keptPart {
	part := &keptPart{Part: p, queues: map[queueKey]keptMessage{}}
	x.seen.parts++
	if p.LiveBytes < p.RawBytes() {
		x.seen.cleared++
	}
	for _, topic := range x.topics {
		if x.keeps(topic) == 0 {
			continue
		}
		for queue := range int32(2) {
			q := &topic.queues[queue]
			for i := q.min; i < int64(len(q.msgs)); i++ {
				if m := q.msgs[i]; m.time >= p.From && m.time < p.Until {
					part.queues[queueKey{topic.id, queue}] = keptMessage{time: m.time, id: fmt.Sprint(i)}
				}
			}
		}
	}
	return part
}

// expire does what Expire should.
func (x *keeper) expire() {
	x.patiently(func() error {
		for range 1 + len(x.parts)/looksPerPass {
			if err := x.s.Expire(context.Background(), x.clock.Now()); err != nil {
				return err
			}
		}
		return nil
	})
	cutoff := x.clock.Now().Add(-x.opts.Retention).UnixMilli()
	for _, p := range x.parts {
		if p.Until <= cutoff && !p.offloaded {
			p.offloaded = true
			x.eachQueue(func(k queueKey, _ *keptTopic, q *keptQueue) { x.offload(p, k, q) })
		}
	}
	for _, p := range x.parts {
		if p.offloaded {
			x.eachQueue(func(k queueKey, topic *keptTopic, q *keptQueue) {
				last, ok := p.queues[k]
				if ok && last.time+x.keeps(topic) <= x.now() && q.trim(min(last.offset()+1, q.local)) {
					x.seen.trimmed++
				}
			})
		}
	}
	if b, ok := x.opts.Tier.Bounds(); ok && b.First > x.gone {
		x.gone = b.First
		x.seen.dropped++
	}
}

func (m keptMessage) offset() int64 {
	n, _ := strconv.ParseInt(m.id, 10, 64)
	return n
}

// offload lets the tier have what it has of a queue, and trims what it has not.
func (x *keeper) offload(p *keptPart, k queueKey, q *keptQueue) {
	if last, ok := p.queues[k]; ok {
		q.local = max(q.local, last.offset()+1)
		return
	}
	to := q.local
	for to < int64(len(q.msgs)) && q.msgs[to].time < p.Until {
		to++
	}
	if to > q.local {
		q.trim(to)
	}
}

func (x *keeper) eachQueue(f func(k queueKey, topic *keptTopic, q *keptQueue)) {
	for _, topic := range x.topics {
		for queue := range int32(2) {
			f(queueKey{topic.id, queue}, topic, &topic.queues[queue])
		}
	}
}

func (x *keeper) compact() {
	x.patiently(func() error {
		for {
			_, done, err := x.s.Compact(context.Background())
			if done || err != nil {
				return err
			}
			x.seen.compacted++
		}
	})
}

// collect removes the orphans.
func (x *keeper) collect() {
	ctx := context.Background()
	orphans, err := x.opts.Tier.Manifests().Orphans(ctx, 0, time.Now().Add(time.Hour))
	for _, o := range orphans {
		err = errors.Join(err, x.bucket.Delete(ctx, o.Name))
	}
	if err != nil {
		x.t.Fatal(err)
	}
}

func (x *keeper) restart() {
	if rapid.Bool().Draw(x.t, "crash") {
		clone := x.disk.CrashClone(vfs.CrashCloneCfg{
			UnsyncedDataPercent: rapid.SampledFrom([]int{0, 50, 100}).Draw(x.t, "unsynced"),
			RNG:                 rand.New(rand.NewPCG(rapid.Uint64().Draw(x.t, "seed"), 1)),
		})
		x.close()
		x.disk, x.opts.FS = clone, clone
	} else {
		mustVerify(x.t, x.s)
		x.close()
	}
	x.open()
}

// compare looks at everything.
func (x *keeper) compare() {
	x.eachQueue(func(k queueKey, _ *keptTopic, q *keptQueue) {
		low, high, err := x.s.Bounds(k.topic, k.queue)
		if err != nil || low != q.min || high != int64(len(q.msgs)) {
			x.t.Fatalf("topic %d queue %d: %d to %d, %v; the model: %d to %d; %s", k.topic, k.queue, low, high, err, q.min, len(q.msgs), x.describe(k))
		}
		got := readAll(x.t, x.s, k.topic, k.queue, 0, 1<<20)
		if len(got) != len(q.msgs)-int(q.min) {
			x.t.Fatalf("topic %d queue %d: %d messages, the model has %d", k.topic, k.queue, len(got), len(q.msgs)-int(q.min))
		}
		for i, m := range got {
			w := q.msgs[q.min+int64(i)]
			if m.QueueOffset != q.min+int64(i) || m.StoreTimestamp != w.time || !bytes.Equal(m.Body, []byte(w.body)) {
				x.t.Fatalf("topic %d queue %d: message %d at %d is %.20q of %d, the model's %.20q of %d", k.topic, k.queue, m.QueueOffset,
					m.PhysicalOffset, m.Body, m.StoreTimestamp, w.body, w.time)
			}
		}
	})
	for _, w := range x.wait {
		if x.alive(w.topic) && w.point.Origin >= x.gone {
			x.compareWaiting(w)
		}
	}
}

// compareWaiting reads the body of a message that waits.
func (x *keeper) compareWaiting(w *keptWaiter) {
	at, size := w.point.Origin, int32(0)
	timer, ok, err := x.s.Delay.Get(w.point)
	if err != nil || ok == w.half {
		x.t.Fatalf("the timer of %+v: %t, %v", w, ok, err)
	}
	if ok {
		at, size = timer.Position, timer.Size
	}
	layout, err := x.s.ReadStored(at, size, &Buffer{})
	if err != nil || string(message.BodyOf(layout)) != w.body {
		x.t.Fatalf("what waits at %d: %v", at, err)
	}
}

// describe tells what the parts have, or had, of a queue.
func (x *keeper) describe(k queueKey) string {
	out := fmt.Sprintf("at %d, offloaded until %d", x.now(), x.clock.Now().Add(-x.opts.Retention).UnixMilli())
	for _, topic := range x.topics {
		if topic.id == k.topic {
			out += fmt.Sprintf(", reserve.time %q: %+v", topic.reserve, topic.queues[k.queue].times())
		}
	}
	for _, p := range x.parts {
		out += fmt.Sprintf("\n%d..%d of %d..%d: %t, %+v, %+v", p.Start, p.End, p.From, p.Until, p.offloaded, p.queues[k], x.s.tier.looks[p.Start])
	}
	return out
}

func (q *keptQueue) times() (ms []int64) {
	for _, m := range q.msgs {
		ms = append(ms, m.time)
	}
	return ms
}

// query finds a message by its id as long as it is there.
func (x *keeper) query() {
	topic := x.some()
	q := &topic.queues[rapid.IntRange(0, 1).Draw(x.t, "queue")]
	if len(q.msgs) == 0 {
		return
	}
	i := rapid.IntRange(0, len(q.msgs)-1).Draw(x.t, "offset")
	buf := NewBuffer()
	defer buf.Release()
	ends, err := x.s.Query(topic.id, kvindex.IndexUniqueID, q.msgs[i].id, 0, 1<<60, 10, buf)
	if there := int64(i) >= q.min; err != nil || there != (len(ends) == 1) {
		x.t.Fatalf("%s at offset %d of %d to %d: %d messages, %v", q.msgs[i].id, i, q.min, len(q.msgs), len(ends), err)
	}
}

// Topics of several retentions, some of none, over uploads, retention of both places, compaction, collection, power cuts and lost
// answers of the object store: readers get exactly what the model has, and nothing that waits is lost.
func TestTheTiersRetentionAgainstAModel(t *testing.T) {
	skipWithoutMemory(t)
	var seen keptCounts
	rapid.Check(t, func(rt *rapid.T) {
		x := newKeeper(rt, t)
		x.seen = seen
		actions := map[string]func(){
			"send": x.send, "send more": x.send, "send most": x.send, "later": x.later, "commit": x.commit, "fire": x.fire, "topic": x.topic,
			"trim": x.trim, "advance": x.advance, "advance more": x.advance, "upload": x.upload, "expire": x.expire, "expire more": x.expire,
			"compact": x.compact, "collect": x.collect, "restart": x.restart, "query": x.query, "": x.compare,
		}
		steps := map[string]func(*rapid.T){}
		for name, do := range actions {
			steps[name] = func(rt *rapid.T) { x.t = rt; do() }
		}
		rt.Repeat(steps)
		mustVerify(rt, x.s)
		x.close()
		seen = x.seen
	})
	t.Logf("%+v", seen)
}
