package kvindex

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/internal/record"
)

// applyNumbered makes log batch n: what it does follows from n alone, so that a view that says "n" can be checked in full.
// It overwrites, deletes and range-deletes rows of earlier batches.
func applyNumbered(b *Batch, n uint64) {
	b.Begin(record.Position(n*1000), n, int64(n))
	val := fmt.Appendf(nil, "%d", n)
	rng := rand.New(rand.NewPCG(n, 7))
	for range 1 + rng.IntN(6) {
		b.Set(numberedKey(rng.IntN(50)), val)
	}
	b.Delete(numberedKey(rng.IntN(50)))
	b.Put(fmt.Appendf(userKey("put"), "%06d", n), make([]byte, rng.IntN(3000)))
	if n%5 == 0 {
		from := rng.IntN(50)
		b.DeleteRange(numberedKey(from), numberedKey(from+5))
		b.DeleteRange(userKey("put"), fmt.Appendf(userKey("put"), "%06d", n-min(n, 20)))
	}
}

func numberedKey(i int) []byte { return fmt.Appendf(userKey("n"), "%03d", i) }

// numberedView keeps the views after batches 0, 1, 2 … in memory, to compare with.
type numberedView struct {
	e     Engine
	b     *Batch
	n     uint64
	snaps []Snapshot
}

func newNumberedView(t *testing.T) *numberedView {
	v := &numberedView{e: mustOpen(t, Options{FS: vfs.NewMem(), Dir: "x", MemoryBytes: 512 << 20})}
	v.b = NewBatch(v.e)
	v.snaps = []Snapshot{v.e.NewSnapshot()}
	t.Cleanup(func() {
		for _, s := range v.snaps {
			must(t, s.Close())
		}
		must(t, v.b.Close())
		must(t, v.e.Close())
	})
	return v
}

// check fails when r is not exactly the view after batch n, for the n that r itself claims, which it returns.
func (v *numberedView) check(t *testing.T, r Reader) uint64 {
	t.Helper()
	a, err := ReadApplied(r)
	must(t, err)
	for v.n < a.Index {
		v.n++
		applyNumbered(v.b, v.n)
		must(t, v.b.Commit())
		v.snaps = append(v.snaps, v.e.NewSnapshot())
	}
	diff, err := Diff(r, v.snaps[a.Index])
	must(t, err)
	if diff != "" {
		t.Fatalf("the view at batch %d is not the state after it: %s", a.Index, diff)
	}
	return a.Index
}

// watchFS calls at before and after each operation that changes what a crash leaves, and may fail it.
type watchFS struct {
	vfs.FS
	at       func(op, name string)
	fail     func(op, name string) error
	category func(name string, c vfs.DiskWriteCategory)
}

func (w *watchFS) do(op, name string, f func() error) error {
	if w.fail != nil {
		if err := w.fail(op, name); err != nil {
			return err
		}
	}
	if w.at != nil {
		w.at(op, name)
		defer w.at(op, name)
	}
	return f()
}

func (w *watchFS) wrap(name string, f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &watchFile{File: f, w: w, name: name}, nil
}

func (w *watchFS) Create(name string, c vfs.DiskWriteCategory) (f vfs.File, err error) {
	if w.category != nil {
		w.category(name, c)
	}
	err = w.do("create", name, func() error { f, err = w.FS.Create(name, c); return err })
	return w.wrap(name, f, err)
}

func (w *watchFS) OpenDir(name string) (vfs.File, error) {
	f, err := w.FS.OpenDir(name)
	return w.wrap(name, f, err)
}

func (w *watchFS) Rename(a, b string) error {
	return w.do("rename", b, func() error { return w.FS.Rename(a, b) })
}

func (w *watchFS) Remove(name string) error {
	return w.do("remove", name, func() error { return w.FS.Remove(name) })
}

type watchFile struct {
	vfs.File
	w    *watchFS
	name string
}

func (f *watchFile) Write(p []byte) (n int, err error) {
	if f.w.fail != nil {
		if err := f.w.fail("write", f.name); err != nil {
			return 0, err
		}
	}
	return f.File.Write(p)
}

