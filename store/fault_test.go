package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// flip inverts a bit of a file.
func flip(t *testing.T, fs vfs.FS, path string, at int64) {
	t.Helper()
	f, err := fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func isCorruptAt(err error, low, high record.Position) bool {
	var c *commitlog.CorruptError
	return errors.As(err, &c) && c.Position >= low && c.Position <= high && c.Segment != ""
}

func TestAFlippedBitIsReportedWithItsPosition(t *testing.T) {
	p := newPlace(t)
	o := testOptions(p, clock.NewFake(epoch))
	s := mustOpen(t, o)
	topic := putTopic(t, s, "a")
	for i := range 50 {
		send(t, s, note{topic: topic, body: fmt.Sprintf("body %02d", i), id: fmt.Sprint(i)})
	}
	entries, err := s.Entries(topic, 0, 0, 50, nil)
	if err != nil {
		t.Fatal(err)
	}
	segments, err := s.log.Segments()
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	bad := entries[20]
	flip(t, p.fs, p.fs.PathJoin(o.path(logFolder), segments[0].Name), int64(bad.Position-segments[0].Start)+int64(bad.Size)-20)

	// The view covers it, so the start does not look there; whoever reads it does, and gets what comes before it.
	s = mustOpen(t, o)
	buf := NewBuffer()
	ends, err := s.ReadMessages(entries, 1<<20, buf)
	if err != nil || len(ends) != 20 {
		t.Fatalf("%d messages, %v", len(ends), err)
	}
	if _, err := s.ReadMessages(entries[20:], 1<<20, buf); !isCorruptAt(err, bad.Position, bad.Position) {
		t.Fatalf("reading the damaged message: %v", err)
	}
	if _, err := s.ReadByPosition(bad.Position, buf); !isCorruptAt(err, bad.Position, bad.Position) {
		t.Fatalf("reading it by position: %v", err)
	}
	if _, err := s.Query(topic, kvindex.IndexUniqueID, "20", 0, 1<<60, 9, buf); !isCorruptAt(err, bad.Position, bad.Position) {
		t.Fatalf("querying it: %v", err)
	}
	buf.Release()
	if err := s.Verify(context.Background()); !isCorruptAt(err, bad.Position-200, bad.Position) {
		t.Fatalf("verify: %v", err)
	}
	if got := bodies(readAll(t, s, topic, 0, 21, 100)); len(got) != 29 {
		t.Fatalf("%d messages behind it", len(got))
	}
	mustClose(t, s)

	// Without the view the start must read it, and says where it stopped.
	if err := p.fs.RemoveAll(o.path(indexFolder)); err != nil {
		t.Fatal(err)
	}
	if _, err := open(context.Background(), o, noFolds); !isCorruptAt(err, bad.Position-200, bad.Position) {
		t.Fatalf("open: %v", err)
	}
}

// faults is a disk whose operations fail as told.
type faults struct {
	mem  *vfs.MemFS
	fail atomic.Pointer[func(errorfs.Op) error]
}

func newFaults() *faults { return &faults{mem: vfs.NewCrashableMem()} }

func (f *faults) fs() vfs.FS {
	return errorfs.Wrap(f.mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if fail := f.fail.Load(); fail != nil {
			return (*fail)(op)
		}
		return nil
	}))
}

func (f *faults) set(fail func(errorfs.Op) error) { f.fail.Store(&fail) }
func (f *faults) clear()                          { f.fail.Store(nil) }

// takesRoom are the operations that fail when a disk is full. Log segments are left alone unless they grow: their
// prepared room is there.
func takesRoom(op errorfs.Op) bool {
	switch op.Kind {
	case errorfs.OpCreate, errorfs.OpFileWrite, errorfs.OpFilePreallocate, errorfs.OpMkdirAll, errorfs.OpLink:
		return true
	case errorfs.OpFileWriteAt:
		return strings.Contains(op.Path, logFolder)
	}
	return false
}

// eventually polls until f is true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not in time: %s", what)
		}
	}
}

