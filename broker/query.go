package broker

import (
	"maps"
	"slices"
	"strconv"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/pop"
	"github.com/cairnmq/cairn/store"
)

const (
	// maxFound is how many messages one query answers at most.
	maxFound = 64
	// youngReach is how far behind the log's end a queue's first message may lie for the queue to count as young, in bytes.
	// The reference asks whether it is still in memory.
	youngReach = 4 << 30
)

// MinOffset is the offset of the first message that is there; that of the next one when there is none.
func (b *Broker) MinOffset(topic string, queue int32) (int64, error) {
	if err := b.gate.enter(); err != nil {
		return 0, err
	}
	defer b.gate.leave()
	low, _, err := b.bounds(topic, queue)
	return low, err
}

// MaxOffset is the offset that the next message gets.
func (b *Broker) MaxOffset(topic string, queue int32) (int64, error) {
	if err := b.gate.enter(); err != nil {
		return 0, err
	}
	defer b.gate.leave()
	_, high, err := b.bounds(topic, queue)
	return high, err
}

// Bounds are MinOffset and MaxOffset of a topic that was looked up.
func (b *Broker) Bounds(t *catalog.Topic, queue int32) (low, high int64, err error) {
	if err := b.gate.enter(); err != nil {
		return 0, 0, err
	}
	defer b.gate.leave()
	return b.boundsOf(t, queue)
}

func (b *Broker) bounds(topic string, queue int32) (low, high int64, err error) {
	t, err := b.topic(topic)
	if err != nil {
		return 0, 0, err
	}
	return b.boundsOf(t, queue)
}

func (b *Broker) boundsOf(t *catalog.Topic, queue int32) (low, high int64, err error) {
	if err := checkQueue(t, queue); err != nil {
		return 0, 0, err
	}
	if low, high, err = b.store.Bounds(t.ID, queue); err != nil {
		err = verbError(err, "look up bounds of "+t.Name)
	}
	return low, high, err
}

// queueOf answers the topic when it has the queue.
func (b *Broker) queueOf(topic string, queue int32) (*catalog.Topic, error) {
	t, err := b.topic(topic)
	if err != nil {
		return nil, err
	}
	return t, checkQueue(t, queue)
}

// OffsetByTime is exact to the millisecond: the first offset stored at or after the time, or the last stored at or before.
func (b *Broker) OffsetByTime(topic string, queue int32, ms int64, boundary store.Boundary) (int64, error) {
	if err := b.gate.enter(); err != nil {
		return 0, err
	}
	defer b.gate.leave()
	t, err := b.queueOf(topic, queue)
	if err != nil {
		return 0, err
	}
	at, err := b.store.OffsetByTime(t.ID, queue, ms, boundary)
	return at, verbError(err, "find offset by time in "+topic)
}

// EarliestStoreTime is when the queue's first message was stored, in ms; −1 when it has none.
func (b *Broker) EarliestStoreTime(topic string, queue int32) (int64, error) {
	if err := b.gate.enter(); err != nil {
		return 0, err
	}
	defer b.gate.leave()
	t, err := b.queueOf(topic, queue)
	if err != nil {
		return 0, err
	}
	low, high, err := b.store.Bounds(t.ID, queue)
	if err != nil {
		return 0, verbError(err, "look up bounds of "+topic)
	}
	return b.storeTime(t.ID, queue, low, low, high)
}

// storeTime is when an offset was stored, −1 when it is outside low to high (exclusive).
func (b *Broker) storeTime(topic kvindex.ID, queue int32, offset, low, high int64) (int64, error) {
	if offset < low || offset >= high {
		return -1, nil
	}
	ms, err := b.store.StoreTime(topic, queue, offset)
	if code, _ := codeOfCause(err); err != nil && code == CodeNotFound { // expired meanwhile
		return -1, nil
	}
	return ms, verbError(err, "look up a store time")
}

// CommittedOffset answers the group's committed offset, one-way commits included. A group without one gets
// CodeOffsetNotFound, or 0 in a young queue when zeroIfYoung is set: one that begins at 0 and whose first message is among
// the newest 4 GiB of the log. Of what was sent to a new topic a new group then misses nothing, wherever it wants to begin.
func (b *Broker) CommittedOffset(group, topic string, queue int32, zeroIfYoung bool) (int64, error) {
	if err := b.gate.enter(); err != nil {
		return 0, err
	}
	defer b.gate.leave()
	t, err := b.queueOf(topic, queue)
	if err != nil {
		return 0, err
	}
	g, err := b.group(group)
	switch {
	case err == nil:
		offset, ok, err := b.committedAt(place{g.ID, t.ID, queue})
		if err != nil || ok {
			return offset, err
		}
	case CodeOf(err) != CodeGroupNotFound:
		return 0, err
	}
	if zeroIfYoung {
		young, err := b.isYoung(t, queue)
		if err != nil || young {
			return 0, err
		}
	}
	return 0, refuse(CodeOffsetNotFound, "group %s has no offset in queue %d of %s", group, queue, topic)
}

