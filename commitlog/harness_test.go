package commitlog

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/cairnmq/cairn/internal/record"
)

const testDir = "/log"

// applied is what OnCommit or a replay was given.
type applied struct {
	index     uint64
	pos, end  record.Position
	timestamp int64
	payloads  []string
	at        []record.Position
}

func copyBatch(b *Batch) applied {
	a := applied{index: b.Index, pos: b.Position, end: b.End, timestamp: b.Timestamp, at: slices.Clone(b.Positions)}
	for _, r := range b.Records {
		a.payloads = append(a.payloads, string(r.Payload))
	}
	return a
}

// history collects batches in the order in which they came.
type history struct {
	mu      sync.Mutex
	batches []applied
}

func (h *history) add(b *Batch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.batches = append(h.batches, copyBatch(b))
}

func (h *history) onCommit(b *Batch) {
	h.add(b)
	for _, p := range b.Proposals {
		p.Done(p)
	}
}

func (h *history) payloads() (all []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, b := range h.batches {
		all = append(all, b.payloads...)
	}
	return all
}

func (h *history) last() applied {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.batches[len(h.batches)-1]
}

// testOptions are for a small log in memory, quick to crash.
func testOptions(fs vfs.FS) Options {
	return Options{FS: fs, Dir: testDir, SegmentSize: 16 << 10}
}

// replay opens a log and replays all of it.
func replay(opts Options) (*Log, *history, error) {
	l, err := Open(opts)
	if err != nil {
		return nil, nil, err
	}
	h := &history{}
	err = l.Replay(l.First(), func(b *Batch) error { h.add(b); return nil })
	return l, h, err
}

// start opens, replays and starts a log. The history has what was replayed, and gets what is committed unless opts say
// otherwise.
func start(t testing.TB, opts Options) (*Log, *history) {
	t.Helper()
	var h *history
	if opts.OnCommit == nil {
		opts.OnCommit = func(b *Batch) { h.onCommit(b) }
	}
	l, replayed, err := replay(opts)
	if err != nil {
		t.Fatal(err)
	}
	h = replayed
	if err := l.Start(); err != nil {
		t.Fatal(err)
	}
	return l, h
}

func closeLog(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func records(payloads ...string) []record.Record {
	recs := make([]record.Record, len(payloads))
	for i, p := range payloads {
		recs[i] = record.Record{Kind: record.KindMessage, Payload: []byte(p)}
	}
	return recs
}

// add appends payloads as one proposal and returns it.
func add(t testing.TB, l *Log, payloads ...string) *Proposal {
	t.Helper()
	p, err := l.Append(context.Background(), records(payloads...))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// promise is a proposal whose outcome can be waited for.
type promise struct {
	*Proposal
	done chan struct{}
}

func newPromise(payloads ...string) promise {
	done := make(chan struct{})
	return promise{&Proposal{Records: records(payloads...), Done: func(*Proposal) { close(done) }}, done}
}

func (p promise) wait(t testing.TB) error {
	t.Helper()
	select {
	case <-p.done:
		return p.Err
	case <-time.After(10 * time.Second):
		t.Fatal("a proposal was never done")
		return nil
	}
}

// eventually polls until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func equal(t testing.TB, what string, got, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("%s:\n got %v\nwant %v", what, got, want)
	}
}

// filler is a payload of n bytes that begins with name.
func filler(name string, n int) string {
	b := make([]byte, max(n, len(name)))
	for i := range b {
		b[i] = 'a' + byte(i%23)
	}
	copy(b, name)
	return string(b)
}
