package store

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/txn"
)

// PropState is the property that a look-up adds to a message that is in no queue: why.
const PropState = "CAIRN_STATE"

// unknownOffset says that the offset has to be looked up.
const unknownOffset = -1

// located is where a message is: at an offset of its queue, or not there and why.
type located struct {
	offset int64
	time   int64  // ms, when it came to its queue, when that is not when it was stored; else 0
	state  string // "" in its queue
}

// appendTo appends the layout of the message as a look-up shows it.
func (at located) appendTo(dst, layout []byte) ([]byte, error) {
	from := len(dst)
	if at.state != "" {
		m, _, err := message.Decode(layout)
		if err != nil {
			return dst, fmt.Errorf("store: decode a message: %w", err)
		}
		m.Properties = message.SetProperty(slices.Clone(m.Properties), PropState, at.state)
		if dst, err = m.AppendEncode(dst); err != nil {
			return dst, fmt.Errorf("store: encode a message: %w", err)
		}
	} else {
		dst = append(dst, layout...)
	}
	message.PatchQueueOffset(dst[from:], at.offset)
	if at.time > 0 {
		message.PatchStoreTimestamp(dst[from:], at.time)
	}
	return dst, nil
}

// locate finds where the message is whose record is at pos. offset is what the key index says of one that was entered in its
// queue when it was stored, or unknownOffset. ErrNotFound when it was trimmed, its topic is gone, or another copy of it counts.
func (s *Store) locate(m *stored, pos record.Position, offset int64) (at located, err error) {
	queue := queueKey{m.topic, message.QueueIDOf(m.layout)}
	storedAt := message.StoreTimestampOf(m.layout)
	switch {
	case m.kind == record.KindHalf:
		at, err = s.locateHalf(queue, pos, storedAt)
	case m.kind == record.KindCopy && !m.fired:
		at, err = s.locateTimer(queue, m.timer, pos)
	case m.kind == record.KindDelayed && m.timer.Due > storedAt:
		at, err = s.locateTimer(queue, delay.Point{Due: m.timer.Due, Origin: pos}, pos)
	case offset == unknownOffset:
		at, err = s.locateEntry(queue, pos, storedAt)
		at.time = 0
	default:
		at.offset = offset
	}
	if err != nil {
		return located{}, err
	}
	low, high, err := s.Bounds(queue.topic, queue.queue)
	if err != nil {
		return located{}, err
	}
	if at.state != "" {
		at.offset = high // it comes there, or behind it
	} else if at.offset < low || at.offset >= high {
		return located{}, ErrNotFound
	}
	return at, nil
}

// locateTimer finds a delayed message whose body is at pos.
func (s *Store) locateTimer(queue queueKey, timer delay.Point, pos record.Position) (located, error) {
	t, pending, err := s.Delay.Get(timer)
	switch {
	case err != nil:
		return located{}, err
	case pending && t.Position == pos:
		return located{state: "delayed until " + kvindex.FormatTime(timer.Due)}, nil
	case pending:
		return located{}, ErrNotFound
	}
	ended, ok, err := kvindex.ReadEnded(s.engine, kvindex.HourOf(timer.Due), int64(timer.Origin))
	if err != nil {
		return located{}, fmt.Errorf("store: %w", err)
	}
	if ok && ended.Outcome == kvindex.OutcomeRecalled {
		return located{state: "recalled"}, nil
	}
	return s.locateEntry(queue, pos, timer.Due)
}

