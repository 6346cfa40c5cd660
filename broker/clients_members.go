package broker

import (
	"cmp"
	"slices"
)

// Member is a consumer of a group with what it itself subscribes to, in the order of the topics.
type Member struct {
	Client        *Client
	Subscriptions []Subscription
}

// Members answers who is in a group, in the order of their ids, and what the group says of itself, without subscriptions; nobody
// when nobody is. The clients are shared and must not be changed.
func (c *Clients) Members(group string) ([]Member, ConsumerInfo) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	g := c.mu.consumers[group]
	if g == nil {
		return nil, ConsumerInfo{}
	}
	out := make([]Member, 0, len(g.members))
	for _, m := range g.members {
		one := Member{Client: m.client, Subscriptions: make([]Subscription, 0, len(m.subs))}
		for _, s := range m.subs {
			one.Subscriptions = append(one.Subscriptions, s)
		}
		slices.SortFunc(one.Subscriptions, func(a, b Subscription) int { return cmp.Compare(a.Topic, b.Topic) })
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, b Member) int { return cmp.Compare(a.Client.ID, b.Client.ID) })
	return out, g.info
}

// Counts answers how many clients produce and how many consume; one that is in several groups counts once in each sum.
func (c *Clients) Counts() (producers, consumers int) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	seen := map[string]bool{}
	for _, of := range c.mu.producers {
		for id := range of {
			seen[id] = true
		}
	}
	producers = len(seen)
	clear(seen)
	for _, g := range c.mu.consumers {
		for id := range g.members {
			seen[id] = true
		}
	}
	return producers, len(seen)
}
