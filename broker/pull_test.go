package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/filter"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/message"
)

func bodies(messages []message.Message) (out []string) {
	for _, m := range messages {
		out = append(out, string(m.Body))
	}
	return out
}

func TestPullStatus(t *testing.T) {
	b := openBroker(t)
	b.topicOf(t, "t", 2)
	b.sendBodies(t, "t", 0, 5)
	for _, c := range []struct {
		what         string
		queue        int32
		offset, next int64
		want         PullStatus
	}{
		{"from the start", 0, 0, 5, PullFound},
		{"in the middle", 0, 3, 5, PullFound},
		{"at the end", 0, 5, 5, PullNoNewMessage},
		{"beyond the end", 0, 9, 5, PullOffsetMoved},
		{"before the start", 0, -1, 0, PullOffsetMoved},
		{"empty queue", 1, 0, 0, PullNoNewMessage},
		{"beyond an empty queue", 1, 4, 0, PullOffsetMoved},
	} {
		res := b.pull(t, "g", "t", c.queue, c.offset)
		if res.Status != c.want || res.NextOffset != c.next {
			t.Errorf("%s: status %d, next %d, want %d and %d", c.what, res.Status, res.NextOffset, c.want, c.next)
		}
		if (res.Buffer != nil) != (c.want == PullFound) {
			t.Errorf("%s: buffer %v", c.what, res.Buffer)
		}
		if c.queue == 0 && (res.Min != 0 || res.Max != 5) {
			t.Errorf("%s: bounds %d to %d", c.what, res.Min, res.Max)
		}
		if res.Buffer != nil {
			for i, m := range decodeAll(t, res.Buffer.B, res.Ends) {
				if m.QueueOffset != c.offset+int64(i) {
					t.Errorf("%s: message %d has offset %d", c.what, i, m.QueueOffset)
				}
			}
			res.Buffer.Release()
		}
	}
}

func TestPullRefusals(t *testing.T) {
	b := openBroker(t)
	b.topicOf(t, "t", 2)
	ctx := context.Background()
	if err := b.PutTopic(ctx, catalog.Topic{Name: "blind", ReadQueues: 1, WriteQueues: 1, Perm: catalog.PermWrite}, ""); err != nil {
		t.Fatal(err)
	}
	off := catalog.DefaultGroup("off")
	off.ConsumeEnable = false
	if err := b.PutGroup(ctx, off, ""); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what string
		req  PullRequest
		want Code
	}{
		{"unknown topic", PullRequest{Group: "g", Topic: "none"}, CodeTopicNotFound},
		{"bad group", PullRequest{Group: "a b", Topic: "t"}, CodeGroupIllegal},
		{"queue", PullRequest{Group: "g", Topic: "t", QueueID: 2}, CodeParameter},
		{"unreadable topic", PullRequest{Group: "g", Topic: "blind"}, CodeNoPermission},
		{"disabled group", PullRequest{Group: "off", Topic: "t"}, CodeNoPermission},
	} {
		c.req.CommitOffset = -1
		_, err := b.Pull(ctx, &c.req)
		wantCode(t, c.what, err, c.want)
	}
	if _, err := b.Group("g"); err != nil {
		t.Errorf("the group was not made on demand: %v", err)
	}
}

func TestPullLimits(t *testing.T) {
	b := openBroker(t)
	big := make([]message.Message, 40)
	for i := range big {
		big[i] = plain(string(make([]byte, 10_000)))
	}
	b.send(t, "big", 0, big...)
	b.sendBodies(t, "small", 0, 300)
	for _, c := range []struct {
		topic     string
		max       int
		bytes     int
		want      int
		wantFewer bool // than, not exactly
	}{
		{"small", 0, 0, 32, false},
		{"small", 5, 0, 5, false},
		{"small", 1000, 0, 160, false},
		{"small", 10, 1, 1, false},
		{"big", 100, 0, 26, true},
		{"big", 100, 1 << 30, 26, true},
		{"big", 100, 25_000, 3, true},
	} {
		res, err := b.Pull(context.Background(), &PullRequest{
			Group: "g", Topic: c.topic, MaxMessages: c.max, MaxBytes: c.bytes, CommitOffset: -1,
		})
		if err != nil || res.Status != PullFound {
			t.Fatalf("%+v: %+v, %v", c, res, err)
		}
		n := len(res.Ends)
		if res.NextOffset != int64(n) || c.wantFewer && (n > c.want || n == 0) || !c.wantFewer && n != c.want {
			t.Errorf("%+v: %d messages, next offset %d", c, n, res.NextOffset)
		}
		res.Buffer.Release()
	}
}

