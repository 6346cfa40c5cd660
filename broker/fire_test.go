package broker

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/store"
)

func timeString(at time.Time) string { return strconv.FormatInt(at.UnixMilli(), 10) }

// fired waits until no timer is due any more.
func (tb *testBroker) fired(t testing.TB) {
	t.Helper()
	waitFor(t, "what is due to fire", func() bool {
		first, ok, err := tb.firstTimer()
		if err != nil {
			t.Fatal(err)
		}
		return !ok || first.Due > tb.clock.Now().UnixMilli()
	})
	// Rows are seen a moment before the queue's new end is: what comes after them is answered only when both are.
	if _, err := tb.store.Append(context.Background(), delay.Recall{}.Record()); err != nil {
		t.Fatal(err)
	}
}

// firstTimer does not disturb the firer as delay.State.Next would.
func (tb *testBroker) firstTimer() (first delay.Timer, ok bool, err error) {
	err = tb.store.Delay.Each(delay.Point{}, func(t *delay.Timer) bool {
		first, ok = *t, true
		return false
	})
	return first, ok, err
}

func waitFor(t testing.TB, what string, reached func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(200 * time.Microsecond)
	defer tick.Stop()
	for !reached() {
		select {
		case <-deadline:
			t.Fatalf("waited 20 s for %s", what)
		case <-tick.C:
		}
	}
}

