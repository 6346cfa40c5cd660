package broker

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/kvindex"
)

var (
	// delayBounds are the upper bounds (s) of the classes of how long messages are delayed; a last class is above.
	delayBounds = [...]int64{60, 600, 3600, 12 * 3600, 24 * 3600, 3 * 24 * 3600}
	// snapshotBounds are the ends (s from now) of the spans in which waiting timers are counted.
	snapshotBounds = [...]int64{5, 60, 300, 900, 3600, 4 * 3600, 8 * 3600, 24 * 3600}
	// createBounds are the upper bounds (ms) of the classes of how long changes of topics and groups take; a last class is above.
	createBounds = [...]int64{10, 100, 1000, 3000, 5000}
)

// maxSnapshot is how many timers one scrape counts. Spans that reach beyond the last of them are left out.
const maxSnapshot = 100_000

// timerMeter counts the timers of a topic: those that were set, for how long, and those that fired.
type timerMeter struct {
	set, fired atomic.Int64
	length     atomic.Int64 // s, of all that were set
	classes    [len(delayBounds) + 1]atomic.Int64
}

// countSet counts a message that was born at one time and is due at another, both in ms.
func (m *timerMeter) countSet(born, due int64) {
	length := max(due-born, 0) / 1000
	class := 0
	for class < len(delayBounds) && length > delayBounds[class] {
		class++
	}
	m.set.Add(1)
	m.length.Add(length)
	m.classes[class].Add(1)
}

// createMeter counts how long changes of topics or groups took that somebody asked for.
type createMeter struct {
	took    atomic.Int64 // ms, of all
	classes [len(createBounds) + 1]atomic.Int64
}

func (m *createMeter) count(d time.Duration) {
	ms := max(d.Milliseconds(), 0)
	class := 0
	for class < len(createBounds) && ms > createBounds[class] {
		class++
	}
	m.took.Add(ms)
	m.classes[class].Add(1)
}

// createMeters tell those that were done from those that were refused or failed, and topics of the system from others.
type createMeters struct {
	topics [2][2]createMeter // system or not, then failed or not
	groups [2]createMeter    // failed or not
}

var invocationStatus = [2]string{"success", "failure"}

func one(is bool) int {
	if is {
		return 1
	}
	return 0
}

func (m *createMeters) topic(system bool, d time.Duration, err error) {
	m.topics[one(system)][one(err != nil)].count(d)
}

func (m *createMeters) group(d time.Duration, err error) { m.groups[one(err != nil)].count(d) }

// timerMetrics is the part of metrics that tells of timers, and of how long it takes to change topics and groups.
type timerMetrics struct {
	set, fired, length, snapshot *prometheus.Desc
	topicCreation, groupCreation *prometheus.Desc
}

func newTimerMetrics(desc func(name, help string, labels ...string) *prometheus.Desc) timerMetrics {
	byTopic := []string{"topic", "storage_type", "storage_medium"}
	return timerMetrics{
		set:    desc("rocketmq_timer_enqueue_total", "Messages that began to wait for their time.", byTopic...),
		fired:  desc("rocketmq_timer_dequeue_total", "Messages whose time had come.", byTopic...),
		length: desc("rocketmq_delay_message_latency", "Seconds from a message's birth to its time, of those that began to wait.", byTopic...),
		snapshot: desc("rocketmq_timer_message_snapshot", "Messages that wait for a time before this one (s from now) and behind the bound "+
			"before. Bounds behind very many of them are left out.", "timer_bound_s", "storage_type", "storage_medium"),
		topicCreation: desc("rocketmq_topic_create_execution_time", "How long changes of topics took, in ms.", "invocation_status", "is_system"),
		groupCreation: desc("rocketmq_consumer_group_create_execution_time", "How long changes of consumer groups took, in ms.", "invocation_status"),
	}
}

func (m *timerMetrics) descs() []*prometheus.Desc {
	return []*prometheus.Desc{m.set, m.fired, m.length, m.snapshot, m.topicCreation, m.groupCreation}
}

func (m *timerMetrics) collect(b *Broker, ch chan<- prometheus.Metric) {
	b.meters.topics.each(func(t *topicMeter) {
		if n := t.timers.fired.Load(); n > 0 {
			counter(ch, m.fired, n, t.topic, "local", "disk")
		}
		if n := t.timers.set.Load(); n > 0 {
			counter(ch, m.set, n, t.topic, "local", "disk")
			histogram(ch, m.length, delayBounds[:], t.timers.classes[:], &t.timers.length, t.topic, "local", "disk")
		}
	})
	m.collectSnapshot(b, ch)
	for failed, status := range invocationStatus {
		for system, is := range [2]string{"false", "true"} {
			of := &b.creates.topics[system][failed]
			histogram(ch, m.topicCreation, createBounds[:], of.classes[:], &of.took, status, is)
		}
		of := &b.creates.groups[failed]
		histogram(ch, m.groupCreation, createBounds[:], of.classes[:], &of.took, status)
	}
}

// histogram tells of classes with these upper bounds and one above; nothing when nothing was counted.
func histogram(ch chan<- prometheus.Metric, d *prometheus.Desc, bounds []int64, classes []atomic.Int64, sum *atomic.Int64, labels ...string) {
	buckets, below := make(map[float64]uint64, len(bounds)), uint64(0)
	for i, bound := range bounds {
		below += uint64(classes[i].Load())
		buckets[float64(bound)] = below
	}
	if all := below + uint64(classes[len(bounds)].Load()); all > 0 {
		ch <- prometheus.MustNewConstHistogram(d, all, float64(sum.Load()), buckets, labels...)
	}
}

func (m *timerMetrics) collectSnapshot(b *Broker, ch chan<- prometheus.Metric) {
	counts, err := b.timersBySpan(maxSnapshot)
	if err != nil {
		b.log.Warn().Err(err).Msg("metrics: cannot count timers by their times")
		return
	}
	for i, n := range counts {
		ch <- prometheus.MustNewConstMetric(m.snapshot, prometheus.GaugeValue, float64(n), strconv.FormatInt(snapshotBounds[i], 10), "local", "disk")
	}
}

// timersBySpan counts the timers in each of the spans of snapshotBounds, those that are late in the first one. It looks at so many at
// most, and leaves out the spans that it has not seen the end of.
func (b *Broker) timersBySpan(most int) ([]int64, error) {
	now := b.clock.Now().UnixMilli()
	counts := make([]int64, len(snapshotBounds))
	span, seen := 0, 0
	err := b.store.Delay.Each(delay.Point{}, func(t *delay.Timer) bool {
		for span < len(counts) && t.Due >= now+snapshotBounds[span]*1000 {
			span++
		}
		if span == len(counts) || seen == most {
			return false
		}
		seen++
		counts[span]++
		return true
	})
	if seen == most {
		counts = counts[:span]
	}
	return counts, err
}

// countFired counts timers that fired, in their order.
func (m *meters) countFired(topics *catalog.Catalog, timers []delay.Timer) {
	var last kvindex.ID
	var meter *topicMeter
	for i := range timers {
		if id := timers[i].Topic; meter == nil || id != last {
			t, err := topics.TopicByID(id)
			if err != nil {
				continue // deleted meanwhile
			}
			last, meter = id, m.topic(t)
		}
		meter.timers.fired.Add(1)
	}
}