// committedAt is the committed offset of a place, one-way commits included.
func (b *Broker) committedAt(at place) (offset int64, ok bool, err error) {
	if offset, ok := b.offsets.committed(at); ok {
		return offset, true, nil
	}
	c, ok, err := b.store.Pop.Cursor(at.group, at.topic, at.queue)
	return c.Committed, ok, verbError(err, "look up a committed offset")
}

func (b *Broker) isYoung(t *catalog.Topic, queue int32) (bool, error) {
	low, high, err := b.store.Bounds(t.ID, queue)
	if err != nil || low > 0 {
		return false, verbError(err, "look up bounds of "+t.Name)
	}
	if high == 0 {
		return true, nil
	}
	first, err := b.store.Entries(t.ID, queue, 0, 1, nil)
	if err != nil || len(first) == 0 {
		return false, verbError(err, "look up the first message of "+t.Name)
	}
	return b.store.Stats().LogCommitted-first[0].Position <= youngReach, nil
}

// GroupsOfTopic lists the groups that have an offset in the topic or a consumer that subscribes to it, in order.
func (b *Broker) GroupsOfTopic(topic string) ([]string, error) {
	if err := b.gate.enter(); err != nil {
		return nil, err
	}
	defer b.gate.leave()
	t, err := b.topic(topic)
	if err != nil {
		return nil, err
	}
	groups := map[string]struct{}{}
	for _, name := range b.clients.groupsSubscribed(topic) {
		groups[name] = struct{}{}
	}
	gathered := map[kvindex.ID]bool{}
	b.offsets.eachGathered(func(at place, _ int64) {
		if at.topic == t.ID {
			gathered[at.group] = true
		}
	})
	var failed error
	err = b.catalog.EachGroup(func(g *catalog.Group) bool {
		if gathered[g.ID] {
			groups[g.Name] = struct{}{}
			return true
		}
		failed = b.store.Pop.EachCursor(g.ID, t.ID, func(kvindex.ID, int32, pop.Cursor) bool {
			groups[g.Name] = struct{}{}
			return false
		})
		return failed == nil
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, verbError(err, "list the groups of "+topic)
	}
	return slices.Sorted(maps.Keys(groups)), nil
}

// QueryByKey appends the messages of a topic that have this key and were stored in [begin, end] ms to buf, newest first, at
// most max (and never more than 64), and answers the end of each in buf.B.
func (b *Broker) QueryByKey(topic, key string, begin, end int64, max int, buf *store.Buffer) ([]int, error) {
	return b.query(topic, kvindex.IndexKey, key, begin, end, max, buf)
}

// QueryByUniqueID does the same for the id that the sender gave a message.
func (b *Broker) QueryByUniqueID(topic, id string, begin, end int64, max int, buf *store.Buffer) ([]int, error) {
	return b.query(topic, kvindex.IndexUniqueID, id, begin, end, max, buf)
}

func (b *Broker) query(topic string, kind kvindex.IndexKind, key string, begin, end int64, most int, buf *store.Buffer,
) ([]int, error) {
	if err := b.gate.enter(); err != nil {
		return nil, err
	}
	defer b.gate.leave()
	t, err := b.topic(topic)
	if err != nil {
		return nil, err
	}
	if most <= 0 || most > maxFound {
		most = maxFound
	}
	ends, err := b.store.Query(t.ID, kind, key, begin, end, most, buf)
	return ends, verbError(err, "query messages of "+topic)
}

// MessageByPosition reads the message whose record is at a position (what an offset message id names); it aliases buf. With a
// topic only a message of that topic is found. CodeNotFound.
func (b *Broker) MessageByPosition(topic string, pos record.Position, buf *store.Buffer) ([]byte, error) {
	if err := b.gate.enter(); err != nil {
		return nil, err
	}
	defer b.gate.leave()
	layout, err := b.store.ReadByPosition(pos, buf)
	if err != nil {
		return nil, verbError(err, "read the message at position "+formatPosition(pos))
	}
	if topic != "" && string(message.TopicOf(layout)) != topic {
		return nil, refuse(CodeNotFound, "the message at position %d is of another topic than %s", pos, topic)
	}
	return layout, nil
}

func formatPosition(pos record.Position) string { return strconv.FormatInt(int64(pos), 10) }

// QueueStats are the bounds of one queue; LastStoreTime is 0 when nothing is in it.
type QueueStats struct {
	Queue                   int32
	Min, Max, LastStoreTime int64
}

// TopicStats answers one for each queue of max(read, write), also when it was never written.
func (b *Broker) TopicStats(topic string) ([]QueueStats, error) {
	if err := b.gate.enter(); err != nil {
		return nil, err
	}
	defer b.gate.leave()
	t, err := b.topic(topic)
	if err != nil {
		return nil, err
	}
	out := make([]QueueStats, 0, max(t.ReadQueues, t.WriteQueues))
	for q := range max(t.ReadQueues, t.WriteQueues) {
		low, high, err := b.store.Bounds(t.ID, q)
		if err != nil {
			return nil, verbError(err, "look up bounds of "+topic)
		}
		last, err := b.storeTime(t.ID, q, high-1, low, high)
		if err != nil {
			return nil, err
		}
		out = append(out, QueueStats{Queue: q, Min: low, Max: high, LastStoreTime: max(last, 0)})
	}
	return out, nil
}
