package broker

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/store"
)

// BenchmarkWakeUp is the time from a send to the answer of the one long poll that waits for it, while others wait: for other topics,
// or in its own group (the one that waits longest is woken then). Two records are written one after the other in that time, the
// message and the pop, so that on the machine's disk two syncs are in it; in memory there is only what we do ourselves. woken-µs is the
// part of it after the send's own answer, there-µs what a pop takes that finds a message there: what waking costs is the difference.
func BenchmarkWakeUp(b *testing.B) {
	for _, disk := range []bool{false, true} {
		for _, idle := range []int{0, 1000, 100_000} {
			for _, own := range []bool{false, true} {
				b.Run(fmt.Sprintf("disk=%v/idle=%d/own=%v", disk, idle, own), func(b *testing.B) { benchWakeUp(b, disk, idle, own) })
			}
		}
	}
}

func openInMemory(b *testing.B) *Broker {
	b.Helper()
	br, err := Open(context.Background(), store.Options{
		FS: vfs.NewMem(), Dir: "data", SegmentSize: 4 << 20, CacheBytes: 16 << 20, Logger: zerolog.Nop(),
	}, Options{Advertise: brokerHost, AutoCreateTopics: true, AutoCreateGroups: true, Logger: zerolog.Nop()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = br.Close() })
	return br
}

func benchWakeUp(b *testing.B, disk bool, idle int, own bool) {
	const topics = 100
	open := openInMemory
	if disk {
		open = openOnDisk
	}
	br := open(b)
	idleTopic := func(i int) string {
		if own {
			return "t"
		}
		return fmt.Sprintf("idle%d", i%topics)
	}
	for i := range topics {
		if _, err := br.EnsureTopic(context.Background(), idleTopic(i), 8); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := br.EnsureTopic(context.Background(), "t", 8); err != nil {
		b.Fatal(err)
	}
	over, ended := make(chan time.Time, 1), make(chan struct{}, idle+1)
	wait := func(topic string) (cancel func()) {
		req := &PopRequest{Group: "g", Topic: topic, Queue: -1, Max: 32, Invisible: time.Minute, Wait: time.Hour}
		return br.PopAsync(req, func(res *PopResult, err error) {
			switch {
			case err != nil:
				b.Error(err)
			case res.Buffer != nil:
				res.Buffer.Release()
				over <- time.Now()
				return
			}
			ended <- struct{}{}
		})
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	cancels := make([]func(), 0, idle+b.N)
	for i := range idle {
		cancels = append(cancels, wait(idleTopic(i)))
	}
	poll(b, "the idle ones to wait", func() bool { return br.waiters.len() == idle })
	runtime.GC()
	runtime.ReadMemStats(&after)
	send := func() (began, answered time.Time) {
		m := []message.Message{clientMessage(128)}
		began = time.Now()
		if _, err := br.Send(context.Background(), &SendRequest{Topic: "t", QueueID: 0, Messages: m}); err != nil {
			b.Fatal(err)
		}
		return began, time.Now()
	}
	var all, woken, there []time.Duration
	b.ResetTimer()
	for range b.N {
		cancels = append(cancels, wait("t"))
		poll(b, "it to wait", func() bool { return br.waiters.len() == idle+1 })
		began, sent := send()
		at := <-over
		all, woken = append(all, at.Sub(began)), append(woken, at.Sub(sent))
	}
	b.StopTimer()
	for range min(b.N, 2000) {
		if own && idle > 0 {
			break // somebody waits for it
		}
		send()
		began := time.Now()
		wait("t")
		there = append(there, (<-over).Sub(began))
	}
	report := func(name string, took []time.Duration) {
		if len(took) == 0 {
			return
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2].Microseconds()), name+"-p50-µs")
		b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), name+"-p99-µs")
	}
	report("all", all)
	report("woken", woken)
	report("there", there)
	if idle > 0 {
		b.ReportMetric(float64(int64(after.HeapAlloc)-int64(before.HeapAlloc))/float64(idle), "B/idle")
		b.ReportMetric(float64(int64(after.HeapObjects)-int64(before.HeapObjects))/float64(idle), "objects/idle")
	}
	for _, cancel := range cancels {
		cancel()
	}
	for range idle {
		<-ended
	}
}
