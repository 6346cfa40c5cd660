package kvindex

import (
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestTablesGiveWay: a flush or a compaction that has worked for long begins a new piece of work with its next write; one that has
// not goes on, and other files have nothing to do with it.
func TestTablesGiveWay(t *testing.T) {
	g := &guardFS{FS: vfs.NewMem(), health: &health{}, closing: make(chan struct{})}
	for _, c := range []struct {
		name    string
		kind    fileKind
		worked  time.Duration
		yielded bool
	}{
		{"a flush", flushedTable, time.Hour, true},
		{"a compaction", compactedTable, time.Hour, true},
		{"a flush that has just begun", flushedTable, -time.Hour, false},
		{"a manifest", otherFile, time.Hour, false},
	} {
		raw, err := g.FS.Create(c.name, vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now().Add(-c.worked)
		f := &guardFile{File: raw, g: g, name: c.name, kind: c.kind, worked: began}
		if _, err := f.Write([]byte("rows")); err != nil {
			t.Fatal(err)
		}
		if yielded := f.worked != began; yielded != c.yielded {
			t.Errorf("%s gave way: %v", c.name, yielded)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
