package tiered

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Identity is what a data folder remembers of its tier: whose it is, and how far it is known to have come.
type Identity struct {
	Store      StoreID `json:"store"`
	Generation uint64  `json:"generation"` // the newest one of the manifest that was seen; Options.Least
}

const (
	// identityFile lies in the data folder. It is JSON, so that an operator can read it.
	identityFile = "tier.json"
	// maxIdentity bounds it in bytes.
	maxIdentity = 4 << 10
)

// NewIdentity makes one that no other folder has.
func NewIdentity() Identity {
	var i Identity
	_, _ = rand.Read(i.Store[:]) // never fails
	return i
}

// IdentityPath is where the identity of a data folder lies.
func IdentityPath(fsys vfs.FS, dir string) string { return fsys.PathJoin(dir, identityFile) }

// ReadIdentity reads that of a data folder; ok is false when it has none yet.
func ReadIdentity(fsys vfs.FS, dir string) (i Identity, ok bool, err error) {
	f, err := fsys.Open(IdentityPath(fsys, dir))
	if errors.Is(err, fs.ErrNotExist) {
		return Identity{}, false, nil
	}
	if err != nil {
		return Identity{}, false, fmt.Errorf("tiered: read identity: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxIdentity))
	if err = errors.Join(err, f.Close()); err == nil {
		err = json.Unmarshal(text, &i)
	}
	if err == nil && i.Store == (StoreID{}) {
		err = errors.New("it names no store")
	}
	if err != nil {
		return Identity{}, false, fmt.Errorf("tiered: read identity %s: %w", IdentityPath(fsys, dir), err)
	}
	return i, true, nil
}

// Write makes it that of a data folder, durably and at once: whoever reads finds the old one or this one.
func (i Identity) Write(fsys vfs.FS, dir string) error {
	text, err := json.Marshal(i)
	if err != nil {
		return fmt.Errorf("tiered: write identity: %w", err)
	}
	if err := i.write(fsys, dir, append(text, '\n')); err != nil {
		return fmt.Errorf("tiered: write identity %s: %w", IdentityPath(fsys, dir), err)
	}
	return nil
}

func (i Identity) write(fsys vfs.FS, dir string, text []byte) error {
	path := IdentityPath(fsys, dir)
	f, err := fsys.Create(path+".new", vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fsys.Rename(path+".new", path); err != nil {
		return err
	}
	d, err := fsys.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
