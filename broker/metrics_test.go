package broker

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cairnmq/cairn/internal/clock"
)

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	c := clock.NewFake(epoch)
	b := openBroker(t, withClock(c), func(o *Options) { o.Registerer, o.BrokerName = reg, "b1" })
	b.topicOf(t, "t", 1)
	b.group(t, "g")
	b.send(t, "t", 0, plain("x"), plain("y"))
	b.send(t, "t", 0, plain("z", "__SHARDINGKEY", "k"))
	b.pull(t, "g", "t", 0, 1).Buffer.Release()
	if err := b.CommitOffsets(context.Background(), "g", []OffsetCommit{{"t", 0, 1}}); err != nil {
		t.Fatal(err)
	}
	at := b.send(t, "t", 0, plain("w"))[0].Position
	if err := b.SendBack(context.Background(), &SendBackRequest{Group: "g", Position: at, DelayLevel: -1}); err != nil {
		t.Fatal(err)
	}
	b.topicOf(t, "later", 1)
	for _, ms := range []int{1, 1000, 2000} {
		b.later(t, "later", 0, epoch.Add(time.Duration(ms)*time.Millisecond), "x")
	}
	c.Advance(7 * time.Millisecond)
	waitFor(t, "a timer to be counted", func() bool { return b.firer.late.total() == 1 })
	b.clients.RegisterProducer("p", &Client{ID: "1", Language: "JAVA", Version: 5, Protocol: "remoting"})
	b.clients.RegisterConsumer("g", &Client{ID: "2", Language: "GO", Version: 6, Protocol: "grpc"}, subscribed(1, "t"))

	got := gather(t, reg)
	for line, want := range map[string]float64{
		`rocketmq_messages_in_total is_system=false message_type=fifo topic=t`:                                                                   1,
		`rocketmq_messages_in_total is_system=false message_type=normal topic=t`:                                                                 3,
		`rocketmq_messages_in_total is_system=false message_type=normal topic=%DLQ%g`:                                                            1,
		`rocketmq_messages_out_total consumer_group=g is_retry=false is_system=false topic=t`:                                                    2,
		`rocketmq_send_to_dlq_messages_total consumer_group=g is_system=false topic=t`:                                                           1,
		`rocketmq_consumer_lag_messages consumer_group=g is_retry=false is_system=false topic=t`:                                                 3,
		`rocketmq_consumer_ready_messages consumer_group=g is_retry=false is_system=false topic=t`:                                               3,
		`rocketmq_consumer_inflight_messages consumer_group=g is_retry=false is_system=false topic=t`:                                            0,
		`rocketmq_producer_connections language=JAVA protocol_type=remoting version=5`:                                                           1,
		`rocketmq_consumer_connections consume_mode=CONSUME_PASSIVELY consumer_group=g is_system=false language=GO protocol_type=grpc version=6`: 1,
		`rocketmq_consumer_group_number`: 1,
		`rocketmq_topic_number`:          15,
		`rocketmq_messages_in_total is_system=false message_type=delay topic=later`:   3,
		`rocketmq_timing_messages storage_medium=disk storage_type=local topic=later`: 2,
		`cairn_timer_lateness_ms`: 1,
		`rocketmq_timer_enqueue_total storage_medium=disk storage_type=local topic=later`:            3,
		`rocketmq_timer_dequeue_total storage_medium=disk storage_type=local topic=later`:            1,
		`rocketmq_delay_message_latency storage_medium=disk storage_type=local topic=later`:          3,
		`rocketmq_timer_message_snapshot storage_medium=disk storage_type=local timer_bound_s=5`:     2,
		`rocketmq_timer_message_snapshot storage_medium=disk storage_type=local timer_bound_s=86400`: 0,
		`rocketmq_broker_permission`:                                                    6,
		`rocketmq_message_size is_system=false message_type=normal topic=t`:             3,
		`rocketmq_storage_flush_behind_bytes storage_medium=disk storage_type=local`:    0,
		`rocketmq_storage_dispatch_behind_bytes storage_medium=disk storage_type=local`: 0,
		`cairn_waiting_requests verb=pull`:                                              0,
		`cairn_durability_mode mode=sync`:                                               1,
		`cairn_consumer_lag_whole`:                                                      1,
		`rocketmq_storage_message_reserve_time storage_medium=disk storage_type=local`:  7,
	} {
		if v, ok := got[line]; !ok || v != want {
			t.Errorf("%s: %v (there: %v), want %v", line, v, ok, want)
		}
	}
	for _, line := range []string{
		`rocketmq_throughput_in_total is_system=false message_type=normal topic=t`,
		`rocketmq_throughput_out_total consumer_group=g is_retry=false is_system=false topic=t`,
		`rocketmq_storage_size storage_medium=disk storage_type=local`,
	} {
		if got[line] < 100 {
			t.Errorf("%s: %v bytes", line, got[line])
		}
	}
	if err := b.DeleteTopic(context.Background(), "t"); err != nil {
		t.Fatal(err)
	}
	b.topicOf(t, "t", 1)
	b.send(t, "t", 0, plain("new"))
	if _, err := reg.Gather(); err != nil { // the old topic and the new one have the same name
		t.Error(err)
	}
	b.close(t)
	if got := gather(t, reg); len(got) != 0 {
		t.Errorf("after close %d metrics", len(got))
	}
}

// gather reads all series as name and labels (without those that every series has), a histogram by its count.
func gather(t *testing.T, reg prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			line := f.GetName()
			for _, l := range m.GetLabel() {
				switch l.GetName() {
				case "cluster", "node_id", "node_type":
				default:
					line += " " + l.GetName() + "=" + l.GetValue()
				}
			}
			out[line] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return out
}

// However many topics and groups there are, each metric has a bounded number of series; what goes beyond is one series, and nothing
// is lost of the sums.
func TestSeriesAreBounded(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	b := openBroker(t, func(o *Options) { o.Registerer, o.BrokerName = reg, "b1" })
	const topics, groups = maxSeries + 50, 5 // pairs of group and topic: five times as many, of which a place is looked at each
	for i := range topics {
		b.topicOf(t, fmt.Sprint("t", i), 1)
		b.send(t, fmt.Sprint("t", i), 0, plain("x"))
	}
	for i := range groups {
		b.group(t, fmt.Sprint("g", i))
		commits := make([]OffsetCommit, topics)
		for k := range commits {
			commits[k] = OffsetCommit{fmt.Sprint("t", k), 0, 0}
		}
		if err := b.CommitOffsets(context.Background(), fmt.Sprint("g", i), commits); err != nil {
			t.Fatal(err)
		}
	}
	sums, series := map[string]float64{}, map[string]int{}
	waitFor(t, "offsets to be committed", func() bool {
		clear(sums)
		clear(series)
		for line, v := range gather(t, reg) {
			name, _, _ := strings.Cut(line, " ")
			sums[name] += v
			series[name]++
		}
		return sums["rocketmq_consumer_lag_messages"] == groups*topics
	})
	for name, n := range series {
		if n > maxSeries+1 {
			t.Errorf("%s has %d series", name, n)
		}
	}
	if got := series["rocketmq_consumer_lag_messages"]; got != maxSeries+1 {
		t.Errorf("%d series of the lag, want %d and one for the others", got, maxSeries)
	}
	if got := sums["rocketmq_messages_in_total"]; got != topics {
		t.Errorf("%v messages in, want %d", got, topics)
	}
	if sums["cairn_consumer_lag_whole"] != 1 {
		t.Error("some groups are in no series")
	}
	b.close(t)
}
