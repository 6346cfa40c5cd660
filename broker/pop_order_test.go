package broker

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/message"
)

// lineCheck holds what consumers at work get of a topic against the order of its message groups.
type lineCheck struct {
	mu struct {
		sync.Mutex
		next map[string]int // by message group: how many were acknowledged
		left int
	}
	done chan struct{}
}

// got checks an answer: each message is the next one of its group that is not acknowledged, or follows it in the same answer.
func (c *lineCheck) got(messages []message.Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	ahead := map[string]int{}
	for _, m := range messages {
		var group string
		var i int
		if _, err := fmt.Sscanf(string(m.Body), "%s %d", &group, &i); err != nil {
			return err
		}
		if want := c.mu.next[group] + ahead[group]; i != want {
			return fmt.Errorf("%s came, %d of the group are done and %d before it in the answer", m.Body, c.mu.next[group], ahead[group])
		}
		ahead[group]++
	}
	return nil
}

// acknowledging notes that messages are about to be acknowledged.
func (c *lineCheck) acknowledging(messages []message.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range messages {
		var group string
		var i int
		if _, err := fmt.Sscanf(string(m.Body), "%s %d", &group, &i); err == nil {
			c.mu.next[group] = i + 1
		}
	}
	if c.mu.left -= len(messages); c.mu.left == 0 && len(messages) > 0 {
		close(c.done)
	}
}

// TestOrderedConsumersAtWork: many consumers at once, which wait for each other's acknowledgements and now and then give something
// back. That it ends at all shows that none of them is left asleep.
func TestOrderedConsumersAtWork(t *testing.T) {
	const workers, groups, n = 8, 20, 60
	tb := openBroker(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	tb.topicOf(t, "t", 4)
	g := catalog.DefaultGroup("g")
	g.ConsumeMessageOrderly = true
	if err := tb.PutGroup(ctx, g, ""); err != nil {
		t.Fatal(err)
	}
	check := &lineCheck{done: make(chan struct{})}
	check.mu.next, check.mu.left = map[string]int{}, groups*n
	failed := make(chan error, workers)
	work, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			for turn := 0; work.Err() == nil; turn++ {
				if err := tb.consumeInOrder(work, check, 1+(w+turn)%7, turn%5 == 0); err != nil && work.Err() == nil {
					failed <- err
					return
				}
			}
		})
	}
	for i := range n {
		for group := range groups {
			name := fmt.Sprint("group", group)
			m := plain(fmt.Sprint(name, " ", i), message.PropShardingKey, name)
			if group%4 == 3 { // the last queue has none
				m = plain(fmt.Sprint("queue3 ", i*groups/4+group/4))
			}
			if _, err := tb.Send(ctx, &SendRequest{Topic: "t", QueueID: int32(group % 4), Messages: []message.Message{m}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	select {
	case err := <-failed:
		t.Error(err)
	case <-check.done:
	case <-ctx.Done():
		t.Error("not all was consumed")
	}
	stop()
	all.Wait()
	if c, err := tb.GroupCounters("g", "t"); !t.Failed() && (err != nil || c != (GroupCounters{})) {
		t.Errorf("counters %+v, %v", c, err)
	}
}

// consumeInOrder is one turn of a consumer.
func (tb *testBroker) consumeInOrder(ctx context.Context, check *lineCheck, most int, givesBack bool) error {
	res, err := tb.Pop(ctx, &PopRequest{Group: "g", Topic: "t", Queue: -1, Max: most, Invisible: time.Hour, Wait: time.Minute})
	if err != nil || res.Buffer == nil {
		return err
	}
	defer res.Buffer.Release()
	var messages []message.Message
	begin := 0
	for _, end := range res.Ends {
		m, _, err := message.Decode(res.Buffer.B[begin:end])
		if err != nil {
			return err
		}
		messages = append(messages, m)
		begin = end
	}
	if err := check.got(messages); err != nil {
		return err
	}
	last := len(messages)
	if givesBack { // the last one, which holds up nothing else of this answer
		last--
		if _, err := tb.GiveBack(ctx, "g", "t", res.Receipts()[last], 0); err != nil {
			return err
		}
	}
	check.acknowledging(messages[:last])
	for _, err := range tb.Ack(context.WithoutCancel(ctx), "g", "t", res.Receipts()[:last]) {
		if err != nil {
			return err
		}
	}
	return nil
}
