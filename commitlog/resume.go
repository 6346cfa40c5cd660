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
	h := header{log: r.Number, term: r.Term, index: r.Index, timestamp: r.Timestamp, position: start, previous: start}
	return MakeSegment(fsys, dir, start, func(f vfs.File) error {
		if err := writeEmpty(f, &h); err != nil {
			return err
		}
		return rest(f)
	})
}

// writeEmpty writes a batch without records.
func writeEmpty(f vfs.File, h *header) error {
	raw := make([]byte, batchHeader)
	sealBatch(raw, h)
	_, err := f.Write(raw)
	return err
}

// Continue makes another segment behind the log in dir, which ends at end, with a batch without records that has this time (ms since
// 1970) or that of the batch before: no later one has an earlier time. The log is read from where a batch ends, or from its start, and
// must be whole. Errors: those of Scan.
func Continue(fsys vfs.FS, dir string, from, end record.Position, timestamp int64) error {
	spans, err := listSpans(fsys, dir)
	if err != nil {
		return err
	}
	s := newScanner(fsys, dir, spans)
	defer s.close()
	found, err := s.run(from, func(*Batch, []byte) error { return nil })
	switch last := &found.last; {
	case err != nil:
		return err
	case found.junk > 0 || found.pos != end || last.index == 0:
		return s.corrupt(found.pos, fmt.Sprintf("the log ends here, and not at %d", end))
	default:
		h := header{
			log: last.log, term: last.term, index: last.index + 1, timestamp: max(timestamp, last.timestamp), position: end, previous: end,
		}
		return MakeSegment(fsys, dir, end, func(f vfs.File) error { return writeEmpty(f, &h) })
	}
}