func (s *Store) locateHalf(queue queueKey, pos record.Position, storedAt int64) (located, error) {
	h, open, err := s.Txn.Get(pos)
	switch {
	case err != nil:
		return located{}, err
	case open && h.Reason == txn.NotParked:
		return located{state: "transaction undecided, asked " + fmt.Sprint(h.Checks) + " times"}, nil
	case open:
		return located{state: "transaction undecided and parked: " + h.Reason.String()}, nil
	}
	ended, ok, err := kvindex.ReadEnded(s.engine, kvindex.HourOf(storedAt), int64(pos))
	switch {
	case err != nil:
		return located{}, fmt.Errorf("store: %w", err)
	case !ok:
		return located{}, ErrNotFound
	case ended.Outcome == kvindex.OutcomeCommitted:
		e, err := s.entryAt(queue.topic, queue.queue, ended.Number, nil)
		return located{offset: ended.Number, time: e.StoreTime}, err
	case ended.Outcome == kvindex.OutcomeScheduled:
		return s.locateTimer(queue, delay.Point{Due: ended.Number, Origin: pos}, pos)
	case ended.Outcome == kvindex.OutcomeRecalled: // due in the hour in which it was stored: the same row
		return located{state: "recalled"}, nil
	}
	return located{state: "transaction " + ended.Outcome.String()}, nil
}

// searchedEntries bounds how many entries of a queue are looked through for one that came there late.
const searchedEntries = 64 << 10

// locateEntry finds the entry of a queue that points at pos, which came there at the time since (ms) or somewhat later.
func (s *Store) locateEntry(queue queueKey, pos record.Position, since int64) (located, error) {
	from, _, end, err := s.searchTime(queue.topic, queue.queue, since)
	if err != nil {
		return located{}, err
	}
	var entries []Entry
	for last := min(end, from+searchedEntries); from < last; {
		entries, err = s.Entries(queue.topic, queue.queue, from, 1024, entries[:0])
		if err != nil || len(entries) == 0 {
			return located{}, notFoundUnless(err)
		}
		for _, e := range entries {
			if e.Position == pos {
				return located{offset: e.Offset, time: e.StoreTime}, nil
			}
		}
		from = entries[len(entries)-1].Offset + 1
	}
	return located{}, ErrNotFound
}

func notFoundUnless(err error) error {
	if err != nil {
		return err
	}
	return ErrNotFound
}

// PositionAt is a place in the log behind which nothing was stored before a time (ms). It may lie up to an hour's messages
// behind the first that was stored at that time.
func (s *Store) PositionAt(ms int64) (record.Position, error) {
	b, ok, err := s.firstBucket(kvindex.HourOf(max(ms, 0)) + 1)
	if err != nil {
		return 0, fmt.Errorf("store: find the position of a time: %w", err)
	}
	if !ok {
		return s.applied.Load().End, nil
	}
	return b.position, nil
}

// DelayedByID finds the timer of a message by its unique id; ok is false when no pending message of the topic has it.
func (s *Store) DelayedByID(topic kvindex.ID, id string) (at delay.Point, ok bool, err error) {
	buf := NewBuffer()
	defer buf.Release()
	const everything = 1 << 62
	each := func(h hit) (bool, error) {
		m, err := s.readAny(h.position, buf)
		if err != nil || m.topic != topic || !hasKey(m.layout, kvindex.IndexUniqueID, id) {
			return true, unlessNotFound(err)
		}
		point := delay.Point{Due: m.timer.Due, Origin: h.position}
		if m.kind == record.KindCopy {
			point = m.timer
		}
		if m.kind == record.KindHalf {
			ended, found, err := kvindex.ReadEnded(s.engine, kvindex.HourOf(message.StoreTimestampOf(m.layout)), int64(h.position))
			if err != nil || !found || ended.Outcome != kvindex.OutcomeScheduled {
				return true, err
			}
			point.Due = ended.Number
		}
		if _, pending, err := s.Delay.Get(point); err != nil || !pending {
			return true, err
		}
		at, ok = point, true
		return false, nil
	}
	if err = s.eachHit(topic, kvindex.IndexUniqueID, id, 0, everything, each); err == nil && !ok {
		err = s.eachColdHit(topic, kvindex.IndexUniqueID, id, 0, everything, each)
	}
	return at, ok, err
}

func unlessNotFound(err error) error {
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}
