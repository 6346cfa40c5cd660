// Package clientgov2 runs rocketmq-client-go v2 against Cairn, and against the reference (reference_test.go). It is a module of its own
// because that client pins old libraries.
package clientgov2

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/admin"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
	"github.com/apache/rocketmq-client-go/v2/rlog"
)

func init() { rlog.SetLogLevel("error") }

func resolver(c cairn) primitive.NsResolver {
	return primitive.NewPassthroughResolver([]string{c.NameServer})
}

// createTopic makes a topic, and waits until clients can find it.
func createTopic(t *testing.T, c cairn, topic string, queues int) {
	t.Helper()
	if err := tryCreateTopic(c, topic, queues); err != nil {
		t.Fatal(err)
	}
	waitForRoute(t, c, topic)
}

func tryCreateTopic(c cairn, topic string, queues int) error {
	a, err := admin.NewAdmin(admin.WithResolver(resolver(c)))
	if err != nil {
		return err
	}
	defer func() { _ = a.Close() }()
	return a.CreateTopic(context.Background(), admin.WithTopicCreate(topic), admin.WithBrokerAddrCreate(c.Remoting), admin.WithReadQueueNums(queues), admin.WithWriteQueueNums(queues))
}

func startProducer(t *testing.T, c cairn, group string) rocketmq.Producer {
	t.Helper()
	p, err := rocketmq.NewProducer(producer.WithNsResolver(resolver(c)), producer.WithGroupName(group), producer.WithInstanceName(group), producer.WithRetry(2))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Shutdown() })
	return p
}

// inbox counts how often each message id came.
type inbox struct {
	mu   sync.Mutex
	seen map[string]int
	body map[string]string
	max  int32 // largest reconsume count
}

func newInbox() *inbox { return &inbox{seen: map[string]int{}, body: map[string]string{}} }

func (b *inbox) put(ms ...*primitive.MessageExt) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range ms {
		b.seen[m.MsgId]++
		b.body[m.MsgId] = string(m.Body)
		b.max = max(b.max, m.ReconsumeTimes)
	}
}

func (b *inbox) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.seen)
}

func (b *inbox) check(t *testing.T, sent map[string]string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, want := range sent {
		if b.seen[id] != 1 || b.body[id] != want {
			t.Errorf("message %s came %d times as %q, sent as %q", id, b.seen[id], b.body[id], want)
		}
	}
	if len(b.seen) != len(sent) {
		t.Errorf("%d messages came, %d were sent", len(b.seen), len(sent))
	}
}

func newConsumer(t *testing.T, c cairn, group, instance string, model consumer.MessageModel) rocketmq.PushConsumer {
	t.Helper()
	pc, err := rocketmq.NewPushConsumer(consumer.WithNsResolver(resolver(c)), consumer.WithGroupName(group), consumer.WithInstance(instance),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset), consumer.WithConsumerModel(model))
	if err != nil {
		t.Fatal(err)
	}
	return pc
}

// startIt starts a consumer until the test ends.
func startIt(t *testing.T, pc rocketmq.PushConsumer) {
	t.Helper()
	if err := pc.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Shutdown() })
}

