package system

import (
	"context"
	"encoding/binary"
	"flag"
	"hash/fnv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	client "github.com/apache/rocketmq-clients/golang/v5"
)

var messages = flag.Int("messages", 10_000, "messages of TestManyMessages")

func hash(id string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id))
	return h.Sum64() | 1 // never 0, which says that nothing was noted
}

// Messages are sent to 8 queues while one group of the official gRPC client receives and acknowledges: each comes exactly
// once, with the id and body that it was sent with.
func TestManyMessages(t *testing.T) {
	client.EnableSsl = false
	at := start(t, settings{reference: plain.reference})
	createTopic(t, at, "many", "NORMAL", 8)
	createGroup(t, at, "many-group")
	p := startProducer(t, at, "many")
	n := *messages
	sent, got := make([]atomic.Uint64, n), make([]atomic.Uint64, n)
	times := make([]atomic.Int32, n)
	places := make([]atomic.Int64, n) // offset of the first delivery, and 1
	var resent atomic.Int64
	var arrived atomic.Int64
	began := time.Now()
	ctx, stop := context.WithCancel(context.Background())
	var receivers sync.WaitGroup
	for range 2 {
		s := startSimple(t, at, "many-group", "many", "*")
		for range 4 {
			receivers.Go(func() {
				for ctx.Err() == nil {
					ms, err := s.Receive(ctx, 32, time.Minute)
					if err != nil {
						continue // nothing there, or the end
					}
					var acks sync.WaitGroup
					for _, m := range ms {
						i := binary.BigEndian.Uint64(m.GetBody())
						got[i].Store(hash(m.GetMessageId()))
						if len(m.GetBody()) != 128 {
							t.Errorf("message %d has %d bytes", i, len(m.GetBody()))
						}
						place := m.GetOffset() + 1
						switch {
						case places[i].CompareAndSwap(0, place):
							times[i].Add(1)
							arrived.Add(1)
						case places[i].Load() == place:
							times[i].Add(1)
							t.Logf("message %d came again at attempt %d", i, m.GetDeliveryAttempt())
						default: // the client had no answer in time and sent it once more, under the same id
							resent.Add(1)
						}
						acks.Go(func() {
							if err := s.Ack(context.Background(), m); err != nil {
								t.Errorf("acknowledge %d: %v", i, err)
							}
						})
					}
					acks.Wait()
				}
			})
		}
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				body := make([]byte, 128)
				binary.BigEndian.PutUint64(body, uint64(i))
				r, err := p.Send(context.Background(), &client.Message{Topic: "many", Body: body})
				if err != nil {
					t.Errorf("message %d: %v", i, err)
					return
				}
				sent[i].Store(hash(r[0].MessageID))
			}
		})
	}
	wg.Wait()
	eventually(t, time.Minute+time.Duration(n/1000)*time.Second, "all received", func() bool { return arrived.Load() == int64(n) })
	stop()
	receivers.Wait()
	for i := range n {
		if times[i].Load() != 1 || sent[i].Load() != got[i].Load() {
			t.Fatalf("message %d came %d times, its id is the one it was sent with: %v", i, times[i].Load(), sent[i].Load() == got[i].Load())
		}
	}
	t.Logf("%d messages sent, received and acknowledged once (%d sent twice by the client's own retry) in %.1f s: %.0f/s", n, resent.Load(), time.Since(began).Seconds(), float64(n)/time.Since(began).Seconds())
}
