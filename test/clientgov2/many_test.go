package clientgov2

import (
	"context"
	"encoding/binary"
	"flag"
	"hash/fnv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

var messages = flag.Int("messages", 20_000, "messages of TestManyMessages")

func hash(id string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id))
	return h.Sum64() | 1 // never 0, which says that nothing was noted
}

// Messages are sent to 8 queues while one group consumes: each comes exactly once, with the id and body that it was sent with.
func TestManyMessages(t *testing.T) {
	c := start(t, plain)
	createTopic(t, c, "many", 8)
	p := startProducer(t, c, "many-producer")
	n := *messages
	sent, got := make([]atomic.Uint64, n), make([]atomic.Uint64, n)
	times := make([]atomic.Int32, n)
	var arrived atomic.Int64
	began := time.Now()
	startConsumer(t, c, "many-group", "one", "many", consumer.MessageSelector{}, consumer.Clustering, func(ms ...*primitive.MessageExt) consumer.ConsumeResult {
		for _, m := range ms {
			i := binary.BigEndian.Uint64(m.Body)
			got[i].Store(hash(m.MsgId))
			if len(m.Body) != 128 {
				t.Errorf("message %d has %d bytes", i, len(m.Body))
			}
			if times[i].Add(1) == 1 {
				arrived.Add(1)
			}
		}
		return consumer.ConsumeSuccess
	})
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				body := make([]byte, 128)
				binary.BigEndian.PutUint64(body, uint64(i))
				r, err := p.SendSync(context.Background(), primitive.NewMessage("many", body))
				if err != nil {
					t.Errorf("message %d: %v", i, err)
					return
				}
				sent[i].Store(hash(r.MsgID))
			}
		})
	}
	wg.Wait()
	eventually(t, time.Minute+time.Duration(n/5000)*time.Second, "all consumed", func() bool { return arrived.Load() == int64(n) })
	for i := range n {
		if times[i].Load() != 1 || sent[i].Load() != got[i].Load() {
			t.Fatalf("message %d came %d times, its id is the one it was sent with: %v", i, times[i].Load(), sent[i].Load() == got[i].Load())
		}
	}
	t.Logf("%d messages sent and consumed once in %.1f s: %.0f/s", n, time.Since(began).Seconds(), float64(n)/time.Since(began).Seconds())
}
