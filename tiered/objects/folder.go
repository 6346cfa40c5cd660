package objects

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// unfinished is the folder of contents that are being written: each moves to its name when it is whole and durable. An
// object's name has no dot in front, so it is none.
const unfinished = ".unfinished"

// leftover is the age at which a content that is being written belongs to nobody who still lives, when a folder is opened.
const leftover = time.Hour

// folder is the store in a folder of the file system. Several processes may have it open.
type folder struct {
	root *os.Root // nothing outside is reached through it, whatever links there are
	path string
}

// OpenFolder returns the store in the folder, which is made when absent. What writers that died more than an hour ago have
// left is removed. The file system must have hard links: they make Create exclusive, over NFS too.
func OpenFolder(folderPath string) (Store, error) {
	folderPath, err := filepath.Abs(folderPath)
	if err != nil {
		return nil, writeError("open", folderPath, err)
	}
	if err := makeRoot(folderPath); err != nil {
		return nil, writeError("open", folderPath, err)
	}
	root, err := os.OpenRoot(folderPath)
	if err != nil {
		return nil, writeError("open", folderPath, err)
	}
	f := &folder{root: root, path: folderPath}
	if err := f.prepare(); err != nil {
		_ = root.Close()
		return nil, writeError("open", folderPath, err)
	}
	return f, nil
}

// makeRoot makes the folder and those above it, durably.
func makeRoot(folderPath string) error {
	above := folderPath
	for {
		if _, err := os.Stat(above); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		above = filepath.Dir(above)
	}
	root, err := os.OpenRoot(above)
	if err != nil {
		return err
	}
	defer root.Close()
	missing, err := filepath.Rel(above, folderPath)
	if err != nil {
		return err
	}
	return (&folder{root: root}).makeFolder(filepath.ToSlash(missing))
}

func (f *folder) prepare() error {
	if err := f.makeFolder(unfinished); err != nil {
		return err
	}
	_, err := f.Sweep(context.Background(), time.Now().Add(-leftover))
	return err
}

func (f *folder) String() string { return f.path }

func (f *folder) Close() error { return f.root.Close() }

func (f *folder) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	if err := checkRead(ctx, name, off); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	file, err := f.root.Open(name)
	if err != nil {
		return 0, readError("read", name, err)
	}
	defer file.Close()
	n, err := file.ReadAt(p, off)
	if err != nil && err != io.EOF {
		return n, readError("read", name, err)
	}
	if n == len(p) {
		return n, nil
	}
	return n, io.EOF
}

func (f *folder) Put(ctx context.Context, name string, content io.ReadSeeker, size int64) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if _, err := content.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	return f.write(ctx, "put", name, content, size, f.root.Rename)
}

func (f *folder) Create(ctx context.Context, name string, content []byte) error {
	if err := checkCreate(name, content); err != nil {
		return err
	}
	return f.write(ctx, "create", name, bytes.NewReader(content), int64(len(content)), f.link)
}

func (f *folder) link(from, to string) error {
	err := f.root.Link(from, to)
	if errors.Is(err, fs.ErrExist) {
		return ErrExists
	}
	return err
}

// write makes the content durable under a name of its own, then moves it to the object's with place, and makes that durable.
func (f *folder) write(ctx context.Context, verb, name string, content io.Reader, size int64, place func(from, to string) error) error {
	temporary := path.Join(unfinished, rand.Text())
	err := f.writeFile(ctx, temporary, content, size)
	if err == nil {
		err = f.makeFolder(path.Dir(name))
	}
	if err == nil {
		err = place(temporary, name)
	}
	if err == nil {
		err = f.sync(path.Dir(name))
	}
	// gone after a rename; after a link it is a second name, and after an error it is a leftover
	if removeErr := f.root.Remove(temporary); err == nil && removeErr != nil && !errors.Is(removeErr, fs.ErrNotExist) {
		err = removeErr
	}
	return writeError(verb, name, err)
}

