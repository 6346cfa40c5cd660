package broker

import (
	"context"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/store"
)

// The verbs of this file are those that only tools ask for.

// maxEntries is how many entries of a queue one QueueEntries answers at most.
const maxEntries = 1000

// messagePrefix is what the log keeps in front of a message: the record's head and the topic's id.
var messagePrefix = int32(commitlog.RecordSize(recordPrefix))

// IsSystemTopic is true for the topics of the broker itself, those that have the cluster's or the broker's name included.
func (b *Broker) IsSystemTopic(name string) bool { return b.isSystemTopic(name) }

// Durability is the mode that acknowledgements come under.
func (b *Broker) Durability() commitlog.Mode { return b.mode }

// Expire drops what is past its retention now, instead of within the next minute.
func (b *Broker) Expire(ctx context.Context) error {
	if err := b.gate.enter(); err != nil {
		return err
	}
	defer b.gate.leave()
	return verbError(b.store.Expire(ctx, b.clock.Now()), "expire")
}

// QueueEntry is one place of a queue, as the index has it.
type QueueEntry struct {
	Offset    int64
	Position  record.Position
	Size      int32 // bytes of the stored layout
	TagHash   int64
	StoreTime int64 // ms
}

// QueueEntries answers up to max entries (at most 1000) from an offset on, and the queue's bounds. CodeTopicNotFound,
// CodeParameter (queue).
func (b *Broker) QueueEntries(topic string, queue int32, from int64, most int) (entries []QueueEntry, low, high int64, err error) {
	if err := b.gate.enter(); err != nil {
		return nil, 0, 0, err
	}
	defer b.gate.leave()
	t, err := b.queueOf(topic, queue)
	if err != nil {
		return nil, 0, 0, err
	}
	if low, high, err = b.store.Bounds(t.ID, queue); err != nil {
		return nil, 0, 0, verbError(err, "look up bounds of "+topic)
	}
	if from < low || from >= high {
		return nil, low, high, nil
	}
	found, err := b.store.Entries(t.ID, queue, from, min(most, maxEntries), nil)
	if err != nil {
		return nil, 0, 0, verbError(err, "list entries of "+topic)
	}
	for i := range found {
		e := &found[i]
		entries = append(entries, QueueEntry{
			Offset: e.Offset, Position: e.Position, Size: e.Size - messagePrefix, TagHash: e.TagHash, StoreTime: e.StoreTime,
		})
	}
	return entries, low, high, nil
}

// ConsumeSpan says how far in time a group is in one queue. Times are in ms, −1 where there is no message.
type ConsumeSpan struct {
	Queue          int32
	Oldest, Newest int64         // store times of the queue's first and last message
	Consumed       int64         // store time of the last message before which the group has consumed all; Oldest when there is none
	Delay          time.Duration // how long the first message that the group has not consumed has been there, 0 when there is none
}

