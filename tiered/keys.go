package tiered

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// Keys walks over the messages that have a key of one hash, newest first. It is used by one goroutine, and closed by its owner.
type Keys struct {
	tier   *Tier
	ctx    context.Context
	prefix []byte // of the rows' keys
	begin  int64  // ms
	end    int64  // ms: rows are before (end, upTo)
	upTo   record.Position

	parts  []Part // that are left; the last is the one that rows walks over
	placed bool
	rows   *cursor
	again  bool // the manifest was looked at once more
	row    KeyRow
	err    error
}

// Keys returns the rows of a topic's key or unique id with this hash that were stored in [begin, end] ms. No row is read before
// Next. Each part of that time costs two small reads.
func (t *Tier) Keys(ctx context.Context, topic kvindex.ID, kind kvindex.IndexKind, hash uint64, begin, end int64) *Keys {
	return &Keys{
		tier: t, ctx: ctx, prefix: appendKeyPrefix(nil, topic, kind, hash), begin: max(begin, 0), end: end,
		upTo: math.MaxInt64,
	}
}

// Next goes to the next row; false at the end and after an error, which Close returns.
func (k *Keys) Next() bool {
	for k.err == nil {
		ok, err := k.step()
		if err == nil {
			return ok
		}
		if k.drop(); !k.again && k.tier.afresh(k.ctx, err) {
			k.again = true
			continue
		}
		k.err = err
	}
	return false
}

// Row is where it stands.
func (k *Keys) Row() KeyRow { return k.row }

// Close ends it and returns the error that ended the walk: *DamageError, ErrClosed, the store's. A second Close does nothing.
func (k *Keys) Close() error {
	k.drop()
	k.parts, k.placed = nil, true
	err := k.err
	k.err = nil
	return err
}

// drop lets the place go; the walk then goes on behind the last row in what is the view by then.
func (k *Keys) drop() {
	if k.rows != nil {
		k.err = errors.Join(k.err, k.rows.close())
	}
	k.rows, k.parts, k.placed = nil, nil, false
}

func (k *Keys) step() (bool, error) {
	if !k.placed {
		if err := k.tier.loading.wait(k.ctx); err != nil {
			return false, err
		}
		parts := k.tier.parts()
		k.parts, k.placed = parts[:newestUntil(parts, k.end)], true
	}
	for {
		ok, err := k.move()
		if err != nil || ok {
			return ok, err
		}
		if k.rows != nil {
			err := k.rows.close()
			if k.rows, k.parts = nil, k.parts[:len(k.parts)-1]; err != nil {
				return false, err
			}
		}
		if len(k.parts) == 0 || k.parts[len(k.parts)-1].Until < k.begin || k.end < k.begin {
			return false, nil
		}
		if k.rows, err = k.tier.tables.rows(k.ctx, &k.parts[len(k.parts)-1]); err != nil {
			return false, err
		}
	}
}

// move goes to the next row in the table that is open.
func (k *Keys) move() (ok bool, err error) {
	if k.rows == nil {
		return false, nil
	}
	if k.rows.key == nil {
		ok, err = k.rows.seekLT(k.bound())
	} else {
		ok, err = k.rows.prev()
	}
	if !ok || err != nil || len(k.rows.key) != keyKeyLength || !bytes.HasPrefix(k.rows.key, k.prefix) {
		return false, err
	}
	row, err := decodeKeyRow(k.rows.key, k.rows.value)
	if err != nil {
		return false, &DamageError{Object: k.rows.object.name, Reason: fmt.Sprintf("row %x", k.rows.key), Cause: err}
	}
	if row.Time < k.begin {
		return false, nil
	}
	k.row, k.end, k.upTo = row, row.Time, row.Position
	return true, nil
}

// bound is the key that the rows to come are less than.
func (k *Keys) bound() []byte {
	key := binary.BigEndian.AppendUint64(bytes.Clone(k.prefix), uint64(k.end))
	return binary.BigEndian.AppendUint64(key, uint64(k.upTo))
}
