package pop

import (
	"bytes"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/internal/alloctest"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

var (
	anyID     = rapid.Map(rapid.Uint64(), func(v uint64) kvindex.ID { return kvindex.ID(v) })
	anyTime   = rapid.Int64Range(0, math.MaxInt64/2)
	anyOffset = rapid.Int64Range(0, math.MaxInt64/4)
	anyRef    = rapid.Custom(func(t *rapid.T) Ref {
		return Ref{VisibleAt: anyTime.Draw(t, "visible"), Queue: rapid.Int32Range(0, math.MaxInt32).Draw(t, "queue"),
			Offset: anyOffset.Draw(t, "offset"), Nonce: rapid.Uint64().Draw(t, "nonce")}
	})
	anyLine = rapid.Uint64Range(1, math.MaxUint64)
	anyHead = rapid.Custom(func(t *rapid.T) Head {
		return Head{Line: Line{rapid.Int32Range(0, math.MaxInt32).Draw(t, "queue"), anyLine.Draw(t, "line")},
			Since: anyTime.Draw(t, "since"), Offset: anyOffset.Draw(t, "offset")}
	})
	anyPop = rapid.Custom(func(t *rapid.T) *Pop {
		p := &Pop{Group: anyID.Draw(t, "group"), Topic: anyID.Draw(t, "topic"), PoppedAt: anyTime.Draw(t, "popped"),
			Nonce: rapid.Uint64().Draw(t, "nonce")}
		p.VisibleAt = p.PoppedAt + rapid.Int64Range(0, 1<<40).Draw(t, "invisible")
		p.Again = rapid.SliceOfN(anyRef, 0, 20).Draw(t, "again")
		p.Dropped = rapid.SliceOfN(anyRef, 0, 80).Draw(t, "dropped")
		if p.Ordered = rapid.Bool().Draw(t, "ordered"); p.Ordered {
			p.Unparked = rapid.SliceOfN(anyHead, 0, 3).Draw(t, "unparked")
			p.Discarded = rapid.SliceOfN(anyHead, 0, 20).Draw(t, "discarded")
		}
		for range rapid.IntRange(0, 4).Draw(t, "ranges") {
			r := Range{Queue: rapid.Int32Range(0, math.MaxInt32).Draw(t, "queue"), Start: anyOffset.Draw(t, "start")}
			r.Count = rapid.IntRange(0, 10).Draw(t, "count")
			r.End = r.Start
			p.Entries = append(p.Entries, anyEntries(t, &r, r.Count, p.Ordered)...)
			if p.Ordered {
				r.Parked = rapid.IntRange(0, 10).Draw(t, "parked")
				p.Parked = append(p.Parked, anyEntries(t, &r, r.Parked, true)...)
			}
			r.End += rapid.Int64Range(0, 5).Draw(t, "passed")
			p.Ranges = append(p.Ranges, r)
		}
		return p
	})
)

// anyEntries are entries that lie in a range, which grows to hold them.
func anyEntries(t *rapid.T, r *Range, n int, ordered bool) (out []Entry) {
	next := r.Start
	for range n {
		next += rapid.Int64Range(0, 1<<30).Draw(t, "gap")
		e := Entry{Offset: next, Position: record.Position(anyTime.Draw(t, "position")),
			Size: rapid.Int32Range(0, math.MaxInt32).Draw(t, "size")}
		if ordered {
			e.Line = anyLine.Draw(t, "line")
		}
		out = append(out, e)
		next++
	}
	r.End = max(r.End, next)
	return out
}

func TestRecordsReadBackAsTheyWereWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := anyPop.Draw(t, "pop")
		var pop Pop
		if err := pop.decode(p.Record().Payload); err != nil || !sameBytes(p, &pop) {
			t.Fatalf("%+v became %+v, %v", p, pop, err)
		}
		a := &Ack{Group: p.Group, Topic: p.Topic, Refs: rapid.SliceOfN(anyRef, 0, MaxItems).Draw(t, "refs")}
		var ack Ack
		if err := ack.decode(AckRecord(a).Payload); err != nil || !reflect.DeepEqual(*a, fixAck(ack)) {
			t.Fatalf("%+v became %+v, %v", a, ack, err)
		}
		e := &Extend{Group: p.Group, Topic: p.Topic}
		for _, ref := range a.Refs {
			e.Moves = append(e.Moves, Move{ref, anyTime.Draw(t, "to"), rapid.Bool().Draw(t, "free"), rapid.Bool().Draw(t, "postponed")})
		}
		var extend Extend
		if err := extend.decode(ExtendRecord(e).Payload); err != nil || len(extend.Moves) != len(e.Moves) ||
			len(e.Moves) > 0 && !reflect.DeepEqual(*e, extend) {
			t.Fatalf("%+v became %+v, %v", e, extend, err)
		}
		c := rapid.SliceOf(rapid.Custom(func(t *rapid.T) Commit {
			return Commit{anyID.Draw(t, "group"), anyID.Draw(t, "topic"), rapid.Int32().Draw(t, "queue"), rapid.Int64().Draw(t, "offset")}
		})).Draw(t, "commits")
		for _, r := range []record.Record{CommitRecord(c), ResetRecord(c)} {
			if commits, err := decodeCommits(r.Payload, []Commit{}); err != nil || !reflect.DeepEqual(c, commits) {
				t.Fatalf("%+v became %+v, %v", c, commits, err)
			}
		}
	})
}

