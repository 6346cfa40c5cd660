package tiered

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"

	"github.com/cairnmq/cairn/tiered/objects"
)

// maxFetch is how many bytes one request asks for at most, about.
const maxFetch = 8 << 20

// paged is an object that is read in pages.
type paged interface {
	objectName() string
	kind() pageKind
	// place says where the stored bytes of a page are in the object. Those of neighbours follow each other.
	place(page int) (off int64, n int)
	// decode makes of the stored bytes of a page what is cached, in memory of its own. An error is a *DamageError.
	decode(dec *zstd.Decoder, page int, stored []byte) ([]byte, error)
}

// fetcher gets pages: from memory, from the disk cache, from the store. Whoever wants a page that is being fetched waits for
// that; neighbours are fetched with one request. A fetch does not end with who asked for it first, since others may wait too: it
// belongs to the fetcher, and Close waits for it.
type fetcher struct {
	store  objects.Store
	memory *memory
	disk   *disk // nil: none
	dec    *zstd.Decoder
	slots  chan struct{} // a token for each request to the store
	spare  chan struct{} // a token for each that nobody waits for yet

	ctx    context.Context // ends with close
	cancel context.CancelFunc
	mu     struct {
		sync.Mutex
		closed bool
	}
	workers sync.WaitGroup

	counts struct{ hits, misses, requests, bytes, ahead atomic.Int64 }
}

func newFetcher(store objects.Store, o Options) (*fetcher, error) {
	f := &fetcher{store: store, memory: newMemory(o.Memory), slots: make(chan struct{}, o.Requests)}
	f.spare = make(chan struct{}, max(o.Requests/2, 1))
	var err error
	if f.dec, err = newDecoder(); err != nil {
		return nil, err
	}
	if o.Disk != "" && o.DiskBytes > 0 {
		if f.disk, err = openDisk(o.Disk, o.DiskBytes); err != nil {
			f.dec.Close()
			return nil, err
		}
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f, nil
}

// close ends what is under way and waits for it.
func (f *fetcher) close() {
	f.mu.Lock()
	closed := f.mu.closed
	f.mu.closed = true
	f.mu.Unlock()
	if closed {
		return
	}
	f.cancel()
	f.workers.Wait()
	f.dec.Close()
}

// begin counts a worker in, unless the fetcher is closed.
func (f *fetcher) begin() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.closed {
		return ErrClosed
	}
	f.workers.Add(1)
	return nil
}

