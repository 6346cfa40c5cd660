// Package codec takes the numbers of rows and records apart.
package codec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// ErrMalformed is a broken invariant: rows and records are checked by their checksums before they are decoded.
var ErrMalformed = errors.New("malformed bytes")

// Decoder takes numbers from the front of Rest. After the first that is not there or too large it yields zeroes, and End
// tells.
type Decoder struct {
	Rest []byte
	bad  bool
}

// Fail makes End tell that something was out of bounds.
func (d *Decoder) Fail() {
	d.bad, d.Rest = true, nil
}

// Uvarint reads what fits in 64 bits.
func (d *Decoder) Uvarint() uint64 {
	v, n := binary.Uvarint(d.Rest)
	if n <= 0 {
		d.Fail()
		return 0
	}
	d.Rest = d.Rest[n:]
	return v
}

// Number reads what fits in an int64 and is not negative.
func (d *Decoder) Number() int64 {
	v := d.Uvarint()
	if v > math.MaxInt64 {
		d.Fail()
		return 0
	}
	return int64(v)
}

// Number32 reads what fits in an int32 and is not negative.
func (d *Decoder) Number32() int32 {
	v := d.Uvarint()
	if v > math.MaxInt32 {
		d.Fail()
		return 0
	}
	return int32(v)
}

// Fixed reads 8 bytes, big-endian.
func (d *Decoder) Fixed() uint64 {
	b := d.Bytes(8)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

// Fixed32 reads 4 bytes, big-endian.
func (d *Decoder) Fixed32() uint32 {
	b := d.Bytes(4)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// Byte reads one byte.
func (d *Decoder) Byte() byte {
	b := d.Bytes(1)
	if b == nil {
		return 0
	}
	return b[0]
}

// Bool reads one byte that is 0 or 1.
func (d *Decoder) Bool() bool {
	b := d.Byte()
	if b > 1 {
		d.Fail()
	}
	return b == 1
}

// Bytes takes n bytes, nil when they are not there. They alias what is decoded.
func (d *Decoder) Bytes(n int) []byte {
	if n < 0 || len(d.Rest) < n {
		d.Fail()
		return nil
	}
	b := d.Rest[:n:n]
	d.Rest = d.Rest[n:]
	return b
}

// Count reads how many items of at least size bytes follow.
func (d *Decoder) Count(size int) int {
	v := d.Uvarint()
	if v > uint64(len(d.Rest)/size) {
		d.Fail()
		return 0
	}
	return int(v)
}

// End says whether everything was there and nothing is left; an error is ErrMalformed.
func (d *Decoder) End() error {
	switch {
	case d.bad:
		return fmt.Errorf("cut short or out of bounds: %w", ErrMalformed)
	case len(d.Rest) > 0:
		return fmt.Errorf("%d bytes too many: %w", len(d.Rest), ErrMalformed)
	}
	return nil
}
