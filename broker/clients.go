package broker

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/cairnmq/cairn/internal/clock"
)

const (
	// clientExpiry is how long a producer or consumer counts as there after its last heartbeat; clientScan is how often
	// that is looked at.
	clientExpiry = 120 * time.Second
	clientScan   = 10 * time.Second
	// maxClients bounds the table: a heartbeat over it is not remembered.
	maxClients = 200_000
)

// Client is a connected producer or consumer. The door owns the connection.
type Client struct {
	ID       string
	Address  netip.AddrPort
	Language string
	Version  int32
	// Protocol is "remoting" or "grpc", for the metrics.
	Protocol string
	// Notify tells a consumer that the members of its group changed; must not block. May be nil.
	Notify func(group string)
	// Left tells the door that a consumer is no member of its group any more, since nothing was heard of it for too long or its
	// connection was closed; must not block. May be nil.
	Left func(group string)
	// Check asks a producer for the end of a transaction; it must not block, and is false when the producer cannot be asked
	// (it has gone, or does not read what it is sent). May be nil: it cannot be asked.
	Check func(*TransactionCheck) bool
	// Conn is the door's own handle for commands to the client. It must be comparable; may be nil.
	Conn any
}

// Subscription is what a consumer wants of a topic. Version tells the newer of two; Remoting clients send the time.
type Subscription struct {
	Topic, Expression, ExpressionType string
	Version                           int64
	Tags                              []string
	Codes                             []int32
	ClassFilter                       bool // Expression names a class of the client's, which does the filtering
}

// ConsumerInfo is what a consumer says of itself in a heartbeat.
type ConsumerInfo struct {
	ConsumeType, MessageModel, FromWhere string
	Subscriptions                        []Subscription
}

// Clients is the table of producers and consumers. Safe for concurrent use. Entries expire after 120 s without a heartbeat.
// A client id is there once for each group: who registers with it again takes the place of the former.
type Clients struct {
	clock clock.Clock
	// notifies tells whether the members of a group want to hear of each other's coming and going.
	notifies func(group string) bool
	// later has f called at t, from a goroutine that must not be held up. Without it all are told at once.
	later func(t time.Time, f func())

	mu struct {
		sync.RWMutex
		producers map[string]map[string]*member // group, client id
		consumers map[string]*consumers         // group
		producing map[string][]*member          // client id; the one that registered last is the last
		byConn    map[any]map[*member]struct{}
		count     int
	}
}

// member is one client in one group.
type member struct {
	client   *Client
	group    string
	consumer bool
	model    string // a consumer's message model
	seen     time.Time
	subs     map[string]Subscription // by topic
}

// consumers is a consumer group with somebody in it.
type consumers struct {
	members map[string]*member
	info    ConsumerInfo            // of the newest heartbeat, without its subscriptions
	subs    map[string]Subscription // by topic: the newest that any member has
	quiet   time.Time               // until then they are not told of changes
	untold  bool                    // but will be at its end
}

func newClients(c clock.Clock, notifies func(group string) bool) *Clients {
	t := &Clients{clock: c, notifies: notifies}
	t.mu.producers = map[string]map[string]*member{}
	t.mu.consumers = map[string]*consumers{}
	t.mu.producing = map[string][]*member{}
	t.mu.byConn = map[any]map[*member]struct{}{}
	return t
}

// RegisterProducer notes a producer's heartbeat.
func (c *Clients) RegisterProducer(group string, cl *Client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	of := c.mu.producers[group]
	old := of[cl.ID]
	if old == nil && c.mu.count >= maxClients {
		return
	}
	if of == nil {
		of = map[string]*member{}
		c.mu.producers[group] = of
	}
	of[cl.ID] = c.replaceLocked(old, &member{client: cl, group: group})
}

// RegisterConsumer notes a consumer's heartbeat. changed is true when the consumer is new in its group or its topics are
// others than before; the other members are told.
func (c *Clients) RegisterConsumer(group string, cl *Client, info ConsumerInfo) (changed bool) {
	m := &member{client: cl, group: group, consumer: true, model: info.MessageModel, subs: make(map[string]Subscription, len(info.Subscriptions))}
	for _, s := range info.Subscriptions {
		m.subs[s.Topic] = s
	}
	changed, others := c.registerConsumer(m, info)
	if changed {
		c.tell(group, others)
	}
	return changed
}

