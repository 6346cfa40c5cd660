package tiered

import (
	"context"
	"errors"
	"fmt"
	"sort"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/tiered/objects"
)

// Options of a Tier. The zero value has defaults.
type Options struct {
	Memory    int64  // bytes of decoded blocks and pages that are cached; default 64 MiB
	Disk      string // folder of the disk cache, which is its own; empty: none
	DiskBytes int64  // size of the disk cache in bytes; default 1 GiB
	Requests  int    // to the store at a time; default 16
	Least     uint64 // the newest generation known from before; see NewManifests
}

func (o Options) withDefaults() Options {
	if o.Memory <= 0 {
		o.Memory = 64 << 20
	}
	if o.DiskBytes <= 0 {
		o.DiskBytes = 1 << 30
	}
	if o.Requests <= 0 {
		o.Requests = 16
	}
	return o
}

// Tier reads what sealed segments hold from the object store. Safe for concurrent use.
type Tier struct {
	manifests *Manifests
	fetch     *fetcher
	tables    *tables
	streams   *streams
	loading   *loading
}

// Open makes a tier and loads its newest manifest; a tier without one is empty. The store stays the caller's. Errors: *LostError,
// *DamageError, the store's, that the disk cache's folder cannot be used.
func Open(ctx context.Context, store objects.Store, o Options) (*Tier, error) {
	t, err := New(store, o)
	if err != nil {
		return nil, err
	}
	if err := t.Refresh(ctx); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// New makes a tier whose store is not asked for anything yet, so that it may be out of reach. Whoever reads waits for the first
// Refresh to succeed, and gets ErrNotLoaded when it fails. The store stays the caller's. Errors: that the disk cache's folder cannot be
// used.
func New(store objects.Store, o Options) (*Tier, error) {
	o = o.withDefaults()
	t := &Tier{manifests: NewManifests(store, o.Least), streams: newStreams(min(mostAhead, o.Memory/8)), loading: newLoading()}
	var err error
	if t.fetch, err = newFetcher(store, o); err != nil {
		return nil, err
	}
	if t.tables, err = newTables(t.fetch); err != nil {
		t.fetch.close()
		return nil, err
	}
	return t, nil
}

// Close ends what is under way; reads return ErrClosed then. Iterators must be closed before.
func (t *Tier) Close() { t.fetch.close() }

// Manifests makes new generations of the manifest; the tier reads by the newest one that it loaded or made.
func (t *Tier) Manifests() *Manifests { return t.manifests }

// Refresh looks for a newer manifest, which another process made. Errors: *LostError, *DamageError, the store's.
func (t *Tier) Refresh(ctx context.Context) error {
	_, err := t.manifests.Load(ctx)
	if errors.Is(err, ErrNoManifest) {
		err = nil
	}
	t.loading.tried(err)
	return err
}

// CheckStore returns objects.ErrRefused when the store does not keep what the manifest stands on: that of two who create an object one
// wins. It writes and removes a small object.
func (t *Tier) CheckStore(ctx context.Context) error { return objects.CheckCreate(ctx, t.fetch.store) }

// Bounds of a tier.
type Bounds struct {
	First, End  record.Position // of the oldest part's first byte, and behind the newest part
	From, Until int64           // ms since 1970: see Part
}

// Bounds says from where to where the tier goes; ok is false when it has no part.
func (t *Tier) Bounds() (b Bounds, ok bool) {
	parts := t.parts()
	if len(parts) == 0 {
		return Bounds{}, false
	}
	first, last := &parts[0], &parts[len(parts)-1]
	return Bounds{First: first.Start, End: last.End, From: first.From, Until: last.Until}, true
}

// parts of the present view. Nobody changes them.
func (t *Tier) parts() []Part {
	if view := t.manifests.View(); view != nil {
		return view.Parts
	}
	return nil
}

// afresh says whether an object that was not found is worth another look: when a newer manifest may name another one, which
// retention made of it.
func (t *Tier) afresh(ctx context.Context, err error) bool {
	if !errors.Is(err, objects.ErrNotFound) {
		return false
	}
	before := t.manifests.View()
	return t.Refresh(ctx) == nil && t.manifests.View() != before
}

// ReadRaw reads n bytes of the log at pos, less at a part's end, without a check of records, as commitlog.Log.ReadRaw does. The
// bytes returned are buf, grown when too small. Errors: commitlog.ErrGone (before the first part, or in a gap between two),
// commitlog.ErrNotFound (behind the last), *DamageError, ErrClosed, the store's.
func (t *Tier) ReadRaw(ctx context.Context, pos record.Position, n int, buf []byte) ([]byte, error) {
	out, err := t.readRaw(ctx, pos, n, buf[:0])
	if err != nil && t.afresh(ctx, err) {
		out, err = t.readRaw(ctx, pos, n, buf[:0])
	}
	return out, err
}

func (t *Tier) readRaw(ctx context.Context, pos record.Position, n int, buf []byte) ([]byte, error) {
	if err := t.loading.wait(ctx); err != nil {
		return buf, err
	}
	parts := t.parts()
	i := partAt(parts, pos)
	switch {
	case n < 0 || i == len(parts):
		return buf, fmt.Errorf("%w: %d is behind the tier", commitlog.ErrNotFound, pos)
	case pos < parts[i].Start:
		return buf, fmt.Errorf("%w: position %d is not in the tier", commitlog.ErrGone, pos)
	}
	p := &parts[i]
	n = int(min(int64(n), int64(p.End-pos)))
	if n == 0 {
		return buf, nil
	}
	x, err := t.fetch.openBodies(ctx, p)
	if err != nil {
		return buf, err
	}
	if from, to := t.streams.read(pos, pos+record.Position(n)); from < to {
		t.ahead(parts[i:], from, to)
	}
	for at, end := int64(pos-p.Start), int64(pos-p.Start)+int64(n); at < end; {
		first := at / x.blockSize
		last := min((end-1)/x.blockSize, first+maxFetch/x.blockSize)
		blocks, err := t.fetch.pages(ctx, x, int(first), int(last))
		if err != nil {
			return buf, err
		}
		for k, b := range blocks {
			b = b[at-(first+int64(k))*x.blockSize:]
			b = b[:min(int64(len(b)), end-at)]
			buf = append(buf, b...)
			at += int64(len(b))
		}
	}
	return buf, nil
}

// ahead begins to fetch [from, to) of the log. Of a part that was not read yet only the index is fetched.
func (t *Tier) ahead(parts []Part, from, to record.Position) {
	for i := partAt(parts, from); i < len(parts) && parts[i].Start < to; i++ {
		p := &parts[i]
		tail := bodiesTail{p.LogName(), p.LogBytes}
		n := tailLength(p.RawBytes(), p.LogBytes)
		raw, ok := t.fetch.memory.get(pageKey{tail.name, tail.kind(), n})
		if !ok {
			t.fetch.ahead(tail, n, n)
			continue
		}
		x, more, err := locateBlockIndex(tail.name, raw, tail.size)
		if err != nil || more > 0 {
			continue // who reads there finds out
		}
		first, last := max(from, p.Start)-p.Start, min(to, p.End)-p.Start-1
		t.fetch.ahead(x, int(int64(first)/x.blockSize), int(int64(last)/x.blockSize))
	}
}

// newestUntil is how many of the parts begin at or before a time.
func newestUntil(parts []Part, ms int64) int {
	return sort.Search(len(parts), func(i int) bool { return parts[i].From > ms })
}

// Stats counts what a tier's reads cost since it was opened.
type Stats struct {
	Hits, Misses int64 // pages that were in memory, and that were waited for
	Ahead        int64 // pages that were fetched before anybody asked
	Requests     int64 // reads of objects
	Bytes        int64 // that these got
	Memory, Disk int64 // bytes that are cached
	DiskFailed   int64 // files of the disk cache that could not be read or written
	Parts        int
	Generation   uint64 // of the manifest
}

// Stats tells what happened since Open.
func (t *Tier) Stats() Stats {
	c := &t.fetch.counts
	s := Stats{
		Hits: c.hits.Load(), Misses: c.misses.Load(), Ahead: c.ahead.Load(), Requests: c.requests.Load(), Bytes: c.bytes.Load(),
		Memory: t.fetch.memory.size(), Parts: len(t.parts()),
	}
	s.Disk, s.DiskFailed = t.fetch.disk.size()
	if view := t.manifests.View(); view != nil {
		s.Generation = view.Generation
	}
	return s
}
