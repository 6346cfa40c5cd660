package tiered

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/klauspost/compress/zstd"

	"github.com/cairnmq/cairn/kvindex"
)

const (
	// pageSize is how a table object is cut up to be cached.
	pageSize = 64 << 10
	// tableTail is how much of a table's end is read with the first request: footer, properties, queue rows and index of all
	// but very large ones.
	tableTail = 256 << 10
	// mostPagesAhead bounds what is fetched ahead of a walk through a table.
	mostPagesAhead = 16
	// openTables is how many tables are kept open: some hundred bytes each.
	openTables = 256
	// knownQueues is how many answers about a queue in a table are kept: about 200 bytes each.
	knownQueues = 1 << 14
)

// tableObject is a table object as pages. Pages have no checksum of their own, the sstable's blocks have.
type tableObject struct {
	name string
	size int64
}

func (o tableObject) objectName() string { return o.name }
func (o tableObject) kind() pageKind     { return pageTable }
func (o tableObject) lastPage() int      { return int((o.size - 1) / pageSize) }

func (o tableObject) place(page int) (off int64, n int) {
	off = int64(page) * pageSize
	return off, int(min(pageSize, o.size-off))
}

func (o tableObject) decode(_ *zstd.Decoder, _ int, stored []byte) ([]byte, error) {
	return bytes.Clone(stored), nil
}

// tail is the pages that are read when the table is opened.
func (o tableObject) tail() span {
	return span{int(max(o.size-tableTail, 0) / pageSize), o.lastPage()}
}

// tableFile is a table object for the sstable's reader. It holds nothing, so it need not be closed.
type tableFile struct {
	fetch *fetcher
	tableObject
}

// ReadAt implements objstorage.Readable.
func (t tableFile) ReadAt(ctx context.Context, p []byte, off int64) error {
	if off < 0 || int64(len(p)) > t.size-off {
		return &DamageError{Object: t.name, Offset: off, Reason: fmt.Sprintf("%d bytes cannot be here", len(p))}
	}
	if len(p) == 0 {
		return nil
	}
	first := int(off / pageSize)
	pages, err := t.fetch.pages(ctx, t.tableObject, first, int((off+int64(len(p))-1)/pageSize))
	if err != nil {
		return err
	}
	skip := int(off % pageSize)
	for _, page := range pages {
		p = p[copy(p, page[skip:]):]
		skip = 0
	}
	return nil
}

// Close implements objstorage.Readable.
func (t tableFile) Close() error { return nil }

// Size implements objstorage.Readable.
func (t tableFile) Size() int64 { return t.size }

// NewReadHandle implements objstorage.Readable.
func (t tableFile) NewReadHandle(objstorage.ReadBeforeSize) objstorage.ReadHandle {
	return &tableWalk{tableFile: t}
}

// tableWalk fetches ahead what is read in order.
type tableWalk struct {
	tableFile
	end    int64 // of the read before
	window int   // pages
	asked  int   // the page behind those that were fetched ahead
}

// ReadAt implements objstorage.ReadHandle.
func (w *tableWalk) ReadAt(ctx context.Context, p []byte, off int64) error {
	next := off + int64(len(p))
	if off == w.end && off > 0 && next/pageSize != off/pageSize {
		w.window = min(max(2*w.window, 2), mostPagesAhead)
		from := max(int(next/pageSize)+1, w.asked)
		if to := min(int(next/pageSize)+w.window, w.lastPage()); from <= to {
			w.asked = to + 1
			w.fetch.ahead(w.tableObject, from, to)
		}
	}
	w.end = next
	return w.tableFile.ReadAt(ctx, p, off)
}

// SetupForCompaction implements objstorage.ReadHandle.
func (w *tableWalk) SetupForCompaction() {}

// RecordCacheHit implements objstorage.ReadHandle.
func (w *tableWalk) RecordCacheHit(context.Context, int64, int64) {}