func sameBytes(a, b *Pop) bool {
	return bytes.Equal(a.AppendTo(nil), b.AppendTo(nil)) && a.VisibleAt == b.VisibleAt && slices.Equal(a.Ranges, b.Ranges) &&
		slices.Equal(a.Entries, b.Entries) && a.Ordered == b.Ordered && slices.Equal(a.Parked, b.Parked) &&
		slices.Equal(a.Unparked, b.Unparked) && slices.Equal(a.Discarded, b.Discarded)
}

func fixAck(a Ack) Ack {
	if a.Refs == nil {
		a.Refs = []Ref{}
	}
	return a
}

func TestARecordOfTooManyItemsPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Fatal("a mask cannot say what became of 64 items")
		}
	}()
	AckRecord(&Ack{Refs: make([]Ref, MaxItems+1)})
}

func TestMask(t *testing.T) {
	m := MaskOf(record.Outcome{Offset: 1<<62 | 5})
	if !m.Has(0) || m.Has(1) || !m.Has(2) || !m.Has(62) || m.Count() != 3 {
		t.Fatalf("%b: %d", m, m.Count())
	}
}

// What is read must be the same when it is written and read again.
func FuzzRecords(f *testing.F) {
	f.Add(popped(1, 2, 3, 4, 9, 100, 200, 7).Payload)
	f.Add((&Pop{Again: []Ref{{5, 6, 7, 8}}, Dropped: []Ref{{1, 2, 3, 4}}}).Record().Payload)
	f.Add((&Pop{
		Ordered: true, Unparked: []Head{{Line: Line{1, 2}, Since: 3, Offset: 4}}, Discarded: []Head{{Line: Line{1, 2}, Since: 3}},
		Ranges: []Range{{Queue: 1, Start: 2, End: 9, Count: 1, Parked: 1}}, Entries: []Entry{{Offset: 3, Line: 7}},
		Parked: []Entry{{Offset: 5, Position: 6, Size: 7, Line: 8}},
	}).Record().Payload)
	f.Add(ackOf(1, 2, Ref{5, 6, 7, 8}).Payload)
	f.Add(moveOf(1, 2, Move{Ref{5, 6, 7, 8}, 9, true, true}).Payload)
	f.Add(CommitRecord([]Commit{{1, 2, 3, 4}}).Payload)
	f.Fuzz(func(t *testing.T, payload []byte) {
		var p, q Pop
		var err error
		alloctest.AtMost(t, 100*len(payload), func() { err = p.decode(payload) })
		if err == nil {
			if err := q.decode(p.Record().Payload); err != nil || !sameBytes(&p, &q) {
				t.Fatalf("%+v became %+v, %v", p, q, err)
			}
		}
		var a, b Ack
		alloctest.AtMost(t, 100*len(payload), func() { err = a.decode(payload) })
		if err == nil {
			if err := b.decode(AckRecord(&a).Payload); err != nil || !reflect.DeepEqual(a, b) {
				t.Fatalf("%+v became %+v, %v", a, b, err)
			}
		}
		var d, e Extend
		if d.decode(payload) == nil {
			if err := e.decode(ExtendRecord(&d).Payload); err != nil || !reflect.DeepEqual(d, e) {
				t.Fatalf("%+v became %+v, %v", d, e, err)
			}
		}
		if c, err := decodeCommits(payload, nil); err == nil {
			if again, err := decodeCommits(CommitRecord(c).Payload, nil); err != nil || !reflect.DeepEqual(c, again) {
				t.Fatalf("%+v became %+v, %v", c, again, err)
			}
		}
	})
}

