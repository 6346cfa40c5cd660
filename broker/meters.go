package broker

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/store"
)

const (
	// maxSeries bounds the topics, and the pairs of group and topic, that are counted by name; the rest share one.
	maxSeries = 2000
	// otherName is what the rest is called; no topic or group can have that name.
	otherName = "(other)"
)

// messageKind is a kind of message as the metrics tell them apart. Where a message is of several, the highest counts.
type messageKind uint8

const (
	kindNormal messageKind = iota
	kindLite
	kindPriority
	kindFIFO
	kindDelay
	kindTransaction
	kindCount
)

var kindNames = [kindCount]string{"normal", "lite", "priority", "fifo", "delay", "transaction"}

// sizeBounds are the upper bounds of the classes of message sizes, in bytes; a last class is above.
var sizeBounds = [...]int64{1 << 10, 4 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20}

// inMeter counts what was sent to a topic of one kind. Sizes are those of the stored layout.
type inMeter struct {
	messages, bytes atomic.Int64
	sizes           [len(sizeBounds) + 1]atomic.Int64
}

// topicMeter counts what was sent to a topic.
type topicMeter struct {
	topic    string
	system   bool
	requests atomic.Int64
	kinds    [kindCount]inMeter
	timers   timerMeter
}

// countIn counts one message of so many bytes.
func (m *topicMeter) countIn(kind messageKind, size int64) {
	in := &m.kinds[kind]
	in.messages.Add(1)
	in.bytes.Add(size)
	class := 0
	for class < len(sizeBounds) && size > sizeBounds[class] {
		class++
	}
	in.sizes[class].Add(1)
}

// outMeter counts what a group got of a topic, deadMeter what it gave up or, in meters.backs, sent back.
type outMeter struct {
	group, topic             string
	retry, system            bool
	answers, messages, bytes atomic.Int64
}

type deadMeter struct {
	group, topic string
	system       bool
	messages     atomic.Int64
}

// groupOfTopic is a pair that is counted; by name where only names are known.
type groupOfTopic struct{ group, topic kvindex.ID }
type groupOfTopicName struct{ group, topic string }

// meters count what goes in and out, by topic and group. The metrics read them when they are asked for.
type meters struct {
	system func(topic string) bool
	rates  *rates
	topics series[kvindex.ID, topicMeter]
	outs   series[groupOfTopic, outMeter]
	dead   series[groupOfTopicName, deadMeter]
	backs  series[groupOfTopicName, deadMeter]
}

func newMeters(r *rates, system func(topic string) bool) *meters {
	m := &meters{
		system: system, rates: r,
		topics: newSeries[kvindex.ID](&topicMeter{topic: otherName}),
		outs:   newSeries[groupOfTopic](&outMeter{group: otherName, topic: otherName}),
		dead:   newSeries[groupOfTopicName](&deadMeter{group: otherName, topic: otherName}),
		backs:  newSeries[groupOfTopicName](&deadMeter{group: otherName, topic: otherName}),
	}
	r.trends.watch(m)
	return m
}

// topic is the meter of a topic.
func (m *meters) topic(t *catalog.Topic) *topicMeter {
	if found := m.topics.find(t.ID); found != nil {
		return found
	}
	return m.topics.add(t.ID, &topicMeter{topic: t.Name, system: m.system(t.Name)})
}

// countOut counts messages that a group got.
func (m *meters) countOut(g *catalog.Group, t *catalog.Topic, messages, bytes int) {
	key := groupOfTopic{g.ID, t.ID}
	out := m.outs.find(key)
	if out == nil {
		out = m.outs.add(key, &outMeter{
			group: g.Name, topic: t.Name, retry: isRetry(t.Name), system: m.system(t.Name) || catalog.IsSystemGroup(g.Name),
		})
	}
	out.answers.Add(1)
	out.messages.Add(int64(messages))
	out.bytes.Add(int64(bytes))
	m.rates.get(messages, bytes)
}

// countDead counts a message that went to the group's dead-letter topic.
func (m *meters) countDead(group, topic string) { m.countGivenUp(&m.dead, group, topic) }

// countBack counts a message that a consumer sent back, also when it went to the dead-letter topic.
func (m *meters) countBack(group, topic string) { m.countGivenUp(&m.backs, group, topic) }

func (m *meters) countGivenUp(s *series[groupOfTopicName, deadMeter], group, topic string) {
	key := groupOfTopicName{group, topic}
	meter := s.find(key)
	if meter == nil {
		meter = s.add(key, &deadMeter{group: group, topic: topic, system: m.system(topic) || catalog.IsSystemGroup(group)})
	}
	meter.messages.Add(1)
}

// forget drops the meters of topics and groups that are gone.
func (m *meters) forget(s *store.Store) {
	m.topics.keep(func(id kvindex.ID) bool { return there(s.Catalog.TopicByID(id)) })
	m.outs.keep(func(k groupOfTopic) bool {
		return there(s.Catalog.TopicByID(k.topic)) && there(s.Catalog.GroupByID(k.group))
	})
	m.dead.keep(func(k groupOfTopicName) bool { return there(s.Catalog.Group(k.group)) })
	m.backs.keep(func(k groupOfTopicName) bool { return there(s.Catalog.Group(k.group)) })
}

func there[T any](_ *T, err error) bool {
	_, known := codeOfCause(err)
	return err == nil || !known // an error of the index says nothing of what exists
}

// series is a map with at most maxSeries entries, made for finding: what is there is found without a lock and without an
// allocation, adding copies the map. What finds no room shares the entry called other.
type series[K comparable, V any] struct {
	m     atomic.Pointer[map[K]*V]
	mu    sync.Mutex // held by who replaces m
	other *V
}

func newSeries[K comparable, V any](other *V) series[K, V] {
	return series[K, V]{other: other}
}

// find is the entry of a key, nil when there is none and room for it.
func (s *series[K, V]) find(key K) *V {
	m := s.m.Load()
	if m == nil {
		return nil
	}
	if v := (*m)[key]; v != nil || len(*m) < maxSeries {
		return v
	}
	return s.other
}

// add adds an entry unless there is one or no room; it answers the one to use.
func (s *series[K, V]) add(key K, v *V) *V {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := map[K]*V{}
	if m := s.m.Load(); m != nil {
		next = maps.Clone(*m)
	}
	if old := next[key]; old != nil {
		return old
	}
	if len(next) >= maxSeries {
		return s.other
	}
	next[key] = v
	s.m.Store(&next)
	return v
}

// keep drops the entries that are not to be kept.
func (s *series[K, V]) keep(keep func(K) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.m.Load()
	if m == nil {
		return
	}
	next := maps.Clone(*m)
	maps.DeleteFunc(next, func(key K, _ *V) bool { return !keep(key) })
	if len(next) != len(*m) {
		s.m.Store(&next)
	}
}

// entries are those that are there now, without the other one; they must not be changed.
func (s *series[K, V]) entries() map[K]*V {
	if m := s.m.Load(); m != nil {
		return *m
	}
	return nil
}

// each calls f for every entry, the other one last.
func (s *series[K, V]) each(f func(*V)) {
	if m := s.m.Load(); m != nil {
		for _, v := range *m {
			f(v)
		}
	}
	f(s.other)
}
