package kvindex

import (
	"encoding/binary"
	"fmt"
)

// Outcome is what became of a message that was not simply entered in its queue.
type Outcome byte

// Outcomes. The numbers are stored.
const (
	OutcomeRecalled   Outcome = 1 // a timer was taken back
	OutcomeCommitted  Outcome = 2 // a half message was entered in its queue; the number is its offset
	OutcomeScheduled  Outcome = 3 // a half message was committed and became a timer; the number is its due time in ms
	OutcomeRolledBack Outcome = 4
	OutcomeExpired    Outcome = 5 // a half message was given up when its body left the log
)

func (o Outcome) String() string {
	switch o {
	case OutcomeRecalled:
		return "recalled"
	case OutcomeCommitted:
		return "committed"
	case OutcomeScheduled:
		return "scheduled"
	case OutcomeRolledBack:
		return "rolled-back"
	case OutcomeExpired:
		return "expired"
	}
	return fmt.Sprintf("outcome-%d", byte(o))
}

// Ended is a row of SpaceEnded.
type Ended struct {
	Outcome Outcome
	Number  int64
}

// AppendEnded makes the value of a row in SpaceEnded.
//
//	┌────────────┬────────────┐
//	│ outcome 1  │ number uv  │
//	└────────────┴────────────┘
func AppendEnded(dst []byte, e Ended) []byte {
	return binary.AppendUvarint(append(dst, byte(e.Outcome)), uint64(e.Number))
}

// DecodeEnded reads the value of a row in SpaceEnded.
func DecodeEnded(val []byte) (Ended, error) {
	if len(val) > 1 {
		if v, n := binary.Uvarint(val[1:]); n == len(val)-1 && v < 1<<63 {
			return Ended{Outcome(val[0]), int64(v)}, nil
		}
	}
	return Ended{}, fmt.Errorf("row of %d bytes of what became of a message is malformed", len(val))
}

// ReadEnded reads what became of a message; ok is false when nothing is remembered.
func ReadEnded(r Reader, hour uint32, position int64) (e Ended, ok bool, err error) {
	val, ok, err := r.Get(AppendEndedKey(nil, hour, position), nil)
	if err != nil || !ok {
		return Ended{}, false, err
	}
	e, err = DecodeEnded(val)
	return e, err == nil, err
}

func init() {
	RegisterValue(SpaceEnded, func(_, val []byte) string {
		e, err := DecodeEnded(val)
		if err != nil {
			return hexText(val)
		}
		return fmt.Sprintf("%v number=%d", e.Outcome, e.Number)
	})
}