func TestPullFiltersByTag(t *testing.T) {
	b := openBroker(t)
	var messages []message.Message
	for i := range 1000 {
		tag := "a"
		if i%100 == 50 {
			tag = "b"
		}
		messages = append(messages, plain("x", "TAGS", tag))
	}
	b.send(t, "t", 0, messages...)
	pull := func(expr string, offset int64, most int) *PullResult {
		t.Helper()
		f, err := filter.ParseTags(expr)
		if err != nil {
			t.Fatal(err)
		}
		res, err := b.Pull(context.Background(), &PullRequest{
			Group: "g", Topic: "t", Offset: offset, MaxMessages: most, Filter: f, CommitOffset: -1,
		})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	res := pull("b", 0, 4)
	var offsets []int64
	for _, m := range decodeAll(t, res.Buffer.B, res.Ends) {
		offsets = append(offsets, m.QueueOffset)
	}
	if want := []int64{50, 150, 250, 350}; !slices.Equal(offsets, want) || res.NextOffset != 351 {
		t.Errorf("offsets %v, next %d", offsets, res.NextOffset)
	}
	if res := pull("b", 951, 4); res.Status != PullNoMatch || res.NextOffset != 1000 {
		t.Errorf("behind the last match: status %d, next %d", res.Status, res.NextOffset)
	}
	if res := pull("c || d", 0, 4); res.Status != PullNoMatch || res.NextOffset != 1000 {
		t.Errorf("no match at all: status %d, next %d", res.Status, res.NextOffset)
	}
	if res := pull("a||b", 49, 3); len(res.Ends) != 3 || res.NextOffset != 52 {
		t.Errorf("either: %d messages, next %d", len(res.Ends), res.NextOffset)
	}
}

// suspended starts a pull that waits, and returns its answer's channel and its cancel.
func (tb *testBroker) suspended(t testing.TB, req PullRequest) (<-chan pulled, func()) {
	t.Helper()
	over := make(chan pulled, 2) // a second answer would be a fault
	req.CommitOffset = -1
	cancel := tb.PullAsync(&req, func(res *PullResult, err error) { over <- pulled{res, err} })
	return over, cancel
}

type pulled struct {
	res *PullResult
	err error
}

func wantSilence(t testing.TB, what string, over <-chan pulled) {
	t.Helper()
	select {
	case p := <-over:
		t.Fatalf("%s: answered %+v, %v", what, p.res, p.err)
	default:
	}
}

func TestPullWaitsForAnArrival(t *testing.T) {
	b := openBroker(t)
	b.topicOf(t, "t", 2)
	b.group(t, "g")
	waiting, _ := b.suspended(t, PullRequest{Group: "g", Topic: "t", Suspend: time.Hour})
	tags, err := filter.ParseTags("wanted")
	if err != nil {
		t.Fatal(err)
	}
	picky, _ := b.suspended(t, PullRequest{Group: "g", Topic: "t", Suspend: time.Hour, Filter: tags})
	b.send(t, "t", 1, plain("another queue"))
	wantSilence(t, "another queue", waiting)
	b.send(t, "t", 0, plain("one", "TAGS", "unwanted"))
	got := receive(t, waiting)
	if got.err != nil || got.res.Status != PullFound || len(got.res.Ends) != 1 {
		t.Fatalf("woken: %+v, %v", got.res, got.err)
	}
	wantSilence(t, "unwanted tag", picky)
	b.send(t, "t", 0, plain("two", "TAGS", "wanted"))
	got = receive(t, picky)
	if got.err != nil || got.res.Status != PullFound || got.res.NextOffset != 2 ||
		!slices.Equal(bodies(decodeAll(t, got.res.Buffer.B, got.res.Ends)), []string{"two"}) {
		t.Fatalf("woken: %+v, %v", got.res, got.err)
	}
	if n := b.pulls.count(); n != 0 {
		t.Errorf("%d pulls still wait", n)
	}
	wantSilence(t, "second answer", waiting)
}

func TestPullEndsAtItsDeadlineByCancelAndByClose(t *testing.T) {
	c := clock.NewFake(epoch)
	b := openBroker(t, withClock(c))
	b.topicOf(t, "t", 1)
	b.group(t, "g")
	req := PullRequest{Group: "g", Topic: "t", Suspend: 15 * time.Second}
	late, cancelLate := b.suspended(t, req)
	cancelled, cancel := b.suspended(t, req)
	cancel()
	cancel()
	if got := receive(t, cancelled); got.err != nil || got.res.Status != PullNoNewMessage {
		t.Errorf("cancelled: %+v, %v", got.res, got.err)
	}
	c.Advance(14 * time.Second)
	settle(t, b.due)
	wantSilence(t, "before the deadline", late)
	c.Advance(time.Second)
	if got := receive(t, late); got.err != nil || got.res.Status != PullNoNewMessage || got.res.NextOffset != 0 {
		t.Errorf("at the deadline: %+v, %v", got.res, got.err)
	}
	cancelLate()
	closing, _ := b.suspended(t, req)
	b.close(t)
	if got := receive(t, closing); CodeOf(got.err) != CodeClosing {
		t.Errorf("closed: %+v, %v", got.res, got.err)
	}
	wantSilence(t, "second answer", late)
	wantSilence(t, "second answer", cancelled)
	b.open(t)
	if n := b.pulls.count(); n != 0 {
		t.Errorf("%d pulls wait in a new broker", n)
	}
}

func TestPullEndsWithItsContext(t *testing.T) {
	b := openBroker(t)
	b.topicOf(t, "t", 1)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err := b.Pull(ctx, &PullRequest{Group: "g", Topic: "t", Suspend: time.Hour, CommitOffset: -1})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want the context's", err)
	}
	if n := b.pulls.count(); n != 0 {
		t.Errorf("%d pulls still wait", n)
	}
}

