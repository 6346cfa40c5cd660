package kvindex

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/internal/record"
)

func wantGet(t fataler, b *Batch, key string, want string, wantOK bool) {
	t.Helper()
	val, ok, err := b.Get(userKey(key))
	must(t, err)
	if ok != wantOK || string(val) != want {
		t.Fatalf("get %s: %q %v, want %q %v", key, val, ok, want, wantOK)
	}
}

func TestBatchReadsItsOwnChanges(t *testing.T) {
	eachEngine(t, func(t *testing.T, opts Options) {
		e := mustOpen(t, opts)
		defer e.Close()
		commit(t, e, func(w Writer) {
			for _, k := range []string{"a", "b", "c", "d"} {
				w.Set(userKey(k), []byte("old"))
			}
		})
		b := NewBatch(e)
		defer b.Close()
		b.Begin(100, 1, 77)
		if b.Timestamp() != 77 || b.Index() != 1 || b.Engine() != Reader(e) {
			t.Fatal("what Begin said is not what the batch says")
		}
		wantGet(t, b, "a", "old", true)
		b.Set(userKey("a"), []byte("new"))
		wantGet(t, b, "a", "new", true)
		b.Set(userKey("a"), []byte("a longer one"))
		wantGet(t, b, "a", "a longer one", true)
		b.Set(userKey("a"), nil)
		wantGet(t, b, "a", "", true)
		b.Delete(userKey("b"))
		wantGet(t, b, "b", "", false)
		b.SingleDelete(userKey("c"))
		wantGet(t, b, "c", "", false)
		b.DeleteRange(userKey("a"), userKey("c"))
		wantGet(t, b, "a", "", false)
		wantGet(t, b, "d", "old", true)
		b.Set(userKey("b"), []byte("again"))
		wantGet(t, b, "b", "again", true)
		b.Put(userKey("e"), []byte("put"))
		b.Put(userKey("c"), []byte("put over a change"))
		wantGet(t, b, "c", "put over a change", true)
		wantRows(t, e, "a=old", "b=old", "c=old", "d=old") // nothing before Commit
		must(t, b.Commit())
		wantRows(t, e, "b=again", "c=put over a change", "d=old", "e=put")
		a, err := ReadApplied(e)
		must(t, err)
		if a != (Applied{End: 100, Index: 1, Timestamp: 77}) {
			t.Fatalf("applied %+v", a)
		}
		b.Begin(200, 2, 78)
		wantGet(t, b, "b", "again", true)
		must(t, b.Commit())
		wantRows(t, e, "b=again", "c=put over a change", "d=old", "e=put")
		a, err = ReadApplied(e)
		must(t, err)
		if a.End != 200 || a.Index != 2 {
			t.Fatalf("applied %+v after an empty batch", a)
		}
	})
}

// TestBatchWritesARowOnce: however often a counter changes in a log batch, the engine gets one change of it.
func TestBatchWritesARowOnce(t *testing.T) {
	e := mustOpen(t, testOptions(KindPebble, "x"))
	defer e.Close()
	b := NewBatch(e)
	defer b.Close()
	b.Begin(1, 1, 1)
	for i := range 1000 {
		b.Set(userKey("counter"), fmt.Append(nil, i))
	}
	must(t, b.Commit())
	if b.w.Count() != 2 { // and the applied row
		t.Fatalf("%d changes", b.w.Count())
	}
	wantRows(t, e, "counter=999")
}

func TestBatchCommitCanBeTriedAgain(t *testing.T) {
	opts := testOptions(KindPebble, "x")
	var broken error
	opts.BeforeFlush = func() error { return broken }
	e := mustOpen(t, opts)
	defer e.Close()
	b := NewBatch(e)
	defer b.Close()
	b.Begin(1, 1, 1)
	b.Set(userKey("a"), []byte("1"))
	b.w = &failingWriter{Writer: b.w, failures: 2}
	for range 2 {
		if err := b.Commit(); !errors.Is(err, errPassing) {
			t.Fatal(err)
		}
		wantRows(t, e)
	}
	must(t, b.Commit())
	wantRows(t, e, "a=1")
	if b.w.Count() != 2 {
		t.Fatalf("%d changes", b.w.Count())
	}
}

