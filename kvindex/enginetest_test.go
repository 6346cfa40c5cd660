package kvindex

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

// engineKinds is what the engine suite runs on; the build tag grocksdb adds RocksDB.
var engineKinds = []string{KindPebble}

func TestMain(m *testing.M) {
	if job := os.Getenv(childEnv); job != "" {
		runChild(job)
		return
	}
	goleak.VerifyTestMain(m)
}

// eachEngine runs f as a subtest on every engine, with options for an index that does not exist yet.
func eachEngine(t *testing.T, f func(t *testing.T, opts Options)) {
	for _, kind := range engineKinds {
		t.Run(kind, func(t *testing.T) { f(t, testOptions(kind, t.TempDir())) })
	}
}

func testOptions(kind, dir string) Options {
	opts := Options{FS: vfs.NewMem(), Dir: dir + "/index", Kind: kind, MemoryBytes: minMemory, Logger: zerolog.Nop()}
	if kind == KindRocksDB {
		opts.FS = nil
	}
	return opts
}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func mustOpen(t fataler, opts Options) Engine {
	t.Helper()
	e, err := Open(opts)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return e
}

func must(t fataler, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v", err)
	}
}

// userKey puts test keys behind the rows that the engine itself keeps.
// userSpace is where the tests' rows are.
var userSpace = SpaceKVConfig

func userKey(k string) []byte { return append([]byte{byte(userSpace)}, k...) }

func commit(t fataler, e Engine, f func(w Writer)) {
	t.Helper()
	w := e.NewWriter()
	f(w)
	must(t, w.Commit())
	must(t, w.Close())
}

// rowsOf lists the test rows as "key=value" strings.
func rowsOf(t fataler, r Reader) []string {
	t.Helper()
	it, err := r.NewIter(userKey(""), PrefixEnd(userKey("")))
	must(t, err)
	out := []string{}
	for ok := it.First(); ok; ok = it.Next() {
		out = append(out, fmt.Sprintf("%s=%s", it.Key()[1:], it.Value()))
	}
	must(t, it.Error())
	must(t, it.Close())
	return out
}

func wantRows(t fataler, r Reader, want ...string) {
	t.Helper()
	if want == nil {
		want = []string{}
	}
	if got := rowsOf(t, r); !slices.Equal(got, want) {
		t.Fatalf("rows %v, want %v", got, want)
	}
	for _, row := range want {
		k, v, _ := strings.Cut(row, "=")
		val, ok, err := r.Get(userKey(k), nil)
		must(t, err)
		if !ok || string(val) != v {
			t.Fatalf("get %s: %q %v, want %q", k, val, ok, v)
		}
	}
}

func TestWriterSemantics(t *testing.T) {
	eachEngine(t, func(t *testing.T, opts Options) {
		e := mustOpen(t, opts)
		commit(t, e, func(w Writer) {
			for _, k := range []string{"a", "b", "c", "d", "e"} {
				w.Set(userKey(k), []byte("1"))
			}
			if w.Count() != 5 || w.Len() < 5*3 {
				t.Fatalf("count %d, len %d", w.Count(), w.Len())
			}
		})
		commit(t, e, func(w Writer) {
			w.Set(userKey("a"), []byte("2"))
			w.Set(userKey("a"), []byte("3")) // later changes of a batch win
			w.Delete(userKey("b"))
			w.SingleDelete(userKey("c"))
			w.DeleteRange(userKey("d"), userKey("e")) // the upper bound is not in it
			w.DeleteRange(userKey("z"), userKey("a")) // no range at all
			w.Delete(userKey("never"))
			w.Set(userKey("empty"), nil)
		})
		wantRows(t, e, "a=3", "e=1", "empty=")
		commit(t, e, func(w Writer) {
			w.Set(userKey("d"), []byte("4"))
			w.DeleteRange(userKey("a"), userKey("z"))
			w.Set(userKey("e"), []byte("5")) // after the range, so it stays
		})
		wantRows(t, e, "e=5")
		must(t, e.Flush())
		wantRows(t, e, "e=5")
		if _, ok, err := e.Get(userKey("a"), []byte("old")); ok || err != nil {
			t.Fatalf("a deleted row: %v %v", ok, err)
		}

		w := e.NewWriter()
		w.Set(userKey("x"), []byte("1"))
		w.Reset()
		if w.Count() != 0 {
			t.Fatalf("count %d after reset", w.Count())
		}
		w.Set(userKey("y"), []byte("1"))
		must(t, w.Commit())
		w.Reset()
		w.Set(userKey("z"), []byte("1"))
		must(t, w.Commit())
		must(t, w.Close())
		wantRows(t, e, "e=5", "y=1", "z=1")
		must(t, e.Close())
	})
}

