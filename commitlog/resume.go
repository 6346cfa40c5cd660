package commitlog

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/cairnmq/cairn/internal/record"
)

// Resumption is what a log has to know of what it goes on from, when that lies elsewhere.
type Resumption struct {
	Number    uint64 // that all batches of the log share
	Term      uint64
	Index     uint64 // of the batch that ends at End
	Timestamp int64  // of that batch, ms since 1970
	End       record.Position
}

// Number is what all batches of the log share, and Term that of the batches which are written. After Start.
func (l *Log) Number() uint64 { return l.tail.log }

// Term is that of the batches which are written. After Start.
func (l *Log) Term() uint64 { return l.tail.term }

// MakeSegment makes the segment that begins at start in dir, durably but for the directory's own entry: fill writes its bytes, which are
// those of whole batches.
func MakeSegment(fsys vfs.FS, dir string, start record.Position, fill func(vfs.File) error) error {
	if start < 0 || start%batchAlign != 0 {
		return fmt.Errorf("commitlog: no segment begins at %d", start)
	}
	f, err := fsys.Create(fsys.PathJoin(dir, segmentName(start)), vfs.WriteCategoryUnspecified)
	if err == nil {
		if err = fill(f); err == nil {
			err = f.Sync()
		}
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("commitlog: make segment %s: %w", segmentName(start), err)
	}
	return nil
}

// Resume makes the first segment of a log that has nothing of what came before r.End: a batch without records, which ends there and has
// the number and the time that what follows goes on from. Behind it come the bytes that rest writes, which may be none.
func Resume(fsys vfs.FS, dir string, r Resumption, rest func(vfs.File) error) error {
	start := r.End - batchHeader
	if start < 0 || r.Number == 0 || r.Index == 0 || r.Timestamp < 0 {
		return fmt.Errorf("commitlog: nothing goes on from batch %d at %d", r.Index, r.End)
	}
	raw := make([]byte, batchHeader)
	sealBatch(raw, &header{
		log: r.Number, term: r.Term, index: r.Index, timestamp: r.Timestamp, position: start, previous: start,
	})
	return MakeSegment(fsys, dir, start, func(f vfs.File) error {
		if _, err := f.Write(raw); err != nil {
			return err
		}
		return rest(f)
	})
}
