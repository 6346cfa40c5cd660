package pop

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"

	"github.com/cairnmq/cairn/kvindex"
)

// ErrHandle says that a string is no receipt handle.
var ErrHandle = errors.New("not a receipt handle")

// Handle is what a consumer is given with a message, to acknowledge it or to change its invisible time. It says everything
// that is needed to find the checkpoint, so that no session has to remember anything; it is good until VisibleAt.
type Handle struct {
	Group, Topic kvindex.ID
	Queue        int32
	Offset       int64
	PoppedAt     int64 // ms; of the last change of invisible time when there was one
	VisibleAt    int64 // ms
	Attempts     int32 // which delivery of the message this is, 1 for the first
	Nonce        uint64
}

// Ref names the checkpoint.
func (h *Handle) Ref() Ref {
	return Ref{VisibleAt: h.VisibleAt, Queue: h.Queue, Offset: h.Offset, Nonce: h.Nonce}
}

const (
	handleForm = 1
	// most and least bytes of a handle before base64.
	maxHandleBytes = 1 + 2*10 + 5 + 3*9 + 5 + 8 + 4
	minHandleBytes = 1 + 7 + 8 + 4
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	base64url  = base64.RawURLEncoding
)

// AppendTo appends the handle's text to dst: base64url without padding of
//
//	┌─────────┬──────────┬──────────┬──────────┬───────────┬──────────────────┬─────────────────┐
//	│ form 1  │ group uv │ topic uv │ queue uv │ offset uv │ popped at ms uv  │ invisible ms uv │
//	├─────────┴───┬──────┴───┬──────┴────┬─────┴───────────┴──────────────────┴─────────────────┘
//	│ attempts uv │ nonce 8  │ CRC-32C 4 │ of everything before
//	└─────────────┴──────────┴───────────┘
//
// with unsigned varints (uv) and big-endian numbers. VisibleAt is popped at + invisible.
func (h *Handle) AppendTo(dst []byte) []byte {
	n := len(dst)
	dst = append(dst, handleForm)
	dst = binary.AppendUvarint(dst, uint64(h.Group))
	dst = binary.AppendUvarint(dst, uint64(h.Topic))
	dst = binary.AppendUvarint(dst, uint64(h.Queue))
	dst = binary.AppendUvarint(dst, uint64(h.Offset))
	dst = binary.AppendUvarint(dst, uint64(h.PoppedAt))
	dst = binary.AppendUvarint(dst, uint64(h.VisibleAt-h.PoppedAt))
	dst = binary.AppendUvarint(dst, uint64(h.Attempts))
	dst = binary.BigEndian.AppendUint64(dst, h.Nonce)
	dst = binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[n:], castagnoli))
	// The text goes behind the bytes and then over them, which needs no other buffer.
	raw := dst[n:]
	dst = base64url.AppendEncode(dst, raw)
	return append(dst[:n], dst[n+len(raw):]...)
}

// ParseHandle reads a handle. Only the one text that AppendTo makes is accepted for each; the error is ErrHandle.
func ParseHandle(text string) (Handle, error) {
	if len(text) > base64url.EncodedLen(maxHandleBytes) || len(text) < base64url.EncodedLen(minHandleBytes) {
		return Handle{}, ErrHandle
	}
	sc := scratches.Get().(*scratch)
	defer scratches.Put(sc)
	sc.lower = append(sc.lower[:0], text...)
	raw, err := base64url.AppendDecode(sc.upper[:0], sc.lower)
	sc.upper = raw[:0]
	if err != nil || len(raw) < minHandleBytes {
		return Handle{}, ErrHandle
	}
	sum := len(raw) - 4
	if binary.BigEndian.Uint32(raw[sum:]) != crc32.Checksum(raw[:sum], castagnoli) {
		return Handle{}, ErrHandle
	}
	d := decode(raw[:sum])
	form := d.Byte()
	h := Handle{
		Group: kvindex.ID(d.Uvarint()), Topic: kvindex.ID(d.Uvarint()), Queue: d.Number32(), Offset: d.Number(),
		PoppedAt: d.Number(),
	}
	invisible := d.Number()
	h.Attempts, h.Nonce = d.Number32(), d.Fixed()
	if d.End() != nil || form != handleForm || invisible > math.MaxInt64-h.PoppedAt {
		return Handle{}, ErrHandle
	}
	h.VisibleAt = h.PoppedAt + invisible
	// Varints and base64 can be written in more than one way, and line ends may stand in between.
	if sc.lower = h.AppendTo(sc.lower[:0]); string(sc.lower) != text {
		return Handle{}, ErrHandle
	}
	return h, nil
}
