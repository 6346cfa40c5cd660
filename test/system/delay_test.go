package system

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	client "github.com/apache/rocketmq-clients/golang/v5"
	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"

	"github.com/cairnmq/cairn/test/place"
)

// startDelays makes a topic for delayed messages with a producer and a consumer. It has one queue, so that messages are received in the
// order in which they came there.
func startDelays(t *testing.T, at place.Place, topic string) (client.Producer, client.SimpleConsumer) {
	t.Helper()
	client.EnableSsl = false
	createTopic(t, at, topic, "DELAY", 1)
	createGroup(t, at, topic+"-group")
	return startProducer(t, at, topic), startSimple(t, at, topic+"-group", topic, "*")
}

// sendDelayed sends a message that is due after d and answers its due time, in ms as the protocol has it.
func sendDelayed(t *testing.T, p client.Producer, topic, body string, d time.Duration) (due time.Time, r *client.SendReceipt) {
	t.Helper()
	due = time.Now().Add(d).Truncate(time.Millisecond)
	m := &client.Message{Topic: topic, Body: []byte(body)}
	m.SetDelayTimestamp(due)
	rs, err := p.Send(context.Background(), m)
	if err != nil {
		t.Fatalf("send %s: %v", body, err)
	}
	return due, rs[0]
}

// unlessRefused is an error unless err is the protocol's answer with this code.
func unlessRefused(what string, err error, want v2.Code) error {
	var status *client.ErrRpcStatus
	if !errors.As(err, &status) || status.Code != int32(want) {
		return fmt.Errorf("%s: %v, want code %s", what, err, want)
	}
	return nil
}

// The messages are sent in the reverse of the order in which they are due. That they come in it is promised when all were sent
// before the first was due.
func TestDelayedMessagesComeInDueOrder(t *testing.T) {
	at := start(t, plain.with("", "--max-delay", "24h"))
	p, s := startDelays(t, at, "delayed")
	due := map[string]time.Time{}
	var want, got []string
	for i := 12; i >= 1; i-- {
		body := fmt.Sprint("delayed ", i)
		due[body], _ = sendDelayed(t, p, "delayed", body, time.Second+time.Duration(i)*120*time.Millisecond)
		want = append(want, body)
	}
	slices.Reverse(want)
	if _, r := sendDelayed(t, p, "delayed", "past", -time.Minute); r.RecallHandle != "" {
		t.Errorf("a message whose time has passed has the recall handle %q", r.RecallHandle)
	}
	want = slices.Insert(want, 0, "past")
	inTime := time.Now().Before(due[want[1]])
	var latest time.Duration
	var early []error
	eventually(t, 20*time.Second, "all delivered", func() bool {
		for _, m := range receive(t, s, 20*time.Second) {
			body := string(m.GetBody())
			if at, ok := due[body]; ok {
				late := time.Since(at)
				if latest = max(latest, late); late < 0 {
					early = append(early, fmt.Errorf("%s came %s early", body, -late))
				}
				if told := m.GetDeliveryTimestamp(); told == nil || !told.Equal(at) {
					t.Errorf("%s says that it was due at %v, not at %v", body, told, at)
				}
			}
			if m.GetDeliveryAttempt() != 1 {
				t.Errorf("%s: attempt %d", body, m.GetDeliveryAttempt())
			}
			if err := s.Ack(context.Background(), m); err != nil {
				t.Fatal(err)
			}
			got = append(got, body)
		}
		return len(got) >= len(want)
	})
	if !inTime { // the machine was busy
		slices.Sort(got)
		slices.Sort(want)
	}
	var order error
	if !slices.Equal(got, want) {
		order = fmt.Errorf("came as %q, due as %q", got, want)
	}
	check(t, "not before they are due", errors.Join(early...))
	check(t, "in the order in which they are due", order)
	t.Logf("at most %s late", latest)

	late := &client.Message{Topic: "delayed", Body: []byte("the day after tomorrow")}
	late.SetDelayTimestamp(time.Now().Add(25 * time.Hour))
	_, err := p.Send(context.Background(), late)
	check(t, "a delay over the longest is refused", unlessRefused("send", err, v2.Code_ILLEGAL_DELIVERY_TIME))
}

