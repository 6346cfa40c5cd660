package store

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/txn"
)

var epoch = time.Date(2026, 3, 1, 12, 30, 0, 0, time.UTC)

// noFolds leaves the store with catalog and queues.
func noFolds(kvindex.Engine) []kvindex.Fold { return nil }

// tb is what a *testing.T and a *rapid.T have in common.
type tb interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

// place is where a test's store lies: in a memory that can crash, or in a folder for the engine that needs one.
type place struct {
	fs  vfs.FS
	dir string
}

func newPlace(t testing.TB) place {
	if testEngine == kvindex.KindRocksDB {
		return place{vfs.Default, t.TempDir()}
	}
	return place{vfs.NewCrashableMem(), "data"}
}

// skipWithoutMemory skips a test whose faults need a file system in memory, which RocksDB does not know.
func skipWithoutMemory(t testing.TB) {
	if testEngine == kvindex.KindRocksDB {
		t.Skip("RocksDB has its files on the operating system's disk only")
	}
}

// testOptions are for a store with small segments.
func testOptions(p place, c clock.Clock) Options {
	return Options{
		FS: p.fs, Dir: p.dir, Engine: testEngine, SegmentSize: 64 << 10, CacheBytes: 8 << 20, Clock: c,
		Logger: zerolog.Nop(), horizon: time.Millisecond,
	}
}

func mustOpen(t tb, o Options) *Store {
	t.Helper()
	s, err := open(context.Background(), o, noFolds)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return s
}

func mustClose(t tb, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

func mustAppend(t tb, s *Store, recs ...record.Record) []record.Outcome {
	t.Helper()
	out, err := s.Append(context.Background(), recs...)
	if err != nil {
		t.Fatalf("append: %v", err)
	}
	return out
}

func mustVerify(t tb, s *Store) {
	t.Helper()
	if err := s.Verify(context.Background()); err != nil {
		t.Fatalf("verify: %v", err)
	}
}

// putTopic makes a topic with 8 queues and returns its id.
func putTopic(t tb, s *Store, name string) kvindex.ID {
	t.Helper()
	out := mustAppend(t, s, s.Catalog.PutTopic(catalog.Topic{Name: name, ReadQueues: 8, WriteQueues: 8, Perm: 6}))
	return kvindex.ID(out[0].Offset)
}

// note is a message as tests write it.
type note struct {
	topic kvindex.ID
	queue int32
	id    string // unique id
	keys  string
	tag   string
	body  string
}

func (n note) record(t tb) record.Record {
	t.Helper()
	props := map[string]string{}
	for key, value := range map[string]string{
		message.PropUniqueKey: n.id, message.PropKeys: n.keys, message.PropTags: n.tag,
	} {
		if value != "" {
			props[key] = value
		}
	}
	r, err := MessageRecord(n.topic, &message.Message{
		Topic: fmt.Sprintf("topic-%d", n.topic), QueueID: n.queue, Body: []byte(n.body),
		Properties: message.EncodeProperties(props), BornTimestamp: epoch.UnixMilli(),
		BornHost: netip.MustParseAddrPort("10.0.0.1:5000"), StoreHost: netip.MustParseAddrPort("10.0.0.2:10911"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func send(t tb, s *Store, notes ...note) []record.Outcome {
	t.Helper()
	var recs []record.Record
	for _, n := range notes {
		recs = append(recs, n.record(t))
	}
	return mustAppend(t, s, recs...)
}

// readAll reads a queue from offset on, at most n messages.
func readAll(t tb, s *Store, topic kvindex.ID, queue int32, offset int64, n int) []message.Message {
	t.Helper()
	entries, err := s.Entries(topic, queue, offset, n, nil)
	if err != nil {
		t.Fatalf("entries: %v", err)
	}
	var out []message.Message
	for len(entries) > 0 {
		buf := NewBuffer()
		ends, err := s.ReadMessages(entries, 1<<20, buf)
		if err != nil {
			t.Fatalf("read: %v", err)
		}
		out = append(out, decodeAll(t, append([]byte(nil), buf.B...), ends)...)
		for i := range ends {
			m := &out[len(out)-len(ends)+i]
			if e := entries[i]; m.QueueOffset != e.Offset || m.PhysicalOffset != int64(e.Position) ||
				m.StoreTimestamp != e.StoreTime {
				t.Fatalf("message %+v does not fit entry %+v", m, e)
			}
		}
		entries = entries[len(ends):]
		buf.Release()
	}
	return out
}

func decodeAll(t tb, b []byte, ends []int) []message.Message {
	t.Helper()
	var out []message.Message
	start := 0
	for _, end := range ends {
		m, n, err := message.Decode(b[start:end])
		if err != nil || n != end-start {
			t.Fatalf("decode %d bytes: %d, %v", end-start, n, err)
		}
		out = append(out, m)
		start = end
	}
	return out
}

func bodies(ms []message.Message) []string {
	out := []string{}
	for _, m := range ms {
		out = append(out, string(m.Body))
	}
	return out
}

// proposal appends recs as one proposal and answers it, positions and all.
func proposal(t tb, s *Store, recs []record.Record) *commitlog.Proposal {
	t.Helper()
	done := make(chan struct{})
	p := &commitlog.Proposal{Records: recs, Done: func(*commitlog.Proposal) { close(done) }}
	if err := s.Propose(p); err != nil {
		t.Fatalf("propose: %v", err)
	}
	<-done
	if p.Err != nil {
		t.Fatalf("proposal: %v", p.Err)
	}
	return p
}

// endProposal commits a half message; nobody waits for it.
func endProposal(at record.Position) *commitlog.Proposal {
	return &commitlog.Proposal{Records: []record.Record{txn.End{Position: at, Action: txn.Commit}.Record()}, Done: func(*commitlog.Proposal) {}}
}
