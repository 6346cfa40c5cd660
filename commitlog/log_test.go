package commitlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
)

var allModes = []Mode{ModeSync, ModeInterval, ModeOS}

func TestAppendReadReopen(t *testing.T) {
	for _, mode := range allModes {
		t.Run(mode.String(), func(t *testing.T) {
			disk := newDisk(vfs.NewMem())
			opts := testOptions(disk)
			opts.Mode = mode
			l, h := start(t, opts)
			var want []string
			at := map[record.Position]string{}
			for i := range 200 { // several segments
				a, b := filler(fmt.Sprintf("a%d-", i), i*3), fmt.Sprintf("b%d", i)
				p := add(t, l, a, b)
				want = append(want, a, b)
				at[p.Positions[0]], at[p.Positions[1]] = a, b
				if len(p.Positions) != 2 || p.Timestamp == 0 {
					t.Fatalf("proposal comes back with positions %v and time %d", p.Positions, p.Timestamp)
				}
			}
			checkReads(t, l, at)
			equal(t, "committed payloads", h.payloads(), want)
			closeLog(t, l)
			if l.Durable() != l.Committed() {
				t.Fatalf("Close left %d..%d not durable", l.Durable(), l.Committed())
			}
			if n := disk.open.Load(); n != 0 {
				t.Fatalf("%d files are still open after Close", n)
			}

			l, again := start(t, opts)
			equal(t, "replayed payloads", again.payloads(), want)
			checkReads(t, l, at)
			checkChain(t, again.batches)
			add(t, l, "more")
			equal(t, "index goes on", again.last().index, uint64(201))
			closeLog(t, l)
			if n := disk.open.Load(); n != 0 {
				t.Fatalf("%d files are still open after the second Close", n)
			}
		})
	}
}

// checkReads reads each record by its position, alone and with its neighbours.
func checkReads(t *testing.T, l *Log, at map[record.Position]string) {
	t.Helper()
	var buf, raw []byte
	for pos, want := range at {
		var r record.Record
		var err error
		if r, buf, err = l.ReadAt(pos, RecordSize(len(want)), buf); err != nil || string(r.Payload) != want {
			t.Fatalf("ReadAt(%d) = %.20q, %v; want %.20q", pos, r.Payload, err, want)
		}
		if raw, err = l.ReadRaw(pos, max(5000, RecordSize(len(want))), raw); err != nil {
			t.Fatal(err)
		}
		r, n, err := ParseRecord(raw)
		if err != nil || n != RecordSize(len(want)) || string(r.Payload) != want {
			t.Fatalf("ReadRaw and ParseRecord at %d: %.20q, %d, %v", pos, r.Payload, n, err)
		}
	}
}

// checkChain checks what must hold between batches of one log.
func checkChain(t *testing.T, batches []applied) {
	t.Helper()
	for i := 1; i < len(batches); i++ {
		a, b := batches[i-1], batches[i]
		if b.index != a.index+1 || b.timestamp < a.timestamp || b.pos < a.end || b.pos%batchAlign != 0 {
			t.Fatalf("batch %+v cannot follow %+v", b, a)
		}
	}
}

// A prefetch names its bytes in their file; what is not there is no matter.
func TestPrefetch(t *testing.T) {
	d := newDisk(vfs.NewMem())
	l, h := start(t, testOptions(d))
	defer closeLog(t, l)
	for range 40 { // more than a segment
		add(t, l, strings.Repeat("x", 1000))
	}
	size := RecordSize(1000)
	last := h.last().at[0]
	l.Prefetch(last, size)
	for _, pos := range []record.Position{-8, l.Committed(), l.Committed() - 1, 1 << 60} {
		l.Prefetch(pos, size)
	}
	infos, err := l.Segments()
	if err != nil || len(infos) < 2 {
		t.Fatal(len(infos), err)
	}
	in := infos[0]
	for _, info := range infos {
		if info.Start <= last {
			in = info
		}
	}
	want := []string{fmt.Sprintf("%s %d+%d", segmentName(in.Start), last-in.Start, size)}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Equal(d.mu.fetched, want) {
		t.Errorf("fetched %q, want %q", d.mu.fetched, want)
	}
}

