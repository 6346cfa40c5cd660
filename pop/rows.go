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
	Size     int32 // of the message's log record, header included
	PoppedAt int64 // ms
}

// appendCheckpoint makes the value of a row in SpaceCheckpoint; uv is an unsigned varint.
//
//	┌──────────┬──────────────┬──────────────┬──────────┬──────────────────┐
//	│ nonce 8  │ attempts uv  │ position uv  │ size uv  │ popped at ms uv  │
//	└──────────┴──────────────┴──────────────┴──────────┴──────────────────┘
func appendCheckpoint(dst []byte, c *Checkpoint) []byte {
	dst = binary.BigEndian.AppendUint64(dst, c.Nonce)
	dst = binary.AppendUvarint(dst, uint64(c.Attempts))
	dst = binary.AppendUvarint(dst, uint64(c.Position))
	dst = binary.AppendUvarint(dst, uint64(c.Size))
	return binary.AppendUvarint(dst, uint64(c.PoppedAt))
}

func decodeCheckpoint(val []byte) (c Checkpoint, err error) {
	d := decode(val)
	c.Nonce = d.Fixed()
	c.Attempts = d.Number32()
	c.Position = record.Position(d.Number())
	c.Size = d.Number32()
	c.PoppedAt = d.Number()
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

// appendCounter makes the value of a row in SpaceCounter.
//
//	┌──────────────┐
//	│ in flight 8  │ checkpoints of the group on the topic
//	└──────────────┘
func appendCounter(dst []byte, inFlight int64) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(inFlight))
}

func decodeCounter(val []byte) (int64, error) {
	if len(val) != 8 || val[0] >= 0x80 {
		return 0, fmt.Errorf("counter row of %d bytes: %w", len(val), errMalformed)
	}
	return int64(binary.BigEndian.Uint64(val)), nil
}

// decoder reads what this package writes.
type decoder struct{ codec.Decoder }

func decode(b []byte) decoder { return decoder{codec.Decoder{Rest: b}} }
