// Package delay is what becomes visible later: timers.
//
// A delayed message goes to the log once, with its real topic and queue. Instead of a queue entry it gets a timer row under
// its due time; firing enters it in its queue, pointing at the same bytes, and recalling it deletes the row.
//
//	delayed record ─▶ Add ─▶ timer row ──▶ fire record ─▶ Released: queue entries; the range of rows goes at once
//	                             ├───────▶ recall record ─▶ gone, and remembered
//	                             └───────▶ copy record ─▶ Moved (carried forward) or Taken (fired from its copy)
//
// Order of reading: this file (the state and its reads), rows.go and records.go (the bytes), fold.go, handle.go (recall
// handles), levels.go (delay levels), check.go (what must hold).
//
// Rules of the package:
//   - A pending timer is one row. Its key is its due time and its origin, the position where the message first landed; the
//     value says where the body is now.
//   - A timer whose body is older than Horizon when it fires is fired from a copy. Timers that are due later than Horizon
//     after their body was stored are listed under that hour, so that their body is copied before its segment goes.
//   - Nothing fires early: a fire record that reaches beyond the time of its own batch is refused.
//   - The counter of a topic changes in the batch that changes the rows which it counts.
package delay

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/cairnmq/cairn/internal/due"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// Horizon bounds how old the bytes may be that a queue entry begins to point at. A segment of the log stays for as long after
// the retention of its newest message.
const Horizon = 6 * time.Hour

// Point is a place in the order in which timers fire: by due time, then by where they first landed.
type Point struct {
	Due    int64 // ms
	Origin record.Position
}

// Before says whether p fires before q.
func (p Point) Before(q Point) bool { return p.Due < q.Due || p.Due == q.Due && p.Origin < q.Origin }

// Timer is a pending message.
type Timer struct {
	Point
	Topic    kvindex.ID
	Queue    int32
	Position record.Position // of the body
	Size     int32           // of its log record, header included
	TagHash  int64
	Level    int32  // delay level, 0 for a time of its own
	Hour     uint32 // in which the body was stored, when the timer is a long one; else 0
}

// State is the Fold of timers and the reads of their rows. Reads are safe for concurrent use and see the latest applied state;
// Add, Take, Move, Apply, Finish and Publish belong to the folder's goroutine.
type State struct {
	engine kvindex.Reader
	fold   fold
	floor  *due.Floor // of due times
}

// New returns the state that e holds.
func New(e kvindex.Engine) *State {
	return &State{engine: e, fold: newFold(), floor: due.NewFloor()}
}

var (
	_ kvindex.Fold     = (*State)(nil)
	_ kvindex.Releaser = (*State)(nil)
)

// Changed receives when a timer was added that is due before the one that Next found last, or may be. One goroutine waits for
// it.
func (s *State) Changed() <-chan struct{} { return s.floor.Changed() }

// Publish lets the floor follow the batch that was just committed.
func (s *State) Publish() {
	s.floor.Lower(s.fold.low)
	s.fold.low = due.Never
}

// Never is later than any timer.
const Never = due.Never

// Look is what a walk through the timers has found. It must be ended by Done.
type Look struct {
	Due  []Timer // those that are due, as many as were asked for at most, in the order in which they fire
	Next int64   // ms: when the first behind them is due; Never: there is none
	walk *due.Look
}

// Look finds the timers that are due at now (ms), at most so many; they lie in buf as long as there is room. When it is done,
// Changed tells of any timer before what it found.
func (s *State) Look(now int64, most int, buf []Timer) (Look, error) {
	l := Look{Due: buf[:0], Next: Never, walk: s.floor.Look()}
	err := s.Each(Point{Due: l.walk.From}, func(t *Timer) bool {
		if t.Due > now || len(l.Due) == most {
			l.Next = t.Due
			return false
		}
		l.Due = append(l.Due, *t)
		return true
	})
	if err != nil {
		l.walk.Fail()
		return Look{}, err
	}
	return l, nil
}

