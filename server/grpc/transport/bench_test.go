package transport

import (
	"bufio"
	"encoding/binary"
	"io"
	"testing"

	"golang.org/x/net/http2"
)

// BenchmarkCalls is what a small unary call costs when sixteen come together.
func BenchmarkCalls(b *testing.B) {
	for _, name := range []string{"Echo", "Prompt", "Later"} {
		b.Run(name, func(b *testing.B) { benchCalls(b, name) })
	}
}

func benchCalls(b *testing.B, name string) {
	const together = 16
	c := newRig(b).raw()
	in := bufio.NewReaderSize(c.nc, 64<<10)
	next := uint32(1)
	fields := []string{"x-mq-client-id: client-1", "x-mq-language: GO", "x-mq-protocol: v2", "x-mq-client-version: 5.0.0", "user-agent: bench", "grpc-timeout: 3S"}
	batch := func() {
		var all bytesWriter
		out := http2.NewFramer(&all, nil)
		for range together {
			c.must(out.WriteHeaders(http2.HeadersFrameParam{StreamID: next, BlockFragment: c.fields(name, fields...), EndHeaders: true}))
			c.must(out.WriteData(next, true, request(make([]byte, 100))))
			next += 2
		}
		if _, err := c.nc.Write(all); err != nil {
			b.Fatal(err)
		}
		for left := together; left > 0; {
			var head [9]byte
			if _, err := io.ReadFull(in, head[:]); err != nil {
				b.Fatal(err)
			}
			n := int(head[0])<<16 | int(binary.BigEndian.Uint16(head[1:]))
			if _, err := in.Discard(n); err != nil {
				b.Fatal(err)
			}
			if http2.FrameType(head[3]) == http2.FrameHeaders && http2.Flags(head[4])&http2.FlagHeadersEndStream != 0 {
				left--
			}
		}
	}
	c.must(c.WriteWindowUpdate(0, 1<<30))
	b.ReportAllocs()
	for i := 0; i < b.N; i += together {
		batch()
	}
}

type bytesWriter []byte

func (w *bytesWriter) Write(p []byte) (int, error) {
	*w = append(*w, p...)
	return len(p), nil
}
