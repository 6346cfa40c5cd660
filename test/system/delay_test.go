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
)

// createTyped makes a topic for messages of a kind: the official clients look whether a topic takes what they are to send. It
// has one queue, so that messages are received in the order in which they came there.
func createTyped(t *testing.T, c *cairn, topic, kind string) {
	t.Helper()
	run(t, "topic", "create", topic, "--queues", "1", "--attribute", "+message.type="+kind, "-n", c.fixed.NameServer)
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

// refusedWith checks that an error is the protocol's answer with this code.
func refusedWith(t *testing.T, what string, err error, want v2.Code) {
	t.Helper()
	var status *client.ErrRpcStatus
	if !errors.As(err, &status) || status.Code != int32(want) {
		t.Errorf("%s: %v, want code %s", what, err, want)
	}
}

// The messages are sent in the reverse of the order in which they are due. That they come in it is promised when all were sent
// before the first was due.
func TestDelayedMessagesComeInDueOrder(t *testing.T) {
	client.EnableSsl = false
	c := startCairn(t, "--segment-size", "64MiB", "--max-delay", "1h")
	createTyped(t, c, "delayed", "DELAY")
	p := startProducer(t, c, "delayed")
	s := startSimple(t, c, "delayed-group", "delayed", "*")
	due := map[string]time.Time{}
	var want, got []string
	for i := 5; i >= 1; i-- {
		body := fmt.Sprint("delayed ", i)
		due[body], _ = sendDelayed(t, p, "delayed", body, 500*time.Millisecond+time.Duration(i)*300*time.Millisecond)
		want = append(want, body)
	}
	slices.Reverse(want)
	if _, r := sendDelayed(t, p, "delayed", "past", -time.Minute); r.RecallHandle != "" {
		t.Errorf("a message whose time has passed has the recall handle %q", r.RecallHandle)
	}
	want = slices.Insert(want, 0, "past")
	inTime := time.Now().Before(due[want[1]])
	var latest time.Duration
	eventually(t, 20*time.Second, "all delivered", func() bool {
		for _, m := range receive(t, s, 20*time.Second) {
			body := string(m.GetBody())
			if at, ok := due[body]; ok {
				late := time.Since(at)
				if latest = max(latest, late); late < 0 {
					t.Errorf("%s came %s early", body, -late)
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
	if !slices.Equal(got, want) {
		t.Errorf("came as %q, due as %q", got, want)
	}
	t.Logf("at most %s late", latest)

	late := &client.Message{Topic: "delayed", Body: []byte("next year")}
	late.SetDelayTimestamp(time.Now().Add(2 * time.Hour))
	_, err := p.Send(context.Background(), late)
	refusedWith(t, "a delay over the longest", err, v2.Code_ILLEGAL_DELIVERY_TIME)
}

// A timer that was pending while the broker was down fires at the start when it is overdue, else in time.
func TestTimersOutliveTheBroker(t *testing.T) {
	client.EnableSsl = false
	c := startCairn(t, "--segment-size", "64MiB")
	createTyped(t, c, "outlived", "DELAY")
	p := startProducer(t, c, "outlived")
	overdue, _ := sendDelayed(t, p, "outlived", "overdue", 300*time.Millisecond)
	pending, _ := sendDelayed(t, p, "outlived", "pending", 4*time.Second)
	_, recalled := sendDelayed(t, p, "outlived", "recalled", 3*time.Second)
	if _, err := p.Recall(context.Background(), "outlived", recalled.RecallHandle); err != nil {
		t.Fatal(err)
	}
	c.kill()
	eventually(t, 5*time.Second, "one is overdue", func() bool { return time.Now().After(overdue) })
	c.start()
	s := startSimple(t, c, "outlived-group", "outlived", "*")
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
	client.EnableSsl = false
	c := startCairn(t, "--segment-size", "64MiB")
	createTyped(t, c, "recall", "DELAY")
	p := startProducer(t, c, "recall")
	s := startSimple(t, c, "recall-group", "recall", "*")
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
	client.EnableSsl = false
	const n = 200
	c := startCairn(t, "--segment-size", "64MiB")
	createTyped(t, c, "race", "DELAY")
	p := startProducer(t, c, "race")
	s := startSimple(t, c, "race-group", "race", "*")
	var due time.Time
	handles := make([]string, n)
	for i := range handles {
		at := time.Now()
		if i == 0 {
			due = at.Add(2 * time.Second)
		}
		_, r := sendDelayed(t, p, "race", fmt.Sprint(i), due.Sub(at)+time.Duration(i*37%n)*time.Millisecond)
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
	for i := range n {
		if body := fmt.Sprint(i); delivered[body] == recalled[body] {
			t.Errorf("message %d: delivered %v, recalled %v", i, delivered[body], recalled[body])
		}
	}
	t.Logf("%d delivered, %d recalled; the last one is %s", len(delivered)-1, n+1-len(delivered), last.MessageID)
}
