package commitlog

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/internal/record"
)

// written makes a closed log of batches that were each committed before the next was proposed.
func written(t testing.TB, mode Mode, batches int) (*vfs.MemFS, []applied) {
	t.Helper()
	mem := vfs.NewCrashableMem()
	opts := testOptions(mem)
	opts.Mode = mode
	l, h := start(t, opts)
	for i := range batches {
		add(t, l, filler(fmt.Sprintf("%d-", i), 300+i*7), "second")
	}
	closeLog(t, l)
	return mem, h.batches
}

// byteAt is where position pos is in the files of mem.
func byteAt(t testing.TB, mem *vfs.MemFS, pos record.Position) *byte {
	t.Helper()
	spans, err := listSpans(mem, testDir)
	if err != nil {
		t.Fatal(err)
	}
	s := newScanner(mem, testDir, spans)
	sp := spans[s.spanAt(pos)]
	return &peek(t, mem, testDir+"/"+sp.name)[pos-sp.start]
}

// A flipped bit in any batch that a later one knew to be durable is reported with its place, and nothing is touched.
func TestDamageInTheMiddle(t *testing.T) {
	mem, all := written(t, ModeSync, 80)
	spans, _ := listSpans(mem, testDir)
	if len(spans) < 3 {
		t.Fatalf("only %d segments", len(spans))
	}
	for i, b := range all[:len(all)-1] {
		for name, pos := range map[string]record.Position{
			"header": b.pos, "length": b.pos + 9, "payload": b.at[0] + 20, "end": b.end - 9,
		} {
			clone := crash(mem, 0, 0)
			*byteAt(t, clone, pos) ^= 4
			before := clone.String() + fmt.Sprint(*byteAt(t, clone, pos))
			_, h, err := replay(testOptions(clone))
			var corrupt *CorruptError
			if !errors.As(err, &corrupt) {
				t.Fatalf("batch %d, %s: %v, want a CorruptError", i, name, err)
			}
			s := newScanner(clone, testDir, spans)
			if corrupt.Position != b.pos || corrupt.Segment != spans[s.spanAt(b.pos)].name {
				t.Fatalf("batch %d, %s: the error says %v, want position %d", i, name, corrupt, b.pos)
			}
			equal(t, "replayed before the damage", h.batches, all[:i])
			if after := clone.String() + fmt.Sprint(*byteAt(t, clone, pos)); after != before {
				t.Fatalf("batch %d, %s: the disk was changed", i, name)
			}
		}
	}
}

// The same when the whole batch was lost and reads as zeros, and when a segment is gone.
func TestLossInTheMiddle(t *testing.T) {
	mem, all := written(t, ModeSync, 80)
	var corrupt *CorruptError
	for i, b := range all[:len(all)-1] {
		clone := crash(mem, 0, 0)
		for pos := b.pos; pos < b.end; pos++ {
			*byteAt(t, clone, pos) = 0
		}
		_, _, err := replay(testOptions(clone))
		missing := b.pos
		if i > 0 && all[i-1].end != b.pos { // at the start of a segment: nobody knows that it was not in the one before
			missing = all[i-1].end
		}
		if !errors.As(err, &corrupt) || corrupt.Position != missing && corrupt.Position != b.pos {
			t.Fatalf("batch %d zeroed: %v, want damage at %d", i, err, b.pos)
		}
	}
	spans, _ := listSpans(mem, testDir)
	clone := crash(mem, 0, 0)
	if err := clone.Remove(testDir + "/" + spans[1].name); err != nil {
		t.Fatal(err)
	}
	if _, _, err := replay(testOptions(clone)); !errors.As(err, &corrupt) || corrupt.Segment != spans[0].name {
		t.Fatalf("a segment is missing: %v", err)
	}
}

// Damage to the last batch cannot be told from a torn write: it is cut, for good.
func TestDamageAtTheTail(t *testing.T) {
	mem, all := written(t, ModeSync, 60)
	last := all[len(all)-1]
	for pos := last.pos; pos < last.end; pos += 13 {
		clone := crash(mem, 0, 0)
		*byteAt(t, clone, pos) ^= 1
		l, h := start(t, testOptions(clone))
		equal(t, "replayed", h.batches, all[:len(all)-1])
		if l.Recovery().Cut == 0 || l.Committed() != all[len(all)-2].end {
			t.Fatalf("%+v, committed %d", l.Recovery(), l.Committed())
		}
		add(t, l, "x")
		closeLog(t, l)
		equal(t, "index is given again", h.last().index, last.index)
		_, again, err := replay(testOptions(clone))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "after the cut", again.batches, h.batches)
	}
}

