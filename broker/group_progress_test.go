package broker

import (
	"context"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/message"
)

// sameProgress looks whether what is told of group g on topic t by queue comes to what its counters say; first is the first offset of
// a queue that is not settled.
func (r *popRig) sameProgress(t *rapid.T, want GroupCounters, first func(queue int) int64) {
	all, err := r.GroupProgress("g", "t")
	if err != nil || len(all) != 1 || all[0].GroupCounters != want {
		t.Fatalf("%+v, %v; want %+v", all, err, want)
	}
	topic := must(r.Topic("t"))
	var sum GroupCounters
	var ages Ages
	for i, q := range all[0].Queues {
		sum.Ready += q.Ready
		sum.InFlight += q.InFlight
		sum.Delayed += q.Delayed
		sum.Parked += q.Parked
		low, high, err := r.store.Bounds(topic.ID, q.Queue)
		if err != nil {
			t.Fatal(err)
		}
		at := func(offset int64) int64 {
			ms, err := r.storeTime(topic.ID, q.Queue, offset, low, high)
			if err != nil {
				t.Fatal(err)
			}
			return max(ms, 0)
		}
		begin := first(int(q.Queue))
		if q.Queue != int32(i) || q.High != high || q.Oldest != at(begin) || q.Consumed != at(begin-1) || q.Unseen != at(q.Next) {
			t.Fatalf("queue %d up to %d, all settled before %d: %+v", i, high, begin, q)
		}
		if unseen := q.High - q.Next; q.Lag() < unseen || q.Lag() > q.High-begin {
			t.Fatalf("queue %d: %+v, of which %d are unseen", i, q, unseen)
		}
		ages.older(q.Ages)
	}
	if sum != want || ages != all[0].Ages {
		t.Fatalf("the queues come to %+v, %+v; of the topic %+v", sum, ages, all[0])
	}
}

