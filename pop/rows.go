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
}

// appendCheckpoint makes the value of a row in SpaceCheckpoint; uv is an unsigned varint.
//
//	┌──────────┬──────────────┬──────────────┬──────────┬──────────────────┬────────────────────────┬─────────┐
//	│ nonce 8  │ attempts uv  │ position uv  │ size uv  │ popped at ms uv  │ since first pop ms uv  │ line 8  │
//	└──────────┴──────────────┴──────────────┴──────────┴──────────────────┴────────────────────────┴─────────┘
//
// What is 0 at the end is left out. A clock that was set back makes the time since the first pop 0.
func appendCheckpoint(dst []byte, c *Checkpoint) []byte {
	dst = binary.BigEndian.AppendUint64(dst, c.Nonce)
	dst = binary.AppendUvarint(dst, uint64(c.Attempts))
	dst = binary.AppendUvarint(dst, uint64(c.Position))
	dst = binary.AppendUvarint(dst, uint64(c.Size))
	dst = binary.AppendUvarint(dst, uint64(c.PoppedAt))
	if since := max(c.PoppedAt-c.FirstAt, 0); since > 0 || c.Line != 0 {
		dst = binary.AppendUvarint(dst, uint64(since))
	}
	if c.Line != 0 {
		dst = binary.BigEndian.AppendUint64(dst, c.Line)
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
		if len(d.Rest) > 0 {
			c.Line = d.Fixed()
		}
		if since > c.PoppedAt || since == 0 && c.Line == 0 { // one row has one form
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

// Counters of a group on a topic.
type Counters struct {
	InFlight int64 // checkpoints, those that are visible again included
	Parked   int64 // messages that wait in their lines
}

// appendCounters makes the value of a row in SpaceCounter.
//
//	┌──────────────┬───────────┐
//	│ in flight 8  │ parked 8  │ the last one only when it is not 0
//	└──────────────┴───────────┘
func appendCounters(dst []byte, c Counters) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(c.InFlight))
	if c.Parked != 0 {
		dst = binary.BigEndian.AppendUint64(dst, uint64(c.Parked))
	}
	return dst
}

func decodeCounters(val []byte) (c Counters, err error) {
	d := decode(val)
	c.InFlight = int64(d.Fixed())
	if len(d.Rest) > 0 {
		c.Parked = int64(d.Fixed())
		if c.Parked <= 0 {
			d.Fail()
		}
	}
	if c.InFlight < 0 {
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
