package broker

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/pop"
)

// deadRun is a random run of pops in a group with a limit of deliveries. Each message that was sent is at any time in one place: not
// handed out, in flight, settled, or a dead letter.
type deadRun struct {
	*popRun
	limit int32
	dead  []deadWant
}

type deadWant struct {
	body, reason string
	attempts     int32
}

// pop pops, and follows what the pop has buried: all that was delivered for the last time, unless it stopped before.
func (r *deadRun) pop(t *rapid.T) {
	most := rapid.IntRange(1, 8).Draw(t, "max")
	invisible := time.Duration(rapid.IntRange(1, 20).Draw(t, "invisible")) * time.Second
	now := r.clock.Now()
	res, err := r.Pop(context.Background(), &PopRequest{Group: "g", Topic: "t", Queue: -1, Max: most, Invisible: invisible})
	if err != nil {
		t.Fatal(err)
	}
	left := r.expired(t)
	for body, f := range r.inFlight {
		if f.attempts < r.limit || f.visible.After(now) || left[body] {
			continue
		}
		r.dead = append(r.dead, deadWant{body, DeadAttempts, f.attempts})
		delete(r.inFlight, body)
	}
	full := len(res.Ends) == most
	r.popped(t, &PopRequest{Max: most, Invisible: invisible}, res)
	for body, f := range r.inFlight {
		if f.attempts > r.limit || f.attempts == r.limit && !f.visible.After(now) && !full {
			t.Fatalf("%s was delivered %d times and is no dead letter", body, f.attempts)
		}
	}
}

// expired are the bodies of the checkpoints that are visible.
func (r *deadRun) expired(t *rapid.T) map[string]bool {
	g, topic := r.ids(t)
	expired, err := r.store.Pop.Expired(g, topic, -1, 1<<60, 1<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, e := range expired {
		there[r.queues[e.Queue].bodies[e.Offset]] = true
	}
	return there
}

func (r *deadRun) forward(t *rapid.T) {
	if len(r.handles) == 0 {
		t.Skip()
	}
	h := rapid.SampledFrom(r.handles).Draw(t, "handle")
	err := r.Forward(context.Background(), &ForwardRequest{Group: "g", Topic: "t", Handle: h.handle})
	f := r.inFlight[h.body]
	good := f != nil && sameCheckpoint(t, f.handle, h.handle)
	if err != nil {
		t.Fatalf("forward of %s: %v, in flight %+v", h.body, err, f)
	}
	if good {
		r.dead = append(r.dead, deadWant{h.body, DeadForwarded, f.attempts})
		delete(r.inFlight, h.body)
	}
}

// redrive brings some back, or purges them, and follows what came to the queues.
func (r *deadRun) redrive(t *rapid.T) {
	if len(r.dead) == 0 {
		t.Skip()
	}
	req := &RedriveRequest{
		Group: "g", Most: rapid.IntRange(1, 20).Draw(t, "most"), Purge: rapid.IntRange(0, 4).Draw(t, "purge") == 0,
		Filter: DeadFilter{Tag: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "tag")},
	}
	matching := 0
	for _, d := range r.dead {
		if req.Filter.Tag == "" || req.Filter.Tag == d.body[:1] {
			matching++
		}
	}
	res, err := r.Redrive(context.Background(), req)
	if err != nil || res.Failed > 0 || res.Done > matching || res.End && res.Done != matching {
		t.Fatalf("%+v, %v; %d match", res, err, matching)
	}
	if req.Purge {
		left := r.listed(t)
		r.dead = slices.DeleteFunc(r.dead, func(d deadWant) bool { return !slices.Contains(left, d) })
		return
	}
	for i := range r.queues {
		q := &r.queues[i]
		for _, m := range r.arrived(t, int32(i), int64(len(q.bodies))) {
			body := string(m.Body)
			at := slices.IndexFunc(r.dead, func(d deadWant) bool { return d.body == body })
			if at < 0 {
				t.Fatalf("%s was redriven and is no dead letter", body)
			}
			r.dead = slices.Delete(r.dead, at, at+1)
			q.bodies = append(q.bodies, body)
			res.Done--
		}
	}
	if res.Done != 0 {
		t.Fatalf("%d more are said to be redriven than came", res.Done)
	}
}

