package nameserver

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cairnmq/cairn/internal/body"
)

// Broker is what a broker says of itself when it registers.
type Broker struct {
	Cluster, Name, Addr string
	ID                  int64 // 0 is the master
	HAAddr              string
	Timeout             time.Duration // without a sign of life for this long it is forgotten; 0: DefaultTimeout
	ActingMaster        bool          // the smallest id may stand in for a missing master
}

// DefaultTimeout is how long a broker that does not say otherwise lives without a heartbeat.
const DefaultTimeout = 120 * time.Second

const (
	permRead  = 4
	permWrite = 2
)

// Table holds what external brokers registered. Safe for concurrent use. It keeps nothing on disk: brokers register anew
// every 30 s, and all at once after a restart.
type Table struct {
	mu struct {
		sync.RWMutex
		brokers map[string]*brokerSet                // by broker name
		topics  map[string]map[string]body.QueueData // topic → broker name → queues
	}
}

// brokerSet is a broker name with its addresses by id.
type brokerSet struct {
	cluster      string
	addrs        map[int64]string
	actingMaster bool
	live         map[string]*liveness // by address
}

type liveness struct {
	last    time.Time
	timeout time.Duration
	version body.DataVersion
	haAddr  string
	conn    any // the connection that it registered on
}

// NewTable makes an empty table.
func NewTable() *Table {
	t := &Table{}
	t.mu.brokers = map[string]*brokerSet{}
	t.mu.topics = map[string]map[string]body.QueueData{}
	return t
}

// Master is what a registering slave is told of its master; empty when there is none or it is the master itself.
type Master struct{ Addr, HAAddr string }

// Register takes a broker's registration. topics is nil when it only says that it is alive with the version that is known.
// A topic that an earlier registration of this broker had and this one lacks is forgotten.
func (t *Table) Register(b Broker, topics *body.TopicConfigTable, conn any, now time.Time) Master {
	t.mu.Lock()
	defer t.mu.Unlock()
	set := t.mu.brokers[b.Name]
	if set == nil {
		set = &brokerSet{addrs: map[int64]string{}, live: map[string]*liveness{}}
		t.mu.brokers[b.Name] = set
	}
	set.cluster, set.actingMaster = b.Cluster, b.ActingMaster
	for id, addr := range set.addrs {
		if addr == b.Addr && id != b.ID {
			delete(set.addrs, id)
		}
	}
	if old, ok := set.addrs[b.ID]; ok && old != b.Addr {
		delete(set.live, old)
	}
	set.addrs[b.ID] = b.Addr
	l := set.live[b.Addr]
	if l == nil {
		l = &liveness{}
		set.live[b.Addr] = l
	}
	l.last, l.timeout, l.haAddr, l.conn = now, cmp.Or(b.Timeout, DefaultTimeout), b.HAAddr, conn
	if topics != nil && (b.ID == 0 || b.ID == set.smallestID()) {
		l.version = topics.DataVersion
		t.setTopicsLocked(b.Name, topics)
	}
	if master, ok := set.addrs[0]; ok && b.ID != 0 {
		m := Master{Addr: master}
		if ml := set.live[master]; ml != nil {
			m.HAAddr = ml.haAddr
		}
		return m
	}
	return Master{}
}

func (t *Table) setTopicsLocked(broker string, topics *body.TopicConfigTable) {
	for topic, queues := range t.mu.topics {
		if _, kept := topics.TopicConfigTable[topic]; !kept {
			delete(queues, broker)
			if len(queues) == 0 {
				delete(t.mu.topics, topic)
			}
		}
	}
	for name, c := range topics.TopicConfigTable {
		queues := t.mu.topics[name]
		if queues == nil {
			queues = map[string]body.QueueData{}
			t.mu.topics[name] = queues
		}
		queues[broker] = body.QueueData{BrokerName: broker, Perm: c.Perm, ReadQueueNums: c.ReadQueueNums,
			WriteQueueNums: c.WriteQueueNums, TopicSysFlag: c.TopicSysFlag}
	}
}

// RegisterTopic adds or replaces one topic's queues, as REGISTER_TOPIC_IN_NAMESRV does; brokers that are not known are
// left out.
func (t *Table) RegisterTopic(topic string, queues []body.QueueData) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, q := range queues {
		if t.mu.brokers[q.BrokerName] == nil {
			continue
		}
		if t.mu.topics[topic] == nil {
			t.mu.topics[topic] = map[string]body.QueueData{}
		}
		t.mu.topics[topic][q.BrokerName] = q
	}
}

func (s *brokerSet) smallestID() int64 { return slices.Min(slices.Collect(maps.Keys(s.addrs))) }

// Version is the data version of a broker's last registration, and counts as a sign of life; ok is false for one that is
// not registered.
func (t *Table) Version(name, addr string, now time.Time) (v body.DataVersion, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	set := t.mu.brokers[name]
	if set == nil || set.live[addr] == nil {
		return v, false
	}
	set.live[addr].last = now
	return set.live[addr].version, true
}

