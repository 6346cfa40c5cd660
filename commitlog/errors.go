package commitlog

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/cairnmq/cairn/internal/record"
)

var (
	// ErrBusy refuses a proposal because MaxPending bytes wait already. Nothing was queued: try again later.
	ErrBusy = errors.New("commitlog: too much is waiting to be written")
	// ErrDiskFull refuses a proposal, or fails one that was queued, because there is no room on the disk. The log is
	// read-only until there is; it finds out by itself.
	ErrDiskFull = errors.New("commitlog: disk full, read-only until there is room")
	// ErrFailed says that a write or sync failed and the log has stopped for good; the error wraps the cause too. What
	// became of the proposals that it hits is known after the next start only.
	ErrFailed = errors.New("commitlog: stopped by a failed write")
	// ErrClosed refuses a proposal to a log that is not started or is closed.
	ErrClosed = errors.New("commitlog: not open for proposals")
	// ErrTooLarge refuses a proposal that is larger than MaxPending or MaxProposal bytes and could never be accepted.
	ErrTooLarge = errors.New("commitlog: proposal too large")
	// ErrGone says that the position lies before the log's first segment.
	ErrGone = errors.New("commitlog: segment deleted")
	// ErrNotFound says that the position lies beyond what is committed.
	ErrNotFound = errors.New("commitlog: nothing at this position")
	// ErrViewAhead says that no batch ends at the position that Replay was asked to go on from: the caller knows of
	// records that the log does not hold (any more).
	ErrViewAhead = errors.New("commitlog: the view is ahead of the log")
)

// CorruptError says that bytes which must be there and whole are not. Nothing was changed on disk.
type CorruptError struct {
	Segment  string          // file name
	Position record.Position // of the batch or record that cannot be read
	Reason   string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("commitlog: segment %s is damaged at position %d: %s", e.Segment, e.Position, e.Reason)
}

// diskFull says whether err means that room is lacking, which heals, unlike any other failure of a write.
func diskFull(err error) bool {
	return vfs.IsNoSpaceError(err) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, ErrDiskFull)
}
