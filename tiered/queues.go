package tiered

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"

	"github.com/cairnmq/cairn/kvindex"
)

// Queues walks over what a part has of each queue, in the order of topic and queue. It is used by one goroutine, and closed by its owner.
type Queues struct {
	tier *Tier
	ctx  context.Context
	part Part
	rows *cursor
	row  QueueRange
	err  error
}

// Queues lists the queues of a part. No row is read before Next.
func (t *Tier) Queues(ctx context.Context, p *Part) *Queues {
	return &Queues{tier: t, ctx: ctx, part: *p}
}

// Next goes to the next queue; false at the end and after an error, which Close returns.
func (q *Queues) Next() bool {
	ok := false
	if q.err == nil {
		ok, q.err = q.move()
	}
	return ok
}

func (q *Queues) move() (ok bool, err error) {
	if q.rows == nil {
		if q.rows, err = q.tier.tables.rows(q.ctx, &q.part); err != nil {
			return false, err
		}
		ok, err = q.rows.seekGE([]byte{familyQueue})
	} else {
		ok, err = q.rows.next()
	}
	if !ok || err != nil || len(q.rows.key) != queueKeyLength || !bytes.HasPrefix(q.rows.key, []byte{familyQueue}) {
		return false, err
	}
	if q.row, err = decodeQueueRange(q.rows.value); err != nil {
		return false, &DamageError{Object: q.rows.object.name, Reason: "row of a queue", Cause: err}
	}
	return true, nil
}

// Row is the queue, and what the part has of it.
func (q *Queues) Row() (topic kvindex.ID, queue int32, r QueueRange) {
	return kvindex.ID(binary.BigEndian.Uint64(q.rows.key[1:])), int32(binary.BigEndian.Uint32(q.rows.key[9:])), q.row
}

// Close ends it and returns the error that ended the walk. A second Close does nothing.
func (q *Queues) Close() error {
	err := q.err
	if q.rows != nil {
		err = errors.Join(err, q.rows.close())
	}
	q.rows, q.err = nil, nil
	return err
}
