package pop

import (
	"encoding/binary"
	"fmt"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// Order, in the order of reading: this file (what a line is, and its rows), order_fold.go (how records change lines),
// order_choose.go (whose turn it is), order_check.go (what must hold).
//
// A group that is served in order gets a message only when nothing earlier of its message group is in flight, other than in
// the same pop before it. What a pop meets too early it parks: the cursor moves past it, and the message waits in its line.
//
//	queue ──cursor──▶ free: in flight ──acknowledged──▶ the first that waits in the line is ready ──▶ in flight …
//	                └ else: waits in its line
//
// So a message group that is stuck costs a row for each of its messages, once, and holds up no other. A line has a row only
// while something of it is in flight or waits, and then it has exactly one place in one of two lists that a pop reads from the
// front: turns, by the time at which its first message in flight becomes visible again, or, with nothing in flight, ready lines,
// by the log batch since when.
//
// Whether a message may go is decided when the record is applied: what the pop has chosen from an older view is parked then.

// Line names what is in order: the messages of one message group in one queue, or those of a queue that have none.
type Line struct {
	Queue int32
	ID    uint64 // LineOf; 0 for what is not in order
}

// queueLine is the ID of the line of messages without a message group.
const queueLine = 1

// LineOf is the ID of a message group's line. Groups of the same hash share a line, which keeps the order of each.
func LineOf(messageGroup []byte) uint64 {
	if len(messageGroup) == 0 {
		return queueLine
	}
	return max(kvindex.HashKey(string(messageGroup)), queueLine+1)
}

// OfQueue says whether the line is that of messages without a message group.
func (l Line) OfQueue() bool { return l.ID == queueLine }

// Head is a message that waits in its line and may go.
type Head struct {
	Line
	Since    int64 // index of the log batch since when the line is ready: only as long as that is so the head may go
	Offset   int64
	Position record.Position
	Size     int32 // of the log record, header included
}

// lineRow is what a row of the kind OrderLine says.
type lineRow struct {
	parked  int64    // messages that wait
	from    int64    // none of them has an offset below this; 0 when there are none
	since   int64    // index of the log batch since when the first of them may go; 0 while something is in flight
	flights []flight // what is in flight, offsets rise
}

type flight struct{ offset, visibleAt int64 }

// turn is the place of a line in one of the two lists.
type turn struct {
	kind  kvindex.OrderKind // 0: none
	since int64
}

func (r *lineRow) turn() turn {
	switch {
	case len(r.flights) > 0:
		return turn{kvindex.OrderTurn, r.flights[0].visibleAt}
	case r.parked > 0:
		return turn{kvindex.OrderReady, r.since}
	}
	return turn{}
}

// find is the index of an offset in flight, −1 when it is not.
func (r *lineRow) find(offset int64) int {
	for i := range r.flights {
		if r.flights[i].offset == offset {
			return i
		}
	}
	return -1
}

// appendLine makes the value of a row of the kind OrderLine; gap is the distance of an offset from the one before, or from 0.
//
//	┌────────────┬──────────┬───────────┬──────────────┬────────┬──────────────────┐
//	│ parked uv  │ from uv  │ since uv  │ in flight uv │ gap uv │ visible at ms uv │ the last two × in flight
//	└────────────┴──────────┴───────────┴──────────────┴────────┴──────────────────┘
func appendLine(dst []byte, r *lineRow) []byte {
	dst = binary.AppendUvarint(dst, uint64(r.parked))
	dst = binary.AppendUvarint(dst, uint64(r.from))
	dst = binary.AppendUvarint(dst, uint64(r.since))
	dst = binary.AppendUvarint(dst, uint64(len(r.flights)))
	last := int64(0)
	for i := range r.flights {
		dst = binary.AppendUvarint(dst, uint64(r.flights[i].offset-last))
		dst = binary.AppendUvarint(dst, uint64(r.flights[i].visibleAt))
		last = r.flights[i].offset
	}
	return dst
}

func (r *lineRow) decode(val []byte) error {
	d := decode(val)
	r.parked, r.from, r.since = d.Number(), d.Number(), d.Number()
	r.flights = r.flights[:0]
	last := int64(0)
	for i := range d.Count(2) {
		next := flight{offset: last + d.Number(), visibleAt: d.Number()}
		if next.offset < last || i > 0 && next.offset == last {
			d.Fail()
		}
		last = next.offset
		r.flights = append(r.flights, next)
	}
	switch {
	case len(r.flights) > MaxItems, len(r.flights) > 0 && r.since != 0, len(r.flights) == 0 && r.parked == 0,
		r.parked == 0 && r.from != 0:
		d.Fail()
	}
	if err := d.End(); err != nil {
		return fmt.Errorf("line row: %w", err)
	}
	return nil
}

// appendParked makes the value of a row of the kind OrderParked.
//
//	┌──────────────┬──────────┐
//	│ position uv  │ size uv  │
//	└──────────────┴──────────┘
func appendParked(dst []byte, position record.Position, size int32) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(dst, uint64(position)), uint64(size))
}