// Without syncs nothing was promised: damage anywhere is a torn tail, and what lies behind it goes too.
func TestTornWithoutSyncs(t *testing.T) {
	mem, all := written(t, ModeOS, 20) // one segment, so not even a roll has synced
	*byteAt(t, mem, all[7].at[0]+20) ^= 1
	l, h, err := replay(testOptions(mem))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "replayed", h.batches, all[:7])
	if want := int64(all[19].end-all[7].pos) - 8; l.Recovery().Cut < want {
		t.Fatalf("%d bytes cut, want at least %d", l.Recovery().Cut, want)
	}
	if rest := peek(t, mem, testDir+"/"+segmentName(0))[all[6].end:]; !bytes.Equal(rest, make([]byte, len(rest))) {
		t.Fatal("the cut left bytes behind")
	}
	closeLog(t, l)
}

// Syncs are pipelined, so a batch may be torn and the next one whole. It is no damage unless that one knew better.
func TestTornBelowAWholeBatch(t *testing.T) {
	for _, know := range []bool{false, true} {
		mem, all := written(t, ModeSync, 10)
		name := testDir + "/" + segmentName(0)
		raw := peek(t, mem, name)
		h, wrong := parseHeader(raw[all[9].pos:], all[9].pos, 0, 4096)
		if wrong != "" {
			t.Fatal(wrong)
		}
		if h.durable != all[8].end {
			t.Fatalf("batch 9 knew %d to be durable, want %d", h.durable, all[8].end)
		}
		h.durable = all[7].end
		if know {
			h.durable++
		}
		sealBatch(raw[all[9].pos:all[9].end], &h)
		raw[all[8].at[0]+10] ^= 1
		l, hist, err := replay(testOptions(mem))
		if know {
			var corrupt *CorruptError
			if !errors.As(err, &corrupt) || corrupt.Position != all[8].pos {
				t.Fatalf("%v, want damage at %d", err, all[8].pos)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "replayed", hist.batches, all[:8])
		equal(t, "end", l.Committed(), all[7].end)
	}
}

// A payload that holds the image of a batch, down to its own position, is not taken for one: it cannot know the log's
// number.
func TestForgedBatch(t *testing.T) {
	mem := vfs.NewCrashableMem()
	opts := testOptions(mem)
	opts.Mode = ModeOS
	l, _ := start(t, opts)
	first := add(t, l, "first")
	const pad = 7 // the payload begins at 72+9 in its batch: 7 more to a multiple of 8
	pos := l.Committed() + batchHeader + recordHead + pad
	forged := encodeBatch(header{log: 42, term: 1, index: 99, timestamp: 1, position: pos, previous: pos, durable: pos}, records("gotcha"))
	p := add(t, l, strings.Repeat("x", pad)+string(forged))
	closeLog(t, l)
	equal(t, "place of the forged batch", p.Positions[0]+recordHead+pad, pos)
	*byteAt(t, mem, p.Positions[0]) ^= 1 // torn; were the forged batch believed, this would be damage in the middle
	again := crash(mem, 100, 0)          // with the damage, which no sync has seen
	_, h, err := replay(opts)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "replayed", h.payloads(), []string{"first"})
	// The same when the replay begins right there, and has read no batch before.
	opts.FS = again
	l, err = Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Replay(first.Positions[0]-batchHeader+record.Position(batchLength(RecordSize(5))), func(*Batch) error { return nil }); err != nil {
		t.Fatal(err)
	}
}

// reseal changes the header of a batch on disk and repairs its checksum.
func reseal(t *testing.T, mem *vfs.MemFS, b applied, change func(h *header, raw []byte)) {
	t.Helper()
	raw := peek(t, mem, testDir+"/"+segmentName(0))[b.pos:b.end]
	h, wrong := parseHeader(raw, b.pos, 0, int64(len(raw)))
	if wrong != "" {
		t.Fatal(wrong)
	}
	change(&h, raw)
	sealBatch(raw, &h)
}