func TestGetAppendsToDst(t *testing.T) {
	eachEngine(t, func(t *testing.T, opts Options) {
		e := mustOpen(t, opts)
		defer e.Close()
		commit(t, e, func(w Writer) { w.Set(userKey("a"), []byte("value")) })
		buf := make([]byte, 3, 64)
		val, ok, err := e.Get(userKey("a"), buf)
		must(t, err)
		if !ok || string(val) != "value" || &val[0] != &buf[0] {
			t.Fatalf("got %q %v, in the buffer given: %v", val, ok, &val[0] == &buf[0])
		}
	})
}

func TestSnapshotsAndItersKeepTheirMoment(t *testing.T) {
	eachEngine(t, func(t *testing.T, opts Options) {
		e := mustOpen(t, opts)
		defer e.Close()
		commit(t, e, func(w Writer) {
			w.Set(userKey("a"), []byte("1"))
			w.Set(userKey("b"), []byte("1"))
		})
		s := e.NewSnapshot()
		it, err := e.NewIter(userKey(""), nil)
		must(t, err)
		commit(t, e, func(w Writer) {
			w.Set(userKey("a"), []byte("2"))
			w.DeleteRange(userKey("b"), userKey("c"))
			w.Set(userKey("d"), []byte("2"))
		})
		must(t, e.Flush())
		wantRows(t, s, "a=1", "b=1")
		wantRows(t, e, "a=2", "d=2")
		got := ""
		for ok := it.First(); ok; ok = it.Next() {
			got += string(it.Key()[1:]) + string(it.Value())
		}
		if got != "a1b1" {
			t.Fatalf("an older iterator sees %s", got)
		}
		must(t, it.Close())
		must(t, s.Close())
	})
}

func TestCloseFlushesNothing(t *testing.T) {
	eachEngine(t, func(t *testing.T, opts Options) {
		e := mustOpen(t, opts)
		commit(t, e, func(w Writer) { w.Set(userKey("a"), []byte("1")) })
		must(t, e.Flush())
		commit(t, e, func(w Writer) {
			w.Set(userKey("b"), []byte("1"))
			w.Delete(userKey("a"))
		})
		wantRows(t, e, "b=1")
		must(t, e.Close())
		e = mustOpen(t, opts)
		wantRows(t, e, "a=1")
		must(t, e.Flush()) // of nothing
		must(t, e.Close())
	})
}

func TestCheckpointHoldsWhatIsFlushed(t *testing.T) {
	eachEngine(t, func(t *testing.T, opts Options) {
		e := mustOpen(t, opts)
		commit(t, e, func(w Writer) { w.Set(userKey("a"), []byte("1")) })
		must(t, e.Flush())
		commit(t, e, func(w Writer) { w.Set(userKey("b"), []byte("1")) })
		copyOpts := opts
		copyOpts.Dir += "-copies/1"
		must(t, e.Checkpoint(copyOpts.Dir))
		if err := e.Checkpoint(copyOpts.Dir); err == nil {
			t.Fatal("a checkpoint over another one succeeds")
		}
		commit(t, e, func(w Writer) { w.Set(userKey("c"), []byte("1")) })
		wantRows(t, e, "a=1", "b=1", "c=1")
		must(t, e.Close())

		c := mustOpen(t, copyOpts)
		wantRows(t, c, "a=1")
		commit(t, c, func(w Writer) { w.Set(userKey("d"), []byte("1")) })
		must(t, c.Flush())
		must(t, c.Close())
		e = mustOpen(t, opts)
		wantRows(t, e, "a=1")
		must(t, e.Close())
	})
}

