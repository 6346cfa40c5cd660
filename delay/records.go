package delay

import (
	"encoding/binary"
	"fmt"

	"github.com/cairnmq/cairn/internal/codec"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// Record payloads of this package begin with a form number and are made of unsigned varints (uv).
const recordForm = 1

// Fire makes the timers from one point to another visible, both included: whatever is pending there when it is applied. It
// is refused when To is not due at the time of its batch.
type Fire struct{ From, To Point }

// Record makes the record.
//
//	┌─────────┬──────────────┬────────────────┬──────────────┬───────────────┐
//	│ form 1  │ from due uv  │ from origin uv │ to − from uv │ to origin uv  │
//	└─────────┴──────────────┴────────────────┴──────────────┴───────────────┘
func (f Fire) Record() record.Record {
	if f.To.Before(f.From) || f.From.Due < 0 {
		panic(fmt.Sprintf("delay: a record that fires from %v to %v", f.From, f.To))
	}
	p := binary.AppendUvarint([]byte{recordForm}, uint64(f.From.Due))
	p = binary.AppendUvarint(p, uint64(f.From.Origin))
	p = binary.AppendUvarint(p, uint64(f.To.Due-f.From.Due))
	p = binary.AppendUvarint(p, uint64(f.To.Origin))
	return record.Record{Kind: record.KindFire, Payload: p}
}

func decodeFire(payload []byte) (f Fire, err error) {
	d := codec.Decoder{Rest: payload}
	readForm(&d)
	f.From = Point{Due: d.Number(), Origin: record.Position(d.Number())}
	f.To = Point{Due: f.From.Due + d.Number(), Origin: record.Position(d.Number())}
	if f.To.Before(f.From) {
		d.Fail()
	}
	return f, d.End()
}

// Recall takes a timer back. It is refused when it is not pending any more, or is another topic's.
type Recall struct {
	Point
	Topic kvindex.ID
}

// Record makes the record.
//
//	┌─────────┬─────────┬────────────┬───────────┐
//	│ form 1  │ due uv  │ origin uv  │ topic uv  │
//	└─────────┴─────────┴────────────┴───────────┘
func (r Recall) Record() record.Record {
	p := binary.AppendUvarint([]byte{recordForm}, uint64(r.Due))
	p = binary.AppendUvarint(p, uint64(r.Origin))
	return record.Record{Kind: record.KindRecall, Payload: binary.AppendUvarint(p, uint64(r.Topic))}
}

func decodeRecall(payload []byte) (r Recall, err error) {
	d := codec.Decoder{Rest: payload}
	readForm(&d)
	r.Due, r.Origin, r.Topic = d.Number(), record.Position(d.Number()), kvindex.ID(d.Uvarint())
	return r, d.End()
}

func readForm(d *codec.Decoder) {
	if d.Byte() != recordForm {
		d.Fail()
	}
}
