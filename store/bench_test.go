package store

import (
	"context"
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
)

// benchMessage is what a Java producer sends: 128 bytes of body and the usual properties.
func benchMessage(n int, queue int32) message.Message {
	var props []byte
	for _, p := range [][2]string{
		{message.PropUniqueKey, fmt.Sprintf("7F00000100002A139A55%012d", n)}, {message.PropTags, "TagA"},
		{message.PropWait, "true"}, {message.PropCluster, "DefaultCluster"}, {message.PropRegion, "DefaultRegion"},
		{message.PropTraceOn, "true"},
	} {
		props = message.AppendProperty(props, p[0], p[1])
	}
	return message.Message{
		Topic: "BenchmarkTest", QueueID: queue, Body: make([]byte, 128), Properties: props,
		BornHost: netip.MustParseAddrPort("10.0.0.1:5000"), StoreHost: netip.MustParseAddrPort("10.0.0.2:10911"),
	}
}

// The fold alone, with the engine on the disk and its flushes: what a message costs the folder.
func BenchmarkFold(b *testing.B) {
	for _, size := range []int{1, 32, 1000} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			e, err := kvindex.Open(kvindex.Options{
				FS: vfs.Default, Dir: b.TempDir(), Kind: testEngine, Logger: zerolog.Nop(),
			})
			if err != nil {
				b.Fatal(err)
			}
			defer e.Close()
			f := newFolder(e, noFolds)
			defer f.batch.Close()
			batches := benchBatches(b, f, size)
			b.ReportAllocs()
			b.ResetTimer()
			before := cpuTime(b)
			pos := record.Position(1 << 20)
			for n := 0; n < b.N; n += size {
				batch := batches[n/size%len(batches)]
				batch.Position, batch.Index = pos, batch.Index+1
				batch.Timestamp = epoch.UnixMilli() + int64(n/1000)
				pos += 72
				for i := range batch.Records {
					batch.Positions[i] = pos
					pos += record.Position(commitlog.RecordSize(len(batch.Records[i].Payload)))
				}
				batch.End = pos
				if _, err := f.apply(batch); err != nil {
					b.Fatal(err)
				}
				f.reset()
				if e.FlushDue() {
					e.StartFlush()
				}
			}
			b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// cpuTime is what the process has used, with the engine's flushes and compactions, in ns.
func cpuTime(b *testing.B) int64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

func benchBatches(b *testing.B, f *folder, size int) []*commitlog.Batch {
	b.Helper()
	create := &commitlog.Batch{
		End: 1, Index: 1, Timestamp: epoch.UnixMilli(), Positions: []record.Position{0},
		Records: []record.Record{{Kind: record.KindTopicPut, Payload: []byte("\x00\x01a{}")}},
	}
	out, err := f.apply(create)
	if err != nil {
		b.Fatal(err)
	}
	f.reset()
	var batches []*commitlog.Batch
	for n := 0; n < 64<<10; {
		batch := &commitlog.Batch{Positions: make([]record.Position, size)}
		for range size {
			m := benchMessage(n*7919, int32(n%8))
			r, err := MessageRecord(kvindex.ID(out[0].Offset), &m)
			if err != nil {
				b.Fatal(err)
			}
			batch.Records = append(batch.Records, r)
			n++
		}
		batches = append(batches, batch)
	}
	return batches
}

// filled is a store on the disk with messages in 8 queues of one topic, which came in batches of about batch.
func filled(b testing.TB, dir string, messages, batch int) (*Store, kvindex.ID) {
	b.Helper()
	s := mustOpen(b, Options{Dir: dir, Engine: testEngine, Logger: zerolog.Nop(), Clock: clock.System})
	topic := putTopic(b, s, "a")
	fill(b, s, topic, messages, batch)
	return s, topic
}

func fill(b testing.TB, s *Store, topic kvindex.ID, messages, batch int) {
	b.Helper()
	for n := 0; n < messages; {
		var recs []record.Record
		for range batch {
			m := benchMessage(n, int32(n%8))
			r, err := MessageRecord(topic, &m)
			if err != nil {
				b.Fatal(err)
			}
			recs = append(recs, r)
			n++
		}
		if _, err := s.Append(context.Background(), recs...); err != nil {
			b.Fatal(err)
		}
	}
}

// What a pull of 32 messages costs below the door: the entries, and the layouts ready to be sent.
func BenchmarkPull(b *testing.B) {
	for _, batch := range []int{1, 100, 5000} {
		messages := 200_000
		if batch == 1 {
			messages = 20_000
		}
		s, topic := filled(b, b.TempDir(), messages, batch)
		perQueue := int64(messages / 8)
		var entries []Entry
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			b.ReportAllocs()
			offset, got := int64(0), 0
			before := cpuTime(b)
			for b.Loop() {
				var err error
				if entries, err = s.Entries(topic, 3, offset, 32, entries[:0]); err != nil {
					b.Fatal(err)
				}
				buf := NewBuffer()
				ends, err := s.ReadMessages(entries, 1<<20, buf)
				if err != nil || len(ends) != len(entries) {
					b.Fatal(len(ends), err)
				}
				got += len(ends)
				buf.Release()
				if offset += 32; offset >= perQueue-32 {
					offset = 0
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(got), "ns/message")
			b.ReportMetric(float64(cpuTime(b)-before)/float64(got), "cpu-ns/message")
		})
		b.Run(fmt.Sprintf("batch=%d/entries", batch), func(b *testing.B) {
			b.ReportAllocs()
			offset := int64(0)
			for b.Loop() {
				var err error
				if entries, err = s.Entries(topic, 3, offset, 32, entries[:0]); err != nil {
					b.Fatal(err)
				}
				if offset += 32; offset >= perQueue-32 {
					offset = 0
				}
			}
		})
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOffsetByTime(b *testing.B) {
	s, topic := filled(b, b.TempDir(), 200_000, 100)
	defer s.Close()
	now := time.Now().UnixMilli()
	for b.Loop() {
		if _, err := s.OffsetByTime(topic, 3, now-500, Lower); err != nil {
			b.Fatal(err)
		}
	}
}

// One proposal at a time, and many: what the store adds to the log.
func BenchmarkAppend(b *testing.B) {
	for _, at := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", at), func(b *testing.B) {
			s := mustOpen(b, Options{Dir: b.TempDir(), Engine: testEngine, Logger: zerolog.Nop(), Clock: clock.System})
			defer s.Close()
			topic := putTopic(b, s, "a")
			b.ReportAllocs()
			b.SetParallelism(at)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for n := 0; pb.Next(); n++ {
					m := benchMessage(n, int32(n%8))
					r, err := MessageRecord(topic, &m)
					if err != nil {
						b.Error(err)
						return
					}
					if _, err := s.Append(context.Background(), r); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