func TestReadOutsideTheLog(t *testing.T) {
	l, _ := start(t, testOptions(vfs.NewMem()))
	defer closeLog(t, l)
	p := add(t, l, "hello")
	pos, size := p.Positions[0], RecordSize(5)
	var corrupt *CorruptError
	for name, c := range map[string]struct {
		pos  record.Position
		size int
		want any
	}{
		"beyond the end":  {l.Committed(), 20, ErrNotFound},
		"across the end":  {pos, 500, ErrNotFound},
		"negative":        {-8, 20, ErrNotFound},
		"other size":      {pos, size + 1, &corrupt},
		"smaller size":    {pos, size - 1, &corrupt},
		"not a record":    {pos + 1, size - 1, &corrupt},
		"impossible size": {pos, 3, &corrupt},
	} {
		_, _, err := l.ReadAt(c.pos, c.size, nil)
		if is, ok := c.want.(error); ok && !errors.Is(err, is) || !ok && !errors.As(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if corrupt.Segment != segmentName(0) || corrupt.Position < pos {
		t.Errorf("the error names segment %q and position %d", corrupt.Segment, corrupt.Position)
	}
	if _, err := l.ReadRaw(l.Committed(), 10, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("ReadRaw at the end: %v", err)
	}
}

func TestTimeNeverFalls(t *testing.T) {
	now := clock.NewFake(time.UnixMilli(5000))
	opts := testOptions(vfs.NewMem())
	opts.Clock = now
	l, h := start(t, opts)
	add(t, l, "a")
	now.Advance(-3 * time.Second)
	add(t, l, "b")
	now.Advance(10 * time.Second)
	add(t, l, "c")
	now.Advance(-10 * time.Second)
	closeLog(t, l)
	l, h2 := start(t, opts)
	add(t, l, "d")
	closeLog(t, l)
	var times []int64
	for _, b := range append(h.batches, h2.last()) {
		times = append(times, b.timestamp)
	}
	equal(t, "timestamps", times, []int64{5000, 5000, 12000, 12000})
}

// TestProposalsOfAnotherTime: a batch has the time that its proposals ask for, and no proposals of another time.
func TestProposalsOfAnotherTime(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	opts.Clock = clock.NewFake(time.UnixMilli(9000))
	g := newGate()
	opts.OnCommit = g.onCommit
	l, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Replay(0, func(*Batch) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := l.Start(); err != nil {
		t.Fatal(err)
	}
	var times [7]int64
	var all sync.WaitGroup
	for i, at := range []int64{3000, 3000, 4000, 4000, 3500, 0, 7000} {
		all.Add(1)
		p := &Proposal{Records: records("x"), At: at, Done: func(p *Proposal) { times[i] = p.Timestamp; all.Done() }}
		if err := l.Propose(p); err != nil {
			t.Fatal(err)
		}
	}
	close(g.open)
	all.Wait()
	closeLog(t, l)
	equal(t, "times", times, [7]int64{3000, 3000, 4000, 4000, 4000, 9000, 9000})
}

func TestSealPatchesInLogOrder(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	var last record.Position
	opts.Seal = func(ts int64, pos record.Position, r *record.Record) {
		if pos <= last || ts == 0 {
			t.Errorf("Seal at %d after %d, time %d", pos, last, ts)
		}
		last = pos
		copy(r.Payload, fmt.Sprintf("%08d", pos))
	}
	l, h := start(t, opts)
	p := add(t, l, "xxxxxxxx", "yyyyyyyy")
	closeLog(t, l)
	want := []string{fmt.Sprintf("%08d", p.Positions[0]), fmt.Sprintf("%08d", p.Positions[1])}
	equal(t, "committed", h.payloads(), want)
	_, h, err := replay(opts)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "on disk", h.payloads(), want)
}

// gate lets a test hold OnCommit back.
type gate struct {
	history
	entered chan struct{}
	open    chan struct{}
}

func newGate() *gate { return &gate{entered: make(chan struct{}, 1000), open: make(chan struct{})} }

func (g *gate) onCommit(b *Batch) {
	g.entered <- struct{}{}
	<-g.open
	g.history.onCommit(b)
}

// While a batch is applied, what is proposed comes together, and a batch is closed at MaxBatchBytes.
func TestProposalsComeTogether(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	opts.MaxBatchBytes = 1000
	opts.Mode = ModeOS
	g := newGate()
	opts.OnCommit = g.onCommit
	l, _ := start(t, opts)
	var all []promise
	propose := func(payload string) {
		p := newPromise(payload)
		all = append(all, p)
		if err := l.Propose(p.Proposal); err != nil {
			t.Fatal(err)
		}
	}
	propose("first")
	<-g.entered // the committer is busy with it
	propose("second")
	eventually(t, "the second batch waits behind the first", func() bool { return l.Stats().Batches == 2 })
	for i := range 30 { // 129 bytes each: 7 to a batch
		propose(filler(fmt.Sprint(i, "-"), 120))
	}
	propose(filler("large", 3000))
	propose("last")
	close(g.open)
	for _, p := range all {
		if err := p.wait(t); err != nil {
			t.Fatal(err)
		}
	}
	closeLog(t, l)
	var sizes []int
	for _, b := range g.batches {
		sizes = append(sizes, len(b.payloads))
	}
	equal(t, "records per batch", sizes, []int{1, 1, 7, 7, 7, 7, 2, 1, 1})
}

// In sync mode nothing is written beside a sync unless a good deal waits.
func TestWritesAheadOfASync(t *testing.T) {
	mem := newDisk(vfs.NewMem())
	opts := testOptions(mem)
	opts.SegmentSize = 1 << 20
	hold, held := make(chan struct{}), make(chan struct{}, 1)
	var armed atomic.Bool
	mem.before(func(op change, name string) error {
		if op == opSync && armed.CompareAndSwap(true, false) {
			held <- struct{}{}
			<-hold
		}
		return nil
	})
	l, _ := start(t, opts)
	waitForLead(t, l)
	armed.Store(true)
	first := newPromise("first")
	if err := l.Propose(first.Proposal); err != nil {
		t.Fatal(err)
	}
	<-held
	small := newPromise("small")
	large := newPromise(filler("large", writeAhead))
	if err := l.Propose(small.Proposal); err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	early := l.worthWritingLocked()
	l.mu.Unlock()
	if n := l.Stats().Batches; n != 1 || early {
		t.Fatalf("%d batches written while the first one is synced, want 1; another is to be written: %v", n, early)
	}
	if err := l.Propose(large.Proposal); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a large batch is written beside the sync", func() bool { return l.Stats().Batches == 2 })
	if l.Committed() != 0 {
		t.Fatal("committed before the sync ended")
	}
	close(hold)
	for _, p := range []promise{first, small, large} {
		if err := p.wait(t); err != nil {
			t.Fatal(err)
		}
	}
	closeLog(t, l)
}

// waitForLead waits until the preparer has nothing to do.
func waitForLead(t testing.TB, l *Log) {
	t.Helper()
	eventually(t, "the lead is filled", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		a, n := l.mu.active, l.mu.next
		if n == nil || l.opts.Mode != ModeSync {
			return n != nil
		}
		return l.aheadLocked(l.mu.written) >= l.opts.lead() || a.filled == a.capacity() && n.filled == n.capacity()
	})
	// The channel holds one token, and the preparer takes it between two pieces of work.
	for range 2 {
		l.prepare <- struct{}{}
	}
}

func TestBounds(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	opts.MaxPending = 1000
	g := newGate()
	opts.OnCommit = g.onCommit
	l, _ := start(t, opts)
	if err := l.Propose(newPromise(filler("", 1000)).Proposal); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("a proposal beyond MaxPending: %v", err)
	}
	a, b := newPromise(filler("a", 500)), newPromise(filler("b", 473)) // 509 + 482 bytes
	for _, p := range []promise{a, b} {
		if err := l.Propose(p.Proposal); err != nil {
			t.Fatal(err)
		}
	}
	c := newPromise("c") // 10 bytes, one too many
	if err := l.Propose(c.Proposal); !errors.Is(err, ErrBusy) {
		t.Fatalf("a proposal beyond the bound: %v", err)
	}
	close(g.open)
	for _, p := range []promise{a, b} {
		if err := p.wait(t); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the bytes are given back", func() bool { return !errors.Is(l.Propose(c.Proposal), ErrBusy) })
	if err := c.wait(t); err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	if l.mu.pending != 0 || l.mu.inFlight != 0 || l.mu.queue.bytes != 0 {
		t.Fatalf("left over: %d bytes pending, %d batches, %d bytes queued", l.mu.pending, l.mu.inFlight, l.mu.queue.bytes)
	}
}

// An OnCommit that does not come back stops the log from taking batches; nothing grows without bound.
func TestHandOverIsBounded(t *testing.T) {
	for _, mode := range allModes {
		opts := testOptions(vfs.NewMem())
		opts.Mode, opts.MaxBatchBytes = mode, 1
		g := newGate()
		opts.OnCommit = g.onCommit
		l, _ := start(t, opts)
		for range 200 {
			if err := l.Propose(newPromise(filler("", writeAhead)).Proposal); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "the hand-over is full", func() bool { return l.Stats().Batches == handOver })
		close(g.open)
		closeLog(t, l)
		equal(t, "batches applied", len(g.batches), 200)
	}
}

// A batch larger than a segment gets a segment of its own size; the next one goes on behind it.
func TestBatchLargerThanASegment(t *testing.T) {
	for _, mode := range allModes {
		opts := testOptions(vfs.NewMem())
		opts.SegmentSize, opts.Mode = 4096, mode
		l, _ := start(t, opts)
		var want []string
		at := map[record.Position]string{}
		for _, n := range []int{100, 5000, 100, 20000, 9000, 4096 - batchHeader - recordHead, 4096 - batchHeader - recordHead, 10} {
			s := filler(fmt.Sprint(n, "-"), n)
			want = append(want, s)
			at[add(t, l, s).Positions[0]] = s
		}
		checkReads(t, l, at)
		closeLog(t, l)
		l, h := start(t, opts)
		equal(t, "replayed", h.payloads(), want)
		checkReads(t, l, at)
		closeLog(t, l)
	}
}

func TestEmptyProposal(t *testing.T) {
	l, h := start(t, testOptions(vfs.NewMem()))
	p := add(t, l)
	if len(p.Positions) != 0 || p.Timestamp == 0 {
		t.Fatalf("%+v", p)
	}
	add(t, l, "x", "")
	closeLog(t, l)
	_, again, err := replay(testOptions(l.opts.FS))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "batches", again.batches, h.batches)
}

