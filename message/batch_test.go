package message

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/internal/alloctest"
)

func TestBatchReturnsWhatWasAppended(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := make([]Message, rapid.IntRange(1, 20).Draw(t, "messages"))
		var body []byte
		for i := range want {
			want[i] = Message{
				Flag:       rapid.Int32().Draw(t, "flag"),
				Body:       rapid.SliceOf(rapid.Byte()).Draw(t, "body"),
				Properties: rapid.SliceOf(rapid.Byte()).Draw(t, "properties"),
			}
			body = AppendBatchItem(body, &want[i])
		}
		got, err := DecodeBatch(body)
		if err != nil || len(got) != len(want) {
			t.Fatalf("%d messages, want %d: %v", len(got), len(want), err)
		}
		for i := range want {
			if got[i].Flag != want[i].Flag || !bytes.Equal(got[i].Body, want[i].Body) ||
				!bytes.Equal(got[i].Properties, want[i].Properties) {
				t.Fatalf("message %d is %+v, want %+v", i, got[i], want[i])
			}
		}
		cut := rapid.IntRange(0, len(body)-1).Draw(t, "cut")
		if part, err := DecodeBatch(body[:cut]); err == nil && len(part) >= len(want) {
			t.Fatalf("%d messages out of %d of %d bytes", len(part), cut, len(body))
		}
	})
}

func TestDecodeBatchRefuses(t *testing.T) {
	item := AppendBatchItem(nil, &Message{Body: []byte("body"), Properties: []byte("a\x01b\x02")})
	change := func(at int, n uint32) []byte {
		b := bytes.Clone(item)
		binary.BigEndian.PutUint32(b[at:], n)
		return b
	}
	large := make([]byte, batchFixed+40000)
	binary.BigEndian.PutUint32(large, uint32(len(large)))
	binary.BigEndian.PutUint16(large[batchBody+4:], 40000)
	for name, body := range map[string][]byte{
		"nothing":                nil,
		"cut":                    item[:len(item)-1],
		"a byte more":            append(bytes.Clone(item), 0),
		"half an item more":      append(bytes.Clone(item), item[:batchFixed+1]...),
		"size 0":                 change(0, 0),
		"size smaller":           change(0, uint32(len(item)-1)),
		"size larger":            change(0, uint32(len(item)+1)),
		"size negative":          change(0, 0xFFFFFFFF),
		"body smaller":           change(batchBody, 3),
		"body larger":            change(batchBody, 5),
		"body over the item":     change(batchBody, uint32(len(item))),
		"body negative":          change(batchBody, 0xFFFFFFF0),
		"properties of 40,000 B": large,
	} {
		if got, err := DecodeBatch(body); !errors.Is(err, ErrCorrupt) || got != nil {
			t.Errorf("%s: %d messages, %v", name, len(got), err)
		}
	}
}

func TestAppendBatchItemPanicsOverItsBound(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("properties over the bound were cut without a word")
		}
	}()
	AppendBatchItem(nil, &Message{Properties: make([]byte, MaxProperties+1)})
}

func FuzzDecodeBatch(f *testing.F) {
	f.Add(golden(f, "batch-1.bin"))
	f.Add(AppendBatchItem(AppendBatchItem(nil, &Message{Flag: 1}), &Message{Body: []byte("b")}))
	f.Fuzz(func(t *testing.T, body []byte) {
		var messages []Message
		var err error
		alloctest.AtMost(t, 64*len(body), func() { messages, err = DecodeBatch(body[:len(body):len(body)]) })
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		var again []byte
		for i := range messages {
			again = AppendBatchItem(again, &messages[i])
		}
		body = bytes.Clone(body) // magic and CRC are the only bytes that we do not keep
		for at, rest := 0, body; at < len(body); rest = body[at:] {
			clear(body[at+4 : at+12])
			at += int(binary.BigEndian.Uint32(rest))
		}
		if !bytes.Equal(again, body) {
			t.Fatalf("%x\nis then\n%x", body, again)
		}
	})
}

func BenchmarkDecodeBatch(b *testing.B) {
	m := benchmarkMessage()
	var body []byte
	for range 32 {
		body = AppendBatchItem(body, &m)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeBatch(body); err != nil {
			b.Fatal(err)
		}
	}
}
