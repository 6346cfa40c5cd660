package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// DefaultFrameLimit is the longest frame, its length field included, that a peer may send, in bytes.
const DefaultFrameLimit = 16 << 20

// maxFields bounds what one header may make us hold.
const maxFields = 4096

// Errors of the decoders; what is wrong is wrapped around them. A connection that meets one is closed without a reply.
var (
	ErrFrame  = errors.New("malformed frame")
	ErrHeader = errors.New("malformed header")
)

// Decode reads one frame, its four length bytes taken off:
//
//	┌─────────────┬─────────────────┬──────────┬────────┐
//	│ serialize 1 │ header length 3 │ header … │ body … │   big endian
//	└─────────────┴─────────────────┴──────────┴────────┘
//
// It overwrites the header while it unescapes strings. Strings of the command are copies; Body aliases frame.
func Decode(frame []byte) (*Command, error) {
	c := getCommand()
	if err := c.decode(frame); err != nil {
		c.Release()
		return nil, err
	}
	return c, nil
}

func (c *Command) decode(frame []byte) error {
	if len(frame) < 4 {
		return fmt.Errorf("%w: %d bytes", ErrFrame, len(frame))
	}
	word := binary.BigEndian.Uint32(frame)
	n := int(word & 0xFFFFFF)
	if n > len(frame)-4 {
		return fmt.Errorf("%w: a header of %d bytes in a frame of %d", ErrFrame, n, len(frame))
	}
	header := frame[4 : 4+n]
	if rest := frame[4+n:]; len(rest) > 0 {
		c.Body = rest
	}
	c.Serialize = Serialize(word >> 24)
	switch c.Serialize {
	case JSON:
		return c.decodeJSON(header)
	case Binary:
		return c.decodeBinary(header)
	}
	return fmt.Errorf("%w: serialize type %d", ErrFrame, word>>24)
}

// AppendEncode appends the whole frame, its length first.
func (c *Command) AppendEncode(dst []byte) []byte {
	return append(c.appendHead(dst), c.Body...)
}

// appendHead appends the frame up to its body, which the length counts already.
func (c *Command) appendHead(dst []byte) []byte {
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0, 0, 0, 0, 0)
	if c.Serialize == Binary {
		dst = c.appendBinary(dst)
	} else {
		dst = c.appendJSON(dst)
	}
	header := len(dst) - at - 8
	binary.BigEndian.PutUint32(dst[at:], uint32(4+header+len(c.Body)))
	binary.BigEndian.PutUint32(dst[at+4:], uint32(c.Serialize)<<24|uint32(header))
	return dst
}