// A pull that was cancelled before it could wait, because its group was still being made, is not answered again by another cancel.
func TestPullCancelledTwice(t *testing.T) {
	b := openBroker(t)
	b.topicOf(t, "t", 1)
	for i := range 20 {
		over := make(chan pulled, 2)
		cancel := b.PullAsync(&PullRequest{Group: fmt.Sprint("g", i), Topic: "t", Suspend: time.Hour, CommitOffset: -1},
			func(res *PullResult, err error) { over <- pulled{res, err} })
		cancel()
		if got := receive(t, over); got.err != nil || got.res.Status != PullNoNewMessage {
			t.Fatalf("answer %+v, %v", got.res, got.err)
		}
		cancel()
		wantSilence(t, "second answer", over)
	}
}

// Pulls that wait while messages, cancels and deadlines come from all sides are each answered once, and every message is seen.
func TestPullsAreAnsweredOnce(t *testing.T) {
	b := openBroker(t)
	b.topicOf(t, "t", 1)
	b.group(t, "g")
	const messages, consumers = 300, 4
	seen := make(chan int64, consumers)
	for range consumers {
		go func() {
			var next int64
			for next < messages {
				over := make(chan pulled, 2)
				cancel := b.PullAsync(&PullRequest{
					Group: "g", Topic: "t", Offset: next, Suspend: time.Millisecond * time.Duration(1+next%7), CommitOffset: next,
				}, func(res *PullResult, err error) { over <- pulled{res, err} })
				if next%5 == 0 {
					cancel()
				}
				got := <-over
				cancel()
				if len(over) > 0 || got.err != nil {
					t.Errorf("answered twice, or %v", got.err)
					break
				}
				if got.res.Status == PullFound {
					for _, m := range decodeAll(t, got.res.Buffer.B, got.res.Ends) {
						if m.QueueOffset != next {
							t.Errorf("got offset %d, want %d", m.QueueOffset, next)
						}
						next++
					}
					got.res.Buffer.Release()
				}
			}
			seen <- next
		}()
	}
	for range messages {
		b.send(t, "t", 0, plain("x"))
	}
	for range consumers {
		if n := receive(t, seen); n != messages {
			t.Errorf("a consumer saw %d of %d", n, messages)
		}
	}
}