func FuzzRows(f *testing.F) {
	f.Add(appendCheckpoint(nil, &Checkpoint{Nonce: 1, Attempts: 2, Position: 3, Size: 4, PoppedAt: 5, FirstAt: 4}))
	f.Add(appendCheckpoint(nil, &Checkpoint{Nonce: 1, Attempts: 2, Position: 3, Size: 4, PoppedAt: 5, FirstAt: 5, Line: 6}))
	f.Add(appendCheckpoint(nil, &Checkpoint{Nonce: 1, Attempts: 2, Position: 3, Size: 4, PoppedAt: 5, FirstAt: 5, Postponed: true}))
	f.Add(appendCheckpoint(nil, &Checkpoint{Nonce: 1, Attempts: 2, Position: 3, Size: 4, PoppedAt: 5, FirstAt: 5, Line: 6, Postponed: true}))
	f.Add(appendCursor(nil, Cursor{1, 2}))
	f.Add(appendCounters(nil, Counters{InFlight: 9}))
	f.Add(appendCounters(nil, Counters{InFlight: 9, Parked: 8}))
	f.Add(appendCounters(nil, Counters{InFlight: 9, Postponed: 7}))
	f.Add(appendLine(nil, &lineRow{parked: 2, flights: []flight{{7, 100}, {9, 50}}}))
	f.Add(appendLine(nil, &lineRow{parked: 2, since: 3}))
	f.Add(appendParked(nil, 1000, 10))
	f.Fuzz(func(t *testing.T, val []byte) {
		if c, err := decodeCheckpoint(val); err == nil {
			if again, err := decodeCheckpoint(appendCheckpoint(nil, &c)); err != nil || again != c {
				t.Fatalf("%+v became %+v, %v", c, again, err)
			}
		}
		if c, err := decodeCursor(val); err == nil && !bytes.Equal(appendCursor(nil, c), val) {
			t.Fatalf("cursor %x", val)
		}
		if c, err := decodeCounters(val); err == nil && !bytes.Equal(appendCounters(nil, c), val) {
			t.Fatalf("counter %x", val)
		}
		var line, again lineRow
		if line.decode(val) == nil {
			if err := again.decode(appendLine(nil, &line)); err != nil || !reflect.DeepEqual(line, again) {
				t.Fatalf("%+v became %+v, %v", line, again, err)
			}
		}
		if from, err := decodeReady(val); err == nil {
			if again, err := decodeReady(appendReady(nil, from)); err != nil || again != from {
				t.Fatalf("%d became %d, %v", from, again, err)
			}
		}
		if position, size, err := decodeParked(val); err == nil {
			if p, s, err := decodeParked(appendParked(nil, position, size)); err != nil || p != position || s != size {
				t.Fatalf("%d, %d became %d, %d, %v", position, size, p, s, err)
			}
		}
		keys := [][]byte{{byte(kvindex.SpaceCursor)}, {byte(kvindex.SpaceCheckpoint)}, {byte(kvindex.SpaceCounter)}, {byte(kvindex.SpaceOrder)}}
		for _, kind := range []kvindex.OrderKind{kvindex.OrderLine, kvindex.OrderParked, kvindex.OrderReady, kvindex.OrderTurn} {
			keys = append(keys, kvindex.AppendOrderKindPrefix(nil, 1, 2, kind))
		}
		for _, key := range keys {
			if _, _, text := kvindex.Describe(key, val); text == "" {
				t.Fatalf("row %x of %x is printed as nothing", val, key)
			}
		}
	})
}