func (f *watchFile) Sync() error     { return f.w.do("sync", f.name, f.File.Sync) }
func (f *watchFile) SyncData() error { return f.w.do("sync", f.name, f.File.SyncData) }

// TestCrashLeavesAPrefix crashes Pebble's disk before and after each sync, creation, rename and removal, keeping all, some or
// none of what was not synced. What opens then is the exact state after one of the batches: at least the last flushed, at
// most what BeforeFlush has covered (law 2).
func TestCrashLeavesAPrefix(t *testing.T) {
	mem := vfs.NewCrashableMem()
	var committed, covered, durable atomic.Uint64
	type crash struct {
		fs               *vfs.MemFS
		op               string
		durable, covered uint64
	}
	var mu sync.Mutex
	var crashes []crash
	points := 0
	rng := rand.New(rand.NewPCG(1, 2))
	watch := &watchFS{FS: mem, at: func(op, name string) {
		mu.Lock()
		defer mu.Unlock()
		points++
		for _, percent := range []int{0, 30, 70, 100} {
			d := durable.Load() // before the clone, covered after it
			fs := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
			crashes = append(crashes, crash{fs, op + " " + name, d, covered.Load()})
		}
	}}
	opts := Options{FS: watch, Dir: "index", MemoryBytes: minMemory}
	opts.BeforeFlush = func() error { covered.Store(committed.Load()); return nil }
	for range 3 { // each opening begins a new manifest
		e := mustOpen(t, opts)
		a, err := ReadApplied(e)
		must(t, err)
		b := NewBatch(e)
		for n := a.Index + 1; n <= a.Index+150; n++ {
			applyNumbered(b, n)
			must(t, b.Commit())
			committed.Store(n)
			if n%35 == 0 {
				must(t, e.Flush())
				durable.Store(n)
			}
		}
		must(t, b.Close())
		must(t, e.Close())
	}

	want := newNumberedView(t)
	seen := map[uint64]bool{}
	for i, c := range crashes {
		e, err := Open(Options{FS: c.fs, Dir: "index", MemoryBytes: minMemory})
		if err != nil {
			t.Fatalf("crash %d at %s: %v", i, c.op, err)
		}
		n := want.check(t, e)
		if n < c.durable || n > c.covered {
			t.Fatalf("crash %d at %s: the view is at batch %d; durable were %d, covered %d", i, c.op, n, c.durable, c.covered)
		}
		seen[n] = true
		must(t, e.Close())
	}
	if len(seen) < 10 || points < 200 {
		t.Fatalf("%d points with %d different states: too few to show anything", points, len(seen))
	}
	t.Logf("%d crashes at %d points left %d different states", len(crashes), points, len(seen))
}

// TestRowsCommittedDuringBeforeFlushStayOut: what BeforeFlush did not cover must not get to disk with that flush.
func TestRowsCommittedDuringBeforeFlushStayOut(t *testing.T) {
	eachEngine(t, func(t *testing.T, opts Options) {
		inside, release := make(chan struct{}), make(chan struct{})
		opts.BeforeFlush = func() error {
			inside <- struct{}{}
			<-release
			return nil
		}
		e := mustOpen(t, opts)
		commit(t, e, func(w Writer) { w.Set(userKey("a"), []byte("1")) })
		flushed := e.StartFlush()
		<-inside
		late := make(chan error, 1)
		go func() {
			w := e.NewWriter()
			defer w.Close()
			w.Set(userKey("b"), []byte("1"))
			late <- w.Commit()
		}()
		select { // the chance to slip in; an engine may also let it wait
		case err := <-late:
			late <- err
		case <-time.After(50 * time.Millisecond):
		}
		release <- struct{}{}
		must(t, <-flushed)
		must(t, <-late)
		wantRows(t, e, "a=1", "b=1")
		must(t, e.Close())
		opts.BeforeFlush = nil
		e = mustOpen(t, opts)
		wantRows(t, e, "a=1")
		must(t, e.Close())
	})
}

