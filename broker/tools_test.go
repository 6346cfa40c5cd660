package broker

import (
	"context"
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/store"
)

func TestQueueEntries(t *testing.T) {
	c := clock.NewFake(epoch)
	b := openBroker(t, withClock(c))
	b.topicOf(t, "t", 1)
	res := b.send(t, "t", 0, plain("a", "TAGS", "x"), plain("bb", "TAGS", "y"))
	got, low, high, err := b.QueueEntries("t", 0, 0, 10)
	if err != nil || low != 0 || high != 2 || len(got) != 2 {
		t.Fatalf("%+v %d %d %v", got, low, high, err)
	}
	buf := store.NewBuffer()
	defer buf.Release()
	for i, tag := range []string{"x", "y"} {
		layout, err := b.MessageByPosition("t", res[i].Position, buf)
		if err != nil {
			t.Fatal(err)
		}
		want := QueueEntry{int64(i), res[i].Position, int32(len(layout)), message.TagHash(tag), epoch.UnixMilli()}
		if got[i] != want {
			t.Errorf("%+v, want %+v", got[i], want)
		}
	}
	if got, _, _, err := b.QueueEntries("t", 0, 1, 1); err != nil || len(got) != 1 || got[0].Offset != 1 {
		t.Errorf("%+v %v", got, err)
	}
	for _, from := range []int64{-1, 2, 99} {
		if got, low, high, err := b.QueueEntries("t", 0, from, 10); err != nil || len(got) != 0 || low != 0 || high != 2 {
			t.Errorf("from %d: %+v %d %d %v", from, got, low, high, err)
		}
	}
	_, _, _, err = b.QueueEntries("t", 1, 0, 10)
	wantCode(t, "queue", err, CodeParameter)
	_, _, _, err = b.QueueEntries("none", 0, 0, 10)
	wantCode(t, "topic", err, CodeTopicNotFound)
}

func TestConsumeSpans(t *testing.T) {
	c := clock.NewFake(epoch)
	b := openBroker(t, withClock(c))
	ctx := context.Background()
	b.topicOf(t, "t", 2)
	b.group(t, "g")
	for range 3 {
		b.sendBodies(t, "t", 0, 1)
		c.Advance(time.Second)
	}
	start := epoch.UnixMilli()
	check := func(what string, want ...ConsumeSpan) {
		t.Helper()
		if got, err := b.ConsumeSpans("g", "t"); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %+v %v", what, got, err)
		}
	}
	empty := ConsumeSpan{1, -1, -1, -1, 0}
	check("nothing consumed", ConsumeSpan{0, start, start + 2000, start, 3 * time.Second}, empty)
	for offset, want := range []ConsumeSpan{
		1: {0, start, start + 2000, start, 2 * time.Second},
		2: {0, start, start + 2000, start + 1000, time.Second},
		3: {0, start, start + 2000, start + 2000, 0},
	} {
		if offset == 0 {
			continue
		}
		if err := b.CommitOffsets(ctx, "g", []OffsetCommit{{"t", 0, int64(offset)}}); err != nil {
			t.Fatal(err)
		}
		check("consumed", want, empty)
	}
	_, err := b.ConsumeSpans("none", "t")
	wantCode(t, "group", err, CodeGroupNotFound)
	_, err = b.ConsumeSpans("g", "none")
	wantCode(t, "topic", err, CodeTopicNotFound)
}

func TestCloneAndLeastOffsets(t *testing.T) {
	b := openBroker(t)
	ctx := context.Background()
	for _, topic := range []string{"t", "u"} {
		b.topicOf(t, topic, 3)
		for queue := range int32(3) {
			b.sendBodies(t, topic, queue, 9)
		}
	}
	commit := func(group string, commits ...OffsetCommit) {
		t.Helper()
		if err := b.CommitOffsets(ctx, group, commits); err != nil {
			t.Fatal(err)
		}
	}
	commit("a", OffsetCommit{"t", 0, 5}, OffsetCommit{"t", 1, 7}, OffsetCommit{"u", 0, 3})
	commit("b", OffsetCommit{"t", 0, 9}, OffsetCommit{"t", 2, 1})
	if err := b.CloneOffsets(ctx, "a", "b", "t"); err != nil {
		t.Fatal(err)
	}
	for queue, want := range []int64{5, 7, 1} {
		if got := b.committed(t, "b", "t", int32(queue)); got != want {
			t.Errorf("queue %d: %d, want %d", queue, got, want)
		}
	}
	if got := b.committed(t, "b", "u", 0); got != -1 {
		t.Errorf("the other topic was cloned too: %d", got)
	}
	if err := b.CloneOffsets(ctx, "a", "made", ""); err != nil {
		t.Fatal(err)
	}
	if got := b.committed(t, "made", "u", 0); got != 3 {
		t.Errorf("all topics: %d", got)
	}
	wantCode(t, "no such group", b.CloneOffsets(ctx, "none", "b", "t"), CodeGroupNotFound)
	wantCode(t, "no such topic", b.CloneOffsets(ctx, "a", "b", "none"), CodeTopicNotFound)

	commit("b", OffsetCommit{"t", 0, 2}, OffsetCommit{"t", 1, 9})
	least := func(group string, want map[int32]int64, leaveOut ...string) {
		t.Helper()
		if got, err := b.LeastOffsets(group, "t", leaveOut); err != nil || !maps.Equal(got, want) {
			t.Errorf("of %s but for %v: %v %v", group, leaveOut, got, err)
		}
	}
	least("a", map[int32]int64{0: 2, 1: 7})
	least("a", map[int32]int64{0: 5, 1: 7}, "b")
	least("b", map[int32]int64{0: math.MaxInt64, 1: 7}, "b")
	least("a", map[int32]int64{}, "a", "b", "made")
	_, err := b.LeastOffsets("none", "t", nil)
	wantCode(t, "no such group", err, CodeGroupNotFound)
}

func TestToolsAboutTheBroker(t *testing.T) {
	c := clock.NewFake(epoch)
	b := openBroker(t, withClock(c))
	b.sendBodies(t, "t", 0, 3)
	stats, opts, err := b.StorageStats()
	if err != nil || stats.LogCommitted == 0 || opts.SegmentSize != 1<<20 || opts.Retention != 72*time.Hour || opts.Dir != b.folder() {
		t.Errorf("%+v %+v %v", stats, opts, err)
	}
	if b.Durability() != commitlog.ModeSync {
		t.Error(b.Durability())
	}
	if !b.IsSystemTopic("broker-a") || b.IsSystemTopic("t") {
		t.Error("system topics")
	}
	c.Advance(74 * time.Hour)
	if err := b.Expire(context.Background()); err != nil {
		t.Fatal(err)
	}
	if low, err := b.MinOffset("t", 0); err != nil || low != 3 {
		t.Errorf("after its retention a queue begins at %d, %v", low, err)
	}
	cl := &Client{ID: "p1"}
	b.Clients().RegisterProducer("pg", cl)
	seen := 0
	b.Clients().EachProducer(func(group string, got *Client, at time.Time) {
		if seen++; group != "pg" || got != cl || !at.Equal(c.Now()) {
			t.Error(group, got, at)
		}
	})
	if seen != 1 {
		t.Errorf("%d producers", seen)
	}
}
