package broker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/clock"
)

func (tb *testBroker) recall(topic, handle string) (string, error) {
	return tb.Recall(context.Background(), &RecallRequest{Topic: topic, Handle: handle})
}

func TestRecall(t *testing.T) {
	c := clock.NewFake(epoch)
	b := openBroker(t, withClock(c))
	b.topicOf(t, "t", 1)
	b.topicOf(t, "u", 1)
	for _, short := range []bool{false, true} { // with the handle as it is, and with one like the reference's
		handleOf := func(r SendResult) string {
			h, err := delay.ParseHandle(r.RecallHandle)
			if err != nil {
				t.Fatal(err)
			}
			if short {
				h.Origin = -1
			}
			return h.String()
		}
		at := c.Now().Add(time.Second)
		gone := b.later(t, "t", 0, at, fmt.Sprint("gone ", short))
		came := b.later(t, "t", 0, at, fmt.Sprint("came ", short))
		level := b.send(t, "t", 0, plain(fmt.Sprint("level ", short), "DELAY", "1"))[0]
		for range 2 {
			if id, err := b.recall("t", handleOf(gone)); err != nil || id != gone.UniqueID {
				t.Errorf("recall: %q, %v", id, err)
			}
		}
		c.Advance(time.Second)
		b.fired(t)
		for _, r := range []SendResult{came, level} {
			_, err := b.recall("t", handleOf(r))
			wantCode(t, "recall of what was delivered", err, CodeDelivered)
		}
		if id, err := b.recall("t", handleOf(gone)); err != nil || id != gone.UniqueID {
			t.Errorf("recall once more, after the time: %q, %v", id, err)
		}
	}
	wantBodies(t, "in the queue", b.inQueue(t, "t", 0), "came false", "level false", "came true", "level true")
}

func TestRecallRefusals(t *testing.T) {
	b := openBroker(t, withClock(clock.NewFake(epoch)))
	b.topicOf(t, "t", 1)
	b.topicOf(t, "u", 1)
	due := epoch.Add(time.Hour)
	sent := b.later(t, "t", 0, due, "x")
	plainly := b.send(t, "t", 0, plain("now"))[0]
	good := delay.Handle{Topic: "t", Broker: "broker-a", Due: due.UnixMilli(), UniqueID: sent.UniqueID, Origin: sent.Position}
	if good.String() != sent.RecallHandle {
		t.Fatalf("handle %s", sent.RecallHandle)
	}
	with := func(change func(*delay.Handle)) string {
		h := good
		change(&h)
		return h.String()
	}
	for _, c := range []struct {
		what, topic, handle string
		want                Code
	}{
		{"not a handle", "t", "hello", CodeInvalidHandle},
		{"empty", "t", "", CodeInvalidHandle},
		{"another topic", "u", sent.RecallHandle, CodeInvalidHandle},
		{"another broker", "t", with(func(h *delay.Handle) { h.Broker = "b" }), CodeInvalidHandle},
		{"no such topic", "v", with(func(h *delay.Handle) { h.Topic = "v" }), CodeTopicNotFound},
		{"a topic that it is not in", "u", with(func(h *delay.Handle) { h.Topic = "u" }), CodeNotFound},
		{"another id", "t", with(func(h *delay.Handle) { h.UniqueID = "other" }), CodeNotFound},
		{"another time", "t", with(func(h *delay.Handle) { h.Due++ }), CodeNotFound},
		{"another origin", "t", with(func(h *delay.Handle) { h.Origin += 8 }), CodeNotFound},
		{"another time, no origin", "t", with(func(h *delay.Handle) { h.Due, h.Origin = h.Due+1, -1 }), CodeNotFound},
		{"not delayed", "t", with(func(h *delay.Handle) { h.UniqueID, h.Origin = plainly.UniqueID, plainly.Position }), CodeNotFound},
	} {
		_, err := b.recall(c.topic, c.handle)
		wantCode(t, c.what, err, c.want)
	}
	if id, err := b.recall("t", sent.RecallHandle); err != nil || id != sent.UniqueID {
		t.Errorf("recall: %q, %v", id, err)
	}
	for _, change := range []func(*delay.Handle){
		func(h *delay.Handle) { h.UniqueID = "other" }, func(h *delay.Handle) { h.UniqueID, h.Origin = "other", -1 },
	} {
		_, err := b.recall("t", with(change))
		wantCode(t, "another id after the recall", err, CodeNotFound)
	}
}

