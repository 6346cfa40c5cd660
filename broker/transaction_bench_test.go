package broker

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/txn"
)

// BenchmarkTransaction: each of the producers sends a half message, commits it, and goes on. Compare with two of BenchmarkSend.
func BenchmarkTransaction(b *testing.B) {
	for _, producers := range []int{64, 1} {
		b.Run(fmt.Sprintf("producers=%d/size=128", producers), func(b *testing.B) {
			br := openOnDisk(b)
			if _, err := br.EnsureTopic(context.Background(), "t", 8); err != nil {
				b.Fatal(err)
			}
			left := atomic.Int64{}
			left.Store(int64(b.N))
			b.ReportAllocs()
			b.ResetTimer()
			before := cpuTime(b)
			var all sync.WaitGroup
			for range producers {
				all.Go(func() {
					if err := runTransactions(br, &left); err != nil {
						b.Error(err)
					}
				})
			}
			all.Wait()
			b.StopTimer()
			b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/1000/float64(b.N), "cpu-µs/txn")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "txn/s")
		})
	}
}

func runTransactions(br *Broker, left *atomic.Int64) error {
	m := clientMessage(128)
	m.Properties = message.AppendProperty(m.Properties, message.PropTranMsg, "true")
	m.Properties = message.AppendProperty(m.Properties, message.PropProducerGroup, "p")
	over := make(chan error, 1)
	end := EndTransactionRequest{Topic: "t", Group: "p", Resolution: TransactionCommit}
	sent := func(res []SendResult, err error) {
		if err == nil {
			end.Position = res[0].Position
		}
		over <- err
	}
	ended := func(err error) { over <- err }
	req := &SendRequest{ProducerGroup: "p", Topic: "t", QueueID: -1, Messages: []message.Message{m}}
	for left.Add(-1) >= 0 {
		br.SendAsync(req, sent)
		if err := <-over; err != nil {
			return err
		}
		br.EndTransactionAsync(&end, ended)
		if err := <-over; err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkPutOff: so many half messages of one group are due at once, of which a thousand may be asked about. The figure is
// the checker's first work until the rest is out of its way.
func BenchmarkPutOff(b *testing.B) {
	const open = 100_000
	for b.Loop() {
		b.StopTimer()
		c := clock.NewFake(epoch)
		r := &txnRig{testBroker: openBroker(b, withClock(c)), t: b, clock: c}
		r.topicOf(b, "t", 1)
		r.join("p", "1", true)
		var all sync.WaitGroup
		for range 64 {
			all.Go(func() {
				for range open / 64 {
					r.half("x")
				}
			})
		}
		all.Wait()
		r.settle()
		b.StartTimer()
		before := cpuTime(b)
		c.Advance(r.opts.TransactionTimeout)
		r.settle()
		b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/1000/open, "cpu-µs/half")
		if at, ok, err := r.store.Txn.NextCheck(); err != nil || !ok || at <= c.Now().UnixMilli() {
			b.Fatal(at, ok, err)
		}
		b.StopTimer()
		if err := txn.CheckRows(r.store.Reader()); err != nil {
			b.Fatal(err)
		}
		r.close(b)
		b.StartTimer()
	}
}
