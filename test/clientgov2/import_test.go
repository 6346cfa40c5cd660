package clientgov2

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/admin"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

// The two tests here are the Remoting halves of test/import.sh: the first one fills a Java broker and notes what it holds, the second
// one compares that with what `cairn import` made of it. Both use the client, whatever broker is behind it. test/system/import_test.go
// has those over gRPC.
//
//	CAIRN_IMPORT_NAMESRV, CAIRN_IMPORT_BROKER   the broker's addresses
//	CAIRN_IMPORT_NOTES                          the file of the notes
//	CAIRN_IMPORT_COUNT                          messages to send, 20,000 by default

const (
	importMain  = "import-main"
	importDelay = "import-delay"
	importTx    = "import-tx"
	importGroup = "import-group"
	mainQueues  = 8
	someQueues  = 2
	// maxRest bounds the messages behind the group's offsets: gRPC clients acknowledge each of them by itself.
	maxRest = 100_000
)

// importNotes is what the Java broker held.
type importNotes struct {
	Queues map[string]importQueue `json:"queues"`
	// Due are delayed messages that are not due yet, by unique id: ms.
	Due map[string]int64 `json:"due"`
	// Open are the bodies of half messages.
	Open []string `json:"open"`
	Rest int      `json:"rest"` // messages of importMain behind the group's offsets
}

// importQueue is a queue's messages as hashes.
type importQueue struct {
	First  int64    `json:"first"`
	Hashes []uint64 `json:"hashes"`
}

func importBroker(t *testing.T) (cairn, string) {
	c := cairn{NameServer: os.Getenv("CAIRN_IMPORT_NAMESRV"), Remoting: os.Getenv("CAIRN_IMPORT_BROKER")}
	notes := os.Getenv("CAIRN_IMPORT_NOTES")
	if c.NameServer == "" || c.Remoting == "" || notes == "" {
		t.Skip("a half of test/import.sh")
	}
	return c, notes
}

func TestImportFill(t *testing.T) {
	c, file := importBroker(t)
	count := 20_000
	if n, err := strconv.Atoi(os.Getenv("CAIRN_IMPORT_COUNT")); err == nil {
		count = n
	}
	createTopic(t, c, importMain, mainQueues)
	createTopic(t, c, importDelay, someQueues)
	createTopic(t, c, importTx, someQueues)
	for _, topic := range []string{importMain, importDelay, importTx} {
		waitForRoute(t, c, topic)
	}
	p := startProducer(t, c, "import-producer")
	consumed := max(count/2, count-maxRest)
	sendMany(t, p, 0, consumed)
	consumeSome(t, c, consumed)
	sendMany(t, p, consumed, count)

	notes := importNotes{Due: map[string]int64{}, Rest: count - consumed}
	tx, _ := startTransactional(t, c, "import-tx-producer", "fill-tx")
	for _, end := range []string{"commit", "rollback"} { // not in turns: the client goes round the queues, and would leave one empty
		for i := range 20 {
			sendTx(t, tx, fmt.Sprintf("%s %d", end, i))
		}
	}
	for i := range 50 {
		sendDelayed(t, p, fmt.Sprintf("level %d", i), func(m *primitive.Message) { m.WithDelayTimeLevel(1) })
		sendDelayed(t, p, fmt.Sprintf("timer %d", i), func(m *primitive.Message) {
			m.WithProperty("TIMER_DELIVER_MS", strconv.FormatInt(time.Now().Add(2*time.Second).UnixMilli(), 10))
		})
	}
	waitForQueues(t, c, importDelay, 100)
	waitForQueues(t, c, importTx, 20)
	notes.Queues = readTopic(t, c, importMain, mainQueues) // before the delays begin: it may take a while
	level, after := 5, time.Minute                         // Cairn is to run on the store before they are due
	if count > 500_000 {
		level, after = 7, 3*time.Minute
	}
	for i := range 50 {
		due := time.Now().Add(after).UnixMilli()
		id := sendDelayed(t, p, fmt.Sprintf("late level %d", i), func(m *primitive.Message) { m.WithDelayTimeLevel(level) })
		notes.Due[id] = due
		due = time.Now().Add(after + 15*time.Second).UnixMilli()
		id = sendDelayed(t, p, fmt.Sprintf("late timer %d", i), func(m *primitive.Message) {
			m.WithProperty("TIMER_DELIVER_MS", strconv.FormatInt(due, 10))
		})
		notes.Due[id] = due
	}
	for i := range 20 {
		body := fmt.Sprintf("unknown commit %d", i)
		sendTx(t, tx, body)
		notes.Open = append(notes.Open, body)
	}
	_ = tx.Shutdown()
	maps.Copy(notes.Queues, readTopic(t, c, importDelay, someQueues))
	maps.Copy(notes.Queues, readTopic(t, c, importTx, someQueues))
	data, err := json.Marshal(notes)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d messages, %d delayed, %d half messages", count, len(notes.Due), len(notes.Open))
}

