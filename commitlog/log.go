package commitlog


import (
	"context"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
)

// Mode says when a batch counts as committed.
type Mode uint8

const (
	ModeSync     Mode = iota // fdatasync before commit (default)
	ModeInterval             // committed once written; synced every Interval
	ModeOS                   // committed once written; synced by the OS, on segment roll and on Sync
)

type Options struct {
	FS            vfs.FS // default vfs.Default
	Dir           string
	SegmentSize   int64         // default 1 GiB
	Mode          Mode          //
	Interval      time.Duration // default 200 ms, ModeInterval only
	MaxPending    int64         // bytes proposed and not yet committed; above it Propose says ErrBusy; default 64 MiB
	MaxBatchBytes int           // a batch is closed at this size; default 4 MiB; one larger proposal still makes one batch
	Clock         clock.Clock
	Logger        zerolog.Logger
	// Seal is called by the log writer for each record just before it is encoded, in log order; it may patch the
	// payload in place (same length). It must be fast and must not block.
	Seal func(timestamp int64, pos record.Position, r *record.Record)
	// OnCommit is called with every committed batch in log order, from one goroutine. It owns calling Proposal.Done.
	// It may block; the log then stops taking batches once its bounded hand-over queue is full.
	OnCommit func(*Batch)
}

// Batch is one group commit.
type Batch struct {
	Position  record.Position // of the batch header
	End       record.Position // of the byte after the batch
	Term      uint64
	Index     uint64 // 1, 2, 3 … one more for each batch
	Timestamp int64  // ms since 1970, never less than the batch before
	Records   []record.Record
	Positions []record.Position // of each record
	// Proposals are those that wait for this batch, in order; together they hold exactly Records. Nil in a replay.
	Proposals []*Proposal
}

// Proposal is a set of records that go into one batch together, and the promise of their outcome.
type Proposal struct {
	Records []record.Record
	// Done is called exactly once when the proposal was applied or has failed; it must not block. After a Propose that
	// returned an error it is not called.
	Done func(*Proposal)

	// Set before Done is called.
	Err       error
	Timestamp int64             // of the batch
	Positions []record.Position // aligned with Records
	Outcomes  []record.Outcome  // aligned with Records
	// Context is the proposer's own; the log does not touch it.
	Context any
}

type Log struct{}

func Open(opts Options) (*Log, error) { panic("unbuilt") }

// Replay calls apply for each whole batch from position from (a batch boundary; 0 or the log's start for all), cuts a
// torn tail durably, and must be called once before Start. Errors: *CorruptError (not at the tail), ErrViewAhead.
func (l *Log) Replay(from record.Position, apply func(*Batch) error) error { panic("unbuilt") }

// Start begins to accept proposals.
func (l *Log) Start() error { panic("unbuilt") }

// Propose queues p. It never blocks: ErrBusy (pending bound), ErrDiskFull (read-only until space is back), ErrFailed
// (fail-stop, wraps the cause), ErrClosed, ErrTooLarge.
func (l *Log) Propose(p *Proposal) error { panic("unbuilt") }

// Append proposes recs as one proposal and waits for them to be applied.
func (l *Log) Append(ctx context.Context, recs []record.Record) (*Proposal, error) { panic("unbuilt") }

// ReadAt reads the record at pos whose encoded size, header included, is size; it checks its CRC. The payload returned is
// a slice of buf (grown when too small). Errors: ErrGone (deleted segment), *CorruptError, ErrNotFound (beyond the end).
func (l *Log) ReadAt(pos record.Position, size int, buf []byte) (record.Record, []byte, error) {
	panic("unbuilt")
}

// ReadRaw reads n bytes at pos, less at a segment's end, without any check, for neighbours that are read together;
// ParseRecord then checks and splits each.
func (l *Log) ReadRaw(pos record.Position, n int, buf []byte) ([]byte, error) { panic("unbuilt") }

// ParseRecord checks the record at the front of raw and says how long it is, header included. The payload aliases raw.
func ParseRecord(raw []byte) (record.Record, int, error) { panic("unbuilt") }

// RecordSize is the encoded size of a record with a payload of n bytes.
func RecordSize(n int) int { panic("unbuilt") }

// Sync makes all that was written so far durable (no-op when it is already).
func (l *Log) Sync() error { panic("unbuilt") }

func (l *Log) First() record.Position     { panic("unbuilt") } // start of the oldest segment
func (l *Log) Committed() record.Position { panic("unbuilt") } // end of the newest committed batch
func (l *Log) Durable() record.Position   { panic("unbuilt") } // synced up to here

// DeleteBefore deletes whole segments whose end is ≤ pos, never the active one; returns how many bytes went.
func (l *Log) DeleteBefore(pos record.Position) (int64, error) { panic("unbuilt") }

// Close commits what was proposed, syncs and closes.
func (l *Log) Close() error { panic("unbuilt") }
