package tiered

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"sync/atomic"

	"github.com/cairnmq/cairn/tiered/objects"
)

// ErrNoManifest says that nobody has made a tier here yet.
var ErrNoManifest = errors.New("tiered: there is no manifest")

// Manifests reads the manifests of a tier and makes new generations of it. Each generation is an object that is only ever
// created, so of two writers that go on from the same one only one wins, and the other goes on from what the first made.
type Manifests struct {
	store  objects.Store
	writer string
	turn   chan struct{} // holds a token: one load or commit at a time
	view   atomic.Pointer[Manifest]
	least  atomic.Uint64 // a generation that is known to have been there
	owner  atomic.Bool
}

// NewManifests does not look at the store yet. least is the newest generation that the caller knows of from before, 0 when
// none: an older one is not taken for the newest, and when none is there any more that is a *LostError.
func NewManifests(store objects.Store, least uint64) *Manifests {
	m := &Manifests{store: store, writer: randomID(), turn: make(chan struct{}, 1)}
	m.least.Store(least)
	return m
}

// randomID is what two processes do not both make.
func randomID() string {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}

// View is the newest manifest that was loaded or committed; nil when none was.
func (m *Manifests) View() *Manifest { return m.view.Load() }

// Owned says whether this process has claimed the tier, and no other has since, as far as is known here.
func (m *Manifests) Owned() bool {
	view := m.View()
	return view != nil && m.owner.Load() && view.Owner == m.writer
}

// Writer is the random name of this process in the manifests.
func (m *Manifests) Writer() string { return m.writer }