// Whole batches that cannot have been written one after the other are damage too, however their checksums look.
func TestBatchesMustFollow(t *testing.T) {
	for name, change := range map[string]func(h *header, raw []byte){
		"index":      func(h *header, _ []byte) { h.index++ },
		"timestamp":  func(h *header, _ []byte) { h.timestamp = 5 },
		"term":       func(h *header, _ []byte) { h.term = 0 },
		"previous":   func(h *header, _ []byte) { h.previous -= 8; h.durable = 0 },
		"count":      func(h *header, _ []byte) { h.count-- },
		"one record": func(_ *header, raw []byte) { le.PutUint32(raw[batchHeader+4:], 1<<20) },
	} {
		mem, all := written(t, ModeSync, 10)
		reseal(t, mem, all[5], change)
		_, h, err := replay(testOptions(mem))
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) || corrupt.Position != all[5].pos || len(h.batches) != 5 {
			t.Errorf("%s: %d batches, %v", name, len(h.batches), err)
		}
	}
}

// A record's own checksum covers what the batch's does not: a wrong one that was there before the batch's was made.
func TestScanLooksAtEachRecord(t *testing.T) {
	mem, all := written(t, ModeSync, 10)
	reseal(t, mem, all[5], func(_ *header, raw []byte) { raw[all[5].at[1]-all[5].pos] ^= 1 })
	var corrupt *CorruptError
	if err := Scan(mem, testDir, 0, func(*Batch) error { return nil }); !errors.As(err, &corrupt) || corrupt.Position != all[5].at[1] {
		t.Fatalf("%v, want damage at %d", err, all[5].at[1])
	}
}

// A segment of another log, with the right name and the right positions, is not taken for one of ours.
func TestSegmentOfAnotherLog(t *testing.T) {
	a, _ := written(t, ModeSync, 80)
	b, _ := written(t, ModeSync, 80)
	spans, _ := listSpans(a, testDir)
	copy(peek(t, a, testDir+"/"+spans[1].name), peek(t, b, testDir+"/"+spans[1].name))
	_, _, err := replay(testOptions(a))
	var corrupt *CorruptError
	if !errors.As(err, &corrupt) || corrupt.Segment != spans[1].name {
		t.Fatalf("%v, want damage in segment %s", err, spans[1].name)
	}
}

func TestReplayFrom(t *testing.T) {
	mem, all := written(t, ModeSync, 80)
	from := func(pos record.Position) ([]applied, *Log, error) {
		l, err := Open(testOptions(mem))
		if err != nil {
			t.Fatal(err)
		}
		var h history
		err = l.Replay(pos, func(b *Batch) error { h.add(b); return nil })
		return h.batches, l, err
	}
	for i, b := range all {
		got, l, err := from(b.end)
		if err != nil {
			t.Fatalf("from %d: %v", b.end, err)
		}
		equal(t, "replayed", got, all[i+1:])
		equal(t, "end", l.Recovery().End, all[len(all)-1].end)
		equal(t, "index", l.Recovery().Index, uint64(80))
	}
	// Whatever is not the end of a batch is refused, and nothing is cut.
	segments, _ := listSpans(mem, testDir)
	before := mem.String()
	for _, pos := range []record.Position{all[3].pos + 8, all[3].pos + 80, all[79].pos + 8, all[79].end - 8, all[79].end + 8, 1 << 40, all[5].end + 4, segments[1].start} {
		if got, _, err := from(pos); !errors.Is(err, ErrViewAhead) && !errors.As(err, new(*CorruptError)) || len(got) > 0 {
			t.Errorf("from %d: %d batches, %v", pos, len(got), err)
		}
	}
	if _, _, err := from(all[79].end + 8); !errors.Is(err, ErrViewAhead) {
		t.Errorf("from beyond the end: %v", err)
	}
	if mem.String() != before {
		t.Error("a refused replay has changed the disk")
	}
	// The log lost its last batch, which the view has.
	for pos := all[79].pos; pos < all[79].end; pos++ {
		*byteAt(t, mem, pos) = 0
	}
	if _, _, err := from(all[79].end); !errors.Is(err, ErrViewAhead) {
		t.Errorf("the log is shorter than the view: %v", err)
	}
	if got, _, err := from(all[78].end); err != nil || len(got) != 0 {
		t.Errorf("the view ends where the log does now: %d batches, %v", len(got), err)
	}
	empty, err := Open(testOptions(vfs.NewMem()))
	if err != nil {
		t.Fatal(err)
	}
	if err := empty.Replay(8, func(*Batch) error { return nil }); !errors.Is(err, ErrViewAhead) {
		t.Errorf("a view of an empty log: %v", err)
	}
}

