package commitlog

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	_ = flag.Set("rapid.nofailfile", "true") // what rapid prints is enough to reproduce a failure
	goleak.VerifyTestMain(m)
}

// change is a kind of operation that alters what is on a disk.
type change string

const (
	opCreate  change = "create"
	opRemove  change = "remove"
	opWrite   change = "write"
	opSync    change = "sync"
	opSyncDir change = "sync-dir"
)

// disk wraps a file system so that a test sees each change before it happens, can make it fail, and can run out of room.
type disk struct {
	vfs.FS
	hook atomic.Pointer[func(op change, name string) error]
	open atomic.Int64 // files
	mu   struct {
		sync.Mutex
		limited bool
		room    int64 // bytes by which files may still grow, when limited
		fetched []string
	}
}

func newDisk(fs vfs.FS) *disk { return &disk{FS: fs} }

// limit lets files grow by n more bytes; a negative n lifts the limit.
func (d *disk) limit(n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.limited, d.mu.room = n >= 0, n
}

// before has fn called before each change, which does not happen when fn returns an error.
func (d *disk) before(fn func(op change, name string) error) { d.hook.Store(&fn) }

func (d *disk) ask(op change, name string) error {
	if fn := d.hook.Load(); fn != nil {
		return (*fn)(op, name)
	}
	return nil
}

func (d *disk) wrap(name string, f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	d.open.Add(1)
	return &diskFile{File: f, disk: d, name: name}, nil
}

func (d *disk) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := d.FS.Open(name, opts...)
	return d.wrap(name, f, err)
}

func (d *disk) OpenDir(name string) (vfs.File, error) {
	f, err := d.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	d.open.Add(1)
	return &diskFile{File: f, disk: d, name: name, dir: true}, nil
}

func (d *disk) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	if _, err := d.Stat(name); err != nil {
		if err := d.ask(opCreate, name); err != nil {
			return nil, err
		}
	}
	f, err := d.FS.OpenReadWrite(name, c, opts...)
	return d.wrap(name, f, err)
}

func (d *disk) Remove(name string) error {
	if err := d.ask(opRemove, name); err != nil {
		return err
	}
	return d.FS.Remove(name)
}

type diskFile struct {
	vfs.File
	disk *disk
	name string
	dir  bool
}

func (f *diskFile) Close() error {
	f.disk.open.Add(-1)
	return f.File.Close()
}

func (f *diskFile) Prefetch(off, n int64) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.disk.mu.fetched = append(f.disk.mu.fetched, fmt.Sprintf("%s %d+%d", path.Base(f.name), off, n))
	return nil
}

func (f *diskFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.disk.ask(opWrite, f.name); err != nil {
		return 0, err
	}
	d := f.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.mu.limited {
		return f.File.WriteAt(p, off)
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	fits := max(0, min(int64(len(p)), info.Size()+d.mu.room-off))
	d.mu.room -= max(0, off+fits-info.Size())
	n, err := f.File.WriteAt(p[:fits], off)
	if err == nil && n < len(p) {
		err = &os.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC}
	}
	return n, err
}

func (f *diskFile) Sync() error {
	op := opSync
	if f.dir {
		op = opSyncDir
	}
	if err := f.disk.ask(op, f.name); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *diskFile) SyncData() error {
	if err := f.disk.ask(opSync, f.name); err != nil {
		return err
	}
	return f.File.SyncData()
}

// crash returns what a power cut would leave of mem, with about percent of what was not synced.
func crash(mem *vfs.MemFS, percent int, seed uint64) *vfs.MemFS {
	return mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(seed, 1))})
}

// peek returns the content of a file, to be changed in place: damage that no file system call would do. The log must not be
// started, or else it may write at the same time.
func peek(t testing.TB, mem *vfs.MemFS, name string) []byte {
	t.Helper()
	b, err := mem.UnsafeGetFileDataBuffer(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
