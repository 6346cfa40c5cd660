package tiered

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"slices"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/tiered/objects"
)

// keptSnapshots is how many snapshots stay of those that a restore can use: one more than it needs, should that be damaged.
const keptSnapshots = 2

// end is where the newest part ends.
func (m *Manifest) end() record.Position {
	if n := len(m.Parts); n > 0 {
		return m.Parts[n-1].End
	}
	return 0
}

// Usable lists the snapshots that a restore can go on from, newest first: those of positions that the parts reach.
func (m *Manifest) Usable() []Snapshot {
	end := m.end()
	usable := slices.DeleteFunc(slices.Clone(m.Snapshots), func(s Snapshot) bool { return s.Position > end })
	slices.SortFunc(usable, func(a, b Snapshot) int {
		return cmp.Or(cmp.Compare(b.Position, a.Position), cmp.Compare(b.Generation, a.Generation))
	})
	return usable
}

// Newest is the snapshot of the greatest position, whether it can be used already or not; ok is false when there is none.
func (m *Manifest) Newest() (newest Snapshot, ok bool) {
	for _, s := range m.Snapshots {
		if !ok || s.Position >= newest.Position {
			newest, ok = s, true
		}
	}
	return newest, ok
}

// addSnapshot names one more, and drops those that nobody needs then.
func (m *Manifest) addSnapshot(s Snapshot) {
	m.Snapshots = append(slices.DeleteFunc(m.Snapshots, func(o Snapshot) bool { return o.Position == s.Position }), s)
	usable := m.Usable()
	for _, old := range usable[min(keptSnapshots, len(usable)):] {
		m.Snapshots = slices.DeleteFunc(m.Snapshots, func(o Snapshot) bool { return o == old })
	}
	slices.SortFunc(m.Snapshots, func(a, b Snapshot) int { return cmp.Compare(a.Position, b.Position) })
}

// AddSnapshot puts the object of a snapshot, reads it back, and then names it in the manifest, which keeps the newest ones. The
// snapshot's Generation is chosen here. Errors: *DamageError when the store gives back something else, those of Manifests.Commit, the
// store's. After an error the snapshot is not there, or it is whole; an object that no manifest names is for Orphans.
func (t *Tier) AddSnapshot(ctx context.Context, s Snapshot, content io.ReadSeeker) (Snapshot, error) {
	if t.manifests.View() == nil {
		return s, ErrNoManifest
	}
	s.Generation = newGeneration()
	if err := t.fetch.store.Put(ctx, s.Name(), content, s.Bytes); err != nil {
		return s, wrapStore("put", s.Name(), err)
	}
	if err := readBack(ctx, t.fetch.store, s.Name(), Sum{s.Bytes, s.CRC}); err != nil {
		return s, err
	}
	_, err := t.manifests.Commit(ctx, func(next *Manifest) error {
		if !slices.Contains(next.Snapshots, s) {
			next.addSnapshot(s)
		}
		return nil
	})
	return s, err
}

// TakeOver makes this process the owner of the tier on behalf of its store, for a restore: whoever wrote it gets a *SupersededError
// from its next commit on. Snapshots of what no part reaches are dropped, since the log goes on otherwise than they say. Errors:
// ErrNoManifest, those of Manifests.Commit, the store's.
func (t *Tier) TakeOver(ctx context.Context) (*Manifest, error) {
	if err := t.Refresh(ctx); err != nil {
		return nil, err
	}
	view := t.manifests.View()
	if view == nil {
		return nil, ErrNoManifest
	}
	if _, err := t.manifests.Claim(ctx, view.Store); err != nil {
		return nil, err
	}
	return t.manifests.Commit(ctx, func(next *Manifest) error {
		end := next.end()
		next.Snapshots = slices.DeleteFunc(next.Snapshots, func(s Snapshot) bool { return s.Position > end })
		return nil
	})
}

// snapshotChunk is how many bytes of a snapshot one request gets.
const snapshotChunk = 4 << 20

// SnapshotRows opens a snapshot, which it reads from front to back. Errors, also of the reader: *DamageError, ErrClosed, the store's;
// objects.ErrNotFound when the object is gone.
func (t *Tier) SnapshotRows(ctx context.Context, s *Snapshot) (*SnapshotReader, error) {
	r, err := ReadSnapshot(s.Name(), &wholeObject{tier: t, ctx: ctx, name: s.Name(), want: Sum{s.Bytes, s.CRC}, crc: crc32.New(castagnoli)})
	if err == nil && r.Head.End != s.Position {
		return nil, errors.Join(&DamageError{Object: s.Name(), Reason: fmt.Sprintf("it is of position %d", r.Head.End)}, r.Close())
	}
	return r, err
}

// wholeObject reads an object from front to back, and knows at its end whether it was what was written.
type wholeObject struct {
	tier *Tier
	ctx  context.Context
	name string
	want Sum
	at   int64
	crc  hash.Hash32
	have []byte
	buf  []byte
}

// Read implements io.Reader.
func (o *wholeObject) Read(p []byte) (int, error) {
	if len(o.have) == 0 {
		if err := o.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, o.have)
	o.have = o.have[n:]
	return n, nil
}

func (o *wholeObject) fill() error {
	if err := o.ctx.Err(); err != nil {
		return err
	}
	n := min(snapshotChunk, o.want.Bytes-o.at)
	if n <= 0 {
		if got := o.crc.Sum32(); got != o.want.CRC {
			return &DamageError{Object: o.name, Offset: o.at, Reason: fmt.Sprintf("its checksum is %08x, not %08x", got, o.want.CRC)}
		}
		return io.EOF
	}
	if o.buf == nil {
		o.buf = make([]byte, min(snapshotChunk, o.want.Bytes))
	}
	if err := o.tier.fetch.readAt(o.name, o.buf[:n], o.at); err != nil {
		return err
	}
	o.have = o.buf[:n]
	o.at += n
	_, _ = o.crc.Write(o.have)
	return nil
}

// Temporary says whether an error of the tier may pass by itself, so that the same call may succeed later.
func Temporary(err error) bool {
	var damage *DamageError
	var superseded *SupersededError
	var foreign *ForeignError
	var lost *LostError
	switch {
	case err == nil, errors.As(err, &damage), errors.As(err, &superseded), errors.As(err, &foreign), errors.As(err, &lost):
		return false
	}
	for _, final := range []error{
		ErrNoManifest, ErrClosed, objects.ErrNotFound, objects.ErrRefused, objects.ErrName,
	} {
		if errors.Is(err, final) {
			return false
		}
	}
	return true
}
