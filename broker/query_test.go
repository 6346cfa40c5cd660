package broker

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/store"
)

func TestQueries(t *testing.T) {
	c := clock.NewFake(epoch)
	b := openBroker(t, withClock(c))
	start := epoch.UnixMilli()
	first := b.send(t, "t", 0, plain("one", "KEYS", "k other", "UNIQ_KEY", "ID1"))[0]
	c.Advance(time.Second)
	b.send(t, "t", 1, plain("two", "KEYS", "k"))
	b.send(t, "u", 1, plain("three", "KEYS", "k"))
	query := func(f func(string, string, int64, int64, int, *store.Buffer) ([]int, error), key string, begin, end int64, most int,
	) []string {
		t.Helper()
		buf := store.NewBuffer()
		defer buf.Release()
		ends, err := f("t", key, begin, end, most, buf)
		if err != nil {
			t.Fatal(err)
		}
		return bodies(decodeAll(t, buf.B, ends))
	}
	for _, q := range []struct {
		key        string
		begin, end int64
		most       int
		want       []string
	}{
		{"k", 0, math.MaxInt64, 0, []string{"two", "one"}},
		{"k", 0, math.MaxInt64, 1, []string{"two"}},
		{"k", start + 1, math.MaxInt64, 32, []string{"two"}},
		{"k", 0, start, 32, []string{"one"}},
		{"other", 0, math.MaxInt64, 32, []string{"one"}},
		{"none", 0, math.MaxInt64, 32, nil},
	} {
		if got := query(b.QueryByKey, q.key, q.begin, q.end, q.most); !slices.Equal(got, q.want) {
			t.Errorf("%+v: %q", q, got)
		}
	}
	if got := query(b.QueryByUniqueID, "ID1", 0, math.MaxInt64, 32); !slices.Equal(got, []string{"one"}) {
		t.Errorf("by unique id: %q", got)
	}
	_, err := b.QueryByKey("none", "k", 0, 1, 1, store.NewBuffer())
	wantCode(t, "topic", err, CodeTopicNotFound)

	buf := store.NewBuffer()
	defer buf.Release()
	for _, topic := range []string{"t", ""} {
		layout, err := b.MessageByPosition(topic, first.Position, buf)
		if err != nil {
			t.Fatal(err)
		}
		if m, _, err := message.Decode(layout); err != nil || string(m.Body) != "one" || m.QueueOffset != 0 {
			t.Errorf("message at %d: %+v, %v", first.Position, m, err)
		}
	}
	_, err = b.MessageByPosition("u", first.Position, buf)
	wantCode(t, "another topic's message", err, CodeNotFound)
	_, err = b.MessageByPosition("t", first.Position+1, buf)
	wantCode(t, "no record there", err, CodeNotFound)
	_, err = b.MessageByPosition("t", 1<<40, buf)
	wantCode(t, "beyond the end", err, CodeNotFound)
}

func TestBoundsAndTimes(t *testing.T) {
	c := clock.NewFake(epoch)
	b := openBroker(t, withClock(c))
	b.topicOf(t, "t", 2)
	for range 3 {
		b.send(t, "t", 0, plain("x"))
		c.Advance(time.Second)
	}
	start := epoch.UnixMilli()
	low, err1 := b.MinOffset("t", 0)
	high, err2 := b.MaxOffset("t", 0)
	earliest, err3 := b.EarliestStoreTime("t", 0)
	if low != 0 || high != 3 || earliest != start || err1 != nil || err2 != nil || err3 != nil {
		t.Errorf("%d to %d, from %d: %v %v %v", low, high, earliest, err1, err2, err3)
	}
	if got, err := b.EarliestStoreTime("t", 1); err != nil || got != -1 {
		t.Errorf("earliest of an empty queue: %d, %v", got, err)
	}
	for _, q := range []struct {
		ms       int64
		boundary store.Boundary
		want     int64
	}{{start, store.Lower, 0}, {start + 1, store.Lower, 1}, {start + 1, store.Upper, 0}, {start + 60_000, store.Lower, 3}} {
		if got, err := b.OffsetByTime("t", 0, q.ms, q.boundary); err != nil || got != q.want {
			t.Errorf("%+v: %d, %v", q, got, err)
		}
	}
	stats, err := b.TopicStats("t")
	want := []QueueStats{{Queue: 0, Min: 0, Max: 3, LastStoreTime: start + 2000}, {Queue: 1}}
	if err != nil || !slices.Equal(stats, want) {
		t.Errorf("stats %+v, %v, want %+v", stats, err, want)
	}
	_, err = b.MinOffset("t", 2)
	wantCode(t, "queue", err, CodeParameter)
	_, err = b.MaxOffset("none", 0)
	wantCode(t, "topic", err, CodeTopicNotFound)
	_, err = b.OffsetByTime("t", -1, 0, store.Lower)
	wantCode(t, "queue", err, CodeParameter)
	_, err = b.TopicStats("none")
	wantCode(t, "topic", err, CodeTopicNotFound)
}