func (c *Clients) registerConsumer(m *member, info ConsumerInfo) (changed bool, others []*Client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.mu.consumers[m.group]
	var old *member
	if g != nil {
		old = g.members[m.client.ID]
	}
	if old == nil && c.mu.count >= maxClients {
		return false, nil
	}
	if g == nil {
		g = &consumers{members: map[string]*member{}, subs: map[string]Subscription{}}
		c.mu.consumers[m.group] = g
	}
	g.members[m.client.ID] = c.replaceLocked(old, m)
	info.Subscriptions = nil
	g.info = info
	for topic, s := range m.subs {
		if newest, ok := g.subs[topic]; !ok || s.Version >= newest.Version {
			g.subs[topic] = s
		}
	}
	if old == nil {
		return true, g.others(m.client.ID)
	}
	for topic := range old.subs {
		if _, kept := m.subs[topic]; !kept {
			g.refresh(topic)
			changed = true
		}
	}
	changed = changed || len(m.subs) != len(old.subs)
	if !changed {
		return false, nil
	}
	return true, g.others(m.client.ID)
}

// refresh finds the newest subscription of a topic again after a member dropped or took away its own.
func (g *consumers) refresh(topic string) {
	delete(g.subs, topic)
	for _, m := range g.members {
		if s, ok := m.subs[topic]; ok {
			if newest, there := g.subs[topic]; !there || s.Version > newest.Version {
				g.subs[topic] = s
			}
		}
	}
}

func (g *consumers) others(id string) []*Client {
	out := make([]*Client, 0, len(g.members))
	for other, m := range g.members {
		if other != id && m.client.Notify != nil {
			out = append(out, m.client)
		}
	}
	return out
}

// replaceLocked puts m into the books in the place of old, which may be nil.
func (c *Clients) replaceLocked(old, m *member) *member {
	m.seen = c.clock.Now()
	if old != nil {
		c.forgetLocked(old)
	}
	c.mu.count++
	if !m.consumer {
		c.mu.producing[m.client.ID] = append(c.mu.producing[m.client.ID], m)
	}
	if conn := m.client.Conn; conn != nil {
		of := c.mu.byConn[conn]
		if of == nil {
			of = map[*member]struct{}{}
			c.mu.byConn[conn] = of
		}
		of[m] = struct{}{}
	}
	return m
}

// forgetLocked takes m out of the count, off its client id and off its connection.
func (c *Clients) forgetLocked(m *member) {
	c.mu.count--
	if id := m.client.ID; !m.consumer {
		c.mu.producing[id] = slices.DeleteFunc(c.mu.producing[id], func(o *member) bool { return o == m })
		if len(c.mu.producing[id]) == 0 {
			delete(c.mu.producing, id)
		}
	}
	if conn := m.client.Conn; conn != nil {
		delete(c.mu.byConn[conn], m)
		if len(c.mu.byConn[conn]) == 0 {
			delete(c.mu.byConn, conn)
		}
	}
}

// removeLocked takes m out of the table, and answers whom to tell.
func (c *Clients) removeLocked(m *member) (others []*Client) {
	c.forgetLocked(m)
	if !m.consumer {
		of := c.mu.producers[m.group]
		delete(of, m.client.ID)
		if len(of) == 0 {
			delete(c.mu.producers, m.group)
		}
		return nil
	}
	g := c.mu.consumers[m.group]
	delete(g.members, m.client.ID)
	if len(g.members) == 0 {
		delete(c.mu.consumers, m.group)
		return nil
	}
	for topic := range m.subs {
		g.refresh(topic)
	}
	return g.others(m.client.ID)
}

// UnregisterProducer forgets a producer.
func (c *Clients) UnregisterProducer(group, clientID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.mu.producers[group][clientID]; m != nil {
		c.removeLocked(m)
	}
}

// UnregisterConsumer forgets a consumer and tells the other members of its group.
func (c *Clients) UnregisterConsumer(group, clientID string) {
	c.mu.Lock()
	var others []*Client
	if g := c.mu.consumers[group]; g != nil {
		if m := g.members[clientID]; m != nil {
			others = c.removeLocked(m)
		}
	}
	c.mu.Unlock()
	c.tell(group, others)
}

// CloseConn forgets all clients of a connection.
func (c *Clients) CloseConn(conn any) {
	if conn == nil {
		return
	}
	c.remove(func() []*member { return slices.Collect(maps.Keys(c.mu.byConn[conn])) })
}