// arrived reads the messages of a queue from an offset on.
func (r *deadRun) arrived(t *rapid.T, queue int32, from int64) (out []message.Message) {
	for {
		high, err := r.MaxOffset("t", queue)
		if err != nil {
			t.Fatal(err)
		}
		if from >= high {
			return out
		}
		res := r.pull(r.t, "reader", "t", queue, from)
		out = append(out, decodeAll(r.t, res.Buffer.B, res.Ends)...)
		from += int64(len(res.Ends))
	}
}

// listed is what the broker says is dead.
func (r *deadRun) listed(t *rapid.T) (out []deadWant) {
	q := DeadQuery{Group: "g", Most: rapid.IntRange(1, 30).Draw(t, "page")}
	for more := true; more; {
		found, next, on, err := r.DeadMessages(context.Background(), q)
		if CodeOf(err) == CodeGroupNotFound && err != nil {
			return nil
		}
		if err != nil {
			t.Fatal(err)
		}
		for i := range found {
			out = append(out, deadWant{bodyOf(r.t, r.Broker, &found[i]), found[i].Reason, found[i].Attempts})
		}
		q.After, more = next, on
	}
	return out
}

func (r *deadRun) compare(t *rapid.T) {
	r.popRun.compare(t)
	d, err := r.DeadGroup("g")
	if err != nil || d.Count != int64(len(r.dead)) {
		t.Fatalf("%d dead letters are counted, want %d (%v)", d.Count, len(r.dead), err)
	}
}

// compareAll compares every dead letter.
func (r *deadRun) compareAll(t *rapid.T) {
	text := func(w []deadWant) []string {
		out := make([]string, len(w))
		for i, d := range w {
			out[i] = fmt.Sprintf("%s %s %d", d.body, d.reason, d.attempts)
		}
		slices.Sort(out)
		return out
	}
	if got, want := text(r.listed(t)), text(r.dead); !slices.Equal(got, want) {
		t.Fatalf("dead letters are\n%v, want\n%v", got, want)
	}
}

func TestDeadLettersAgreeWithTheModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := &deadRun{popRun: &popRun{popRig: openPopRig(t), popModel: newPopModel(), t: t}}
		defer r.shut(t)
		r.topicOf(t, "t", popModelQueues)
		g := catalog.DefaultGroup("g")
		g.RetryMaxTimes = rapid.Int32Range(0, 3).Draw(rt, "retries")
		r.limit = g.MaxAttempts()
		if err := r.PutGroup(context.Background(), g, ""); err != nil {
			t.Fatal(err)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"send": r.sendSome, "pop": r.pop, "pop again": r.pop, "pop once more": r.pop, "ack": r.ack, "forward": r.forward, "redrive": r.redrive,
			"extend":   func(t *rapid.T) { r.extend(t, false, false) },
			"giveback": func(t *rapid.T) { r.extend(t, true, true) },
			"advance": func(t *rapid.T) {
				r.clock.Advance(time.Duration(rapid.IntRange(-10, 30).Draw(t, "seconds")) * time.Second)
			},
			"crash": func(t *rapid.T) {
				r.crashLeaving(r.t, unsynced(t))
				r.compareAll(t)
			},
			"": r.compare,
		})
		r.compareAll(rt)
	})
}

// deadOrderRun is a random run of a group that is served in order and has a limit of deliveries: a dead letter holds up nothing.
type deadOrderRun struct {
	*orderRun
	limit int32
	dead  map[string]deadWant
}

