package codec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"testing"

	"pgregory.net/rapid"
)

// field is one thing that is written and read back.
type field struct {
	bytes []byte
	read  func(d *Decoder) any
	want  any
}

var fields = rapid.OneOf(
	rapid.Map(rapid.Uint64(), func(v uint64) field {
		return field{binary.AppendUvarint(nil, v), func(d *Decoder) any { return d.Uvarint() }, v}
	}),
	rapid.Map(rapid.Int64Range(0, math.MaxInt64), func(v int64) field {
		return field{binary.AppendUvarint(nil, uint64(v)), func(d *Decoder) any { return d.Number() }, v}
	}),
	rapid.Map(rapid.Int32Range(0, math.MaxInt32), func(v int32) field {
		return field{binary.AppendUvarint(nil, uint64(v)), func(d *Decoder) any { return d.Number32() }, v}
	}),
	rapid.Map(rapid.Uint64(), func(v uint64) field {
		return field{binary.BigEndian.AppendUint64(nil, v), func(d *Decoder) any { return d.Fixed() }, v}
	}),
	rapid.Map(rapid.Uint32(), func(v uint32) field {
		return field{binary.BigEndian.AppendUint32(nil, v), func(d *Decoder) any { return d.Fixed32() }, v}
	}),
	rapid.Map(rapid.Byte(), func(v byte) field {
		return field{[]byte{v}, func(d *Decoder) any { return d.Byte() }, v}
	}),
	rapid.Map(rapid.Bool(), func(v bool) field {
		b := field{[]byte{0}, func(d *Decoder) any { return d.Bool() }, v}
		if v {
			b.bytes[0] = 1
		}
		return b
	}),
	rapid.Map(rapid.StringN(0, 20, 20), func(v string) field {
		return field{[]byte(v), func(d *Decoder) any { return string(d.Bytes(len(v))) }, v}
	}),
)

// What was written is read back; what is cut anywhere, or has more behind it, is an error at the end.
func TestFieldsReadBackAsTheyWereWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(fields, 1, 8).Draw(t, "fields")
		var whole []byte
		for _, f := range all {
			whole = append(whole, f.bytes...)
		}
		read := func(b []byte) (same bool, err error) {
			d := Decoder{Rest: b}
			same = true
			for _, f := range all {
				same = f.read(&d) == f.want && same
			}
			return same, d.End()
		}
		if same, err := read(whole); err != nil || !same {
			t.Fatalf("%x: the same %v, %v", whole, same, err)
		}
		for n := range len(whole) {
			if _, err := read(whole[:n]); !errors.Is(err, ErrMalformed) {
				t.Fatalf("%d bytes of %x: %v", n, whole, err)
			}
		}
		if same, err := read(append(bytes.Clone(whole), 0)); !errors.Is(err, ErrMalformed) || !same {
			t.Fatalf("one byte after %x: the same %v, %v", whole, same, err)
		}
	})
}