func TestAFullDiskMakesItReadOnlyUntilThereIsRoom(t *testing.T) {
	skipWithoutMemory(t)
	f := newFaults()
	c := clock.NewFake(epoch)
	o := testOptions(place{f.fs(), "data"}, c)
	o.SegmentSize = 64 << 10
	s := mustOpen(t, o)
	topic := putTopic(t, s, "a")
	send(t, s, note{topic: topic, body: "before"})
	f.set(func(op errorfs.Op) error {
		if takesRoom(op) {
			return syscall.ENOSPC
		}
		return nil
	})
	n := note{topic: topic, body: strings.Repeat("x", 2000)}
	acked := 1
	var err error
	for range 200 {
		if _, err = s.Append(context.Background(), n.record(t)); err != nil {
			break
		}
		acked++
	}
	if !errors.Is(err, commitlog.ErrDiskFull) {
		t.Fatalf("%d accepted, then %v", acked, err)
	}
	if err := s.Health(); !errors.Is(err, commitlog.ErrDiskFull) {
		t.Fatalf("health %v", err)
	}
	if got := readAll(t, s, topic, 0, 0, 1000); len(got) != acked {
		t.Fatalf("%d of %d messages can be read", len(got), acked)
	}
	mustVerify(t, s)
	f.clear()
	eventually(t, "writes are accepted again", func() bool {
		c.Advance(time.Second)
		return s.Health() == nil
	})
	if out := send(t, s, note{topic: topic, body: "after"}); out[0].Offset != int64(acked) {
		t.Fatalf("outcome %+v after %d messages", out[0], acked)
	}
	mustVerify(t, s)
	mustClose(t, s)
	s = mustOpen(t, o)
	if got := bodies(readAll(t, s, topic, 0, 0, 1000)); len(got) != acked+1 || got[acked] != "after" {
		t.Fatalf("%d messages after a restart, want %d", len(got), acked+1)
	}
	mustClose(t, s)
}

func TestAFailedSyncOfTheLogStopsIt(t *testing.T) {
	skipWithoutMemory(t)
	f := newFaults()
	o := testOptions(place{f.fs(), "data"}, clock.NewFake(epoch))
	s := mustOpen(t, o)
	topic := putTopic(t, s, "a")
	send(t, s, note{topic: topic, body: "before"})
	f.set(func(op errorfs.Op) error {
		sync := op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo
		if sync && strings.Contains(op.Path, logFolder) {
			return syscall.EIO
		}
		return nil
	})
	n := note{topic: topic, body: "lost"}
	if _, err := s.Append(context.Background(), n.record(t)); !errors.Is(err, commitlog.ErrFailed) || !errors.Is(err, syscall.EIO) {
		t.Fatalf("append: %v", err)
	}
	f.clear() // too late: what the disk holds is not known
	if _, err := s.Append(context.Background(), n.record(t)); !errors.Is(err, commitlog.ErrFailed) {
		t.Fatalf("second append: %v", err)
	}
	if err := s.Health(); !errors.Is(err, commitlog.ErrFailed) || errors.Is(err, ErrViewFailed) {
		t.Fatalf("health %v", err)
	}
	if got := bodies(readAll(t, s, topic, 0, 0, 10)); !slices.Equal(got, []string{"before"}) {
		t.Fatalf("read %q", got)
	}
	if err := s.Close(); !errors.Is(err, commitlog.ErrFailed) {
		t.Fatalf("close: %v", err)
	}
	s = mustOpen(t, o)
	if got := bodies(readAll(t, s, topic, 0, 0, 10)); len(got) == 0 || got[0] != "before" || len(got) > 2 {
		t.Fatalf("read %q after a restart", got)
	}
	mustVerify(t, s)
	mustClose(t, s)
}

// heldUp is a store whose index cannot be flushed any more for lack of room, and has taken all rows that memory may hold:
// the folder waits. It returns how many messages were proposed; outcome is called with the error of each proposal.
func heldUp(t *testing.T, f *faults, c clock.Clock, outcome func(error)) (s *Store, topic kvindex.ID, sent int64) {
	t.Helper()
	o := testOptions(place{f.fs(), "data"}, c)
	o.CacheBytes = 1 << 20 // a quarter of it may stay unflushed
	o.SegmentSize = 64 << 20
	s = mustOpen(t, o)
	topic = putTopic(t, s, "a")
	f.set(func(op errorfs.Op) error {
		if takesRoom(op) && strings.Contains(op.Path, indexFolder) {
			return syscall.ENOSPC
		}
		return nil
	})
	if _, err := s.flushView(); err == nil {
		t.Fatal("a flush went well on a full disk")
	}
	eventually(t, "the folder waits", func() bool {
		if errors.Is(s.Health(), commitlog.ErrBusy) {
			return true
		}
		var recs []record.Record
		for range 50 {
			recs = append(recs, note{topic: topic, id: fmt.Sprint(sent), body: "b"}.record(t))
			sent++
		}
		if err := s.Propose(&commitlog.Proposal{Records: recs, Done: func(p *commitlog.Proposal) { outcome(p.Err) }}); err != nil {
			t.Fatal(err)
		}
		return false
	})
	return s, topic, sent
}