func (r *deadOrderRun) pop(t *rapid.T) {
	now := r.clock.Now()
	req := &PopRequest{Group: "g", Topic: "t", Queue: -1, Max: rapid.IntRange(1, 8).Draw(t, "max"),
		Invisible: time.Duration(rapid.IntRange(1, 20).Draw(t, "invisible")) * time.Second}
	res, err := r.Pop(context.Background(), req)
	if err != nil {
		t.Fatal(err)
	}
	died := r.bury(t, now)
	mine := map[string]bool{}
	if res.Buffer != nil {
		defer res.Buffer.Release()
		for i, stored := range decodeAll(r.t, res.Buffer.B, res.Ends) {
			m := r.byBody[string(stored.Body)]
			r.handedOut(t, m, mine)
			mine[m.body] = true
			m.state, m.visible, m.handle, m.delayed = orderInFlight, now.Add(req.Invisible), res.Receipts()[i], false
			if res.Attempts[i] != m.attempts || m.attempts > r.limit {
				t.Fatalf("%s: attempt %d, want %d of %d", m.body, res.Attempts[i], m.attempts, r.limit)
			}
			r.handles = append(r.handles, modelHandle{m.handle, m.body})
		}
	}
	if len(mine) < req.Max && !died { // what is behind a dead letter comes with the next look
		r.nothingLeft(t, -1)
	}
}

// bury follows what a pop has made dead letters of: those whose checkpoint is gone after their last delivery.
func (r *deadOrderRun) bury(t *rapid.T, now time.Time) (died bool) {
	g, err := r.Group("g")
	if err != nil {
		t.Fatal(err)
	}
	there := map[[2]int64]bool{}
	err = r.store.Pop.EachFrom(g.ID, mustTopicID(r.t, r.testBroker, "t"), pop.Ref{}, func(e *pop.Expired) bool {
		there[[2]int64{int64(e.Queue), e.Offset}] = true
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range r.byBody {
		if m.state == orderInFlight && m.attempts >= r.limit && !m.visible.After(now) && !there[[2]int64{int64(m.queue), int64(m.offset)}] {
			m.state, died = orderDone, true
			r.dead[m.body] = deadWant{m.body, DeadAttempts, m.attempts}
		}
	}
	return died
}

func (r *deadOrderRun) forward(t *rapid.T) {
	if len(r.handles) == 0 {
		t.Skip()
	}
	h := rapid.SampledFrom(r.handles).Draw(t, "handle")
	if err := r.Forward(context.Background(), &ForwardRequest{Group: "g", Topic: "t", Handle: h.handle}); err != nil {
		t.Fatalf("forward of %s: %v", h.body, err)
	}
	if m := r.byBody[h.body]; m.state == orderInFlight && sameCheckpoint(t, m.handle, h.handle) {
		m.state = orderDone
		r.dead[h.body] = deadWant{h.body, DeadForwarded, m.attempts}
	}
}

func (r *deadOrderRun) compareAll(t *rapid.T) {
	lists := &deadRun{popRun: &popRun{popRig: r.popRig, t: r.t}}
	for _, d := range r.dead {
		lists.dead = append(lists.dead, d)
	}
	lists.compareAll(t)
}

func TestDeadLettersInOrderAgreeWithTheModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := &deadOrderRun{orderRun: &orderRun{popRig: openPopRig(t), t: t, byBody: map[string]*orderMessage{}}, dead: map[string]deadWant{}}
		defer r.shut(t)
		r.topicOf(t, "t", orderQueues)
		g := catalog.DefaultGroup("g")
		g.ConsumeMessageOrderly, g.RetryMaxTimes = true, rapid.Int32Range(0, 2).Draw(rt, "retries")
		r.limit = g.MaxAttempts()
		if err := r.PutGroup(context.Background(), g, ""); err != nil {
			t.Fatal(err)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"send": r.send, "pop": r.pop, "pop again": r.pop, "pop once more": r.pop, "ack": r.ack, "forward": r.forward, "extend": r.extend,
			"advance": func(t *rapid.T) {
				r.clock.Advance(time.Duration(rapid.IntRange(-10, 30).Draw(t, "seconds")) * time.Second)
			},
			"crash": func(t *rapid.T) {
				r.crashLeaving(r.t, unsynced(t))
				r.compareAll(t)
			},
			"": r.compare,
		})
		r.compareAll(rt)
	})
}
