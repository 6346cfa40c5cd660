package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/cairnmq/cairn/internal/alloctest"
)

// What is read of a stream is its frames, one after the other, whatever pieces it comes in; a frame whose length lies costs no
// more than a step beyond what has come.
func FuzzFrames(f *testing.F) {
	var all []byte
	for _, frame := range javaFrames(f) {
		f.Add(frame, false)
		all = append(all, frame...)
	}
	f.Add(all, true)
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0, 0, 0, 0}, false)
	f.Fuzz(func(t *testing.T, stream []byte, bytewise bool) {
		const step = chunkRead * chunkStep
		alloctest.AtMost(t, 2*step+(chunkStep+1)*len(stream), func() {
			var src io.Reader = bytes.NewReader(stream)
			if bytewise && len(stream) < 4096 {
				src = iotest.OneByteReader(src)
			}
			r := reader{src: src, limit: DefaultFrameLimit, budget: newBudget(64 << 20), size: chunkMin}
			defer r.close()
			var got []byte
			for {
				frame, err := r.next()
				if err != nil {
					checkEnd(t, stream[len(got):], err)
					break
				}
				got = append(binary.BigEndian.AppendUint32(got, uint32(len(frame))), frame...)
			}
			if !bytes.HasPrefix(stream, got) {
				t.Fatalf("%x was read of %x", got, stream)
			}
		})
	})
}

// checkEnd checks why reading ended before what is left of a stream.
func checkEnd(t *testing.T, left []byte, err error) {
	t.Helper()
	want := io.ErrUnexpectedEOF
	if len(left) == 0 {
		want = io.EOF
	}
	if len(left) >= 4 {
		if n := int64(binary.BigEndian.Uint32(left)); n < 4 || n > DefaultFrameLimit-4 {
			want = ErrFrame
		} else if n <= int64(len(left)-4) {
			t.Fatalf("a whole frame was not read: %x, %v", left, err)
		}
	}
	if !errors.Is(err, want) {
		t.Fatalf("%v, want %v before %x", err, want, left)
	}
}

// Whatever is accepted as a frame, with either header, is read again as the same after it was written with either.
func FuzzDecode(f *testing.F) {
	for _, frame := range javaFrames(f) {
		f.Add(frame[4:])
	}
	f.Add(jsonFrame(`{"code":310,"language":14,"extFields":{"a":"\ud83d\ude00","b":1.5e3},"flag":2,"remark":"\u0000"}`))
	f.Fuzz(func(t *testing.T, frame []byte) {
		var got *Command
		var err error
		alloctest.AtMost(t, 40*len(frame), func() { got, err = Decode(bytes.Clone(frame)) })
		if err != nil {
			if !errors.Is(err, ErrFrame) && !errors.Is(err, ErrHeader) {
				t.Fatalf("error without a kind: %v", err)
			}
			return
		}
		if len(got.Fields) > maxFields {
			t.Fatalf("%d fields", len(got.Fields))
		}
		first := *got
		for _, as := range []Serialize{JSON, Binary} {
			if !fits(&first, as) {
				continue
			}
			c := first
			c.Serialize = as
			again, err := Decode(c.AppendEncode(nil)[4:])
			if err != nil {
				t.Fatalf("%+v as %v: %v", first, as, err)
			}
			if again.Language != c.Language && as == JSON {
				again.Language = c.Language // a number without a name is written as OTHER
			}
			checkEqual(t, again, &c)
		}
	})
}

// fits says whether a header can hold all of a command: JSON has text only, the binary one has 16 bits for code and version.
func fits(c *Command, as Serialize) bool {
	if as == JSON {
		for _, x := range c.Fields {
			if !utf8.ValidString(x.Key) || !utf8.ValidString(x.Value) {
				return false
			}
		}
		return utf8.ValidString(c.Remark)
	}
	for _, x := range c.Fields {
		if len(x.Key) > 1<<16-1 {
			return false
		}
	}
	cut := c.Code >= cutFirst && c.Code <= cutLast && !c.IsResponse() // would be read as the code that it is cut from
	whole := c.Code >= cutFirst+cutCodes && c.Code <= cutLast+cutCodes && !c.IsResponse()
	return (c.Code == int(int16(c.Code)) && !cut || whole) && c.Version == int(uint16(c.Version))
}
