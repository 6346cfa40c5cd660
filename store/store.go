// Package store joins log and index: append → durable → fold → visible, and the reads of queues, keys and times.
package store

import (
	"context"
	"errors"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/pop"
)

type Options struct {
	FS          vfs.FS
	Dir         string // holds log/, index/, LOCK
	Engine      string // "pebble" (default) or "rocksdb" (build tag grocksdb)
	CacheBytes  int64  // the engine's block cache and memtables come out of this budget
	SegmentSize int64
	Mode        commitlog.Mode
	Interval    time.Duration
	Retention   time.Duration // how long messages stay, default 72 h
	Clock       clock.Clock
	Logger      zerolog.Logger
	// OnApplied is called by the folder goroutine after each applied batch became visible; it must not block. The slice is
	// reused after it returns.
	OnApplied func(arrivals []Arrival)
}

// Arrival says that a queue grew.
type Arrival struct {
	Topic     kvindex.ID
	Queue     int32
	First     int64 // offset of the first new message
	Count     int
	TagHashes []int64 // of the new messages, in order
}

type Store struct {
	Catalog *catalog.Catalog
	Pop     *pop.State
}

// Recovery tells how a start went.
type Recovery struct {
	Batches, Records int64
	LogBytes         int64
	Took             time.Duration
	Cut              int64 // bytes of torn tail that were cut
}

func Open(ctx context.Context, opts Options) (*Store, error) { panic("unbuilt") }
func (s *Store) Recovery() Recovery                          { panic("unbuilt") }

// Propose hands a proposal to the log; errors are those of commitlog.Log.Propose. Done runs on the folder goroutine.
func (s *Store) Propose(p *commitlog.Proposal) error { panic("unbuilt") }

// Append proposes recs as one proposal and waits until they are applied.
func (s *Store) Append(ctx context.Context, recs ...record.Record) ([]record.Outcome, error) {
	panic("unbuilt")
}

// Reader is the index for lookups of the latest applied state.
func (s *Store) Reader() kvindex.Reader { panic("unbuilt") }

// Bounds of a queue: min is the first offset that is there, max the next one to be given. 0, 0 for a queue never written.
func (s *Store) Bounds(topic kvindex.ID, queue int32) (min, max int64, err error) { panic("unbuilt") }

// Entry is one place in a queue.
type Entry struct {
	Offset    int64
	Position  record.Position
	Size      int32 // of the log record, header included
	TagHash   int64
	StoreTime int64 // ms: when it became visible
}

// Entries appends up to max entries from offset on (at most the queue's end) to dst.
func (s *Store) Entries(topic kvindex.ID, queue int32, offset int64, max int, dst []Entry) ([]Entry, error) {
	panic("unbuilt")
}

// Buffer is a pooled read buffer; Release returns it. Slices handed out with it are valid until then.
type Buffer struct{ B []byte }

func (b *Buffer) Release() { panic("unbuilt") }

// ReadMessages appends the stored layouts of entries to buf.B, one after the other, with queue offset and physical
// offset filled in, and returns the end of each in buf.B. Neighbours in the log are read together. It stops early when the
// bytes read exceed maxBytes (the first one is always read). An entry whose body is gone ends it with
// commitlog.ErrGone.
func (s *Store) ReadMessages(entries []Entry, maxBytes int, buf *Buffer) (ends []int, err error) {
	panic("unbuilt")
}

func NewBuffer() *Buffer { panic("unbuilt") }

// ReadByPosition reads the message whose record is at position, with its queue offset filled in; ErrNotFound when there is none.
func (s *Store) ReadByPosition(pos record.Position, buf *Buffer) ([]byte, error) { panic("unbuilt") }

// Boundary chooses among equal timestamps.
type Boundary int

const (
	Lower Boundary = iota // first offset whose store time ≥ t
	Upper                 // last offset whose store time ≤ t
)

// OffsetByTime is exact to the millisecond. Lower past the end answers max; Upper before the beginning answers min.
func (s *Store) OffsetByTime(topic kvindex.ID, queue int32, ms int64, b Boundary) (int64, error) {
	panic("unbuilt")
}

// StoreTime of one offset; ErrNotFound outside the queue.
func (s *Store) StoreTime(topic kvindex.ID, queue int32, offset int64) (int64, error) {
	panic("unbuilt")
}

// Query appends the messages of a topic with this key (or unique id) stored in [begin, end] ms to buf, newest first, at most max.
func (s *Store) Query(topic kvindex.ID, kind kvindex.IndexKind, key string, begin, end int64, max int, buf *Buffer) (ends []int, err error) {
	panic("unbuilt")
}

var ErrNotFound = errors.New("no such message")

// MessageRecord makes the record of a message: the topic's id, then the stored layout with its final topic and queue id.
// Offsets and store time are 0 in it: Seal fills in position and store time, the fold gives the queue offset.
//
//	┌──────────┬────────────────┐
//	│ topic 8  │ stored layout… │
//	└──────────┴────────────────┘
func MessageRecord(topic kvindex.ID, m *message.Message) (record.Record, error) { panic("unbuilt") }

// Expire trims what is past retention, drops old index hours and deletes covered segments. The broker's due loop calls it.
func (s *Store) Expire(ctx context.Context, now time.Time) error { panic("unbuilt") }

// Health says whether writes are accepted: nil, commitlog.ErrDiskFull, commitlog.ErrFailed….
func (s *Store) Health() error { panic("unbuilt") }

// Stats for metrics and tools.
type Stats struct {
	LogFirst, LogCommitted, LogDurable, Applied record.Position
	IndexBytes, LogBytes                        int64
	DiskTotal, DiskFree                         uint64
	OldestStoreTime                             int64
}

func (s *Store) Stats() Stats { panic("unbuilt") }

// Verify rebuilds the view from the log in memory where the log still reaches back to its beginning, and compares it
// with the live one row by row. Rebuild does it into dir.
func (s *Store) Verify(ctx context.Context) error { panic("unbuilt") }

// Close flushes the view, closes the log.
func (s *Store) Close() error { panic("unbuilt") }
