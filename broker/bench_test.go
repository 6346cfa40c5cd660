package broker

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/store"
)

// openOnDisk opens a broker over a real folder, in sync mode.
func openOnDisk(b *testing.B) *Broker {
	b.Helper()
	br, err := Open(context.Background(), store.Options{
		FS: vfs.Default, Dir: b.TempDir(), SegmentSize: 256 << 20, Mode: commitlog.ModeSync, Logger: zerolog.Nop(),
	}, Options{Advertise: brokerHost, AutoCreateTopics: true, AutoCreateGroups: true, Logger: zerolog.Nop()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = br.Close() })
	return br
}

// cpuTime is the processor time of this process, user and system.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// clientMessage is what a Java client sends: a body and the properties UNIQ_KEY, WAIT and TAGS.
func clientMessage(size int) message.Message {
	return plain(string(make([]byte, size)), "UNIQ_KEY", message.NewUniqueID(), "WAIT", "true", "TAGS", "TagA")
}

// BenchmarkSend: each of 64 senders waits for its message to be stored before it sends the next. cpu-µs/msg is the figure to
// look at: on a shared machine the rate is the machine's.
func BenchmarkSend(b *testing.B) {
	for _, c := range []struct{ senders, batch, size int }{{64, 1, 128}, {1, 1, 128}, {64, 16, 128}, {64, 1, 1024}} {
		b.Run(fmt.Sprintf("senders=%d/batch=%d/size=%d", c.senders, c.batch, c.size), func(b *testing.B) {
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
			for range c.senders {
				all.Go(func() {
					messages := make([]message.Message, c.batch)
					for i := range messages {
						messages[i] = clientMessage(c.size)
					}
					over := make(chan error, 1)
					done := func(_ []SendResult, err error) { over <- err }
					req := &SendRequest{ProducerGroup: "p", Topic: "t", QueueID: -1, Messages: messages}
					for left.Add(-int64(c.batch)) >= 0 {
						br.SendAsync(req, done)
						if err := <-over; err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
			b.StopTimer()
			b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/1000/float64(b.N), "cpu-µs/msg")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}

// BenchmarkPull reads a queue of messages of 128 bytes, 32 at a time.
func BenchmarkPull(b *testing.B) {
	br := openOnDisk(b)
	ctx := context.Background()
	if _, err := br.EnsureTopic(ctx, "t", 1); err != nil {
		b.Fatal(err)
	}
	const stored = 20_000
	batch := make([]message.Message, 100)
	for i := range batch {
		batch[i] = clientMessage(128)
	}
	for range stored / len(batch) {
		if _, err := br.Send(ctx, &SendRequest{Topic: "t", Messages: batch}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	before := cpuTime(b)
	var offset int64
	for got := 0; got < b.N; {
		res, err := br.Pull(ctx, &PullRequest{Group: "g", Topic: "t", Offset: offset, CommitOffset: -1})
		if err != nil {
			b.Fatal(err)
		}
		if offset = res.NextOffset; offset == stored {
			offset = 0
		}
		got += len(res.Ends)
		res.Buffer.Release()
	}
	b.StopTimer()
	b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/1000/float64(b.N), "cpu-µs/msg")
}
