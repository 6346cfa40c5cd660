package broker

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/clock"
)

func TestTimersBySpan(t *testing.T) {
	b := openBroker(t, withClock(clock.NewFake(epoch)))
	b.topicOf(t, "t", 1)
	for _, s := range []int{1, 4, 5, 59, 100, 1000, 90_000} {
		b.later(t, "t", 0, epoch.Add(time.Duration(s)*time.Second), "x")
	}
	for most, want := range map[int][]int64{
		100: {2, 2, 1, 0, 1, 0, 0, 0},
		6:   {2, 2, 1, 0, 1, 0, 0, 0}, // the one behind the last span is not counted
		5:   {2, 2, 1, 0},             // what is left out may have more
		4:   {2, 2},
		3:   {2},
		0:   {},
	} {
		got, err := b.timersBySpan(most)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("of %d timers: %v, %v; want %v", most, got, err, want)
		}
	}
}

// What was refused is counted as such, and delays go to their classes.
func TestTimerAndCreationMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	b := openBroker(t, withClock(clock.NewFake(epoch)), func(o *Options) { o.Registerer, o.BrokerName = reg, "b1" })
	ctx := context.Background()
	b.topicOf(t, "t", 1)
	for _, bad := range []string{"no/topic", "SCHEDULE_TOPIC_XXXX"} {
		if err := b.PutTopic(ctx, catalog.Topic{Name: bad, ReadQueues: 1, WriteQueues: 1}, ""); CodeOf(err) != CodeTopicIllegal {
			t.Fatal(bad, err)
		}
	}
	for name, want := range map[string]Code{"g": CodeOf(nil), "no/group": CodeGroupIllegal} {
		if err := b.PutGroup(ctx, catalog.DefaultGroup(name), ""); CodeOf(err) != want {
			t.Fatal(name, err)
		}
	}
	for _, d := range []time.Duration{time.Minute, time.Minute + time.Second, time.Hour, 2 * 24 * time.Hour} {
		m := plain("x", "TIMER_DELIVER_MS", timeString(epoch.Add(d)))
		m.BornTimestamp = epoch.UnixMilli()
		b.send(t, "t", 0, m)
	}
	got := gather(t, reg)
	for line, want := range map[string]float64{
		`rocketmq_topic_create_execution_time invocation_status=success is_system=false`: 1,
		`rocketmq_topic_create_execution_time invocation_status=failure is_system=false`: 1,
		`rocketmq_topic_create_execution_time invocation_status=failure is_system=true`:  1,
		`rocketmq_consumer_group_create_execution_time invocation_status=success`:        1,
		`rocketmq_consumer_group_create_execution_time invocation_status=failure`:        1,
	} {
		if got[line] != want {
			t.Errorf("%s: %v, want %v", line, got[line], want)
		}
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var below []uint64
	sum := 0.0
	for _, f := range families {
		if f.GetName() == "rocketmq_delay_message_latency" {
			h := f.GetMetric()[0].GetHistogram()
			sum = h.GetSampleSum()
			for _, bucket := range h.GetBucket() {
				below = append(below, bucket.GetCumulativeCount())
			}
		}
	}
	if want := float64(60 + 61 + 3600 + 2*24*3600); !slices.Equal(below, []uint64{1, 2, 3, 3, 3, 4}) || sum != want {
		t.Errorf("classes %v, sum %v, want a sum of %v", below, sum, want)
	}
}
