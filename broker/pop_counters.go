package broker

import (
	"errors"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/pop"
)

// GroupCounters are exact and of one moment. Each message of the topic that the group has not settled is in one of them.
type GroupCounters struct {
	// Ready may be handed out now: what was not handed out yet, what is visible again, and what has waited for an earlier message of
	// its message group that is settled now; for a group that pulls, what is behind its committed offset. Of what no pop has looked at
	// yet nobody knows more: messages that the group's filter will pass over are ready until then, and so are those that will have
	// to wait for others of their message group.
	Ready int64
	// InFlight is with a consumer, invisible to the others.
	InFlight int64
	// Delayed comes back later: a consumer has failed on it or gave it back. In the group's own retry topic also what waits there for
	// its time to come.
	Delayed int64
	// Parked was met by a pop and waits for an earlier message of its message group.
	Parked int64
}

// Lag is the number of all.
func (c GroupCounters) Lag() int64 { return c.Ready + c.InFlight + c.Delayed + c.Parked }

func (c *GroupCounters) add(s pop.Share) {
	c.Ready += s.Ready
	c.InFlight += s.InFlight
	c.Delayed += s.Postponed
	c.Parked += s.Parked
}

// GroupCounters counts for a group on all readable queues of a topic; what is visible again is walked through. CodeGroupNotFound,
// CodeTopicNotFound.
func (b *Broker) GroupCounters(group, topic string) (GroupCounters, error) {
	if err := b.gate.enter(); err != nil {
		return GroupCounters{}, err
	}
	defer b.gate.leave()
	g, t, err := b.groupAndTopic(group, topic)
	if err != nil {
		return GroupCounters{}, err
	}
	c, err := b.groupCounters(g, t)
	return c, verbError(err, "count messages of "+group)
}

func (b *Broker) groupCounters(g *catalog.Group, t *catalog.Topic) (c GroupCounters, err error) {
	m := b.store.Pop.Moment(g.ID, t.ID)
	defer func() { err = errors.Join(err, m.Close()) }()
	for q := range t.ReadQueues {
		s, err := b.standIn(m, place{g.ID, t.ID, q})
		if err != nil {
			return c, err
		}
		c.Ready += s.high - s.next
	}
	share, err := m.Share(b.clock.Now().UnixMilli())
	if err != nil {
		return c, err
	}
	c.add(share)
	c.Delayed, err = b.withRetries(c.Delayed, g, t)
	return c, err
}

// withRetries adds to n what waits for its time in the topic, when that is the group's own retry topic.
func (b *Broker) withRetries(n int64, g *catalog.Group, t *catalog.Topic) (int64, error) {
	if t.Name != catalog.RetryPrefix+g.Name {
		return n, nil
	}
	waiting, err := b.store.Delay.Pending(t.ID)
	return n + waiting, err
}

// standIn is where a group stands in a queue at a moment: the next offset that it wants, of those that are there. What came to the
// queue since then is there already.
func (b *Broker) standIn(m *pop.Moment, at place) (s stand, err error) {
	c, there, err := m.Cursor(at.queue)
	if err != nil {
		return s, err
	}
	if offset, gathered := b.offsets.committed(at); gathered {
		c.Next, there = offset, true
	}
	s.next, s.there = c.Next, there
	if s.low, s.high, err = b.store.Bounds(at.topic, at.queue); err != nil {
		return s, err
	}
	if !there {
		s.next = beginning(s.low, s.high)
	}
	s.next = min(max(s.next, s.low), s.high)
	return s, nil
}