func startConsumer(t *testing.T, c cairn, group, instance, topic string, sel consumer.MessageSelector, model consumer.MessageModel, f func(...*primitive.MessageExt) consumer.ConsumeResult) rocketmq.PushConsumer {
	t.Helper()
	pc := newConsumer(t, c, group, instance, model)
	err := pc.Subscribe(topic, sel, func(_ context.Context, ms ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		return f(ms...), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	startIt(t, pc)
	return pc
}

const probe = "who gets this?"

// awaitShare sends a message to each queue until each of two consumers gets half of them: what comes while queues change hands
// may come twice, since a consumer's offset is written every few seconds only.
func awaitShare(t *testing.T, p rocketmq.Producer, topic string, queues int, probes [2]*inbox) {
	t.Helper()
	eventually(t, 60*time.Second, "the consumers to share the queues", func() bool {
		var ids []string
		for range queues {
			r, err := p.SendSync(context.Background(), primitive.NewMessage(topic, []byte(probe)))
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, r.MsgID)
		}
		var share [2]int
		eventually(t, 30*time.Second, "the probes", func() bool {
			share = [2]int{probes[0].countOf(ids), probes[1].countOf(ids)}
			return share[0]+share[1] >= queues
		})
		return share == [2]int{queues / 2, queues / 2}
	})
}

func (b *inbox) countOf(ids []string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range ids {
		if b.seen[id] > 0 {
			n++
		}
	}
	return n
}

func TestSendKindsAndClusteringConsumers(t *testing.T) {
	c := start(t, plain)
	createTopic(t, c, "kinds", 8)
	p := startProducer(t, c, "kinds-producer")
	got := newInbox()
	var probes [2]*inbox
	for i, name := range []string{"one", "two"} {
		probes[i] = newInbox()
		startConsumer(t, c, "kinds-group", name, "kinds", consumer.MessageSelector{}, consumer.Clustering, func(ms ...*primitive.MessageExt) consumer.ConsumeResult {
			for _, m := range ms {
				if string(m.Body) == probe {
					probes[i].put(m)
				} else {
					got.put(m)
				}
			}
			return consumer.ConsumeSuccess
		})
	}
	awaitShare(t, p, "kinds", 8, probes)

	sent := map[string]string{}
	var mu sync.Mutex
	record := func(id, body string) { mu.Lock(); defer mu.Unlock(); sent[id] = body }
	for i := range 200 {
		body := fmt.Sprintf("sync %d", i)
		r, err := p.SendSync(context.Background(), primitive.NewMessage("kinds", []byte(body)))
		if err != nil || r.Status != primitive.SendOK {
			t.Fatalf("%v %v", r, err)
		}
		record(r.MsgID, body)
	}
	var wg sync.WaitGroup
	for i := range 200 {
		body := fmt.Sprintf("async %d", i)
		wg.Add(1)
		err := p.SendAsync(context.Background(), func(_ context.Context, r *primitive.SendResult, err error) {
			defer wg.Done()
			if err != nil {
				t.Error(err)
				return
			}
			record(r.MsgID, body)
		}, primitive.NewMessage("kinds", []byte(body)))
		if err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	large := make([]byte, 64<<10) // over the size from which the client compresses
	r, err := p.SendSync(context.Background(), primitive.NewMessage("kinds", large))
	if err != nil {
		t.Fatal(err)
	}
	record(r.MsgID, string(large))
	oneWay := primitive.NewMessage("kinds", []byte("one way"))
	if err := p.SendOneWay(context.Background(), oneWay); err != nil {
		t.Fatal(err)
	}
	eventually(t, 40*time.Second, "all messages consumed", func() bool { return got.count() == len(sent)+1 })
	got.mu.Lock()
	for id, body := range got.body {
		if body == "one way" {
			sent[id] = body
		}
	}
	got.mu.Unlock()
	got.check(t, sent)
}

func TestBatch(t *testing.T) {
	c := start(t, plain)
	createTopic(t, c, "batches", 4)
	p := startProducer(t, c, "batches-producer")
	var batch []*primitive.Message
	for i := range 50 {
		batch = append(batch, primitive.NewMessage("batches", []byte(fmt.Sprintf("b%d", i))).WithTag("t").WithKeys([]string{fmt.Sprintf("k%d", i)}))
	}
	r, err := p.SendSync(context.Background(), batch...)
	if err != nil || r.Status != primitive.SendOK {
		t.Fatalf("%v %v", r, err)
	}
	got := newInbox()
	startConsumer(t, c, "batches-group", "one", "batches", consumer.MessageSelector{}, consumer.Clustering, func(ms ...*primitive.MessageExt) consumer.ConsumeResult {
		got.put(ms...)
		return consumer.ConsumeSuccess
	})
	eventually(t, 40*time.Second, "the batch consumed", func() bool { return got.count() == 50 })
	bodies := map[string]bool{}
	got.mu.Lock()
	defer got.mu.Unlock()
	for _, b := range got.body {
		bodies[b] = true
	}
	if len(bodies) != 50 {
		t.Fatalf("%d different bodies", len(bodies))
	}
}

func TestTagsAndBroadcasting(t *testing.T) {
	c := start(t, plain)
	createTopic(t, c, "tags", 4)
	p := startProducer(t, c, "tags-producer")
	a, one, two := newInbox(), newInbox(), newInbox()
	startConsumer(t, c, "only-a", "x", "tags", consumer.MessageSelector{Type: consumer.TAG, Expression: "a || c"}, consumer.Clustering, func(ms ...*primitive.MessageExt) consumer.ConsumeResult {
		a.put(ms...)
		return consumer.ConsumeSuccess
	})
	for i, box := range []*inbox{one, two} {
		startConsumer(t, c, "all-of-us", fmt.Sprint("b", i), "tags", consumer.MessageSelector{}, consumer.BroadCasting, func(ms ...*primitive.MessageExt) consumer.ConsumeResult {
			box.put(ms...)
			return consumer.ConsumeSuccess
		})
	}
	want := map[string]string{}
	for i := range 90 {
		tag := string(rune('a' + i%3))
		r, err := p.SendSync(context.Background(), primitive.NewMessage("tags", []byte(tag)).WithTag(tag))
		if err != nil {
			t.Fatal(err)
		}
		if tag != "b" {
			want[r.MsgID] = tag
		}
	}
	eventually(t, 40*time.Second, "both tags consumed", func() bool { return a.count() == 60 })
	a.check(t, want)
	eventually(t, 40*time.Second, "each broadcast consumer has all", func() bool { return one.count() == 90 && two.count() == 90 })
}

func TestRetryAfterFailure(t *testing.T) {
	c := start(t, plain)
	createTopic(t, c, "retries", 4)
	p := startProducer(t, c, "retries-producer")
	got := newInbox()
	var mu sync.Mutex
	tries := map[string]int{}
	startConsumer(t, c, "retries-group", "one", "retries", consumer.MessageSelector{}, consumer.Clustering, func(ms ...*primitive.MessageExt) consumer.ConsumeResult {
		mu.Lock()
		defer mu.Unlock()
		for _, m := range ms {
			key := string(m.Body)
			if tries[key]++; tries[key] < 3 {
				return consumer.ConsumeRetryLater
			}
		}
		got.put(ms...)
		return consumer.ConsumeSuccess
	})
	for i := range 5 {
		if _, err := p.SendSync(context.Background(), primitive.NewMessage("retries", []byte(fmt.Sprintf("r%d", i)))); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 90*time.Second, "every message consumed at the third try", func() bool { return got.count() == 5 })
	if got.max < 2 {
		t.Fatalf("the largest reconsume count was %d", got.max)
	}
}

func TestOffsetsOutliveTheConsumer(t *testing.T) {
	c := start(t, plain)
	createTopic(t, c, "offsets", 4)
	p := startProducer(t, c, "offsets-producer")
	send := func(n int) {
		t.Helper()
		for i := range n {
			if _, err := p.SendSync(context.Background(), primitive.NewMessage("offsets", []byte(fmt.Sprint(i)))); err != nil {
				t.Fatal(err)
			}
		}
	}
	send(40)
	first := newInbox()
	pc := startConsumer(t, c, "offsets-group", "first", "offsets", consumer.MessageSelector{}, consumer.Clustering, func(ms ...*primitive.MessageExt) consumer.ConsumeResult {
		first.put(ms...)
		return consumer.ConsumeSuccess
	})
	eventually(t, 40*time.Second, "the first consumer has all", func() bool { return first.count() == 40 })
	if err := pc.Shutdown(); err != nil {
		t.Fatal(err)
	}
	send(10)
	second := newInbox()
	startConsumer(t, c, "offsets-group", "second", "offsets", consumer.MessageSelector{}, consumer.Clustering, func(ms ...*primitive.MessageExt) consumer.ConsumeResult {
		second.put(ms...)
		return consumer.ConsumeSuccess
	})
	eventually(t, 40*time.Second, "the second consumer has the rest", func() bool { return second.count() >= 10 })
	if n := second.count(); n != 10 {
		t.Fatalf("the second consumer got %d messages, 10 were left", n)
	}
}
