package broker

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/store"
)

// openDelaying opens a broker over a real folder with a clock that stands still.
func openDelaying(b *testing.B) (*Broker, *clock.Fake) {
	b.Helper()
	c := clock.NewFake(epoch)
	br, err := Open(context.Background(), store.Options{
		FS: vfs.Default, Dir: b.TempDir(), SegmentSize: 256 << 20, Mode: commitlog.ModeSync, Logger: zerolog.Nop(), Clock: c,
	}, Options{Advertise: brokerHost, AutoCreateTopics: true, AutoCreateGroups: true, Logger: zerolog.Nop(), Clock: c})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = br.Close() })
	if _, err := br.EnsureTopic(context.Background(), "t", 8); err != nil {
		b.Fatal(err)
	}
	return br, c
}

// sendEach sends n messages from 64 senders; make says what the i-th is.
func sendEach(b *testing.B, br *Broker, n int, make func(i int) message.Message, got func(i int, r SendResult)) {
	b.Helper()
	var next atomic.Int64
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			over := newAnswer()
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				br.SendAsync(&SendRequest{ProducerGroup: "p", Topic: "t", QueueID: -1, Messages: []message.Message{make(i)}}, over.done)
				r, err := over.wait()
				if err != nil {
					b.Error(err)
					return
				}
				got(i, r)
			}
		})
	}
	all.Wait()
}

type answer struct {
	c    chan error
	res  SendResult
	done func([]SendResult, error)
}

func newAnswer() *answer {
	a := &answer{c: make(chan error, 1)}
	a.done = func(r []SendResult, err error) {
		if err == nil {
			a.res = r[0]
		}
		a.c <- err
	}
	return a
}

func (a *answer) wait() (SendResult, error) {
	err := <-a.c
	return a.res, err
}

func reportCPU(b *testing.B, before time.Duration) {
	b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/1000/float64(b.N), "cpu-µs/msg")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

// BenchmarkSendDelayed is BenchmarkSend's first line with a delay level, with a time of its own, with neither, and of half
// messages.
func BenchmarkSendDelayed(b *testing.B) {
	for _, c := range []struct {
		name  string
		props []string
	}{
		{"none", nil}, {"level", []string{"DELAY", "18"}}, {"timer", []string{"TIMER_DELAY_SEC", "86400"}},
		{"half", []string{"TRAN_MSG", "true", "PGROUP", "p"}},
	} {
		b.Run(c.name, func(b *testing.B) {
			br, _ := openDelaying(b)
			m := clientMessage(128)
			for i := 0; i < len(c.props); i += 2 {
				m.Properties = message.AppendProperty(m.Properties, c.props[i], c.props[i+1])
			}
			b.ReportAllocs()
			b.ResetTimer()
			before := cpuTime(b)
			sendEach(b, br, b.N, func(int) message.Message { return m }, func(int, SendResult) {})
			b.StopTimer()
			reportCPU(b, before)
		})
	}
}

// BenchmarkFire lets b.N timers fire that are due within so many milliseconds: all overdue at once.
func BenchmarkFire(b *testing.B) {
	for _, spread := range []int{1, 1000} {
		b.Run(fmt.Sprintf("spread=%dms", spread), func(b *testing.B) {
			br, c := openDelaying(b)
			sendEach(b, br, b.N, func(i int) message.Message {
				due := epoch.UnixMilli() + 3_600_000 + int64(i*7919%spread)
				return plain(string(make([]byte, 128)), "UNIQ_KEY", message.NewUniqueID(), "TIMER_DELIVER_MS", strconv.FormatInt(due, 10))
			}, func(int, SendResult) {})
			t, err := br.Topic("t")
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			before := cpuTime(b)
			c.Advance(time.Hour + time.Second)
			for n := int64(1); n > 0; {
				if n, err = br.store.Delay.Pending(t.ID); err != nil {
					b.Fatal(err)
				}
				<-time.After(time.Millisecond)
			}
			b.StopTimer()
			reportCPU(b, before)
		})
	}
}

// BenchmarkRecall takes b.N timers back, from 64 at a time.
func BenchmarkRecall(b *testing.B) {
	br, _ := openDelaying(b)
	handles := make([]string, b.N)
	sendEach(b, br, b.N, func(int) message.Message {
		return plain(string(make([]byte, 128)), "UNIQ_KEY", message.NewUniqueID(), "DELAY", "18")
	}, func(i int, r SendResult) { handles[i] = r.RecallHandle })
	b.ReportAllocs()
	b.ResetTimer()
	before := cpuTime(b)
	var next atomic.Int64
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
				if _, err := br.Recall(context.Background(), &RecallRequest{Topic: "t", Handle: handles[i]}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	b.StopTimer()
	reportCPU(b, before)
}
