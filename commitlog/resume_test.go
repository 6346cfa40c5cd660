package commitlog

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/cairnmq/cairn/internal/record"
)

// A log goes on in another folder: from the end of its last batch, and from one in the middle with what is behind that.
func TestALogGoesOnElsewhere(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	l, h := start(t, opts)
	for i := range 60 {
		add(t, l, filler(fmt.Sprintf("a%d-", i), 900))
	}
	segments, err := l.Segments()
	if err != nil {
		t.Fatal(err)
	}
	number, term := l.Number(), l.Term()
	closeLog(t, l)
	for _, from := range []int{20, 40, len(h.batches) - 1} {
		at := h.batches[from]
		other := testOptions(vfs.NewCrashableMem())
		fill := func(from, to record.Position) func(vfs.File) error {
			return func(f vfs.File) error {
				for pos := from; pos < to; {
					raw, err := l.opts.FS.Open(l.segments.path(segmentOf(segments, pos).Name))
					if err != nil {
						return err
					}
					buf := make([]byte, to-pos)
					if _, err := raw.ReadAt(buf, int64(pos-segmentOf(segments, pos).Start)); err != nil {
						return err
					}
					if _, err := f.Write(buf); err != nil {
						return err
					}
					pos += record.Position(len(buf))
					if err := raw.Close(); err != nil {
						return err
					}
				}
				return nil
			}
		}
		if err := other.FS.MkdirAll(testDir, 0o755); err != nil {
			t.Fatal(err)
		}
		last := h.batches[len(h.batches)-1].end
		seg := segmentOf(segments, at.end-1)
		r := Resumption{Number: number, Term: term, Index: at.index, Timestamp: at.timestamp, End: at.end}
		if err := Resume(other.FS, testDir, r, fill(at.end, min(seg.End, last))); err != nil {
			t.Fatal(err)
		}
		for _, s := range segments {
			if s.Start > seg.Start {
				if err := MakeSegment(other.FS, testDir, s.Start, fill(s.Start, min(s.End, last))); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := Continue(other.FS, testDir, at.end, last-8, 0); err == nil {
			t.Fatal("it ended where it does not")
		}
		const late = 1 << 50 // ms
		if err := Continue(other.FS, testDir, at.end, last, late); err != nil {
			t.Fatal(err)
		}
		var got history
		other.OnCommit = got.onCommit
		o, err := Open(other)
		if err != nil {
			t.Fatal(err)
		}
		if err := o.Replay(at.end, func(b *Batch) error { got.add(b); return nil }); err != nil {
			t.Fatalf("from batch %d: %v", from, err)
		}
		if err := o.Start(); err != nil {
			t.Fatal(err)
		}
		equal(t, "replayed batches", len(got.batches), len(h.batches)-from)
		p := add(t, o, "more")
		equal(t, "index goes on", got.last().index, h.batches[len(h.batches)-1].index+2)
		if p.Positions[0] != last+2*batchHeader || o.First() != at.end-batchHeader || p.Timestamp != late {
			t.Fatalf("went on at %d, first %d, time %d", p.Positions[0], o.First(), p.Timestamp)
		}
		closeLog(t, o)
		again, _, err := replay(other)
		if err != nil {
			t.Fatalf("a second start from batch %d: %v", from, err)
		}
		closeLog(t, again)
	}
}

func segmentOf(segments []SegmentInfo, pos record.Position) SegmentInfo {
	i := len(segments) - 1
	for segments[i].Start > pos {
		i--
	}
	return segments[i]
}

func TestNothingGoesOnFromNowhere(t *testing.T) {
	for _, r := range []Resumption{
		{Number: 1, Term: 1, Index: 1, End: 64}, {Term: 1, Index: 1, End: 720}, {Number: 1, Term: 1, End: 720},
		{Number: 1, Term: 1, Index: 1, End: 721}, {Number: 1, Term: 1, Index: 1, End: 720, Timestamp: -1},
	} {
		if err := Resume(vfs.NewMem(), "", r, nil); err == nil {
			t.Errorf("%+v was taken", r)
		}
	}
}
