package tiered

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2/sstable"
)

// cursor walks over the rows of one table. When a block of it is damaged, what is cached of the table is dropped and the table
// read once more: it may have been an answer of the store that was damaged. The cursor is closed by its owner.
type cursor struct {
	tables *tables
	object tableObject
	ctx    context.Context
	it     sstable.Iterator
	again  bool // the table was read once more
	failed bool // the last move did

	key, value []byte // of the row that it stands on; value until the next move
}

// rows returns a cursor that stands on no row.
func (t *tables) rows(ctx context.Context, p *Part) (*cursor, error) {
	c := &cursor{tables: t, object: tableObject{p.TableName(), p.TableBytes}, ctx: ctx}
	err := c.open()
	if c.repair(err) {
		err = c.open()
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (c *cursor) open() error {
	r, err := c.tables.reader(c.ctx, c.object)
	if err != nil {
		return err
	}
	it, err := r.NewPointIter(c.ctx, sstable.IterOptions{
		FilterBlockSizeLimit: sstable.NeverUseFilterBlock, Env: sstable.NoReadEnv,
		ReaderProvider: sstable.MakeTrivialReaderProvider(r), BlobContext: sstable.AssertNoBlobHandles,
	})
	if err != nil {
		return c.object.wrap(err)
	}
	c.it = it
	return nil
}

// repair drops what is cached of a table after an error that says it is damaged, once.
func (c *cursor) repair(err error) bool {
	var damage *DamageError
	if c.again || !errors.As(err, &damage) {
		return false
	}
	c.again = true
	c.tables.forget(c.object)
	return true
}

// move is a way to go.
type move byte

const (
	toGE   move = iota // the first row whose key is not less
	toLT               // the last row whose key is less
	toNext             // the row behind the one it stands on
	toPrev             // the row before that one
)

// seekGE goes to the first row whose key is not less. When there is none ok is false.
func (c *cursor) seekGE(key []byte) (ok bool, err error) { return c.move(toGE, key) }

// seekLT goes to the last row whose key is less.
func (c *cursor) seekLT(key []byte) (ok bool, err error) { return c.move(toLT, key) }

// next goes to the row behind the one it stands on.
func (c *cursor) next() (ok bool, err error) { return c.move(toNext, nil) }

// prev goes to the row before the one it stands on.
func (c *cursor) prev() (ok bool, err error) { return c.move(toPrev, nil) }

// move goes, and once more after a repair: then with a new iterator, which must find its place.
func (c *cursor) move(way move, key []byte) (there bool, failed error) {
	ok, err := c.step(way, key)
	c.failed = err != nil
	if !c.repair(err) {
		return ok, err
	}
	if err := errors.Join(c.close(), c.open()); err != nil {
		return false, err
	}
	defer func() { c.failed = failed != nil }()
	switch way {
	case toNext:
		from := bytes.Clone(c.key)
		if ok, err := c.step(toGE, from); !ok || err != nil || !bytes.Equal(c.key, from) {
			return ok, err
		}
	case toPrev:
		way, key = toLT, bytes.Clone(c.key)
	}
	return c.step(way, key)
}

func (c *cursor) step(way move, key []byte) (bool, error) {
	switch way {
	case toGE:
		if kv := c.it.SeekGE(key, 0); kv != nil {
			val, _, err := kv.Value(nil)
			return c.stand(kv.K.UserKey, val, err)
		}
	case toLT:
		if kv := c.it.SeekLT(key, 0); kv != nil {
			val, _, err := kv.Value(nil)
			return c.stand(kv.K.UserKey, val, err)
		}
	case toNext:
		if kv := c.it.Next(); kv != nil {
			val, _, err := kv.Value(nil)
			return c.stand(kv.K.UserKey, val, err)
		}
	case toPrev:
		if kv := c.it.Prev(); kv != nil {
			val, _, err := kv.Value(nil)
			return c.stand(kv.K.UserKey, val, err)
		}
	}
	return false, c.object.wrap(c.it.Error())
}

// stand notes the row.
func (c *cursor) stand(key, val []byte, err error) (bool, error) {
	if err != nil {
		return false, c.object.wrap(err)
	}
	c.key, c.value = append(c.key[:0], key...), val
	return true, nil
}

// close ends it. What the last move returned is not returned once more.
func (c *cursor) close() error {
	if c.it == nil {
		return nil
	}
	err := c.it.Close()
	c.it = nil
	if c.failed || err == nil {
		return nil
	}
	return fmt.Errorf("tiered: close table %s: %w", c.object.name, err)
}
