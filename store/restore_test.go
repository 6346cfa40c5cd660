package store

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/kvindex"
)

// damageIndex makes every table of the index unreadable, and what names them.
func damageIndex(t *testing.T, o Options) {
	t.Helper()
	dir := o.path(indexFolder)
	names, err := o.FS.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	damaged := 0
	for _, name := range names {
		if !strings.HasPrefix(name, "MANIFEST") && !strings.HasSuffix(name, ".sst") {
			continue
		}
		stat, err := o.FS.Stat(o.FS.PathJoin(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		// A checkpoint may share the file, so it is replaced and not written to.
		copyOf := o.FS.PathJoin(dir, "copy")
		if err := vfs.Copy(o.FS, o.FS.PathJoin(dir, name), copyOf); err != nil {
			t.Fatal(err)
		}
		for at := int64(1); at < stat.Size(); at += 7 {
			flip(t, o.FS, copyOf, at)
		}
		if err := o.FS.Rename(copyOf, o.FS.PathJoin(dir, name)); err != nil {
			t.Fatal(err)
		}
		damaged++
	}
	if damaged == 0 {
		t.Fatal("no file of the index was damaged")
	}
}

func TestADamagedViewIsMadeAnewFromTheWholeLog(t *testing.T) {
	for _, how := range []string{"damaged", "lost"} {
		t.Run(how, func(t *testing.T) {
			o := testOptions(newPlace(t), clock.NewFake(epoch))
			s := mustOpen(t, o)
			topic := putTopic(t, s, "a")
			for range 20 {
				send(t, s, note{topic: topic, body: "b"})
			}
			mustClose(t, s)
			if how == "damaged" {
				damageIndex(t, o)
			} else if err := o.FS.RemoveAll(o.path(indexFolder)); err != nil {
				t.Fatal(err)
			}
			s = mustOpen(t, o)
			if got := readAll(t, s, topic, 0, 0, 100); len(got) != 20 {
				t.Fatalf("%d messages", len(got))
			}
			r := s.Recovery()
			if r.Batches != 21 || how == "damaged" && !strings.Contains(r.Restored, "the whole log") {
				t.Fatalf("recovery %+v", r)
			}
			mustVerify(t, s)
			mustClose(t, s)
			s = mustOpen(t, o)
			if r := s.Recovery(); r.Batches != 0 || r.Restored != "" {
				t.Fatalf("recovery at the next start %+v", r)
			}
			mustClose(t, s)
		})
	}
}

func TestADamagedViewIsRestoredFromTheCheckpoint(t *testing.T) {
	for _, how := range []string{"damaged", "lost"} {
		t.Run(how, func(t *testing.T) {
			s, o, _, topic := aged(t, newPlace(t))
			send(t, s, note{topic: topic, body: "after the checkpoint"})
			want := bodies(readAll(t, s, topic, 0, 0, 100))
			mustClose(t, s)
			if how == "damaged" {
				damageIndex(t, o)
			} else if err := o.FS.RemoveAll(o.path(indexFolder)); err != nil {
				t.Fatal(err)
			}
			s = mustOpen(t, o)
			if r := s.Recovery(); r.Batches == 0 || !strings.Contains(r.Restored, checkpointPrefix) {
				t.Fatalf("recovery %+v", r)
			}
			if got := bodies(readAll(t, s, topic, 0, 0, 100)); !slices.Equal(got, want) {
				t.Fatalf("%d messages, want %d", len(got), len(want))
			}
			mustVerify(t, s)
			mustClose(t, s)
		})
	}
}

func TestAViewThatNothingCanRestoreIsReported(t *testing.T) {
	s, o, _, _ := aged(t, newPlace(t))
	mustClose(t, s)
	names, err := checkpoints(&o)
	if err != nil || len(names) != 1 {
		t.Fatalf("checkpoints %v, %v", names, err)
	}
	if err := errors.Join(o.FS.RemoveAll(o.path(names[0])), o.FS.RemoveAll(o.path(indexFolder))); err != nil {
		t.Fatal(err)
	}
	if _, err := open(context.Background(), o, noFolds); !errors.Is(err, ErrViewLost) {
		t.Fatalf("open: %v", err)
	}
}

func TestRebuildMakesTheViewElsewhere(t *testing.T) {
	for _, old := range []bool{false, true} {
		p := newPlace(t)
		var s *Store
		var o Options
		if old {
			s, o, _, _ = aged(t, p)
		} else {
			o = testOptions(p, clock.NewFake(epoch))
			s = mustOpen(t, o)
			topic := putTopic(t, s, "a")
			send(t, s, note{topic: topic, body: "b"})
		}
		end := s.Stats().Applied
		mustClose(t, s)
		dir := o.path("rebuilt")
		at, err := rebuildInto(context.Background(), o, dir, noFolds)
		if err != nil || at != end {
			t.Fatalf("rebuilt up to %d of %d, %v", at, end, err)
		}
		if _, err := rebuildInto(context.Background(), o, dir, noFolds); err == nil {
			t.Fatal("an existing folder was overwritten")
		}
		var views []kvindex.Engine
		for _, dir := range []string{dir, o.path(indexFolder)} {
			e, err := kvindex.Open(kvindex.Options{FS: o.FS, Dir: dir, Kind: o.Engine, ReadOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			views = append(views, e)
		}
		if diff, err := kvindex.Diff(views[0], views[1]); diff != "" || err != nil {
			t.Fatalf("%s, %v", diff, err)
		}
		if err := errors.Join(views[0].Close(), views[1].Close()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestVerifyFindsARowThatTheLogDoesNotKnow(t *testing.T) {
	s := mustOpen(t, testOptions(newPlace(t), clock.NewFake(epoch)))
	defer mustClose(t, s)
	topic := putTopic(t, s, "a")
	send(t, s, note{topic: topic, body: "b"})
	mustVerify(t, s)
	w := s.engine.NewWriter()
	w.Set(kvindex.AppendQueueKey(nil, topic, 0), bounds{max: 2}.appendTo(nil))
	if err := errors.Join(w.Commit(), w.Close()); err != nil {
		t.Fatal(err)
	}
	err := s.Verify(context.Background())
	if !errors.Is(err, ErrViewDiffers) || !strings.Contains(err.Error(), "max=1") || !strings.Contains(err.Error(), "max=2") {
		t.Fatalf("verify: %v", err)
	}
}