// ConsumeSpans answers one for each queue. CodeTopicNotFound, CodeGroupNotFound.
func (b *Broker) ConsumeSpans(group, topic string) ([]ConsumeSpan, error) {
	if err := b.gate.enter(); err != nil {
		return nil, err
	}
	defer b.gate.leave()
	t, err := b.topic(topic)
	if err != nil {
		return nil, err
	}
	g, err := b.group(group)
	if err != nil {
		return nil, err
	}
	p, err := b.progress(g, t)
	if err != nil {
		return nil, verbError(err, "look up how far "+group+" is in "+topic)
	}
	out := make([]ConsumeSpan, 0, len(p.Queues))
	for i := range p.Queues {
		s, err := b.consumeSpan(t, p.Queues[i].Queue, p.Queues[i].Settled, p.At)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

func (b *Broker) consumeSpan(t *catalog.Topic, queue int32, settled, now int64) (s ConsumeSpan, err error) {
	low, high, err := b.store.Bounds(t.ID, queue)
	if err != nil {
		return s, verbError(err, "look up bounds of "+t.Name)
	}
	next := int64(-1)
	s.Queue = queue
	for _, want := range []struct {
		ms     *int64
		offset int64
	}{{&s.Oldest, low}, {&s.Newest, high - 1}, {&s.Consumed, settled - 1}, {&next, max(settled, low)}} {
		if *want.ms, err = b.storeTime(t.ID, queue, want.offset, low, high); err != nil {
			return s, err
		}
	}
	if s.Consumed < 0 {
		s.Consumed = s.Oldest
	}
	if next >= 0 {
		s.Delay = time.Duration(max(now-next, 0)) * time.Millisecond
	}
	return s, nil
}

// CloneOffsets gives a group the places that another has in a topic, "" for all its topics; what the other has no place in stays
// as it is. The group is made when it is not there and may be. CodeGroupNotFound, and the refusals of CommitOffsets.
func (b *Broker) CloneOffsets(ctx context.Context, from, to, topic string) error {
	topics := []string{topic}
	if topic == "" {
		var err error
		if topics, err = b.GroupTopics(from); err != nil {
			return err
		}
	}
	var commits []OffsetCommit
	for _, name := range topics {
		places, err := b.placesOf(from, name)
		if CodeOf(err) == CodeTopicNotFound && topic == "" {
			continue // deleted meanwhile
		}
		if err != nil {
			return err
		}
		for _, queue := range slices.Sorted(maps.Keys(places)) {
			commits = append(commits, OffsetCommit{Topic: name, Queue: queue, Offset: places[queue]})
		}
	}
	for chunk := range slices.Chunk(commits, commitChunk) {
		if err := b.CommitOffsets(ctx, to, chunk); err != nil {
			return err
		}
	}
	return nil
}

// LeastOffsets answers for each queue of a topic in which the group has a place the least offset that any group has there, but
// for those that are left out; math.MaxInt64 when that is more than the group's own. CodeTopicNotFound, CodeGroupNotFound.
func (b *Broker) LeastOffsets(group, topic string, leaveOut []string) (map[int32]int64, error) {
	own, err := b.placesOf(group, topic)
	if err != nil {
		return nil, err
	}
	groups, err := b.GroupsOfTopic(topic)
	if err != nil {
		return nil, err
	}
	least := map[int32]int64{}
	for _, other := range groups {
		if slices.Contains(leaveOut, other) {
			continue
		}
		places, err := b.placesOf(other, topic)
		if CodeOf(err) == CodeGroupNotFound { // only a subscription, or gone meanwhile
			continue
		} else if err != nil {
			return nil, err
		}
		for queue, offset := range places {
			if old, ok := least[queue]; !ok || offset < old {
				least[queue] = offset
			}
		}
	}
	maps.DeleteFunc(least, func(queue int32, _ int64) bool { _, ok := own[queue]; return !ok })
	for queue, offset := range least {
		if offset > own[queue] {
			least[queue] = math.MaxInt64
		}
	}
	return least, nil
}

// placesOf are the offsets that a group has committed in a topic, by queue.
func (b *Broker) placesOf(group, topic string) (map[int32]int64, error) {
	if err := b.gate.enter(); err != nil {
		return nil, err
	}
	defer b.gate.leave()
	t, err := b.topic(topic)
	if err != nil {
		return nil, err
	}
	g, err := b.group(group)
	if err != nil {
		return nil, err
	}
	out := map[int32]int64{}
	for queue := range t.Queues() {
		offset, ok, err := b.committedAt(place{g.ID, t.ID, queue})
		if err != nil {
			return nil, err
		}
		if ok {
			out[queue] = offset
		}
	}
	return out, nil
}

// StorageStats are the store's figures and how it was opened. CodeClosing.
func (b *Broker) StorageStats() (store.Stats, store.Options, error) {
	if err := b.gate.enter(); err != nil {
		return store.Stats{}, store.Options{}, err
	}
	defer b.gate.leave()
	return b.store.Stats(), b.store.Options(), nil
}

// EachProducer calls f for every producer, in no order, with the time of its last heartbeat; f must not call the table.
func (c *Clients) EachProducer(f func(group string, cl *Client, seen time.Time)) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for group, of := range c.mu.producers {
		for _, m := range of {
			f(group, m.client, m.seen)
		}
	}
}