func TestReplayStopsAtAnError(t *testing.T) {
	mem, all := written(t, ModeSync, 10)
	l, err := Open(testOptions(mem))
	if err != nil {
		t.Fatal(err)
	}
	oops := errors.New("oops")
	n := 0
	if err := l.Replay(0, func(*Batch) error { n++; return oops }); !errors.Is(err, oops) || n != 1 {
		t.Fatalf("%v after %d batches", err, n)
	}
	n = 0
	if err := l.Replay(all[4].end, func(*Batch) error { n++; return nil }); err != nil || n != 5 {
		t.Fatalf("the second try: %v, %d batches", err, n)
	}
}

// A read that fails is not a torn tail.
func TestReplayDoesNotCutWhatItCannotRead(t *testing.T) {
	mem, _ := written(t, ModeSync, 40)
	oops := errors.New("cannot read")
	before := mem.String()
	failed := 0
	for ; ; failed++ {
		_, _, err := replay(testOptions(&unreadable{FS: mem, after: failed, err: oops}))
		if err == nil {
			break
		}
		if !errors.Is(err, oops) || mem.String() != before {
			t.Fatalf("read %d fails: %v, disk changed: %v", failed, err, mem.String() != before)
		}
	}
	if failed < 2 {
		t.Fatalf("a recovery does %d reads only", failed)
	}
}

// unreadable fails all reads after the first few.
type unreadable struct {
	vfs.FS
	after int
	err   error
}

type unreadableFile struct {
	vfs.File
	fs *unreadable
}

func (u *unreadable) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := u.FS.Open(name, opts...)
	return &unreadableFile{f, u}, err
}

func (f *unreadableFile) ReadAt(p []byte, off int64) (int, error) {
	if f.fs.after--; f.fs.after < 0 {
		return 0, f.fs.err
	}
	return f.File.ReadAt(p, off)
}

func TestScanNeverWrites(t *testing.T) {
	mem, all := written(t, ModeSync, 50)
	scan := func(from record.Position) (got []applied, found Recovery, err error) {
		d := newDisk(mem)
		d.before(func(op change, name string) error {
			t.Errorf("a scan does %s on %s", op, name)
			return nil
		})
		found, err = Inspect(d, testDir, from, func(b *Batch) error { got = append(got, copyBatch(b)); return nil })
		if d.open.Load() != 0 {
			t.Errorf("%d files left open", d.open.Load())
		}
		return got, found, err
	}
	got, found, err := scan(0)
	if err != nil || found.Cut != 0 || found.Batches != 50 || found.Records != 100 || found.End != all[49].end {
		t.Fatalf("%v, %+v", err, found)
	}
	equal(t, "scanned", got, all)
	if got, _, err = scan(all[30].end); err != nil || len(got) != 19 {
		t.Fatalf("from the middle: %d batches, %v", len(got), err)
	}
	n := 0
	oops := errors.New("enough")
	if err := Scan(mem, testDir, 0, func(*Batch) error { n++; return oops }); !errors.Is(err, oops) || n != 1 {
		t.Fatalf("%v after %d batches", err, n)
	}
	*byteAt(t, mem, all[49].at[1]) ^= 1
	if got, found, err = scan(0); err != nil || len(got) != 49 || found.Cut == 0 {
		t.Fatalf("torn tail: %d batches, %v, %+v", len(got), err, found)
	}
	*byteAt(t, mem, all[9].at[1]) ^= 1
	if got, _, err = scan(0); !errors.As(err, new(*CorruptError)) || len(got) != 9 {
		t.Fatalf("damage: %d batches, %v", len(got), err)
	}
	if err := Scan(mem, "/nowhere", 0, nil); err != nil {
		t.Fatalf("no log: %v", err)
	}
}