var errPassing = errors.New("this passes")

type failingWriter struct {
	Writer
	failures int
}

func (w *failingWriter) Commit() error {
	if w.failures--; w.failures >= 0 {
		return errPassing
	}
	return w.Writer.Commit()
}

// TestBatchAgainstModel compares a Batch, call by call, with a map that changes at once.
func TestBatchAgainstModel(t *testing.T) { batchAgainstModel(t) }

// TestBatchOfRecentAgainstModel is about rows that recent remembers.
func TestBatchOfRecentAgainstModel(t *testing.T) {
	defer func(space Space) { userSpace = space }(userSpace)
	for _, userSpace = range []Space{SpaceCheckpoint, SpaceCounter} {
		t.Run(userSpace.String(), batchAgainstModel)
	}
}

func batchAgainstModel(t *testing.T) {
	for _, kind := range engineKinds {
		t.Run(kind, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				e := mustOpen(rt, testOptions(kind, t.TempDir()))
				defer func() { must(rt, e.Close()) }() // rapid may give up in the middle of a run
				m := batchModel{rows: model{}, sets: map[string]int{}}
				b := NewBatch(e)
				for n := range rapid.IntRange(1, 8).Draw(rt, "batches") {
					b.Begin(record.Position(n+1), uint64(n+1), int64(n))
					m.blind = map[string]bool{}
					m.setHere = map[string]bool{}
					before := batchModel{rows: maps.Clone(m.rows), sets: maps.Clone(m.sets)}
					for range rapid.IntRange(0, 40).Draw(rt, "calls") {
						m.call(rt, b)
					}
					if rapid.IntRange(0, 5).Draw(rt, "given up") == 0 {
						m = before
						continue
					}
					must(rt, b.Commit())
					if got := rowsOf(rt, e); !slices.Equal(got, m.rows.rows()) {
						rt.Fatalf("rows %v, want %v", got, m.rows.rows())
					}
					if rapid.Bool().Draw(rt, "flush") {
						must(rt, e.Flush())
						wantRows(rt, e, m.rows.rows()...)
					}
				}
				must(rt, b.Close())
			})
		})
	}
}

type batchModel struct {
	rows    model
	sets    map[string]int  // Sets since the row last did not exist, as SingleDelete counts
	setHere map[string]bool // Set in this batch and not removed since
	blind   map[string]bool // Put in this batch: Get does not see it
}

func (m *batchModel) call(t *rapid.T, b *Batch) {
	k := drawKey.Draw(t, "key")
	switch op := rapid.IntRange(0, 11).Draw(t, "op"); {
	case op < 4:
		if !m.blind[k] {
			want, ok := m.rows[k]
			wantGet(t, b, k, want, ok)
		}
	case op < 7:
		v := rapid.StringMatching(`[x-z]{0,20}`).Draw(t, "value")
		b.Set(userKey(k), []byte(v))
		if m.rows[k] = v; !m.setHere[k] {
			m.sets[k]++
		}
		m.setHere[k], m.blind[k] = true, false
	case op < 8:
		b.Delete(userKey(k))
		m.remove(k)
	case op < 9:
		if m.sets[k] == 1 {
			b.SingleDelete(userKey(k))
			m.remove(k)
		}
	case op < 11:
		seen := b.overlay.find(userKey(k)) != nil || b.recent.tableOf(userKey(k)) != nil
		b.Put(userKey(k), []byte("put"))
		m.rows[k] = "put"
		m.sets[k]++
		m.blind[k] = !seen
	default:
		k2 := drawKey.Draw(t, "upper")
		b.DeleteRange(userKey(k), userKey(k2))
		for _, x := range m.rows.sorted() {
			if k <= x && x < k2 {
				m.remove(x)
			}
		}
	}
}

func (m *batchModel) remove(k string) {
	delete(m.rows, k)
	m.sets[k], m.setHere[k], m.blind[k] = 0, false, false
}

