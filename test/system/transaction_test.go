package system

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	client "github.com/apache/rocketmq-clients/golang/v5"
	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"

	"github.com/cairnmq/cairn/test/place"
)

// shortChecks has the broker ask for the end of a transaction after a second. The reference notes an end up to 3 s late, and would ask for
// what has ended.
var shortChecks = plain.with("transactionTimeOut=5000\ntransactionCheckInterval=8000", "--transaction-timeout", "1s", "--transaction-check-interval", "1s")

// checker answers the first question of the broker for a message with the first word of its body, and so on; the last word
// is the answer to all that follow.
type checker struct {
	mu    sync.Mutex
	asked map[string]int
}

func (k *checker) check(m *client.MessageView) client.TransactionResolution {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.asked == nil {
		k.asked = map[string]int{}
	}
	body := string(m.GetBody())
	k.asked[body]++
	words := strings.Fields(body)
	switch word := words[min(k.asked[body]-1, len(words)-1)]; word {
	case "commit":
		return client.COMMIT
	case "rollback":
		return client.ROLLBACK
	}
	return client.UNKNOWN
}

func (k *checker) times(body string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.asked[body]
}

func startTransactional(t *testing.T, at place.Place, topic string, k *checker) client.Producer {
	t.Helper()
	p, err := client.NewProducer(config(at, ""), client.WithTopics(topic), client.WithTransactionChecker(&client.TransactionChecker{Check: k.check}))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.GracefulStop() })
	return p
}

// sendHalf sends a message whose transaction is open.
func sendHalf(t *testing.T, p client.Producer, topic, body string) (client.Transaction, string) {
	t.Helper()
	tx := p.BeginTransaction()
	r, err := p.SendWithTransaction(context.Background(), &client.Message{Topic: topic, Body: []byte(body)}, tx)
	if err != nil {
		t.Fatalf("send %q: %v", body, err)
	}
	return tx, r[0].MessageID
}

// receiveUntil acknowledges what comes until a body came, and returns how often each came.
func receiveUntil(t *testing.T, s client.SimpleConsumer, last string) map[string]int {
	t.Helper()
	got := map[string]int{}
	eventually(t, 90*time.Second, last+" delivered", func() bool {
		for _, m := range receive(t, s, 20*time.Second) {
			got[string(m.GetBody())]++
			if err := s.Ack(context.Background(), m); err != nil {
				t.Fatal(err)
			}
		}
		return got[last] > 0
	})
	return got
}

func TestTransactions(t *testing.T) {
	client.EnableSsl = false
	at := start(t, shortChecks)
	createTopic(t, at, "tx", "TRANSACTION", 1)
	createGroup(t, at, "tx-group")
	var k checker
	p := startTransactional(t, at, "tx", &k)
	s := startSimple(t, at, "tx-group", "tx", "*")

	open, _ := sendHalf(t, p, "tx", "open commit")
	back, _ := sendHalf(t, p, "tx", "rollback")
	if err := back.RollBack(); err != nil {
		t.Fatal(err)
	}
	done, id := sendHalf(t, p, "tx", "commit")
	if err := done.Commit(); err != nil {
		t.Fatal(err)
	}
	again := done.Commit()
	first := receiveUntil(t, s, "commit")
	if len(first) != 1 || first["commit"] != 1 {
		t.Errorf("delivered: %v; committed was %s alone", first, id)
	}

	sendHalf(t, p, "tx", "unknown rollback")
	sendHalf(t, p, "tx", "unknown unknown commit")
	rest := receiveUntil(t, s, "unknown unknown commit")
	if len(rest) != 2 || rest["open commit"] != 1 || rest["unknown unknown commit"] != 1 {
		t.Errorf("delivered after questions: %v", rest)
	}
	for body, want := range map[string]int{"unknown rollback": 2, "unknown unknown commit": 3, "open commit": 2} {
		if n := k.times(body); n < want {
			t.Errorf("%q was asked for %d times, want at least %d", body, n, want)
		}
	}
	// The open one is committed by the answer to a question.
	check(t, "to commit again is no error", errors.Join(again, open.Commit()))
	check(t, "an end that is not the first one is refused", errors.Join(
		unlessRefused("rolling back what was committed", done.RollBack(), v2.Code_INVALID_TRANSACTION_ID),
		unlessRefused("committing what was rolled back", back.Commit(), v2.Code_INVALID_TRANSACTION_ID),
	))
}

// slowChecks ask for the first time when a producer of the test is dead.
var slowChecks = shortChecks.with("", "--transaction-timeout", "3s")

func TestTransactionsOfADeadProducer(t *testing.T) {
	tryDeadProducer(t, start(t, slowChecks), func() {})
}

func TestTransactionsOfADeadProducerAtAKilledBroker(t *testing.T) {
	cairnOnly(t, "it kills the broker")
	c := startCairn(t, slowChecks.cairn...)
	tryDeadProducer(t, c.place(), func() {
		c.kill()
		c.start()
	})
}

// tryDeadProducer has a producer end before its transactions do. Another producer for the topic, which comes after what is done between,
// is asked.
func tryDeadProducer(t *testing.T, at place.Place, between func()) {
	t.Helper()
	client.EnableSsl = false
	createTopic(t, at, "orphans", "TRANSACTION", 1)
	createGroup(t, at, "orphans-group")
	var dead, alive checker
	p := startTransactional(t, at, "orphans", &dead)
	sendHalf(t, p, "orphans", "commit")
	sendHalf(t, p, "orphans", "rollback")
	if err := p.GracefulStop(); err != nil {
		t.Fatal(err)
	}
	between()
	other := startTransactional(t, at, "orphans", &alive)
	s := startSimple(t, at, "orphans-group", "orphans", "*")
	got := receiveUntil(t, s, "commit")
	eventually(t, 10*time.Second, "both asked for", func() bool { return alive.times("rollback") == 1 })
	tx, _ := sendHalf(t, other, "orphans", "its own")
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	rest := receiveUntil(t, s, "its own")
	if got["commit"] != 1 || len(got) != 1 || len(rest) != 1 || dead.times("commit") != 0 {
		t.Errorf("delivered: %v, then %v", got, rest)
	}
}
