package kvindex

import (
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// How Pebble labels the files that it makes. A test fails when it calls a flush something else.
const (
	flushCategory = "pebble-memtable-flush"
	tableSuffix   = ".sst"
	markerPrefix  = "marker."
)

// minFree is the disk space that must be left when a table is finished. Pebble can retry a table that did not fit, but not
// an edit of its manifest, which is what it writes next.
const minFree = 1 << 20

// workAtATime is how long a flush or a compaction works until it lets others have its processor. Linux leaves it to a thread that
// does not give way for some 3 ms, and whatever else wants it then, as answers to clients, waits behind.
const workAtATime = 500 * time.Microsecond

// guardFS stands between Pebble and its files, for seven things that Pebble leaves to the world around it:
//   - before the rows of a flush are written, the log is made durable (law 2);
//   - after a fatal error nothing is written, renamed or removed any more, as if the process had ended there. What is on disk
//     is then what a restart would find, whatever Pebble still believes;
//   - flushes and compactions that keep failing, as on a full disk, are retried with pauses and not in a busy loop;
//   - a file that names another one as the newest (a marker) is not made before the other's directory entry is durable: a disk
//     that keeps the one and loses the other would leave an index that does not open;
//   - flushes and compactions work in small pieces, and let others have the processor between them;
//   - a compaction ends when the engine is closed, and does not keep Close waiting for seconds; a flush is let through;
//   - a read-only engine cannot write.
type guardFS struct {
	vfs.FS
	health      *health
	readOnly    bool
	beforeFlush func() error
	covered     atomic.Bool // beforeFlush has returned nil for the flush under way
	flushes     backoff
	compactions backoff
	closing     chan struct{} // closed when Close begins
}

// refuse is asked before every change.
func (g *guardFS) refuse(op, name string) error {
	if g.readOnly {
		return &os.PathError{Op: op, Path: name, Err: ErrReadOnly}
	}
	if err := g.health.check(); err != nil {
		return &os.PathError{Op: op, Path: name, Err: err}
	}
	return nil
}

// Create makes a file; before a table it pauses when the last one failed, and calls beforeFlush once per flush. Pebble
// calls it without holding its own lock, and the memtables that it flushes take no more rows by then.
func (g *guardFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	kind := otherFile
	if strings.HasSuffix(name, tableSuffix) {
		if kind = compactedTable; category == flushCategory {
			kind = flushedTable
		}
		if err := g.beforeTable(kind); err != nil {
			return nil, err
		}
	}
	if err := g.refuse("create", name); err != nil {
		return nil, err
	}
	if strings.HasPrefix(g.PathBase(name), markerPrefix) {
		if err := g.syncDir(g.PathDir(name)); err != nil {
			return nil, err
		}
	}
	f, err := g.FS.Create(name, category)
	return g.wrap(f, name, kind, err)
}

func (g *guardFS) syncDir(dir string) error {
	d, err := g.FS.OpenDir(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

func (g *guardFS) beforeTable(kind fileKind) error {
	pause := &g.compactions
	if kind == flushedTable {
		pause = &g.flushes
	}
	pause.wait(g.closing, g.health.failed)
	if g.health.check() != nil {
		// Pebble would try again and again: let it wait here until it is closed.
		<-g.closing
		return g.health.check()
	}
	if kind == compactedTable && stopped(g.closing) {
		return ErrClosed
	}
	if kind == compactedTable || g.beforeFlush == nil || g.covered.Load() {
		return nil
	}
	if err := g.beforeFlush(); err != nil {
		return fmt.Errorf("before a flush of the index: %w", err)
	}
	g.covered.Store(true)
	return nil
}

func (g *guardFS) wrap(f vfs.File, name string, kind fileKind, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &guardFile{File: f, g: g, name: name, kind: kind, worked: time.Now()}, nil
}

func (g *guardFS) Link(oldname, newname string) error {
	if err := g.refuse("link", newname); err != nil {
		return err
	}
	return g.FS.Link(oldname, newname)
}

func (g *guardFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	if err := g.refuse("open", name); err != nil {
		return nil, err
	}
	f, err := g.FS.OpenReadWrite(name, c, opts...)
	return g.wrap(f, name, otherFile, err)
}

func (g *guardFS) OpenDir(name string) (vfs.File, error) {
	f, err := g.FS.OpenDir(name)
	return g.wrap(f, name, otherFile, err)
}

func (g *guardFS) Remove(name string) error {
	if err := g.refuse("remove", name); err != nil {
		return err
	}
	return g.FS.Remove(name)
}

func (g *guardFS) RemoveAll(name string) error {
	if err := g.refuse("remove", name); err != nil {
		return err
	}
	return g.FS.RemoveAll(name)
}

func (g *guardFS) Rename(oldname, newname string) error {
	if err := g.refuse("rename", newname); err != nil {
		return err
	}
	return g.FS.Rename(oldname, newname)
}

func (g *guardFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := g.refuse("reuse", newname); err != nil {
		return nil, err
	}
	f, err := g.FS.ReuseForWrite(oldname, newname, c)
	return g.wrap(f, newname, otherFile, err)
}

func (g *guardFS) MkdirAll(dir string, perm os.FileMode) error {
	if err := g.refuse("mkdir", dir); err != nil {
		return err
	}
	return g.FS.MkdirAll(dir, perm)
}

func (g *guardFS) Unwrap() vfs.FS { return g.FS }

// fileKind says why a file was made.
type fileKind uint8

const (
	otherFile fileKind = iota
	flushedTable
	compactedTable
)

type guardFile struct {
	vfs.File
	g    *guardFS
	name string
	kind fileKind
	// worked is since when a flush or a compaction has not given way
	worked time.Time
}

// giveWay lets others have the processor when it is time.
func (f *guardFile) giveWay() {
	if now := time.Now(); now.Sub(f.worked) > workAtATime {
		yieldProcessor()
		f.worked = time.Now()
	}
}

func (f *guardFile) Write(p []byte) (int, error) {
	if err := f.g.refuse("write", f.name); err != nil {
		return 0, err
	}
	if f.kind == compactedTable && stopped(f.g.closing) {
		return 0, &os.PathError{Op: "write", Path: f.name, Err: ErrClosed}
	}
	if f.kind != otherFile {
		f.giveWay()
	}
	return f.File.Write(p)
}

func (f *guardFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.g.refuse("write", f.name); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *guardFile) Sync() error {
	if err := f.beforeSync(); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *guardFile) SyncData() error {
	if err := f.beforeSync(); err != nil {
		return err
	}
	return f.File.SyncData()
}

func (f *guardFile) SyncTo(length int64) (bool, error) {
	if err := f.g.refuse("sync", f.name); err != nil {
		return false, err
	}
	return f.File.SyncTo(length)
}

func (f *guardFile) beforeSync() error {
	if err := f.g.refuse("sync", f.name); err != nil {
		return err
	}
	if f.kind == otherFile {
		return nil
	}
	if du, err := f.g.GetDiskUsage(f.g.PathDir(f.name)); err == nil && du.AvailBytes < minFree {
		return &os.PathError{Op: "sync", Path: f.name, Err: syscall.ENOSPC}
	}
	return nil
}