func TestOtherFilesAreLeftAlone(t *testing.T) {
	mem, all := written(t, ModeSync, 5)
	for _, name := range []string{"LOCK", "00000000000000000003", "0000000000000000000x", "123", "000000000000000000000"} {
		f, err := mem.Create(testDir+"/"+name, vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	l, h := start(t, testOptions(mem))
	equal(t, "replayed", h.batches, all)
	closeLog(t, l)
	names, _ := mem.List(testDir)
	if !slices.Contains(names, "LOCK") || !slices.Contains(names, "00000000000000000003") {
		t.Fatalf("files are gone: %v", names)
	}
}

// A segment's size may change between runs.
func TestSegmentSizeChanges(t *testing.T) {
	mem := vfs.NewCrashableMem()
	var want []string
	for i, size := range []int64{16 << 10, 64 << 10, 4 << 10, 32 << 10, 4 << 10} {
		opts := testOptions(mem)
		opts.SegmentSize = size
		l, h := start(t, opts)
		equal(t, "replayed", h.payloads(), want)
		for n := range 15 {
			s := filler(fmt.Sprintf("%d/%d ", i, n), 900)
			add(t, l, s)
			want = append(want, s)
		}
		closeLog(t, l)
	}
	_, h, err := replay(testOptions(mem))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "replayed at the end", h.payloads(), want)
}

// Any bytes at all may be found after a crash. Recovery comes to an end, gives back a prefix of what was written or says
// what is wrong, and a second one comes to the same result.
func checkMangled(t testing.TB, mem *vfs.MemFS, all []applied) {
	_, h, err := replay(testOptions(mem))
	if err != nil {
		if !errors.As(err, new(*CorruptError)) && !errors.Is(err, ErrViewAhead) {
			t.Fatalf("recovery: %v", err)
		}
		return
	}
	for i, b := range h.batches {
		if i >= len(all) || fmt.Sprint(b) != fmt.Sprint(all[i]) {
			t.Fatalf("batch %d was never written", i)
		}
	}
	l, again := start(t, testOptions(mem))
	if l.Recovery().Cut != 0 {
		t.Fatalf("a second recovery cuts %d bytes", l.Recovery().Cut)
	}
	equal(t, "second recovery", again.batches, h.batches)
	add(t, l, "more")
	closeLog(t, l)
	if err := Scan(mem, testDir, 0, func(*Batch) error { return nil }); err != nil {
		t.Fatalf("after going on: %v", err)
	}
}

func TestMangledLogs(t *testing.T) {
	logs := map[Mode]*vfs.MemFS{}
	batches := map[Mode][]applied{}
	for _, mode := range allModes {
		logs[mode], batches[mode] = written(t, mode, 60)
	}
	rapid.Check(t, func(rt *rapid.T) {
		mode := rapid.SampledFrom(allModes).Draw(rt, "mode")
		mem := crash(logs[mode], 0, 0)
		spans, err := listSpans(mem, testDir)
		if err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 4).Draw(rt, "damages") {
			sp := rapid.SampledFrom(spans).Draw(rt, "segment")
			raw := peek(t, mem, testDir+"/"+sp.name)
			if len(raw) == 0 {
				continue
			}
			at := rapid.IntRange(0, len(raw)-1).Draw(rt, "at")
			n := rapid.IntRange(1, 5000).Draw(rt, "n")
			damage(raw[at:min(len(raw), at+n)], rapid.SampledFrom([]byte{0, 1, 2}).Draw(rt, "how"), raw)
		}
		checkMangled(t, mem, batches[mode])
	})
}

// damage flips, zeroes or overwrites b with what is elsewhere in the file.
func damage(b []byte, how byte, file []byte) {
	switch how % 3 {
	case 0:
		b[0] ^= 1 << (len(b) % 8)
	case 1:
		clear(b)
	case 2:
		copy(b, bytes.Clone(file))
	}
}

func FuzzRecovery(f *testing.F) {
	mem, all := written(f, ModeSync, 40)
	loose, looseAll := written(f, ModeOS, 40)
	f.Add([]byte{})
	f.Add([]byte{1, 0, 0, 0, 0, 10, 0})
	f.Add([]byte{0, 1, 100, 3, 0, 80, 1, 2, 0, 1, 0, 200, 2})
	f.Fuzz(func(t *testing.T, script []byte) {
		base, want := mem, all
		if len(script) > 0 && script[0]%2 == 1 {
			base, want = loose, looseAll
		}
		mem := crash(base, 0, 0)
		spans, err := listSpans(mem, testDir)
		if err != nil {
			t.Fatal(err)
		}
		for script = script[min(1, len(script)):]; len(script) >= 6; script = script[6:] {
			raw := peek(t, mem, testDir+"/"+spans[int(script[0])%len(spans)].name)
			at, n := int(script[1])<<8+int(script[2]), int(script[3])<<8+int(script[4])
			if at < len(raw) {
				damage(raw[at:min(len(raw), at+n+1)], script[5], raw)
			}
		}
		checkMangled(t, mem, want)
	})
}