// writeFile makes a durable file with exactly size bytes of the content.
func (f *folder) writeFile(ctx context.Context, name string, content io.Reader, size int64) error {
	file, err := f.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	n, err := io.Copy(file, contextReader{ctx, io.LimitReader(content, size+1)})
	if err == nil && n != size {
		err = sizeError(n, size)
	}
	if err == nil {
		err = file.Sync()
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	return err
}

// makeFolder makes the folder and those above it, durably.
func (f *folder) makeFolder(name string) error {
	if name == "." {
		return nil
	}
	if info, err := f.root.Stat(name); err == nil && info.IsDir() {
		return nil
	}
	if err := f.makeFolder(path.Dir(name)); err != nil {
		return err
	}
	if err := f.root.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return f.sync(path.Dir(name))
}

// sync makes durable which names the folder has.
func (f *folder) sync(name string) error {
	dir, err := f.root.Open(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

func (f *folder) Stat(ctx context.Context, name string) (Info, error) {
	if err := checkRead(ctx, name, 0); err != nil {
		return Info{}, err
	}
	info, err := f.root.Stat(name)
	if err == nil && info.IsDir() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return Info{}, readError("stat", name, err)
	}
	return infoOf(name, info), nil
}

func infoOf(name string, info fs.FileInfo) Info {
	return Info{Name: name, Size: info.Size(), Modified: info.ModTime().Truncate(time.Second)}
}

func (f *folder) List(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		w := folderWalk{ctx: ctx, fsys: f.root.FS(), prefix: prefix, after: after, yield: yield}
		if err := w.walk("."); err != nil {
			yield(Info{}, readError("list", prefix, err))
		}
	}
}

// folderWalk goes over the files of a folder in the byte order of their paths, leaving out folders that have none of those
// that are asked for.
type folderWalk struct {
	ctx           context.Context
	fsys          fs.FS
	prefix, after string
	yield         func(Info, error) bool
	stopped       bool // by yield
}

func (w *folderWalk) walk(dir string) error {
	entries, err := fs.ReadDir(w.fsys, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	// a-b comes before a/c, though a comes before a-b
	slices.SortFunc(entries, func(x, y fs.DirEntry) int { return cmp.Compare(sortName(x), sortName(y)) })
	for _, e := range entries {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if err := w.visit(path.Join(dir, e.Name()), e); err != nil || w.stopped {
			return err
		}
	}
	return nil
}

func sortName(e fs.DirEntry) string {
	if e.IsDir() {
		return e.Name() + "/"
	}
	return e.Name()
}

func (w *folderWalk) visit(name string, e fs.DirEntry) error {
	switch {
	case strings.HasPrefix(e.Name(), "."):
		return nil
	case e.IsDir():
		within := name + "/"
		if strings.HasPrefix(w.after, within) || within > w.after {
			if strings.HasPrefix(within, w.prefix) || strings.HasPrefix(w.prefix, within) {
				return w.walk(name)
			}
		}
		return nil
	case name <= w.after || !strings.HasPrefix(name, w.prefix):
		return nil
	}
	info, err := e.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	w.stopped = !w.yield(infoOf(name, info), nil)
	return nil
}

func (f *folder) Delete(ctx context.Context, name string) error {
	if err := checkRead(ctx, name, 0); err != nil {
		return err
	}
	err := f.root.Remove(name)
	if err == nil {
		err = f.sync(path.Dir(name))
	}
	if err = readError("delete", name, err); errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

func (f *folder) Sweep(ctx context.Context, before time.Time) (int, error) {
	entries, err := fs.ReadDir(f.root.FS(), unfinished)
	if err != nil {
		return 0, writeError("sweep", unfinished, err)
	}
	removed := 0
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			if !info.ModTime().Before(before) {
				continue
			}
			err = f.root.Remove(path.Join(unfinished, e.Name()))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return removed, writeError("sweep", unfinished, err)
		}
		removed++
	}
	return removed, nil
}

// refusals are what a file system says until somebody changes something. What does not exist when something is written is a
// folder that was there.
var refusals = []error{
	fs.ErrPermission, fs.ErrNotExist, syscall.ENOTDIR, syscall.EROFS, syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG, syscall.ENOTSUP,
}

// readError is writeError for calls that look for an object.
func readError(verb, name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return fmt.Errorf("%s %s: %w", verb, name, ErrNotFound)
	}
	return writeError(verb, name, err)
}

// writeError marks those of a file system's errors that are refusals.
func writeError(verb, name string, err error) error {
	switch {
	case err == nil:
		return nil
	case slices.ContainsFunc(refusals, func(refusal error) bool { return errors.Is(err, refusal) }):
		return fmt.Errorf("%s %s: %w: %w", verb, name, ErrRefused, err)
	}
	return fmt.Errorf("%s %s: %w", verb, name, err)
}

// checkRead checks what every call that reads checks.
func checkRead(ctx context.Context, name string, off int64) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if off < 0 {
		return fmt.Errorf("read %s: offset %d", name, off)
	}
	return ctx.Err()
}

func checkCreate(name string, content []byte) error {
	if len(content) > MaxCreate {
		return fmt.Errorf("create %s: %w: %d bytes are more than %d", name, ErrRefused, len(content), MaxCreate)
	}
	return CheckName(name)
}

func sizeError(got, want int64) error {
	if got > want {
		return fmt.Errorf("the content has more than the %d bytes that it was said to have", want)
	}
	return fmt.Errorf("the content has %d bytes, not %d: %w", got, want, io.ErrUnexpectedEOF)
}

// contextReader ends with the context's error once it is over.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
