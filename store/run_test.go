package store

import (
	"bytes"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/internal/record"
)

func drawEntries(t *rapid.T) entries {
	var e entries
	pos := rapid.Int64Range(0, 1<<50).Draw(t, "position")
	for range rapid.IntRange(1, runEntries).Draw(t, "count") {
		size := rapid.Int32Range(1, 1<<22).Draw(t, "size")
		e.add(record.Position(pos), size, int64(rapid.Int32().Draw(t, "tag")))
		pos += int64(size) + rapid.Int64Range(0, 1<<30).Draw(t, "gap")
	}
	return e
}

func TestARunComesBackAsItWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawEntries(t)
		ms := rapid.Int64Range(0, 1<<45).Draw(t, "time")
		first := rapid.Int64Range(0, 1<<50).Draw(t, "first")
		val := appendRun(nil, ms, want)
		r, err := openRun(first+int64(want.len())-1, val)
		if err != nil || r.first != first || r.count != want.len() || r.timestamp != ms || r.position != want.positions[0] {
			t.Fatalf("run %+v, %v", r, err)
		}
		skip := rapid.IntRange(0, r.count-1).Draw(t, "skip")
		if err := r.skip(int64(skip)); err != nil {
			t.Fatal(err)
		}
		var got entries
		for range r.count - skip {
			pos, size, tag, err := r.next()
			if err != nil {
				t.Fatal(err)
			}
			got.add(record.Position(pos), size, tag)
		}
		rest := want.slice(skip, want.len())
		if !slices.Equal(got.positions, rest.positions) || !slices.Equal(got.sizes, rest.sizes) ||
			!slices.Equal(got.tags, rest.tags) || len(r.rest) != 0 {
			t.Fatalf("got %+v, want %+v", got, rest)
		}
	})
}

func FuzzDecodeRows(f *testing.F) {
	var e entries
	e.add(1000, 200, -7)
	e.add(1200, 20, 0)
	f.Add(int64(1), appendRun(nil, 123456, e))
	f.Add(int64(0), bounds{min: 1, max: 2, hour: 3, local: 1}.appendTo(nil))
	f.Add(int64(0), bounds{min: 1, max: 5, hour: 3, local: 2}.appendTo(nil))
	f.Add(int64(9), appendTierQueue(nil, 4096, &offloaded{first: 3, next: 10, from: 1000, to: 2000}))
	f.Add(int64(9), encodeOffload(&offload{
		part: 4096, queues: []offloaded{{queueKey{1, 2}, 3, 10, 1000, 2000}}, done: &offloadedTo{8192, 3000}}))
	f.Add(int64(9), encodeTrim([]trim{{1, 2, 3}}))
	f.Add(int64(9), encodeDropHour(4))
	f.Add(int64(9), []byte{0x80, 0x01, 0x05})
	f.Fuzz(func(t *testing.T, last int64, b []byte) {
		if r, err := openRun(last, b); err == nil && last >= 0 {
			if r.first < 0 || r.count <= 0 {
				t.Errorf("run %+v", r)
			}
			for range r.count {
				if _, _, _, err := r.next(); err != nil {
					break
				}
			}
		}
		if q, err := decodeBounds(b); err == nil && !bytes.Equal(q.appendTo(nil), b) {
			t.Errorf("bounds %x came back as %x", b, q.appendTo(nil))
		}
		if q, err := decodeTierQueue(last, b); err == nil {
			again := appendTierQueue(nil, q.part, &offloaded{first: q.first, next: q.last + 1, from: q.from, to: q.to})
			if q2, err := decodeTierQueue(last, again); err != nil || q2 != q {
				t.Errorf("tier queue row %+v came back as %+v, %v", q, q2, err)
			}
		}
		if o, err := decodeOffload(b); err == nil && !bytes.Equal(encodeOffload(o), b) {
			t.Errorf("offload %x came back as %x", b, encodeOffload(o))
		}
		if trims, err := decodeTrim(b); err == nil && !bytes.Equal(encodeTrim(trims), b) {
			t.Errorf("trims %x came back as %x", b, encodeTrim(trims))
		}
		_, _ = decodeDropHour(b)
		_, _, _ = decodeKeyRow(b)
		_, _ = decodeHour(b)
		_, _ = split(record.Record{Kind: record.KindMessage, Payload: b})
		_, _ = printRun(b, b)
		eachWord(b, func(word []byte) bool {
			if len(word) == 0 || bytes.IndexByte(word, ' ') >= 0 {
				t.Errorf("word %q", word)
			}
			return true
		})
	})
}

func TestWordsOfKeys(t *testing.T) {
	for keys, want := range map[string][]string{
		"": nil, " ": nil, "a": {"a"}, " a  b ": {"a", "b"}, "a b a": {"a", "b", "a"},
	} {
		var got []string
		eachWord([]byte(keys), func(w []byte) bool {
			got = append(got, string(w))
			return true
		})
		if !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", keys, got, want)
		}
	}
}
