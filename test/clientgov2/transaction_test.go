package clientgov2

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

// listener decides by the body of a message: its first word is the state after the send, the others answer the broker's
// questions in turn, the last one all that follow.
type listener struct {
	mu    sync.Mutex
	asked map[string]int
}

func (l *listener) ExecuteLocalTransaction(m *primitive.Message) primitive.LocalTransactionState {
	return state(string(m.Body), 0)
}

func (l *listener) CheckLocalTransaction(m *primitive.MessageExt) primitive.LocalTransactionState {
	l.mu.Lock()
	defer l.mu.Unlock()
	body := string(m.Body)
	l.asked[body]++
	return state(body, l.asked[body])
}

func (l *listener) times(body string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked[body]
}

func state(body string, question int) primitive.LocalTransactionState {
	words := strings.Fields(body)
	switch words[min(question, len(words)-1)] {
	case "commit":
		return primitive.CommitMessageState
	case "rollback":
		return primitive.RollbackMessageState
	}
	return primitive.UnknowState
}

func startTransactional(t *testing.T, c cairn, group, instance string) (rocketmq.TransactionProducer, *listener) {
	t.Helper()
	l := &listener{asked: map[string]int{}}
	p, err := rocketmq.NewTransactionProducer(l, producer.WithNsResolver(resolver(c)), producer.WithGroupName(group), producer.WithInstanceName(instance))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Shutdown() })
	return p, l
}

func sendInTransaction(t *testing.T, p rocketmq.TransactionProducer, m *primitive.Message) {
	t.Helper()
	r, err := p.SendMessageInTransaction(context.Background(), m)
	if err != nil || r.Status != primitive.SendOK {
		t.Fatalf("%s: %v %v", m.Body, r, err)
	}
}

// shortChecks has the broker ask after a second. The reference notes an end up to 3 s late, and would ask for what has ended.
var shortChecks = shortDelays.with("transactionTimeOut=5000\ntransactionCheckInterval=8000", "--transaction-timeout", "1s", "--transaction-check-interval", "1s")

func TestTransactions(t *testing.T) {
	c := start(t, shortChecks)
	createTopic(t, c, "tx", 4)
	var got arrivals
	startConsumer(t, c, "tx-group", "one", "tx", consumer.MessageSelector{}, consumer.Clustering, func(ms ...*primitive.MessageExt) consumer.ConsumeResult {
		got.put(ms...)
		return consumer.ConsumeSuccess
	})
	p, l := startTransactional(t, c, "tx-producer", "tx-producer")
	began := time.Now()
	for _, body := range []string{"commit", "rollback", "unknown commit", "unknown rollback", "unknown unknown commit"} {
		sendInTransaction(t, p, primitive.NewMessage("tx", []byte(body)))
	}
	delayed := primitive.NewMessage("tx", []byte("unknown unknown unknown commit")).WithDelayTimeLevel(2)
	sendInTransaction(t, p, delayed)
	eventually(t, 150*time.Second, "all consumed", func() bool { return len(got.list()) >= 4 })
	want := map[string]int{"commit": 0, "unknown commit": 1, "unknown unknown commit": 2, "unknown unknown unknown commit": 3}
	for body, questions := range want {
		if _, ok := got.at[body]; !ok || l.times(body) < questions {
			t.Errorf("%q was asked for %d times, want at least %d; consumed: %v", body, l.times(body), questions, ok)
		}
	}
	if n := len(got.list()); n != len(want) {
		t.Errorf("%d messages came: %q", n, got.list())
	}
	// The delay begins with the commit: the third question is put 3 s after the send at the earliest, and the level has 2 s.
	if after := got.at["unknown unknown unknown commit"].Sub(began); after < 5*time.Second {
		t.Errorf("the delayed one came %s after it was sent", after)
	}
	props := got.props["commit"]
	if v := props["PGROUP"]; v != "tx-producer" {
		t.Errorf("after the commit PGROUP is %q", v)
	}
	var half error
	if v := props["TRAN_MSG"]; v != "" {
		half = fmt.Errorf("after the commit TRAN_MSG is %q", v)
	}
	check(t, "no half message any more", half)
}

// A producer ends before its transaction does: another one of its group is asked.
func TestTransactionsOfADeadProducer(t *testing.T) {
	c := start(t, shortChecks.with("", "--transaction-timeout", "3s")) // it is dead before it could be asked
	createTopic(t, c, "orphans", 4)
	var got arrivals
	startConsumer(t, c, "orphans-group", "one", "orphans", consumer.MessageSelector{}, consumer.Clustering, func(ms ...*primitive.MessageExt) consumer.ConsumeResult {
		got.put(ms...)
		return consumer.ConsumeSuccess
	})
	dead, first := startTransactional(t, c, "orphans-producer", "dead")
	sendInTransaction(t, dead, primitive.NewMessage("orphans", []byte("unknown commit")))
	sendInTransaction(t, dead, primitive.NewMessage("orphans", []byte("unknown rollback")))
	if err := dead.Shutdown(); err != nil {
		t.Fatal(err)
	}
	alive, second := startTransactional(t, c, "orphans-producer", "alive")
	sendInTransaction(t, alive, primitive.NewMessage("orphans", []byte("rollback"))) // the broker does not hear of a producer that never sent
	eventually(t, 40*time.Second, "consumed", func() bool { return len(got.list()) > 0 && second.times("unknown rollback") > 0 })
	if got.list()[0] != "unknown commit" || len(got.list()) != 1 || first.times("unknown commit") != 0 || second.times("unknown commit") < 1 {
		t.Errorf("consumed %q; the dead one was asked %d times, the other one %d times", got.list(), first.times("unknown commit"), second.times("unknown commit"))
	}
}