func TestReadOnlyWritesNothing(t *testing.T) {
	eachEngine(t, func(t *testing.T, opts Options) {
		ro := opts
		ro.ReadOnly = true
		if _, err := Open(ro); !errors.Is(err, ErrNotFound) {
			t.Fatalf("read-only open of nothing: %v", err)
		}
		e := mustOpen(t, opts)
		commit(t, e, func(w Writer) { w.Set(userKey("a"), []byte("1")) })
		must(t, e.Flush())
		must(t, e.Close())
		opts.setDefaults()
		before := listing(t, opts)
		e = mustOpen(t, ro)
		wantRows(t, e, "a=1")
		w := e.NewWriter()
		w.Set(userKey("b"), []byte("1"))
		if err := w.Commit(); !errors.Is(err, ErrReadOnly) {
			t.Fatalf("commit: %v", err)
		}
		must(t, w.Close())
		if err := e.Flush(); !errors.Is(err, ErrReadOnly) || e.FlushDue() {
			t.Fatalf("flush: %v", err)
		}
		_ = e.Metrics()
		must(t, e.Close())
		if after := listing(t, opts); !slices.Equal(before, after) {
			t.Fatalf("files before %v, after %v", before, after)
		}
	})
}

// listing names the files of an index with their sizes.
func listing(t *testing.T, opts Options) []string {
	names, err := opts.FS.List(opts.Dir)
	must(t, err)
	sort.Strings(names)
	for i, n := range names {
		st, err := opts.FS.Stat(opts.FS.PathJoin(opts.Dir, n))
		must(t, err)
		names[i] = fmt.Sprintf("%s:%d", n, st.Size())
	}
	return names
}

func TestFlushDueAndSelfMadeFlush(t *testing.T) {
	eachEngine(t, func(t *testing.T, opts Options) {
		var calls atomic.Int64
		opts.BeforeFlush = func() error { calls.Add(1); return nil }
		e := mustOpen(t, opts)
		defer e.Close()
		if e.FlushDue() {
			t.Fatal("an empty index is due for a flush")
		}
		n := 0
		for ; !e.FlushDue(); n++ {
			commit(t, e, func(w Writer) { w.Set(userKey(fmt.Sprintf("%06d", n)), make([]byte, 1000)) })
		}
		if got := n * 1056; got < 150_000 || got > 260_000 || calls.Load() != 0 {
			t.Fatalf("due after %d bytes, %d calls of BeforeFlush", got, calls.Load())
		}
		must(t, e.Flush())
		if e.FlushDue() || calls.Load() != 1 {
			t.Fatalf("due after a flush: %v; %d calls of BeforeFlush", e.FlushDue(), calls.Load())
		}
		for i := range 1000 { // four memtables, and nobody asks for a flush
			commit(t, e, func(w Writer) { w.Set(userKey(fmt.Sprintf("%06d", i)), make([]byte, 1000)) })
		}
		if m := e.Metrics(); m.SelfMadeFlushes == 0 || calls.Load() == 1 || m.UnflushedBytes > 2*minMemory/4 {
			t.Fatalf("%+v, %d calls of BeforeFlush", m, calls.Load())
		}
	})
}

// Every iterator pays for the range-deletes that no flush has taken.
func TestRangeDeletesMakeAFlushDue(t *testing.T) {
	eachEngine(t, func(t *testing.T, opts Options) {
		e := mustOpen(t, opts)
		defer e.Close()
		ranges := 0
		remove := func() {
			key := fmt.Sprintf("%06d", ranges)
			commit(t, e, func(w Writer) { w.DeleteRange(userKey(key), userKey(key+"x")) })
			ranges++
		}
		for !e.FlushDue() {
			remove()
		}
		if ranges > rangesUnflushed {
			t.Fatalf("a flush is due after %d range-deletes", ranges)
		}
		for ranges < 4*rangesUnflushed { // and nobody asks for one
			remove()
		}
		if m := e.Metrics(); m.SelfMadeFlushes == 0 {
			t.Fatalf("%d range-deletes, %+v", ranges, m)
		}
	})
}

