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
)

// orderRun is one random run of a group that is served in order. Queues 0 and 1 have messages of three message groups each, queue 2
// has messages without any.
type orderRun struct {
	*popRig
	t        testing.TB
	queues   [orderQueues][]*orderMessage // by offset
	byBody   map[string]*orderMessage
	handles  []modelHandle
	attempts map[string][]modelHandle // by attempt id: what the last receive was given, until it is repeated
	sent     int
}

const orderQueues = 3

type orderMessage struct {
	body, line    string
	queue, offset int
	state         orderState
	visible       time.Time
	attempts      int32
	handle        string
	delayed       bool // it was given back
}

type orderState int

const (
	orderWaits orderState = iota
	orderInFlight
	orderDone
)

// lines are the messages by their lines, in order.
func (r *orderRun) lines() map[string][]*orderMessage {
	out := map[string][]*orderMessage{}
	for _, q := range r.queues {
		for _, m := range q {
			out[m.line] = append(out[m.line], m)
		}
	}
	return out
}

func (r *orderRun) send(t *rapid.T) {
	queue := rapid.IntRange(0, orderQueues-1).Draw(t, "queue")
	var messages []message.Message
	for range rapid.IntRange(1, 6).Draw(t, "n") {
		m := &orderMessage{queue: queue, offset: len(r.queues[queue]), line: fmt.Sprint("queue", queue)}
		m.body = fmt.Sprintf("m%d", r.sent)
		r.sent++
		stored := plain(m.body)
		if queue < 2 {
			group := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "group")
			m.line += group
			stored = plain(m.body, message.PropShardingKey, group)
		}
		messages = append(messages, stored)
		r.queues[queue] = append(r.queues[queue], m)
		r.byBody[m.body] = m
	}
	if _, err := r.Send(context.Background(), &SendRequest{Topic: "t", QueueID: int32(queue), Messages: messages}); err != nil {
		t.Fatal(err)
	}
}

// unchanged says that everything a receive was given is as it was then.
func (r *orderRun) unchanged(t *rapid.T, given []modelHandle) bool {
	now := r.clock.Now()
	for _, h := range given {
		m := r.byBody[h.body]
		if m.state != orderInFlight || !m.visible.After(now) || !sameCheckpoint(t, m.handle, h.handle) {
			return false
		}
	}
	return len(given) > 0
}

// popSome pops from all queues or one, and now and then repeats an earlier request.
func (r *orderRun) popSome(t *rapid.T) {
	queue := int32(-1)
	if rapid.IntRange(0, 4).Draw(t, "one queue") == 0 {
		queue = int32(rapid.IntRange(0, orderQueues-1).Draw(t, "queue"))
	}
	r.pop(t, queue, rapid.SampledFrom([]string{"", "", "x", "y"}).Draw(t, "attempt"))
}

func (r *orderRun) pop(t *rapid.T, queue int32, attemptID string) int {
	req := &PopRequest{Group: "g", Topic: "t", Queue: queue, Max: rapid.IntRange(1, 8).Draw(t, "max"),
		Invisible: time.Duration(rapid.IntRange(1, 40).Draw(t, "invisible")) * time.Second,
		AttemptID: attemptID}
	given := r.attempts[req.AttemptID]
	delete(r.attempts, req.AttemptID)
	repeats := r.unchanged(t, given)
	res, err := r.Pop(context.Background(), req)
	if err != nil {
		t.Fatal(err)
	}
	var got []modelHandle
	if res.Buffer != nil {
		defer res.Buffer.Release()
		mine := map[string]bool{}
		for i, stored := range decodeAll(r.t, res.Buffer.B, res.Ends) {
			m := r.byBody[string(stored.Body)]
			if repeats {
				r.repeated(t, m, given, i)
			} else {
				r.handedOut(t, m, mine)
			}
			mine[m.body] = true
			m.state, m.visible, m.handle, m.delayed = orderInFlight, r.clock.Now().Add(req.Invisible), res.Receipts()[i], false
			if res.Attempts[i] != m.attempts {
				t.Fatalf("%s: attempt %d, want %d", m.body, res.Attempts[i], m.attempts)
			}
			got = append(got, modelHandle{m.handle, m.body})
		}
	}
	switch {
	case repeats && len(got) != len(given):
		t.Fatalf("%d of %d messages were repeated", len(got), len(given))
	case !repeats && len(got) < req.Max:
		r.nothingLeft(t, int(req.Queue))
	}
	if req.AttemptID != "" && len(got) > 0 {
		r.attempts[req.AttemptID] = got
	}
	r.handles = append(r.handles, got...)
	return len(got)
}