func (m *Manifests) lock(ctx context.Context) error {
	select {
	case m.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *Manifests) unlock() { <-m.turn }

// Load finds the newest manifest: the greatest one listed or known, then each next one until there is none, since lists may be
// stale. Errors: ErrNoManifest, *LostError, *DamageError, the store's.
func (m *Manifests) Load(ctx context.Context) (*Manifest, error) {
	if err := m.lock(ctx); err != nil {
		return nil, err
	}
	defer m.unlock()
	return m.load(ctx)
}

func (m *Manifests) load(ctx context.Context) (*Manifest, error) {
	least := m.least.Load()
	newest, err := m.listed(ctx, least)
	if err != nil {
		return nil, err
	}
	view := m.View()
	var raw []byte
	if newest = max(newest, least); newest > 0 && (view == nil || view.Generation != newest) {
		if raw, err = m.get(ctx, manifestName(newest)); errors.Is(err, objects.ErrNotFound) {
			return nil, &LostError{newest}
		}
		if err != nil {
			return nil, err
		}
	}
	for {
		next, err := m.get(ctx, manifestName(newest+1))
		if errors.Is(err, objects.ErrNotFound) {
			break
		}
		if err != nil {
			return nil, err
		}
		raw, newest = next, newest+1
	}
	switch {
	case newest == 0:
		return nil, ErrNoManifest
	case raw == nil:
		return view, nil
	}
	return m.adopt(ctx, newest, raw)
}

// listed is the greatest generation from least on that the store lists, 0 when it lists none.
func (m *Manifests) listed(ctx context.Context, least uint64) (newest uint64, err error) {
	after := manifestName(max(least, 1) - 1)
	for info, err := range m.store.List(ctx, manifestPrefix, after) {
		if err != nil {
			return 0, fmt.Errorf("tiered: list manifests: %w", err)
		}
		if g, ok := manifestGeneration(info.Name); ok {
			newest = max(newest, g)
		}
	}
	return newest, nil
}

// adopt makes the manifest the view.
func (m *Manifests) adopt(ctx context.Context, generation uint64, raw []byte) (*Manifest, error) {
	view, err := m.decode(ctx, generation, raw)
	if err != nil {
		return nil, err
	}
	m.view.Store(view)
	m.least.Store(max(m.least.Load(), generation))
	return view, nil
}

// decode reads a manifest and those of its pages that the view has not.
func (m *Manifests) decode(ctx context.Context, generation uint64, raw []byte) (*Manifest, error) {
	name := manifestName(generation)
	f, err := decodeManifest(name, raw)
	if err != nil {
		return nil, err
	}
	if f.Generation != generation {
		return nil, &DamageError{Object: name, Reason: fmt.Sprintf("it says that it is generation %d", f.Generation)}
	}
	man := &Manifest{
		Store: f.Store, Generation: f.Generation, Writer: f.Writer, Owner: f.Owner, Snapshots: f.Snapshots,
		previous: f.Previous, crc: crc32.Checksum(raw, castagnoli),
	}
	for i := range f.Pages {
		p := page{pageRef: f.Pages[i]}
		if p.parts, err = m.page(ctx, &p.pageRef); err != nil {
			return nil, err
		}
		man.pages, man.Parts = append(man.pages, p), append(man.Parts, p.parts...)
	}
	man.Parts = append(man.Parts, f.Parts...)
	if err := checkParts(man.Parts); err != nil {
		return nil, &DamageError{Object: name, Reason: "it is impossible", Cause: err}
	}
	return man, nil
}

// page gets the parts of a page, which is never changed.
func (m *Manifests) page(ctx context.Context, ref *pageRef) ([]Part, error) {
	if view := m.View(); view != nil {
		if i := slices.IndexFunc(view.pages, func(p page) bool { return p.pageRef == *ref }); i >= 0 {
			return view.pages[i].parts, nil
		}
	}
	raw, err := m.get(ctx, ref.name())
	if err != nil {
		return nil, err
	}
	return decodePage(ref, raw)
}

// get reads a whole small object. One whose content turns out to be wrong is for the caller to read again: everything here has
// a checksum, and loads are repeated.
func (m *Manifests) get(ctx context.Context, name string) ([]byte, error) {
	buf := make([]byte, 64<<10)
	for n := 0; ; {
		got, err := m.store.ReadAt(ctx, name, buf[n:], int64(n))
		n += got
		switch {
		case errors.Is(err, io.EOF):
			return buf[:n], nil
		case err != nil:
			return nil, fmt.Errorf("tiered: read %s: %w", name, err)
		case n > maxManifest:
			return nil, &DamageError{Object: name, Reason: fmt.Sprintf("it has more than %d bytes", maxManifest)}
		}
		buf = slices.Grow(buf, len(buf))[:2*len(buf)]
	}
}

// Claim makes this process the owner of the tier of a store, and the tier when there is none. Other processes that have
// claimed it get a *SupersededError from their next commit on. Errors: *ForeignError when the tier is another store's,
// *LostError, the store's.
func (m *Manifests) Claim(ctx context.Context, store StoreID) (*Manifest, error) {
	return m.commit(ctx, func(next *Manifest, first bool) error {
		if first {
			next.Store = store
		}
		if next.Store != store {
			return &ForeignError{Have: next.Store, Want: store}
		}
		next.Owner = m.writer
		return nil
	}, func() { m.owner.Store(true) })
}

// Commit makes the next generation: what change makes of the newest one. When somebody else made that generation, change is
// applied to theirs. After an error that is temporary the change may have been made, and is applied to its own result when the
// commit is tried again, so it must be one that can be applied twice. It may replace Parts and Snapshots.
//
// A process that has claimed the tier commits as long as it is the owner, and gets a *SupersededError from then on. One that
// has not (a tool) leaves the owner as it is.
func (m *Manifests) Commit(ctx context.Context, change func(next *Manifest) error) (*Manifest, error) {
	return m.commit(ctx, func(next *Manifest, first bool) error {
		if first {
			return ErrNoManifest
		}
		if m.owner.Load() && next.Owner != m.writer {
			return &SupersededError{next.Generation, next.Owner}
		}
		return change(next)
	}, func() {})
}

func (m *Manifests) commit(ctx context.Context, change func(next *Manifest, first bool) error, won func()) (*Manifest, error) {
	if err := m.lock(ctx); err != nil {
		return nil, err
	}
	defer m.unlock()
	for {
		next, err := m.next(ctx, change)
		if err != nil {
			return nil, err
		}
		raw, err := m.encode(ctx, next)
		if err != nil {
			return nil, err
		}
		err = m.create(ctx, next.Generation, raw)
		if errors.Is(err, objects.ErrExists) {
			continue
		}
		if err != nil {
			return nil, err
		}
		view, err := m.adopt(ctx, next.Generation, raw)
		if err != nil {
			return nil, err
		}
		if err := m.confirm(ctx, view); err != nil {
			return nil, err
		}
		won()
		return view, nil
	}
}

// next is what change makes of the newest manifest.
func (m *Manifests) next(ctx context.Context, change func(next *Manifest, first bool) error) (*Manifest, error) {
	newest, err := m.load(ctx)
	first := errors.Is(err, ErrNoManifest)
	if err != nil && !first {
		return nil, err
	}
	next := &Manifest{}
	if !first {
		next = newest.clone()
	}
	if err := change(next, first); err != nil {
		return nil, err
	}
	next.Generation++
	next.Writer, next.previous = m.writer, next.crc
	if err := next.check(); err != nil {
		return nil, fmt.Errorf("tiered: refused to commit: %w", err)
	}
	return next, nil
}

// create makes the object of a generation. objects.ErrExists means that somebody else made it. When the answer is lost, or says
// that the object exists, the object is read: what is there may be ours.
func (m *Manifests) create(ctx context.Context, generation uint64, raw []byte) error {
	name := manifestName(generation)
	err := m.store.Create(ctx, name, raw)
	if err == nil || errors.Is(err, objects.ErrRefused) {
		return wrapStore("create", name, err)
	}
	there, readErr := m.get(ctx, name)
	switch {
	case readErr == nil && bytes.Equal(there, raw):
		return nil
	case readErr == nil:
		return fmt.Errorf("tiered: create %s: %w", name, objects.ErrExists)
	case errors.Is(err, objects.ErrExists):
		err = readErr
	}
	return wrapStore("create", name, err)
}

func wrapStore(verb, name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("tiered: %s %s: %w", verb, name, err)
}

// confirm makes sure that a generation that was created is the newest one, or that what came behind goes on from it. A process
// that slept for longer than old generations are kept may create one that was there and is gone; then a later one is listed that
// knows nothing of it.
func (m *Manifests) confirm(ctx context.Context, made *Manifest) error {
	newest, err := m.listed(ctx, made.Generation+1)
	if err != nil || newest <= made.Generation {
		return err
	}
	name := manifestName(made.Generation + 1)
	raw, err := m.get(ctx, name)
	if err != nil && !errors.Is(err, objects.ErrNotFound) {
		return err
	}
	if err == nil {
		behind, err := decodeManifest(name, raw)
		if err != nil {
			return err
		}
		if behind.Previous == made.crc {
			return nil
		}
	}
	late, err := m.load(ctx)
	if err != nil {
		return err
	}
	return &SupersededError{late.Generation, late.Owner}
}

// encode makes the object of a manifest. Runs of parts that a page has already are left there; what became too long for the
// manifest goes to a new page, which is put before.
func (m *Manifests) encode(ctx context.Context, next *Manifest) ([]byte, error) {
	f := manifestFile{
		Format: manifestFormat, Store: next.Store, Generation: next.Generation, Previous: next.previous, Writer: next.Writer,
		Owner: next.Owner, Snapshots: next.Snapshots,
	}
	rest := next.Parts
	for i := range next.pages {
		old := &next.pages[i]
		n := partAt(rest, old.parts[len(old.parts)-1].End-1)
		if n < len(rest) && rest[n].Start < old.parts[len(old.parts)-1].End {
			n++
		}
		if n == 0 {
			continue // retention took all of it
		}
		ref := old.pageRef
		if !slices.Equal(rest[:n], old.parts) {
			var err error
			if ref, err = m.putPage(ctx, rest[:n]); err != nil {
				return nil, err
			}
		}
		f.Pages, rest = append(f.Pages, ref), rest[n:]
	}
	for len(rest) >= 2*pageParts {
		ref, err := m.putPage(ctx, rest[:pageParts])
		if err != nil {
			return nil, err
		}
		f.Pages, rest = append(f.Pages, ref), rest[pageParts:]
	}
	f.Parts = rest
	return seal(&f)
}

func (m *Manifests) putPage(ctx context.Context, parts []Part) (pageRef, error) {
	raw, err := seal(&pageFile{Format: manifestFormat, Parts: parts})
	if err != nil {
		return pageRef{}, err
	}
	ref := pageRef{Start: parts[0].Start, ID: randomID(), Parts: len(parts), CRC: crc32.Checksum(raw, castagnoli)}
	if err := m.store.Put(ctx, ref.name(), bytes.NewReader(raw), int64(len(raw))); err != nil {
		return pageRef{}, wrapStore("put", ref.name(), err)
	}
	return ref, nil
}
