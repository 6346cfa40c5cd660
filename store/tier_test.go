package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/tiered"
	"github.com/cairnmq/cairn/tiered/objects"
)

// openTier opens the tier in a folder, and closes it when the test ends.
func openTier(t *testing.T, folder string) *tiered.Tier {
	t.Helper()
	bucket, err := objects.OpenFolder(folder)
	if err != nil {
		t.Fatal(err)
	}
	tier, err := tiered.Open(context.Background(), bucket, tiered.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		tier.Close()
		if err := bucket.Close(); err != nil {
			t.Error(err)
		}
	})
	return tier
}

func mustUpload(t *testing.T, s *Store) (parts int) {
	t.Helper()
	for {
		_, done, err := s.Upload(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if done {
			return parts
		}
		parts++
	}
}

// Messages of ten hours, of which two stay here: whoever reads from offset 0, by time, by key or by position finds all of them.
func TestReadersDoNotNoticeTheTier(t *testing.T) {
	c := clock.NewFake(epoch)
	o := testOptions(newPlace(t), c)
	o.SegmentSize, o.Retention = 16<<10, 2*time.Hour
	folder := t.TempDir()
	o.Tier = openTier(t, folder)
	if _, err := o.Tier.Manifests().Claim(context.Background(), tiered.StoreID{1}); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, o)
	topic := putTopic(t, s, "a")
	const count = 60
	var want [2][]string
	var stored [2][]int64
	body := func(i int) string { return fmt.Sprint(i) + strings.Repeat(".", 900) }
	for i := range count {
		c.Advance(10 * time.Minute)
		send(t, s, note{topic: topic, queue: int32(i % 2), id: fmt.Sprint("id-", i), keys: "k", body: body(i)})
		want[i%2] = append(want[i%2], body(i))
		stored[i%2] = append(stored[i%2], c.Now().UnixMilli())
	}
	parts := mustUpload(t, s)
	first := s.log.First()
	if err := s.Expire(context.Background(), c.Now()); err != nil {
		t.Fatal(err)
	}
	if parts < 3 || s.log.First() <= first {
		t.Fatalf("%d parts, the log begins at %d", parts, s.log.First())
	}

	check := func() {
		t.Helper()
		for q := range int32(2) {
			low, high, err := s.Bounds(topic, q)
			if err != nil || low != 0 || high != count/2 {
				t.Fatalf("queue %d: %d..%d, %v", q, low, high, err)
			}
			k, err := s.boundsOf(queueKey{topic, q})
			if err != nil || k.local == 0 {
				t.Fatalf("queue %d: all of it is here, %v", q, err)
			}
			got := readAll(t, s, topic, q, 0, 100)
			if len(got) != count/2 {
				t.Fatalf("queue %d: %d messages", q, len(got))
			}
			for i, m := range got {
				if string(m.Body) != want[q][i] || m.QueueOffset != int64(i) {
					t.Fatalf("queue %d offset %d: %.20s", q, m.QueueOffset, m.Body)
				}
				for _, b := range []Boundary{Lower, Upper} {
					if at, err := s.OffsetByTime(topic, q, stored[q][i], b); err != nil || at != int64(i) {
						t.Fatalf("queue %d at %d is offset %d, %v; want %d", q, stored[q][i], at, err, i)
					}
				}
				if at, err := s.OffsetByTime(topic, q, stored[q][i]-1, Lower); err != nil || at != int64(i) {
					t.Fatalf("queue %d just before %d is offset %d, %v; want %d", q, stored[q][i], at, err, i)
				}
				byPosition(t, s, m)
			}
		}
		for i := range count {
			byID(t, s, topic, fmt.Sprint("id-", i), body(i), int64(i/2))
		}
		buf := NewBuffer()
		defer buf.Release()
		ends, err := s.Query(topic, kvindex.IndexKey, "k", 0, 1<<60, 100, buf)
		if err != nil || len(ends) != count {
			t.Fatalf("%d messages by key, %v", len(ends), err)
		}
	}
	check()
	mustVerify(t, s)
	mustClose(t, s)

	o.Tier = openTier(t, folder)
	s = mustOpen(t, o)
	check()
	mustVerify(t, s)
	mustClose(t, s)

	o.Tier = nil
	s = mustOpen(t, o)
	defer mustClose(t, s)
	if _, err := s.Entries(topic, 0, 0, 1, nil); !errors.Is(err, ErrNoTier) {
		t.Errorf("without a tier: %v", err)
	}
}

