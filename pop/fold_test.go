package pop

import (
	"slices"
	"testing"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

func TestPopAckAndExpiry(t *testing.T) {
	m := newMachine(t)
	topic, group := m.topic("t"), m.group("g")
	if n := m.next(group, topic, 0); n != -1 {
		t.Fatalf("a group that never was there stands at %d", n)
	}
	out := m.apply(10, popped(group, topic, 0, 0, 2, 10, 100, 7))
	if got := MaskOf(out[0]); got != 0b111 || out[0].Refused {
		t.Fatalf("outcome %b, refused %v", got, out[0].Refused)
	}
	if m.next(group, topic, 0) != 3 || m.inFlight(group, topic) != 3 {
		t.Fatalf("cursor %d, in flight %d", m.next(group, topic, 0), m.inFlight(group, topic))
	}
	ref := func(offset int64) Ref { return Ref{VisibleAt: 100, Offset: offset, Nonce: 7} }
	wrong := ref(0)
	wrong.Nonce++
	out = m.apply(20, ackOf(group, topic, ref(1), wrong, ref(1)))
	if MaskOf(out[0]) != 1 || out[0].Refused || m.inFlight(group, topic) != 2 {
		t.Fatalf("ack: %+v, in flight %d", out[0], m.inFlight(group, topic))
	}
	if out = m.apply(21, ackOf(group, topic, ref(1))); !out[0].Refused {
		t.Fatal("an ack was accepted twice")
	}
	if got := m.expired(group, topic, 99); len(got) != 0 {
		t.Fatalf("expired before their time: %v", got)
	}
	got := m.expired(group, topic, 100)
	if len(got) != 2 || got[0].Ref != ref(0) || got[1].Ref != ref(2) || got[1].Position != 1200 || got[0].Attempts != 1 {
		t.Fatalf("expired: %+v", got)
	}
	// One is handed out again, the other's message is gone.
	again := &Pop{Group: group, Topic: topic, PoppedAt: 100, VisibleAt: 200, Nonce: 8, Again: []Ref{ref(0)}, Dropped: []Ref{ref(2)}}
	if out = m.apply(100, again.Record()); MaskOf(out[0]) != 1 || m.inFlight(group, topic) != 1 {
		t.Fatalf("again: %+v, in flight %d", out[0], m.inFlight(group, topic))
	}
	if out = m.apply(101, again.Record()); !out[0].Refused {
		t.Fatal("what was handed out again was handed out once more")
	}
	got = m.expired(group, topic, 200)
	if len(got) != 1 || got[0].Attempts != 2 || got[0].Ref != (Ref{VisibleAt: 200, Nonce: 8}) {
		t.Fatalf("expired: %+v", got)
	}
	if out = m.apply(201, ackOf(group, topic, ref(0))); !out[0].Refused {
		t.Fatal("the handle of the delivery before was accepted")
	}
	m.check()
}

func TestPopOfARangeThatMovedIsRefused(t *testing.T) {
	m := newMachine(t)
	topic, group := m.topic("t"), m.group("g")
	p := &Pop{Group: group, Topic: topic, PoppedAt: 1, VisibleAt: 50, Nonce: 1,
		Ranges:  []Range{{Queue: 3, Start: 5, End: 9, Count: 1}, {Queue: 1, Start: 0, End: 2, Count: 2}, {Queue: 2, Start: 4, End: 4}},
		Entries: []Entry{{Offset: 6, Position: 60, Size: 1}, {Offset: 0, Position: 10, Size: 1}, {Offset: 1, Position: 11, Size: 1}},
	}
	// In the same log batch a reset goes before it.
	out := m.apply(1, CommitRecord([]Commit{{group, topic, 1, 7}}), p.Record())
	if MaskOf(out[1]) != 0b001 {
		t.Fatalf("outcome %b", MaskOf(out[1]))
	}
	if m.next(group, topic, 3) != 9 || m.next(group, topic, 1) != 7 || m.next(group, topic, 2) != 4 || m.inFlight(group, topic) != 1 {
		t.Fatalf("cursors %d %d %d, in flight %d", m.next(group, topic, 3), m.next(group, topic, 1), m.next(group, topic, 2),
			m.inFlight(group, topic))
	}
	m.check()
}

func TestExtend(t *testing.T) {
	m := newMachine(t)
	topic, group := m.topic("t"), m.group("g")
	m.apply(1, popped(group, topic, 0, 0, 3, 1, 100, 9))
	ref := func(offset int64) Ref { return Ref{VisibleAt: 100, Offset: offset, Nonce: 9} }
	out := m.apply(2, moveOf(group, topic,
		Move{Ref: ref(0), To: 300}, Move{Ref: ref(1), To: 100}, Move{Ref: ref(2), To: 100, Free: true},
		Move{Ref: ref(3), To: 40, Free: true}, Move{Ref: Ref{VisibleAt: 100, Offset: 1}, To: 5}))
	if MaskOf(out[0]) != 0b1111 || m.inFlight(group, topic) != 4 {
		t.Fatalf("outcome %b, in flight %d", MaskOf(out[0]), m.inFlight(group, topic))
	}
	var got []string
	for _, e := range m.expired(group, topic, 1000) {
		_, _, text := kvindex.Describe(kvindex.AppendCheckpointKey(nil, group, topic, e.VisibleAt, 0, e.Offset),
			appendCheckpoint(nil, &e.Checkpoint))
		got = append(got, kvindex.FormatTime(e.VisibleAt)[17:23]+" "+text[:10])
	}
	want := []string{"00.040 attempts=0", "00.100 attempts=1", "00.100 attempts=0", "00.300 attempts=1"}
	if !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	// A row that was written anew in its place can still be deleted, before and after it reaches the disk.
	if err := m.engine.Flush(); err != nil {
		t.Fatal(err)
	}
	m.apply(3, ackOf(group, topic, ref(1), ref(2)))
	if err := m.engine.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := m.expired(group, topic, 200); len(got) != 1 || got[0].Offset != 3 {
		t.Fatalf("%+v", got)
	}
	m.check()
}

func TestCommitAndReset(t *testing.T) {
	m := newMachine(t)
	topic, other, group := m.topic("t"), m.topic("o"), m.group("g")
	m.apply(1, popped(group, topic, 0, 0, 9, 1, 100, 1), popped(group, topic, 1, 0, 4, 1, 100, 2), popped(group, other, 0, 0, 1, 1, 100, 3))
	if err := m.engine.Flush(); err != nil {
		t.Fatal(err)
	}
	// Forward: what is in flight stays.
	out := m.apply(2, CommitRecord([]Commit{{group, topic, 0, 20}}))
	if out[0].Offset != 1 || m.next(group, topic, 0) != 20 || m.inFlight(group, topic) != 15 {
		t.Fatalf("%+v, next %d, in flight %d", out[0], m.next(group, topic, 0), m.inFlight(group, topic))
	}
	// Back to 6, in one batch with more of the same queue: what lies there will be handed out anew.
	m.apply(3, popped(group, topic, 0, 20, 21, 3, 80, 4), CommitRecord([]Commit{{group, topic, 0, 6}}), popped(group, topic, 0, 6, 7, 3, 100, 5))
	if m.next(group, topic, 0) != 8 || m.inFlight(group, topic) != 6+2+5 {
		t.Fatalf("next %d, in flight %d", m.next(group, topic, 0), m.inFlight(group, topic))
	}
	if out := m.apply(4, ackOf(group, topic, Ref{VisibleAt: 100, Offset: 6, Nonce: 1})); !out[0].Refused {
		t.Fatal("a handle from before the move was accepted")
	}
	// Reset of one queue, then of all; the other topic is not concerned.
	out = m.apply(5, ResetRecord([]Commit{{group, topic, 0, 3}, {group, topic, -1, 3}, {group, topic, 1, -3}}))
	if out[0].Offset != 1 || m.next(group, topic, 0) != 3 || m.inFlight(group, topic) != 5 {
		t.Fatalf("%+v, next %d, in flight %d", out[0], m.next(group, topic, 0), m.inFlight(group, topic))
	}
	m.check()
	out = m.apply(6, popped(group, topic, 0, 3, 3, 3, 80, 4),
		ResetRecord([]Commit{{group, topic, 0, 0}, {group, topic, 1, 0}, {group, other, 0, 2}}), popped(group, topic, 0, 0, 0, 3, 80, 4))
	if out[1].Offset != 3 || m.inFlight(group, topic) != 1 || m.inFlight(group, other) != 0 {
		t.Fatalf("%+v, in flight %d and %d", out[1], m.inFlight(group, topic), m.inFlight(group, other))
	}
	if out := m.apply(7, CommitRecord([]Commit{{group, topic, 5, -1}})); !out[0].Refused || m.next(group, topic, 5) != -1 {
		t.Fatal("a negative offset was committed")
	}
	m.check()
}

// A record that was made for a topic or group that is gone must not bring rows of it back.
func TestWhatIsGoneStaysGone(t *testing.T) {
	m := newMachine(t)
	topic, group := m.topic("t"), m.group("g")
	m.apply(1, popped(group, topic, 0, 0, 4, 1, 100, 1))
	ref := Ref{VisibleAt: 100, Offset: 2, Nonce: 1}
	out := m.apply(2, popped(group, topic, 0, 5, 6, 2, 100, 1), m.deleteTopic("t"),
		popped(group, topic, 0, 7, 8, 2, 100, 1), popped(group, topic, 1, 0, 1, 2, 100, 1),
		ackOf(group, topic, ref), moveOf(group, topic, Move{Ref: ref, To: 300}),
		CommitRecord([]Commit{{group, topic, 0, 9}}), ResetRecord([]Commit{{group, topic, 0, 9}}))
	for i, o := range out[2:] {
		if !o.Refused || o.Offset != 0 {
			t.Errorf("record %d after the topic's deletion: %+v", i, o)
		}
	}
	again := m.topic("t")
	if again == topic {
		t.Fatal("the new topic has the old id")
	}
	if out := m.apply(3, ackOf(group, again, ref)); !out[0].Refused {
		t.Error("a handle of the deleted topic was accepted for its successor")
	}
	for _, space := range []kvindex.Space{kvindex.SpaceCursor, kvindex.SpaceCheckpoint, kvindex.SpaceCounter} {
		if rows := m.rows(space); rows != 0 {
			t.Errorf("%d rows of %v are left", rows, space)
		}
	}
	m.apply(4, popped(group, again, 0, 0, 4, 4, 100, 1))
	g, err := m.cat.Group("g")
	if err != nil {
		t.Fatal(err)
	}
	out = m.apply(5, m.cat.DeleteGroup(g, true), popped(group, again, 0, 5, 5, 5, 100, 1), CommitRecord([]Commit{{group, again, 0, 9}}))
	if !out[1].Refused || !out[2].Refused || m.rows(kvindex.SpaceCursor) != 0 {
		t.Errorf("after the group's deletion: %+v, %d cursors", out, m.rows(kvindex.SpaceCursor))
	}
	m.check()
}

func (m *machine) rows(space kvindex.Space) (n int) {
	m.t.Helper()
	err := kvindex.EachRow(m.engine, spaceStart(space), spaceEnd(space), func(_, _ []byte) (bool, error) {
		n++
		return true, nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return n
}

func TestCursorsOfAGroup(t *testing.T) {
	m := newMachine(t)
	a, b, group := m.topic("a"), m.topic("b"), m.group("g")
	m.apply(1, CommitRecord([]Commit{{group, b, 2, 5}, {group, a, 1, 4}, {group, a, 0, 3}}))
	var got []int64
	list := func(topic kvindex.ID) []int64 {
		got = nil
		err := m.state.EachCursor(group, topic, func(id kvindex.ID, queue int32, c Cursor) bool {
			got = append(got, int64(id), int64(queue), c.Next, c.Committed)
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	ia, ib := int64(a), int64(b)
	if got := list(0); !slices.Equal(got, []int64{ia, 0, 3, 3, ia, 1, 4, 4, ib, 2, 5, 5}) {
		t.Errorf("all: %v", got)
	}
	if got := list(b); !slices.Equal(got, []int64{ib, 2, 5, 5}) {
		t.Errorf("one topic's: %v", got)
	}
}

func TestForeignAndBrokenRecordsAreErrors(t *testing.T) {
	m := newMachine(t)
	m.batch.Begin(1, 1, 1)
	for _, r := range []record.Record{
		{Kind: record.KindMessage}, {Kind: record.KindPop}, {Kind: record.KindAck, Payload: []byte{2, 1, 1, 0}},
		{Kind: record.KindExtend, Payload: []byte{recordForm, 1, 1, 1}}, {Kind: record.KindCommit, Payload: []byte{recordForm, 0, 0}},
		{Kind: record.KindReset, Payload: []byte{recordForm, 9}}, {Kind: record.KindForget, Payload: []byte{recordForm, 9}},
	} {
		if _, err := m.state.Apply(m.batch, 0, r); err == nil {
			t.Errorf("%v with payload %x was applied", r.Kind, r.Payload)
		}
	}
}

func TestCheckFindsWhatIsWrong(t *testing.T) {
	for name, spoil := range map[string]func(w kvindex.Writer, group, topic kvindex.ID){
		"counter": func(w kvindex.Writer, group, topic kvindex.ID) {
			w.Set(kvindex.AppendCounterKey(nil, group, topic), appendCounters(nil, Counters{InFlight: 3}))
		},
		"no counter": func(w kvindex.Writer, group, topic kvindex.ID) {
			w.Delete(kvindex.AppendCounterKey(nil, group, topic))
		},
		"cursor": func(w kvindex.Writer, group, topic kvindex.ID) {
			w.Set(kvindex.AppendCursorKey(nil, group, topic, 0), appendCursor(nil, Cursor{1, 1}))
		},
		"no cursor": func(w kvindex.Writer, group, topic kvindex.ID) {
			w.Delete(kvindex.AppendCursorKey(nil, group, topic, 0))
		},
		"twice": func(w kvindex.Writer, group, topic kvindex.ID) {
			w.Set(kvindex.AppendCheckpointKey(nil, group, topic, 101, 0, 1), appendCheckpoint(nil, &Checkpoint{}))
		},
		"checkpoint": func(w kvindex.Writer, group, topic kvindex.ID) {
			w.Set(kvindex.AppendCheckpointKey(nil, group, topic, 100, 0, 1), []byte("nonsense"))
		},
	} {
		m := newMachine(t)
		topic, group := m.topic("t"), m.group("g")
		m.apply(1, popped(group, topic, 0, 0, 1, 1, 100, 1))
		m.check()
		w := m.engine.NewWriter()
		spoil(w, group, topic)
		if err := w.Commit(); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if err := Check(m.engine); err == nil {
			t.Errorf("%s: nothing found", name)
		}
	}
}
