package broker

import (
	"context"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/pop"
	"github.com/cairnmq/cairn/store"
)

// ResetOffsets moves a group (offset ≥ 0: there; else by time in ms, −1 = to the end) and answers the new offsets by queue.
// queue −1 = all. It takes effect at once: what the group had popped is forgotten, waiting pulls are woken, and a Remoting
// consumer gets the new offset with its next pull; until it pulls from there its commits are from before and are ignored.
// By time and without force a queue is only moved back, never forward.
//
// Refusals: CodeTopicNotFound, CodeGroupNotFound, CodeParameter (queue, offset outside the queue's bounds), CodeBusy,
// CodeReadOnly.
func (b *Broker) ResetOffsets(ctx context.Context, group, topic string, queue int32, offset, ms int64, force bool,
) (map[int32]int64, error) {
	if err := b.gate.enter(); err != nil {
		return nil, err
	}
	defer b.gate.leave()
	g, err := b.group(group)
	if err != nil {
		return nil, err
	}
	t, err := b.topic(topic)
	if err != nil {
		return nil, err
	}
	first, end := int32(0), max(t.ReadQueues, t.WriteQueues)
	if queue >= 0 {
		if err := checkQueue(t, queue); err != nil {
			return nil, err
		}
		first, end = queue, queue+1
	}
	moved, commits := map[int32]int64{}, []pop.Commit(nil)
	var ready int64
	for q := first; q < end; q++ {
		at, low, high, err := b.resetTarget(t, q, offset, ms)
		if err != nil {
			return nil, err
		}
		if offset < 0 && !force {
			now, ok, err := b.committedAt(place{g.ID, t.ID, q})
			if err != nil {
				return nil, err
			}
			if ok && now < at {
				moved[q] = now
				continue
			}
		}
		moved[q] = at
		ready += high - max(at, low)
		commits = append(commits, pop.Commit{Group: g.ID, Topic: t.ID, Queue: q, Offset: at})
	}
	if len(commits) == 0 {
		return moved, nil
	}
	_, err = await(ctx, func(done func(struct{}, error)) {
		b.offsets.reset(commits, func(err error) { done(struct{}{}, err) })
	})
	if err != nil {
		return nil, verbError(err, "reset offsets of "+group)
	}
	b.pulls.wake(g.ID, t.ID)
	b.waiters.ready(g.ID, t.ID, int(min(ready, maxWaiters)))
	return moved, nil
}

// resetTarget is where a reset puts a queue, and the queue's bounds.
func (b *Broker) resetTarget(t *catalog.Topic, queue int32, offset, ms int64) (at, low, high int64, err error) {
	doing := "reset offsets on " + t.Name
	low, high, err = b.store.Bounds(t.ID, queue)
	switch {
	case err != nil:
		return 0, 0, 0, verbError(err, doing)
	case offset >= 0 && (offset < low || offset > high):
		return 0, 0, 0, refuse(CodeParameter, "%s: offset %d is not within %d to %d of queue %d", doing, offset, low, high, queue)
	case offset >= 0:
		return offset, low, high, nil
	case ms < 0:
		return high, low, high, nil
	}
	at, err = b.store.OffsetByTime(t.ID, queue, ms, store.Lower)
	return at, low, high, verbError(err, doing)
}
