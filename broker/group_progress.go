package broker

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/pop"
)

// TopicProgress is how a group stands on a topic; all of it is of one moment.
type TopicProgress struct {
	Topic string
	At    int64 // ms: the moment
	// The sum of all queues, and in the group's own retry topic what waits for its time besides.
	GroupCounters
	Ages
	Queues []QueueProgress
}

// QueueProgress is how a group stands in one queue.
type QueueProgress struct {
	Queue   int32
	High    int64 // the next offset that the queue gives
	Next    int64 // the next one that the group wants
	Settled int64 // all before it are settled
	GroupCounters
	Ages
	Consumed int64 // ms: when the message before Settled was stored; 0 when there is none
}

// Ages say since when messages are there, by their store time in ms; 0 when there are none.
type Ages struct {
	Oldest int64 // of those that are not settled
	Unseen int64 // the oldest of those that were not handed out to anybody and that no pop has looked at
}

// older widens a by b.
func (a *Ages) older(b Ages) {
	earlier := func(x, y int64) int64 {
		if x == 0 || y == 0 {
			return max(x, y)
		}
		return min(x, y)
	}
	a.Oldest, a.Unseen = earlier(a.Oldest, b.Oldest), earlier(a.Unseen, b.Unseen)
}

// GroupProgress tells of a topic, or with "" of all where the group has a place, in the order of their ids. It walks through all that
// the group has in flight. CodeGroupNotFound, CodeTopicNotFound.
func (b *Broker) GroupProgress(group, topic string) ([]TopicProgress, error) {
	if err := b.gate.enter(); err != nil {
		return nil, err
	}
	defer b.gate.leave()
	g, err := b.group(group)
	if err != nil {
		return nil, err
	}
	topics, err := b.topicsOf(g, topic)
	if err != nil {
		return nil, err
	}
	out := make([]TopicProgress, 0, len(topics))
	for _, t := range topics {
		p, err := b.progress(g, t)
		if err == nil {
			err = b.addConsumed(t, &p)
		}
		if err != nil {
			return nil, verbError(err, "count messages of "+group)
		}
		out = append(out, p)
	}
	return out, nil
}

// addConsumed adds what progress leaves out, since only tools ask for it.
func (b *Broker) addConsumed(t *catalog.Topic, p *TopicProgress) error {
	for i := range p.Queues {
		q := &p.Queues[i]
		low, high, err := b.store.Bounds(t.ID, q.Queue)
		if err != nil {
			return err
		}
		ms, err := b.storeTime(t.ID, q.Queue, q.Settled-1, low, high)
		if err != nil {
			return err
		}
		q.Consumed = max(ms, 0)
	}
	return nil
}

// GroupTopics names those where a group has a place, in the order of their ids. CodeGroupNotFound.
func (b *Broker) GroupTopics(group string) ([]string, error) {
	if err := b.gate.enter(); err != nil {
		return nil, err
	}
	defer b.gate.leave()
	g, err := b.group(group)
	if err != nil {
		return nil, err
	}
	topics, err := b.topicsOf(g, "")
	names := make([]string, 0, len(topics))
	for _, t := range topics {
		names = append(names, t.Name)
	}
	return names, err
}

