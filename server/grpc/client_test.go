//go:build !race

// The official client races with itself (its settings and meters); the door's own tests run with the race detector.

package grpc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	client "github.com/apache/rocketmq-clients/golang/v5"
	"github.com/apache/rocketmq-clients/golang/v5/credentials"
	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"

	"github.com/cairnmq/cairn/broker"
)

// These tests drive the door with the official Go client.

func (r *rig) config(group string) *client.Config {
	return &client.Config{Endpoint: r.addr, ConsumerGroup: group, Credentials: &credentials.SessionCredentials{}}
}

func (r *rig) producer(topics ...string) client.Producer {
	r.Helper()
	p := r.startProducer(client.WithTopics(topics...))
	r.Cleanup(func() {
		if err := p.GracefulStop(); err != nil {
			r.Error(err)
		}
	})
	return p
}

func (r *rig) startProducer(opts ...client.ProducerOption) client.Producer {
	r.Helper()
	p, err := client.NewProducer(r.config(""), opts...)
	if err != nil {
		r.Fatal(err)
	}
	if err := p.Start(); err != nil {
		r.Fatal(err)
	}
	return p
}

func (r *rig) simpleConsumer(group, topic string, filter *client.FilterExpression) client.SimpleConsumer {
	r.Helper()
	sc, err := client.NewSimpleConsumer(r.config(group), client.WithSimpleAwaitDuration(5*time.Second),
		client.WithSimpleSubscriptionExpressions(map[string]*client.FilterExpression{topic: filter}))
	if err != nil {
		r.Fatal(err)
	}
	if err := sc.Start(); err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		if err := sc.GracefulStop(); err != nil {
			r.Error(err)
		}
	})
	return sc
}

func (r *rig) publish(p client.Producer, topic, body string) *client.SendReceipt {
	r.Helper()
	m := &client.Message{Topic: topic, Body: []byte(body)}
	m.SetTag("tag")
	m.SetKeys("key-"+body, "other")
	m.AddProperty("colour", "red")
	receipts, err := p.Send(r.Context(), m)
	if err != nil || len(receipts) != 1 {
		r.Fatalf("send: %v, %v", receipts, err)
	}
	return receipts[0]
}

// TestOfficialClients: once over TLS, which the clients begin with unless told otherwise, and once in plain text.
func TestOfficialClients(t *testing.T) {
	for name, tls := range map[string]bool{"TLS": true, "plain text": false} {
		t.Run(name, func(t *testing.T) {
			before := client.EnableSsl
			client.EnableSsl = tls
			defer func() { client.EnableSsl = before }()
			r := newRig(t)
			const n = 100
			p := r.producer("orders")
			ids := map[string]string{}
			for i := range n {
				body := fmt.Sprint("order ", i)
				ids[r.publish(p, "orders", body).MessageID] = body
			}
			sc := r.simpleConsumer("readers", "orders", client.SUB_ALL)
			for len(ids) > 0 {
				got, err := sc.Receive(t.Context(), 32, 20*time.Second)
				if err != nil {
					t.Fatalf("with %d messages left: %v", len(ids), err)
				}
				for _, m := range got {
					body, ok := ids[m.GetMessageId()]
					if !ok || body != string(m.GetBody()) || *m.GetTag() != "tag" || fmt.Sprint(m.GetKeys()) != fmt.Sprint([]string{"key-" + body, "other"}) ||
						m.GetProperties()["colour"] != "red" || m.GetDeliveryAttempt() != 1 || m.GetTopic() != "orders" {
						t.Fatalf("received %v", m)
					}
					delete(ids, m.GetMessageId())
					if err := sc.Ack(t.Context(), m); err != nil {
						t.Fatal(err)
					}
				}
			}
			if c, err := r.broker.GroupCounters("readers", "orders"); err != nil || c.Ready != 0 || c.InFlight != 0 {
				t.Errorf("counters %+v, %v", c, err)
			}
		})
	}
}

