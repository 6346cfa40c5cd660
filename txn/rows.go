package txn

import (
	"encoding/binary"
	"fmt"

	"github.com/cairnmq/cairn/internal/codec"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// appendTo makes the value of a row in SpaceHalf or SpaceParked.
//
//	┌───────────┬───────────┬──────────┬─────────────┬───────────┬───────────────┐
//	│ topic uv  │ queue uv  │ size uv  │ check ms uv │ checks uv │ stored ms uv  │
//	├───────────┼───────────┼──────────┴──┬──────────┼───────────┴───────────────┘
//	│ reason 1  │ delayed 1 │ tag hash 4  │ id 8     │ group…
//	└───────────┴───────────┴─────────────┴──────────┘
func (h *Half) appendTo(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(h.Topic))
	dst = binary.AppendUvarint(dst, uint64(h.Queue))
	dst = binary.AppendUvarint(dst, uint64(h.Size))
	dst = binary.AppendUvarint(dst, uint64(h.CheckAt))
	dst = binary.AppendUvarint(dst, uint64(h.Checks))
	dst = binary.AppendUvarint(dst, uint64(h.Stored))
	dst = append(dst, byte(h.Reason), 0)
	if h.Delayed {
		dst[len(dst)-1] = 1
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(h.TagHash))
	dst = binary.BigEndian.AppendUint64(dst, h.ID)
	return append(dst, h.Group...)
}

func (h *Half) decode(key, val []byte) error {
	if len(key) != 9 {
		return fmt.Errorf("half message key of %d bytes: %w", len(key), codec.ErrMalformed)
	}
	d := codec.Decoder{Rest: val}
	*h = Half{
		Position: record.Position(binary.BigEndian.Uint64(key[1:])),
		Topic:    kvindex.ID(d.Uvarint()), Queue: d.Number32(), Size: d.Number32(), CheckAt: d.Number(), Checks: d.Number32(),
		Stored: d.Number(), Reason: readReason(&d), Delayed: d.Bool(), TagHash: int64(int32(d.Fixed32())), ID: d.Fixed(),
	}
	h.Group = string(d.Bytes(len(d.Rest)))
	if parked := kvindex.Space(key[0]) == kvindex.SpaceParked; parked != (h.Reason != NotParked) {
		d.Fail()
	}
	if err := d.End(); err != nil {
		return fmt.Errorf("half message row: %w", err)
	}
	return nil
}

// appendCount makes the value of a row in SpaceHalfCounter.
//
//	┌──────────┬────────────┐
//	│ open uv  │ parked uv  │
//	└──────────┴────────────┘
func appendCount(dst []byte, c Count) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(dst, uint64(c.Open)), uint64(c.Parked))
}

func decodeCount(val []byte) (Count, error) {
	d := codec.Decoder{Rest: val}
	c := Count{Open: d.Number(), Parked: d.Number()}
	if err := d.End(); err != nil {
		return Count{}, fmt.Errorf("half message counter row: %w", err)
	}
	return c, nil
}

func init() {
	half := func(key, val []byte) string {
		var h Half
		if err := h.decode(key, val); err != nil {
			return fmt.Sprintf("0x%x (%v)", val, err)
		}
		text := fmt.Sprintf("group=%s topic=%d queue=%d size=%d stored=%s checks=%d", kvindex.FormatText([]byte(h.Group)), h.Topic,
			h.Queue, h.Size, kvindex.FormatTime(h.Stored), h.Checks)
		if h.Reason != NotParked {
			return text + fmt.Sprintf(" reason=%q", h.Reason)
		}
		return text + " check=" + kvindex.FormatTime(h.CheckAt)
	}
	kvindex.RegisterValue(kvindex.SpaceHalf, half)
	kvindex.RegisterValue(kvindex.SpaceParked, half)
	kvindex.RegisterValue(kvindex.SpaceHalfCheck, func(_, val []byte) string {
		if len(val) == 0 {
			return "empty"
		}
		return fmt.Sprintf("0x%x", val)
	})
	kvindex.RegisterValue(kvindex.SpaceHalfCounter, func(_, val []byte) string {
		c, err := decodeCount(val)
		if err != nil {
			return fmt.Sprintf("0x%x (%v)", val, err)
		}
		return fmt.Sprintf("open=%d parked=%d", c.Open, c.Parked)
	})
}