// A timer that was pending while the broker was down fires at the start when it is overdue, else in time.
func TestTimersOutliveTheBroker(t *testing.T) {
	cairnOnly(t, "it kills the broker")
	c := startCairn(t, "--segment-size", "64MiB")
	client.EnableSsl = false
	createTopic(t, c.place(), "outlived", "DELAY", 1)
	p := startProducer(t, c.place(), "outlived")
	overdue, _ := sendDelayed(t, p, "outlived", "overdue", 300*time.Millisecond)
	pending, _ := sendDelayed(t, p, "outlived", "pending", 4*time.Second)
	_, recalled := sendDelayed(t, p, "outlived", "recalled", 3*time.Second)
	if _, err := p.Recall(context.Background(), "outlived", recalled.RecallHandle); err != nil {
		t.Fatal(err)
	}
	c.kill()
	eventually(t, 5*time.Second, "one is overdue", func() bool { return time.Now().After(overdue) })
	c.start()
	s := startSimple(t, c.place(), "outlived-group", "outlived", "*")
	var got []string
	eventually(t, 20*time.Second, "both delivered", func() bool {
		for _, m := range receive(t, s, 20*time.Second) {
			got = append(got, string(m.GetBody()))
			if string(m.GetBody()) == "pending" && time.Now().Before(pending) {
				t.Errorf("came %s early", time.Until(pending))
			}
			if err := s.Ack(context.Background(), m); err != nil {
				t.Fatal(err)
			}
		}
		return len(got) >= 2
	})
	if !slices.Equal(got, []string{"overdue", "pending"}) {
		t.Errorf("delivered: %q", got)
	}
}

func TestRecall(t *testing.T) {
	at := start(t, plain)
	p, s := startDelays(t, at, "recall")
	_, gone := sendDelayed(t, p, "recall", "recalled", 2*time.Second)
	_, stays := sendDelayed(t, p, "recall", "delivered", 2100*time.Millisecond)
	for range 2 { // the second time it is gone already, which is what was wanted
		id, err := p.Recall(context.Background(), "recall", gone.RecallHandle)
		if err != nil || id != gone.MessageID {
			t.Fatalf("recall: %q %v, the message is %s", id, err, gone.MessageID)
		}
	}
	eventually(t, 20*time.Second, "the other one delivered", func() bool {
		ms := receive(t, s, 20*time.Second)
		for _, m := range ms {
			if m.GetMessageId() != stays.MessageID {
				t.Fatalf("%s was delivered", m.GetBody())
			}
			if err := s.Ack(context.Background(), m); err != nil {
				t.Fatal(err)
			}
		}
		return len(ms) > 0
	})
	if _, err := p.Recall(context.Background(), "recall", stays.RecallHandle); err == nil {
		t.Error("a delivered message was recalled")
	}
	if _, err := p.Recall(context.Background(), "recall", "bm90IGEgaGFuZGxl"); err == nil {
		t.Error("something was recalled by what is no handle")
	}
}

// Many are recalled about the moment at which they are due, which is another for each: each is either recalled and never delivered, or delivered, and then
// its recall is refused.
func TestRecallRacesWithFiring(t *testing.T) {
	const n = 200
	at := start(t, plain)
	p, s := startDelays(t, at, "race")
	var due time.Time
	handles := make([]string, n)
	for i := range handles {
		now := time.Now()
		if i == 0 {
			due = now.Add(3 * time.Second)
		}
		_, r := sendDelayed(t, p, "race", fmt.Sprint(i), due.Sub(now)+time.Duration(i*37%n)*time.Millisecond)
		handles[i] = r.RecallHandle
	}
	_, last := sendDelayed(t, p, "race", "last", time.Until(due)+700*time.Millisecond)
	var mu sync.Mutex
	recalled := map[string]bool{}
	eventually(t, 10*time.Second, "some fired", func() bool { return time.Since(due) > n/4*time.Millisecond })
	var recalls sync.WaitGroup
	for from := range 4 {
		recalls.Go(func() {
			for i := from; i < n; i += 4 {
				if handles[i] == "" {
					continue // the machine was busy: it was due when it was sent
				}
				_, err := p.Recall(context.Background(), "race", handles[i])
				var status *client.ErrRpcStatus
				if err != nil && !errors.As(err, &status) {
					t.Errorf("recall %d: %v", i, err)
				}
				mu.Lock()
				recalled[fmt.Sprint(i)] = err == nil
				mu.Unlock()
			}
		})
	}
	recalls.Wait()
	delivered := map[string]bool{}
	eventually(t, 30*time.Second, "the last one delivered", func() bool {
		for _, m := range receive(t, s, 20*time.Second) {
			delivered[string(m.GetBody())] = true
			if err := s.Ack(context.Background(), m); err != nil {
				t.Fatal(err)
			}
		}
		return delivered["last"]
	})
	var wrong []error
	for i := range n {
		if body := fmt.Sprint(i); delivered[body] == recalled[body] {
			wrong = append(wrong, fmt.Errorf("message %d: delivered %v, recalled %v", i, delivered[body], recalled[body]))
		}
	}
	check(t, "recalled or delivered", errors.Join(wrong...))
	t.Logf("%d delivered, %d recalled; the last one is %s", len(delivered)-1, n+1-len(delivered), last.MessageID)
}
