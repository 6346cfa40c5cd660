package pop

import (
	"encoding/binary"
	"fmt"

	"github.com/cairnmq/cairn/internal/codec"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

var errMalformed = codec.ErrMalformed

// appendCursor makes the value of a row in SpaceCursor.
//
//	┌─────────┬──────────────┐
//	│ next 8  │ committed 8  │
//	└─────────┴──────────────┘
func appendCursor(dst []byte, c Cursor) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(c.Next))
	return binary.BigEndian.AppendUint64(dst, uint64(c.Committed))
}

func decodeCursor(val []byte) (Cursor, error) {
	if len(val) != 16 {
		return Cursor{}, fmt.Errorf("cursor row of %d bytes: %w", len(val), errMalformed)
	}
	c := Cursor{Next: int64(binary.BigEndian.Uint64(val)), Committed: int64(binary.BigEndian.Uint64(val[8:]))}
	if c.Next < 0 || c.Committed < 0 {
		return Cursor{}, fmt.Errorf("cursor row at %d, %d: %w", c.Next, c.Committed, errMalformed)
	}
	return c, nil
}

// Checkpoint is what a row says of a popped message.
type Checkpoint struct {
	Nonce    uint64 // of the pop that handed it out last
	Attempts int32  // deliveries so far that count
	Position record.Position
	Size     int32  // of the message's log record, header included
	PoppedAt int64  // ms
	FirstAt  int64  // ms: when it was handed out for the first time
	Line     uint64 // the ID of its line; 0 when it is in none
	// Postponed: no consumer has it. It was given back, to become visible when it does.
	Postponed bool
}

// appendCheckpoint makes the value of a row in SpaceCheckpoint; uv is an unsigned varint.
//
//	┌──────────┬──────────────┬──────────────┬──────────┬──────────────────┬────────────────────────┬─────────┬──────────────┐
//	│ nonce 8  │ attempts uv  │ position uv  │ size uv  │ popped at ms uv  │ since first pop ms uv  │ line 8  │ postponed 1  │
//	└──────────┴──────────────┴──────────────┴──────────┴──────────────────┴────────────────────────┴─────────┴──────────────┘
//
// What is 0 at the end is left out, and so is a line of 0. A clock that was set back makes the time since the first pop 0.
func appendCheckpoint(dst []byte, c *Checkpoint) []byte {
	dst = binary.BigEndian.AppendUint64(dst, c.Nonce)
	dst = binary.AppendUvarint(dst, uint64(c.Attempts))
	dst = binary.AppendUvarint(dst, uint64(c.Position))
	dst = binary.AppendUvarint(dst, uint64(c.Size))
	dst = binary.AppendUvarint(dst, uint64(c.PoppedAt))
	if since := max(c.PoppedAt-c.FirstAt, 0); since > 0 || c.Line != 0 || c.Postponed {
		dst = binary.AppendUvarint(dst, uint64(since))
	}
	if c.Line != 0 {
		dst = binary.BigEndian.AppendUint64(dst, c.Line)
	}
	if c.Postponed {
		dst = append(dst, 1)
	}
	return dst
}

func decodeCheckpoint(val []byte) (c Checkpoint, err error) {
	d := decode(val)
	c.Nonce = d.Fixed()
	c.Attempts = d.Number32()
	c.Position = record.Position(d.Number())
	c.Size = d.Number32()
	c.PoppedAt = d.Number()
	c.FirstAt = c.PoppedAt
	if len(d.Rest) > 0 {
		since := d.Number()
		lined := len(d.Rest) >= 8
		if lined {
			c.Line = d.Fixed()
		}
		c.Postponed = len(d.Rest) > 0
		// One row has one form.
		if c.Postponed && d.Byte() != 1 || lined && c.Line == 0 || since > c.PoppedAt || since == 0 && c.Line == 0 && !c.Postponed {
			d.Fail()
		}
		c.FirstAt -= since
	}
	if err := d.End(); err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint row: %w", err)
	}
	return c, nil
}

// Ref names a checkpoint of a group on a topic. Only with the nonce of the row it means anything.
type Ref struct {
	VisibleAt int64 // ms
	Queue     int32
	Offset    int64
	Nonce     uint64
}

// refOfKey reads the last parts of a key in SpaceCheckpoint.
func refOfKey(key []byte) Ref {
	tail := key[len(key)-20:]
	return Ref{
		VisibleAt: int64(binary.BigEndian.Uint64(tail)),
		Queue:     int32(binary.BigEndian.Uint32(tail[8:])),
		Offset:    int64(binary.BigEndian.Uint64(tail[12:])),
	}
}

func (r *Ref) appendKey(dst []byte, at place) []byte {
	return kvindex.AppendCheckpointKey(dst, at.group, at.topic, r.VisibleAt, r.Queue, r.Offset)
}

// Counters of a group on a topic. They know no time: what is visible again is found by walking.
type Counters struct {
	InFlight  int64 // checkpoints, those that are visible again included
	Parked    int64 // messages that wait in their lines
	Free      int64 // of Parked, those in lines of which nothing is in flight: they may go
	Postponed int64 // of InFlight, those that were given back to become visible later
}

func (c *Counters) check() error {
	if c.Free < 0 || c.Postponed < 0 || c.InFlight < c.Postponed || c.Parked < c.Free {
		return fmt.Errorf("counters of %+v: %w", *c, errMalformed)
	}
	return nil
}

// appendCounters makes the value of a row in SpaceCounter.
//
//	┌──────────────┬───────────┬─────────┬──────────────┐
//	│ in flight 8  │ parked 8  │ free 8  │ postponed 8  │ without zeros at the end, but for the first one
//	└──────────────┴───────────┴─────────┴──────────────┘
func appendCounters(dst []byte, c Counters) []byte {
	all := [...]int64{c.InFlight, c.Parked, c.Free, c.Postponed}
	n := len(all)
	for n > 1 && all[n-1] == 0 {
		n--
	}
	for _, v := range all[:n] {
		dst = binary.BigEndian.AppendUint64(dst, uint64(v))
	}
	return dst
}

func decodeCounters(val []byte) (c Counters, err error) {
	d := decode(val)
	last := int64(1)
	for i, v := range [...]*int64{&c.InFlight, &c.Parked, &c.Free, &c.Postponed} {
		if i > 0 && len(d.Rest) == 0 {
			break
		}
		*v = int64(d.Fixed())
		if last = *v; i == 0 {
			last = 1
		}
	}
	if last == 0 || c.check() != nil {
		d.Fail()
	}
	if err := d.End(); err != nil {
		return Counters{}, fmt.Errorf("counter row of %d bytes: %w", len(val), err)
	}
	return c, nil
}

// decoder reads what this package writes.
type decoder struct{ codec.Decoder }

func decode(b []byte) decoder { return decoder{codec.Decoder{Rest: b}} }