// TestRecentForgetsButDoesNotErr: with more rows than there are places some are forgotten, and none is another.
func TestRecentForgetsButDoesNotErr(t *testing.T) {
	r := newRecent()
	const n = 3 * recentCheckpoints
	want := map[string]string{}
	key := func(i int) []byte { return fmt.Appendf([]byte{byte(SpaceCheckpoint)}, "%05d", i) }
	table := r.tableOf(key(0))
	for i := range n {
		k, v := key(i), fmt.Append(nil, i)
		table.set(hashOf(k), k, v, true)
		if want[string(k)] = string(v); i%3 == 0 {
			k := key(i / 2)
			table.set(hashOf(k), k, nil, false)
			delete(want, string(k))
		}
	}
	long := make([]byte, keptRecent)
	table.set(hashOf(key(22000)), key(22000), long, true)
	found := 0
	for i := range n {
		k := key(i)
		v, ok, known := table.find(hashOf(k), k)
		if !known {
			continue
		}
		found++
		if text, there := want[string(k)]; string(v) != text || ok != there || i == 22000 {
			t.Errorf("row %d is %q, %v", i, v, ok)
		}
	}
	if found < recentCheckpoints/2 {
		t.Errorf("only %d rows are found", found)
	}
}

// TestRecentForgetsATableOfWhichARangeIsGone, and what is remembered later is found.
func TestRecentForgetsATableOfWhichARangeIsGone(t *testing.T) {
	at := func(space Space, k string) []byte { return append([]byte{byte(space)}, k...) }
	spaces := []Space{SpaceCursor, SpaceCheckpoint, SpaceCounter}
	for _, c := range []struct {
		lower, upper []byte
		found        []bool // by space
	}{
		{at(SpaceCheckpoint, "x"), at(SpaceCheckpoint, "y"), []bool{true, false, true}},
		{at(SpaceCursor, "x"), at(SpaceCursor, "y"), []bool{false, true, false}},
		{at(SpaceCounter, "x"), at(SpaceCounter+1, ""), []bool{false, true, false}},
		{at(SpaceCursor-1, ""), at(SpaceCursor, ""), []bool{true, true, true}},
		{at(SpaceCounter+1, ""), at(SpaceCounter+2, ""), []bool{true, true, true}},
		{at(SpaceCursor-1, ""), at(SpaceCounter+1, ""), []bool{false, false, false}},
	} {
		r := newRecent()
		for round := range 2 {
			for _, space := range spaces {
				k := at(space, "k")
				r.tableOf(k).set(hashOf(k), k, []byte("v"), true)
			}
			if round == 0 {
				r.removeRange(c.lower, c.upper)
			}
			for i, space := range spaces {
				k := at(space, "k")
				if round == 0 && !c.found[i] {
					if _, _, known := r.tableOf(k).find(hashOf(k), k); known {
						t.Errorf("%q to %q: the %v is still found", c.lower, c.upper, space)
					}
				} else if v, ok, _ := r.tableOf(k).find(hashOf(k), k); !ok || string(v) != "v" {
					t.Errorf("%q to %q: the %v is %q, %v", c.lower, c.upper, space, v, ok)
				}
			}
		}
	}
}

// TestRangeSetAgainstList compares the set with a plain list of all ranges, newest last.
func TestRangeSetAgainstList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s rangeSet
		var list [][2]string
		for range rapid.IntRange(0, 30).Draw(t, "ranges") {
			lower, upper := drawKey.Draw(t, "lower"), drawKey.Draw(t, "upper")
			list = append(list, [2]string{lower, upper})
			s.add([]byte(lower), []byte(upper), uint32(len(list)))
			key := drawKey.Draw(t, "key")
			want := uint32(0)
			for i, r := range list {
				if r[0] <= key && key < r[1] {
					want = uint32(i + 1)
				}
			}
			if got := s.covering([]byte(key)); got != want {
				t.Fatalf("%q in %v: by change %d, want %d", key, list, got, want)
			}
		}
	})
}

func TestOverlayGrowsAndForgets(t *testing.T) {
	var o overlay
	o.round = ^uint32(0) - 1 // the counter of rounds wraps on the way
	for round := range 4 {
		o.reset()
		for i := range 1000 {
			o.set(o.row(fmt.Append(nil, i)), fmt.Append(nil, i*round), uint32(i+1))
		}
		for i := range 1000 {
			r := o.find(fmt.Append(nil, i))
			if r == nil || string(o.value(r)) != fmt.Sprint(i*round) {
				t.Fatalf("round %d: row %d is wrong", round, i)
			}
		}
		o.reset()
		if o.find([]byte("1")) != nil {
			t.Fatal("a row of an earlier round is found")
		}
		o.row([]byte("other"))
		if o.find([]byte("1")) != nil {
			t.Fatal("a row of an earlier round is found")
		}
	}
}