// repeated checks a message of a receive that came again.
func (r *orderRun) repeated(t *rapid.T, m *orderMessage, given []modelHandle, i int) {
	if i >= len(given) || given[i].body != m.body {
		t.Fatalf("%s was repeated at %d of %v", m.body, i, given)
	}
}

// handedOut checks that a message may go: nobody has it, and everything before it in its line is done or in the same answer.
func (r *orderRun) handedOut(t *rapid.T, m *orderMessage, mine map[string]bool) {
	if m.state == orderDone || m.state == orderInFlight && m.visible.After(r.clock.Now()) {
		t.Fatalf("%s was handed out and is %+v", m.body, m)
	}
	for _, before := range r.lines()[m.line] {
		if before == m {
			break
		}
		if before.state != orderDone && !mine[before.body] {
			t.Fatalf("%s was handed out before %s, which is %+v", m.body, before.body, before)
		}
	}
	m.attempts++
}

// nothingLeft checks that a pop which did not fill up has left no line where something may go: none holds up another.
func (r *orderRun) nothingLeft(t *rapid.T, queue int) {
	for line, messages := range r.lines() {
		for _, m := range messages {
			if m.state == orderDone || queue >= 0 && m.queue != queue {
				continue
			}
			if m.state == orderWaits || !m.visible.After(r.clock.Now()) {
				t.Fatalf("%s of %s may go and was left", m.body, line)
			}
			break
		}
	}
}

func (r *orderRun) ack(t *rapid.T) {
	if len(r.handles) == 0 {
		t.Skip()
	}
	var picked []modelHandle
	var handles []string
	for range rapid.IntRange(1, 6).Draw(t, "handles") {
		h := rapid.SampledFrom(r.handles).Draw(t, "handle")
		picked, handles = append(picked, h), append(handles, h.handle)
	}
	for i, err := range r.Ack(context.Background(), "g", "t", handles) {
		m := r.byBody[picked[i].body]
		good := r.good(t, m, picked[i])
		if good != (err == nil) || err != nil && CodeOf(err) != CodeInvalidHandle {
			t.Fatalf("ack of %s: %v, it is %+v", m.body, err, m)
		}
		if good {
			m.state = orderDone
		}
	}
}

// good says that a handle is still the one of a message.
func (r *orderRun) good(t *rapid.T, m *orderMessage, h modelHandle) bool {
	return m.state == orderInFlight && m.visible.After(r.clock.Now()) && sameCheckpoint(t, m.handle, h.handle)
}

func (r *orderRun) extend(t *rapid.T) {
	if len(r.handles) == 0 {
		t.Skip()
	}
	h := rapid.SampledFrom(r.handles).Draw(t, "handle")
	to := time.Duration(rapid.IntRange(0, 40).Draw(t, "to")) * time.Second
	m := r.byBody[h.body]
	good := r.good(t, m, h)
	change, delayed := r.ChangeInvisible, rapid.Bool().Draw(t, "delayed")
	if delayed {
		change = r.Postpone
	}
	moved, err := change(context.Background(), "g", "t", h.handle, to)
	if good != (err == nil) || err != nil && CodeOf(err) != CodeInvalidHandle {
		t.Fatalf("extend of %s: %v, it is %+v", m.body, err, m)
	}
	if good {
		m.visible, m.handle, m.delayed = r.clock.Now().Add(to), moved, delayed
		r.handles = append(r.handles, modelHandle{moved, m.body})
	}
}

