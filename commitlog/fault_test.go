package commitlog

import (
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/cairnmq/cairn/internal/clock"
)

// A full disk refuses, keeps what was acknowledged, and takes writes again when there is room.
func TestDiskFullAndHealing(t *testing.T) {
	for _, mode := range allModes {
		for _, byPropose := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v/propose=%v", mode, byPropose), func(t *testing.T) {
				mem := vfs.NewCrashableMem()
				d := newDisk(mem)
				now := clock.NewFake(time.UnixMilli(1000))
				opts := testOptions(d)
				opts.Mode, opts.Clock = mode, now
				l, h := start(t, opts)
				var acked []string
				for round := range 3 {
					waitForLead(t, l)
					d.limit(int64(5000 + 1000*round))
					acked = append(acked, fillDisk(t, l, round)...)
					equal(t, "state", l.State(), ErrDiskFull)
					if err := l.Propose(newPromise("refused").Proposal); !errors.Is(err, ErrDiskFull) {
						t.Fatalf("Propose to a full disk: %v", err)
					}
					// No room yet: it stays read-only however often it is tried.
					now.Advance(probeEvery)
					waitForProbe(t, l, now)
					equal(t, "state", l.State(), ErrDiskFull)

					d.limit(-1)
					eventually(t, "the log takes writes again", func() bool {
						if byPropose {
							now.Advance(probeGap)
							return l.Propose(newPromise("healed").Proposal) == nil
						}
						now.Advance(probeEvery / 10)
						return l.State() == nil
					})
					if byPropose {
						acked = append(acked, "healed")
					}
					acked = append(acked, fmt.Sprint("after ", round))
					add(t, l, fmt.Sprint("after ", round))
					if l.State() != nil {
						t.Fatalf("state after healing: %v", l.State())
					}
				}
				equal(t, "committed", h.payloads(), acked)
				eventually(t, "all bytes are given back", func() bool {
					l.mu.Lock()
					defer l.mu.Unlock()
					return l.mu.pending == 0
				})
				survived := crash(mem, 100, 0)
				closeLog(t, l)
				for _, disk := range []*vfs.MemFS{mem, survived} {
					l, again, err := replay(testOptions(disk))
					if err != nil {
						t.Fatal(err)
					}
					equal(t, "replayed", again.payloads(), acked)
					if l.Recovery().Cut != 0 {
						t.Fatalf("%d bytes of what a full disk cut short were left", l.Recovery().Cut)
					}
				}
			})
		}
	}
}

// fillDisk appends until the disk is full and returns what was committed. Records are filled with zeros, so that a batch of
// which only the front was written looks whole where zeros follow.
func fillDisk(t *testing.T, l *Log, round int) (acked []string) {
	t.Helper()
	for i := 0; ; i++ {
		payload := fmt.Sprintf("%d/%d ", round, i) + string(make([]byte, 700))
		p := newPromise(payload)
		err := l.Propose(p.Proposal)
		if err == nil {
			err = p.wait(t)
		}
		if errors.Is(err, ErrDiskFull) {
			return acked
		}
		if err != nil {
			t.Fatal(err)
		}
		acked = append(acked, payload)
	}
}

// waitForProbe waits until the preparer has looked for room at the time that the clock shows.
func waitForProbe(t *testing.T, l *Log, now *clock.Fake) {
	t.Helper()
	eventually(t, "a probe", func() bool {
		now.Advance(probeEvery)
		at := now.Now().UnixMilli()
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.mu.probed >= at-probeEvery.Milliseconds()
	})
}

// A batch that did not fit was refused. It must not come back after a crash, though all its bytes but zeros may be there.
func TestRefusedBatchDoesNotComeBack(t *testing.T) {
	mem := vfs.NewCrashableMem()
	d := newDisk(mem)
	opts := testOptions(d)
	opts.Mode = ModeOS
	l, _ := start(t, opts)
	waitForLead(t, l)
	add(t, l, "first")
	d.limit(2000)
	p := newPromise("refused" + string(make([]byte, 3000)))
	if err := l.Propose(p.Proposal); err != nil {
		t.Fatal(err)
	}
	if err := p.wait(t); !errors.Is(err, ErrDiskFull) {
		t.Fatal(err)
	}
	// The file grows by zeros later, which completes what the front announced.
	survived := crash(mem, 100, 0)
	f, err := survived.OpenReadWrite(testDir+"/"+segmentName(0), vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0}, 8000); err != nil {
		t.Fatal(err)
	}
	f.Close()
	_, h, err := replay(testOptions(survived))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "replayed", h.payloads(), []string{"first"})
	closeLog(t, l)
}

// A log on a full disk can be opened and read, and heals.
func TestStartOnAFullDisk(t *testing.T) {
	for _, mode := range allModes {
		mem, all := written(t, mode, 30)
		d := newDisk(mem)
		d.limit(0)
		opts := testOptions(d)
		now := clock.NewFake(time.UnixMilli(1000))
		opts.Mode, opts.Clock = mode, now
		l, h := start(t, opts)
		equal(t, "replayed", h.batches, all)
		fillDisk(t, l, 0)
		d.limit(-1)
		eventually(t, "room", func() bool { now.Advance(probeEvery); return l.State() == nil })
		add(t, l, "x")
		closeLog(t, l)
	}
}

var errDisk = &fsError{}

type fsError struct{}

func (*fsError) Error() string { return "the disk is broken" }
func (*fsError) Unwrap() error { return syscall.EIO }

