package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// aged is a store with a message every ten minutes over ten hours, two hours of retention, and some segments deleted.
func aged(t *testing.T, p place) (*Store, Options, *clock.Fake, kvindex.ID) {
	t.Helper()
	c := clock.NewFake(epoch) // half past twelve
	o := testOptions(p, c)
	o.SegmentSize, o.Retention = 16<<10, 2*time.Hour
	s := mustOpen(t, o)
	topic := putTopic(t, s, "a")
	for i := range 60 {
		c.Advance(10 * time.Minute)
		send(t, s, note{topic: topic, queue: int32(i % 2), id: fmt.Sprint(i), keys: "k", body: fmt.Sprint(i) + strings.Repeat(".", 900)})
	}
	if err := s.Expire(context.Background(), c.Now()); err != nil {
		t.Fatal(err)
	}
	return s, o, c, topic
}

// The last message of aged came at half past ten in the evening, so what came before half past eight may go, and goes by
// the hour: what came before eight, from twenty to one until ten to eight.
const agedGone = 44

func TestExpireGoesByTheHour(t *testing.T) {
	s, o, c, topic := aged(t, newPlace(t))
	check := func(gone int64) {
		t.Helper()
		for q := range int32(2) {
			low, high, err := s.Bounds(topic, q)
			if err != nil || low != gone/2 || high != 30 {
				t.Fatalf("queue %d: %d..%d, %v", q, low, high, err)
			}
			got := readAll(t, s, topic, q, 0, 100)
			if len(got) != int(high-low) || got[0].QueueOffset != low {
				t.Fatalf("queue %d: %d messages", q, len(got))
			}
		}
		buf := NewBuffer()
		defer buf.Release()
		ends, err := s.Query(topic, kvindex.IndexKey, "k", 0, 1<<60, 100, buf)
		if err != nil || len(ends) != 60-int(gone) {
			t.Fatalf("%d messages by key, %v", len(ends), err)
		}
	}
	check(agedGone)
	st := s.Stats()
	if st.LogFirst == 0 || st.OldestStoreTime != epoch.Add(7*time.Hour+30*time.Minute).UnixMilli() {
		t.Fatalf("stats %+v", st)
	}
	if st.LogBytes > 16*1100+2*16<<10 {
		t.Fatalf("%d bytes of log are left for %d messages", st.LogBytes, 60-agedGone)
	}
	// What is gone is gone for reads that still have an old entry in hand, too.
	buf := NewBuffer()
	defer buf.Release()
	if _, err := s.ReadMessages([]Entry{{Position: 200, Size: 1000}}, 1<<20, buf); !errors.Is(err, commitlog.ErrGone) {
		t.Fatalf("reading a deleted segment: %v", err)
	}
	if _, err := s.ReadByPosition(200, buf); !errors.Is(err, ErrNotFound) {
		t.Fatalf("reading a deleted segment by position: %v", err)
	}
	// Nothing more happens until another hour is over.
	applied := s.Stats().Applied
	if err := s.Expire(context.Background(), c.Now()); err != nil || s.Stats().Applied != applied {
		t.Fatalf("a second Expire wrote something, or %v", err)
	}
	mustVerify(t, s) // from the checkpoint
	mustClose(t, s)
	s = mustOpen(t, o)
	check(agedGone)
	mustVerify(t, s)
	// Idle for long: everything goes, offsets stay.
	c.Advance(48 * time.Hour)
	if err := s.Expire(context.Background(), c.Now()); err != nil {
		t.Fatal(err)
	}
	for q := range int32(2) {
		if low, high, err := s.Bounds(topic, q); low != 30 || high != 30 || err != nil {
			t.Fatalf("queue %d: %d..%d, %v", q, low, high, err)
		}
		for _, b := range []Boundary{Lower, Upper} {
			if at, err := s.OffsetByTime(topic, q, c.Now().UnixMilli(), b); at != 30 || err != nil {
				t.Fatalf("offset by time in an empty queue: %d, %v", at, err)
			}
		}
	}
	if n := rowsIn(t, s.engine, kvindex.SpaceBucket, kvindex.SpaceKeyIndex, kvindex.SpaceConsumeQueue); n != 0 {
		t.Fatalf("%d rows are left of messages that are gone", n)
	}
	if out := send(t, s, note{topic: topic, queue: 1, body: "new"}); out[0].Offset != 30 {
		t.Fatalf("outcome %+v", out[0])
	}
	mustVerify(t, s)
	mustClose(t, s)
}

func rowsIn(t *testing.T, r kvindex.Reader, spaces ...kvindex.Space) (n int) {
	t.Helper()
	for _, space := range spaces {
		it, err := r.NewIter([]byte{byte(space)}, []byte{byte(space) + 1})
		if err != nil {
			t.Fatal(err)
		}
		for ok := it.First(); ok; ok = it.Next() {
			n++
		}
		if err := errors.Join(it.Error(), it.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// An hour that could still get messages is trimmed but not dropped.
func TestTheHourUnderWayIsNotDropped(t *testing.T) {
	c := clock.NewFake(epoch)
	s := mustOpen(t, testOptions(newPlace(t), c))
	defer mustClose(t, s)
	topic := putTopic(t, s, "a")
	send(t, s, note{topic: topic, id: "1"})
	if err := s.Expire(context.Background(), epoch.Add(1000*time.Hour)); err != nil { // the log's clock says otherwise
		t.Fatal(err)
	}
	if low, high, err := s.Bounds(topic, 0); low != 1 || high != 1 || err != nil {
		t.Fatalf("%d..%d, %v", low, high, err)
	}
	send(t, s, note{topic: topic, id: "2"})
	if n := rowsIn(t, s.engine, kvindex.SpaceBucket); n != 2 {
		t.Fatalf("%d rows of buckets", n)
	}
	out := mustAppend(t, s, record.Record{Kind: record.KindDropHour, Payload: encodeDropHour(kvindex.HourOf(epoch.UnixMilli()))})
	if !out[0].Refused {
		t.Fatal("the hour under way was dropped")
	}
	mustVerify(t, s)
}

// Many queues in one hour take several trim records, and one Expire.
func TestExpireOfManyQueues(t *testing.T) {
	c := clock.NewFake(epoch)
	o := testOptions(newPlace(t), c)
	o.Retention = time.Hour
	s := mustOpen(t, o)
	defer mustClose(t, s)
	topic := putTopic(t, s, "a")
	const queues = 3*trimChunk + 1
	var notes []note
	for q := range int32(queues) {
		notes = append(notes, note{topic: topic, queue: q, body: "b"})
	}
	send(t, s, notes...)
	c.Advance(5 * time.Hour)
	before := s.applied.Load().Index
	if err := s.Expire(context.Background(), c.Now()); err != nil {
		t.Fatal(err)
	}
	if n := s.applied.Load().Index - before; n != 4+1 {
		t.Fatalf("%d batches", n)
	}
	for q := range int32(queues) {
		if low, high, err := s.Bounds(topic, q); low != 1 || high != 1 || err != nil {
			t.Fatalf("queue %d: %d..%d, %v", q, low, high, err)
		}
	}
	mustVerify(t, s)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	send(t, s, note{topic: topic, body: "b"})
	c.Advance(5 * time.Hour)
	if err := s.Expire(ctx, c.Now()); !errors.Is(err, context.Canceled) {
		t.Fatalf("expire with a context that is over: %v", err)
	}
}
