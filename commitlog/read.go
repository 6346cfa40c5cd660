package commitlog

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cairnmq/cairn/internal/record"
)

// ReadAt reads the record at pos whose encoded size, header included, is size; it checks its CRC. The payload returned is
// a slice of buf (grown when too small), which is returned too. Errors: ErrGone (deleted segment), *CorruptError (what is
// there is not a record of this size), ErrNotFound (beyond the end).
func (l *Log) ReadAt(pos record.Position, size int, buf []byte) (record.Record, []byte, error) {
	seg, err := l.segmentAt(pos, size)
	if err != nil {
		return record.Record{}, buf, err
	}
	if size < recordHead || pos+record.Position(size) > seg.end {
		return record.Record{}, buf, &CorruptError{seg.name, pos, fmt.Sprintf("a record of %d bytes cannot be here", size)}
	}
	if buf, err = l.pread(seg, pos, size, buf); err != nil {
		return record.Record{}, buf, err
	}
	if len(buf) < size {
		return record.Record{}, buf, &CorruptError{seg.name, pos, "the file ends before the record does"}
	}
	r, n, wrong := parseRecord(buf)
	if wrong == "" && n != size {
		wrong = fmt.Sprintf("the record has %d bytes, not %d", n, size)
	}
	if wrong != "" {
		return record.Record{}, buf, &CorruptError{seg.name, pos, wrong}
	}
	return r, buf, nil
}

// ReadRaw reads n bytes at pos, less at a segment's end and at the log's, without any check, for neighbours that are read
// together; ParseRecord then checks and splits each. The bytes returned are buf, grown when too small. Errors: ErrGone,
// ErrNotFound, *CorruptError when the file ends before pos.
func (l *Log) ReadRaw(pos record.Position, n int, buf []byte) ([]byte, error) {
	seg, err := l.segmentAt(pos, 1)
	if err != nil {
		return buf[:0], err
	}
	n = int(min(record.Position(n), seg.end-pos, l.Committed()-pos))
	if buf, err = l.pread(seg, pos, n, buf); err != nil {
		return buf, err
	}
	if len(buf) == 0 && n > 0 {
		return buf, &CorruptError{seg.name, pos, "the file ends before it should"}
	}
	return buf, nil
}

// ParseRecord checks the record at the front of raw and says how long it is, header included. The payload aliases raw. A
// record that is cut short or damaged is a *CorruptError without segment and position, which only the caller knows.
func ParseRecord(raw []byte) (record.Record, int, error) {
	r, n, wrong := parseRecord(raw)
	if wrong != "" {
		return record.Record{}, 0, &CorruptError{Reason: wrong}
	}
	return r, n, nil
}

// Prefetch asks the operating system to have n bytes at pos in memory soon: they will be read in a moment. It is a hint: what
// cannot be had is left to the read.
func (l *Log) Prefetch(pos record.Position, n int) {
	seg, err := l.segmentAt(pos, n)
	if err != nil {
		return
	}
	h, err := l.segments.acquire(seg)
	if err != nil {
		return
	}
	defer h.release()
	_ = h.Prefetch(int64(pos-seg.start), int64(n))
}

// segmentAt finds the segment of n committed bytes at pos.
func (l *Log) segmentAt(pos record.Position, n int) (*segment, error) {
	if pos < 0 || n < 0 || pos+record.Position(n) > l.Committed() {
		return nil, fmt.Errorf("%w: %d", ErrNotFound, pos)
	}
	seg := l.segments.find(pos)
	if seg == nil {
		return nil, fmt.Errorf("%w: position %d", ErrGone, pos)
	}
	return seg, nil
}

// pread reads n bytes at pos into buf, fewer where the file ends.
func (l *Log) pread(seg *segment, pos record.Position, n int, buf []byte) ([]byte, error) {
	h, err := l.segments.acquire(seg)
	if err != nil {
		return buf[:0], err
	}
	defer h.release()
	buf = slices.Grow(buf[:0], n)[:n]
	got, err := h.ReadAt(buf, int64(pos-seg.start))
	if got < n && !errors.Is(err, io.EOF) {
		return buf[:got], fmt.Errorf("commitlog: read segment %s at position %d: %w", seg.name, pos, err)
	}
	return buf[:got], nil
}
