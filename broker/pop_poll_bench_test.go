package broker

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cairnmq/cairn/message"
)

// BenchmarkWakeUp is the time from a send to the answer of the one long poll that waits for it, while others wait for other topics.
// The send itself is in it, on the machine's disk in sync mode.
func BenchmarkWakeUp(b *testing.B) {
	for _, idle := range []int{0, 1000, 100_000} {
		b.Run(fmt.Sprintf("idle=%d", idle), func(b *testing.B) { benchWakeUp(b, idle) })
	}
}

func benchWakeUp(b *testing.B, idle int) {
	const topics = 100
	br := openOnDisk(b)
	for i := range topics {
		if _, err := br.EnsureTopic(context.Background(), fmt.Sprintf("idle%d", i), 8); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := br.EnsureTopic(context.Background(), "t", 8); err != nil {
		b.Fatal(err)
	}
	wait := func(topic string, done func(*PopResult, error)) (cancel func()) {
		return br.PopAsync(&PopRequest{Group: "g", Topic: topic, Queue: -1, Max: 32, Invisible: time.Minute, Wait: time.Hour}, done)
	}
	ended := make(chan struct{}, idle)
	var cancels []func()
	for i := range idle {
		cancels = append(cancels, wait(fmt.Sprintf("idle%d", i%topics), func(*PopResult, error) { ended <- struct{}{} }))
	}
	poll(b, "the idle ones to wait", func() bool { return br.waiters.len() == idle })
	over := make(chan time.Time, 1)
	took := make([]time.Duration, 0, b.N)
	b.ResetTimer()
	for range b.N {
		wait("t", func(res *PopResult, err error) {
			if err != nil {
				b.Error(err)
			} else {
				res.Buffer.Release()
			}
			over <- time.Now()
		})
		poll(b, "it to wait", func() bool { return br.waiters.len() == idle+1 })
		began := time.Now()
		if _, err := br.Send(context.Background(), &SendRequest{Topic: "t", QueueID: 0, Messages: []message.Message{clientMessage(128)}}); err != nil {
			b.Fatal(err)
		}
		took = append(took, (<-over).Sub(began))
	}
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
	for _, cancel := range cancels {
		cancel()
	}
	for range idle {
		<-ended
	}
}
