package tiered

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cairnmq/cairn/internal/record"
)

// Bodies reads the bytes of a part from front to back, past the caches: who makes a part anew reads all of it once. It is used by one
// goroutine. Errors are those of Tier.ReadRaw, and io.EOF at the part's end.
type Bodies struct {
	tier *Tier
	ctx  context.Context
	part Part
	x    *blockIndex
	next int // block to fetch
	have [][]byte
}

// Bodies returns a reader of a part. Nothing is read before the first Read.
func (t *Tier) Bodies(ctx context.Context, p *Part) *Bodies {
	return &Bodies{tier: t, ctx: ctx, part: *p}
}

// Read implements io.Reader.
func (b *Bodies) Read(p []byte) (int, error) {
	for len(b.have) > 0 && len(b.have[0]) == 0 {
		b.have = b.have[1:]
	}
	if len(b.have) == 0 {
		if err := b.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, b.have[0])
	b.have[0] = b.have[0][n:]
	return n, nil
}

// fill fetches as many blocks as one request should ask for.
func (b *Bodies) fill() (err error) {
	if err := b.ctx.Err(); err != nil {
		return err
	}
	if b.x == nil {
		if b.x, err = b.tier.fetch.openBodies(b.ctx, &b.part); err != nil {
			return err
		}
	}
	count := int(b.x.blocks())
	if b.next == count {
		return io.EOF
	}
	s := span{b.next, min(b.next+int(maxFetch/b.x.blockSize), count) - 1}
	s.last = max(s.first, s.last)
	got, err := b.blocks(s)
	var damage *DamageError
	if errors.As(err, &damage) {
		got, err = b.blocks(s) // it may have been the answer that was damaged
	}
	if err != nil {
		return err
	}
	b.have, b.next = got, s.last+1
	return nil
}

// blocks fetches some blocks.
func (b *Bodies) blocks(s span) ([][]byte, error) {
	off, _ := b.x.place(s.first)
	end, n := b.x.place(s.last)
	stored := make([]byte, end+int64(n)-off)
	if err := b.tier.fetch.readAt(b.x.name, stored, off); err != nil {
		return nil, err
	}
	out := make([][]byte, s.len())
	for i := range out {
		at, n := b.x.place(s.first + i)
		raw, err := b.x.decode(b.tier.fetch.dec, s.first+i, stored[at-off:][:n])
		if err != nil {
			return nil, err
		}
		out[i] = raw
	}
	return out, nil
}

// Replace puts the objects of a part that was made anew, reads both back, and names it in the manifest in place of the old one, whose
// objects are for Orphans then. Start, End, From and Until stay; the Generation is chosen here. Errors: those of Add; also when the
// manifest has the old part no more.
func (t *Tier) Replace(ctx context.Context, old, p Part, log, table io.ReadSeeker) (Part, error) {
	if p.Start != old.Start || p.End != old.End || p.From != old.From || p.Until != old.Until {
		return p, fmt.Errorf("tiered: the part at %d cannot take the place of the one at %d", p.Start, old.Start)
	}
	p.Generation = newGeneration()
	if err := p.check(); err != nil {
		return p, fmt.Errorf("tiered: replace: %w", err)
	}
	if err := t.putPart(ctx, &p, log, table); err != nil {
		return p, err
	}
	_, err := t.manifests.Commit(ctx, func(next *Manifest) error {
		i := slices.IndexFunc(next.Parts, func(q Part) bool { return q.Start == p.Start })
		switch {
		case i >= 0 && next.Parts[i] == p: // made before, and its answer was lost
			return nil
		case i < 0 || next.Parts[i] != old:
			return fmt.Errorf("tiered: the part at %d is another one by now", p.Start)
		}
		next.Parts[i] = p
		return nil
	})
	return p, err
}

// Remove takes the parts that end at or before a position out of the manifest; their objects are for Orphans then. Errors: those of
// Manifests.Commit.
func (t *Tier) Remove(ctx context.Context, until record.Position) error {
	_, err := t.manifests.Commit(ctx, func(next *Manifest) error {
		next.Parts = slices.DeleteFunc(next.Parts, func(p Part) bool { return p.End <= until })
		return nil
	})
	return err
}
