//go:build !race

package grpc

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	client "github.com/apache/rocketmq-clients/golang/v5"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/catalog"
)

// TestOfficialConsumerThatNeverAcks: a message is delivered as often as the group allows, then it is a dead letter.
func TestOfficialConsumerThatNeverAcks(t *testing.T) {
	r := newRig(t)
	r.retries("deaf", 1)
	p := r.producer("orders")
	id := r.publish(p, "orders", "poison").MessageID
	sc := r.simpleConsumer("deaf", "orders", client.SUB_ALL)
	deliveries := 0
	r.eventually("the message is a dead letter", func() bool {
		got, err := sc.Receive(t.Context(), 1, 10*time.Second)
		if err == nil {
			for _, m := range got {
				deliveries++
				if m.GetMessageId() != id || m.GetDeliveryAttempt() != int32(deliveries) {
					t.Fatalf("delivery %d: %v", deliveries, m)
				}
				if err := sc.ChangeInvisibleDuration(m, 10*time.Millisecond); err != nil {
					t.Fatal(err)
				}
			}
		}
		return len(r.dead("deaf")) > 0
	})
	d := r.dead("deaf")
	if deliveries != 2 || len(d) != 1 || d[0].Attempts != 2 || d[0].Reason != broker.DeadAttempts || d[0].UniqueID != id {
		t.Errorf("%d deliveries, then %+v", deliveries, d)
	}
}

// TestOfficialPushConsumerThatFails: a listener that fails gets the message by the group's retry policy, and no more often than it says.
func TestOfficialPushConsumerThatFails(t *testing.T) {
	r := newRig(t)
	g := catalog.DefaultGroup("failing")
	g.RetryMaxTimes = 2
	g.RetryPolicy = &catalog.RetryPolicy{Type: catalog.RetryCustomized, Customized: &catalog.CustomizedBackoff{Next: []int64{10, 20}}}
	if err := r.broker.PutGroup(t.Context(), g, ""); err != nil {
		t.Fatal(err)
	}
	p := r.producer("orders")
	r.publish(p, "orders", "poison")
	var deliveries atomic.Int32
	pc, err := client.NewPushConsumer(r.config("failing"), client.WithPushAwaitDuration(5*time.Second),
		client.WithPushSubscriptionExpressions(map[string]*client.FilterExpression{"orders": client.SUB_ALL}),
		client.WithPushMessageListener(&client.FuncMessageListener{Consume: func(*client.MessageView) client.ConsumerResult {
			deliveries.Add(1)
			return client.FAILURE
		}}))
	if err != nil {
		t.Fatal(err)
	}
	if err := pc.Start(); err != nil { // its GracefulStop waits for half a minute: it ends with the test
		t.Fatal(err)
	}
	r.eventually("the message is a dead letter", func() bool { return len(r.dead("failing")) > 0 })
	if d := r.dead("failing"); deliveries.Load() != 3 || len(d) != 1 || d[0].Attempts != 3 {
		t.Errorf("%d deliveries, then %+v", deliveries.Load(), d)
	}
}

// TestOfficialFIFOConsumerThatFails: the client tries a message itself as often as the group says, and gives it up. It does not wait
// for that with what came in the same answer, so only the first and the last try have a place among the others.
func TestOfficialFIFOConsumerThatFails(t *testing.T) {
	r := newRig(t)
	r.topic("ordered", "FIFO")
	g := catalog.DefaultGroup("ordered-failing")
	g.RetryMaxTimes, g.ConsumeMessageOrderly = 2, true
	g.RetryPolicy = &catalog.RetryPolicy{Type: catalog.RetryCustomized, Customized: &catalog.CustomizedBackoff{Next: []int64{10}}}
	if err := r.broker.PutGroup(t.Context(), g, ""); err != nil {
		t.Fatal(err)
	}
	p := r.producer("ordered")
	for _, body := range []string{"poison", "after it"} {
		m := &client.Message{Topic: "ordered", Body: []byte(body)}
		m.SetMessageGroup("one")
		if _, err := p.Send(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	var seen []string
	pc, err := client.NewPushConsumer(r.config("ordered-failing"), client.WithPushAwaitDuration(5*time.Second),
		client.WithPushSubscriptionExpressions(map[string]*client.FilterExpression{"ordered": client.SUB_ALL}),
		client.WithPushMessageListener(&client.FuncMessageListener{Consume: func(m *client.MessageView) client.ConsumerResult {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, string(m.GetBody()))
			if string(m.GetBody()) == "poison" {
				return client.FAILURE
			}
			return client.SUCCESS
		}}))
	if err != nil {
		t.Fatal(err)
	}
	if err := pc.Start(); err != nil { // its GracefulStop waits for half a minute: it ends with the test
		t.Fatal(err)
	}
	r.eventually("one is a dead letter, and nothing is left", func() bool {
		c, err := r.broker.GroupCounters("ordered-failing", "ordered")
		return len(r.dead("ordered-failing")) > 0 && err == nil && c == (broker.GroupCounters{})
	})
	mu.Lock()
	defer mu.Unlock()
	first := seen[0]
	slices.Sort(seen)
	if want := []string{"after it", "poison", "poison", "poison"}; first != "poison" || !slices.Equal(seen, want) {
		t.Errorf("consumed %q, first %s; want %q", seen, first, want)
	}
	if d := r.dead("ordered-failing"); len(d) != 1 || d[0].Reason != broker.DeadForwarded || d[0].Attempts != 3 {
		t.Errorf("%+v", d)
	}
}
