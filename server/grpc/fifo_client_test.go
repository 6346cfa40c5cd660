//go:build !race

// The official client races with itself; see client_test.go.

package grpc

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	client "github.com/apache/rocketmq-clients/golang/v5"
)

// TestOfficialFIFOConsumers: what the Go client's producer sends in message groups its consumers get in order, each message once.
func TestOfficialFIFOConsumers(t *testing.T) {
	r := newRig(t)
	r.topic("fifo", "FIFO")
	p := r.producer("fifo")
	var mu sync.Mutex
	seen := map[string][]string{} // by message group
	listener := &client.FuncMessageListener{Consume: func(m *client.MessageView) client.ConsumerResult {
		mu.Lock()
		defer mu.Unlock()
		group := *m.GetMessageGroup()
		seen[group] = append(seen[group], string(m.GetBody()))
		return client.SUCCESS
	}}
	for range 2 {
		pc, err := client.NewPushConsumer(r.config("pushed"), client.WithPushAwaitDuration(5*time.Second),
			client.WithPushMessageListener(listener),
			client.WithPushSubscriptionExpressions(map[string]*client.FilterExpression{"fifo": client.SUB_ALL}))
		if err != nil {
			t.Fatal(err)
		}
		if err := pc.Start(); err != nil { // its GracefulStop waits for half a minute: it ends with the test
			t.Fatal(err)
		}
	}
	const groups, n = 7, 40
	want := map[string][]string{}
	for i := range n {
		for g := range groups {
			m := &client.Message{Topic: "fifo", Body: []byte(fmt.Sprint("message ", i))}
			group := fmt.Sprint("customer ", g)
			m.SetMessageGroup(group)
			if _, err := p.Send(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			want[group] = append(want[group], string(m.Body))
		}
	}
	r.eventually("all have been consumed and acknowledged", func() bool {
		mu.Lock()
		defer mu.Unlock()
		total := 0
		for _, s := range seen {
			total += len(s)
		}
		c, err := r.broker.GroupCounters("pushed", "fifo")
		return total >= groups*n && err == nil && c.Ready == 0 && c.InFlight == 0
	})
	mu.Lock()
	defer mu.Unlock()
	for group, order := range want {
		if !slices.Equal(seen[group], order) {
			t.Errorf("%s got %v", group, seen[group])
		}
	}
	simple := r.simpleConsumer("simple", "fifo", client.SUB_ALL)
	next := map[string]int{}
	for got := 0; got < groups*n; {
		views, err := simple.Receive(t.Context(), 16, 20*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range views {
			group := *m.GetMessageGroup()
			if body := fmt.Sprint("message ", next[group]); string(m.GetBody()) != body {
				t.Fatalf("%s got %s, want %s", group, m.GetBody(), body)
			}
			next[group]++
			got++
			if err := simple.Ack(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
	}
}