// Unregister forgets one address of a broker.
func (t *Table) Unregister(name string, id int64, addr string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if set := t.mu.brokers[name]; set != nil && set.addrs[id] == addr {
		t.forgetLocked(name, addr)
	}
}

// forgetLocked removes an address, and with the last one the broker and its topics.
func (t *Table) forgetLocked(name, addr string) {
	set := t.mu.brokers[name]
	delete(set.live, addr)
	for id, a := range set.addrs {
		if a == addr {
			delete(set.addrs, id)
		}
	}
	if len(set.addrs) > 0 {
		return
	}
	delete(t.mu.brokers, name)
	for topic, queues := range t.mu.topics {
		delete(queues, name)
		if len(queues) == 0 {
			delete(t.mu.topics, topic)
		}
	}
}

// Expire forgets brokers that gave no sign of life within their time, and CloseConn those that registered on a connection
// which is gone. Both return how many went.
func (t *Table) Expire(now time.Time) int {
	return t.forgetWhere(func(l *liveness) bool { return now.Sub(l.last) > l.timeout })
}

// CloseConn forgets the brokers of a connection.
func (t *Table) CloseConn(conn any) int {
	return t.forgetWhere(func(l *liveness) bool { return l.conn == conn })
}

func (t *Table) forgetWhere(gone func(*liveness) bool) (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, set := range t.mu.brokers {
		for addr, l := range set.live {
			if gone(l) {
				t.forgetLocked(name, addr)
				n++
			}
		}
	}
	return n
}

// Route adds the external brokers' part of a topic's route to r.
func (t *Table) Route(topic string, r *body.TopicRoute) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, name := range slices.Sorted(maps.Keys(t.mu.topics[topic])) {
		set := t.mu.brokers[name]
		if set == nil {
			continue
		}
		q, addrs := t.mu.topics[topic][name], maps.Clone(set.addrs)
		if _, master := addrs[0]; !master && set.actingMaster {
			smallest := set.smallestID()
			addrs[0] = addrs[smallest]
			delete(addrs, smallest)
			q.Perm &^= permWrite
		}
		r.QueueDatas = append(r.QueueDatas, q)
		r.BrokerDatas = append(r.BrokerDatas, body.BrokerData{BrokerAddrs: addrs, BrokerName: name, Cluster: set.cluster, EnableActingMaster: set.actingMaster})
	}
}

// Clusters adds the external brokers to c.
func (t *Table) Clusters(c *body.ClusterInfo) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, name := range slices.Sorted(maps.Keys(t.mu.brokers)) {
		set := t.mu.brokers[name]
		c.BrokerAddrTable[name] = body.BrokerData{BrokerAddrs: maps.Clone(set.addrs), BrokerName: name, Cluster: set.cluster, EnableActingMaster: set.actingMaster}
		c.ClusterAddrTable[set.cluster] = append(c.ClusterAddrTable[set.cluster], name)
	}
}

// Topics calls f for each topic, in name order, with the flags of one of its brokers; cluster "" means all clusters.
func (t *Table) Topics(cluster string, f func(name string, sysFlag int32)) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, topic := range slices.Sorted(maps.Keys(t.mu.topics)) {
		for broker, q := range t.mu.topics[topic] {
			if set := t.mu.brokers[broker]; cluster == "" || set != nil && set.cluster == cluster {
				f(topic, q.TopicSysFlag)
				break
			}
		}
	}
}

// DeleteTopic forgets a topic; cluster "" means in all clusters.
func (t *Table) DeleteTopic(topic, cluster string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for broker := range t.mu.topics[topic] {
		if set := t.mu.brokers[broker]; cluster == "" || set != nil && set.cluster == cluster {
			delete(t.mu.topics[topic], broker)
		}
	}
	if len(t.mu.topics[topic]) == 0 {
		delete(t.mu.topics, topic)
	}
}

// SetWrite gives or takes the write permission of a broker's topics in the routes; it returns how many topics changed, -1
// for a broker that is not registered. The broker's next full registration brings back its own.
func (t *Table) SetWrite(broker string, on bool) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.brokers[broker] == nil {
		return -1
	}
	n := 0
	for _, queues := range t.mu.topics {
		q, ok := queues[broker]
		if !ok {
			continue
		}
		n++
		if on {
			q.Perm = permRead | permWrite
		} else {
			q.Perm &^= permWrite
		}
		queues[broker] = q
	}
	return n
}

// Members is a broker name's cluster and addresses.
func (t *Table) Members(broker string) (cluster string, addrs map[int64]string, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	set := t.mu.brokers[broker]
	if set == nil {
		return "", nil, false
	}
	return set.cluster, maps.Clone(set.addrs), true
}
