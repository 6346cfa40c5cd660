package pop

import (
	"testing"
)

// settle settles checkpoints in one batch.
func (m *machine) settle(timestamp int64, ps ...Popped) (done []bool) {
	m.t.Helper()
	m.log = append(m.log, logged{nil, timestamp})
	m.batch.Begin(1<<20, uint64(len(m.log)), timestamp)
	for _, p := range ps {
		ok, err := m.state.Settle(m.batch, p)
		if err != nil {
			m.t.Fatal(err)
		}
		done = append(done, ok)
	}
	if err := m.state.Finish(m.batch); err != nil {
		m.t.Fatal(err)
	}
	if err := m.batch.Commit(); err != nil {
		m.t.Fatal(err)
	}
	m.state.Publish()
	return done
}

// TestSettle: a checkpoint is settled once, and only as it was.
func TestSettle(t *testing.T) {
	m := newMachine(t)
	group, topic := m.group("g"), m.topic("t")
	m.apply(10, popped(group, topic, 0, 0, 2, 10, 20, 7))
	at := func(offset int64) Popped {
		return Popped{Group: group, Topic: topic, Ref: Ref{VisibleAt: 20, Offset: offset, Nonce: 7}}
	}
	stale, early, foreign := at(1), at(1), at(1)
	stale.Nonce++
	early.VisibleAt--
	foreign.Group++
	got := m.settle(30, at(0), at(0), stale, early, foreign)
	for i, want := range []bool{true, false, false, false, false} {
		if got[i] != want {
			t.Errorf("checkpoint %d: settled %v", i, got[i])
		}
	}
	if n := m.inFlight(group, topic); n != 2 {
		t.Errorf("%d in flight", n)
	}
	if err := Check(m.engine); err != nil {
		t.Error(err)
	}
	if _, ok, err := m.state.Get(at(0)); ok || err != nil {
		t.Errorf("what was settled is there: %v", err)
	}
	if _, ok, err := m.state.Get(stale); ok || err != nil {
		t.Errorf("found with another nonce: %v", err)
	}
	if c, ok, err := m.state.Get(at(1)); !ok || err != nil || c.Attempts != 1 || c.PoppedAt != 10 || c.FirstAt != 10 {
		t.Errorf("%+v, %v, %v", c, ok, err)
	}
}

// TestFirstDeliveryIsRemembered: through redeliveries and changes of the invisible time.
func TestFirstDeliveryIsRemembered(t *testing.T) {
	m := newMachine(t)
	group, topic := m.group("g"), m.topic("t")
	m.apply(10, popped(group, topic, 0, 0, 0, 10, 20, 7))
	for i, now := range []int64{25, 40} {
		again := m.expired(group, topic, now)
		if len(again) != 1 || again[0].FirstAt != 10 {
			t.Fatalf("%+v", again)
		}
		p := &Pop{Group: group, Topic: topic, PoppedAt: now, VisibleAt: now + 10, Nonce: uint64(i), Again: []Ref{again[0].Ref}}
		m.apply(now, p.Record())
	}
	m.apply(45, moveOf(group, topic, Move{Ref: Ref{VisibleAt: 50, Nonce: 1}, To: 60}))
	c, ok, err := m.state.Get(Popped{group, topic, Ref{VisibleAt: 60, Nonce: 1}})
	if err != nil || !ok || c.FirstAt != 10 || c.PoppedAt != 40 || c.Attempts != 3 {
		t.Errorf("%+v, %v, %v", c, ok, err)
	}
	m.check()
}

// TestEachFrom: in order, from a place on that need not be there.
func TestEachFrom(t *testing.T) {
	m := newMachine(t)
	group, topic := m.group("g"), m.topic("t")
	m.apply(10, popped(group, topic, 0, 0, 2, 10, 20, 7), popped(group, topic, 1, 0, 1, 10, 20, 8), popped(group, topic, 2, 0, 0, 10, 15, 9),
		popped(group, topic+1, 0, 0, 0, 10, 15, 9))
	list := func(from Ref) (out [][3]int64) {
		err := m.state.EachFrom(group, topic, from, func(e *Expired) bool {
			out = append(out, [3]int64{e.VisibleAt, int64(e.Queue), e.Offset})
			return len(out) < 4
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, c := range []struct {
		from Ref
		want [][3]int64
	}{
		{Ref{}, [][3]int64{{15, 2, 0}, {20, 0, 0}, {20, 0, 1}, {20, 0, 2}}},
		{Ref{VisibleAt: 20, Offset: 2}, [][3]int64{{20, 0, 2}, {20, 1, 0}, {20, 1, 1}}},
		{Ref{VisibleAt: 20, Queue: 1, Offset: 2}, nil},
	} {
		got := list(c.from)
		if len(got) != len(c.want) {
			t.Errorf("from %+v: %v, want %v", c.from, got, c.want)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("from %+v: %v, want %v", c.from, got, c.want)
			}
		}
	}
}