func (tb *testBroker) stored(t testing.TB, at record.Position, size int32) message.Message {
	t.Helper()
	layout, err := tb.store.ReadStored(at, size, &store.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := message.Decode(layout)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// inQueue are the bodies of a queue.
func (tb *testBroker) inQueue(t testing.TB, topic string, queue int32) (bodies []string) {
	t.Helper()
	high, err := tb.MaxOffset(topic, queue)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := tb.store.Entries(mustTopicID(t, tb, topic), queue, 0, int(high), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		bodies = append(bodies, string(tb.stored(t, e.Position, e.Size).Body))
	}
	return bodies
}

// later sends a message that is due at a time.
func (tb *testBroker) later(t testing.TB, topic string, queue int32, at time.Time, body string) SendResult {
	t.Helper()
	return tb.send(t, topic, queue, plain(body, "TIMER_DELIVER_MS", timeString(at)))[0]
}

func TestTimersFireAtTheMillisecondAndNotBefore(t *testing.T) {
	c := clock.NewFake(epoch)
	b := openBroker(t, withClock(c))
	b.topicOf(t, "t", 1)
	for _, ms := range []int{30, 10, 20, 11, 600, 10} {
		b.later(t, "t", 0, epoch.Add(time.Duration(ms)*time.Millisecond), fmt.Sprint(ms))
	}
	for _, step := range []struct {
		ms   int
		want []string
	}{
		{9, nil}, {10, []string{"10", "10"}}, {11, []string{"10", "10", "11"}}, {19, []string{"10", "10", "11"}},
		{599, []string{"10", "10", "11", "20", "30"}}, {600, []string{"10", "10", "11", "20", "30", "600"}},
	} {
		c.Advance(epoch.Add(time.Duration(step.ms) * time.Millisecond).Sub(c.Now()))
		b.fired(t)
		wantBodies(t, fmt.Sprint("after ms ", step.ms), b.inQueue(t, "t", 0), step.want...)
	}
	waitFor(t, "all to be counted", func() bool { return b.firer.late.total() == 6 })
}

// A long poll waits for a timer as for anything else.
func TestATimerWakesWhoWaits(t *testing.T) {
	c := clock.NewFake(epoch)
	b := openBroker(t, withClock(c))
	b.topicOf(t, "t", 1)
	b.group(t, "g")
	b.later(t, "t", 0, epoch.Add(time.Second), "x")
	got := make(chan []string, 1)
	go func() {
		res, err := b.Pop(context.Background(), waitingPop(1))
		if err != nil {
			t.Error(err)
		}
		got <- bodiesOf(t, res)
	}()
	waitFor(t, "the pop to wait", func() bool { return b.waiters.len() == 1 })
	c.Advance(time.Second)
	wantBodies(t, "popped", receive(t, got), "x")
}

// More than one chunk, all due at once: in order of due time, then of arrival.
func TestManyTimersFireInOrder(t *testing.T) {
	const n = 2*firedAtOnce + 300
	c := clock.NewFake(epoch)
	b := openBroker(t, withClock(c))
	b.topicOf(t, "t", 1)
	want := make([][]string, 50)
	sent := make(chan error, n)
	for i := range n {
		ms := i * 7 % len(want)
		want[ms] = append(want[ms], fmt.Sprint(i))
		m := plain(fmt.Sprint(i), "TIMER_DELIVER_MS", timeString(epoch.Add(time.Duration(100+ms)*time.Millisecond)))
		b.SendAsync(&SendRequest{Topic: "t", Messages: []message.Message{m}}, func(_ []SendResult, err error) { sent <- err })
	}
	for range n {
		if err := receive(t, sent); err != nil {
			t.Fatal(err)
		}
	}
	c.Advance(time.Second)
	b.fired(t)
	wantBodies(t, "in the queue", b.inQueue(t, "t", 0), slices.Concat(want...)...)
	if pending, err := b.store.Delay.Pending(mustTopicID(t, b, "t")); err != nil || pending != 0 {
		t.Errorf("%d are pending, %v", pending, err)
	}
}

// Beside others that write, a mass of timers fires in chunks with time between them.
func TestMassFiresSlowlyBesideOthers(t *testing.T) {
	c := clock.NewFake(epoch)
	b := openBroker(t, withClock(c))
	b.topicOf(t, "t", 1)
	b.topicOf(t, "other", 1)
	send := func(n int, topic string, due time.Duration) {
		t.Helper()
		sent := make(chan error, n)
		for range n {
			m := plain("a body", "TIMER_DELIVER_MS", timeString(epoch.Add(due)))
			b.SendAsync(&SendRequest{Topic: topic, Messages: []message.Message{m}}, func(_ []SendResult, err error) { sent <- err })
		}
		for range n {
			if err := receive(t, sent); err != nil {
				t.Fatal(err)
			}
		}
	}
	pending := func() int64 {
		n, err := b.store.Delay.Pending(mustTopicID(t, b, "t"))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const mass = 3 * firedAtOnce
	send(mass, "t", 2*time.Second)
	send(1, "t", time.Second)
	c.Advance(time.Second)
	waitFor(t, "the first one to fire", func() bool { return pending() == mass })
	send(200, "other", 0)
	c.Advance(time.Second)
	pace := firedAtOnce * time.Second / time.Duration(besideRate*runtime.GOMAXPROCS(0))
	for left := int64(mass - firedAtOnce); left >= 0; left -= firedAtOnce {
		waitFor(t, "a chunk to fire", func() bool { return pending() == left })
		waitFor(t, "the time between two chunks to begin", func() bool { return c.Awaited(c.Now().Add(pace)) })
		if n := pending(); n != left {
			t.Fatalf("%d are pending at once, want %d", n, left)
		}
		c.Advance(pace)
	}
}

func TestOverdueTimersFireAtStart(t *testing.T) {
	c := clock.NewFake(epoch)
	b := openBroker(t, withClock(c))
	b.topicOf(t, "t", 1)
	for _, s := range []int{5, 3, 9, 4} {
		b.later(t, "t", 0, epoch.Add(time.Duration(s)*time.Second), fmt.Sprint(s))
	}
	b.close(t)
	c.Advance(5 * time.Second)
	b.open(t)
	b.fired(t)
	wantBodies(t, "after the start", b.inQueue(t, "t", 0), "3", "4", "5")
	c.Advance(4 * time.Second)
	b.fired(t)
	wantBodies(t, "later", b.inQueue(t, "t", 0), "3", "4", "5", "9")
}

// Timers follow the clock wherever it is set. The time of the log does not go back, so what was sent before the clock was set
// back is still due at its time.
func TestTheClockIsSet(t *testing.T) {
	c := clock.NewFake(epoch)
	b := openBroker(t, withClock(c))
	b.topicOf(t, "t", 1)
	b.later(t, "t", 0, epoch.Add(time.Minute), "minute")
	b.later(t, "t", 0, epoch.Add(time.Hour), "hour")
	c.Advance(-24 * time.Hour)
	b.later(t, "t", 0, epoch.Add(time.Second), "second")
	c.Advance(24 * time.Hour)
	b.fired(t)
	wantBodies(t, "at the old time", b.inQueue(t, "t", 0))
	c.Advance(10 * time.Minute)
	b.fired(t)
	wantBodies(t, "after 10 minutes", b.inQueue(t, "t", 0), "second", "minute")
	c.Advance(60 * time.Hour)
	b.fired(t)
	wantBodies(t, "after days", b.inQueue(t, "t", 0), "second", "minute", "hour")
}

// A timer whose body is older than the horizon fires from a copy; one beside it that is young does not.
func TestOldBodiesAreCopied(t *testing.T) {
	c := clock.NewFake(epoch)
	b := openBroker(t, withClock(c))
	b.topicOf(t, "t", 1)
	due := epoch.Add(delay.Horizon + 3*time.Hour)
	old := b.later(t, "t", 0, due, "old")
	older := b.later(t, "t", 0, due.Add(-time.Millisecond), "older")
	c.Advance(due.Sub(c.Now()) - time.Second)
	young := b.later(t, "t", 0, due, "young")
	c.Advance(time.Second)
	b.fired(t)
	wantBodies(t, "in the queue", b.inQueue(t, "t", 0), "older", "old", "young")
	entries, err := b.store.Entries(mustTopicID(t, b, "t"), 0, 0, 3, nil)
	if err != nil {
		t.Fatal(err)
	}
	if entries[0].Position <= old.Position || entries[1].Position <= old.Position || entries[2].Position != young.Position {
		t.Errorf("entries %+v; old ones were at %d and %d, the young one at %d", entries, older.Position, old.Position, young.Position)
	}
	if id := message.DecodeProperties(b.stored(t, entries[1].Position, entries[1].Size).Properties)["UNIQ_KEY"]; id != old.UniqueID {
		t.Errorf("the copy has id %s, its message %s", id, old.UniqueID)
	}
}