// tables opens tables, and remembers those used last.
type tables struct {
	fetch *fetcher
	mu    struct {
		sync.Mutex
		open   *simplelru.LRU[string, *sstable.Reader]
		queues *simplelru.LRU[queueIn, queueFound]
	}
}

// queueIn asks for a queue in a table.
type queueIn struct {
	table string
	topic kvindex.ID
	queue int32
}

type queueFound struct {
	QueueRange
	ok bool
}

func newTables(f *fetcher) (*tables, error) {
	t := &tables{fetch: f}
	var err error
	if t.mu.open, err = simplelru.NewLRU[string, *sstable.Reader](openTables, nil); err != nil {
		return nil, err
	}
	if t.mu.queues, err = simplelru.NewLRU[queueIn, queueFound](knownQueues, nil); err != nil {
		return nil, err
	}
	return t, nil
}

// reader returns the table of a part. It is closed by nobody: it holds no more than what it read of the table's end.
func (t *tables) reader(ctx context.Context, o tableObject) (*sstable.Reader, error) {
	t.mu.Lock()
	r, ok := t.mu.open.Get(o.name)
	t.mu.Unlock()
	if ok {
		return r, nil
	}
	tail := o.tail()
	last, err := t.fetch.pages(ctx, o, tail.first, tail.last)
	if err != nil {
		return nil, err
	}
	if !endsTable(last[len(last)-1]) {
		return nil, &DamageError{Object: o.name, Offset: o.size, Reason: "no table of this format ends here"}
	}
	r, err = sstable.NewReader(ctx, tableFile{t.fetch, o}, sstable.ReaderOptions{
		Comparer: pebble.DefaultComparer, KeySchemas: sstable.MakeKeySchemas(&keySchema),
	})
	if err != nil {
		return nil, o.wrap(err)
	}
	t.mu.Lock()
	t.mu.open.Add(o.name, r)
	t.mu.Unlock()
	return r, nil
}

// endsTable says whether the footer is one with a checksum, so that no length in it is believed unchecked. When the last page is
// shorter than version and magic number, what is there of them must fit.
func endsTable(page []byte) bool {
	magic, version := tableFormat.AsTuple()
	end := le.AppendUint32(nil, version)
	end = append(end, magic...)
	if len(page) < len(end) {
		return bytes.HasSuffix(end, page)
	}
	return bytes.HasSuffix(page, end)
}

// wrap makes an error of the sstable package ours.
func (o tableObject) wrap(err error) error {
	var damage *DamageError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &damage):
		return damage
	case pebble.IsCorruptionError(err):
		return &DamageError{Object: o.name, Reason: "a block of the table cannot be read", Cause: err}
	}
	return fmt.Errorf("tiered: read table %s: %w", o.name, err)
}

// forget drops what is known of a table that turned out to be damaged, so that it is read again.
func (t *tables) forget(o tableObject) {
	t.mu.Lock()
	t.mu.open.Remove(o.name)
	t.mu.Unlock()
	t.fetch.forget(o, 0, o.lastPage())
}

// queue says what a part's table has of a queue.
func (t *tables) queue(ctx context.Context, p *Part, topic kvindex.ID, queue int32) (r QueueRange, ok bool, err error) {
	in := queueIn{p.TableName(), topic, queue}
	t.mu.Lock()
	found, known := t.mu.queues.Get(in)
	t.mu.Unlock()
	if known {
		return found.QueueRange, found.ok, nil
	}
	c, err := t.rows(ctx, p)
	if err != nil {
		return r, false, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	key := appendQueueKey(nil, familyQueue, topic, queue)
	there, err := c.seekGE(key)
	if err != nil {
		return r, false, err
	}
	if there && bytes.Equal(c.key, key) {
		found.ok = true
		if found.QueueRange, err = decodeQueueRange(c.value); err != nil {
			return r, false, &DamageError{Object: in.table, Reason: fmt.Sprintf("row %x", key), Cause: err}
		}
	}
	t.mu.Lock()
	t.mu.queues.Add(in, found)
	t.mu.Unlock()
	return found.QueueRange, found.ok, nil
}
