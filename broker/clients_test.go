package broker

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/internal/clock"
)

// told collects who was told of a change in which group.
type told struct{ who []string }

func (l *told) client(id string, conn any) *Client {
	return &Client{ID: id, Conn: conn, Notify: func(group string) { l.who = append(l.who, id+" of "+group) }}
}

func (l *told) take() []string {
	who := l.who
	l.who = nil
	slices.Sort(who)
	return who
}

func newTestClients() (*Clients, *clock.Fake) {
	c := clock.NewFake(epoch)
	return newClients(c, func(group string) bool { return group != "silent" }), c
}

func subscribed(version int64, topics ...string) ConsumerInfo {
	info := ConsumerInfo{ConsumeType: "CONSUME_PASSIVELY", MessageModel: "CLUSTERING"}
	for _, t := range topics {
		info.Subscriptions = append(info.Subscriptions, Subscription{Topic: t, Expression: fmt.Sprint(version), Version: version})
	}
	return info
}

func wantTold(t *testing.T, l *told, want ...string) {
	t.Helper()
	if got := l.take(); !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}

func TestConsumersAreToldOfComingAndGoing(t *testing.T) {
	c, _ := newTestClients()
	l := &told{}
	if !c.RegisterConsumer("g", l.client("a", 1), subscribed(1, "t")) {
		t.Error("the first consumer of a group is no change")
	}
	wantTold(t, l)
	c.RegisterConsumer("g", l.client("b", 2), subscribed(1, "t"))
	wantTold(t, l, "a of g")
	if c.RegisterConsumer("g", l.client("b", 2), subscribed(2, "t")) {
		t.Error("a heartbeat with a newer version of the same topics is a change")
	}
	wantTold(t, l)
	if !c.RegisterConsumer("g", l.client("b", 2), subscribed(3, "t", "u")) {
		t.Error("one more topic is no change")
	}
	wantTold(t, l, "a of g")
	if !c.RegisterConsumer("g", l.client("b", 2), subscribed(4, "t", "v")) {
		t.Error("another topic is no change")
	}
	wantTold(t, l, "a of g")
	c.UnregisterConsumer("g", "a")
	wantTold(t, l, "b of g")
	c.UnregisterConsumer("g", "nobody")
	c.UnregisterConsumer("none", "b")
	wantTold(t, l)
	c.RegisterConsumer("silent", l.client("a", 1), subscribed(1, "t"))
	c.RegisterConsumer("silent", l.client("b", 2), subscribed(1, "t"))
	wantTold(t, l)
}

func TestClosedConnectionForgetsItsClients(t *testing.T) {
	c, _ := newTestClients()
	l := &told{}
	c.RegisterConsumer("g", l.client("a", 1), subscribed(1, "t"))
	c.RegisterConsumer("g", l.client("b", 2), subscribed(1, "t"))
	c.RegisterConsumer("h", l.client("a", 1), subscribed(1, "t"))
	c.RegisterProducer("p", l.client("a", 1))
	l.take()
	c.RegisterConsumer("g", l.client("b", 3), subscribed(1, "t")) // reconnected: not a change of members
	wantTold(t, l)
	c.CloseConn(2) // the former connection of b
	wantTold(t, l)
	if got := c.ConsumerIDs("g"); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("members %q", got)
	}
	c.CloseConn(1)
	wantTold(t, l, "b of g")
	if got := c.ConsumerIDs("g"); !slices.Equal(got, []string{"b"}) {
		t.Errorf("members %q", got)
	}
	if got := c.ConsumerGroups(); !slices.Equal(got, []string{"g"}) {
		t.Errorf("consumer groups %q", got)
	}
	if got := c.ProducerGroups(); len(got) != 0 {
		t.Errorf("producer groups %q", got)
	}
	if _, _, ok := c.Consumers("h"); ok {
		t.Error("a group without members is there")
	}
	c.CloseConn(nil)
}

func TestClientsExpire(t *testing.T) {
	c, now := newTestClients()
	l := &told{}
	c.RegisterConsumer("g", l.client("a", nil), subscribed(1, "t", "u"))
	c.RegisterProducer("p", l.client("a", nil))
	now.Advance(clientExpiry / 2)
	c.RegisterConsumer("g", l.client("b", nil), subscribed(1, "t"))
	l.take()
	now.Advance(clientExpiry / 2)
	c.expire()
	wantTold(t, l) // exactly at its age a client is still there
	now.Advance(time.Second)
	c.expire()
	wantTold(t, l, "b of g")
	if got := c.ConsumerIDs("g"); !slices.Equal(got, []string{"b"}) {
		t.Errorf("members %q", got)
	}
	if _, ok := c.Subscription("g", "u"); ok {
		t.Error("a topic that only the expired member wanted is still subscribed")
	}
	if got := c.Producers("p"); len(got) != 0 {
		t.Errorf("%d producers", len(got))
	}
	if c.mu.count != 1 {
		t.Errorf("count %d, want 1", c.mu.count)
	}
}