func TestBounds(t *testing.T) {
	uv := func(v uint64) []byte { return binary.AppendUvarint(nil, v) }
	for name, c := range map[string]struct {
		bytes []byte
		read  func(d *Decoder) any
		want  any // nil: out of bounds
	}{
		"largest number":      {uv(math.MaxInt64), func(d *Decoder) any { return d.Number() }, int64(math.MaxInt64)},
		"number too large":    {uv(math.MaxInt64 + 1), func(d *Decoder) any { return d.Number() }, nil},
		"largest number32":    {uv(math.MaxInt32), func(d *Decoder) any { return d.Number32() }, int32(math.MaxInt32)},
		"number32 too large":  {uv(math.MaxInt32 + 1), func(d *Decoder) any { return d.Number32() }, nil},
		"number32 far off":    {uv(1 << 32), func(d *Decoder) any { return d.Number32() }, nil},
		"largest uvarint":     {uv(math.MaxUint64), func(d *Decoder) any { return d.Uvarint() }, uint64(math.MaxUint64)},
		"uvarint of 65 bits":  {append(bytes.Repeat([]byte{0xff}, 9), 2), func(d *Decoder) any { return d.Uvarint() }, nil},
		"uvarint of 11 bytes": {append(bytes.Repeat([]byte{0x80}, 10), 0), func(d *Decoder) any { return d.Uvarint() }, nil},
		"no bool":             {[]byte{2}, func(d *Decoder) any { return d.Bool() }, nil},
		"bytes before these":  {[]byte{1}, func(d *Decoder) any { return d.Bytes(-1) }, nil},
		"count of none":       {uv(0), func(d *Decoder) any { return d.Count(4) }, 0},
		"count too large":     {append(uv(3), make([]byte, 11)...), func(d *Decoder) any { return d.Count(4) }, nil},
		"count far off":       {uv(math.MaxUint64), func(d *Decoder) any { return d.Count(1) }, nil},
		"failed":              {nil, func(d *Decoder) any { d.Fail(); return 0 }, nil},
	} {
		d := Decoder{Rest: c.bytes}
		got, err := c.read(&d), d.End()
		if c.want != nil && (got != c.want || err != nil) || c.want == nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, %v, want %v", name, got, err, c.want)
		}
	}
}

// A count says no more than that as many items can follow, the last one as short as they are.
func TestCount(t *testing.T) {
	d := Decoder{Rest: append([]byte{3}, make([]byte, 12)...)}
	if n := d.Count(4); n != 3 || len(d.Rest) != 12 {
		t.Errorf("%d items in %d bytes", n, len(d.Rest))
	}
	d = Decoder{Rest: []byte{1}}
	if n := d.Count(1); n != 0 || d.End() == nil {
		t.Errorf("%d items in nothing", n)
	}
}

// After a failure there is nothing but zeroes, so that a reader need not look after each field; and what is read is not what
// later appends write to.
func TestAfterAFailure(t *testing.T) {
	d := Decoder{Rest: []byte{1, 2, 3, 4, 5, 6, 7, 8, 9}}
	d.Fail()
	if d.Uvarint() != 0 || d.Number() != 0 || d.Number32() != 0 || d.Fixed() != 0 || d.Fixed32() != 0 || d.Byte() != 0 || d.Bool() ||
		d.Bytes(1) != nil || d.Count(1) != 0 {
		t.Error("something was read")
	}
	if err := d.End(); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
	whole := []byte{1, 2, 3}
	d = Decoder{Rest: whole}
	if b := append(d.Bytes(1), 9); whole[1] != 2 || len(b) != 2 {
		t.Errorf("%v after %v was written", whole, b)
	}
}

func FuzzDecoder(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7}, []byte{1, 2, 3, 4, 5, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 7, 8, 1, 1})
	f.Add([]byte{7, 5}, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, script, data []byte) {
		d := Decoder{Rest: data}
		for _, what := range script {
			left := len(d.Rest)
			switch what % 8 {
			case 0:
				d.Uvarint()
			case 1:
				if n := d.Number(); n < 0 {
					t.Fatal(n)
				}
			case 2:
				if n := d.Number32(); n < 0 {
					t.Fatal(n)
				}
			case 3:
				d.Fixed()
			case 4:
				d.Fixed32()
			case 5:
				d.Bool()
			case 6:
				if b := d.Bytes(int(what >> 3)); b != nil && len(b) != int(what>>3) {
					t.Fatal(b)
				}
			case 7:
				size := 1 + int(what>>3)
				if n := d.Count(size); n < 0 || n*size > len(d.Rest) {
					t.Fatalf("%d items of %d bytes in %d", n, size, len(d.Rest))
				}
			}
			if len(d.Rest) > left {
				t.Fatalf("%d bytes became %d", left, len(d.Rest))
			}
		}
		_ = d.End()
	})
}
