package commitlog

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/cairnmq/cairn/internal/record"
)

// encodeBatch makes a whole batch by itself.
func encodeBatch(h header, recs []record.Record) []byte {
	n := 0
	for _, r := range recs {
		n += RecordSize(len(r.Payload))
	}
	h.length, h.count = batchLength(n), len(recs)
	raw := make([]byte, h.length)
	off := batchHeader
	for i := range recs {
		off += putRecord(raw[off:], &recs[i])
	}
	sealBatch(raw, &h)
	return raw
}

func someHeader() header {
	return header{log: 0x1122334455667788, term: 3, index: 9, timestamp: 1700000000123, position: 4096, previous: 4000, durable: 3000}
}

// The bytes of format 1 must never change: logs in the field hold them.
func TestFormatGolden(t *testing.T) {
	raw := encodeBatch(someHeader(), []record.Record{{Kind: record.KindMessage, Payload: []byte("hello")}, {Kind: record.KindAck}})
	want := "434c4201" + "34c3bb8f" + "60000000" + "02000000" + // magic, crc, length 96, count
		"8877665544332211" + "0300000000000000" + "0900000000000000" + "7b68e5cf8b010000" + // log, term, index, timestamp
		"0010000000000000" + "a00f000000000000" + "b80b000000000000" + // position, previous, durable
		"2958d53b" + "05000000" + "01" + hex.EncodeToString([]byte("hello")) +
		"e5b93108" + "00000000" + "0c" + "00"
	if got := hex.EncodeToString(raw); got != want {
		t.Fatalf("format 1 has changed:\n got %s\nwant %s", got, want)
	}
}

func TestFormatRoundTrip(t *testing.T) {
	want := someHeader()
	recs := []record.Record{{Kind: 1, Payload: []byte("one")}, {Kind: 13}, {Kind: 255, Payload: bytes.Repeat([]byte{0}, 100)}}
	raw := encodeBatch(want, recs)
	h, wrong := parseHeader(raw, want.position, want.log, int64(len(raw)))
	if wrong != "" || !batchSum(raw) {
		t.Fatalf("own batch refused: %q", wrong)
	}
	want.length, want.count = int64(len(raw)), len(recs)
	equal(t, "header", h, want)
	got, at, wrong := splitBatch(raw, h.position, h.count, nil, nil)
	if wrong != "" {
		t.Fatal(wrong)
	}
	equal(t, "records", got, recs)
	for i, pos := range at {
		r, n, err := ParseRecord(raw[pos-h.position:])
		if err != nil || n != RecordSize(len(recs[i].Payload)) {
			t.Fatalf("record %d: %d bytes, %v", i, n, err)
		}
		equal(t, "record by itself", r, recs[i])
	}
}

func TestFormatRefusesWhatIsWrong(t *testing.T) {
	good := encodeBatch(someHeader(), records("payload"))
	pos, log := someHeader().position, someHeader().log
	for name, change := range map[string]struct {
		do   func(raw []byte)
		want string
	}{
		"magic":          {func(b []byte) { b[0]++ }, "no batch begins"},
		"format number":  {func(b []byte) { b[3]++ }, "no batch begins"},
		"other position": {func(b []byte) { le.PutUint64(b[48:], 8) }, "elsewhere"},
		"other log":      {func(b []byte) { b[16]++ }, "another log"},
		"length too big": {func(b []byte) { le.PutUint32(b[8:], uint32(len(b)+8)) }, "length"},
		"length odd":     {func(b []byte) { le.PutUint32(b[8:], uint32(len(b)-1)) }, "length"},
		"length tiny":    {func(b []byte) { le.PutUint32(b[8:], 64) }, "length"},
		"count":          {func(b []byte) { le.PutUint32(b[12:], 99) }, "count"},
		"previous":       {func(b []byte) { le.PutUint64(b[56:], uint64(pos+8)) }, "header"},
		"durable":        {func(b []byte) { le.PutUint64(b[64:], uint64(pos)) }, "header"},
		"index":          {func(b []byte) { le.PutUint64(b[32:], 0) }, "header"},
	} {
		raw := bytes.Clone(good)
		change.do(raw)
		if _, wrong := parseHeader(raw, pos, log, int64(len(raw))); !strings.Contains(wrong, change.want) {
			t.Errorf("%s: %q, want something about %q", name, wrong, change.want)
		}
	}
	for i := range good {
		raw := bytes.Clone(good)
		raw[i] ^= 1
		if _, wrong := parseHeader(raw, pos, log, int64(len(raw))); wrong == "" && batchSum(raw) {
			t.Errorf("a flipped bit in byte %d was not noticed", i)
		}
	}
}

func TestParseRecordRefusesWhatIsWrong(t *testing.T) {
	raw := make([]byte, RecordSize(5))
	putRecord(raw, &record.Record{Kind: 1, Payload: []byte("hello")})
	for n := range raw {
		if _, _, err := ParseRecord(raw[:n]); err == nil {
			t.Errorf("a record cut to %d bytes was not noticed", n)
		}
	}
	for i := range raw {
		b := bytes.Clone(raw)
		b[i] ^= 0x10
		if _, _, err := ParseRecord(b); err == nil {
			t.Errorf("a flipped bit in byte %d was not noticed", i)
		}
	}
	if _, _, err := ParseRecord(make([]byte, 100)); err == nil {
		t.Error("zeros passed for a record")
	}
}

func FuzzRecord(f *testing.F) {
	raw := make([]byte, RecordSize(5))
	putRecord(raw, &record.Record{Kind: 1, Payload: []byte("hello")})
	f.Add(raw)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, n, err := ParseRecord(raw)
		if err != nil {
			return
		}
		again := make([]byte, n)
		putRecord(again, &r)
		if !bytes.Equal(again, raw[:n]) {
			t.Fatal("a record that was accepted encodes differently")
		}
	})
}

// FuzzBatch repairs the checksum of what it gets, so that the checks behind it are reached.
func FuzzBatch(f *testing.F) {
	f.Add(encodeBatch(someHeader(), records("one", "two", "")))
	f.Add(encodeBatch(someHeader(), nil))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) < batchHeader {
			parseHeader(raw, 4096, 0, int64(len(raw)))
			return
		}
		raw = bytes.Clone(raw)
		le.PutUint32(raw, batchMagic)
		h, wrong := parseHeader(raw, record.Position(le.Uint64(raw[48:])), 0, int64(len(raw)))
		if wrong != "" {
			return
		}
		raw = raw[:h.length]
		recs, at, wrong := splitBatch(raw, h.position, h.count, nil, nil)
		if wrong != "" {
			return
		}
		if len(recs) != h.count || len(at) != h.count {
			t.Fatalf("%d records and %d positions, %d announced", len(recs), len(at), h.count)
		}
		for i, r := range recs {
			if int(at[i]-h.position)+RecordSize(len(r.Payload)) > len(raw) {
				t.Fatal("a record lies outside its batch")
			}
		}
		sealBatch(raw, &h)
		if again, wrong := parseHeader(raw, h.position, h.log, h.length); wrong != "" || again != h || !batchSum(raw) {
			t.Fatalf("the header does not survive: %q", wrong)
		}
	})
}
