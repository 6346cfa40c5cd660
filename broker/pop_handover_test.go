package broker

import (
	"context"
	"testing"
	"time"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/message"
)

// What a group has popped before it was told to pull comes to its retry topic when its time is over, once, and to its dead letters
// after the last attempt.
func TestHandOver(t *testing.T) {
	r := newPopRig(t)
	r.topicOf(t, "t", 2)
	g := catalog.DefaultGroup("g")
	g.RetryMaxTimes = 1 // two deliveries
	if err := r.PutGroup(context.Background(), g, ""); err != nil {
		t.Fatal(err)
	}
	group, topic := must(r.Group("g")), must(r.Topic("t"))
	now := func() {
		t.Helper()
		if err := r.handOver(group, topic); err != nil {
			t.Fatal(err)
		}
	}
	in := func(name string) []message.Message {
		t.Helper()
		if _, err := r.Topic(name); CodeOf(err) == CodeTopicNotFound {
			return nil
		}
		res := r.pull(t, "g", name, 0, 0)
		defer res.Buffer.Release()
		if res.Buffer == nil {
			return nil
		}
		return decodeAll(t, res.Buffer.B, res.Ends)
	}
	counters := func(want GroupCounters) {
		t.Helper()
		if c, err := r.GroupCounters("g", "t"); err != nil || c != want {
			t.Errorf("counters %+v, %v; want %+v", c, err, want)
		}
	}
	r.send(t, "t", 0, plain("twice"))
	r.popBodies(t, popOf(1))
	r.clock.Advance(time.Minute)
	r.popBodies(t, popOf(1))
	r.send(t, "t", 1, plain("once", "KEYS", "k"), plain("acked"))
	_, handles := r.popBodies(t, popOf(2))
	if err := r.Ack(context.Background(), "g", "t", handles[1:])[0]; err != nil {
		t.Fatal(err)
	}

	r.clock.Advance(30 * time.Second)
	if err := r.SetRequestMode(context.Background(), "g", "t", RequestMode{}); err != nil {
		t.Fatal(err)
	}
	now()
	counters(GroupCounters{InFlight: 2})
	r.clock.Advance(30 * time.Second)
	r.check(t)
	r.restart(t)
	group, topic = must(r.Group("g")), must(r.Topic("t"))
	set := func(pops bool) {
		t.Helper()
		if err := r.SetRequestMode(context.Background(), "g", "t", RequestMode{Pop: pops}); err != nil {
			t.Fatal(err)
		}
	}
	set(true)
	now()
	counters(GroupCounters{Ready: 2}) // for the next pop
	set(false)
	r.HandOver("g", "t")
	poll(t, "both to be moved", func() bool {
		c, err := r.GroupCounters("g", "t")
		return err == nil && c == GroupCounters{}
	})
	now()
	r.HandOver("g", "t")
	r.HandOver("none", "t")

	again := in(catalog.RetryPrefix + "g")
	if len(again) != 1 || string(again[0].Body) != "once" || again[0].ReconsumeTimes != 1 {
		t.Fatalf("%+v", again)
	}
	for key, want := range map[string]string{message.PropRetryTopic: "t", "KEYS": "k"} {
		if v, _ := message.Property(again[0].Properties, key); string(v) != want {
			t.Errorf("property %s is %q, want %q", key, v, want)
		}
	}
	dead := in(catalog.DLQPrefix + "g")
	if len(dead) != 1 || string(dead[0].Body) != "twice" || dead[0].ReconsumeTimes != 2 {
		t.Fatalf("%+v", dead)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