func byPosition(t *testing.T, s *Store, m message.Message) {
	t.Helper()
	buf := NewBuffer()
	defer buf.Release()
	raw, err := s.ReadByPosition(record.Position(m.PhysicalOffset), buf)
	if err != nil {
		t.Fatalf("at %d: %v", m.PhysicalOffset, err)
	}
	if got, _, err := message.Decode(raw); err != nil || string(got.Body) != string(m.Body) || got.QueueOffset != m.QueueOffset {
		t.Fatalf("at %d: offset %d of %.20s, %v", m.PhysicalOffset, got.QueueOffset, got.Body, err)
	}
}

func byID(t *testing.T, s *Store, topic kvindex.ID, id, body string, offset int64) {
	t.Helper()
	buf := NewBuffer()
	defer buf.Release()
	ends, err := s.Query(topic, kvindex.IndexUniqueID, id, 0, 1<<60, 10, buf)
	if err != nil || len(ends) != 1 {
		t.Fatalf("%s: %d messages, %v", id, len(ends), err)
	}
	if got, _, err := message.Decode(buf.B[:ends[0]]); err != nil || string(got.Body) != body || got.QueueOffset != offset {
		t.Fatalf("%s: offset %d of %.20s, %v", id, got.QueueOffset, got.Body, err)
	}
}

// What is due later does not wait for an object store then: its body stays in the log, or a copy of it.
func TestBodiesOfTimersStayHere(t *testing.T) {
	c := clock.NewFake(epoch)
	o := testOptions(newPlace(t), c)
	o.SegmentSize, o.Retention, o.horizon = 16<<10, 2*time.Hour, delay.Horizon
	o.Tier = openTier(t, t.TempDir())
	if _, err := o.Tier.Manifests().Claim(context.Background(), tiered.StoreID{1}); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, o)
	defer mustClose(t, s)
	topic := putTopic(t, s, "a")
	first := c.Now()
	bodies := map[string]bool{}
	for _, after := range []time.Duration{5 * time.Hour, 100 * time.Hour} {
		id := fmt.Sprint("due-", after)
		mustAppend(t, s, note{topic: topic, id: id, body: id}.later(t, first.Add(after).UnixMilli(), false))
		bodies[id] = true
	}
	for i := range 60 {
		c.Advance(10 * time.Minute)
		send(t, s, note{topic: topic, id: fmt.Sprint("id-", i), body: strings.Repeat(".", 900)})
		mustUpload(t, s)
		if err := s.Expire(context.Background(), c.Now()); err != nil {
			t.Fatal(err)
		}
	}
	timers, err := dueTimers(s, first.Add(200*time.Hour).UnixMilli(), 10)
	if err != nil || len(timers) != len(bodies) {
		t.Fatalf("%d timers, %v", len(timers), err)
	}
	for _, at := range timers {
		raw, err := s.log.ReadRaw(at.Position, int(at.Size), nil)
		if err != nil {
			t.Errorf("the body of the timer due at %d: %v", at.Due, err)
			continue
		}
		m, err := parseMessage(raw, int(at.Size))
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := message.Decode(m.layout)
		if err != nil || !bodies[string(got.Body)] {
			t.Errorf("the timer due at %d has the body %q, %v", at.Due, got.Body, err)
		}
	}
}
