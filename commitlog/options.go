package commitlog

import (
	"fmt"
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

func (m Mode) String() string {
	switch m {
	case ModeSync:
		return "sync"
	case ModeInterval:
		return "interval"
	case ModeOS:
		return "os"
	}
	return fmt.Sprintf("mode-%d", uint8(m))
}

// Options of a log. The zero value of a field means its default.
type Options struct {
	// FS must allow a file to be written, synced and read at the same time, as the operating system's does.
	FS  vfs.FS // default vfs.Default
	Dir string // made when missing; the log's alone
	// SegmentSize in bytes, rounded up to 4096. It may change between runs; existing segments keep their size.
	SegmentSize   int64         // default 1 GiB
	Mode          Mode          //
	Interval      time.Duration // default 200 ms, ModeInterval only
	MaxPending    int64         // bytes proposed and not yet committed; above it Propose says ErrBusy; default 64 MiB
	MaxBatchBytes int           // a batch is closed at this size; default 4 MiB; one larger proposal still makes one batch
	Clock         clock.Clock   // default clock.System
	Logger        zerolog.Logger
	// Seal is called by the log writer for each record just before it is encoded, in log order; it may patch the
	// payload in place (same length). It must be fast and must not block. After a full disk it may be called a second
	// time for records that are proposed again.
	Seal func(timestamp int64, pos record.Position, r *record.Record)
	// OnCommit is called with every committed batch in log order, from one goroutine. It owns calling Proposal.Done.
	// It may block; the log then stops taking batches once its bounded hand-over queue is full. The batch and its
	// Records and Proposals slices are the log's again when it returns; Positions are not reused. It may call Sync and
	// Propose, but must not wait for a proposal. Without it the log calls Done itself.
	OnCommit func(*Batch)
}

const (
	// MaxProposal bounds the encoded records of one proposal in bytes, whatever MaxPending says.
	MaxProposal = 256 << 20

	// writeAhead is how many proposed bytes are worth a batch of their own while a sync is under way: encoding and
	// writing less than this takes a small part of a sync's time.
	writeAhead = 64 << 10
	// handOver bounds the batches that are written and not yet applied.
	handOver = 16

	pageSize  = 4096
	fillLead  = 16 << 20 // zero-filled ahead of the tail in ModeSync
	fillSlice = 2 << 20  // filled and synced in one go
	// probeEvery is how often a full disk is tried; a refused proposal tries it too, but not more often than probeGap.
	probeEvery = time.Second
	probeGap   = 100 * time.Millisecond
)

func (o Options) withDefaults() (Options, error) {
	if o.Dir == "" {
		return o, fmt.Errorf("commitlog: no directory given")
	}
	if o.Mode > ModeOS {
		return o, fmt.Errorf("commitlog: unknown %v", o.Mode)
	}
	if o.SegmentSize < 0 || o.Interval < 0 || o.MaxPending < 0 || o.MaxBatchBytes < 0 {
		return o, fmt.Errorf("commitlog: sizes and times must not be negative")
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.SegmentSize == 0 {
		o.SegmentSize = 1 << 30
	}
	o.SegmentSize = (o.SegmentSize + pageSize - 1) / pageSize * pageSize
	if o.Interval == 0 {
		o.Interval = 200 * time.Millisecond
	}
	if o.MaxPending == 0 {
		o.MaxPending = 64 << 20
	}
	if o.MaxBatchBytes == 0 {
		o.MaxBatchBytes = 4 << 20
	}
	o.MaxBatchBytes = min(o.MaxBatchBytes, MaxProposal)
	return o, nil
}

// slice and lead are fillSlice and fillLead, smaller where segments are.
func (o *Options) slice() int64 {
	return max(pageSize, min(fillSlice, o.SegmentSize/8/pageSize*pageSize))
}
func (o *Options) lead() int64 { return o.slice() * (fillLead / fillSlice) }
