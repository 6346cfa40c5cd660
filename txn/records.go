package txn

import (
	"encoding/binary"

	"github.com/cairnmq/cairn/internal/codec"
	"github.com/cairnmq/cairn/internal/record"
)

// Record payloads of this package begin with a form number and are made of unsigned varints (uv).
const recordForm = 1

// Action is how a transaction ends.
type Action byte

// Actions. The numbers are stored.
const (
	Commit   Action = 1
	Rollback Action = 2
	Expire   Action = 3 // its body leaves the log
)

// End ends a transaction. It is refused when there is no such half message (any more).
type End struct {
	Position record.Position
	Action   Action
	Due      int64 // ms: of a commit whose message is delayed; 0: now
}

// Record makes the record.
//
//	┌─────────┬──────────────┬───────────┬────────────┐
//	│ form 1  │ position uv  │ action 1  │ due ms uv  │
//	└─────────┴──────────────┴───────────┴────────────┘
func (e End) Record() record.Record {
	p := binary.AppendUvarint([]byte{recordForm}, uint64(e.Position))
	p = binary.AppendUvarint(append(p, byte(e.Action)), uint64(e.Due))
	return record.Record{Kind: record.KindEnd, Payload: p}
}

func decodeEnd(payload []byte) (e End, err error) {
	d := codec.Decoder{Rest: payload}
	readForm(&d)
	e = End{Position: record.Position(d.Number()), Action: Action(d.Byte()), Due: d.Number()}
	if e.Action < Commit || e.Action > Expire {
		d.Fail()
	}
	return e, d.End()
}

// Check notes for half messages that their producer was asked, or that they are parked.
type Check struct {
	Position record.Position
	Next     int64  // ms: when to ask again
	Park     Reason // NotParked: ask again
	Free     bool   // does not count as a check
}

// MaxChecks bounds what one record notes.
const MaxChecks = 1024

// ChecksRecord makes the record of at most MaxChecks checks.
//
//	┌─────────┬──────────┬───── × n ─────────────────────────────────────┐
//	│ form 1  │ n uv     │ position uv │ next ms uv │ reason 1 │ free 1  │
//	└─────────┴──────────┴───────────────────────────────────────────────┘
func ChecksRecord(checks []Check) record.Record {
	p := binary.AppendUvarint([]byte{recordForm}, uint64(len(checks)))
	for _, c := range checks {
		p = binary.AppendUvarint(p, uint64(c.Position))
		p = binary.AppendUvarint(p, uint64(c.Next))
		p = append(p, byte(c.Park), 0)
		if c.Free {
			p[len(p)-1] = 1
		}
	}
	return record.Record{Kind: record.KindCheck, Payload: p}
}

func decodeChecks(payload []byte, dst []Check) ([]Check, error) {
	d := codec.Decoder{Rest: payload}
	readForm(&d)
	n := d.Count(4)
	if n > MaxChecks {
		d.Fail()
	}
	for range n {
		dst = append(dst, Check{Position: record.Position(d.Number()), Next: d.Number(), Park: readReason(&d), Free: d.Bool()})
	}
	return dst, d.End()
}

func readReason(d *codec.Decoder) Reason {
	r := Reason(d.Byte())
	if r > ParkedByOps {
		d.Fail()
	}
	return r
}

func readForm(d *codec.Decoder) {
	if d.Byte() != recordForm {
		d.Fail()
	}
}
