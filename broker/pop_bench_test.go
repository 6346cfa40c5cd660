package broker

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/message"
)

// withMessages is a broker on the machine's disk, in sync mode, with topic t of 8 queues and n messages of 128 bytes in it.
func withMessages(b *testing.B, n int) *Broker {
	b.Helper()
	br := openOnDisk(b)
	if _, err := br.EnsureTopic(context.Background(), "t", 8); err != nil {
		b.Fatal(err)
	}
	for i := 0; i < n; i += 64 {
		batch := make([]message.Message, min(64, n-i))
		for j := range batch {
			batch[j] = clientMessage(128)
		}
		if _, err := br.Send(context.Background(), &SendRequest{Topic: "t", QueueID: int32(i / 64 % 8), Messages: batch}); err != nil {
			b.Fatal(err)
		}
	}
	return br
}

// CPU of a receive with its acknowledgement, the doors left out: the aim is 10 µs a message.
func BenchmarkPopAndAck(b *testing.B) {
	for _, c := range []struct {
		max, consumers int
		single         bool // each message is acknowledged by a call of its own, as push consumers do
	}{{32, 1, false}, {32, 16, false}, {32, 16, true}, {8, 16, false}, {1, 64, false}} {
		b.Run(fmt.Sprintf("max=%d/consumers=%d/single=%v", c.max, c.consumers, c.single), func(b *testing.B) {
			br := withMessages(b, b.N)
			runtime.GC()
			b.ReportAllocs()
			b.ResetTimer()
			began := cpuTime(b)
			var wg sync.WaitGroup
			for range c.consumers {
				wg.Go(func() {
					for {
						res, err := br.Pop(context.Background(), &PopRequest{Group: "g", Topic: "t", Queue: -1, Max: c.max, Invisible: time.Minute})
						if err != nil {
							b.Error(err)
							return
						}
						if res.Buffer == nil {
							return
						}
						res.Buffer.Release()
						ackAll(b, br, res.Receipts(), c.single)
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(cpuTime(b)-began)/float64(b.N)/1e3, "cpu-µs/msg")
			if got, err := br.GroupCounters("g", "t"); err != nil || got != (GroupCounters{}) {
				b.Fatalf("%+v, %v", got, err)
			}
		})
	}
}

// The same for a group that is served in order, with so many message groups in each queue, 0: none has one.
func BenchmarkOrderedPopAndAck(b *testing.B) {
	for _, c := range []struct{ groups, max, consumers int }{{1000, 32, 16}, {1000, 1, 64}, {4, 32, 16}, {0, 32, 16}} {
		b.Run(fmt.Sprintf("groups=%d/max=%d/consumers=%d", c.groups, c.max, c.consumers), func(b *testing.B) {
			br := openOnDisk(b)
			t, err := br.EnsureTopic(context.Background(), "t", 8)
			if err != nil {
				b.Fatal(err)
			}
			g := catalog.DefaultGroup("g")
			g.ConsumeMessageOrderly = true
			if err := br.PutGroup(context.Background(), g, ""); err != nil {
				b.Fatal(err)
			}
			sendGrouped(b, br, t, b.N, c.groups)
			runtime.GC()
			b.ReportAllocs()
			b.ResetTimer()
			began := cpuTime(b)
			ctx, done := context.WithCancel(context.Background())
			defer done()
			var acked atomic.Int64
			var wg sync.WaitGroup
			for range c.consumers {
				wg.Go(func() {
					for ctx.Err() == nil {
						res, err := br.Pop(ctx, &PopRequest{Group: "g", Topic: "t", Queue: -1, Max: c.max, Invisible: time.Hour, Wait: time.Hour})
						if err != nil || res.Buffer == nil {
							return
						}
						res.Buffer.Release()
						ackAll(b, br, res.Receipts(), false)
						if acked.Add(int64(len(res.Handles))) == int64(b.N) {
							done()
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(cpuTime(b)-began)/float64(b.N)/1e3, "cpu-µs/msg")
			if got, err := br.GroupCounters("g", "t"); err != nil || got != (GroupCounters{}) {
				b.Fatalf("%+v, %v", got, err)
			}
		})
	}
}

// What others of the group pay while so many messages wait behind one that nobody acknowledges.
func BenchmarkPopBesideAStuckMessageGroup(b *testing.B) {
	for _, stuck := range []int{1, 100_000} {
		b.Run(fmt.Sprintf("waiting=%d", stuck), func(b *testing.B) {
			br := openOnDisk(b)
			t, err := br.EnsureTopic(context.Background(), "t", 1)
			if err != nil {
				b.Fatal(err)
			}
			g := catalog.DefaultGroup("g")
			g.ConsumeMessageOrderly = true
			if err := br.PutGroup(context.Background(), g, ""); err != nil {
				b.Fatal(err)
			}
			sendGrouped(b, br, t, stuck, 1)
			pop := func(n int) *PopResult {
				res, err := br.Pop(context.Background(), &PopRequest{Group: "g", Topic: "t", Queue: -1, Max: n, Invisible: time.Hour})
				if err != nil {
					b.Fatal(err)
				}
				return res
			}
			pop(1).Buffer.Release()
			began := time.Now()
			if res := pop(32); res.Buffer != nil { // parks all of it
				b.Fatalf("%d messages came", len(res.Ends))
			}
			parking := time.Since(began)
			sendGrouped(b, br, t, b.N, 0)
			runtime.GC()
			b.ResetTimer()
			for left := b.N; left > 0; {
				res := pop(32)
				res.Buffer.Release()
				ackAll(b, br, res.Receipts(), false)
				left -= len(res.Handles)
			}
			b.StopTimer()
			b.ReportMetric(float64(parking.Microseconds())/float64(stuck), "µs/parked")
		})
	}
}

// sendGrouped sends n messages to the queues of a topic, one message group after the other.
func sendGrouped(b *testing.B, br *Broker, t *catalog.Topic, n, groups int) {
	b.Helper()
	for i := 0; i < n; i += 64 {
		batch := make([]message.Message, min(64, n-i))
		for j := range batch {
			batch[j] = clientMessage(128)
			if groups > 0 {
				batch[j].Properties = message.AppendProperty(slices.Clone(batch[j].Properties), message.PropShardingKey,
					fmt.Sprint("group", (i+j)%groups))
			}
		}
		if _, err := br.Send(context.Background(), &SendRequest{Topic: t.Name, QueueID: int32(i/64) % t.WriteQueues, Messages: batch}); err != nil {
			b.Fatal(err)
		}
	}
}

func ackAll(b *testing.B, br *Broker, handles []string, single bool) {
	size := len(handles)
	if single {
		size = 1
	}
	var acked sync.WaitGroup
	for some := range slices.Chunk(handles, size) {
		acked.Add(1)
		br.AckAsync("g", "t", some, func(errs []error) {
			defer acked.Done()
			for _, err := range errs {
				if err != nil {
					b.Error(err)
				}
			}
		})
	}
	acked.Wait()
}

// A look that finds nothing, at 8 queues.
func BenchmarkEmptyPop(b *testing.B) {
	br := withMessages(b, 64)
	req := &PopRequest{Group: "g", Topic: "t", Queue: -1, Max: 32, Invisible: time.Minute}
	for {
		res, err := br.Pop(context.Background(), req)
		if err != nil {
			b.Fatal(err)
		}
		if res.Buffer == nil {
			break
		}
		res.Buffer.Release()
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := br.Pop(context.Background(), req); err != nil {
			b.Fatal(err)
		}
	}
}