func TestImportFind(t *testing.T) {
	c, file := importBroker(t)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var notes importNotes
	if err := json.Unmarshal(data, &notes); err != nil {
		t.Fatal(err)
	}
	// First what is still to come, so that it is there before its time.
	started := maxima(notes.Queues, importDelay)
	var mu sync.Mutex
	late := map[string]int{}
	startConsumer(t, c, "import-late", "find", importDelay, consumer.MessageSelector{}, consumer.Clustering, func(ms ...*primitive.MessageExt) consumer.ConsumeResult {
		mu.Lock()
		defer mu.Unlock()
		for _, m := range ms {
			if m.QueueOffset < started[m.Queue.QueueId] {
				continue // delivered by the Java broker
			}
			late[m.MsgId]++
			if due, ok := notes.Due[m.MsgId]; !ok || time.Now().UnixMilli() < due-1000 {
				t.Errorf("message %s %q came %d ms before it was due, or is none that was delayed", m.MsgId, m.Body, due-time.Now().UnixMilli())
			}
		}
		return consumer.ConsumeSuccess
	})
	compareQueues(t, notes.Queues, readQueues(t, c))

	box := newInbox()
	startConsumer(t, c, importGroup, "find", importMain, consumer.MessageSelector{}, consumer.Clustering, func(ms ...*primitive.MessageExt) consumer.ConsumeResult {
		box.put(ms...)
		return consumer.ConsumeSuccess
	})
	waitFor(t, 3*time.Minute, "the rest of the group's messages", func() bool { return box.count() >= notes.Rest })

	// This client answers questions only for the group that its instance was made for, and is known to a broker once it has sent.
	answers, _ := startTransactional(t, c, "import-tx-producer", "find-tx")
	defer func() { _ = answers.Shutdown() }()
	sendTx(t, answers, "rollback")
	waitForQueues(t, c, importTx, 20+len(notes.Open))
	waitFor(t, 3*time.Minute, "the delayed messages", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(late) >= len(notes.Due)
	})
	mu.Lock()
	defer mu.Unlock()
	for id := range notes.Due {
		if late[id] != 1 {
			t.Errorf("delayed message %s came %d times", id, late[id])
		}
	}
	box.mu.Lock()
	defer box.mu.Unlock()
	if len(box.seen) != notes.Rest {
		t.Errorf("the group got %d messages, %d were left", len(box.seen), notes.Rest)
	}
	for id, n := range box.seen {
		if n != 1 {
			t.Errorf("message %s came %d times", id, n)
		}
	}
	t.Logf("%d messages as they were, %d behind the group's offsets, %d delayed, %d half messages", queueTotal(notes.Queues), notes.Rest, len(late), len(notes.Open))
}

// sendMany sends messages from..to in batches, some of them by themselves.
func sendMany(t *testing.T, p rocketmq.Producer, from, to int) {
	t.Helper()
	const batch = 32
	work := make(chan int)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range work {
				n := batch
				if i/batch%10 == 0 {
					n = 1
				}
				for j := i; j < min(i+batch, to); j += n {
					var ms []*primitive.Message
					for k := j; k < min(j+n, to); k++ {
						m := primitive.NewMessage(importMain, fmt.Appendf(nil, "message %d", k))
						ms = append(ms, m.WithKeys([]string{fmt.Sprintf("key-%d", k)}).WithTag(fmt.Sprintf("tag-%d", k%3)))
					}
					if r, err := p.SendSync(context.Background(), ms...); err != nil || r.Status != primitive.SendOK {
						t.Errorf("send: %v, %v", r, err)
					}
				}
			}
		})
	}
	for i := from; i < to; i += batch {
		work <- i
	}
	close(work)
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// consumeSome lets the group acknowledge that many messages, and end.
func consumeSome(t *testing.T, c cairn, count int) {
	t.Helper()
	box := newInbox()
	pc := newConsumer(t, c, importGroup, "fill", consumer.Clustering)
	err := pc.Subscribe(importMain, consumer.MessageSelector{}, func(_ context.Context, ms ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		box.put(ms...)
		return consumer.ConsumeSuccess, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := pc.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, 3*time.Minute, "what the group is to consume", func() bool { return box.count() >= count })
	if err := pc.Shutdown(); err != nil {
		t.Fatal(err)
	}
}

func sendTx(t *testing.T, p rocketmq.TransactionProducer, body string) {
	t.Helper()
	if _, err := p.SendMessageInTransaction(context.Background(), primitive.NewMessage(importTx, []byte(body))); err != nil {
		t.Fatal(err)
	}
}

func sendDelayed(t *testing.T, p rocketmq.Producer, body string, delay func(*primitive.Message)) (id string) {
	t.Helper()
	m := primitive.NewMessage(importDelay, []byte(body))
	delay(m)
	r, err := p.SendSync(context.Background(), m)
	if err != nil {
		t.Fatal(err)
	}
	return r.MsgID
}

func waitFor(t *testing.T, most time.Duration, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s did not come within %s", what, most)
		}
	}
}

