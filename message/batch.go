package message

import (
	"encoding/binary"
	"fmt"
	"math"
)

// The body of a SEND_BATCH_MESSAGE request is a row of items, big-endian:
//
//	 0  total size        4   of the item
//	 4  magic             4   0, not looked at
//	 8  body CRC          4   0, not looked at
//	12  flag              4
//	16  body length       4,  body
//	 …  properties length 2,  properties
const (
	batchFlag  = 12
	batchBody  = 16
	batchFixed = 22
)

// DecodeBatch splits the body of a SEND_BATCH_MESSAGE request into messages with Flag, Body and Properties set; the two
// slices alias body. The items fill body exactly and there is at least one of them, else the error is ErrCorrupt.
func DecodeBatch(body []byte) ([]Message, error) {
	count := 0
	for rest := body; len(rest) > 0; count++ {
		size, err := batchItemSize(rest)
		if err != nil {
			return nil, fmt.Errorf("decode batch: item %d: %w", count, err)
		}
		rest = rest[size:]
	}
	if count == 0 {
		return nil, fmt.Errorf("decode batch: no message in it: %w", ErrCorrupt)
	}
	messages := make([]Message, count)
	for i := range messages {
		size := int(binary.BigEndian.Uint32(body))
		end := batchBody + 4 + int(binary.BigEndian.Uint32(body[batchBody:]))
		m := &messages[i]
		m.Flag = int32(binary.BigEndian.Uint32(body[batchFlag:]))
		m.Body = body[batchBody+4 : end : end]
		m.Properties = body[end+2 : size : size]
		body = body[size:]
	}
	return messages, nil
}

// batchItemSize checks the lengths of the item at the front of b against each other.
func batchItemSize(b []byte) (int, error) {
	if len(b) < batchFixed {
		return 0, fmt.Errorf("%d bytes are left for it: %w", len(b), ErrCorrupt)
	}
	total := uint64(binary.BigEndian.Uint32(b))
	if total < batchFixed || total > uint64(len(b)) {
		return 0, fmt.Errorf("size %d where %d bytes are left: %w", total, len(b), ErrCorrupt)
	}
	body := uint64(binary.BigEndian.Uint32(b[batchBody:]))
	if body > total-batchFixed {
		return 0, fmt.Errorf("body of %d bytes in %d: %w", body, total, ErrCorrupt)
	}
	properties := uint64(binary.BigEndian.Uint16(b[batchBody+4+body:]))
	if properties > MaxProperties || batchFixed+body+properties != total {
		return 0, fmt.Errorf("body of %d and properties of %d bytes in %d: %w", body, properties, total, ErrCorrupt)
	}
	return int(total), nil
}

// AppendBatchItem appends Flag, Body and Properties of m as one item of a batch. The caller has checked that Properties
// has at most MaxProperties bytes and the item fits MaxRecord: it panics otherwise.
func AppendBatchItem(dst []byte, m *Message) []byte {
	size := batchFixed + len(m.Body) + len(m.Properties)
	if len(m.Properties) > MaxProperties || size > math.MaxInt32 {
		panic(fmt.Sprintf("message: batch item with a body of %d and properties of %d bytes", len(m.Body), len(m.Properties)))
	}
	be := binary.BigEndian
	dst = be.AppendUint32(dst, uint32(size))
	dst = be.AppendUint64(dst, 0) // magic, body CRC
	dst = be.AppendUint32(dst, uint32(m.Flag))
	dst = be.AppendUint32(dst, uint32(len(m.Body)))
	dst = append(dst, m.Body...)
	dst = be.AppendUint16(dst, uint16(len(m.Properties)))
	return append(dst, m.Properties...)
}
