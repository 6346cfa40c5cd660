package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
)

// Boundary chooses among equal timestamps.
type Boundary int

// Boundaries of OffsetByTime.
const (
	Lower Boundary = iota // first offset whose store time ≥ t
	Upper                 // last offset whose store time ≤ t
)

// OffsetByTime is exact to the millisecond. Lower past the end answers max; Upper before the beginning answers min. For
// an empty queue both answer its end.
func (s *Store) OffsetByTime(topic kvindex.ID, queue int32, ms int64, b Boundary) (int64, error) {
	after := ms // the answer to Lower is the first entry that is not before this
	if b == Upper && ms < math.MaxInt64 {
		after++
	}
	found, first, end, err := s.searchTime(topic, queue, after)
	if err != nil {
		return 0, err
	}
	if first == end {
		return end, nil
	}
	if b == Upper && ms == math.MaxInt64 {
		found = end
	}
	if b == Upper {
		return max(found-1, first), nil
	}
	return found, nil
}

// searchRuns finds the first offset of the first run for which reached holds; reached must stay true once it is. first
// and end are the offsets of the queue's first entry and of the place after its last one, equal when it is empty; found
// is end when no run is reached. Its cost is the logarithm of the queue's length, in seeks.
func (s *Store) searchRuns(topic kvindex.ID, queue int32, reached func(run) bool) (found, first, end int64, err error) {
	it, err := s.runsOf(topic, queue, 0)
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() {
		if cerr := it.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("store: search topic id %d queue %d: %w", topic, queue, cerr)
		}
	}()
	if !it.First() {
		return 0, 0, 0, it.Error()
	}
	r, err := openRun(lastOffset(it.Key()), it.Value())
	if err != nil {
		return 0, 0, 0, err
	}
	first = r.first
	if !it.Last() {
		return 0, 0, 0, it.Error()
	}
	end = lastOffset(it.Key()) + 1
	low, high := first, end // the answer is in [low, high]
	var key []byte
	for low < high {
		key = kvindex.AppendConsumeQueueKey(key[:0], topic, queue, low+(high-low)/2)
		if !it.SeekGE(key) {
			return 0, 0, 0, errors.Join(it.Error(), fmt.Errorf("store: no run at %x: %w", key, errMalformed))
		}
		last := lastOffset(it.Key())
		if r, err = openRun(last, it.Value()); err != nil {
			return 0, 0, 0, err
		}
		if reached(r) {
			high = r.first
		} else {
			low = last + 1
		}
	}
	return low, first, end, nil
}

// StoreTime of one offset in ms; ErrNotFound outside the queue.
func (s *Store) StoreTime(topic kvindex.ID, queue int32, offset int64) (ms int64, err error) {
	var room [1]Entry
	e, err := s.entryAt(topic, queue, offset, room[:0])
	return e.StoreTime, err
}

func (s *Store) entryAt(topic kvindex.ID, queue int32, offset int64, room []Entry) (Entry, error) {
	if offset < 0 {
		return Entry{}, ErrNotFound
	}
	found, err := s.Entries(topic, queue, offset, 1, room)
	if err != nil {
		return Entry{}, err
	}
	if len(found) == 0 || found[0].Offset != offset {
		return Entry{}, ErrNotFound
	}
	return found[0], nil
}

// ReadByPosition appends the stored layout of the message whose record is at position to buf.B, with its queue offset
// filled in, and returns it. One that is in no queue says why in its property PropState. ErrNotFound when there is none: no
// message begins there, it was trimmed, or its topic was deleted.
func (s *Store) ReadByPosition(pos record.Position, buf *Buffer) ([]byte, error) {
	from := len(buf.B)
	m, err := s.readAny(pos, buf)
	if err != nil {
		return nil, err
	}
	at, err := s.locate(&m, pos, unknownOffset)
	if err != nil {
		return nil, err
	}
	buf.B, err = at.appendTo(buf.B[:from], m.layout)
	return buf.B[from:], err
}

// readAny reads the message whose record is at a position that came from outside. It aliases the room behind buf.B.
func (s *Store) readAny(pos record.Position, buf *Buffer) (stored, error) {
	rec, err := s.readRecord(pos, buf)
	if err != nil {
		return stored{}, err
	}
	m, err := split(rec)
	if err != nil || message.PhysicalOffsetOf(m.layout) != int64(pos) || message.Cleared(m.layout) {
		return stored{}, ErrNotFound // bytes of a body that look like a record
	}
	return m, nil
}

// readRecord reads a message's record of unknown size into the room behind buf.B. Where none can be read, that is
// ErrNotFound: the position came from outside. The layout tells its size, so that a position that is none of a message
// costs one small read.
func (s *Store) readRecord(pos record.Position, buf *Buffer) (record.Record, error) {
	const guess = 4 << 10
	buf.B = slices.Grow(buf.B, guess)
	room := buf.B[len(buf.B):cap(buf.B)]
	raw, err := s.own().readRaw(pos, guess, room[:guess])
	if err != nil {
		return record.Record{}, notFoundOr(pos, err)
	}
	const kindAt = 8 // in the record's header
	if len(raw) <= kindAt {
		return record.Record{}, ErrNotFound
	}
	head, carries := headOf(record.Kind(raw[kindAt]))
	head = commitlog.RecordSize(head + topicBytes)
	if !carries || len(raw) < head+leastLayout {
		return record.Record{}, ErrNotFound
	}
	size := head + int(binary.BigEndian.Uint32(raw[head:]))
	if size > commitlog.MaxProposal {
		return record.Record{}, ErrNotFound
	}
	if size > len(raw) {
		if magic := binary.BigEndian.Uint32(raw[head+4:]); magic != message.MagicV1 && magic != message.MagicV2 {
			return record.Record{}, ErrNotFound
		}
		if raw, err = s.own().readRaw(pos, size, room); err != nil {
			return record.Record{}, notFoundOr(pos, err)
		}
	}
	rec, _, err := commitlog.ParseRecord(raw)
	if err != nil && message.PhysicalOffsetOf(raw[head:]) == int64(pos) {
		return record.Record{}, s.corrupt(pos, err) // a message it is, but not as it was written
	}
	return rec, notFoundOr(pos, err)
}

// corrupt says where the log is damaged, unless it is only that what was there was let go of.
func (s *Store) corrupt(pos record.Position, cause error) error {
	if errors.Is(cause, commitlog.ErrGone) {
		return fmt.Errorf("store: read message at %d: %w", pos, cause)
	}
	e := &commitlog.CorruptError{Position: pos, Reason: cause.Error()}
	var inner *commitlog.CorruptError
	if errors.As(cause, &inner) {
		e.Reason = inner.Reason
	}
	if segments, err := s.log.Segments(); err == nil {
		for _, seg := range segments {
			if seg.Start <= pos && pos < seg.End {
				e.Segment = seg.Name
			}
		}
	}
	return e
}

// notFoundOr turns what the log says of a position that is none into ErrNotFound.
func notFoundOr(pos record.Position, err error) error {
	var corrupt *commitlog.CorruptError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, commitlog.ErrGone), errors.Is(err, commitlog.ErrNotFound), errors.As(err, &corrupt):
		return ErrNotFound
	}
	return fmt.Errorf("store: read record at %d: %w", pos, err)
}