// waitForRoute waits until the name server has heard of a topic.
func waitForRoute(t *testing.T, c cairn, topic string) {
	t.Helper()
	a, err := admin.NewAdmin(admin.WithResolver(resolver(c)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	waitFor(t, time.Minute, "the route of "+topic, func() bool {
		queues, err := a.FetchPublishMessageQueues(context.Background(), topic)
		return err == nil && len(queues) > 0
	})
}

func waitForQueues(t *testing.T, c cairn, topic string, count int) {
	t.Helper()
	waitFor(t, 2*time.Minute, fmt.Sprintf("%d messages of %s", count, topic), func() bool {
		return queueTotal(readTopic(t, c, topic, someQueues)) >= count
	})
}

func queueTotal(queues map[string]importQueue) (n int) {
	for _, q := range queues {
		n += len(q.Hashes)
	}
	return n
}

// maxima are the ends of a topic's queues.
func maxima(queues map[string]importQueue, topic string) map[int]int64 {
	out := map[int]int64{}
	for q := range someQueues {
		got := queues[fmt.Sprintf("%s/%d", topic, q)]
		out[q] = got.First + int64(len(got.Hashes))
	}
	return out
}

func readQueues(t *testing.T, c cairn) map[string]importQueue {
	t.Helper()
	out := readTopic(t, c, importMain, mainQueues)
	maps.Copy(out, readTopic(t, c, importDelay, someQueues))
	maps.Copy(out, readTopic(t, c, importTx, someQueues))
	return out
}

// readTopic pulls every message of a topic.
func readTopic(t *testing.T, c cairn, topic string, queues int) map[string]importQueue {
	t.Helper()
	const group = "import-reader"
	pc, err := rocketmq.NewPullConsumer(consumer.WithNsResolver(resolver(c)), consumer.WithGroupName(group), consumer.WithInstance(fmt.Sprint(topic, time.Now().UnixNano())))
	if err != nil {
		t.Fatal(err)
	}
	if err := pc.Subscribe(topic, consumer.MessageSelector{}); err != nil {
		t.Fatal(err)
	}
	if err := pc.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pc.Shutdown() }()
	out := map[string]importQueue{}
	for q := range queues {
		mq := &primitive.MessageQueue{Topic: topic, BrokerName: "broker-a", QueueId: q}
		var got importQueue
		for next, more := int64(0), true; more; {
			r, err := pc.PullFrom(context.Background(), mq, next, 32)
			switch {
			case err != nil && !errors.Is(err, context.DeadlineExceeded):
				t.Fatalf("pull %v from %d: %v", mq, next, err)
			case err != nil:
			case r.Status == primitive.PullFound:
				for _, m := range r.GetMessageExts() {
					if len(got.Hashes) == 0 {
						got.First = m.QueueOffset
					}
					got.Hashes = append(got.Hashes, hashOf(m))
				}
				next = r.NextBeginOffset
				more = next < r.MaxOffset // a pull at the end would wait for what comes
			case r.Status == primitive.PullOffsetIllegal && r.NextBeginOffset != next:
				next = r.NextBeginOffset
			default:
				more = false
			}
		}
		out[fmt.Sprintf("%s/%d", topic, q)] = got
	}
	return out
}

// hashOf is everything that a message must keep. To the client the id of a message without a unique id, as those of batches from this
// client are, is its offset id, which it does not keep. What a client adds when it receives one is none of it.
func hashOf(m *primitive.MessageExt) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, m.GetProperty(primitive.PropertyUniqueClientMessageIdKeyIndex), m.Topic, m.Queue.QueueId, m.QueueOffset, m.BornTimestamp, m.BornHost, m.StoreTimestamp, m.SysFlag, m.Flag, m.ReconsumeTimes, m.Body)
	props := m.GetProperties()
	for _, k := range slices.Sorted(maps.Keys(props)) {
		if k != primitive.PropertyMinOffset && k != primitive.PropertyMaxOffset {
			fmt.Fprint(h, k, "=", props[k], ";")
		}
	}
	return h.Sum64()
}

// compareQueues looks that every message is where it was. Behind them there may be those that were delivered since.
func compareQueues(t *testing.T, want, got map[string]importQueue) {
	t.Helper()
	for name, w := range want {
		g := got[name]
		if len(w.Hashes) == 0 {
			continue
		}
		if g.First != w.First || len(g.Hashes) < len(w.Hashes) {
			t.Errorf("%s: %d messages from offset %d, there were %d from %d", name, len(g.Hashes), g.First, len(w.Hashes), w.First)
			continue
		}
		differ := 0
		for i := range w.Hashes {
			if g.Hashes[i] != w.Hashes[i] {
				if differ++; differ == 1 {
					t.Errorf("%s: the message at offset %d is not what it was", name, w.First+int64(i))
				}
			}
		}
		if differ > 1 {
			t.Errorf("%s: %d messages are not what they were", name, differ)
		}
	}
}