func TestFailedBeforeFlushKeepsRowsOffTheDisk(t *testing.T) {
	eachEngine(t, func(t *testing.T, opts Options) {
		var broken atomic.Bool
		noSync := errors.New("the log can not be synced")
		opts.BeforeFlush = func() error {
			if broken.Load() {
				return noSync
			}
			return nil
		}
		e := mustOpen(t, opts)
		broken.Store(true)
		commit(t, e, func(w Writer) { w.Set(userKey("a"), []byte("1")) })
		if err := e.Flush(); !errors.Is(err, noSync) {
			t.Fatalf("flush: %v", err)
		}
		// Rows go on until the memory for them is used up; then commits say why, and stay whole.
		w := e.NewWriter()
		n, err := 0, error(nil)
		for ; err == nil; n++ {
			w.Reset()
			w.Set(userKey(fmt.Sprintf("b%06d", n)), make([]byte, 10_000))
			err = w.Commit()
		}
		if !errors.Is(err, noSync) || n < 10 || n > 80 {
			t.Fatalf("commit %d: %v", n, err)
		}
		if got := len(rowsOf(t, e)); got != n {
			t.Fatalf("%d rows, want %d", got, n)
		}
		// It heals by itself, and the commit can be tried again.
		broken.Store(false)
		for err = w.Commit(); errors.Is(err, noSync); err = w.Commit() {
		}
		must(t, err)
		must(t, w.Close())
		must(t, e.Flush())
		must(t, e.Close())
		e = mustOpen(t, opts)
		if got := len(rowsOf(t, e)); got != n+1 {
			t.Fatalf("%d rows after reopening, want %d", got, n+1)
		}

		broken.Store(true)
		commit(t, e, func(w Writer) { w.Set(userKey("c"), []byte("1")) })
		if err := e.Flush(); !errors.Is(err, noSync) {
			t.Fatalf("flush: %v", err)
		}
		must(t, e.Close())
		e = mustOpen(t, opts)
		if got := len(rowsOf(t, e)); got != n+1 {
			t.Fatalf("%d rows after reopening, want %d: a flush that BeforeFlush forbade got to disk", got, n+1)
		}
		must(t, e.Close())
	})
}

// TestConcurrentReaders has one writer move a pair of rows together while readers look: they never see half a batch.
func TestConcurrentReaders(t *testing.T) {
	eachEngine(t, func(t *testing.T, opts Options) {
		e := mustOpen(t, opts)
		defer e.Close()
		set := func(n int) {
			commit(t, e, func(w Writer) {
				v := fmt.Appendf(nil, "%08d", n)
				w.DeleteRange(userKey("p"), userKey("q"))
				w.Set(userKey("p1"), v)
				w.Set(fmt.Appendf(userKey("r"), "%08d", n), make([]byte, 500))
				w.Set(userKey("p2"), v)
			})
		}
		set(0)
		var stop atomic.Bool
		var readers sync.WaitGroup
		for range 3 {
			readers.Go(func() {
				last := ""
				for !stop.Load() {
					last = checkPair(t, e, last)
				}
			})
		}
		for n := 1; n <= 3000; n++ {
			set(n)
			if n%500 == 0 {
				<-e.StartFlush()
			}
		}
		stop.Store(true)
		readers.Wait()
	})
}

func checkPair(t *testing.T, e Engine, last string) string {
	s := e.NewSnapshot()
	defer s.Close()
	one, ok1, err1 := s.Get(userKey("p1"), nil)
	it, err := s.NewIter(userKey("p"), userKey("q"))
	if err != nil || err1 != nil || !ok1 {
		t.Errorf("%v %v %v", err, err1, ok1)
		return last
	}
	defer it.Close()
	got := ""
	for ok := it.Last(); ok; ok = it.Prev() {
		got += string(it.Value()) + " "
	}
	if got != fmt.Sprintf("%s %s ", one, one) || string(one) < last {
		t.Errorf("half a batch: %q beside %q, after %q", got, one, last)
	}
	return string(one)
}

// model is what an engine should hold.
type model map[string]string

func (m model) sorted() []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

func (m model) rows() []string {
	out := []string{}
	for _, k := range m.sorted() {
		out = append(out, k+"="+m[k])
	}
	return out
}

func (m model) clone() model {
	c := model{}
	for k, v := range m {
		c[k] = v
	}
	return c
}

var drawKey = rapid.StringMatching(`[a-d]{0,3}`)

// drawBatch makes a batch of changes, in the engine's Writer and in the model alike.
func drawBatch(t *rapid.T, w Writer, m model, set map[string]int) {
	for range rapid.IntRange(1, 8).Draw(t, "changes") {
		k := drawKey.Draw(t, "key")
		switch op := rapid.IntRange(0, 9).Draw(t, "op"); {
		case op < 5:
			v := rapid.StringMatching(`[x-z]{0,20}`).Draw(t, "value")
			w.Set(userKey(k), []byte(v))
			m[k] = v
			set[k]++
		case op < 7:
			w.Delete(userKey(k))
			delete(m, k)
			set[k] = 0
		case op < 9:
			if set[k] == 1 { // what SingleDelete asks for
				w.SingleDelete(userKey(k))
				delete(m, k)
				set[k] = 0
			}
		default:
			k2 := drawKey.Draw(t, "upper")
			w.DeleteRange(userKey(k), userKey(k2))
			for _, x := range m.sorted() {
				if k <= x && x < k2 {
					delete(m, x)
					set[x] = 0
				}
			}
		}
	}
}

