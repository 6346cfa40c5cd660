//go:build grocksdb

package kvindex

import (
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func init() { engineKinds = append(engineKinds, KindRocksDB) }

func TestRocksDBRefusesOtherFileSystems(t *testing.T) {
	if _, err := Open(Options{FS: vfs.NewMem(), Dir: "x", Kind: KindRocksDB}); err == nil {
		t.Fatal("it opened in memory")
	}
}

func TestFoldersOfTheOtherEngine(t *testing.T) {
	for kind, other := range map[string]string{KindPebble: KindRocksDB, KindRocksDB: KindPebble} {
		opts := Options{Dir: t.TempDir() + "/index", Kind: kind}
		e := mustOpen(t, opts)
		commit(t, e, func(w Writer) { w.Set(userKey("a"), []byte("1")) })
		must(t, e.Flush())
		must(t, e.Close())
		opts.Kind = other
		if _, err := Open(opts); !errors.Is(err, ErrOtherEngine) {
			t.Fatalf("%s in a folder of %s: %v", other, kind, err)
		}
		opts.Kind = kind
		e = mustOpen(t, opts)
		wantRows(t, e, "a=1")
		must(t, e.Close())
	}
}
