package store

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/tiered"
)

// tierBytes are all bodies that the tier has.
func tierBytes(t *testing.T, tier *tiered.Tier) (all []byte) {
	t.Helper()
	for _, p := range tier.Manifests().View().Parts {
		raw, err := io.ReadAll(tier.Bodies(context.Background(), &p))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, raw...)
	}
	return all
}

// reserved is a store with a tier and a topic of each retention, and a message to each of them every ten minutes for ten hours.
func reserved(t *testing.T, folder string) (*Store, *clock.Fake, map[string]kvindex.ID) {
	t.Helper()
	c := clock.NewFake(epoch)
	o := testOptions(newPlace(t), c)
	o.SegmentSize, o.Retention, o.TierRetention = 16<<10, 2*time.Hour, 30*time.Hour
	o.Tier = openTier(t, folder)
	if _, err := o.Tier.Manifests().Claim(context.Background(), tiered.StoreID{1}); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, o)
	t.Cleanup(func() { mustClose(t, s) })
	topics := map[string]kvindex.ID{}
	for _, hours := range []string{"-1", "0", "5"} {
		out := mustAppend(t, s, s.Catalog.PutTopic(catalog.Topic{
			Name: "keep" + hours, ReadQueues: 1, WriteQueues: 1, Attributes: map[string]string{catalog.AttrReserveTime: hours},
		}))
		topics[hours] = kvindex.ID(out[0].Offset)
	}
	for i := range 60 {
		c.Advance(10 * time.Minute)
		for hours, id := range topics {
			c.Advance(time.Millisecond)
			send(t, s, note{topic: id, id: fmt.Sprint(hours, "-", i), keys: "k", body: fmt.Sprintf("body of %s.", hours) + strings.Repeat(".", 900)})
		}
	}
	mustUpload(t, s)
	return s, c, topics
}

func mustExpire(t *testing.T, s *Store, c *clock.Fake) {
	t.Helper()
	if err := s.Expire(context.Background(), c.Now()); err != nil {
		t.Fatal(err)
	}
}

func mustCompact(t *testing.T, s *Store) (parts int) {
	t.Helper()
	for {
		_, done, err := s.Compact(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if done {
			return parts
		}
		parts++
	}
}

// A topic that is excluded is never in the tier; others go when their own time is over, and the bytes of both places with them.
func TestTopicsStayInTheTierForAsLongAsTheySay(t *testing.T) {
	s, c, topics := reserved(t, t.TempDir())
	if all := tierBytes(t, s.opts.Tier); bytes.Contains(all, []byte("body of 0.")) || !bytes.Contains(all, []byte("body of 5.")) {
		t.Fatal("the tier has the bytes of the topic that is excluded, or lacks those of another")
	}
	for _, p := range s.opts.Tier.Manifests().View().Parts {
		if p.LiveBytes >= p.RawBytes() || p.LiveBytes < p.RawBytes()/2 {
			t.Errorf("of %d bytes %d are said to be wanted", p.RawBytes(), p.LiveBytes)
		}
	}
	low := func(hours string) int64 {
		t.Helper()
		low, high, err := s.Bounds(topics[hours], 0)
		if err != nil || high != 60 {
			t.Fatalf("%s: %d to %d, %v", hours, low, high, err)
		}
		if got := readAll(t, s, topics[hours], 0, 0, 100); int64(len(got)) != high-low {
			t.Fatalf("%s: %d messages from %d to %d", hours, len(got), low, high)
		}
		return low
	}
	mustExpire(t, s, c)
	// Two hours are here, by the segment, and so five by the part.
	if a, b, d := low("-1"), low("0"), low("5"); a != 0 || b < 40 || b > 48 || d < 22 || d > 30 {
		t.Fatalf("the queues begin at %d, %d, %d", a, b, d)
	}
	mustVerify(t, s)
	mustCompact(t, s) // about half of what is there of the oldest is dead
	low("5")

	// Without the topic that stays longest most is dead, and the rest is in the parts as it was.
	gone, err := s.Catalog.DeleteTopic(&catalog.Topic{ID: topics["-1"]})
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, s, gone)
	c.Advance(surveyEvery - 20*time.Hour)
	before := s.opts.Tier.Manifests().View()
	s.tier.looks = nil // as after a start
	mustExpire(t, s, c)
	if n := mustCompact(t, s); n < 3 {
		t.Fatalf("%d parts were compacted", n)
	}
	if n := mustCompact(t, s); n != 0 {
		t.Fatalf("%d parts were compacted once more", n)
	}
	after := s.opts.Tier.Manifests().View()
	if len(after.Parts) != len(before.Parts) {
		t.Fatalf("%d parts of %d are left", len(after.Parts), len(before.Parts))
	}
	if p, q := before.Parts[0], after.Parts[0]; q.Start != p.Start || q.End != p.End || q.LogBytes >= p.LogBytes || q.LiveBytes >= p.LiveBytes {
		t.Errorf("%+v became %+v", p, q)
	}
	low("5")
	mustExpire(t, s, c)
	if n := mustCompact(t, s); n != 0 {
		t.Fatalf("%d parts were compacted that were before", n)
	}

	// The broker's own time being over, the parts go.
	c.Advance(30 * time.Hour)
	mustExpire(t, s, c)
	if first, ok := s.opts.Tier.Bounds(); ok && first.First <= after.Parts[2].Start {
		t.Errorf("the tier begins at %d, as before", first.First)
	}
	low("5")
	mustVerify(t, s)
}

// Who has not claimed the tier lets nothing go for its sake: it may be another broker's.
func TestATierThatIsNotOursTakesNothing(t *testing.T) {
	folder := t.TempDir()
	s, c, topics := reserved(t, folder)
	if _, err := openTier(t, folder).Manifests().Claim(context.Background(), tiered.StoreID{1}); err != nil {
		t.Fatal(err)
	}
	if err := s.opts.Tier.Refresh(context.Background()); err != nil {
		t.Fatal(err)
	}
	first := s.log.First()
	mustExpire(t, s, c)
	if n := mustCompact(t, s); n != 0 || s.log.First() != first {
		t.Errorf("%d parts were compacted, the log begins at %d", n, s.log.First())
	}
	for hours, id := range topics {
		if low, high, err := s.Bounds(id, 0); low != 0 || high != 60 || err != nil {
			t.Errorf("%s: %d to %d, %v", hours, low, high, err)
		}
	}
}
