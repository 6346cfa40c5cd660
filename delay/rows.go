package delay

import (
	"encoding/binary"
	"fmt"

	"github.com/cairnmq/cairn/internal/codec"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

func (p Point) appendKey(dst []byte) []byte {
	return kvindex.AppendTimerKey(dst, p.Due, int64(p.Origin))
}

// appendTo makes the value of a row in SpaceTimer. Moved is the distance from the origin to where the body is now.
//
//	┌───────────┬───────────┬───────────┬──────────┬──────────┬─────────┬─────────────┐
//	│ topic uv  │ queue uv  │ moved uv  │ size uv  │ level uv │ hour uv │ tag hash 4  │
//	└───────────┴───────────┴───────────┴──────────┴──────────┴─────────┴─────────────┘
func (t *Timer) appendTo(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(t.Topic))
	dst = binary.AppendUvarint(dst, uint64(t.Queue))
	dst = binary.AppendUvarint(dst, uint64(t.Position-t.Origin))
	dst = binary.AppendUvarint(dst, uint64(t.Size))
	dst = binary.AppendUvarint(dst, uint64(t.Level))
	dst = binary.AppendUvarint(dst, uint64(t.Hour))
	return binary.BigEndian.AppendUint32(dst, uint32(t.TagHash))
}

func (t *Timer) decode(key, val []byte) error {
	if len(key) != 17 {
		return fmt.Errorf("timer key of %d bytes: %w", len(key), codec.ErrMalformed)
	}
	d := codec.Decoder{Rest: val}
	t.Due = int64(binary.BigEndian.Uint64(key[1:]))
	t.Origin = record.Position(binary.BigEndian.Uint64(key[9:]))
	t.Topic = kvindex.ID(d.Uvarint())
	t.Queue = d.Number32()
	t.Position = t.Origin + record.Position(d.Number())
	t.Size = d.Number32()
	t.Level = d.Number32()
	t.Hour = uint32(d.Number32())
	t.TagHash = int64(int32(d.Fixed32()))
	if err := d.End(); err != nil {
		return fmt.Errorf("timer row: %w", err)
	}
	return nil
}

// appendCounter makes the value of a row in SpaceTimerCounter.
//
//	┌────────────┐
//	│ pending 8  │ timers of the topic
//	└────────────┘
func appendCounter(dst []byte, n int64) []byte { return binary.BigEndian.AppendUint64(dst, uint64(n)) }

func decodeCounter(val []byte) (int64, error) {
	if len(val) != 8 || val[0] >= 0x80 {
		return 0, fmt.Errorf("timer counter row of %d bytes: %w", len(val), codec.ErrMalformed)
	}
	return int64(binary.BigEndian.Uint64(val)), nil
}

// appendLevel makes the value of a row in SpaceDelayLevel.
//
//	┌────────┬─────────┐
//	│ in uv  │ out uv  │
//	└────────┴─────────┘
func appendLevel(dst []byte, c LevelCount) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(dst, uint64(c.In)), uint64(c.Out))
}

func decodeLevel(val []byte) (LevelCount, error) {
	d := codec.Decoder{Rest: val}
	c := LevelCount{In: d.Number(), Out: d.Number()}
	if err := d.End(); err != nil {
		return LevelCount{}, fmt.Errorf("delay level row: %w", err)
	}
	return c, nil
}

func init() {
	print := func(f func(key, val []byte) (string, error)) func(key, val []byte) string {
		return func(key, val []byte) string {
			text, err := f(key, val)
			if err != nil {
				return fmt.Sprintf("0x%x (%v)", val, err)
			}
			return text
		}
	}
	kvindex.RegisterValue(kvindex.SpaceTimer, print(func(key, val []byte) (string, error) {
		var t Timer
		err := t.decode(key, val)
		text := fmt.Sprintf("topic=%d queue=%d position=%d size=%d", t.Topic, t.Queue, t.Position, t.Size)
		if t.Level > 0 {
			text += fmt.Sprintf(" level=%d", t.Level)
		}
		if t.Hour > 0 {
			text += fmt.Sprintf(" hour=%d", t.Hour)
		}
		if t.TagHash != 0 {
			text += fmt.Sprintf(" #%d", t.TagHash)
		}
		return text, err
	}))
	kvindex.RegisterValue(kvindex.SpaceTimerCounter, print(func(_, val []byte) (string, error) {
		n, err := decodeCounter(val)
		return fmt.Sprintf("pending=%d", n), err
	}))
	kvindex.RegisterValue(kvindex.SpaceDelayLevel, print(func(_, val []byte) (string, error) {
		c, err := decodeLevel(val)
		return fmt.Sprintf("in=%d out=%d", c.In, c.Out), err
	}))
}
