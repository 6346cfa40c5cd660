package commitlog

import (
	"fmt"

	"github.com/cairnmq/cairn/internal/record"
)

// round is one turn of the syncer: all that was written when it began.
type round struct {
	to      record.Position
	files   []*handle
	batches []*flight // ModeSync only
}

// syncLoop is the syncer: while somebody wants more to be durable than is, it syncs all that was written.
func (l *Log) syncLoop() {
	var r round
	for l.beginRound(&r) {
		var err error
		for _, f := range r.files {
			if err == nil {
				err = f.SyncData()
			}
			f.release()
		}
		if err != nil {
			l.fail("sync", err)
		}
		l.endRound(&r, err)
	}
	l.mu.Lock()
	l.mu.syncerExited = true
	l.wakeAllLocked()
	l.mu.Unlock()
}

// beginRound waits for something to sync and moves it to r, whose slices are reused. It is false when the writer has gone
// and all is done. After a failure it only gives up what was written and never synced.
func (l *Log) beginRound(r *round) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		work := l.mu.want > l.Durable()
		if l.mu.failure != nil {
			work = len(l.mu.unsynced) > 0 || len(l.mu.dirty) > 0
		}
		switch {
		case work:
			r.to = l.mu.written
			r.files, l.mu.dirty = l.mu.dirty, clearSlice(r.files)
			r.batches, l.mu.unsynced = l.mu.unsynced, clearSlice(r.batches)
			if err := l.mu.failure; err != nil {
				l.mu.Unlock()
				l.abandon(r, err)
				l.mu.Lock()
				continue
			}
			l.mu.syncing = true
			return true
		case l.mu.writerExited:
			return false
		}
		l.mu.toSync.Wait()
	}
}

// endRound commits the batches of a round that was synced, or fails their proposals.
func (l *Log) endRound(r *round, err error) {
	if err != nil {
		r.files = r.files[:0] // released
		l.abandon(r, l.State())
		return
	}
	l.counts.syncs.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.syncing = false
	l.durable.Store(int64(r.to))
	if l.opts.Mode == ModeSync {
		l.committed.Store(int64(r.to))
		l.mu.ready = append(l.mu.ready, r.batches...)
		l.mu.toApply.Signal()
	}
	l.mu.synced.Broadcast()
	if l.worthWritingLocked() {
		l.mu.toWrite.Signal()
	}
}

// abandon lets go of a round that will never be synced.
func (l *Log) abandon(r *round, err error) {
	for _, h := range r.files {
		h.release()
	}
	for _, f := range r.batches {
		l.giveUp(f.Proposals, err)
	}
}

func clearSlice[T any](s []T) []T {
	clear(s)
	return s[:0]
}

// applyLoop is the committer: it hands one committed batch after the other to OnCommit.
func (l *Log) applyLoop() {
	apply := l.opts.OnCommit
	if apply == nil {
		apply = func(b *Batch) {
			for _, p := range b.Proposals {
				p.Done(p)
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		for len(l.mu.ready) == 0 {
			if l.mu.syncerExited {
				return
			}
			l.mu.toApply.Wait()
		}
		f := l.mu.ready[0]
		n := copy(l.mu.ready, l.mu.ready[1:])
		l.mu.ready[n] = nil
		l.mu.ready = l.mu.ready[:n]
		if l.worthWritingLocked() {
			l.mu.toWrite.Signal()
		}
		l.mu.Unlock()
		apply(&f.Batch)
		l.mu.Lock()
		l.mu.pending -= int64(f.bytes)
		l.mu.inFlight--
		l.recycleLocked(f)
		if l.worthWritingLocked() {
			l.mu.toWrite.Signal()
		}
	}
}

// intervalLoop asks for a sync every Interval.
func (l *Log) intervalLoop() {
	timer := l.opts.Clock.NewTimer(l.opts.Interval)
	defer timer.Stop()
	for {
		select {
		case <-l.writerGone:
			return
		case <-timer.C():
		}
		l.mu.Lock()
		if l.mu.want < l.mu.written {
			l.mu.want = l.mu.written
			l.mu.toSync.Signal()
		}
		l.mu.Unlock()
		timer.Reset(l.opts.Interval)
	}
}

// Sync makes all that was written so far durable (no-op when it is already). It returns the failure that stopped the log
// when that keeps it from doing so.
func (l *Log) Sync() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	to := l.mu.written
	if l.Durable() >= to {
		return nil
	}
	if l.mu.want < to {
		l.mu.want = to
		l.mu.toSync.Signal()
	}
	for l.Durable() < to {
		if l.mu.failure != nil {
			return l.mu.failure
		}
		if l.mu.syncerExited {
			return fmt.Errorf("commitlog: sync: %w", ErrClosed)
		}
		l.mu.synced.Wait()
	}
	return nil
}