// TestBeforeFlushIsCalledOncePerFlush, also when the flush makes several tables.
func TestBeforeFlushIsCalledOncePerFlush(t *testing.T) {
	eachEngine(t, func(t *testing.T, opts Options) {
		var calls atomic.Int64
		opts.MemoryBytes = 64 << 20
		opts.BeforeFlush = func() error { calls.Add(1); return nil }
		e := mustOpen(t, opts)
		defer e.Close()
		rng := rand.New(rand.NewPCG(5, 6))
		val := make([]byte, 1000)
		for i := range 11_000 {
			commit(t, e, func(w Writer) {
				for j := range val {
					val[j] = byte(rng.Uint32())
				}
				w.Set(fmt.Appendf(userKey("r"), "%06d", i), val)
			})
		}
		if calls.Load() != 0 {
			t.Fatalf("%d calls before a flush was asked for", calls.Load())
		}
		must(t, e.Flush())
		if m := e.Metrics(); opts.Kind == KindPebble && m.Tables < 2 {
			t.Fatalf("%d tables: too few to show anything", m.Tables)
		}
		if calls.Load() != 1 {
			t.Fatalf("%d calls for one flush", calls.Load())
		}
	})
}

// TestRowsSurviveCompactions rewrites few rows for long enough that tables are compacted, and checks each reopening.
func TestRowsSurviveCompactions(t *testing.T) {
	eachEngine(t, func(t *testing.T, opts Options) {
		want := newNumberedView(t)
		n := uint64(0)
		for range 5 {
			e := mustOpen(t, opts)
			if got := want.check(t, e); got != n {
				t.Fatalf("at batch %d, want %d", got, n)
			}
			b := NewBatch(e)
			for range 300 {
				n++
				applyNumbered(b, n)
				must(t, b.Commit())
				if n%50 == 0 {
					must(t, e.Flush())
				}
			}
			must(t, b.Close())
			must(t, e.Close())
		}
	})
}

// The attempt to flush that fails the engine for good says that it did, whichever of the two is noticed first.
func TestAFatalAttemptIsFatal(t *testing.T) {
	for range 20 {
		e := &pebbleEngine{health: newHealth(zerolog.Nop()), attempts: make(chan error, 1), sealed: make(chan struct{})}
		e.health.fail(syscall.EIO)
		e.attempts <- syscall.EIO
		if err := e.await(nil); !errors.Is(err, ErrFailed) {
			t.Fatalf("await: %v", err)
		}
	}
}

func TestFatalErrorFailsTheEngineAndNotTheProcess(t *testing.T) {
	for _, op := range []string{"write", "sync"} {
		t.Run("manifest "+op, func(t *testing.T) {
			mem := vfs.NewMem()
			var broken atomic.Bool
			watch := &watchFS{FS: mem, fail: func(o, name string) error {
				if broken.Load() && o == op && strings.Contains(name, "MANIFEST") {
					return syscall.EIO
				}
				return nil
			}}
			opts := Options{FS: watch, Dir: "index", MemoryBytes: minMemory}
			e := mustOpen(t, opts)
			commit(t, e, func(w Writer) { w.Set(userKey("a"), []byte("1")) })
			must(t, e.Flush())
			broken.Store(true)
			commit(t, e, func(w Writer) { w.Set(userKey("b"), []byte("1")) })
			if err := e.Flush(); !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), "MANIFEST") {
				t.Fatalf("flush: %v", err)
			}
			broken.Store(false) // too late: it stays failed, and nothing is written any more
			before := listing(t, opts)
			w := e.NewWriter()
			w.Set(userKey("c"), []byte("1"))
			if err := w.Commit(); !errors.Is(err, ErrFailed) {
				t.Fatalf("commit: %v", err)
			}
			must(t, w.Close())
			if err := e.Flush(); !errors.Is(err, ErrFailed) {
				t.Fatalf("flush: %v", err)
			}
			if err := e.Checkpoint("copy"); !errors.Is(err, ErrFailed) {
				t.Fatalf("checkpoint: %v", err)
			}
			wantRows(t, e, "a=1", "b=1") // reads go on
			_ = e.Close()                // it may complain about its manifest
			if after := listing(t, opts); fmt.Sprint(before) != fmt.Sprint(after) {
				t.Fatalf("a failed engine changed its folder from %v to %v", before, after)
			}
			e = mustOpen(t, opts)
			if got := rowsOf(t, e); len(got) == 0 || got[0] != "a=1" || len(got) > 2 {
				t.Fatalf("rows after reopening: %v", got)
			}
			must(t, e.Close())
		})
	}
}