// Recalls that race with the firing: what a recall took back is never delivered, all else is, and the answers say which.
func TestRecallRacesWithFiring(t *testing.T) {
	c := clock.NewFake(epoch)
	b := openBroker(t, withClock(c))
	b.topicOf(t, "t", 1)
	const n = 60
	want := map[string]bool{}
	for round := range 8 {
		at := c.Now().Add(time.Second)
		sent := make([]SendResult, n)
		for i := range sent {
			sent[i] = b.later(t, "t", 0, at.Add(-time.Duration(rand.IntN(4))*time.Millisecond), fmt.Sprint(round, "-", i))
		}
		var mu sync.Mutex
		var all sync.WaitGroup
		for from := range 4 {
			all.Go(func() {
				for i := from; i < n; i += 4 {
					_, err := b.recall("t", sent[i].RecallHandle)
					if err != nil && CodeOf(err) != CodeDelivered {
						t.Error(err)
					}
					mu.Lock()
					want[fmt.Sprint(round, "-", i)] = err != nil
					mu.Unlock()
				}
			})
		}
		for range 4 {
			c.Advance(250*time.Millisecond - time.Millisecond)
		}
		for range 4 {
			c.Advance(time.Millisecond)
		}
		all.Wait()
		b.fired(t)
	}
	recalled := 0
	for _, body := range b.inQueue(t, "t", 0) {
		if !want[body] {
			t.Errorf("%s was recalled and delivered, or twice delivered", body)
		}
		delete(want, body)
	}
	for body, delivered := range want {
		if delivered {
			t.Errorf("%s was neither recalled nor delivered", body)
		}
		recalled++
	}
	t.Logf("%d of %d were recalled in time", recalled, 8*n)
}

func TestTimersAndTheirHistogram(t *testing.T) {
	b := openBroker(t, withClock(clock.NewFake(epoch)))
	b.topicOf(t, "t", 1)
	b.topicOf(t, "u", 1)
	b.topicOf(t, "gone", 1)
	start := epoch.UnixMilli()
	for i := range 10 {
		b.later(t, []string{"t", "u"}[i%2], 0, epoch.Add(time.Duration(i+1)*time.Second), fmt.Sprint(i))
	}
	b.later(t, "gone", 0, epoch.Add(time.Second), "gone")
	if err := b.DeleteTopic(context.Background(), "gone"); err != nil {
		t.Fatal(err)
	}
	duesOf := func(q TimerQuery) (dues []int64, more bool) {
		found, more, err := b.Timers(q)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			dues = append(dues, (f.Due-start)/1000)
		}
		return dues, more
	}
	for _, c := range []struct {
		q    TimerQuery
		want []int64
		more bool
	}{
		{TimerQuery{}, []int64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, false},
		{TimerQuery{Topic: "t"}, []int64{1, 3, 5, 7, 9}, false},
		{TimerQuery{Topic: "t", Most: 5}, []int64{1, 3, 5, 7, 9}, false},
		{TimerQuery{Topic: "t", Most: 4}, []int64{1, 3, 5, 7}, true},
		{TimerQuery{From: start + 2000, To: start + 4000}, []int64{2, 3, 4}, false},
		{TimerQuery{From: start + 2001, To: start + 3999}, []int64{3}, false},
	} {
		got, more := duesOf(c.q)
		if fmt.Sprint(got) != fmt.Sprint(c.want) || more != c.more {
			t.Errorf("%+v: %v, more %v", c.q, got, more)
		}
	}
	var walked []TimerInfo
	for more := true; more; {
		q := TimerQuery{Most: 3}
		if len(walked) > 0 {
			q.After = walked[len(walked)-1].Point
		}
		found, another, err := b.Timers(q)
		if err != nil {
			t.Fatal(err)
		}
		walked, more = append(walked, found...), another
	}
	if len(walked) != 10 || walked[9].Topic != "u" || walked[9].BodySize != 1 || walked[9].Stored != start || walked[9].UniqueID == "" {
		t.Errorf("walked over %d, the last is %+v", len(walked), walked[len(walked)-1])
	}
	if _, err := b.recall("u", walked[9].Handle); err != nil {
		t.Errorf("recall with the handle of the list: %v", err)
	}

	ctx := context.Background()
	got, err := b.TimerHistogram(ctx, TimerQuery{Topic: "t", From: start, To: start + 8000}, 4000)
	if err != nil || fmt.Sprint(got) != fmt.Sprint([]TimerBucket{{start, 2}, {start + 4000, 2}}) {
		t.Errorf("histogram %v, %v", got, err)
	}
	_, err = b.TimerHistogram(ctx, TimerQuery{}, 0)
	wantCode(t, "no width", err, CodeParameter)
	_, _, err = b.Timers(TimerQuery{Topic: "none"})
	wantCode(t, "no topic", err, CodeTopicNotFound)
	over, stop := context.WithCancel(ctx)
	stop()
	if _, err := b.TimerHistogram(over, TimerQuery{}, 1); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
