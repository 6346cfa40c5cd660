package tiered

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/cairnmq/cairn/tiered/objects"
)

// Add puts the objects of a part that lies behind all others, log for its bodies and table for its rows, reads both back, and then names
// the part in the manifest: what was added can be read from then on. The part's Generation is chosen here, another one at each try: the
// objects of a try that was broken off may be there, and a manifest whose answer was lost may name them. Errors: *DamageError when the
// store gives back something else, those of Manifests.Commit, the store's. After an error the part is not there, or it is whole; objects
// that no manifest names are for Orphans.
func (t *Tier) Add(ctx context.Context, p Part, log, table io.ReadSeeker) (Part, error) {
	view := t.manifests.View()
	if view == nil {
		return p, ErrNoManifest
	}
	p.Generation = newGeneration()
	for i := range view.Parts {
		if view.Parts[i].Start == p.Start {
			return p, fmt.Errorf("tiered: add the part at %d: it is there", p.Start)
		}
	}
	if err := p.check(); err != nil {
		return p, fmt.Errorf("tiered: add: %w", err)
	}
	if err := t.putPart(ctx, &p, log, table); err != nil {
		return p, err
	}
	_, err := t.manifests.Commit(ctx, func(next *Manifest) error {
		if n := len(next.Parts); n > 0 && next.Parts[n-1].Start >= p.Start {
			if next.Parts[n-1] == p { // made before, and its answer was lost
				return nil
			}
			return fmt.Errorf("tiered: add the part at %d: the manifest has one at %d", p.Start, next.Parts[n-1].Start)
		}
		next.Parts = append(next.Parts, p)
		return nil
	})
	return p, err
}

// putPart puts the objects of a part and reads both back.
func (t *Tier) putPart(ctx context.Context, p *Part, log, table io.ReadSeeker) error {
	for _, o := range []struct {
		name    string
		content io.ReadSeeker
		sum     Sum
	}{{p.LogName(), log, Sum{p.LogBytes, p.LogCRC}}, {p.TableName(), table, Sum{p.TableBytes, p.TableCRC}}} {
		if err := t.fetch.store.Put(ctx, o.name, o.content, o.sum.Bytes); err != nil {
			return wrapStore("put", o.name, err)
		}
		if err := readBack(ctx, t.fetch.store, o.name, o.sum); err != nil {
			return err
		}
	}
	return nil
}

// readBack reads an object and compares its length and checksum.
func readBack(ctx context.Context, store objects.Store, name string, want Sum) error {
	crc := crc32.New(castagnoli)
	buf := make([]byte, 1<<20)
	for at := int64(0); ; {
		n, err := store.ReadAt(ctx, name, buf, at)
		_, _ = crc.Write(buf[:n])
		at += int64(n)
		if err != nil && !errors.Is(err, io.EOF) {
			return wrapStore("read back", name, err)
		}
		if at > want.Bytes || err != nil {
			if got := (Sum{at, crc.Sum32()}); got != want {
				return &DamageError{Object: name, Offset: at, Reason: fmt.Sprintf("read back %d bytes of checksum %08x, wrote %d of %08x", got.Bytes, got.CRC, want.Bytes, want.CRC)}
			}
			return nil
		}
	}
}