func TestFullDiskHeals(t *testing.T) {
	var full atomic.Bool
	tried := make(chan struct{}, 1)
	watch := &watchFS{FS: vfs.NewMem(), fail: func(op, name string) error {
		if full.Load() && strings.HasSuffix(name, tableSuffix) && (op == "write" || op == "sync") {
			select {
			case tried <- struct{}{}:
			default:
			}
			return &os.PathError{Op: op, Path: name, Err: syscall.ENOSPC}
		}
		return nil
	}}
	opts := Options{FS: watch, Dir: "index", MemoryBytes: minMemory}
	e := mustOpen(t, opts)
	full.Store(true)
	commit(t, e, func(w Writer) { w.Set(userKey("a"), []byte("1")) })
	if err := e.Flush(); !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrFailed) {
		t.Fatalf("flush: %v", err)
	}
	if err := e.Flush(); !errors.Is(err, syscall.ENOSPC) { // tells of the next try
		t.Fatalf("flush: %v", err)
	}
	began := time.Now()
	for range 12 { // it goes on by itself, but not in a busy loop
		<-tried
	}
	if took := time.Since(began); took < 100*time.Millisecond {
		t.Fatalf("twelve more tries within %v", took)
	}
	full.Store(false)
	for {
		err := e.Flush()
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	must(t, e.Close())
	e = mustOpen(t, opts)
	wantRows(t, e, "a=1")

	// Close does not wait for a flush that can not succeed.
	full.Store(true)
	commit(t, e, func(w Writer) { w.Set(userKey("b"), []byte("1")) })
	if err := e.Flush(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("flush: %v", err)
	}
	must(t, e.Close())
}

// lowDiskFS has free bytes left, as far as it says.
type lowDiskFS struct {
	vfs.FS
	free atomic.Uint64
}

func (l *lowDiskFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: l.free.Load(), TotalBytes: 1 << 40}, nil
}

func TestLastMegabyteIsKeptForTheManifest(t *testing.T) {
	fs := &lowDiskFS{FS: vfs.NewMem()}
	fs.free.Store(1 << 30)
	e := mustOpen(t, Options{FS: fs, Dir: "index", MemoryBytes: minMemory})
	defer e.Close()
	commit(t, e, func(w Writer) { w.Set(userKey("a"), []byte("1")) })
	fs.free.Store(minFree - 1)
	if err := e.Flush(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("flush: %v", err)
	}
	fs.free.Store(minFree)
	for e.Flush() != nil {
	}
}

func TestDamagedTableFailsTheEngine(t *testing.T) {
	mem := vfs.NewMem()
	opts := Options{FS: mem, Dir: "index", MemoryBytes: minMemory}
	e := mustOpen(t, opts)
	commit(t, e, func(w Writer) { w.Set(userKey("a"), []byte(strings.Repeat("x", 300))) })
	must(t, e.Flush())
	must(t, e.Close())
	names, err := mem.List("index")
	must(t, err)
	for _, n := range names {
		if strings.HasSuffix(n, tableSuffix) {
			f, err := mem.OpenReadWrite("index/"+n, vfs.WriteCategoryUnspecified)
			must(t, err)
			_, err = f.WriteAt([]byte("?"), 20)
			must(t, err)
			must(t, f.Close())
		}
	}
	e, err = Open(opts)
	if err == nil { // reading the format row may already have hit it
		_, _, err = e.Get(userKey("a"), nil)
		w := e.NewWriter()
		w.Set(userKey("b"), nil)
		if cerr := w.Commit(); !errors.Is(cerr, ErrFailed) {
			t.Errorf("commit: %v", cerr)
		}
		must(t, w.Close())
		must(t, e.Close())
	}
	if err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Fatalf("reading a damaged table: %v", err)
	}
}

