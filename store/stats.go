package store

import (
	"fmt"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/record"
)

// Health says whether writes are accepted: nil, commitlog.ErrDiskFull, an error that wraps commitlog.ErrFailed and why
// (with ErrViewFailed when it is the index that cannot go on), or one that wraps commitlog.ErrBusy while the index cannot
// take what the log has.
func (s *Store) Health() error {
	if err := s.viewError(); err != nil {
		return err
	}
	if err := s.log.State(); err != nil {
		return err
	}
	if err := s.stuck.Load(); err != nil {
		return fmt.Errorf("store: %w: %w", commitlog.ErrBusy, *err)
	}
	return nil
}

// Stats for metrics and tools. Positions and sizes in bytes, times in ms.
type Stats struct {
	LogFirst, LogCommitted, LogDurable, Applied record.Position
	// Covered: the view on disk holds all batches that end at or before it.
	Covered              record.Position
	IndexBytes, LogBytes int64
	DiskTotal, DiskFree  uint64 // of the file system that holds the data; 0 where it does not tell
	// OldestStoreTime is that of the oldest message that is kept, to the hour's first message; 0 when there is none.
	OldestStoreTime int64
}

// Stats are of the moment; they cost a few reads.
func (s *Store) Stats() Stats {
	st := Stats{
		LogFirst: s.log.First(), LogCommitted: s.log.Committed(), LogDurable: s.log.Durable(),
		Applied:    s.applied.Load().End,
		Covered:    record.Position(s.durable.covered.Load()),
		IndexBytes: int64(s.engine.DiskUsage()),
	}
	st.LogBytes = int64(st.LogCommitted - st.LogFirst)
	if usage, err := s.opts.FS.GetDiskUsage(s.opts.Dir); err == nil {
		st.DiskTotal, st.DiskFree = usage.TotalBytes, usage.AvailBytes
	}
	if b, ok, err := s.firstBucket(0); err == nil && ok {
		st.OldestStoreTime = b.timestamp
	}
	return st
}

func (st Stats) String() string {
	return fmt.Sprintf("log %d..%d durable %d, view %d durable %d", st.LogFirst, st.LogCommitted, st.LogDurable,
		st.Applied, st.Covered)
}
