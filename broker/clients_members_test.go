package broker

import (
	"slices"
	"testing"
)

func TestMembers(t *testing.T) {
	c, _ := newTestClients()
	l := &told{}
	c.RegisterConsumer("g", l.client("b", 1), subscribed(1, "u", "t"))
	c.RegisterConsumer("g", l.client("a", 2), subscribed(2, "t"))
	c.RegisterConsumer("other", l.client("a", 2), subscribed(1, "v"))
	c.RegisterProducer("p", l.client("p", 3))
	c.RegisterProducer("q", l.client("p", 3))
	members, info := c.Members("g")
	var got []string
	for _, m := range members {
		for _, s := range m.Subscriptions {
			got = append(got, m.Client.ID+" "+s.Topic+" "+s.Expression)
		}
	}
	if want := []string{"a t 2", "b t 1", "b u 1"}; !slices.Equal(got, want) || info.MessageModel != "CLUSTERING" {
		t.Errorf("%q in %+v, want %q", got, info, want)
	}
	if members, _ := c.Members("none"); len(members) != 0 {
		t.Errorf("%+v", members)
	}
	if producers, consumers := c.Counts(); producers != 1 || consumers != 2 {
		t.Errorf("%d producers and %d consumers", producers, consumers)
	}
}
