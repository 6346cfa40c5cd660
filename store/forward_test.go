package store

import (
	"context"
	"testing"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/pop"
)

// openWithPops opens a store that has groups' checkpoints, too.
func openWithPops(t *testing.T) *Store {
	t.Helper()
	s, err := Open(context.Background(), testOptions(newPlace(t), clock.NewFake(epoch)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mustClose(t, s) })
	return s
}

// forward makes the record of a note in place of a checkpoint.
func (n note) forward(t tb, from pop.Popped) record.Record {
	t.Helper()
	m, _, err := message.Decode(n.record(t).Payload[topicBytes:])
	if err != nil {
		t.Fatal(err)
	}
	payload, err := AppendForward(nil, from, n.topic, &m)
	if err != nil {
		t.Fatal(err)
	}
	return record.Record{Kind: record.KindForward, Payload: payload}
}

// TestForwardStandsForItsCheckpoint: the copy is entered once, and only while the checkpoint is as it was.
func TestForwardStandsForItsCheckpoint(t *testing.T) {
	s := openWithPops(t)
	ctx := context.Background()
	from, to := putTopic(t, s, "from"), putTopic(t, s, "to")
	out, err := s.Append(ctx, s.Catalog.PutGroup(catalog.DefaultGroup("g")))
	if err != nil {
		t.Fatal(err)
	}
	group := kvindex.ID(out[0].Offset)
	if _, err := s.Append(ctx, note{topic: from, id: "a", body: "a"}.record(t), note{topic: from, id: "b", body: "b"}.record(t)); err != nil {
		t.Fatal(err)
	}
	entries, err := s.Entries(from, 0, 0, 2, nil)
	if err != nil || len(entries) != 2 {
		t.Fatalf("%v, %v", entries, err)
	}
	p := &pop.Pop{Group: group, Topic: from, PoppedAt: 10, VisibleAt: 20, Nonce: 7, Ranges: []pop.Range{{Start: 0, End: 2, Count: 2}}}
	for _, e := range entries {
		p.Entries = append(p.Entries, pop.Entry{Offset: e.Offset, Position: e.Position, Size: e.Size})
	}
	first := pop.Popped{Group: group, Topic: from, Ref: pop.Ref{VisibleAt: 20, Offset: 0, Nonce: 7}}
	stale := first
	stale.Nonce = 8
	letter := note{topic: to, id: "a", keys: "k", body: "dead a"}
	gone := note{topic: to + 100, id: "a", body: "nowhere"}
	out, err = s.Append(ctx, p.Record(), letter.forward(t, stale), gone.forward(t, first), letter.forward(t, first), letter.forward(t, first))
	if err != nil {
		t.Fatal(err)
	}
	for i, refused := range []bool{false, true, true, false, true} {
		if out[i].Refused != refused {
			t.Errorf("record %d: %+v", i, out[i])
		}
	}
	if n, err := s.Pop.InFlight(group, from); err != nil || n != 1 {
		t.Errorf("%d in flight, %v", n, err)
	}
	if _, high, err := s.Bounds(to, 0); err != nil || high != 1 {
		t.Errorf("the queue ends at %d, %v", high, err)
	}
	buf := NewBuffer()
	defer buf.Release()
	ends, err := s.Query(to, kvindex.IndexUniqueID, "a", 0, 1<<60, 10, buf)
	if err != nil || len(ends) != 1 || string(message.BodyOf(buf.B[:ends[0]])) != "dead a" {
		t.Errorf("found %d, %v", len(ends), err)
	}
	if err := pop.Check(s.Reader()); err != nil {
		t.Error(err)
	}
	if err := s.Verify(ctx); err != nil {
		t.Error(err)
	}
}

func TestForwardThatIsMalformed(t *testing.T) {
	s := openWithPops(t)
	good := note{topic: 1, body: "x"}.forward(t, pop.Popped{Group: 1, Topic: 2, Ref: pop.Ref{VisibleAt: 3, Queue: 4, Offset: 5, Nonce: 6}})
	if m, err := split(good); err != nil || m.popped != (pop.Popped{Group: 1, Topic: 2, Ref: pop.Ref{VisibleAt: 3, Queue: 4, Offset: 5, Nonce: 6}}) {
		t.Fatalf("%+v, %v", m.popped, err)
	}
	for at, what := range map[int]string{16: "time", 24: "queue", 28: "offset"} {
		bad := record.Record{Kind: good.Kind, Payload: append([]byte(nil), good.Payload...)}
		bad.Payload[at] |= 0x80
		if err := s.Propose(&commitlog.Proposal{Records: []record.Record{bad}, Done: func(*commitlog.Proposal) {}}); err == nil {
			t.Errorf("a record with a negative %s is accepted", what)
		}
	}
}
