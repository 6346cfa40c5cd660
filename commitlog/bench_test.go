package commitlog

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/cairnmq/cairn/internal/record"
)

// cpuTime is the time that the process has spent on processors.
func cpuTime() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		panic(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func startForBenchmark(b *testing.B, opts Options) *Log {
	b.Helper()
	opts.FS, opts.Dir = vfs.Default, b.TempDir()
	l, err := Open(opts)
	if err != nil {
		b.Fatal(err)
	}
	if err := l.Replay(0, func(*Batch) error { return nil }); err != nil {
		b.Fatal(err)
	}
	if err := l.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := l.Close(); err != nil {
			b.Error(err)
		}
	})
	return l
}

// report adds percentiles of the latencies, processor time per record and what the batches were like.
func report(b *testing.B, l *Log, lat []time.Duration, cpu time.Duration) {
	slices.Sort(lat)
	for _, q := range []struct {
		name string
		at   float64
	}{{"p50", 0.5}, {"p99", 0.99}, {"p99.9", 0.999}} {
		b.ReportMetric(float64(lat[int(q.at*float64(len(lat)-1))].Nanoseconds())/1e3, q.name+"-µs")
	}
	st := l.Stats()
	b.ReportMetric(float64(cpu.Nanoseconds())/float64(st.Records), "cpu-ns/record")
	b.ReportMetric(float64(st.Records)/float64(st.Batches), "records/batch")
	if st.Syncs > 0 {
		b.ReportMetric(float64(st.Batches)/float64(st.Syncs), "batches/sync")
	}
}

// BenchmarkAppend is a closed loop: each proposer waits for one record of 341 bytes of payload (350 encoded) to be applied.
func BenchmarkAppend(b *testing.B) {
	for _, mode := range []Mode{ModeSync, ModeInterval, ModeOS} {
		for _, proposers := range []int{1, 8, 64} {
			b.Run(fmt.Sprintf("mode=%v/proposers=%d", mode, proposers), func(b *testing.B) {
				l := startForBenchmark(b, Options{Mode: mode})
				var wg sync.WaitGroup
				var left atomic.Int64
				left.Store(int64(b.N))
				lats := make([][]time.Duration, proposers)
				b.ResetTimer()
				cpu := cpuTime()
				for i := range proposers {
					wg.Go(func() {
						recs := []record.Record{{Kind: 1, Payload: make([]byte, 341)}}
						for left.Add(-1) >= 0 {
							start := time.Now()
							if _, err := l.Append(context.Background(), recs); err != nil {
								b.Error(err)
								return
							}
							lats[i] = append(lats[i], time.Since(start))
						}
					})
				}
				wg.Wait()
				b.StopTimer()
				cpu = cpuTime() - cpu
				report(b, l, slices.Concat(lats...), cpu)
			})
		}
	}
}

// BenchmarkFlood keeps thousands of records of 350 encoded bytes on their way from one goroutine: what the log costs at
// high load.
func BenchmarkFlood(b *testing.B) {
	for _, mode := range []Mode{ModeSync, ModeOS} {
		for _, size := range []int{341, 1024} {
			b.Run(fmt.Sprintf("mode=%v/payload=%d", mode, size), func(b *testing.B) {
				const onTheWay = 8192
				l := startForBenchmark(b, Options{Mode: mode})
				free := make(chan *Proposal, onTheWay)
				lat := make([]time.Duration, 0, b.N)
				for range onTheWay {
					p := &Proposal{Records: []record.Record{{Kind: 1, Payload: make([]byte, size)}}}
					p.Done = func(p *Proposal) {
						if start, ok := p.Context.(*time.Time); ok && !start.IsZero() {
							lat = append(lat, time.Since(*start))
						}
						free <- p
					}
					p.Context = &time.Time{}
					free <- p
				}
				b.SetBytes(int64(RecordSize(size)))
				b.ResetTimer()
				cpu := cpuTime()
				for i := range b.N {
					p := <-free
					if start := p.Context.(*time.Time); i%64 == 0 {
						*start = time.Now()
					} else {
						*start = time.Time{}
					}
					if err := l.Propose(p); err != nil {
						b.Fatal(err)
					}
				}
				for range onTheWay {
					<-free
				}
				b.StopTimer()
				cpu = cpuTime() - cpu
				report(b, l, lat, cpu)
			})
		}
	}
}

// BenchmarkStart measures from Open to the first record applied, behind a log of about 350 MB that the view has applied
// wholly (the usual restart) or not at all.
func BenchmarkStart(b *testing.B) {
	const size = 1_000_000
	opts := Options{FS: vfs.Default, Dir: b.TempDir(), Mode: ModeOS}
	l, _ := start(b, Options{FS: opts.FS, Dir: opts.Dir, Mode: ModeOS, OnCommit: func(batch *Batch) {
		for _, p := range batch.Proposals {
			p.Done(p)
		}
	}})
	var wg sync.WaitGroup
	payload := make([]byte, 341)
	for range size / 1000 {
		p := &Proposal{Done: func(*Proposal) { wg.Done() }}
		for range 1000 {
			p.Records = append(p.Records, record.Record{Kind: 1, Payload: payload})
		}
		wg.Add(1)
		for errors.Is(l.Propose(p), ErrBusy) {
			runtime.Gosched()
		}
	}
	wg.Wait()
	closeLog(b, l)
	end := l.Committed()
	for name, from := range map[string]record.Position{"applied": end, "replayed": 0} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				opts.Mode = ModeSync
				l, err := Open(opts)
				if err != nil {
					b.Fatal(err)
				}
				if err := l.Replay(from, func(*Batch) error { return nil }); err != nil {
					b.Fatal(err)
				}
				if err := l.Start(); err != nil {
					b.Fatal(err)
				}
				if _, err := l.Append(context.Background(), []record.Record{{Kind: 1}}); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if from != 0 {
					from = l.Committed()
				}
				closeLog(b, l)
				b.StartTimer()
			}
		})
	}
}
