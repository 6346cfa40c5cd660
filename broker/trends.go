package broker

import (
	"maps"
	"sync"
	"time"

	"github.com/cairnmq/cairn/kvindex"
)

// Traffic is what came or went within the last minute, hour and day.
type Traffic struct{ Minute, Hour, Day Window }

// Window is what was counted within a span of time. The span ends now and begins with a sample: it reaches as far back as its
// name says, up to a sixth farther, or to the start of the counting.
type Window struct {
	Requests, Messages, Bytes int64 // requests: sends, or answers that had messages
	Span                      time.Duration
}

// TPS is messages per second.
func (w Window) TPS() float64 {
	if w.Span <= 0 {
		return 0
	}
	return float64(w.Messages) / w.Span.Seconds()
}

// count is what a meter shows.
type count struct{ requests, messages, bytes int64 }

// countAt is what it showed at a moment.
type countAt struct {
	at time.Time
	count
}

// The samples of a trend: every sampleEvery for the minute, and more rarely for the spans that are longer.
const (
	hourEvery   = 10 * time.Minute
	dayEvery    = time.Hour
	minuteCount = samplesPerMinute + 1
	hourCount   = int(time.Hour/hourEvery) + 1
	dayCount    = int(24*time.Hour/dayEvery) + 1
)

// trend is what a meter showed in the past.
type trend struct{ minute, hour, day []countAt } // oldest first

// newTrend begins with nothing counted at a time.
func newTrend(at time.Time) *trend {
	from := []countAt{{at: at}}
	return &trend{minute: from[:1:1], hour: from[:1:1], day: from[:1:1]}
}

// add notes what the meter shows now.
func (t *trend) add(now countAt) {
	t.minute = push(t.minute, now, minuteCount)
	if now.at.Sub(t.hour[len(t.hour)-1].at) >= hourEvery {
		t.hour = push(t.hour, now, hourCount)
	}
	if now.at.Sub(t.day[len(t.day)-1].at) >= dayEvery {
		t.day = push(t.day, now, dayCount)
	}
}

func push(samples []countAt, now countAt, most int) []countAt {
	if len(samples) < most {
		return append(samples, now)
	}
	copy(samples, samples[1:])
	samples[len(samples)-1] = now
	return samples
}

func (t *trend) read(now countAt) Traffic {
	return Traffic{
		Minute: windowOf(t.minute, now, time.Minute), Hour: windowOf(t.hour, now, time.Hour),
		Day: windowOf(t.day, now, 24*time.Hour),
	}
}

func windowOf(samples []countAt, now countAt, span time.Duration) Window {
	from := samples[0]
	for _, s := range samples {
		if now.at.Sub(s.at) >= span {
			from = s // the newest that is old enough
		}
	}
	if from.messages > now.messages { // the meter was forgotten and began anew
		from.count = count{}
	}
	return Window{
		Requests: now.requests - from.requests, Messages: now.messages - from.messages, Bytes: now.bytes - from.bytes,
		Span: now.at.Sub(from.at),
	}
}

// trends are those of all meters, whose number is bounded.
type trends struct {
	mu struct {
		sync.Mutex
		meters      *meters   // nil: there are none yet
		last        time.Time // of the newest sample: a meter that has no trend yet showed nothing then
		in, out     *trend
		topics      map[kvindex.ID]*trend
		outs        map[groupOfTopic]*trend
		dead, backs map[groupOfTopicName]*trend
	}
}

// watch says whose trends they are.
func (t *trends) watch(m *meters) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.meters = m
	t.mu.in, t.mu.out = newTrend(t.mu.last), newTrend(t.mu.last)
	t.mu.topics, t.mu.outs = map[kvindex.ID]*trend{}, map[groupOfTopic]*trend{}
	t.mu.dead, t.mu.backs = map[groupOfTopicName]*trend{}, map[groupOfTopicName]*trend{}
}