func decodeParked(val []byte) (position record.Position, size int32, err error) {
	d := decode(val)
	position, size = record.Position(d.Number()), d.Number32()
	if err := d.End(); err != nil {
		return 0, 0, fmt.Errorf("parked row: %w", err)
	}
	return position, size, nil
}

// appendReady makes the value of a row of the kind OrderReady; one of the kind OrderTurn is empty.
//
//	┌──────────┐
//	│ from uv  │ nothing that waits in the line has an offset below this, so that a look for it need not pass what is gone
//	└──────────┘
func appendReady(dst []byte, from int64) []byte { return binary.AppendUvarint(dst, uint64(from)) }

func decodeReady(val []byte) (from int64, err error) {
	d := decode(val)
	from = d.Number()
	if err := d.End(); err != nil {
		return 0, fmt.Errorf("ready row: %w", err)
	}
	return from, nil
}

// The keys of SpaceOrder have their kind here.
const orderKindAt = 1 + 8 + 8

// lineOfKey reads the line of a key of the kinds OrderLine and OrderParked.
func lineOfKey(key []byte) Line {
	tail := key[orderKindAt+1:]
	return Line{int32(binary.BigEndian.Uint32(tail)), binary.BigEndian.Uint64(tail[4:])}
}

// placeOfTurn reads the place and line of a key of the kinds OrderReady and OrderTurn.
func placeOfTurn(key []byte) (since int64, l Line) {
	tail := key[orderKindAt+1:]
	since = int64(binary.BigEndian.Uint64(tail))
	return since, Line{int32(binary.BigEndian.Uint32(tail[8:])), binary.BigEndian.Uint64(tail[12:])}
}

// offsetOfParked reads the last part of a key of the kind OrderParked.
func offsetOfParked(key []byte) int64 { return int64(binary.BigEndian.Uint64(key[len(key)-8:])) }

func init() {
	kvindex.RegisterValue(kvindex.SpaceOrder, func(key, val []byte) string {
		kind := kvindex.OrderKind(0)
		if len(key) > orderKindAt {
			kind = kvindex.OrderKind(key[orderKindAt])
		}
		switch kind {
		case kvindex.OrderLine:
			var r lineRow
			err := r.decode(val)
			return describe(val, err, "parked=%d from=%d since=%d in-flight=%v", r.parked, r.from, r.since, r.flights)
		case kvindex.OrderParked:
			position, size, err := decodeParked(val)
			return describe(val, err, "position=%d size=%d", position, size)
		case kvindex.OrderReady:
			from, err := decodeReady(val)
			return describe(val, err, "from=%d", from)
		case kvindex.OrderTurn:
			if len(val) == 0 {
				return "empty"
			}
		}
		return describe(val, errMalformed, "")
	})
}
