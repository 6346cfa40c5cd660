package system

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	client "github.com/apache/rocketmq-clients/golang/v5"
)

// The official client receives by an SQL92 expression, from a queue of which little matches and then while it waits.
func TestOfficialClientWithSQL(t *testing.T) {
	client.EnableSsl = false
	at := start(t, plain)
	createTopic(t, at, "sql", "NORMAL", 8)
	createGroup(t, at, "sql-group")
	p := startProducer(t, at, "sql")
	send := func(from, to int) error {
		for i := from; i < to; i++ {
			m := &client.Message{Topic: "sql", Body: []byte(fmt.Sprint(i))}
			m.AddProperty("n", fmt.Sprint(i))
			m.AddProperty("kind", []string{"even", "odd"}[i%2])
			if _, err := p.Send(context.Background(), m); err != nil {
				return err
			}
		}
		return nil
	}
	if err := send(0, 300); err != nil {
		t.Fatal(err)
	}
	expression := client.NewFilterExpressionWithType("kind = 'odd' AND (n < 4 OR n BETWEEN 297 AND 303) -- few", client.SQL92)
	s, err := client.NewSimpleConsumer(config(at, "sql-group"), client.WithSimpleAwaitDuration(5*time.Second),
		client.WithSimpleSubscriptionExpressions(map[string]*client.FilterExpression{"sql": expression}))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.GracefulStop() })
	var got []string
	receiveUntil := func(n int) {
		t.Helper()
		eventually(t, 30*time.Second, "all received", func() bool {
			for _, m := range receive(t, s, 20*time.Second) {
				got = append(got, string(m.GetBody()))
				if err := s.Ack(context.Background(), m); err != nil {
					t.Fatal(err)
				}
			}
			return len(got) >= n
		})
	}
	receiveUntil(4)
	sent := make(chan error, 1)
	go func() { sent <- send(300, 320) }()
	receiveUntil(6)
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	if want := []string{"1", "297", "299", "3", "301", "303"}; !slices.Equal(got, want) {
		t.Errorf("received %v, want %v", got, want)
	}
}
