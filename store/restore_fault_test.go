package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/tiered"
	"github.com/cairnmq/cairn/tiered/objects"
)

var errOutage = errors.New("the object store does not answer")

// shaky is an object store of which one call fails: before it does anything, or behind it.
type shaky struct {
	objects.Store
	mu   sync.Mutex
	left int // calls until then; negative: never
	lost bool
	done bool
}

func (s *shaky) arm(calls int, lost bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left, s.lost, s.done = calls, lost, false
}

// disarm says whether a call failed.
func (s *shaky) disarm() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = -1
	return s.done
}

func (s *shaky) call(real func() error) error {
	s.mu.Lock()
	now := s.left == 0
	s.left = max(s.left-1, -1)
	s.done = s.done || now
	lost := s.lost
	s.mu.Unlock()
	if now && !lost {
		return errOutage
	}
	if err := real(); err != nil || !now {
		return err
	}
	return errOutage
}

func (s *shaky) ReadAt(ctx context.Context, name string, p []byte, off int64) (n int, err error) {
	err = s.call(func() error {
		n, err = s.Store.ReadAt(ctx, name, p, off)
		return err
	})
	if errors.Is(err, errOutage) {
		n = 0
	}
	return n, err
}

func (s *shaky) Put(ctx context.Context, name string, content io.ReadSeeker, size int64) error {
	return s.call(func() error { return s.Store.Put(ctx, name, content, size) })
}

func (s *shaky) Create(ctx context.Context, name string, content []byte) error {
	return s.call(func() error { return s.Store.Create(ctx, name, content) })
}

// openShaky opens the tier in a folder over a store whose calls may fail.
func openShaky(t *testing.T, folder string) (*tiered.Tier, *shaky) {
	t.Helper()
	bucket, err := objects.OpenFolder(folder)
	if err != nil {
		t.Fatal(err)
	}
	s := &shaky{Store: bucket, left: -1}
	tier, err := tiered.Open(context.Background(), s, tiered.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		tier.Close()
		if err := bucket.Close(); err != nil {
			t.Error(err)
		}
	})
	return tier, s
}

// readable are the positions of the snapshots that can be used, all of which can be read to their end.
func readable(t *testing.T, folder string) (at []record.Position) {
	t.Helper()
	tier := openTier(t, folder)
	for _, s := range tier.Manifests().View().Usable() {
		rows, err := tier.SnapshotRows(context.Background(), &s)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
		}
		if err := rows.Close(); err != nil {
			t.Fatal(err)
		}
		at = append(at, s.Position)
	}
	return at
}

// Whichever call fails while a snapshot is put into the tier, those before stay, or the new one is there as a whole.
func TestASnapshotThatFailsLeavesTheOthers(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("lost=%t", lost), func(t *testing.T) {
			b := newBusy(t)
			mustClose(t, b.s)
			var store *shaky
			b.o.Tier, store = openShaky(t, b.folder)
			if _, err := b.o.Tier.Manifests().Claim(context.Background(), tiered.StoreID{1}); err != nil {
				t.Fatal(err)
			}
			b.open()
			b.run(20)
			failures := 0
			for calls := 0; ; calls++ {
				for b.round(); mustUpload(t, b.s) == 0; b.round() {
				}
				before := readable(t, b.folder)
				at := b.manifest().Parts[len(b.manifest().Parts)-1].End
				store.arm(calls, lost)
				err := b.s.Snapshot(context.Background())
				if !store.disarm() {
					if err != nil || calls < 4 {
						t.Fatalf("after %d calls: %v", calls, err)
					}
					break
				}
				after := readable(t, b.folder)
				want := []record.Position{at, before[0]}
				if !slices.Equal(after, before) && !slices.Equal(after, want) {
					t.Fatalf("call %d failed: %v became %v", calls, before, after)
				}
				if err == nil && !slices.Equal(after, want) {
					t.Fatalf("call %d failed, and there is no snapshot: %v", calls, after)
				}
				if err != nil {
					failures++
				}
			}
			if failures == 0 {
				t.Fatal("nothing failed")
			}
			b.run(10)
			if now := readable(t, b.folder); now[0] != b.manifest().Parts[len(b.manifest().Parts)-1].End {
				t.Fatalf("no snapshot came later: %v", now)
			}
			mustClose(t, b.s)
		})
	}
}

// Whichever call of a restore fails once, it asks again.
func TestARestoreAsksAgain(t *testing.T) {
	b := newBusy(t)
	b.run(30)
	b.damage(b.manifest().Usable()[0].Name()) // so that it fetches bodies, too
	mustClose(t, b.s)
	calls := 0
	for ; ; calls++ {
		p := newPlace(t)
		o := b.o
		o.FS, o.Dir = p.fs, p.dir
		o.Clock = nil // pauses end by themselves
		var store *shaky
		o.Tier, store = openShaky(t, b.folder)
		store.arm(calls, false)
		_, err := Restore(context.Background(), o)
		if err != nil {
			t.Fatalf("call %d failed: %v", calls, err)
		}
		if !store.disarm() {
			break
		}
	}
	if calls < 6 {
		t.Fatalf("%d calls", calls)
	}
}

// At every point at which a restore makes something durable the power goes: what is left is refused and restored again, or complete.
func TestARestoreIsBrokenOffAnywhere(t *testing.T) {
	skipWithoutMemory(t)
	b := newBusy(t)
	b.run(30)
	b.damage(b.manifest().Usable()[0].Name())
	want := b.manifest().Parts
	mustClose(t, b.s)
	r := newRecorder(3, 400)
	o := b.o
	o.FS, o.Dir, o.Tier = r.fs(), "data", openTier(t, b.folder)
	if _, err := Restore(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	r.cut("done")
	cuts := r.stop()
	refused := 0
	for _, cut := range cuts {
		o.FS = cut.fs
		s, err := Open(context.Background(), o)
		if errors.Is(err, ErrRestoring) {
			refused++
			if _, err := Restore(context.Background(), o); err != nil {
				t.Fatalf("%s: restored again: %v", cut.why, err)
			}
			s, err = Open(context.Background(), o)
		}
		if err != nil {
			t.Fatalf("%s: %v", cut.why, err)
		}
		if end := s.Stats().Applied; end != 0 { // else nothing was there yet
			if end < want[len(want)-1].End {
				t.Fatalf("%s: it ends at %d", cut.why, end)
			}
			mustVerify(t, s)
		} else if refused > 0 {
			t.Fatalf("%s: an empty store", cut.why)
		}
		mustClose(t, s)
	}
	if refused < 10 || refused == len(cuts) {
		t.Fatalf("%d of %d were refused", refused, len(cuts))
	}
}
