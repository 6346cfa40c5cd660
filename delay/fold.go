package delay

import (
	"fmt"
	"slices"
	"time"

	"github.com/cairnmq/cairn/internal/codec"
	"github.com/cairnmq/cairn/internal/due"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// fold is what the folder's goroutine needs. Nothing in it outlives a log batch but memory to reuse and what
// Publish tells others.
type fold struct {
	fresh    []Point // timers that the batch under way added: who must find all rows looks through the engine's and these
	low      int64   // the earliest due time of what was added since the last Publish
	fired    []Timer
	released []kvindex.Release
	counts   []topicCount
	levels   []levelCount
	key, val []byte
}

type topicCount struct {
	topic kvindex.ID
	n     int64
}

type levelCount struct {
	level int32
	n     int64
}

func newFold() fold { return fold{low: due.Never} }

// Kinds lists the record kinds that the fold applies. Those that carry a message are the store's, which calls Add, Take and
// Move.
func (s *State) Kinds() []record.Kind { return []record.Kind{record.KindFire, record.KindRecall} }

// Released lists what the record that was applied last made visible.
func (s *State) Released() []kvindex.Release { return s.fold.released }

// Apply turns one record into rows. The outcome's offset is the number of timers that a fire record made visible, those of
// deleted topics included, and 1 for a timer that was recalled.
func (s *State) Apply(b *kvindex.Batch, at record.Position, r record.Record) (out record.Outcome, err error) {
	f := &s.fold
	f.released = f.released[:0]
	switch r.Kind {
	case record.KindFire:
		out, err = f.applyFire(b, r.Payload)
	case record.KindRecall:
		out, err = f.applyRecall(b, r.Payload)
	default:
		return record.Outcome{}, fmt.Errorf("delay: record of kind %v at %d is not delay's", r.Kind, at)
	}
	if err != nil {
		return record.Outcome{}, fmt.Errorf("delay: %v record at %d: %w", r.Kind, at, err)
	}
	return out, nil
}

// Finish ends the batch.
func (s *State) Finish(*kvindex.Batch) error {
	s.fold.fresh = s.fold.fresh[:0]
	return nil
}

// Add writes the row of a new timer whose topic exists. t.Hour is the hour in which its body was stored, 0 when that is now; it
// is set here to what the row says.
func (s *State) Add(b *kvindex.Batch, t *Timer) error {
	f := &s.fold
	stored := b.Timestamp()
	if t.Hour != 0 {
		stored = min(stored, int64(t.Hour)*time.Hour.Milliseconds())
	}
	f.write(b, t, stored)
	f.fresh = append(f.fresh, t.Point)
	f.low = min(f.low, t.Due)
	if err := f.count(b, t.Topic, 1, true); err != nil {
		return fmt.Errorf("delay: add a timer: %w", err)
	}
	return f.countLevel(b, t.Level, LevelCount{In: 1})
}

// Take removes a pending timer, to be entered in its queue from a copy of its body by the caller; ok is false when it is not
// pending, or not due at the time of the batch.
func (s *State) Take(b *kvindex.Batch, at Point) (t Timer, ok bool, err error) {
	if at.Due > b.Timestamp() {
		return Timer{}, false, nil
	}
	t, ok, err = s.fold.remove(b, at)
	if err != nil {
		return Timer{}, false, fmt.Errorf("delay: take a timer: %w", err)
	}
	return t, ok, nil
}

// Drop removes a timer whose topic is gone, whenever it is due; one that is not pending is no error.
func (s *State) Drop(b *kvindex.Batch, at Point) error {
	if _, _, err := s.fold.remove(b, at); err != nil {
		return fmt.Errorf("delay: drop a timer: %w", err)
	}
	return nil
}

// Move lets a pending timer point at a copy of its body; ok is false when it is not pending.
func (s *State) Move(b *kvindex.Batch, at Point, to record.Position, size int32) (ok bool, err error) {
	f := &s.fold
	t, ok, err := f.read(b, at)
	if err != nil {
		return false, fmt.Errorf("delay: move a timer: %w", err)
	}
	if !ok {
		return false, nil
	}
	if t.Hour != 0 {
		b.SingleDelete(kvindex.AppendLongTimerKey(nil, t.Hour, t.Due, int64(t.Origin)))
	}
	t.Position, t.Size = to, size
	f.write(b, &t, b.Timestamp())
	return true, nil
}

// write sets the row of a timer whose body is stored at the time stored (ms), and lists it when it is a long one.
func (f *fold) write(b *kvindex.Batch, t *Timer, stored int64) {
	t.Hour = 0
	if t.Due-stored > Horizon.Milliseconds() {
		t.Hour = max(kvindex.HourOf(stored), 1) // 0 says that it is no long one
		f.key = kvindex.AppendLongTimerKey(f.key[:0], t.Hour, t.Due, int64(t.Origin))
		b.Set(f.key, nil)
	}
	f.key = t.appendKey(f.key[:0])
	f.val = t.appendTo(f.val[:0])
	b.Set(f.key, f.val)
}

// read finds a pending timer and leaves its key in f.key.
func (f *fold) read(b *kvindex.Batch, at Point) (t Timer, ok bool, err error) {
	f.key = at.appendKey(f.key[:0])
	val, ok, err := b.Get(f.key)
	if err != nil || !ok {
		return Timer{}, false, err
	}
	err = t.decode(f.key, val)
	return t, err == nil, err
}

func (f *fold) remove(b *kvindex.Batch, at Point) (t Timer, ok bool, err error) {
	t, ok, err = f.read(b, at)
	if err != nil || !ok {
		return Timer{}, false, err
	}
	f.drop(b, &t)
	return t, true, f.gone(b, &t)
}

// drop removes a timer's own row.
func (f *fold) drop(b *kvindex.Batch, t *Timer) {
	f.key = t.appendKey(f.key[:0])
	if t.Position == t.Origin { // written once
		b.SingleDelete(f.key)
	} else {
		b.Delete(f.key)
	}
}

// gone removes what else there is of a timer whose row goes.
func (f *fold) gone(b *kvindex.Batch, t *Timer) error {
	if t.Hour != 0 {
		f.key = kvindex.AppendLongTimerKey(f.key[:0], t.Hour, t.Due, int64(t.Origin))
		b.SingleDelete(f.key)
	}
	if err := f.count(b, t.Topic, -1, false); err != nil {
		return err
	}
	return f.countLevel(b, t.Level, LevelCount{Out: 1})
}

func (f *fold) applyRecall(b *kvindex.Batch, payload []byte) (record.Outcome, error) {
	r, err := decodeRecall(payload)
	if err != nil {
		return record.Outcome{}, err
	}
	t, ok, err := f.read(b, r.Point)
	if err != nil {
		return record.Outcome{}, err
	}
	if !ok || t.Topic != r.Topic {
		return record.Outcome{Refused: true}, nil
	}
	if _, _, err := f.remove(b, r.Point); err != nil {
		return record.Outcome{}, err
	}
	f.key = kvindex.AppendEndedKey(f.key[:0], kvindex.HourOf(r.Due), int64(r.Origin))
	f.val = kvindex.AppendEnded(f.val[:0], kvindex.Ended{Outcome: kvindex.OutcomeRecalled})
	b.Set(f.key, f.val)
	return record.Outcome{Offset: 1}, nil
}

// rangeFrom is how many timers have to fire at once for their rows to go with one range-delete. Every iterator that the engine
// makes pays for each range that it has removed since its last flush; at this many timers to a range that is nothing beside
// what the timers themselves cost.
const rangeFrom = 256

// applyFire releases all timers of a range and removes their rows.
func (f *fold) applyFire(b *kvindex.Batch, payload []byte) (record.Outcome, error) {
	r, err := decodeFire(payload)
	if err != nil {
		return record.Outcome{}, err
	}
	if r.To.Due > b.Timestamp() {
		return record.Outcome{Refused: true}, nil
	}
	if err := f.collect(b, r); err != nil {
		return record.Outcome{}, err
	}
	if len(f.fired) == 0 {
		return record.Outcome{Refused: true}, nil
	}
	f.counts, f.levels = f.counts[:0], f.levels[:0]
	asRange := len(f.fired) >= rangeFrom
	if asRange { // the row after To is the first that stays
		b.DeleteRange(r.From.appendKey(nil), kvindex.AppendTimerKey(nil, r.To.Due, int64(r.To.Origin)+1))
	}
	for i := range f.fired {
		t := &f.fired[i]
		if !asRange {
			f.drop(b, t)
		}
		f.released = append(f.released, kvindex.Release{
			Topic: t.Topic, Queue: t.Queue, Position: t.Position, Size: t.Size, TagHash: t.TagHash,
		})
		if t.Hour != 0 {
			f.key = kvindex.AppendLongTimerKey(f.key[:0], t.Hour, t.Due, int64(t.Origin))
			b.SingleDelete(f.key)
		}
		f.tally(t)
	}
	for _, c := range f.counts {
		if err := f.count(b, c.topic, -c.n, false); err != nil {
			return record.Outcome{}, err
		}
	}
	for _, l := range f.levels {
		if err := f.countLevel(b, l.level, LevelCount{Out: l.n}); err != nil {
			return record.Outcome{}, err
		}
	}
	return record.Outcome{Offset: int64(len(f.fired))}, nil
}

// collect gathers the pending timers of a range in the order in which they fire: the engine's, as the batch under way has left
// them, and those that it has added.
func (f *fold) collect(b *kvindex.Batch, r Fire) error {
	f.fired = f.fired[:0]
	lower, upper := r.From.appendKey(nil), kvindex.AppendTimerKey(nil, r.To.Due, int64(r.To.Origin)+1)
	err := kvindex.EachRow(b.Engine(), lower, upper, func(key, val []byte) (bool, error) {
		if now, ok, changed := b.Changed(key); changed {
			if !ok {
				return true, nil
			}
			val = now
		}
		f.fired = append(f.fired, Timer{})
		return true, f.fired[len(f.fired)-1].decode(key, val)
	})
	if err != nil {
		return err
	}
	stored := len(f.fired)
	for _, at := range f.fresh {
		if at.Before(r.From) || r.To.Before(at) {
			continue
		}
		t, ok, err := f.read(b, at)
		if err != nil {
			return err
		}
		if ok {
			f.fired = append(f.fired, t)
		}
	}
	if len(f.fired) > stored {
		slices.SortFunc(f.fired, func(a, b Timer) int {
			if a.Before(b.Point) {
				return -1
			}
			return 1 // no two are equal
		})
	}
	return nil
}

// tally adds a fired timer to what its topic and its level lose. Neighbours are mostly alike.
func (f *fold) tally(t *Timer) {
	if n := len(f.counts); n == 0 || f.counts[n-1].topic != t.Topic {
		f.counts = append(f.counts, topicCount{topic: t.Topic})
	}
	f.counts[len(f.counts)-1].n++
	if t.Level == 0 {
		return
	}
	if n := len(f.levels); n == 0 || f.levels[n-1].level != t.Level {
		f.levels = append(f.levels, levelCount{level: t.Level})
	}
	f.levels[len(f.levels)-1].n++
}

// count adds to the number of a topic's timers. The row of a topic that was deleted is gone, and is not made again.
func (f *fold) count(b *kvindex.Batch, topic kvindex.ID, added int64, make bool) error {
	f.key = kvindex.AppendTimerCounterKey(f.key[:0], topic)
	val, ok, err := b.Get(f.key)
	if err != nil || !ok && !make {
		return err
	}
	n := int64(0)
	if ok {
		if n, err = decodeCounter(val); err != nil {
			return err
		}
	}
	if n += added; n < 0 {
		return fmt.Errorf("topic id %d has %d timers: %w", topic, n, codec.ErrMalformed)
	}
	f.val = appendCounter(f.val[:0], n)
	b.Set(f.key, f.val)
	return nil
}

func (f *fold) countLevel(b *kvindex.Batch, level int32, added LevelCount) error {
	if level == 0 {
		return nil
	}
	f.key = kvindex.AppendDelayLevelKey(f.key[:0], level)
	val, ok, err := b.Get(f.key)
	if err != nil {
		return err
	}
	var c LevelCount
	if ok {
		if c, err = decodeLevel(val); err != nil {
			return err
		}
	}
	f.val = appendLevel(f.val[:0], LevelCount{In: c.In + added.In, Out: c.Out + added.Out})
	b.Set(f.key, f.val)
	return nil
}