func TestSync(t *testing.T) {
	mem := vfs.NewCrashableMem()
	opts := testOptions(mem)
	opts.Mode = ModeOS
	l, h := start(t, opts)
	if err := l.Sync(); err != nil {
		t.Fatalf("Sync of an empty log: %v", err)
	}
	add(t, l, "a")
	if l.Durable() != 0 {
		t.Fatal("mode os has synced by itself")
	}
	if err := l.Sync(); err != nil || l.Durable() != l.Committed() {
		t.Fatalf("after Sync: %v, durable %d of %d", err, l.Durable(), l.Committed())
	}
	syncs := l.Stats().Syncs
	if err := l.Sync(); err != nil || l.Stats().Syncs != syncs {
		t.Fatalf("Sync of what is durable: %v, %d more syncs", err, l.Stats().Syncs-syncs)
	}
	_, survived, err := replay(testOptions(crash(mem, 0, 0)))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "survived", survived.payloads(), h.payloads())
	closeLog(t, l)
}

// The folder flushes the view from within OnCommit, and syncs the log before.
func TestSyncWithinOnCommit(t *testing.T) {
	for _, mode := range allModes {
		opts := testOptions(vfs.NewMem())
		opts.Mode = mode
		var l *Log
		var h history
		opts.OnCommit = func(b *Batch) {
			if err := l.Sync(); err != nil || l.Durable() < b.End {
				t.Errorf("%v: Sync within OnCommit: %v, durable %d, batch ends at %d", mode, err, l.Durable(), b.End)
			}
			h.onCommit(b)
		}
		l, _ = start(t, opts)
		for i := range 20 {
			add(t, l, fmt.Sprint(i))
		}
		closeLog(t, l)
	}
}

