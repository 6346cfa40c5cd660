package tiered

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func TestIdentityOutlivesACrash(t *testing.T) {
	fsys := vfs.NewCrashableMem()
	if err := fsys.MkdirAll("data", 0o755); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := ReadIdentity(fsys, "data"); ok || err != nil {
		t.Fatalf("of a new folder: %t, %v", ok, err)
	}
	root, err := fsys.OpenDir("")
	if err != nil {
		t.Fatal(err)
	}
	if err := root.Sync(); err != nil {
		t.Fatal(err)
	}
	id := NewIdentity()
	for id.Generation = range uint64(3) {
		if err := id.Write(fsys, "data"); err != nil {
			t.Fatal(err)
		}
		after := fsys.CrashClone(vfs.CrashCloneCfg{})
		if got, ok, err := ReadIdentity(after, "data"); got != id || !ok || err != nil {
			t.Fatalf("after a crash: %+v, %t, %v; want %+v", got, ok, err, id)
		}
	}
	for _, damaged := range []string{"", "{}", `{"store":"12"}`} {
		f, err := fsys.Create(IdentityPath(fsys, "data"), vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(damaged)); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := ReadIdentity(fsys, "data"); err == nil {
			t.Errorf("%q is an identity", damaged)
		}
	}
}
