package commitlog

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/cairnmq/cairn/internal/record"
)

// Replay calls apply for each whole batch from position from (the end of a batch, or the log's start for all of it), cuts
// a torn tail durably, and must be called once before Start. The batch, its payloads included, is the log's again when
// apply returns. What apply gets to see is durable.
//
// Errors: *CorruptError (damage that is not a torn tail), ErrViewAhead (no batch ends at from), ErrGone (from lies before
// the log's start), apply's own. After an error nothing was cut and Replay may be called again.
func (l *Log) Replay(from record.Position, apply func(*Batch) error) error {
	l.mu.Lock()
	phase := l.mu.phase
	l.mu.Unlock()
	if phase != phaseOpen {
		return fmt.Errorf("commitlog: Replay must come once, after Open")
	}
	spans, err := listSpans(l.opts.FS, l.opts.Dir)
	if err != nil {
		return err
	}
	s := newScanner(l.opts.FS, l.opts.Dir, spans)
	defer s.close()
	// A killed process leaves batches that are in the page cache only. Without this sync they could be applied now and
	// be lost to a power cut afterwards.
	for i := max(0, s.spanAt(from)); i < len(spans); i++ {
		if err := l.onSegment(spans[i].name, vfs.File.SyncData); err != nil {
			return fmt.Errorf("commitlog: sync segment %s: %w", spans[i].name, err)
		}
	}
	end, err := s.run(from, func(b *Batch, _ []byte) error {
		l.committed.Store(int64(b.End))
		return apply(b)
	})
	if err != nil {
		return err
	}
	if spans, err = l.cut(s, end); err != nil {
		return err
	}
	l.setSegments(spans)
	l.recovery = s.found(end)
	l.committed.Store(int64(end.pos))
	l.durable.Store(int64(end.pos))
	l.tail = tail{pos: end.pos, term: max(1, end.last.term), index: end.last.index, timestamp: end.last.timestamp, log: end.last.log}

	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.phase = phaseReplayed
	return nil
}

// cut removes everything behind the end of the log, durably, and returns the segments that are left. Should it be
// interrupted, the next Replay comes to the same end.
func (l *Log) cut(s *scanner, end ending) ([]span, error) {
	keep := s.spanAt(end.pos) + 1
	for i := len(s.spans) - 1; i >= keep; i-- {
		if err := l.opts.FS.Remove(l.segments.path(s.spans[i].name)); err != nil {
			return nil, fmt.Errorf("commitlog: remove segment %s behind the log's end: %w", s.spans[i].name, err)
		}
	}
	if keep < len(s.spans) {
		if err := syncDir(l.opts.FS, l.opts.Dir); err != nil {
			return nil, err
		}
	}
	if end.junk > 0 {
		sp := s.spans[keep-1]
		l.log.Warn().Str("segment", sp.name).Int64("position", int64(end.pos)).Int64("bytes", end.junk).Msg("cutting a torn tail")
		err := l.onSegment(sp.name, func(f vfs.File) error { return wipe(f, int64(end.pos-sp.start), sp.size) })
		if err != nil {
			return nil, fmt.Errorf("commitlog: cut the torn tail of segment %s: %w", sp.name, err)
		}
	}
	return s.spans[:keep], nil
}

// wipe zeroes the bytes from..to of f where they are not zero yet, durably.
func wipe(f vfs.File, from, to int64) error {
	buf := make([]byte, scanChunk)
	for off := from; off < to; off += scanChunk {
		chunk := buf[:min(scanChunk, to-off)]
		if _, err := f.ReadAt(chunk, off); err != nil {
			return err
		}
		if n := lengthWithoutZeros(chunk); n > 0 {
			if err := writeZeros(f, off, off+int64(n)); err != nil {
				return err
			}
		}
	}
	return f.SyncData()
}

// onSegment opens a segment's file for writing and calls do with it.
func (l *Log) onSegment(name string, do func(vfs.File) error) error {
	f, err := l.opts.FS.OpenReadWrite(l.segments.path(name), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	err = do(f)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