func TestIntervalSyncsByTheClock(t *testing.T) {
	now := clock.NewFake(time.UnixMilli(1))
	opts := testOptions(vfs.NewMem())
	opts.Mode, opts.Clock = ModeInterval, now
	l, _ := start(t, opts)
	add(t, l, "a")
	if l.Durable() != 0 {
		t.Fatal("synced before the interval was over")
	}
	eventually(t, "the interval's sync", func() bool {
		now.Advance(opts.Interval + 200*time.Millisecond)
		return l.Durable() == l.Committed()
	})
	closeLog(t, l)
}

// In the modes without a sync for each batch, a full segment is synced.
func TestRollSyncs(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	opts.Mode = ModeOS
	l, _ := start(t, opts)
	for l.Committed() < 17<<10 {
		add(t, l, filler("", 1000))
	}
	eventually(t, "the full segment is durable", func() bool { return l.Durable() >= 16<<10-1100 })
	closeLog(t, l)
}

func TestCloseCommitsWhatWasProposed(t *testing.T) {
	for _, mode := range allModes {
		opts := testOptions(vfs.NewMem())
		opts.Mode = mode
		l, h := start(t, opts)
		var all []promise
		for i := range 500 {
			p := newPromise(filler(fmt.Sprint(i, "-"), 200))
			if err := l.Propose(p.Proposal); err != nil {
				t.Fatal(err)
			}
			all = append(all, p)
		}
		closeLog(t, l)
		for _, p := range all {
			if err := p.wait(t); err != nil {
				t.Fatalf("%v: %v", mode, err)
			}
		}
		equal(t, "applied", len(h.payloads()), 500)
		if err := l.Propose(newPromise("late").Proposal); !errors.Is(err, ErrClosed) {
			t.Fatalf("Propose after Close: %v", err)
		}
		if _, _, err := l.ReadAt(0, 20, nil); !errors.Is(err, ErrClosed) {
			t.Fatalf("ReadAt after Close: %v", err)
		}
		closeLog(t, l) // does nothing
	}
}