func TestBatchAllocatesNothingInTheSteadyState(t *testing.T) {
	e := mustOpen(t, Options{FS: vfs.NewMem(), Dir: "x", MemoryBytes: 256 << 20})
	defer e.Close()
	b := NewBatch(e)
	defer b.Close()
	key, val := userKey("0000"), make([]byte, 40)
	n := uint64(0)
	run := func() {
		n++
		b.Begin(record.Position(n), n, 1)
		for i := range 500 {
			key[2], key[3] = byte(i), byte(i>>8)
			b.Set(key, val)
			if _, ok, err := b.Get(key); !ok || err != nil {
				t.Fatal(err)
			}
			key[1] = byte(n)
			b.Put(key, val)
			key[1] = '0'
		}
		must(t, b.Commit())
	}
	run()
	if a := testing.AllocsPerRun(20, run); a > 20 {
		t.Fatalf("%v allocations for 1000 rows", a)
	}
}

func BenchmarkBatch(b *testing.B) {
	for _, kind := range engineKinds {
		b.Run(kind+"/put", func(b *testing.B) { benchBatch(b, kind, 256, 0) })
		b.Run(kind+"/set", func(b *testing.B) { benchBatch(b, kind, 0, 256) })
		b.Run(kind+"/put+set-hot", func(b *testing.B) { benchBatch(b, kind, 128, -128) })
	}
}

// benchBatch commits batches of puts and sets (negative: over 8 hot rows, read before) of 21-byte keys and 40-byte values
// and flushes as the store does; it reports time per row.
func benchBatch(b *testing.B, kind string, puts, sets int) {
	e := mustOpen(b, Options{Dir: b.TempDir() + "/index", Kind: kind, MemoryBytes: 64 << 20})
	batch := NewBatch(e)
	rows, hot := 0, max(-sets, 0)
	key, val := make([]byte, 0, 64), make([]byte, 40)
	b.ReportAllocs()
	n := uint64(0)
	cpu := cpuTime()
	for b.Loop() {
		n++
		batch.Begin(record.Position(n), n, int64(n))
		for i := range puts {
			key = AppendConsumeQueueKey(key[:0], ID(rows%1000), int32(i&7), int64(n))
			batch.Put(key, val)
			rows++
		}
		for range sets {
			key = AppendCheckpointKey(key[:0], 1, ID(rows%1000), int64(n), 0, int64(rows))
			batch.Set(key, val)
			rows++
		}
		for i := range hot {
			key = AppendCursorKey(key[:0], 1, ID(i&7), 3)
			if _, _, err := batch.Get(key); err != nil {
				b.Fatal(err)
			}
			batch.Set(key, val)
			rows++
		}
		must(b, batch.Commit())
		if e.FlushDue() {
			e.StartFlush()
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(rows), "ns/row")
	b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(float64(cpuTime()-cpu)/float64(rows), "cpu-ns/row")
	m := e.Metrics()
	b.ReportMetric(float64(m.ForcedWaits), "waits")
	b.ReportMetric(float64(m.ReadAmp), "read-amp")
	must(b, batch.Close())
	must(b, e.Close())
}

// cpuTime is what this process has used, flushes and compactions included.
func cpuTime() time.Duration {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		panic(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// BenchmarkOverlay is the batch alone: set and read back, without an engine.
func BenchmarkOverlay(b *testing.B) {
	var o overlay
	key, val := make([]byte, 0, 64), make([]byte, 40)
	b.ReportAllocs()
	for b.Loop() {
		o.reset()
		for i := range 1000 {
			key = AppendCursorKey(key[:0], 1, ID(i), 3)
			o.set(o.row(key), val, 1)
			if o.find(key) == nil {
				b.Fatal("lost")
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/row")
}

func BenchmarkHashKey(b *testing.B) {
	key := "01A2B3C4D5E6F70819AABBCCDDEEFF00"
	for b.Loop() {
		_ = HashKey(key)
	}
}
