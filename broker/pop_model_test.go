package broker

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/filter"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/pop"
)

// popModel is what one group may expect of one topic.
type popModel struct {
	queues [popModelQueues]struct {
		bodies []string // by offset
		next   int
	}
	inFlight map[string]*modelFlight // by body
	handles  []modelHandle
	sent     int
}

const popModelQueues = 2

type modelFlight struct {
	queue, offset int
	visible       time.Time
	attempts      int32
	handle        string // the one that is good
	delayed       bool   // it was given back
}

type modelHandle struct{ handle, body string }

func newPopModel() *popModel { return &popModel{inFlight: map[string]*modelFlight{}} }

func (m *popModel) counters(now time.Time) (c GroupCounters) {
	for i := range m.queues {
		q := &m.queues[i]
		c.Ready += int64(len(q.bodies) - q.next)
	}
	for _, f := range m.inFlight {
		switch {
		case !f.visible.After(now):
			c.Ready++
		case f.delayed:
			c.Delayed++
		default:
			c.InFlight++
		}
	}
	return c
}

// first is the first offset of a queue that is not settled.
func (m *popModel) first(queue int) int64 {
	first := m.queues[queue].next
	for _, f := range m.inFlight {
		if f.queue == queue {
			first = min(first, f.offset)
		}
	}
	return int64(first)
}

// popRun is one random run over a real broker.
type popRun struct {
	*popRig
	*popModel
	t testing.TB
}

// popped checks what a pop handed out.
func (r *popRun) popped(t *rapid.T, req *PopRequest, res *PopResult) {
	now := r.clock.Now()
	if res.Buffer == nil {
		return
	}
	defer res.Buffer.Release()
	if len(res.Ends) > req.Max || len(res.Ends) != len(res.Handles) || len(res.Ends) != len(res.Attempts) {
		t.Fatalf("%d messages, %d handles, %d attempts for at most %d", len(res.Ends), len(res.Handles), len(res.Attempts), req.Max)
	}
	expiredOver := false
	for i, msg := range decodeAll(r.t, res.Buffer.B, res.Ends) {
		body := string(msg.Body)
		f := r.inFlight[body]
		switch {
		case f != nil && f.visible.After(now):
			t.Fatalf("%s was handed out while it is invisible", body)
		case f != nil:
			if expiredOver {
				t.Fatalf("%s is expired and comes after something new", body)
			}
			f.attempts++
		default:
			expiredOver = true
			f = r.firstDelivery(t, req, msg)
			r.inFlight[body] = f
		}
		f.visible, f.handle, f.delayed = now.Add(req.Invisible), res.Receipts()[i], false
		if res.Attempts[i] != f.attempts || msg.QueueOffset != int64(f.offset) || msg.QueueID != int32(f.queue) {
			t.Fatalf("%s: attempt %d of queue %d offset %d, want %+v", body, res.Attempts[i], msg.QueueID, msg.QueueOffset, f)
		}
		r.handles = append(r.handles, modelHandle{res.Receipts()[i], body})
	}
}

// firstDelivery checks that a message is the next one of its queue that matches.
func (r *popRun) firstDelivery(t *rapid.T, req *PopRequest, msg message.Message) *modelFlight {
	q := &r.queues[msg.QueueID]
	for q.next < len(q.bodies) {
		body := q.bodies[q.next]
		q.next++
		if req.Filter.Match(message.AppendProperty(nil, message.PropTags, body[:1])) {
			if body != string(msg.Body) {
				t.Fatalf("queue %d hands out %s, next is %s", msg.QueueID, msg.Body, body)
			}
			return &modelFlight{queue: int(msg.QueueID), offset: q.next - 1, attempts: 1}
		}
	}
	t.Fatalf("%s is not to be handed out for the first time", msg.Body)
	return nil
}

// passOver follows the cursors past what a filter has passed over, which no answer shows.
func (r *popRun) passOver(t *rapid.T) {
	g, topic := r.ids(t)
	for i := range r.queues {
		c, ok, err := r.store.Pop.Cursor(g, topic, int32(i))
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			q := &r.queues[i]
			if int(c.Next) < q.next {
				t.Fatalf("queue %d: the cursor is at %d, %d was handed out", i, c.Next, q.next)
			}
			q.next = int(c.Next)
		}
	}
}

func (r *popRun) ids(t *rapid.T) (group, topic kvindex.ID) {
	g, err := r.Group("g")
	if err != nil {
		t.Fatal(err)
	}
	tp, err := r.Topic("t")
	if err != nil {
		t.Fatal(err)
	}
	return g.ID, tp.ID
}

