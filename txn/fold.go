package txn

import (
	"fmt"
	"math"

	"github.com/cairnmq/cairn/internal/codec"
	"github.com/cairnmq/cairn/internal/due"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// fold is what the folder's goroutine needs. Nothing in it outlives a log batch but memory to reuse and what Publish tells
// others.
type fold struct {
	low      int64 // the earliest check of what was added or moved since the last Publish
	released []kvindex.Release
	checks   []Check
	key, val []byte
}

func newFold() fold { return fold{low: due.Never} }

// Kinds lists the record kinds that the fold applies. That which carries a message is the store's, which calls Add.
func (s *State) Kinds() []record.Kind { return []record.Kind{record.KindEnd, record.KindCheck} }

// Released lists what the record that was applied last made visible.
func (s *State) Released() []kvindex.Release { return s.fold.released }

// Apply turns one record into rows. The outcome's offset is 1 for a transaction that was ended, and the number of half
// messages that a check record changed.
func (s *State) Apply(b *kvindex.Batch, at record.Position, r record.Record) (out record.Outcome, err error) {
	f := &s.fold
	f.released = f.released[:0]
	switch r.Kind {
	case record.KindEnd:
		out, err = f.applyEnd(b, r.Payload)
	case record.KindCheck:
		out, err = f.applyChecks(b, r.Payload)
	default:
		return record.Outcome{}, fmt.Errorf("txn: record of kind %v at %d is not txn's", r.Kind, at)
	}
	if err != nil {
		return record.Outcome{}, fmt.Errorf("txn: %v record at %d: %w", r.Kind, at, err)
	}
	return out, nil
}

// Finish ends the batch: each Apply has left its rows complete.
func (s *State) Finish(*kvindex.Batch) error { return nil }

// Add writes the rows of a new half message whose topic exists.
func (s *State) Add(b *kvindex.Batch, h *Half) error {
	f := &s.fold
	f.write(b, h)
	f.addCheck(b, h)
	if err := f.count(b, h.Topic, Count{Open: 1}, true); err != nil {
		return fmt.Errorf("txn: add a half message: %w", err)
	}
	return nil
}

func (f *fold) write(b *kvindex.Batch, h *Half) {
	f.key = kvindex.AppendHalfKey(f.key[:0], int64(h.Position))
	f.val = h.appendTo(f.val[:0])
	b.Set(f.key, f.val)
}

func (f *fold) addCheck(b *kvindex.Batch, h *Half) {
	f.key = kvindex.AppendHalfCheckKey(f.key[:0], h.CheckAt, int64(h.Position))
	b.Set(f.key, nil)
	f.low = min(f.low, h.CheckAt)
}

// remove deletes the rows of an open half message. Each check row is written once; the half's own once more with each check.
func (f *fold) remove(b *kvindex.Batch, h *Half) {
	f.key = kvindex.AppendHalfCheckKey(f.key[:0], h.CheckAt, int64(h.Position))
	b.SingleDelete(f.key)
	f.key = kvindex.AppendHalfKey(f.key[:0], int64(h.Position))
	if h.Checks == 0 {
		b.SingleDelete(f.key)
	} else {
		b.Delete(f.key)
	}
}

// find reads a half message, open or parked, as the batch leaves it.
func (f *fold) find(b *kvindex.Batch, at record.Position) (h Half, ok bool, err error) {
	f.key = kvindex.AppendHalfKey(f.key[:0], int64(at))
	val, ok, err := b.Get(f.key)
	if err == nil && !ok {
		f.key = kvindex.AppendParkedKey(f.key[:0], int64(at))
		val, ok, err = b.Get(f.key)
	}
	if err != nil || !ok {
		return Half{}, false, err
	}
	err = h.decode(f.key, val)
	return h, err == nil, err
}

func (f *fold) applyEnd(b *kvindex.Batch, payload []byte) (record.Outcome, error) {
	e, err := decodeEnd(payload)
	if err != nil {
		return record.Outcome{}, err
	}
	h, ok, err := f.find(b, e.Position)
	if err != nil || !ok {
		return record.Outcome{Refused: true}, err
	}
	less := Count{Open: -1}
	if h.Reason != NotParked {
		less = Count{Parked: -1}
		b.SingleDelete(f.key) // find has left it there
	} else {
		f.remove(b, &h)
	}
	if err := f.count(b, h.Topic, less, false); err != nil {
		return record.Outcome{}, err
	}
	hour := kvindex.HourOf(h.Stored)
	if e.Action == Commit {
		f.released = append(f.released, kvindex.Release{
			Topic: h.Topic, Queue: h.Queue, Position: h.Position, Size: h.Size, TagHash: h.TagHash, Due: e.Due, Half: true, Hour: hour,
		})
		return record.Outcome{Offset: 1}, nil
	}
	ended := kvindex.Ended{Outcome: kvindex.OutcomeRolledBack}
	if e.Action == Expire {
		ended.Outcome = kvindex.OutcomeExpired
	}
	f.key = kvindex.AppendEndedKey(f.key[:0], hour, int64(h.Position))
	f.val = kvindex.AppendEnded(f.val[:0], ended)
	b.Set(f.key, f.val)
	return record.Outcome{Offset: 1}, nil
}

// applyChecks notes checks of open half messages; others are passed over.
func (f *fold) applyChecks(b *kvindex.Batch, payload []byte) (out record.Outcome, err error) {
	if f.checks, err = decodeChecks(payload, f.checks[:0]); err != nil {
		return record.Outcome{}, err
	}
	for _, c := range f.checks {
		h, ok, err := f.find(b, c.Position)
		if err != nil {
			return record.Outcome{}, err
		}
		if !ok || h.Reason != NotParked {
			continue
		}
		out.Offset++
		f.remove(b, &h)
		if !c.Free && h.Checks < math.MaxInt32 {
			h.Checks++
		}
		if c.Park == NotParked {
			h.CheckAt = c.Next
			f.write(b, &h)
			f.addCheck(b, &h)
			continue
		}
		h.CheckAt, h.Reason = 0, c.Park
		f.key = kvindex.AppendParkedKey(f.key[:0], int64(h.Position))
		f.val = h.appendTo(f.val[:0])
		b.Set(f.key, f.val)
		if err := f.count(b, h.Topic, Count{Open: -1, Parked: 1}, false); err != nil {
			return record.Outcome{}, err
		}
	}
	out.Refused = out.Offset == 0
	return out, nil
}

// count adds to the numbers of a topic. The row of a topic that was deleted is gone, and is not made again.
func (f *fold) count(b *kvindex.Batch, topic kvindex.ID, more Count, make bool) error {
	f.key = kvindex.AppendHalfCounterKey(f.key[:0], topic)
	val, ok, err := b.Get(f.key)
	if err != nil || !ok && !make {
		return err
	}
	var c Count
	if ok {
		if c, err = decodeCount(val); err != nil {
			return err
		}
	}
	if c = (Count{c.Open + more.Open, c.Parked + more.Parked}); c.Open < 0 || c.Parked < 0 {
		return fmt.Errorf("topic id %d has %d open and %d parked half messages: %w", topic, c.Open, c.Parked, codec.ErrMalformed)
	}
	f.val = appendCount(f.val[:0], c)
	b.Set(f.key, f.val)
	return nil
}