// expire forgets those that were not heard of for too long.
func (c *Clients) expire() {
	before := c.clock.Now().Add(-clientExpiry)
	c.remove(func() (old []*member) {
		for _, of := range c.mu.producers {
			for _, m := range of {
				if m.seen.Before(before) {
					old = append(old, m)
				}
			}
		}
		for _, g := range c.mu.consumers {
			for _, m := range g.members {
				if m.seen.Before(before) {
					old = append(old, m)
				}
			}
		}
		return old
	})
}

// remove takes out the members that which chooses under the lock; then the groups that lost one are told, once each.
func (c *Clients) remove(which func() []*member) {
	tell := map[string][]*Client{}
	var left []*member
	c.mu.Lock()
	for _, m := range which() {
		others := c.removeLocked(m)
		if m.consumer {
			tell[m.group] = others // of the last removal: nobody who went himself is in it
			left = append(left, m)
		}
	}
	c.mu.Unlock()
	for _, m := range left {
		if m.client.Left != nil {
			m.client.Left(m.group)
		}
	}
	for group, others := range tell {
		c.tell(group, others)
	}
}

// ConsumerIDs lists the client ids of a group in order.
func (c *Clients) ConsumerIDs(group string) []string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	g := c.mu.consumers[group]
	if g == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(g.members))
}

// ConsumersAt lists the client ids that a connection has in a group, in order, and their message model.
func (c *Clients) ConsumersAt(conn any, group string) (ids []string, model string) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for m := range c.mu.byConn[conn] {
		if m.consumer && m.group == group {
			ids, model = append(ids, m.client.ID), m.model
		}
	}
	slices.Sort(ids)
	return ids, model
}

// Consumers answers who is in a group, in the order of their ids, and what the group subscribes to; ok is false when there
// is nobody. The clients are shared and must not be changed.
func (c *Clients) Consumers(group string) (clients []*Client, info ConsumerInfo, ok bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	g := c.mu.consumers[group]
	if g == nil {
		return nil, ConsumerInfo{}, false
	}
	info = g.info
	for _, topic := range slices.Sorted(maps.Keys(g.subs)) {
		info.Subscriptions = append(info.Subscriptions, g.subs[topic])
	}
	return clientsOf(g.members), info, true
}

// Producers answers who produces in a group, in the order of their ids.
func (c *Clients) Producers(group string) []*Client {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return clientsOf(c.mu.producers[group])
}

// Producer finds the client with this id that produces in any group, the one heard of last; ok is false when there is none.
func (c *Clients) Producer(id string) (cl *Client, ok bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	of := c.mu.producing[id]
	if len(of) == 0 {
		return nil, false
	}
	return of[len(of)-1].client, true
}

// checkable lists the producers of a group who can be asked for the end of a transaction, in the order of their ids.
func (c *Clients) checkable(group string) []*Client {
	return slices.DeleteFunc(c.Producers(group), func(cl *Client) bool { return cl.Check == nil })
}

func clientsOf(members map[string]*member) []*Client {
	out := make([]*Client, 0, len(members))
	for _, m := range members {
		out = append(out, m.client)
	}
	slices.SortFunc(out, func(a, b *Client) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// ProducerGroups lists the groups with a producer, in order.
func (c *Clients) ProducerGroups() []string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Sorted(maps.Keys(c.mu.producers))
}

// ConsumerGroups lists the groups with a consumer, in order.
func (c *Clients) ConsumerGroups() []string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Sorted(maps.Keys(c.mu.consumers))
}

// Subscription answers the newest subscription of a topic that a member of the group has.
func (c *Clients) Subscription(group, topic string) (Subscription, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	g := c.mu.consumers[group]
	if g == nil {
		return Subscription{}, false
	}
	s, ok := g.subs[topic]
	return s, ok
}

// groupsSubscribed lists the groups with a member that subscribes to the topic.
func (c *Clients) groupsSubscribed(topic string) (groups []string) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for name, g := range c.mu.consumers {
		if _, ok := g.subs[topic]; ok {
			groups = append(groups, name)
		}
	}
	return groups
}

// each calls f for every client of every group; it must not block.
func (c *Clients) each(f func(group string, consumer bool, info *ConsumerInfo, cl *Client)) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for group, of := range c.mu.producers {
		for _, m := range of {
			f(group, false, nil, m.client)
		}
	}
	for group, g := range c.mu.consumers {
		for _, m := range g.members {
			f(group, true, &g.info, m.client)
		}
	}
}