// pop pops from all queues (−1) or one.
func (r *popRun) pop(t *rapid.T, queue int32, tags string, max int, invisible time.Duration) (n int) {
	f, err := filter.ParseTags(tags)
	if err != nil {
		t.Fatal(err)
	}
	req := &PopRequest{Group: "g", Topic: "t", Queue: queue, Max: max, Invisible: invisible, Filter: f}
	if rapid.Bool().Draw(t, "by properties") {
		req.Filter = tagsAsSQL(t, tags)
	}
	res, err := r.Pop(context.Background(), req)
	if err != nil {
		t.Fatal(err)
	}
	n = len(res.Ends)
	r.dropUnwanted(t, f, queue, n < max)
	r.popped(t, req, res)
	r.passOver(t)
	return n
}

// tagsAsSQL is a filter that wants what these tags want, and has to read the messages for it.
func tagsAsSQL(t *rapid.T, tags string) *filter.Expr {
	text := "TRUE"
	if tags != "*" {
		text = "TAGS IN ('" + strings.ReplaceAll(tags, "||", "', '") + "')"
	}
	f, err := filter.ParseSQL(text)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// dropUnwanted forgets what is expired and does not match the filter: a look that does not fill up has passed over all of it.
func (r *popRun) dropUnwanted(t *rapid.T, f *filter.Expr, queue int32, all bool) {
	g, topic := r.ids(t)
	there := map[string]bool{}
	expired, err := r.store.Pop.Expired(g, topic, -1, 1<<60, 1<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range expired {
		there[r.queues[e.Queue].bodies[e.Offset]] = true
	}
	now := r.clock.Now()
	for body, fl := range r.inFlight {
		unwanted := !fl.visible.After(now) && !f.MatchTag([]byte(body[:1])) && (queue < 0 || int(queue) == fl.queue)
		switch {
		case unwanted && (all || !there[body]):
			if there[body] {
				t.Fatalf("%s does not match and was not passed over", body)
			}
			delete(r.inFlight, body)
		case !unwanted && !there[body]:
			t.Fatalf("%s has gone", body)
		}
	}
}

// sameCheckpoint: when an invisible time is changed such that it ends as before, the old handle is as good as the new one.
func sameCheckpoint(t *rapid.T, a, b string) bool {
	ha, err := pop.ParseHandle(a)
	if err != nil {
		t.Fatal(err)
	}
	hb, err := pop.ParseHandle(b)
	if err != nil {
		t.Fatal(err)
	}
	return ha.Topic == hb.Topic && ha.Ref() == hb.Ref()
}

func (r *popRun) ack(t *rapid.T) {
	if len(r.handles) == 0 {
		t.Skip()
	}
	var picked []modelHandle
	var handles []string
	for range rapid.IntRange(1, 6).Draw(t, "handles") {
		h := rapid.SampledFrom(r.handles).Draw(t, "handle")
		picked, handles = append(picked, h), append(handles, h.handle)
	}
	now := r.clock.Now()
	for i, err := range r.Ack(context.Background(), "g", "t", handles) {
		h := picked[i]
		f := r.inFlight[h.body]
		good := f != nil && sameCheckpoint(t, f.handle, h.handle) && f.visible.After(now)
		if good != (err == nil) || err != nil && CodeOf(err) != CodeInvalidHandle {
			t.Fatalf("ack of %s: %v, in flight %+v at %v", h.body, err, f, now)
		}
		if good {
			delete(r.inFlight, h.body)
		}
	}
}

// extend changes an invisible time: the holder keeps the message for longer, or with delayed has failed on it, or with free did not try.
func (r *popRun) extend(t *rapid.T, delayed, free bool) {
	if len(r.handles) == 0 {
		t.Skip()
	}
	h := rapid.SampledFrom(r.handles).Draw(t, "handle")
	to := time.Duration(rapid.IntRange(0, 40).Draw(t, "to")) * time.Second
	change := r.ChangeInvisible
	switch {
	case free:
		change = r.GiveBack
	case delayed:
		change = r.Postpone
	}
	now := r.clock.Now()
	moved, err := change(context.Background(), "g", "t", h.handle, to)
	f := r.inFlight[h.body]
	good := f != nil && sameCheckpoint(t, f.handle, h.handle) && f.visible.After(now)
	if good != (err == nil) || err != nil && CodeOf(err) != CodeInvalidHandle {
		t.Fatalf("extend of %s: %v, in flight %+v at %v", h.body, err, f, now)
	}
	if !good {
		return
	}
	f.visible, f.handle, f.delayed = now.Add(to), moved, delayed
	if free {
		f.attempts = max(f.attempts-1, 0)
	}
	r.handles = append(r.handles, modelHandle{moved, h.body})
}

func (r *popRun) reset(t *rapid.T) {
	queue := rapid.IntRange(0, popModelQueues-1).Draw(t, "queue")
	q := &r.queues[queue]
	to := rapid.IntRange(0, len(q.bodies)).Draw(t, "to")
	if _, err := r.ResetOffsets(context.Background(), "g", "t", int32(queue), int64(to), 0, true); err != nil {
		t.Fatal(err)
	}
	q.next = to
	maps.DeleteFunc(r.inFlight, func(_ string, f *modelFlight) bool { return f.queue == queue })
}

func (r *popRun) sendSome(t *rapid.T) {
	queue := rapid.IntRange(0, popModelQueues-1).Draw(t, "queue")
	tag := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "tag")
	var messages []message.Message
	for range rapid.IntRange(1, 5).Draw(t, "n") {
		body := fmt.Sprintf("%s%d", tag, r.sent)
		r.sent++
		messages = append(messages, plain(body, message.PropTags, tag))
		r.queues[queue].bodies = append(r.queues[queue].bodies, body)
	}
	if _, err := r.Send(context.Background(), &SendRequest{Topic: "t", QueueID: int32(queue), Messages: messages}); err != nil {
		t.Fatal(err)
	}
}

func (r *popRun) recreate(t *rapid.T) {
	ctx := context.Background()
	if rapid.IntRange(0, 3).Draw(t, "seldom") > 0 {
		t.Skip()
	}
	if err := r.DeleteTopic(ctx, "t"); err != nil {
		t.Fatal(err)
	}
	old := r.handles
	sent := r.sent
	r.popModel = newPopModel()
	r.handles, r.sent = old, sent // none of them is good any more
	r.topicOf(r.t, "t", popModelQueues)
}

// compare looks whether the counters are right.
func (r *popRun) compare(t *rapid.T) {
	got, err := r.GroupCounters("g", "t")
	want := r.counters(r.clock.Now())
	if err != nil || got != want {
		t.Fatalf("counters %+v, want %+v (%v)", got, want, err)
	}
	r.sameProgress(t, want, r.first)
}

// drain advances the clock and pops until nothing is left: all that was neither acknowledged nor passed over has to come.
func (r *popRun) drain(t *rapid.T) {
	want := map[string]bool{}
	for body := range r.inFlight {
		want[body] = true
	}
	for i := range r.queues {
		for _, body := range r.queues[i].bodies[r.queues[i].next:] {
			want[body] = true
		}
	}
	r.clock.Advance(time.Hour)
	for n := -1; n != 0; {
		before := len(r.handles)
		n = r.pop(t, -1, "*", 32, time.Hour)
		for _, h := range r.handles[before:] {
			if !want[h.body] {
				t.Fatalf("%s came and should not have, or twice", h.body)
			}
			delete(want, h.body)
		}
	}
	if len(want) > 0 {
		t.Fatalf("%d messages never came again, such as %s", len(want), slices.Sorted(maps.Keys(want))[0])
	}
}

// unsynced draws how much of what was not synced a crash leaves.
func unsynced(t *rapid.T) vfs.CrashCloneCfg {
	return vfs.CrashCloneCfg{
		UnsyncedDataPercent: rapid.SampledFrom([]int{0, 50, 100}).Draw(t, "unsynced"),
		RNG:                 rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "which"), 0)),
	}
}

func TestPopAgreesWithTheModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := &popRun{popRig: openPopRig(t), popModel: newPopModel(), t: t}
		defer r.shut(t)
		r.topicOf(t, "t", popModelQueues)
		g := catalog.DefaultGroup("g")
		g.RetryMaxTimes = 1 << 20 // dead letters have a model of their own
		if err := r.PutGroup(context.Background(), g, ""); err != nil {
			t.Fatal(err)
		}
		popSome := func(t *rapid.T) {
			tags := rapid.SampledFrom([]string{"*", "*", "*", "a", "b"}).Draw(t, "tags")
			queue := int32(rapid.IntRange(-2, popModelQueues-1).Draw(t, "queue"))
			r.pop(t, max(queue, -1), tags, rapid.IntRange(1, 8).Draw(t, "max"), time.Duration(rapid.IntRange(1, 40).Draw(t, "invisible"))*time.Second)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"send": r.sendSome, "pop": popSome, "pop again": popSome, "ack": r.ack, "ack again": r.ack,
			"extend":   func(t *rapid.T) { r.extend(t, false, false) },
			"postpone": func(t *rapid.T) { r.extend(t, true, false) },
			"giveback": func(t *rapid.T) { r.extend(t, true, true) },
			"reset":    r.reset, "recreate": r.recreate,
			"advance": func(t *rapid.T) {
				r.clock.Advance(time.Duration(rapid.IntRange(-10, 30).Draw(t, "seconds")) * time.Second)
			},
			"crash": func(rt *rapid.T) { r.crashLeaving(t, unsynced(rt)) },
			"":      r.compare,
		})
		r.drain(rt)
	})
}
