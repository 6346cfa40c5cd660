package commitlog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
)

func TestDeleteBefore(t *testing.T) {
	mem := vfs.NewCrashableMem()
	d := newDisk(mem)
	now := clock.NewFake(time.UnixMilli(1000))
	opts := testOptions(d)
	opts.Clock = now
	l, h := start(t, opts)
	for l.Committed() < 70<<10 {
		add(t, l, filler("", 1000))
		now.Advance(time.Second)
	}
	infos, err := l.Segments()
	if err != nil || len(infos) != 5 {
		t.Fatalf("%d segments, %v", len(infos), err)
	}
	for i, s := range infos {
		if s.Name != segmentName(s.Start) || s.End != s.Start+16<<10 || s.Active != (i == 4) || s.Bytes == 0 || s.Oldest == 0 {
			t.Fatalf("segment %d: %+v", i, s)
		}
		for _, b := range h.batches {
			if b.pos >= s.Start && b.pos < s.End && (b.timestamp < s.Oldest || b.timestamp > s.Newest) {
				t.Fatalf("segment %d says %d..%d, batch at %d", i, s.Oldest, s.Newest, b.timestamp)
			}
		}
	}
	if infos[4].Newest != h.last().timestamp || infos[0].Newest != infos[1].Oldest {
		t.Fatalf("times: %+v", infos)
	}

	if n, err := l.DeleteBefore(infos[0].End - 1); n != 0 || err != nil {
		t.Fatalf("a position within the first segment frees %d, %v", n, err)
	}
	waitForLead(t, l)
	open := d.open.Load()
	if n, err := l.DeleteBefore(infos[1].End + 5); n != infos[0].Bytes+infos[1].Bytes || err != nil {
		t.Fatalf("freed %d, %v", n, err)
	}
	if n := d.open.Load(); n != open-2 {
		t.Fatalf("%d files open, %d before the deletion of two", n, open)
	}
	if l.First() != infos[2].Start {
		t.Fatalf("the log begins at %d", l.First())
	}
	var gone, kept applied
	for _, b := range h.batches {
		if b.pos < infos[2].Start {
			gone = b
		} else if kept.index == 0 {
			kept = b
		}
	}
	size := RecordSize(1000)
	if _, _, err := l.ReadAt(gone.at[0], size, nil); !errors.Is(err, ErrGone) {
		t.Fatalf("read of what was deleted: %v", err)
	}
	if _, err := l.ReadRaw(gone.at[0], size, nil); !errors.Is(err, ErrGone) {
		t.Fatalf("raw read of what was deleted: %v", err)
	}
	if _, _, err := l.ReadAt(kept.at[0], size, nil); err != nil {
		t.Fatal(err)
	}
	// The removal is durable; a replay that wants what is gone is told so.
	survived := testOptions(crash(mem, 0, 0))
	l2, err := Open(survived)
	if err != nil {
		t.Fatal(err)
	}
	if err := l2.Replay(0, func(*Batch) error { return nil }); !errors.Is(err, ErrGone) {
		t.Fatalf("replay from before the log: %v", err)
	}
	var again history
	if err := l2.Replay(l2.First(), func(b *Batch) error { again.add(b); return nil }); err != nil {
		t.Fatal(err)
	}
	equal(t, "replayed", again.batches, h.batches[kept.index-1:])

	// Never the active one.
	if _, err := l.DeleteBefore(1 << 60); err != nil || l.First() != infos[4].Start {
		t.Fatalf("the log begins at %d, %v", l.First(), err)
	}
	closeLog(t, l)
	if d.open.Load() != 0 {
		t.Fatalf("%d files left open", d.open.Load())
	}
}

// A batch that is written and not committed has no time yet: a full disk or a failure may take it back.
func TestSegmentsCountsCommittedBatchesOnly(t *testing.T) {
	d := newDisk(vfs.NewMem())
	opts := testOptions(d)
	opts.SegmentSize = 4096
	l, _ := start(t, opts)
	add(t, l, filler("a", 3000))
	waitForLead(t, l)
	hold := make(chan struct{})
	d.before(func(op change, _ string) error {
		if op == opSync {
			<-hold
		}
		return nil
	})
	p := newPromise(filler("b", 3000))
	if err := l.Propose(p.Proposal); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second batch is written", func() bool { return l.Stats().Batches == 2 })
	infos, err := l.Segments()
	if err != nil || len(infos) != 2 || infos[0].Oldest == 0 || infos[1].Oldest != 0 {
		t.Errorf("%+v, %v", infos, err)
	}
	close(hold)
	if err := p.wait(t); err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
}

