package commitlog

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/cairnmq/cairn/internal/record"
)

// segmentName is the file name of the segment that begins at start: its position in 20 digits.
func segmentName(start record.Position) string { return fmt.Sprintf("%020d", int64(start)) }

// parseSegmentName is the inverse of segmentName; ok is false for files that are not segments.
func parseSegmentName(name string) (start record.Position, ok bool) {
	if len(name) != 20 {
		return 0, false
	}
	n, err := strconv.ParseUint(name, 10, 63)
	return record.Position(n), err == nil && n%batchAlign == 0
}

// span is a segment's file as the directory shows it. A segment reaches from its start to where the next one starts;
// the last one reaches as far as its file.
type span struct {
	name       string
	start, end record.Position
	size       int64 // of the file, in bytes: less than end-start where the end was never written
}

// listSpans lists the segments in dir, in order. A directory that is not there has none.
func listSpans(fsys vfs.FS, dir string) ([]span, error) {
	names, err := fsys.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("commitlog: list segments: %w", err)
	}
	var spans []span
	for _, name := range names {
		start, ok := parseSegmentName(name)
		if !ok {
			continue
		}
		info, err := fsys.Stat(fsys.PathJoin(dir, name))
		if err != nil {
			return nil, fmt.Errorf("commitlog: look at segment %s: %w", name, err)
		}
		spans = append(spans, span{name: name, start: start, size: info.Size()})
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.start, b.start) })
	for i := range spans {
		s := &spans[i]
		if i+1 < len(spans) {
			s.end = spans[i+1].start
		} else {
			s.end = s.start + record.Position((s.size+batchAlign-1)/batchAlign*batchAlign)
		}
		s.size = min(s.size, int64(s.end-s.start))
	}
	return spans, nil
}

// segment is one file of a log that is open.
type segment struct {
	start record.Position
	name  string
	// end is where the next segment starts. It is settled when the segment joins the table: until then a batch larger
	// than a segment may raise it.
	end record.Position

	// first caches the header of the segment's first batch; nil while not known.
	first atomic.Pointer[header]

	file handleSlot

	// Guarded by Log.mu: up to where the file is allocated, or claimed by a write that is under way; and whether the
	// preparer is zero-filling from there on.
	filled  int64
	filling bool
}

func (s *segment) capacity() int64 { return int64(s.end - s.start) }

// handle is an open file that several hold. Whoever lets go last closes it.
type handle struct {
	vfs.File
	refs atomic.Int32
}

func newHandle(f vfs.File) *handle {
	h := &handle{File: f}
	h.refs.Store(1)
	return h
}

// hold takes a reference unless the file is closed already.
func (h *handle) hold() bool {
	for {
		n := h.refs.Load()
		if n == 0 {
			return false
		}
		if h.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// release gives a reference back. What closing says does not matter: what had to be synced was.
func (h *handle) release() {
	switch n := h.refs.Add(-1); {
	case n == 0:
		_ = h.Close()
	case n < 0:
		panic("commitlog: handle released more often than held")
	}
}

// handleSlot is where a segment keeps the handle that readers share, if it has one at the moment.
type handleSlot struct {
	shared atomic.Pointer[handle]
	recent atomic.Bool // used since the table last looked for a handle to close
}

// maxHandles bounds the handles that a table keeps open for readers, beside those of the tail.
const maxHandles = 128

// table is the list of a log's segments. Readers take it as it is at the moment; changes replace it whole.
type table struct {
	fs   vfs.FS
	dir  string
	list atomic.Pointer[[]*segment] // in order; never changed once stored

	mu struct {
		sync.Mutex
		open []*segment // those with a shared handle
		hand int        // where to look next for one to close
		gone bool       // closed: no handle is opened any more
	}
}

func newTable(fsys vfs.FS, dir string) *table {
	t := &table{fs: fsys, dir: dir}
	t.list.Store(&[]*segment{})
	return t
}

func (t *table) all() []*segment { return *t.list.Load() }

func (t *table) path(name string) string { return t.fs.PathJoin(t.dir, name) }

// add appends s, whose file is h, to the list.
func (t *table) add(s *segment, h *handle) {
	t.share(s, h)
	t.mu.Lock()
	defer t.mu.Unlock()
	list := append(slices.Clone(t.all()), s)
	t.list.Store(&list)
}

// share lets readers of s use h, which the caller holds.
func (t *table) share(s *segment, h *handle) {
	h.hold()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.shareLocked(s, h)
}

// find returns the segment that pos lies in, or nil.
func (t *table) find(pos record.Position) *segment {
	list := t.all()
	i, exact := slices.BinarySearchFunc(list, pos, func(s *segment, p record.Position) int { return cmp.Compare(s.start, p) })
	if !exact {
		i--
	}
	if i < 0 || pos >= list[i].end {
		return nil
	}
	return list[i]
}

// acquire returns the file of s, to be released after use; ErrGone when s was deleted.
func (t *table) acquire(s *segment) (*handle, error) {
	if h := s.file.shared.Load(); h != nil && h.hold() {
		if !s.file.recent.Load() {
			s.file.recent.Store(true)
		}
		return h, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if h := s.file.shared.Load(); h != nil && h.hold() {
		return h, nil
	}
	if t.mu.gone {
		return nil, ErrClosed
	}
	if !slices.Contains(t.all(), s) {
		return nil, ErrGone
	}
	f, err := t.fs.Open(t.path(s.name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrGone // removed, and about to be dropped
	}
	if err != nil {
		return nil, fmt.Errorf("commitlog: open segment %s: %w", s.name, err)
	}
	h := newHandle(f)
	h.hold()
	t.shareLocked(s, h)
	return h, nil
}

// shareLocked makes h, with one reference of its own, the handle that readers of s share. The least used one of the
// others is closed when there are too many.
func (t *table) shareLocked(s *segment, h *handle) {
	for len(t.mu.open) >= maxHandles {
		t.mu.hand %= len(t.mu.open)
		if victim := t.mu.open[t.mu.hand]; victim.file.recent.Swap(false) {
			t.mu.hand++
		} else {
			t.unshareLocked(victim)
		}
	}
	s.file.shared.Store(h)
	s.file.recent.Store(true)
	t.mu.open = append(t.mu.open, s)
}

func (t *table) unshareLocked(s *segment) {
	if i := slices.Index(t.mu.open, s); i >= 0 {
		t.mu.open = slices.Delete(t.mu.open, i, i+1)
	}
	if h := s.file.shared.Swap(nil); h != nil {
		h.release()
	}
}

// drop takes s off the list. Its file is closed once nobody reads it any more.
func (t *table) drop(s *segment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(t.all()), func(o *segment) bool { return o == s })
	t.list.Store(&list)
	t.unshareLocked(s)
}

// close closes every handle that is not in use; those in use are closed by their users.
func (t *table) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.gone = true
	for len(t.mu.open) > 0 {
		t.unshareLocked(t.mu.open[0])
	}
}

// syncDir makes what was created in or removed from dir durable.
func syncDir(fsys vfs.FS, dir string) error {
	d, err := fsys.OpenDir(dir)
	if err != nil {
		return fmt.Errorf("commitlog: open directory: %w", err)
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("commitlog: sync directory: %w", err)
	}
	return nil
}
