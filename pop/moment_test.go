package pop

import (
	"testing"

	"pgregory.net/rapid"
)

// shares recounts what the model says of each queue.
func (r *run) shares(at place, low int64) map[int32]*QueueShare {
	out := map[int32]*QueueShare{}
	in := func(msg modelMessage) *Share {
		s := out[msg.queue]
		if s == nil {
			s = &QueueShare{First: -1}
			out[msg.queue] = s
		}
		if msg.offset >= low && (s.First < 0 || msg.offset < s.First) {
			s.First = msg.offset
		}
		return &s.Share
	}
	// held says whether something before an offset of a line is in flight, until later than a time.
	held := func(msg modelMessage, line uint64, until int64) bool {
		for other, c := range r.model.inFlight {
			if line != 0 && other.modelQueue == msg.modelQueue && c.line == line && other.offset < msg.offset && c.visible > until {
				return true
			}
		}
		return false
	}
	for msg, c := range r.model.inFlight {
		if msg.place != at {
			continue
		}
		switch s := in(msg); {
		case c.visible > r.now && c.postponed:
			s.Postponed++
		case c.visible > r.now:
			s.InFlight++
		case held(msg, c.line, r.now):
			s.Parked++
		default:
			s.Ready++
		}
	}
	for msg, line := range r.order.parked {
		if msg.place != at {
			continue
		}
		if s := in(msg); held(msg, line, -1) {
			s.Parked++
		} else {
			s.Ready++
		}
	}
	return out
}

// compareShares looks whether a moment counts what there is.
func (r *run) compareShares(t *rapid.T, at place) {
	low := r.now % 5
	m := r.state.Moment(at.group, at.topic)
	got, err := m.Shares(r.now, func(int32) (int64, error) { return low, nil })
	if err != nil {
		t.Fatal(err)
	}
	want, sum := r.shares(at, low), Share{}
	for queue, w := range want {
		if g := got[queue]; g == nil || *g != *w {
			t.Fatalf("%+v: queue %d has %+v, want %+v", at, queue, g, w)
		}
		sum.Ready += w.Ready
		sum.InFlight += w.InFlight
		sum.Postponed += w.Postponed
		sum.Parked += w.Parked
	}
	if len(got) != len(want) {
		t.Fatalf("%+v: %d queues, want %d", at, len(got), len(want))
	}
	if s, err := m.Share(r.now); err != nil || s != sum || s.Sum() != sum.Sum() {
		t.Fatalf("%+v: the counters come to %+v, want %+v (%v)", at, s, sum, err)
	}
	for queue := range int32(2) {
		c, ok, err := m.Cursor(queue)
		if next, there := r.cursors[modelQueue{at, queue}]; err != nil || ok != there || c.Next != next {
			t.Fatalf("%+v: the cursor of queue %d is %+v, want %d (%v)", at, queue, c, next, err)
		}
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
}

// A moment does not see what comes after it.
func TestAMomentStays(t *testing.T) {
	m := newMachine(t)
	topic, group := m.topic("t"), m.group("g")
	m.apply(1, popped(group, topic, 0, 0, 3, 1, 100, 7))
	moment := m.state.Moment(group, topic)
	ref := func(offset int64) Ref { return Ref{VisibleAt: 100, Offset: offset, Nonce: 7} }
	m.apply(2, ackOf(group, topic, ref(0)), moveOf(group, topic, Move{Ref: ref(1), To: 150, Postponed: true}, Move{Ref: ref(2), To: 160}),
		popped(group, topic, 0, 4, 9, 2, 100, 8))
	if s, err := moment.Share(50); err != nil || s != (Share{InFlight: 4}) {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := moment.Share(100); err != nil || s != (Share{Ready: 4}) {
		t.Errorf("%+v, %v", s, err)
	}
	if c, ok, err := moment.Cursor(0); err != nil || !ok || c.Next != 4 {
		t.Errorf("%+v, %v", c, err)
	}
	if err := moment.Close(); err != nil {
		t.Error(err)
	}
	now := m.state.Moment(group, topic)
	for at, want := range map[int64]Share{
		50: {InFlight: 8, Postponed: 1}, 100: {Ready: 7, InFlight: 1, Postponed: 1}, 150: {Ready: 8, InFlight: 1}, 160: {Ready: 9},
	} {
		if s, err := now.Share(at); err != nil || s != want {
			t.Errorf("at %d: %+v, %v; want %+v", at, s, err, want)
		}
	}
	if err := now.Close(); err != nil {
		t.Error(err)
	}
	m.check()
}

// BenchmarkMoment: what it costs to count a group that has 100,000 messages in flight, a tenth of them visible again.
func BenchmarkMoment(b *testing.B) {
	const n, batch = 100_000, 50
	m := newMachine(b)
	topic, group := m.topic("t"), m.group("g")
	for first := int64(0); first < n; first += batch {
		m.apply(1, popped(group, topic, 0, first, first+batch-1, 1, 1000+first, 1))
	}
	now := int64(1000 + n/10)
	none := func(int32) (int64, error) { return 0, nil }
	for name, count := range map[string]func(*Moment) error{
		"group":  func(m *Moment) error { _, err := m.Share(now); return err },
		"queues": func(m *Moment) error { _, err := m.Shares(now, none); return err },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				moment := m.state.Moment(group, topic)
				if err := count(moment); err != nil {
					b.Fatal(err)
				}
				if err := moment.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