func TestOrderOfCalls(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	l, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	if l.Start() == nil {
		t.Error("Start before Replay")
	}
	if err := l.Propose(newPromise("x").Proposal); !errors.Is(err, ErrClosed) {
		t.Errorf("Propose before Start: %v", err)
	}
	nop := func(*Batch) error { return nil }
	if err := l.Replay(0, nop); err != nil {
		t.Fatal(err)
	}
	if l.Replay(0, nop) == nil {
		t.Error("second Replay")
	}
	closeLog(t, l)
	if l.Start() == nil {
		t.Error("Start after Close")
	}
	for name, bad := range map[string]Options{
		"no directory": {FS: opts.FS}, "mode": {FS: opts.FS, Dir: "/x", Mode: 9}, "negative": {FS: opts.FS, Dir: "/x", MaxPending: -1},
	} {
		if _, err := Open(bad); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

func TestAppendGivesUpWaiting(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	g := newGate()
	opts.OnCommit = g.onCommit
	l, _ := start(t, opts)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-g.entered; cancel() }()
	if _, err := l.Append(ctx, records("x")); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
	close(g.open)
	closeLog(t, l)
	equal(t, "applied all the same", g.payloads(), []string{"x"})
}

// Whoever proposes concurrently sees own proposals in own order, and everybody's exactly once.
func TestConcurrentProposers(t *testing.T) {
	for _, mode := range allModes {
		opts := testOptions(vfs.NewMem())
		opts.Mode, opts.SegmentSize = mode, 64<<10
		l, h := start(t, opts)
		const proposers, each = 8, 200
		var wg sync.WaitGroup
		for i := range proposers {
			wg.Go(func() {
				for n := range each {
					payload := filler(fmt.Sprintf("%d/%04d ", i, n), 10+n%300)
					p, err := l.Append(context.Background(), records(payload))
					if err != nil {
						t.Error(err)
						return
					}
					r, _, err := l.ReadAt(p.Positions[0], RecordSize(len(payload)), nil)
					if err != nil || string(r.Payload) != payload {
						t.Errorf("read back %.20q, %v", r.Payload, err)
					}
				}
			})
		}
		wg.Wait()
		closeLog(t, l)
		perProposer := make([][]string, proposers)
		for _, p := range h.payloads() {
			perProposer[p[0]-'0'] = append(perProposer[p[0]-'0'], p)
		}
		for i, got := range perProposer {
			if len(got) != each || !slices.IsSorted(got) || len(slices.Compact(got)) != each {
				t.Fatalf("%v: proposer %d has %d records, in order: %v", mode, i, len(got), slices.IsSorted(got))
			}
		}
		checkChain(t, h.batches)
	}
}

// The buffers of a batch are used again; what was handed to proposers is not.
func TestPositionsOutliveTheirBatch(t *testing.T) {
	l, h := start(t, testOptions(vfs.NewMem()))
	var got, want []record.Position
	var all []*Proposal
	for range 50 {
		all = append(all, add(t, l, "x", "y"))
	}
	closeLog(t, l)
	for i, p := range all {
		got = append(got, p.Positions...)
		want = append(want, h.batches[i].at...)
	}
	equal(t, "positions", got, want)
}

// What a batch pointed to is let go when it was applied, though the batch is used again.
func TestPayloadsAreLetGo(t *testing.T) {
	l, _ := start(t, testOptions(vfs.NewMem()))
	payload := make([]byte, 1<<16)
	held := weak.Make(&payload[0])
	if _, err := l.Append(context.Background(), []record.Record{{Kind: 1, Payload: payload}}); err != nil {
		t.Fatal(err)
	}
	payload = nil
	eventually(t, "the payload is freed", func() bool { runtime.GC(); return held.Value() == nil })
	closeLog(t, l)
}

func TestQueue(t *testing.T) {
	var q queue
	var got, want []int
	next := 0
	for round := range 300 {
		for range round % 7 {
			q.push(&Proposal{size: next})
			want = append(want, next)
			next++
		}
		if q.len() > 0 {
			ps, bytes := q.take(next*(round%4), nil)
			sum := 0
			for _, p := range ps {
				got = append(got, p.size)
				sum += p.size
			}
			if bytes != sum || len(ps) == 0 {
				t.Fatalf("took %d proposals, %d bytes, said %d", len(ps), sum, bytes)
			}
		}
	}
	rest, _ := q.take(1<<40, nil)
	for _, p := range rest {
		got = append(got, p.size)
	}
	equal(t, "order", got, want)
	if q.bytes != 0 || q.len() != 0 {
		t.Fatalf("left: %d bytes, %d proposals", q.bytes, q.len())
	}
}

// An idle log is small on disk, and the zeros ahead of its tail are there.
func TestIdleLogIsSmall(t *testing.T) {
	opts := Options{FS: vfs.Default, Dir: t.TempDir()}
	l, _ := start(t, opts)
	add(t, l, "x")
	waitForLead(t, l)
	closeLog(t, l)
	spans, err := listSpans(opts.FS, opts.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var total int64
	for _, s := range spans {
		total += s.size
	}
	if total < fillLead || total > fillLead+fillSlice {
		t.Fatalf("an idle log takes %d bytes on disk, want about %d", total, fillLead)
	}
	f, err := opts.FS.Open(opts.FS.PathJoin(opts.Dir, segmentName(0)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 4096)
	if _, err := f.ReadAt(b, fillLead/2); err != nil || !bytes.Equal(b, zeros[:4096]) {
		t.Fatalf("the lead is not zeros: %v", err)
	}
}