// TestEngineAgainstModel compares an engine with a sorted map under random batches, flushes, reopenings, snapshots and walks.
func TestEngineAgainstModel(t *testing.T) {
	for _, kind := range engineKinds {
		t.Run(kind, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				opts := testOptions(kind, t.TempDir())
				e := mustOpen(rt, opts)
				defer func() { must(rt, e.Close()) }() // rapid may give up in the middle of a run
				now, flushed := model{}, model{}
				set, flushedSet := map[string]int{}, map[string]int{}
				w := e.NewWriter()
				for range rapid.IntRange(1, 30).Draw(rt, "steps") {
					switch op := rapid.IntRange(0, 9).Draw(rt, "step"); {
					case op < 5:
						w.Reset()
						drawBatch(rt, w, now, set)
						must(rt, w.Commit())
					case op < 6:
						must(rt, e.Flush())
						flushed, flushedSet = now.clone(), cloneCounts(set)
					case op < 7:
						must(rt, w.Close())
						must(rt, e.Close())
						e = mustOpen(rt, opts)
						w = e.NewWriter()
						now, set = flushed.clone(), cloneCounts(flushedSet)
					case op < 8:
						walk(rt, e, now)
					default:
						snapshotStep(rt, e, w, now, set)
					}
					wantRows(rt, e, now.rows()...)
				}
				must(rt, w.Close())
			})
		})
	}
}

// snapshotStep walks a snapshot after the engine has gone on.
func snapshotStep(t *rapid.T, e Engine, w Writer, now model, set map[string]int) {
	s := e.NewSnapshot()
	defer s.Close()
	was := now.clone()
	w.Reset()
	drawBatch(t, w, now, set)
	must(t, w.Commit())
	walk(t, s, was)
}

func cloneCounts(m map[string]int) map[string]int {
	c := map[string]int{}
	for k, v := range m {
		c[k] = v
	}
	return c
}

// walk moves an iterator with random bounds about and compares each stop with the model.
func walk(t *rapid.T, r Reader, m model) {
	lower, upper := userKey(drawKey.Draw(t, "lower")), userKey(drawKey.Draw(t, "upper"))
	if rapid.IntRange(0, 4).Draw(t, "open end") == 0 {
		upper = nil
	}
	var keys []string
	for _, k := range m.sorted() {
		if bytes.Compare(userKey(k), lower) >= 0 && (upper == nil || bytes.Compare(userKey(k), upper) < 0) {
			keys = append(keys, k)
		}
	}
	it, err := r.NewIter(lower, upper)
	must(t, err)
	defer func() { must(t, it.Close()) }()
	for i := range lower { // they are copied
		lower[i] = 0xff
	}
	at := -1
	for range rapid.IntRange(1, 12).Draw(t, "moves") {
		move := rapid.IntRange(0, 5).Draw(t, "move")
		if at < 0 && move >= 4 {
			move = 0
		}
		var ok bool
		switch move {
		case 0:
			ok, at = it.First(), 0
		case 1:
			ok, at = it.Last(), len(keys)-1
		case 2:
			k := drawKey.Draw(t, "seek")
			ok, at = it.SeekGE(userKey(k)), sort.SearchStrings(keys, k)
		case 3:
			k := drawKey.Draw(t, "seek")
			ok, at = it.SeekLT(userKey(k)), sort.SearchStrings(keys, k)-1
		case 4:
			ok, at = it.Next(), at+1
		case 5:
			ok, at = it.Prev(), at-1
		}
		if at < 0 || at >= len(keys) {
			at = -1
		}
		if ok != (at >= 0) || ok != it.Valid() {
			t.Fatalf("move %d in %v: %v, valid %v, want %v", move, keys, ok, it.Valid(), at >= 0)
		}
		if ok && (string(it.Key()[1:]) != keys[at] || string(it.Value()) != m[keys[at]]) {
			t.Fatalf("move %d in %v: at %s=%s, want %s=%s", move, keys, it.Key()[1:], it.Value(), keys[at], m[keys[at]])
		}
	}
	must(t, it.Error())
}