// topicsOf are those where a group has a place, its retry topic when something waits there, or only the named one.
func (b *Broker) topicsOf(g *catalog.Group, only string) ([]*catalog.Topic, error) {
	if only != "" {
		t, err := b.topic(only)
		return []*catalog.Topic{t}, err
	}
	ids := map[kvindex.ID]struct{}{}
	err := b.store.Pop.EachCursor(g.ID, 0, func(id kvindex.ID, _ int32, _ pop.Cursor) bool {
		ids[id] = struct{}{}
		return true
	})
	if err != nil {
		return nil, verbError(err, "list the topics of "+g.Name)
	}
	b.offsets.eachGathered(func(at place, _ int64) {
		if at.group == g.ID {
			ids[at.topic] = struct{}{}
		}
	})
	if t, err := b.catalog.Topic(catalog.RetryPrefix + g.Name); err == nil {
		waiting, err := b.store.Delay.Pending(t.ID)
		if err != nil {
			return nil, verbError(err, "list the topics of "+g.Name)
		}
		if waiting > 0 { // its consumers may not have come to it yet
			ids[t.ID] = struct{}{}
		}
	}
	var out []*catalog.Topic
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		t, err := b.catalog.TopicByID(id)
		if code, _ := codeOfCause(err); err != nil && code == CodeTopicNotFound {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, verbError(err, "list the topics of "+g.Name)
		}
		out = append(out, t)
	}
	return out, nil
}

func (b *Broker) progress(g *catalog.Group, t *catalog.Topic) (p TopicProgress, err error) {
	m := b.store.Pop.Moment(g.ID, t.ID)
	defer func() { err = errors.Join(err, m.Close()) }()
	p.Topic, p.At = t.Name, b.clock.Now().UnixMilli()
	shares, err := m.Shares(p.At, func(queue int32) (int64, error) {
		low, _, err := b.store.Bounds(t.ID, queue)
		return low, err
	})
	if err != nil {
		return p, err
	}
	queues := slices.Collect(maps.Keys(shares)) // also those that the topic has no more
	for q := range t.Queues() {
		if shares[q] == nil {
			queues = append(queues, q)
		}
	}
	slices.Sort(queues)
	for _, q := range queues {
		share := cmp.Or(shares[q], &pop.QueueShare{First: -1})
		row, err := b.queueProgress(m, place{g.ID, t.ID, q}, share, q < t.ReadQueues)
		if err != nil {
			return p, err
		}
		p.Ready += row.Ready
		p.InFlight += row.InFlight
		p.Delayed += row.Delayed
		p.Parked += row.Parked
		p.older(row.Ages)
		p.Queues = append(p.Queues, row)
	}
	p.Delayed, err = b.withRetries(p.Delayed, g, t)
	return p, err
}

// queueProgress joins what a group has taken from a queue with what is left in it; nothing is to be had from one that is not readable.
func (b *Broker) queueProgress(m *pop.Moment, at place, share *pop.QueueShare, readable bool) (p QueueProgress, err error) {
	s, err := b.standIn(m, at)
	if err != nil {
		return p, err
	}
	if !readable {
		s.next = s.high
	}
	p.Queue, p.High, p.Next = at.queue, s.high, s.next
	p.add(share.Share)
	p.Ready += s.high - s.next
	if p.Settled = s.next; share.First >= 0 {
		p.Settled = min(s.next, share.First)
	}
	ms, err := b.storeTime(at.topic, at.queue, s.next, s.low, s.high)
	if err != nil {
		return p, err
	}
	p.Unseen = max(ms, 0)
	if p.Settled < s.next {
		ms, err = b.storeTime(at.topic, at.queue, p.Settled, s.low, s.high)
	}
	p.Oldest = max(ms, 0)
	return p, err
}

// DeadByTopic counts the dead letters of a group by the topic where each was first. It looks at each of them, and so at 1000 or 32 MiB at
// most: ok is false when there are more, or some that cannot be read. CodeGroupIllegal, CodeClosing.
func (b *Broker) DeadByTopic(ctx context.Context, group string) (counts map[string]int64, ok bool, err error) {
	counts = map[string]int64{}
	all, err := b.DeadGroup(group)
	if err != nil || all.Count == 0 || all.Count > maxLetters {
		return counts, err == nil && all.Count == 0, err
	}
	found, _, more, err := b.DeadMessages(ctx, DeadQuery{Group: group, Most: maxLetters})
	if err != nil {
		return nil, false, err
	}
	for i := range found {
		counts[found[i].Topic]++
	}
	return counts, !more && int64(len(found)) == all.Count, nil
}