func TestNewestSubscriptionCounts(t *testing.T) {
	c, _ := newTestClients()
	l := &told{}
	c.RegisterConsumer("g", l.client("a", nil), subscribed(5, "t"))
	c.RegisterConsumer("g", l.client("b", nil), subscribed(3, "t"))
	if s, ok := c.Subscription("g", "t"); !ok || s.Version != 5 {
		t.Errorf("subscription %+v, %v", s, ok)
	}
	c.RegisterConsumer("g", l.client("b", nil), subscribed(9, "t", "u"))
	if s, _ := c.Subscription("g", "t"); s.Version != 9 {
		t.Errorf("version %d, want 9", s.Version)
	}
	c.UnregisterConsumer("g", "b")
	if s, _ := c.Subscription("g", "t"); s.Version != 5 {
		t.Errorf("version %d, want 5 again", s.Version)
	}
	clients, info, ok := c.Consumers("g")
	if !ok || len(clients) != 1 || len(info.Subscriptions) != 1 || info.MessageModel != "CLUSTERING" {
		t.Errorf("consumers %v %+v %v", clients, info, ok)
	}
	if got := c.groupsSubscribed("t"); !slices.Equal(got, []string{"g"}) {
		t.Errorf("groups subscribed %q", got)
	}
}

// Against a plain list of members: after any sequence the table holds who it should, with the newest subscriptions, and its
// books agree.
func TestClientsProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, now := newTestClients()
		type key struct{ group, id string }
		type entry struct {
			conn int
			seen time.Time
			subs map[string]int64
		}
		model := map[key]entry{}
		draw := func(t *rapid.T) key {
			return key{rapid.SampledFrom([]string{"g", "h"}).Draw(t, "group"), rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "id")}
		}
		var version int64
		t.Repeat(map[string]func(*rapid.T){
			"heartbeat": func(t *rapid.T) {
				k, conn := draw(t), rapid.IntRange(1, 3).Draw(t, "conn")
				topics := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"t", "u", "v"}), 0, 3, rapid.ID[string]).Draw(t, "topics")
				version++
				e := entry{conn: conn, seen: now.Now(), subs: map[string]int64{}}
				for _, topic := range topics {
					e.subs[topic] = version
				}
				c.RegisterConsumer(k.group, &Client{ID: k.id, Conn: conn}, subscribed(version, topics...))
				model[k] = e
			},
			"leave": func(t *rapid.T) {
				k := draw(t)
				c.UnregisterConsumer(k.group, k.id)
				delete(model, k)
			},
			"close": func(t *rapid.T) {
				conn := rapid.IntRange(1, 3).Draw(t, "conn")
				c.CloseConn(conn)
				for k, e := range model {
					if e.conn == conn {
						delete(model, k)
					}
				}
			},
			"age": func(t *rapid.T) {
				now.Advance(time.Duration(rapid.IntRange(1, 90).Draw(t, "s")) * time.Second)
				c.expire()
				for k, e := range model {
					if now.Now().Sub(e.seen) > clientExpiry {
						delete(model, k)
					}
				}
			},
			"": func(t *rapid.T) {
				ids, newest := map[string][]string{}, map[[2]string]int64{}
				for k, e := range model {
					ids[k.group] = append(ids[k.group], k.id)
					for topic, v := range e.subs {
						newest[[2]string{k.group, topic}] = max(newest[[2]string{k.group, topic}], v)
					}
				}
				for _, group := range []string{"g", "h"} {
					slices.Sort(ids[group])
					if got := c.ConsumerIDs(group); !slices.Equal(got, ids[group]) {
						t.Fatalf("members of %s: %q, want %q", group, got, ids[group])
					}
					for _, topic := range []string{"t", "u", "v"} {
						want, subscribed := newest[[2]string{group, topic}]
						if s, ok := c.Subscription(group, topic); ok != subscribed || s.Version != want {
							t.Fatalf("%s on %s: %d %v, want %d %v", group, topic, s.Version, ok, want, subscribed)
						}
					}
				}
				if c.mu.count != len(model) {
					t.Fatalf("count %d, want %d", c.mu.count, len(model))
				}
			},
		})
	})
}