func TestOfficialClientsInvisibleTime(t *testing.T) {
	r := newRig(t)
	p := r.producer("orders")
	sc := r.simpleConsumer("readers", "orders", client.NewFilterExpression("tag"))
	r.publish(p, "orders", "a")
	take := func() *client.MessageView {
		t.Helper()
		got, err := sc.Receive(t.Context(), 1, 10*time.Second)
		if err != nil || len(got) != 1 {
			t.Fatalf("%v, %v", got, err)
		}
		return got[0]
	}
	m := take()
	if err := sc.ChangeInvisibleDuration(m, time.Second); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	again := take()
	if again.GetDeliveryAttempt() != 2 || again.GetMessageId() != m.GetMessageId() {
		t.Errorf("%v", again)
	}
	if took := time.Since(began); took < 500*time.Millisecond || took > 3*time.Second {
		t.Errorf("came back after %v, want a second", took)
	}
	if err := sc.ChangeInvisibleDuration(m, time.Second); rpcCode(err) != pb.Code_INVALID_RECEIPT_HANDLE {
		t.Errorf("the handle of the first delivery: %v", err)
	}
	if err := sc.Ack(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	if c, err := r.broker.GroupCounters("readers", "orders"); err != nil || c.Ready != 0 || c.InFlight != 0 {
		t.Errorf("after the ack: %+v, %v", c, err)
	}
}

func rpcCode(err error) pb.Code {
	if s, ok := client.AsErrRpcStatus(err); ok {
		return pb.Code(s.GetCode())
	}
	if err != nil {
		return pb.Code_INTERNAL_ERROR
	}
	return pb.Code_OK
}

// TestOfficialPushConsumer: every message once, and what fails again after the group's first back-off of a second.
func TestOfficialPushConsumer(t *testing.T) {
	r := newRig(t)
	p := r.producer("orders")
	var mu sync.Mutex
	seen, failedOnce := map[string][]int32{}, false
	listener := &client.FuncMessageListener{Consume: func(m *client.MessageView) client.ConsumerResult {
		mu.Lock()
		defer mu.Unlock()
		body := string(m.GetBody())
		seen[body] = append(seen[body], m.GetDeliveryAttempt())
		if body == "order 7" && !failedOnce {
			failedOnce = true
			return client.FAILURE
		}
		return client.SUCCESS
	}}
	pc, err := client.NewPushConsumer(r.config("pushed"), client.WithPushAwaitDuration(5*time.Second), client.WithPushMessageListener(listener),
		client.WithPushSubscriptionExpressions(map[string]*client.FilterExpression{"orders": client.SUB_ALL}))
	if err != nil {
		t.Fatal(err)
	}
	if err := pc.Start(); err != nil { // its GracefulStop waits for half a minute: it ends with the test
		t.Fatal(err)
	}
	const n = 200
	for i := range n {
		r.publish(p, "orders", fmt.Sprint("order ", i))
	}
	r.eventually("all have been consumed and acknowledged", func() bool {
		mu.Lock()
		defer mu.Unlock()
		if len(seen) < n || len(seen["order 7"]) < 2 {
			return false
		}
		c, err := r.broker.GroupCounters("pushed", "orders")
		return err == nil && c.Ready == 0 && c.InFlight == 0
	})
	mu.Lock()
	defer mu.Unlock()
	for body, attempts := range seen {
		want := "[1]"
		if body == "order 7" {
			want = "[1 2]"
		}
		if fmt.Sprint(attempts) != want {
			t.Errorf("%s was delivered as %v, want %s", body, attempts, want)
		}
	}
	if clients, info, ok := r.broker.Clients().Consumers("pushed"); !ok || len(clients) != 1 || info.ConsumeType != "CONSUME_PASSIVELY" {
		t.Errorf("consumers %v, %v", clients, info)
	}
}

// TestOfficialClientsStart: what cannot be started says why, at once.
func TestOfficialClientsStart(t *testing.T) {
	r := newRig(t, noAutoCreate)
	p, err := client.NewProducer(r.config(""), client.WithTopics("unknown"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err == nil || !strings.Contains(err.Error(), "40402") && !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("a producer of an unknown topic: %v", err)
	}
	r.topic("orders", "NORMAL")
	sc, err := client.NewSimpleConsumer(r.config("unknown"), client.WithSimpleAwaitDuration(5*time.Second),
		client.WithSimpleSubscriptionExpressions(map[string]*client.FilterExpression{"orders": client.SUB_ALL}))
	if err != nil {
		t.Fatal(err)
	}
	if err := sc.Start(); err == nil || !strings.Contains(err.Error(), "40403") {
		t.Errorf("a consumer of an unknown group: %v", err)
	}
}

// TestOfficialProducerRefusals: the producer gets the code, after its own three attempts.
func TestOfficialProducerRefusals(t *testing.T) {
	r := newRig(t)
	r.topic("urgent", "PRIORITY")
	p := r.producer("urgent")
	m := &client.Message{Topic: "urgent", Body: []byte("x")}
	if err := m.SetPriority(3); err != nil {
		t.Fatal(err)
	}
	_, err := p.Send(t.Context(), m)
	if rpcCode(err) != pb.Code_UNSUPPORTED {
		t.Errorf("a message with a priority: %v", err)
	}
	m = &client.Message{Topic: "plain", Body: []byte("x"), Tag: new(string)}
	m.SetTag("a|b")
	if _, err = p.Send(t.Context(), m); rpcCode(err) != pb.Code_ILLEGAL_MESSAGE_TAG {
		t.Errorf("a tag with a bar: %v", err)
	}
	if _, err := p.Recall(context.Background(), "plain", "handle"); rpcCode(err) != pb.Code_BAD_REQUEST {
		t.Errorf("recall: %v", errors.Unwrap(err))
	}
}

// TestOfficialClientsDelay: delayed messages come in time and not before; what is recalled does not come.
func TestOfficialClientsDelay(t *testing.T) {
	r := newRig(t)
	r.topic("later", "DELAY")
	p := r.producer("later")
	began := time.Now()
	due, handles := map[string]time.Time{}, map[string]string{}
	for body, after := range map[string]time.Duration{"first": 1500, "recalled": 1800, "second": 2000, "third": 2500} {
		due[body] = began.Add(after * time.Millisecond)
		m := &client.Message{Topic: "later", Body: []byte(body)}
		m.SetDelayTimestamp(due[body])
		receipts, err := p.Send(t.Context(), m)
		if err != nil || len(receipts) != 1 || receipts[0].RecallHandle == "" {
			t.Fatalf("%s: %v, %v", body, receipts, err)
		}
		handles[body] = receipts[0].RecallHandle
	}
	if id, err := p.Recall(t.Context(), "later", handles["recalled"]); err != nil || id == "" {
		t.Fatalf("recall: %q, %v", id, err)
	}
	sc := r.simpleConsumer("readers", "later", client.SUB_ALL)
	left := map[string]bool{"first": true, "second": true, "third": true}
	for len(left) > 0 {
		got, err := sc.Receive(t.Context(), 1, 20*time.Second)
		now := time.Now()
		if err != nil || len(got) != 1 || !left[string(got[0].GetBody())] {
			t.Fatalf("%v, %v, want %v", got, err, left)
		}
		body := string(got[0].GetBody())
		delete(left, body)
		if late := now.Sub(due[body]); late < 0 || late > 5*time.Second {
			t.Errorf("the %s came %v after its time", body, late)
		}
		if at := got[0].GetDeliveryTimestamp(); at == nil || at.Sub(due[body]).Abs() > time.Millisecond {
			t.Errorf("the %s says that it was due at %v, not %v", body, at, due[body])
		}
		if err := sc.Ack(t.Context(), got[0]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Recall(t.Context(), "later", handles["first"]); rpcCode(err) != pb.Code_NOT_FOUND {
		t.Errorf("recall of what was delivered: %v", err)
	}
}

// sendHalf sends a message in a transaction that is not ended.
func (r *rig) sendHalf(p client.Producer, topic, body string) client.Transaction {
	r.Helper()
	tx := p.BeginTransaction()
	m := &client.Message{Topic: topic, Body: []byte(body)}
	receipts, err := p.SendWithTransaction(r.Context(), m, tx)
	if err != nil || len(receipts) != 1 || receipts[0].TransactionId == "" {
		r.Fatalf("%s: %v, %v", body, receipts, err)
	}
	return tx
}

// TestOfficialTransactions: commit, rollback, and a checker that decides; also one of another producer, after that which has
// sent the message is gone.
func TestOfficialTransactions(t *testing.T) {
	r := newRig(t, func(o *broker.Options) {
		o.TransactionTimeout, o.CheckInterval = 300*time.Millisecond, 300*time.Millisecond
	})
	r.topic("pay", "TRANSACTION")
	var mu sync.Mutex
	asked := map[string]int{}
	checker := client.WithTransactionChecker(&client.TransactionChecker{Check: func(m *client.MessageView) client.TransactionResolution {
		mu.Lock()
		defer mu.Unlock()
		body := string(m.GetBody())
		asked[body]++
		switch {
		case body == "asked twice" && asked[body] == 1:
			return client.UNKNOWN
		case body == "regretted" || body == "rolled back": // on a slow machine it is asked for before it is rolled back
			return client.ROLLBACK
		}
		return client.COMMIT
	}})
	first := r.startProducer(client.WithTopics("pay"), checker)
	if err := r.sendHalf(first, "pay", "committed").Commit(); err != nil {
		t.Fatal(err)
	}
	tx := r.sendHalf(first, "pay", "rolled back")
	if err := tx.RollBack(); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(); rpcCode(err) != pb.Code_INVALID_TRANSACTION_ID {
		t.Errorf("commit after the rollback: %v", err)
	}
	r.sendHalf(first, "pay", "asked twice")
	r.sendHalf(first, "pay", "regretted")
	sc := r.simpleConsumer("readers", "pay", client.SUB_ALL)
	receive := func(want ...string) {
		t.Helper()
		left := map[string]bool{}
		for _, body := range want {
			left[body] = true
		}
		for len(left) > 0 {
			got, err := sc.Receive(t.Context(), 16, time.Minute)
			if err != nil {
				t.Fatalf("waiting for %v: %v", left, err)
			}
			for _, m := range got {
				if !left[string(m.GetBody())] {
					t.Fatalf("received %q, want %v", m.GetBody(), left)
				}
				delete(left, string(m.GetBody()))
			}
		}
	}
	receive("committed", "asked twice")
	r.eventually("the regretted one is rolled back", func() bool {
		open, _, err := r.broker.HalfMessages(broker.HalfQuery{})
		return err == nil && len(open) == 0
	})
	silent := r.startProducer(client.WithTopics("pay")) // has no checker, and so no answer
	r.sendHalf(silent, "pay", "left behind")
	if err := silent.GracefulStop(); err != nil {
		t.Fatal(err)
	}
	receive("left behind")
	if err := first.GracefulStop(); err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if asked["asked twice"] < 2 || asked["regretted"] < 1 || asked["left behind"] < 1 {
		t.Errorf("asked for %v", asked)
	}
}