func TestCommitWaitingForMemoryEndsWithClose(t *testing.T) {
	hold := make(chan struct{})
	started := make(chan struct{}, 100)
	opts := Options{FS: vfs.NewMem(), Dir: "index", MemoryBytes: minMemory}
	opts.BeforeFlush = func() error { started <- struct{}{}; <-hold; return nil }
	e := mustOpen(t, opts)
	done := make(chan error)
	go func() {
		w := e.NewWriter()
		defer w.Close()
		for {
			w.Reset()
			w.Set(userKey("a"), make([]byte, 10_000))
			if err := w.Commit(); err != nil {
				done <- err
				return
			}
		}
	}()
	<-started
	for e.Metrics().ForcedWaits == 0 {
		runtime.Gosched()
	}
	p := e.(*pebbleEngine)
	p.flusher.stop() // what Close does first
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Fatalf("the waiting commit: %v", err)
	}
	close(hold)
	close(p.fs.closing)
	must(t, p.db.Close())
}

// TestCloseEndsACompaction holds a compaction at its first write, closes the engine, and lets the compaction go on: it does not
// write its tables to the end. What is on disk stays right.
func TestCloseEndsACompaction(t *testing.T) {
	var compacted sync.Map // names of tables that compactions make
	var writes atomic.Int64
	held, release := make(chan struct{}, 1000), make(chan struct{})
	watch := &watchFS{FS: vfs.NewMem()}
	watch.category = func(name string, c vfs.DiskWriteCategory) {
		if c == "pebble-compaction" {
			compacted.Store(name, true)
		}
	}
	watch.fail = func(op, name string) error {
		if _, ok := compacted.Load(name); ok && op == "write" {
			writes.Add(1)
			held <- struct{}{}
			<-release
		}
		return nil
	}
	opts := Options{FS: watch, Dir: "index", MemoryBytes: 16 << 20}
	e := mustOpen(t, opts)
	rng := rand.New(rand.NewPCG(8, 9))
	n := 0
	for len(held) == 0 {
		for range 1000 {
			commit(t, e, func(w Writer) { w.Set(fmt.Appendf(userKey("r"), "%08x", rng.Uint32()), make([]byte, 100)) })
			n++
		}
		must(t, e.Flush())
	}
	closed := make(chan error)
	go func() { closed <- e.Close() }()
	<-e.(*pebbleEngine).fs.closing
	close(release)
	must(t, <-closed)
	if got := writes.Load(); got > 2 { // at most two compactions run
		t.Fatalf("%d writes of compactions", got)
	}
	opts.FS = watch.FS
	e = mustOpen(t, opts)
	if got := len(rowsOf(t, e)); got < n-10 || got > n { // a few keys may be alike
		t.Fatalf("%d rows, want %d", got, n)
	}
	must(t, e.Close())
}

// TestOpenStartsNoFlush: opening starts no flush, and no compaction that it would have to wait for.
func TestOpenStartsNoFlush(t *testing.T) {
	eachEngine(t, func(t *testing.T, opts Options) {
		var calls atomic.Int64
		opts.BeforeFlush = func() error { calls.Add(1); return nil }
		for i := range 3 {
			e := mustOpen(t, opts)
			commit(t, e, func(w Writer) { w.Set(userKey("a"), []byte("1")) })
			must(t, e.Flush())
			if m := e.Metrics(); opts.Kind == KindPebble && m.Flushes != 1 || calls.Load() != int64(i+1) {
				t.Fatalf("opening %d: %d flushes, %d calls of BeforeFlush in all", i, m.Flushes, calls.Load())
			}
			must(t, e.Close())
		}
	})
}

func TestPebbleIsConfigured(t *testing.T) {
	e := mustOpen(t, Options{FS: vfs.NewMem(), Dir: "index"}).(*pebbleEngine)
	defer e.Close()
	if got := e.db.FormatMajorVersion(); got != pebbleFormat {
		t.Errorf("format %v", got)
	}
	m := e.db.Metrics()
	if m.MemTable.Size > 512<<10 {
		t.Errorf("an idle index takes %d bytes for memtables", m.MemTable.Size)
	}
	commit(t, e, func(w Writer) { w.Set(userKey("a"), make([]byte, 1000)) })
	if m = e.db.Metrics(); m.WAL.BytesIn != 0 {
		t.Errorf("%d bytes went to Pebble's WAL", m.WAL.BytesIn)
	}
	var _ pebble.Logger = e.health
}