// Done ends the look. gone says that none of the timers which were due is pending any more: looks begin behind them.
func (l *Look) Done(gone bool) {
	if !gone && len(l.Due) > 0 {
		l.walk.End(l.Due[0].Due)
	} else {
		l.walk.End(l.Next)
	}
}

// Next is the timer that fires first; ok is false when there is none.
func (s *State) Next() (t Timer, ok bool, err error) {
	err = s.Each(Point{Due: s.floor.At()}, func(first *Timer) bool {
		t, ok = *first, true
		return false
	})
	if err != nil || !ok {
		return Timer{}, false, err
	}
	return t, true, nil
}

// Each calls f for the timers from a point on, in the order in which they fire, until it returns false. f must not keep the
// timer.
func (s *State) Each(from Point, f func(*Timer) bool) error {
	var t Timer
	lower := kvindex.AppendTimerKey(nil, from.Due, int64(from.Origin))
	err := kvindex.EachRow(s.engine, lower, spaceEnd(kvindex.SpaceTimer), func(key, val []byte) (bool, error) {
		if err := t.decode(key, val); err != nil {
			return false, err
		}
		return f(&t), nil
	})
	if err != nil {
		return fmt.Errorf("delay: read timers: %w", err)
	}
	return nil
}

// Get reads one timer.
func (s *State) Get(at Point) (t Timer, ok bool, err error) {
	key := kvindex.AppendTimerKey(nil, at.Due, int64(at.Origin))
	val, ok, err := s.engine.Get(key, nil)
	if err != nil || !ok {
		return Timer{}, false, err
	}
	if err := t.decode(key, val); err != nil {
		return Timer{}, false, fmt.Errorf("delay: read timer: %w", err)
	}
	return t, true, nil
}

// EachLong calls f for the long timers whose body was stored before an hour, oldest hour first, until it returns false.
func (s *State) EachLong(before uint32, f func(hour uint32, at Point) bool) error {
	lower, upper := []byte{byte(kvindex.SpaceLongTimer)}, kvindex.AppendLongTimerHourPrefix(nil, before)
	err := kvindex.EachRow(s.engine, lower, upper, func(key, _ []byte) (bool, error) {
		return f(binary.BigEndian.Uint32(key[1:]), Point{
			Due: int64(binary.BigEndian.Uint64(key[5:])), Origin: record.Position(binary.BigEndian.Uint64(key[13:])),
		}), nil
	})
	if err != nil {
		return fmt.Errorf("delay: read long timers: %w", err)
	}
	return nil
}

// Pending is the number of timers of a topic.
func (s *State) Pending(topic kvindex.ID) (int64, error) {
	val, ok, err := s.engine.Get(kvindex.AppendTimerCounterKey(nil, topic), nil)
	if err != nil || !ok {
		return 0, err
	}
	return decodeCounter(val)
}

// EachPending calls f for the topics that have timers until it returns false.
func (s *State) EachPending(f func(topic kvindex.ID, n int64) bool) error {
	lower := []byte{byte(kvindex.SpaceTimerCounter)}
	err := kvindex.EachRow(s.engine, lower, kvindex.PrefixEnd(lower), func(key, val []byte) (bool, error) {
		n, err := decodeCounter(val)
		if err != nil {
			return false, err
		}
		return n == 0 || f(kvindex.ID(binary.BigEndian.Uint64(key[1:])), n), nil
	})
	if err != nil {
		return fmt.Errorf("delay: read counters: %w", err)
	}
	return nil
}

// LevelCount is what a delay level has got, and what of it has been let go: fired, recalled, or dropped with its topic.
type LevelCount struct{ In, Out int64 }

// Level reads the counters of a delay level.
func (s *State) Level(level int32) (LevelCount, error) {
	val, ok, err := s.engine.Get(kvindex.AppendDelayLevelKey(nil, level), nil)
	if err != nil || !ok {
		return LevelCount{}, err
	}
	return decodeLevel(val)
}

func spaceEnd(s kvindex.Space) []byte { return kvindex.PrefixEnd([]byte{byte(s)}) }