// The last durable batch stays: index and time go on from it.
func TestDeleteKeepsADurableBatch(t *testing.T) {
	mem := vfs.NewCrashableMem()
	opts := testOptions(mem)
	opts.Mode = ModeOS
	l, h := start(t, opts)
	for l.Committed() <= 16<<10 {
		add(t, l, filler("", 1000))
	}
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	durable := l.Durable()
	l.durable.Store(16 << 10) // as if the batch in the second segment were not yet
	if n, err := l.DeleteBefore(16 << 10); n != 0 || err != nil {
		t.Fatalf("freed %d, %v: a power cut now would leave a log without any batch", n, err)
	}
	l.durable.Store(int64(durable))
	if n, err := l.DeleteBefore(16 << 10); n == 0 || err != nil {
		t.Fatalf("freed %d, %v", n, err)
	}
	last := h.last()
	survived := testOptions(crash(mem, 0, 0))
	l2, h2 := start(t, survived)
	add(t, l2, "next")
	equal(t, "index", h2.last().index, last.index+1)
	closeLog(t, l2)
	closeLog(t, l)
}

// A log whose beginning was deleted and whose first batch is gone cannot be taken for an empty one.
func TestFirstSegmentMustBeginWithABatch(t *testing.T) {
	mem, _ := written(t, ModeSync, 40)
	spans, _ := listSpans(mem, testDir)
	for _, s := range spans {
		if s.start == 0 {
			if err := mem.Remove(testDir + "/" + s.name); err != nil {
				t.Fatal(err)
			}
			continue
		}
		raw := peek(t, mem, testDir+"/"+s.name)
		clear(raw)
	}
	_, _, err := replay(testOptions(mem))
	var corrupt *CorruptError
	if !errors.As(err, &corrupt) || corrupt.Position != spans[1].start {
		t.Fatalf("%v", err)
	}
}

func TestCrashWhileDeleting(t *testing.T) {
	mem, all := written(t, ModeSync, 100)
	d := newDisk(mem)
	c := &crashes{mem: mem, log: func() *Log { return nil }, rng: rand.New(rand.NewPCG(1, 2))}
	l, _ := start(t, testOptions(d))
	waitForLead(t, l)
	d.before(c.before)
	last := all[len(all)-1].end
	if n, err := l.DeleteBefore(last); n == 0 || err != nil {
		t.Fatal(n, err)
	}
	d.hook.Store(nil)
	closeLog(t, l)
	if len(c.moments) < 4 {
		t.Fatalf("%d changes only", len(c.moments))
	}
	for _, m := range c.moments {
		l, h, err := replay(testOptions(m.disk))
		if err != nil {
			t.Fatalf("before %s: %v", m.op, err)
		}
		first := 0
		for all[first].pos < l.First() {
			first++
		}
		equal(t, "replayed", h.batches, all[first:])
	}
}

// Readers, a writer and a deleter at once: a reader gets its record or hears that it is gone.
func TestReadsWhileDeleting(t *testing.T) {
	for _, mode := range []Mode{ModeSync, ModeOS} {
		d := newDisk(vfs.NewMem())
		opts := testOptions(d)
		opts.Mode = mode
		l, _ := start(t, opts)
		type place struct {
			pos     record.Position
			payload string
		}
		var places [1024]atomic.Pointer[place]
		var reads, gone atomic.Int64
		done := make(chan struct{})
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(1, uint64(i)))
				var buf []byte
				for {
					select {
					case <-done:
						return
					default:
					}
					p := places[rng.IntN(len(places))].Load()
					if p == nil {
						continue
					}
					var r record.Record
					var err error
					r, buf, err = l.ReadAt(p.pos, RecordSize(len(p.payload)), buf)
					switch {
					case errors.Is(err, ErrGone):
						gone.Add(1)
					case err != nil || string(r.Payload) != p.payload:
						t.Errorf("read at %d: %.20q, %v", p.pos, r.Payload, err)
						return
					default:
						reads.Add(1)
					}
				}
			})
		}
		for i := range 1200 {
			payload := filler(fmt.Sprint(i, " "), 100+i%900)
			pos := add(t, l, payload).Positions[0]
			places[i%len(places)].Store(&place{pos, payload})
			if i%50 == 49 {
				if _, err := l.DeleteBefore(pos - 100<<10); err != nil {
					t.Fatal(err)
				}
			}
		}
		eventually(t, "reads of both kinds", func() bool { return reads.Load() > 100 && gone.Load() > 100 })
		close(done)
		wg.Wait()
		closeLog(t, l)
		if d.open.Load() != 0 {
			t.Fatalf("%d files left open", d.open.Load())
		}
	}
}

// Many segments do not mean many open files, and readers come to no harm when one is closed.
func TestOpenFilesAreBounded(t *testing.T) {
	d := newDisk(vfs.NewMem())
	opts := testOptions(d)
	opts.SegmentSize, opts.Mode = 4096, ModeOS
	l, h := start(t, opts)
	for range 3 * maxHandles {
		add(t, l, filler("", 3900))
	}
	if err := l.Sync(); err != nil { // full segments that are not synced yet are open too
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(2, uint64(i)))
			for range 3000 {
				b := h.batches[rng.IntN(len(h.batches))]
				if _, _, err := l.ReadAt(b.at[0], RecordSize(3900), nil); err != nil {
					t.Error(err)
					return
				}
				if n := d.open.Load(); n > maxHandles+10 {
					t.Errorf("%d files open", n)
					return
				}
			}
		})
	}
	wg.Wait()
	closeLog(t, l)
	if d.open.Load() != 0 {
		t.Fatalf("%d files left open", d.open.Load())
	}
}
