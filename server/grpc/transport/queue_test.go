package transport

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"
)

// TestHeadersSayTheSame: whatever came before, and whatever room a client has for its table, it reads the fields that are meant.
func TestHeadersSayTheSame(t *testing.T) {
	kept := false // the usual ones were
	rapid.Check(t, func(t *rapid.T) {
		var q queue
		q.init()
		var in bytes.Buffer
		frames := http2.NewFramer(nil, &in)
		frames.ReadMetaHeaders = hpack.NewDecoder(tableSize, nil)
		begun, resizes := false, rapid.Bool().Draw(t, "resizes")
		for id := uint32(1); id < 80; id += 2 {
			if resizes && rapid.IntRange(0, 9).Draw(t, "resize") == 0 {
				q.resize(rapid.SampledFrom([]uint32{0, 40, 50, 60, 70, 104, 110, tableSize}).Draw(t, "size"))
			}
			var want []hpack.HeaderField
			switch what := rapid.IntRange(0, 9).Draw(t, "what"); {
			case what == 0:
				want = statusFields(status.New(codes.Code(rapid.IntRange(0, 16).Draw(t, "code")), rapid.SampledFrom([]string{"", "so"}).Draw(t, "text")))
				want = append([]hpack.HeaderField{{Name: ":status", Value: "415", Sensitive: true}, fieldContent}, want...)
				q.header(id, true, want...)
			case what < 5 || !begun: // nothing ends well that has not begun
				begun, want = true, q.head.fields
				q.usualHeader(id, false, &q.head)
			default:
				want = q.tail.fields
				q.usualHeader(id, true, &q.tail)
			}
			kept = kept || q.head.block != nil && q.tail.block != nil
			in.Write(q.bytes)
			q.bytes = q.bytes[:0]
			f, err := frames.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			got := f.(*http2.MetaHeadersFrame).Fields
			if !slices.EqualFunc(got, want, func(a, b hpack.HeaderField) bool { return a.Name == b.Name && a.Value == b.Value }) {
				t.Fatal(fmt.Sprintf("%v, want %v", got, want))
			}
		}
	})
	if !kept {
		t.Error("no usual header was ever kept")
	}
}