// sample notes what all meters show.
func (t *trends) sample(now rateSample) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m := t.mu.meters; m != nil {
		t.mu.in.add(now.in())
		t.mu.out.add(now.out())
		sampleSeries(&m.topics, t.mu.topics, t.mu.last, now.at)
		sampleSeries(&m.outs, t.mu.outs, t.mu.last, now.at)
		sampleSeries(&m.dead, t.mu.dead, t.mu.last, now.at)
		sampleSeries(&m.backs, t.mu.backs, t.mu.last, now.at)
	}
	t.mu.last = now.at
}

func (s rateSample) in() countAt { return countAt{s.at, count{messages: s.puts, bytes: s.putBytes}} }
func (s rateSample) out() countAt {
	return countAt{s.at, count{requests: s.finds, messages: s.gets, bytes: s.getBytes}}
}

// meter is something that counts.
type meter[V any] interface {
	*V
	count() count
}

func sampleSeries[K comparable, V any, M meter[V]](s *series[K, V], trends map[K]*trend, last, now time.Time) {
	there := s.entries()
	maps.DeleteFunc(trends, func(key K, _ *trend) bool { return there[key] == nil })
	for key, v := range there {
		t := trends[key]
		if t == nil {
			t = newTrend(last)
			trends[key] = t
		}
		t.add(countAt{now, M(v).count()})
	}
}

// trafficOf reads one; false when nothing was counted under the key.
func trafficOf[K comparable, V any, M meter[V]](s *series[K, V], trends map[K]*trend, key K, last, now time.Time) (Traffic, bool) {
	v := s.entries()[key]
	if v == nil {
		return Traffic{}, false
	}
	t := trends[key]
	if t == nil {
		t = newTrend(last)
	}
	return t.read(countAt{now, M(v).count()}), true
}

func (m *topicMeter) count() count {
	c := count{requests: m.requests.Load()}
	for kind := range m.kinds {
		c.messages += m.kinds[kind].messages.Load()
		c.bytes += m.kinds[kind].bytes.Load()
	}
	return c
}

func (m *outMeter) count() count { return count{m.answers.Load(), m.messages.Load(), m.bytes.Load()} }

func (m *deadMeter) count() count { return count{m.messages.Load(), m.messages.Load(), 0} }

// Traffic is that of the whole broker: messages stored, and messages handed out.
func (b *Broker) Traffic() (in, out Traffic) {
	now, t := b.rates.now(), &b.rates.trends
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.in.read(now.in()), t.mu.out.read(now.out())
}

// TopicTraffic is what was sent to a topic; false when nothing was since the start.
func (b *Broker) TopicTraffic(topic string) (Traffic, bool) {
	found, err := b.Topic(topic)
	if err != nil {
		return Traffic{}, false
	}
	t := &b.rates.trends
	t.mu.Lock()
	defer t.mu.Unlock()
	return trafficOf(&b.meters.topics, t.mu.topics, found.ID, t.mu.last, b.clock.Now())
}

// GroupTraffic is what a group got of a topic; false when it got nothing since the start.
func (b *Broker) GroupTraffic(group, topic string) (Traffic, bool) {
	g, err := b.Group(group)
	if err != nil {
		return Traffic{}, false
	}
	found, err := b.Topic(topic)
	if err != nil {
		return Traffic{}, false
	}
	t := &b.rates.trends
	t.mu.Lock()
	defer t.mu.Unlock()
	return trafficOf(&b.meters.outs, t.mu.outs, groupOfTopic{g.ID, found.ID}, t.mu.last, b.clock.Now())
}

// SentBack is what consumers of a group sent back of a topic, and DeadLetters what went to the group's dead-letter topic; false
// when there was none since the start.
func (b *Broker) SentBack(group, topic string) (Traffic, bool) {
	t := &b.rates.trends
	t.mu.Lock()
	defer t.mu.Unlock()
	return trafficOf(&b.meters.backs, t.mu.backs, groupOfTopicName{group, topic}, t.mu.last, b.clock.Now())
}

// DeadLetters: see SentBack.
func (b *Broker) DeadLetters(group, topic string) (Traffic, bool) {
	t := &b.rates.trends
	t.mu.Lock()
	defer t.mu.Unlock()
	return trafficOf(&b.meters.dead, t.mu.dead, groupOfTopicName{group, topic}, t.mu.last, b.clock.Now())
}