func (r *orderRun) reset(t *rapid.T) {
	queue := rapid.IntRange(0, orderQueues-1).Draw(t, "queue")
	to := rapid.IntRange(0, len(r.queues[queue])).Draw(t, "to")
	if _, err := r.ResetOffsets(context.Background(), "g", "t", int32(queue), int64(to), 0, true); err != nil {
		t.Fatal(err)
	}
	for _, m := range r.queues[queue] {
		m.state, m.attempts = orderDone, 0
		if m.offset >= to {
			m.state = orderWaits
		}
	}
}

// counters recount the messages; only what the pops have met of what waits is known from the cursors alone.
func (r *orderRun) counters(t *rapid.T) (c GroupCounters) {
	now := r.clock.Now()
	var met [orderQueues]int64
	for q := range met {
		cursor, _, err := r.store.Pop.Cursor(must(r.Group("g")).ID, must(r.Topic("t")).ID, int32(q))
		if err != nil {
			t.Fatal(err)
		}
		met[q] = cursor.Next
	}
	for _, line := range r.lines() {
		busy, invisible := false, false // what is before the message
		for _, m := range line {
			switch {
			case m.state == orderInFlight && m.visible.After(now):
				busy, invisible = true, true
				if m.delayed {
					c.Delayed++
				} else {
					c.InFlight++
				}
			case m.state == orderInFlight:
				busy = true
				if invisible {
					c.Parked++
				} else {
					c.Ready++
				}
			case m.state == orderWaits && int64(m.offset) < met[m.queue] && busy:
				c.Parked++
			case m.state == orderWaits:
				c.Ready++
			}
		}
	}
	return c
}

func (r *orderRun) compare(t *rapid.T) {
	want := r.counters(t)
	if got, err := r.GroupCounters("g", "t"); err != nil || got != want {
		t.Fatalf("counters %+v, want %+v (%v)", got, want, err)
	}
	r.sameProgress(t, want, func(queue int) int64 {
		for _, m := range r.queues[queue] {
			if m.state != orderDone {
				return int64(m.offset)
			}
		}
		return int64(len(r.queues[queue]))
	})
}

// drain acknowledges all there is, until nothing comes any more.
func (r *orderRun) drain(t *rapid.T) {
	r.clock.Advance(time.Hour)
	r.handles = nil
	for r.pop(t, -1, "") > 0 {
		var handles []string
		for _, h := range r.handles {
			handles = append(handles, h.handle)
		}
		for i, err := range r.Ack(context.Background(), "g", "t", handles) {
			if err != nil {
				t.Fatal(err)
			}
			r.byBody[r.handles[i].body].state = orderDone
		}
		r.handles = nil
	}
}

func (r *orderRun) left() []string {
	var out []string
	for _, m := range r.byBody {
		if m.state != orderDone {
			out = append(out, m.body)
		}
	}
	slices.Sort(out)
	return out
}

func TestOrderedPopAgreesWithTheModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := &orderRun{popRig: openPopRig(t), t: t, byBody: map[string]*orderMessage{}, attempts: map[string][]modelHandle{}}
		defer r.shut(t)
		r.topicOf(t, "t", orderQueues)
		g := catalog.DefaultGroup("g")
		g.ConsumeMessageOrderly, g.RetryMaxTimes = true, 1<<20
		if err := r.PutGroup(context.Background(), g, ""); err != nil {
			t.Fatal(err)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"send": r.send, "send again": r.send, "pop": r.popSome, "pop again": r.popSome, "ack": r.ack, "ack again": r.ack,
			"extend": r.extend, "reset": r.reset,
			"advance": func(t *rapid.T) {
				r.clock.Advance(time.Duration(rapid.IntRange(-10, 30).Draw(t, "seconds")) * time.Second)
			},
			"crash": func(rt *rapid.T) { r.crashLeaving(t, unsynced(rt)); clear(r.attempts) },
			"":      r.compare,
		})
		if r.drain(rt); len(r.left()) > 0 {
			rt.Fatalf("%v never came", r.left())
		}
	})
}
