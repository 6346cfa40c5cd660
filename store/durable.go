package store

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/record"
)

// What a start may have to apply again at most, roughly: it bounds the time to ready. A record costs the folder some
// microseconds whatever its size; the bytes count because they are read.
const (
	flushRecords  = 128 << 10
	flushLogBytes = 256 << 20
)

// durable is how much of the view is on disk. The view has no log of its own: what was not flushed is applied again from
// the commitlog after a crash. The engine syncs the log before a flush of its own accord as well (Options.BeforeFlush),
// so that the view on disk is never ahead of the log on disk.
type durable struct {
	covered  atomic.Int64 // all batches that end at or before this position are in the view on disk
	flushing atomic.Bool
	pending  sync.WaitGroup // the goroutine that waits for a flush

	// Since the last flush began; the folder's.
	records int64
	bytes   int64
}

// opened says how far the view reached when it was opened, all of which came from its disk.
func (d *durable) opened(at record.Position) { d.covered.Store(int64(at)) }

func (d *durable) advance(at record.Position) {
	for {
		old := d.covered.Load()
		if int64(at) <= old || d.covered.CompareAndSwap(old, int64(at)) {
			return
		}
	}
}

func (d *durable) wait() { d.pending.Wait() }

// flushIfDue is called by the folder after each batch. It begins a flush and does not wait for it.
func (s *Store) flushIfDue(b *commitlog.Batch) {
	d := &s.durable
	d.records += int64(len(b.Records))
	d.bytes += int64(b.End - b.Position)
	if d.records < flushRecords && d.bytes < flushLogBytes && !s.engine.FlushDue() || d.flushing.Load() {
		return
	}
	d.records, d.bytes = 0, 0
	d.flushing.Store(true)
	end := b.End // the batch is the log's again before the flush is over
	done := s.engine.StartFlush()
	d.pending.Go(func() {
		if err := <-done; err != nil {
			s.opts.Logger.Warn().Err(err).Msg("the index could not be flushed; the log keeps what it would have covered")
		} else {
			d.advance(end)
		}
		d.flushing.Store(false)
	})
}

// flushView makes the view durable up to what is applied now, at least, and returns that position.
func (s *Store) flushView() (record.Position, error) {
	at := s.applied.Load().End
	if err := s.engine.Flush(); err != nil {
		return 0, fmt.Errorf("store: flush index: %w", err)
	}
	s.durable.advance(at)
	return at, nil
}