// pages returns the pages first to last, which nobody may change.
func (f *fetcher) pages(ctx context.Context, o paged, first, last int) ([][]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	have, flights, spans := f.memory.claim(o.objectName(), o.kind(), first, last)
	for _, s := range spans {
		f.launch(o, s, nil)
	}
	for i, flight := range flights {
		if flight == nil {
			f.counts.hits.Add(1)
			continue
		}
		f.counts.misses.Add(1)
		select {
		case <-flight.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if flight.err != nil {
			return nil, flight.err
		}
		have[i] = flight.bytes
	}
	return have, nil
}

// ahead begins to fetch those of the pages first to last that are not there, when there is a token to spare. Nobody waits.
func (f *fetcher) ahead(o paged, first, last int) {
	select {
	case f.spare <- struct{}{}:
	default:
		return
	}
	done := sync.WaitGroup{}
	_, _, spans := f.memory.claim(o.objectName(), o.kind(), first, last)
	for _, s := range spans {
		f.counts.ahead.Add(int64(s.len()))
		done.Add(1)
		f.launch(o, s, done.Done)
	}
	if err := f.begin(); err != nil {
		<-f.spare
		return
	}
	go func() {
		defer f.workers.Done()
		done.Wait()
		<-f.spare
	}()
}

// launch fetches pages that were claimed, in the background, and calls then.
func (f *fetcher) launch(o paged, s span, then func()) {
	if err := f.begin(); err != nil {
		f.land(o, s, nil, err)
		if then != nil {
			then()
		}
		return
	}
	go func() {
		defer f.workers.Done()
		if then != nil {
			defer then()
		}
		for s.first <= s.last {
			part := span{s.first, s.first}
			for total := 0; part.last < s.last; part.last++ {
				_, n := o.place(part.last + 1)
				if total += n; total > maxFetch {
					break
				}
			}
			got, err := f.load(o, part)
			f.land(o, part, got, err)
			s.first = part.last + 1
		}
	}()
}

func (f *fetcher) land(o paged, s span, got [][]byte, err error) {
	for i := range s.len() {
		var b []byte
		if err == nil {
			b = got[i]
		}
		f.memory.land(pageKey{o.objectName(), o.kind(), s.first + i}, b, err)
	}
}

// load gets pages from the disk cache, and those which that has not from the store.
func (f *fetcher) load(o paged, s span) ([][]byte, error) {
	got := make([][]byte, s.len())
	for i := range got {
		key := pageKey{o.objectName(), o.kind(), s.first + i}
		stored, ok := f.disk.get(key)
		if !ok {
			continue
		}
		raw, err := o.decode(f.dec, s.first+i, stored)
		if err != nil {
			f.disk.forget(key)
			continue
		}
		got[i] = raw
	}
	for i := 0; i < len(got); i++ {
		if got[i] != nil {
			continue
		}
		missing := span{s.first + i, s.first + i}
		for i+1 < len(got) && got[i+1] == nil {
			i++
			missing.last++
		}
		if err := f.insist(o, missing, got[missing.first-s.first:]); err != nil {
			return nil, err
		}
	}
	return got, nil
}

// insist gets pages from the store. It may have been the answer that was damaged, or cut off, so it takes two of a kind to give up: an
// object is damaged when two answers were, whatever became of a request between them.
func (f *fetcher) insist(o paged, s span, got [][]byte) error {
	var damaged, failed int
	for {
		err := f.fetch(o, s, got)
		if err == nil || final(err) {
			return err
		}
		var damage *DamageError
		if errors.As(err, &damage) {
			damaged++
		} else {
			failed++
		}
		if damaged == 2 || failed == 2 {
			return err
		}
	}
}

// final says that trying again would end as before.
func final(err error) bool {
	return errors.Is(err, objects.ErrNotFound) || errors.Is(err, objects.ErrRefused) || errors.Is(err, ErrClosed)
}

// fetch gets pages from the store.
func (f *fetcher) fetch(o paged, s span, got [][]byte) error {
	off, _ := o.place(s.first)
	end, n := o.place(s.last)
	all := make([]byte, end+int64(n)-off)
	if err := f.readAt(o.objectName(), all, off); err != nil {
		return err
	}
	for i := range s.len() {
		at, n := o.place(s.first + i)
		stored := all[at-off : at-off+int64(n)]
		raw, err := o.decode(f.dec, s.first+i, stored)
		if err != nil {
			return err
		}
		got[i] = raw
		runtime.Gosched() // others' work is short, and that of many pages long
		f.disk.put(pageKey{o.objectName(), o.kind(), s.first + i}, stored)
	}
	return nil
}

// readAt fills p from the store.
func (f *fetcher) readAt(name string, p []byte, off int64) error {
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	case <-f.ctx.Done():
		return ErrClosed
	}
	f.counts.requests.Add(1)
	n, err := f.store.ReadAt(f.ctx, name, p, off)
	f.counts.bytes.Add(int64(n))
	switch {
	case n == len(p):
		return nil
	case f.ctx.Err() != nil:
		return ErrClosed
	case errors.Is(err, io.EOF):
		return &DamageError{Object: name, Offset: off + int64(n), Reason: "it ends here"}
	}
	return fmt.Errorf("tiered: read %d bytes at offset %d of %s: %w", len(p), off, name, err)
}

// forget drops what is cached of an object whose pages have no checksum of their own and turned out to be wrong.
func (f *fetcher) forget(o paged, first, last int) {
	f.memory.forget(o.objectName())
	for i := first; i <= last; i++ {
		f.disk.forget(pageKey{o.objectName(), o.kind(), i})
	}
}