// A flush that fails costs nothing but time: the log keeps what it would have covered.
func TestAnIndexThatCannotBeFlushedGoesOnLater(t *testing.T) {
	skipWithoutMemory(t)
	f := newFaults()
	c := clock.NewFake(epoch)
	s, topic, sent := heldUp(t, f, c, func(err error) {
		if err != nil {
			t.Errorf("proposal: %v", err)
		}
	})
	if _, high, err := s.Bounds(topic, 0); err != nil || high == 0 || high == sent {
		t.Fatalf("%d of %d messages were applied, %v", high, sent, err)
	}
	f.clear()
	eventually(t, "all are applied", func() bool {
		c.Advance(time.Second)
		_, high, err := s.Bounds(topic, 0)
		return err == nil && high == sent && s.Health() == nil
	})
	mustVerify(t, s)
	mustClose(t, s)
}

// A store that is closed while its index is held up does not wait for room.
func TestCloseDoesNotWaitForAFullDisk(t *testing.T) {
	skipWithoutMemory(t)
	f := newFaults()
	var failed atomic.Int32
	s, topic, sent := heldUp(t, f, clock.NewFake(epoch), func(err error) {
		if errors.Is(err, commitlog.ErrClosed) {
			failed.Add(1)
		} else if err != nil {
			t.Errorf("proposal: %v", err)
		}
	})
	if err := s.Close(); err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if failed.Load() == 0 {
		t.Fatal("every proposal went through")
	}
	f.clear()
	s = mustOpen(t, s.opts) // the log had them all
	if _, high, err := s.Bounds(topic, 0); err != nil || high != sent {
		t.Fatalf("%d of %d messages, %v", high, sent, err)
	}
	mustVerify(t, s)
	mustClose(t, s)
}

// broken is a fold that cannot apply its records.
type broken struct{}

func (broken) Kinds() []record.Kind { return []record.Kind{record.KindCommit} }
func (broken) Apply(*kvindex.Batch, record.Position, record.Record) (record.Outcome, error) {
	return record.Outcome{}, io.ErrUnexpectedEOF
}
func (broken) Finish(*kvindex.Batch) error { return nil }

func TestARecordThatCannotBeAppliedStopsTheStore(t *testing.T) {
	o := testOptions(newPlace(t), clock.NewFake(epoch))
	s, err := open(context.Background(), o, func(kvindex.Engine) []kvindex.Fold { return []kvindex.Fold{broken{}} })
	if err != nil {
		t.Fatal(err)
	}
	topic := putTopic(t, s, "a")
	send(t, s, note{topic: topic, body: "before"})
	_, err = s.Append(context.Background(), record.Record{Kind: record.KindCommit})
	if !errors.Is(err, commitlog.ErrFailed) || !errors.Is(err, ErrViewFailed) || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("append: %v", err)
	}
	n := note{topic: topic, body: "after"}
	if _, err := s.Append(context.Background(), n.record(t)); !errors.Is(err, ErrViewFailed) {
		t.Fatalf("append after it: %v", err)
	}
	if err := s.Health(); !errors.Is(err, ErrViewFailed) {
		t.Fatalf("health %v", err)
	}
	if got := bodies(readAll(t, s, topic, 0, 0, 10)); !slices.Equal(got, []string{"before"}) {
		t.Fatalf("read %q", got)
	}
	mustClose(t, s)
	if _, err := open(context.Background(), o, noFolds); err == nil || !strings.Contains(err.Error(), "nobody applies kind commit") {
		t.Fatalf("open without the fold: %v", err)
	}
}

func TestWhatNoFoldAppliesIsNotWritten(t *testing.T) {
	s := mustOpen(t, testOptions(newPlace(t), clock.NewFake(epoch)))
	defer mustClose(t, s)
	end := s.log.Committed()
	for _, r := range []record.Record{
		{Kind: 200}, {Kind: record.KindPop}, {Kind: record.KindMessage}, {Kind: record.KindMessage, Payload: make([]byte, 300)},
	} {
		if _, err := s.Append(context.Background(), r); !errors.Is(err, errMalformed) {
			t.Errorf("%v record of %d bytes: %v", r.Kind, len(r.Payload), err)
		}
	}
	if s.log.Committed() != end {
		t.Error("the log grew")
	}
}

func TestTheDataFolderIsOneProcessesOnly(t *testing.T) {
	o := testOptions(newPlace(t), clock.NewFake(epoch))
	s := mustOpen(t, o)
	if _, err := open(context.Background(), o, noFolds); !errors.Is(err, ErrLocked) {
		t.Fatalf("second open: %v", err)
	}
	mustClose(t, s)
	mustClose(t, mustOpen(t, o))
}
