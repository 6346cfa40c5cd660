// Package txn is messages whose transaction is not decided: half messages.
//
// A half message goes to the log once, in the form in which consumers will see it. Instead of a queue entry it gets a row
// under its position, and one under the time at which its producer is asked. Committing enters it in its queue, or makes it a
// timer when it is delayed; rolling back forgets it. What a producer never decides is parked: it stays listed, is not asked
// for any more, and can still be committed or rolled back.
//
//	half record ─▶ Add ─▶ half row, check row ──▶ end record: Released, or gone; and remembered
//	                          └────────────────▶ check record: next check, or parked ──▶ end record
//
// Order of reading: this file (the state and its reads), rows.go and records.go (the bytes), fold.go, check.go (what must
// hold), id.go (transaction ids).
//
// Rules of the package: a half message has one row in SpaceHalf with one in SpaceHalfCheck, or one in SpaceParked. The counter
// of a topic changes in the batch that changes the rows which it counts.
package txn

import (
	"encoding/binary"
	"fmt"

	"github.com/cairnmq/cairn/internal/due"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// Half is a message whose transaction is not decided.
type Half struct {
	Position record.Position
	CheckAt  int64 // ms; 0 when it is parked
	Topic    kvindex.ID
	Queue    int32
	Size     int32 // of its log record, header included
	TagHash  int64
	Checks   int32  // how often its producer was to be asked
	Stored   int64  // ms
	ID       uint64 // kvindex.HashID of its unique id
	Delayed  bool   // its properties ask for a delay, which begins when it is committed
	Reason   Reason // why it is parked
	Group    string // producer group
}

// Reason says why a half message is parked.
type Reason byte

// Reasons. The numbers are stored.
const (
	NotParked   Reason = 0
	NoAnswer    Reason = 1 // producers were asked as often as is allowed, and none decided
	NoProducer  Reason = 2 // there was no producer to ask, as often as is allowed
	ParkedByOps Reason = 3 // an operator wanted it
)

func (r Reason) String() string {
	switch r {
	case NotParked:
		return "open"
	case NoAnswer:
		return "no producer decided"
	case NoProducer:
		return "no producer to ask"
	case ParkedByOps:
		return "parked by an operator"
	}
	return fmt.Sprintf("reason-%d", byte(r))
}

// Count is how many half messages a topic has.
type Count struct{ Open, Parked int64 }

// State is the Fold of half messages and the reads of their rows. Reads are safe for concurrent use and see the latest applied
// state; Add, Apply, Finish and Publish belong to the folder's goroutine.
type State struct {
	engine kvindex.Reader
	fold   fold
	floor  *due.Floor // of check times
}

// New returns the state that e holds.
func New(e kvindex.Engine) *State {
	return &State{engine: e, fold: newFold(), floor: due.NewFloor()}
}

var (
	_ kvindex.Fold     = (*State)(nil)
	_ kvindex.Releaser = (*State)(nil)
)

// Changed receives when a check was added that is due before what NextCheck found last, or may be. One goroutine waits for it.
func (s *State) Changed() <-chan struct{} { return s.floor.Changed() }

// Publish lets the floor follow the batch that was just committed.
func (s *State) Publish() {
	s.floor.Lower(s.fold.low)
	s.fold.low = due.Never
}

// NextCheck is the time (ms) of the earliest check; ok is false when there is none. After it, Changed tells of any that is
// earlier.
func (s *State) NextCheck() (at int64, ok bool, err error) {
	at = due.Never
	look := s.floor.Look()
	err = s.eachCheck(look.From, func(checkAt int64, _ record.Position) bool {
		at, ok = checkAt, true
		return false
	})
	if err != nil {
		look.Fail()
		return 0, false, err
	}
	look.End(at)
	if !ok {
		return 0, false, nil
	}
	return at, true, nil
}

// Due appends the half messages that are to be checked at now (ms) to dst, at most so many, in the order of their checks.
func (s *State) Due(now int64, most int, dst []Half) ([]Half, error) {
	var places []record.Position
	err := s.eachCheck(s.floor.At(), func(checkAt int64, at record.Position) bool {
		if checkAt > now || len(places) == most {
			return false
		}
		places = append(places, at)
		return true
	})
	for _, at := range places {
		if err != nil {
			break
		}
		var h Half
		var ok bool
		// It may have been parked, or asked, since its check was read.
		if h, ok, err = s.Get(at); ok && h.Reason == NotParked && h.CheckAt <= now {
			dst = append(dst, h)
		}
	}
	return dst, err
}

func (s *State) eachCheck(from int64, f func(checkAt int64, at record.Position) bool) error {
	lower := kvindex.AppendHalfCheckKey(nil, from, 0)
	err := kvindex.EachRow(s.engine, lower, kvindex.PrefixEnd(lower[:1]), func(key, _ []byte) (bool, error) {
		return f(int64(binary.BigEndian.Uint64(key[1:])), record.Position(binary.BigEndian.Uint64(key[9:]))), nil
	})
	if err != nil {
		return fmt.Errorf("txn: read checks: %w", err)
	}
	return nil
}

// Get reads a half message, open or parked, by its position.
func (s *State) Get(at record.Position) (h Half, ok bool, err error) {
	for _, key := range [][]byte{kvindex.AppendHalfKey(nil, int64(at)), kvindex.AppendParkedKey(nil, int64(at))} {
		val, ok, err := s.engine.Get(key, nil)
		if err != nil {
			return Half{}, false, fmt.Errorf("txn: read half message: %w", err)
		}
		if ok {
			if err := h.decode(key, val); err != nil {
				return Half{}, false, fmt.Errorf("txn: %w", err)
			}
			return h, true, nil
		}
	}
	return Half{}, false, nil
}

// Each calls f for the open or the parked half messages from a position on, oldest first, until it returns false. f must not
// keep the half message.
func (s *State) Each(parked bool, from record.Position, f func(*Half) bool) error {
	lower := kvindex.AppendHalfKey(nil, int64(from))
	if parked {
		lower = kvindex.AppendParkedKey(nil, int64(from))
	}
	var h Half
	err := kvindex.EachRow(s.engine, lower, kvindex.PrefixEnd(lower[:1]), func(key, val []byte) (bool, error) {
		if err := h.decode(key, val); err != nil {
			return false, err
		}
		return f(&h), nil
	})
	if err != nil {
		return fmt.Errorf("txn: read half messages: %w", err)
	}
	return nil
}

// Count reads how many half messages a topic has.
func (s *State) Count(topic kvindex.ID) (Count, error) {
	val, ok, err := s.engine.Get(kvindex.AppendHalfCounterKey(nil, topic), nil)
	if err != nil || !ok {
		return Count{}, err
	}
	return decodeCount(val)
}

// EachCount calls f for the topics that have half messages until it returns false.
func (s *State) EachCount(f func(topic kvindex.ID, n Count) bool) error {
	lower := []byte{byte(kvindex.SpaceHalfCounter)}
	err := kvindex.EachRow(s.engine, lower, kvindex.PrefixEnd(lower), func(key, val []byte) (bool, error) {
		n, err := decodeCount(val)
		if err != nil {
			return false, err
		}
		return n == (Count{}) || f(kvindex.ID(binary.BigEndian.Uint64(key[1:])), n), nil
	})
	if err != nil {
		return fmt.Errorf("txn: read counters: %w", err)
	}
	return nil
}
