package store

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/tiered"
)

// bunch is the queues from one on to before another, and what the snapshot says otherwise than the view of those that have runs in it.
type bunch struct {
	start, end queueKey
	last       bool // there is no end
	bounds     map[queueKey]rebound
}

// rebound is what becomes of a queue's bounds: was is where its runs begin in the view.
type rebound struct {
	was int64
	bounds
}

func (k queueKey) compare(o queueKey) int {
	return cmp.Or(cmp.Compare(k.topic, o.topic), cmp.Compare(k.queue, o.queue))
}

// queueOf reads the queue from a key of SpaceQueue, SpaceConsumeQueue or SpaceTierQueue.
func queueOf(key []byte) queueKey {
	return queueKey{kvindex.ID(binary.BigEndian.Uint64(key[1:])), int32(binary.BigEndian.Uint32(key[9:]))}
}

// span is the range of a space's keys that begin with topic and queue.
func (b *bunch) span(space kvindex.Space) (lower, upper []byte) {
	at := func(k queueKey) []byte {
		key := binary.BigEndian.AppendUint64([]byte{byte(space)}, uint64(k.topic))
		return binary.BigEndian.AppendUint32(key, uint32(k.queue))
	}
	if b.last {
		return at(b.start), kvindex.PrefixEnd([]byte{byte(space)})
	}
	return at(b.start), at(b.end)
}

// gather finds the next queues, as many as may be looked at together.
func (n *snapshot) gather(start queueKey) (b *bunch, err error) {
	b = &bunch{start: start, last: true, bounds: map[queueKey]rebound{}}
	lower, upper := b.span(kvindex.SpaceQueue)
	err = kvindex.EachRow(n.view, lower, upper, func(key, val []byte) (bool, error) {
		if len(b.bounds) == snapshotQueues {
			b.end, b.last = queueOf(key), false
			return false, nil
		}
		q, err := decodeBounds(val)
		if err == nil && q.local < q.max {
			b.bounds[queueOf(key)] = rebound{q.local, q}
		}
		return true, err
	})
	return b, err
}

// bunch writes the rows of some queues.
func (n *snapshot) bunch(ctx context.Context, b *bunch) error {
	if err := n.offload(ctx, b); err != nil {
		return err
	}
	if err := n.trimRest(b); err != nil {
		return err
	}
	if err := n.boundsRows(ctx, b); err != nil {
		return err
	}
	lower, upper := b.span(kvindex.SpaceConsumeQueue)
	err := n.each(ctx, lower, upper, func(key []byte) []byte {
		k := queueOf(key)
		if q, ok := b.bounds[k]; ok && lastOffset(key) < q.local {
			return kvindex.AppendConsumeQueueKey(nil, k.topic, k.queue, q.local)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return n.tierRows(ctx, b)
}

// offload moves the bounds as offload records of the parts would, one after the other: what lies between two things that the tier has was
// not for the tier, and is trimmed.
func (n *snapshot) offload(ctx context.Context, b *bunch) error {
	return n.eachListed(ctx, b, func(_ *tiered.Part, o *offloaded) error {
		q := b.bounds[o.queueKey]
		if o.next <= q.local || o.next > q.max {
			return nil
		}
		if o.first > q.local {
			q.min = o.first
		}
		q.local = o.next
		b.bounds[o.queueKey] = q
		return nil
	})
}

// eachListed calls f for what the parts have of the queues, in the order of the log.
func (n *snapshot) eachListed(ctx context.Context, b *bunch, f func(p *tiered.Part, o *offloaded) error) error {
	for i := range n.parts {
		p := &n.parts[i]
		if err := n.eachOf(ctx, p, b, func(o *offloaded) error { return f(p, o) }); err != nil {
			return fmt.Errorf("read the queues of the part at %d: %w", p.Start, err)
		}
	}
	return nil
}

func (n *snapshot) eachOf(ctx context.Context, p *tiered.Part, b *bunch, f func(o *offloaded) error) (err error) {
	queues := n.s.opts.Tier.Queues(ctx, p)
	defer func() { err = errors.Join(err, queues.Close()) }()
	for queues.Next() {
		topic, queue, r := queues.Row()
		k := queueKey{topic, queue}
		if !b.last && k.compare(b.end) >= 0 {
			return nil
		}
		if _, ok := b.bounds[k]; !ok {
			continue
		}
		if err := f(&offloaded{k, r.First, r.Last + 1, r.FirstTime, r.LastTime}); err != nil {
			return err
		}
	}
	return nil
}

// trimRest trims what became visible in the time of the parts and is in none of them, as Offload does.
func (n *snapshot) trimRest(b *bunch) (err error) {
	lower, upper := b.span(kvindex.SpaceConsumeQueue)
	it, err := n.view.NewIter(lower, upper)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for k, q := range b.bounds {
		if q.local == q.max {
			continue
		}
		from, err := runSince(it, k, q.bounds, n.done.until)
		if err != nil {
			return fmt.Errorf("topic id %d queue %d: %w", k.topic, k.queue, err)
		}
		if from > q.local {
			q.min, q.local = from, from
			b.bounds[k] = q
		}
	}
	return nil
}

// runSince finds where the first run from q.local on begins that became visible at or after a time (ms); q.max when there is none.
func runSince(it kvindex.Iter, k queueKey, q bounds, since int64) (int64, error) {
	low, high := q.local, q.max // the answer is in [low, high]
	var key []byte
	for at := low; low < high; at = low + (high-low)/2 {
		key = kvindex.AppendConsumeQueueKey(key[:0], k.topic, k.queue, at)
		if !it.SeekGE(key) || queueOf(it.Key()) != k {
			return 0, errors.Join(it.Error(), fmt.Errorf("no run at offset %d: %w", at, errMalformed))
		}
		last := lastOffset(it.Key())
		r, err := openRun(last, it.Value())
		if err != nil {
			return 0, err
		}
		if r.timestamp >= since {
			high = max(r.first, q.local)
		} else {
			low = last + 1
		}
	}
	return low, nil
}

// boundsRows writes the rows of SpaceQueue.
func (n *snapshot) boundsRows(ctx context.Context, b *bunch) error {
	lower, upper := b.span(kvindex.SpaceQueue)
	var val []byte
	return kvindex.EachRow(n.view, lower, upper, func(key, old []byte) (bool, error) {
		if q, ok := b.bounds[queueOf(key)]; ok {
			val = q.appendTo(val[:0])
			old = val
		}
		return true, errors.Join(ctx.Err(), n.out.Add(key, old))
	})
}

// tierRows writes the rows of SpaceTierQueue: those of the view, and those of parts that are not offloaded in it.
func (n *snapshot) tierRows(ctx context.Context, b *bunch) error {
	lower, upper := b.span(kvindex.SpaceTierQueue)
	err := n.each(ctx, lower, upper, func(key []byte) []byte {
		k := queueOf(key)
		if q, ok := b.bounds[k]; ok && lastOffset(key) < q.min {
			return kvindex.AppendTierQueueKey(nil, k.topic, k.queue, q.min)
		}
		return nil
	})
	if err != nil {
		return err
	}
	var key, val []byte
	return n.eachListed(ctx, b, func(p *tiered.Part, o *offloaded) error {
		q := b.bounds[o.queueKey]
		if o.next <= q.was || o.next <= q.min || o.next > q.local {
			return nil
		}
		key = kvindex.AppendTierQueueKey(key[:0], o.topic, o.queue, o.next-1)
		val = appendTierQueue(val[:0], p.Start, o)
		return n.out.Add(key, val)
	})
}
