package tiered

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// Runs walks over the runs of a queue, in the order of offsets. It is used by one goroutine, and closed by its owner.
type Runs struct {
	tier  *Tier
	ctx   context.Context
	topic kvindex.ID
	queue int32
	from  int64 // the offset to go on from

	parts  []Part // that are left; the first is the one that rows walks over
	placed bool   // parts begins where from is
	rows   *cursor
	again  bool // the manifest was looked at once more
	err    error
}

// Runs returns the runs of a queue from the one on that holds the offset from, or the first behind it. No row is read before Next.
// Finding the part costs reads of as many tables as the logarithm of the number of parts says; of more when the queue has rows in
// few of them. What a table has of a queue is remembered.
func (t *Tier) Runs(ctx context.Context, topic kvindex.ID, queue int32, from int64) *Runs {
	return &Runs{tier: t, ctx: ctx, topic: topic, queue: queue, from: max(from, 0)}
}

// RunsFrom is Runs for who knows that the part which begins at start has the offset: no other table is asked where it is.
func (t *Tier) RunsFrom(ctx context.Context, start record.Position, topic kvindex.ID, queue int32, from int64) *Runs {
	r := t.Runs(ctx, topic, queue, from)
	if parts := t.parts(); len(parts) > 0 {
		r.parts, r.placed = parts[partAt(parts, start):], true
	}
	return r
}

// Next goes to the next run; false at the end and after an error, which Close returns.
func (r *Runs) Next() bool {
	for r.err == nil {
		ok, err := r.step()
		if err == nil {
			return ok
		}
		if r.drop(); !r.again && r.tier.afresh(r.ctx, err) {
			r.again = true
			continue
		}
		r.err = err
	}
	return false
}

// Last is the offset of the run's last entry.
func (r *Runs) Last() int64 { return int64(binary.BigEndian.Uint64(r.rows.key[queueKeyLength:])) }

// Value is the run's row, as the index had it; until the next call of Next.
func (r *Runs) Value() []byte { return r.rows.value }

// Close ends it and returns the error that ended the walk: *DamageError, ErrClosed, the store's. A second Close does nothing.
func (r *Runs) Close() error {
	r.drop()
	r.parts, r.placed = nil, true
	err := r.err
	r.err = nil
	return err
}

// drop lets the place go; the walk then goes on from r.from in what is the view by then.
func (r *Runs) drop() {
	if r.rows != nil {
		r.err = errors.Join(r.err, r.rows.close())
	}
	r.rows, r.parts, r.placed = nil, nil, false
}

func (r *Runs) step() (bool, error) {
	if err := r.tier.loading.wait(r.ctx); err != nil {
		return false, err
	}
	if !r.placed {
		if err := r.place(); err != nil {
			return false, err
		}
	}
	for {
		ok, err := r.move()
		if err != nil || ok {
			return ok, err
		}
		if r.rows != nil {
			err := r.rows.close()
			if r.rows, r.parts = nil, r.parts[1:]; err != nil {
				return false, err
			}
		}
		if ok, err := r.open(); !ok || err != nil {
			return false, err
		}
	}
}

// place finds the first part with an offset that is not less.
func (r *Runs) place() error {
	parts := r.tier.parts()
	low, high := 0, len(parts) // it is in [low, high]
	for low < high {
		mid := low + (high-low)/2
		// Parts without rows of the queue say nothing: ask those behind.
		at, found := mid, QueueRange{}
		for ok := false; at < high; at++ {
			var err error
			if found, ok, err = r.tier.tables.queue(r.ctx, &parts[at], r.topic, r.queue); err != nil {
				return err
			}
			if ok {
				break
			}
		}
		if at < high && found.Last < r.from {
			low = at + 1
		} else {
			high = mid
		}
	}
	r.parts, r.placed = parts[low:], true
	return nil
}

// open goes to the next part that has rows of the queue, and stands before them.
func (r *Runs) open() (bool, error) {
	for ; len(r.parts) > 0; r.parts = r.parts[1:] {
		found, ok, err := r.tier.tables.queue(r.ctx, &r.parts[0], r.topic, r.queue)
		if err != nil {
			return false, err
		}
		if !ok || found.Last < r.from {
			continue
		}
		if r.rows, err = r.tier.tables.rows(r.ctx, &r.parts[0]); err != nil {
			return false, err
		}
		if len(r.parts) > 1 {
			o := tableObject{r.parts[1].TableName(), r.parts[1].TableBytes}
			r.tier.fetch.ahead(o, o.tail().first, o.tail().last)
		}
		return true, nil
	}
	return false, nil
}

// move goes to the next row in the table that is open.
func (r *Runs) move() (ok bool, err error) {
	if r.rows == nil {
		return false, nil
	}
	if r.rows.key == nil {
		ok, err = r.rows.seekGE(appendRunKey(nil, r.topic, r.queue, r.from))
	} else {
		ok, err = r.rows.next()
	}
	if !ok || err != nil || len(r.rows.key) != runKeyLength ||
		!bytes.HasPrefix(r.rows.key, appendQueueKey(nil, familyRun, r.topic, r.queue)) {
		return false, err
	}
	r.from = r.Last() + 1
	return true, nil
}