// TestOneSituationInMetrics: each kind of message that a group may have before it, as the verbs and the metrics tell it.
func TestOneSituationInMetrics(t *testing.T) {
	ctx := context.Background()
	reg := prometheus.NewPedanticRegistry()
	c := clock.NewFake(epoch)
	b := openBroker(t, withClock(c), func(o *Options) { o.Registerer, o.AutoCreateGroups = reg, true })
	b.topicOf(t, "t", 2)
	g := catalog.DefaultGroup("g")
	g.ConsumeMessageOrderly = true
	if err := b.PutGroup(ctx, g, ""); err != nil {
		t.Fatal(err)
	}
	of := func(group string, bodies ...string) {
		t.Helper()
		for _, body := range bodies {
			b.send(t, "t", 0, plain(body, message.PropShardingKey, group))
		}
		c.Advance(time.Second)
	}
	pop := func(n int) []string {
		t.Helper()
		res, err := b.Pop(ctx, &PopRequest{Group: "g", Topic: "t", Queue: -1, Max: n, Invisible: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		if res.Buffer != nil {
			res.Buffer.Release()
		}
		return res.Receipts()
	}
	settle := func(errs ...error) {
		t.Helper()
		for _, err := range errs {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	of("a", "acked")
	settle(b.Ack(ctx, "g", "t", pop(1))...)
	of("a", "held")
	of("b", "failed on")
	of("c", "dead")
	handles := pop(3)
	of("a", "behind it", "behind that")
	of("b", "behind it")
	of("c", "freed")
	if len(handles) != 3 {
		t.Fatalf("%d messages", len(handles))
	}
	if more := pop(1); len(more) > 0 { // which parks what is behind them
		t.Fatalf("%d more messages", len(more))
	}
	if _, err := b.Postpone(ctx, "g", "t", handles[1], time.Hour); err != nil {
		t.Fatal(err)
	}
	settle(b.Forward(ctx, &ForwardRequest{Group: "g", Topic: "t", Handle: handles[2]}))
	of("d", "unseen")

	want := GroupCounters{Ready: 2, InFlight: 1, Delayed: 1, Parked: 3}
	ages := Ages{Oldest: epoch.Add(time.Second).UnixMilli(), Unseen: epoch.Add(7 * time.Second).UnixMilli()}
	counters, err := b.GroupCounters("g", "t")
	all, errs := b.GroupProgress("g", "")
	if err != nil || errs != nil || counters != want || len(all) != 1 || all[0].GroupCounters != want || all[0].Ages != ages {
		t.Errorf("%+v, %v; %+v, %v; want %+v, %+v", counters, err, all, errs, want, ages)
	}
	if q := all[0].Queues[0]; q.High != 9 || q.Next != 8 || q.Lag() != 7 || q.Consumed != epoch.UnixMilli() {
		t.Errorf("queue 0: %+v", q)
	}
	if dead, ok, err := b.DeadByTopic(ctx, "g"); err != nil || !ok || len(dead) != 1 || dead["t"] != 1 {
		t.Errorf("dead letters: %v, %v, %v", dead, ok, err)
	}
	const labels = " consumer_group=g is_retry=false is_system=false topic=t"
	got := gather(t, reg)
	for name, value := range map[string]float64{
		"rocketmq_consumer_lag_messages" + labels: 7, "rocketmq_consumer_ready_messages" + labels: 2,
		"rocketmq_consumer_inflight_messages" + labels: 1, "cairn_consumer_delayed_messages" + labels: 1,
		"cairn_consumer_parked_messages" + labels: 3, "cairn_dead_letters consumer_group=g": 1,
		"rocketmq_consumer_lag_latency" + labels: 7000, "rocketmq_consumer_queueing_latency" + labels: 1000,
	} {
		if v, ok := got[name]; !ok || v != value {
			t.Errorf("%s: %v (there: %v), want %v", name, v, ok, value)
		}
	}
	// Without a walk there are no ages, and all else is the same.
	m, walk, brief := newMetrics(b.Broker), int64(0), map[*prometheus.Desc]float64{}
	one, ok := m.lagOf(must(b.Group("g")), must(b.Topic("t")).ID, &walk)
	if !ok {
		t.Error("the group is nowhere")
	}
	m.tellLag(func(d *prometheus.Desc, v float64, _ ...string) { brief[d] = v }, &one)
	if full := (map[*prometheus.Desc]float64{m.lag: 7, m.ready: 2, m.inFlight: 1, m.delayed: 1, m.parked: 3}); !maps.Equal(brief, full) {
		t.Errorf("%v, want %v", brief, full)
	}
	// All that is invisible comes again; what waits for it goes on waiting, for nobody has settled anything.
	c.Advance(time.Hour)
	if counters, err := b.GroupCounters("g", "t"); err != nil || counters != (GroupCounters{Ready: 4, Parked: 3}) {
		t.Errorf("later: %+v, %v", counters, err)
	}
}

// TestProgressOfAGroupThatPulls: its retry topic has what waits there to be tried again.
func TestProgressOfAGroupThatPulls(t *testing.T) {
	ctx := context.Background()
	b := openBroker(t, withClock(clock.NewFake(epoch)))
	b.topicOf(t, "t", 1)
	b.group(t, "g")
	b.sendBodies(t, "t", 0, 5)
	if err := b.CommitOffsetAsync("g", OffsetCommit{"t", 0, 3}); err != nil {
		t.Fatal(err)
	}
	at := b.send(t, "t", 0, plain("w"))[0].Position
	if err := b.SendBack(ctx, &SendBackRequest{Group: "g", Position: at, DelayLevel: 3, MaxReconsume: -1}); err != nil {
		t.Fatal(err)
	}
	all, err := b.GroupProgress("g", "")
	if err != nil || len(all) != 2 || all[0].Topic != "t" || all[0].GroupCounters != (GroupCounters{Ready: 3}) ||
		all[1].Topic != catalog.RetryPrefix+"g" || all[1].GroupCounters != (GroupCounters{Delayed: 1}) {
		t.Fatalf("%+v, %v", all, err)
	}
	if q := all[0].Queues[0]; q.High != 6 || q.Next != 3 || q.Lag() != 3 {
		t.Errorf("%+v", q)
	}
	// Offsets outside the queue count for nothing.
	for offset, lag := range map[int64]int64{9: 0, 6: 0, 0: 6} {
		if err := b.CommitOffsets(ctx, "g", []OffsetCommit{{"t", 0, offset}}); err != nil {
			t.Fatal(err)
		}
		if c, err := b.GroupCounters("g", "t"); err != nil || c != (GroupCounters{Ready: lag}) {
			t.Errorf("committed %d: %+v, %v", offset, c, err)
		}
	}
	_, err = b.GroupProgress("none", "")
	wantCode(t, "group", err, CodeGroupNotFound)
	_, err = b.GroupProgress("g", "none")
	wantCode(t, "topic", err, CodeTopicNotFound)
}

// TestCountersWhileMessagesMove: whatever becomes of messages meanwhile, none is missed and none is counted twice.
func TestCountersWhileMessagesMove(t *testing.T) {
	const n = 200
	b := openBroker(t)
	b.topicOf(t, "t", 2)
	g := catalog.DefaultGroup("g")
	g.RetryMaxTimes = 1 << 30
	if err := b.PutGroup(context.Background(), g, ""); err != nil {
		t.Fatal(err)
	}
	b.sendBodies(t, "t", 0, n/2)
	b.sendBodies(t, "t", 1, n/2)
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for i := range 3 {
		all.Go(func() {
			for ctx.Err() == nil {
				res, err := b.Pop(ctx, &PopRequest{Group: "g", Topic: "t", Queue: -1, Max: 8, Invisible: time.Duration(1+i) * time.Millisecond, FromMin: true})
				if err != nil {
					if ctx.Err() == nil {
						t.Error(err)
					}
					return
				}
				if res.Buffer == nil {
					continue
				}
				res.Buffer.Release()
				if _, err := b.Postpone(ctx, "g", "t", res.Receipts()[0], time.Millisecond); err != nil && CodeOf(err) != CodeInvalidHandle && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	for range 200 {
		if c, err := b.GroupCounters("g", "t"); err != nil || c.Lag() != n {
			t.Errorf("%+v, %v: %d messages", c, err, c.Lag())
		}
		if p, err := b.GroupProgress("g", "t"); err != nil || p[0].Lag() != n {
			t.Errorf("%+v, %v: %d messages", p, err, p[0].Lag())
		}
	}
	stop()
	all.Wait()
}
