package wire

import (
	"encoding/binary"
	"fmt"
	"math"
)

// The code of a binary header has 16 bits, so that the codes of POP and lite topics (200050 to 200151) arrive cut. No
// other request has a code in the range that they are cut to.
const (
	cutCodes = 3 << 16
	cutFirst = 200050 - cutCodes
	cutLast  = 200151 - cutCodes
)

const binaryFixed = 2 + 1 + 2 + 4 + 4

// decodeBinary reads
//
//	┌────────┬────────────┬───────────┬──────────┬────────┬───────────────────┬────────────────────┐
//	│ code 2 │ language 1 │ version 2 │ opaque 4 │ flag 4 │ length 4, remark… │ length 4, fields … │   big endian
//	└────────┴────────────┴───────────┴──────────┴────────┴───────────────────┴────────────────────┘
//	 field = length 2, key…, length 4, value…
func (c *Command) decodeBinary(h []byte) error {
	if len(h) < binaryFixed {
		return fmt.Errorf("%w: %d bytes of a binary one", ErrHeader, len(h))
	}
	c.Code = int(int16(binary.BigEndian.Uint16(h)))
	c.Language = Language(h[2])
	c.Version = int(binary.BigEndian.Uint16(h[3:]))
	c.Opaque = int32(binary.BigEndian.Uint32(h[5:]))
	c.Flag = int32(binary.BigEndian.Uint32(h[9:]))
	if c.Code >= cutFirst && c.Code <= cutLast && !c.IsResponse() {
		c.Code += cutCodes
	}
	text := string(h)
	remark, at, err := binaryText(text, binaryFixed, 4)
	if err != nil {
		return fmt.Errorf("remark: %w", err)
	}
	fields, _, err := binaryText(text, at, 4)
	if err != nil {
		return fmt.Errorf("fields: %w", err)
	}
	c.Remark = remark
	for at = 0; at < len(fields); {
		var f Field
		if f.Key, at, err = binaryText(fields, at, 2); err != nil {
			return fmt.Errorf("key of a field: %w", err)
		}
		if f.Value, at, err = binaryText(fields, at, 4); err != nil {
			return fmt.Errorf("value of a field: %w", err)
		}
		if len(c.Fields) == maxFields {
			return fmt.Errorf("%w: more than %d fields", ErrHeader, maxFields)
		}
		c.Fields = append(c.Fields, f)
	}
	return nil
}

// binaryText reads a text behind its length of width bytes and says where the next thing is.
func binaryText(s string, at, width int) (text string, next int, err error) {
	if len(s)-at < width {
		return "", 0, fmt.Errorf("%w: it ends early", ErrHeader)
	}
	n := 0
	for _, b := range []byte(s[at : at+width]) {
		n = n<<8 | int(b)
	}
	at += width
	if n > len(s)-at {
		return "", 0, fmt.Errorf("%w: %d bytes announced, %d left", ErrHeader, n, len(s)-at)
	}
	return s[at : at+n], at + n, nil
}

// appendBinary is the inverse of decodeBinary. A key longer than 65535 bytes does not exist; it would be left out.
func (c *Command) appendBinary(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(c.Code))
	dst = append(dst, byte(c.Language))
	dst = binary.BigEndian.AppendUint16(dst, uint16(c.Version))
	dst = binary.BigEndian.AppendUint32(dst, uint32(c.Opaque))
	dst = binary.BigEndian.AppendUint32(dst, uint32(c.Flag))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(c.Remark)))
	dst = append(dst, c.Remark...)
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	for _, f := range c.Fields {
		if len(f.Key) > math.MaxUint16 {
			continue
		}
		dst = binary.BigEndian.AppendUint16(dst, uint16(len(f.Key)))
		dst = append(dst, f.Key...)
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(f.Value)))
		dst = append(dst, f.Value...)
	}
	binary.BigEndian.PutUint32(dst[at:], uint32(len(dst)-at-4))
	return dst
}