// The n-th write or sync fails: the log stops, says why, writes nothing more, and keeps what it had acknowledged.
func TestFailStop(t *testing.T) {
	for _, mode := range allModes {
		for _, op := range []change{opWrite, opSync, opCreate, opSyncDir} {
			for n := range 25 {
				failStop(t, mode, op, n)
			}
		}
	}
}

func failStop(t *testing.T, mode Mode, op change, n int) {
	t.Helper()
	what := fmt.Sprintf("%v, %s %d", mode, op, n)
	mem := vfs.NewCrashableMem()
	d := newDisk(mem)
	opts := testOptions(d)
	opts.Mode, opts.Interval = mode, time.Millisecond
	l, h := start(t, opts)
	var seen, after atomic.Int64
	var failed atomic.Bool
	d.before(func(o change, name string) error {
		if o == opSync && l.State() != nil {
			after.Add(1)
		}
		if o == op && seen.Add(1) == int64(n+1) {
			failed.Store(true)
			return errDisk
		}
		return nil
	})
	var acked []string
	var err error
	for i := 0; err == nil && i < 400; i++ {
		payload := filler(fmt.Sprint(i, " "), 1000)
		p := newPromise(payload)
		if err = l.Propose(p.Proposal); err == nil {
			err = p.wait(t)
		}
		if err == nil {
			acked = append(acked, payload)
		}
	}
	if !failed.Load() { // this run does fewer of these operations
		if err != nil {
			t.Fatalf("%s: never failed, and yet: %v", what, err)
		}
		if err := l.Close(); err != nil && !failed.Load() { // what Close does may be the one that fails
			t.Fatalf("%s: Close: %v", what, err)
		}
		return
	}
	for _, e := range []error{err, l.State(), l.Propose(newPromise("late").Proposal)} {
		if !errors.Is(e, ErrFailed) || !errors.Is(e, errDisk) || !errors.Is(e, syscall.EIO) {
			t.Fatalf("%s: %v, want ErrFailed and its cause", what, e)
		}
	}
	if err := l.Sync(); l.Durable() < l.Committed() && !errors.Is(err, ErrFailed) {
		t.Fatalf("%s: Sync: %v", what, err)
	}
	equal(t, what+": applied", h.payloads(), acked)
	// What is committed can still be read.
	if b := h.batches; len(b) > 0 {
		if _, _, err := l.ReadAt(b[0].at[0], RecordSize(len(b[0].payloads[0])), nil); err != nil {
			t.Fatalf("%s: read after the failure: %v", what, err)
		}
	}
	if err := l.Close(); !errors.Is(err, ErrFailed) {
		t.Fatalf("%s: Close: %v", what, err)
	}
	// When the preparer's sync fails, the syncer may be on its way to those of a round. Nothing is tried again after that.
	if n := after.Load(); op == opSync && n > 2 {
		t.Fatalf("%s: %d syncs after the failure", what, n)
	}
	if d.open.Load() != 0 {
		t.Fatalf("%s: %d files left open", what, d.open.Load())
	}
	d.hook.Store(nil)
	for _, disk := range []*vfs.MemFS{mem, crash(mem, 0, 0)} {
		if disk != mem && mode != ModeSync {
			continue
		}
		_, again, err := replay(testOptions(disk))
		if err != nil {
			t.Fatalf("%s: replay: %v", what, err)
		}
		if got := again.payloads(); len(got) < len(acked) || fmt.Sprint(got[:len(acked)]) != fmt.Sprint(acked) {
			t.Fatalf("%s: %d of %d acknowledged records are left", what, len(got), len(acked))
		}
	}
}

// Everybody who waits when the log fails is told, once.
func TestFailureReachesEverybody(t *testing.T) {
	d := newDisk(vfs.NewMem())
	opts := testOptions(d)
	l, h := start(t, opts)
	waitForLead(t, l)
	hold := make(chan struct{})
	d.before(func(op change, name string) error {
		if op == opSync {
			<-hold
			return errDisk
		}
		return nil
	})
	var all []promise
	for i := range 100 {
		p := newPromise(filler(fmt.Sprint(i), 3000)) // some are written beside the sync, the rest is queued
		if err := l.Propose(p.Proposal); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	close(hold)
	for _, p := range all {
		if err := p.wait(t); !errors.Is(err, ErrFailed) || p.Positions != nil {
			t.Fatalf("%v, positions %v", err, p.Positions)
		}
	}
	if err := l.Close(); !errors.Is(err, errDisk) {
		t.Fatal(err)
	}
	equal(t, "applied", len(h.batches), 0)
	equal(t, "durable", l.Durable(), 0)
}

// A full disk at a sync is a failure, not a pause: nobody knows what was lost.
func TestNoSpaceAtASyncIsFailure(t *testing.T) {
	d := newDisk(vfs.NewMem())
	l, _ := start(t, testOptions(d))
	waitForLead(t, l)
	d.before(func(op change, name string) error {
		if op == opSync {
			return syscall.ENOSPC
		}
		return nil
	})
	p := newPromise("x")
	if err := l.Propose(p.Proposal); err != nil {
		t.Fatal(err)
	}
	if err := p.wait(t); !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if err := l.Close(); !errors.Is(err, ErrFailed) {
		t.Fatal(err)
	}
}

// Close does not wait for room.
func TestCloseOnAFullDisk(t *testing.T) {
	for _, mode := range allModes {
		d := newDisk(vfs.NewMem())
		opts := testOptions(d)
		opts.Mode, opts.Clock = mode, clock.NewFake(time.UnixMilli(1))
		l, h := start(t, opts)
		waitForLead(t, l)
		d.limit(3000)
		acked := fillDisk(t, l, 0)
		closeLog(t, l)
		equal(t, "applied", h.payloads(), acked)
	}
}