var anyHandle = rapid.Custom(func(t *rapid.T) Handle {
	h := Handle{Group: anyID.Draw(t, "group"), Topic: anyID.Draw(t, "topic"), Queue: rapid.Int32Range(0, math.MaxInt32).Draw(t, "queue"),
		Offset: rapid.Int64Range(0, math.MaxInt64).Draw(t, "offset"), PoppedAt: rapid.Int64Range(0, math.MaxInt64).Draw(t, "popped"),
		Attempts: rapid.Int32Range(0, math.MaxInt32).Draw(t, "attempts"), Nonce: rapid.Uint64().Draw(t, "nonce")}
	h.VisibleAt = rapid.Int64Range(h.PoppedAt, math.MaxInt64).Draw(t, "visible")
	return h
})

func TestHandles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := anyHandle.Draw(t, "handle")
		text := string(h.AppendTo(nil))
		got, err := ParseHandle(text)
		if err != nil || got != h {
			t.Fatalf("%+v became %+v, %v", h, got, err)
		}
		if ref := got.Ref(); ref != (Ref{h.VisibleAt, h.Queue, h.Offset, h.Nonce}) {
			t.Fatalf("%+v", ref)
		}
		// Any other text next to it is refused: one character changed, one more, one less, a line end.
		i := rapid.IntRange(0, len(text)-1).Draw(t, "at")
		c := rapid.Byte().Filter(func(c byte) bool { return c != text[i] }).Draw(t, "to")
		for _, bad := range []string{text[:i] + string(rune(c)) + text[i+1:], text[:i] + text[i+1:], text + "A", text[:i] + "\n" + text[i:]} {
			if got, err := ParseHandle(bad); err == nil {
				t.Fatalf("%q was read as %+v", bad, got)
			}
		}
	})
	h := Handle{Group: 3, Topic: 4, Queue: 1, Offset: 100_000, PoppedAt: 1_700_000_000_000, VisibleAt: 1_700_000_030_000, Attempts: 1,
		Nonce: math.MaxUint64}
	if n := len(h.AppendTo(nil)); n > 48 {
		t.Errorf("a usual handle takes %d characters", n)
	}
	for _, bad := range []string{"", " ", "AAAA", strings.Repeat("A", 40), strings.Repeat("A", 1<<20)} {
		if _, err := ParseHandle(bad); err == nil {
			t.Errorf("%.40q was read as a handle", bad)
		}
	}
}

func FuzzParseHandle(f *testing.F) {
	f.Add(string((&Handle{Group: 1, Topic: 2, Queue: 3, Offset: 4, PoppedAt: 5, VisibleAt: 6, Attempts: 7, Nonce: 8}).AppendTo(nil)))
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		h, err := ParseHandle(text)
		if err != nil {
			return
		}
		if again := string(h.AppendTo(nil)); again != text {
			t.Fatalf("%q and %q are the same handle", text, again)
		}
	})
}

func BenchmarkHandle(b *testing.B) {
	h := Handle{Group: 3, Topic: 4, Queue: 1, Offset: 100_000, PoppedAt: 1_700_000_000_000, VisibleAt: 1_700_000_030_000, Attempts: 1,
		Nonce: math.MaxUint64}
	text := string(h.AppendTo(nil))
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		var buf []byte
		for b.Loop() {
			buf = h.AppendTo(buf[:0])
		}
	})
	b.Run("parse", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ParseHandle(text); err != nil {
				b.Fatal(err)
			}
		}
	})
}
