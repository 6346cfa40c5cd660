package broker

import (
	"slices"
	"time"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/pop"
)

const (
	// defaultConsumeTimeout is of a group that names none, in minutes.
	defaultConsumeTimeout = 15
	// settleRecords is how many records one proposal has at most.
	settleRecords = 64
)

// unsettled are acknowledgements that could not be written, to be tried again.
type unsettled struct {
	at   place
	held []heldMessage
}

// Commit acknowledges what the consumer holds of a queue below an offset. handled is false when the offset is the group's own, to be
// committed as such: the group has no virtual queues any more, and the consumer holds nothing from the time when it had.
func (v *VirtualConsumer) Commit(c OffsetCommit) (handled bool) {
	if v.b.gate.enter() != nil {
		return false // the commit of the group says why
	}
	defer v.b.gate.leave()
	g, t, err := v.b.groupAndTopic(v.group, c.Topic)
	if err != nil {
		return false
	}
	at := place{g.ID, t.ID, c.Queue}
	v.settle(at, c.Offset)
	return g.VirtualQueues() || !v.isPlain(at, c.Offset)
}

// settle acknowledges what is held below an offset.
func (v *VirtualConsumer) settle(at place, offset int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	q := v.mu.queues[at]
	if q == nil {
		return
	}
	if n := q.from(offset); n > 0 {
		v.ackLocked(at, v.takeLocked(q, 0, n))
	}
}

// takeLocked takes a part out of what is held.
func (v *VirtualConsumer) takeLocked(q *virtualQueue, from, to int) []heldMessage {
	taken := slices.Clone(q.held[from:to])
	q.held = slices.Delete(q.held, from, to)
	q.moved = v.b.clock.Now()
	v.countLocked(-len(taken))
	return taken
}

// ackLocked proposes to acknowledge messages. What the log does not take now is tried again by the next sweep.
func (v *VirtualConsumer) ackLocked(at place, held []heldMessage) {
	for part := range slices.Chunk(held, settleRecords*pop.MaxItems) {
		p := &commitlog.Proposal{}
		for some := range slices.Chunk(part, pop.MaxItems) {
			e := pop.Ack{Group: at.group, Topic: at.topic}
			for i := range some {
				e.Refs = append(e.Refs, some[i].ref(at.queue))
			}
			p.Records = append(p.Records, pop.AckRecord(&e))
		}
		p.Done = func(p *commitlog.Proposal) {
			if p.Err != nil {
				v.mu.Lock()
				defer v.mu.Unlock()
				v.keepLocked(at, part)
			}
		}
		if v.b.store.Propose(p) != nil {
			v.keepLocked(at, part)
		}
	}
}

// keepLocked keeps acknowledgements for the next sweep, but not for ever: by then what they name was handed out again.
func (v *VirtualConsumer) keepLocked(at place, held []heldMessage) {
	now := v.b.clock.Now().UnixMilli()
	held = slices.DeleteFunc(slices.Clone(held), func(h heldMessage) bool { return h.visibleAt <= now })
	if len(held) > 0 && !v.mu.closed {
		v.mu.failed = append(v.mu.failed, unsettled{at, held})
		v.countLocked(len(held))
	}
}

// giveBackLocked proposes to make messages visible for others at once. It does not count as an attempt; what the log does not take
// comes back when its lease is over. When nobody pops any more, it goes to the group's retry topic at once: on a busy queue no pull
// finds nothing for long.
func (v *VirtualConsumer) giveBackLocked(at place, held []heldMessage) {
	b, now, off := v.b, v.b.clock.Now().UnixMilli(), !v.mu.off.IsZero()
	for part := range slices.Chunk(held, settleRecords*pop.MaxItems) {
		p := &commitlog.Proposal{}
		for some := range slices.Chunk(part, pop.MaxItems) {
			e := pop.Extend{Group: at.group, Topic: at.topic}
			for i := range some {
				e.Moves = append(e.Moves, pop.Move{Ref: some[i].ref(at.queue), To: now, Free: true})
			}
			p.Records = append(p.Records, pop.ExtendRecord(&e))
		}
		p.Done = func(p *commitlog.Proposal) {
			if p.Err != nil {
				return
			}
			b.pop.alarms.note(groupOfTopic{at.group, at.topic}, now)
			if t, err := b.catalog.TopicByID(at.topic); off && err == nil {
				b.HandOver(v.group, t.Name)
			}
		}
		_ = b.store.Propose(p)
	}
}

// SentBack acknowledges the message at a position in the log, which is in the group's retry topic now or among its dead letters.
func (v *VirtualConsumer) SentBack(pos record.Position) {
	if v.b.gate.enter() != nil {
		return
	}
	defer v.b.gate.leave()
	v.mu.Lock()
	defer v.mu.Unlock()
	for at, q := range v.mu.queues {
		if i := slices.IndexFunc(q.held, func(h heldMessage) bool { return h.position == pos }); i >= 0 {
			v.ackLocked(at, v.takeLocked(q, i, i+1))
			return
		}
	}
}

// Offset is where the consumer's client would go on if it began again: at the first offset that it holds, or where its next message
// will be. ok is false when it has nothing of the queue; then its group's committed offset says it.
func (v *VirtualConsumer) Offset(topic string, queue int32) (offset int64, ok bool) {
	if v.b.gate.enter() != nil {
		return 0, false
	}
	defer v.b.gate.leave()
	g, t, err := v.b.groupAndTopic(v.group, topic)
	if err != nil {
		return 0, false
	}
	at := place{g.ID, t.ID, queue}
	v.mu.Lock()
	defer v.mu.Unlock()
	q := v.mu.queues[at]
	switch {
	case q == nil:
		return 0, false
	case !g.VirtualQueues():
		// Who asks begins again at the group's offset, and does not have any more what it held.
		v.dropLocked(at, q)
		return 0, false
	case len(q.held) > 0:
		return q.held[0].shown, true
	}
	return q.next, true
}

// dropLocked gives back what is held of a queue, and forgets the queue.
func (v *VirtualConsumer) dropLocked(at place, q *virtualQueue) {
	if n := len(q.held); n > 0 {
		v.giveBackLocked(at, v.takeLocked(q, 0, n))
	}
	delete(v.mu.queues, at)
}

// Close gives back what the consumer holds. Later pulls find nothing.
func (v *VirtualConsumer) Close() {
	vs := v.b.virtuals
	vs.mu.Lock()
	delete(vs.mu.all, v)
	vs.mu.Unlock()
	inside := v.b.gate.enter() == nil
	v.interrupt()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mu.closed = true
	for at, q := range v.mu.queues {
		if inside {
			v.dropLocked(at, q)
		}
	}
	if inside {
		v.tryAgainLocked()
		v.b.gate.leave()
	}
	v.forgetLocked()
}

// forgetLocked forgets all queues, without giving back anything.
func (v *VirtualConsumer) forgetLocked() {
	clear(v.mu.queues)
	v.mu.failed = nil
	v.countLocked(-v.mu.held)
}

// interrupt ends the pulls that wait.
func (v *VirtualConsumer) interrupt() {
	v.mu.Lock()
	var pulling []*virtualPull
	for _, q := range v.mu.queues {
		if q.pulling != nil {
			pulling = append(pulling, q.pulling)
		}
	}
	v.mu.Unlock()
	for _, p := range pulling {
		p.stop()
	}
}

// sweepVirtuals renews what consumers hold, and takes from them what they seem to have lost.
func (b *Broker) sweepVirtuals() {
	if b.gate.enter() != nil {
		return
	}
	defer b.gate.leave()
	for _, v := range b.virtuals.list() {
		g, err := b.group(v.group)
		if err != nil {
			continue // what it holds is over when its leases are
		}
		v.sweep(g)
	}
}

// patience is how long a consumer may hold messages of a queue while it consumes none of them. A client looks every consume timeout
// for what takes longer than that, and sends it back: so twice as long. What is held longer was lost by its client.
func patience(g *catalog.Group) time.Duration {
	minutes := g.ConsumeTimeoutMinute
	if minutes <= 0 {
		minutes = defaultConsumeTimeout
	}
	return 2 * time.Duration(minutes) * time.Minute
}

func (v *VirtualConsumer) sweep(g *catalog.Group) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := v.b.clock.Now()
	v.noteSwitchLocked(g.VirtualQueues(), now)
	v.tryAgainLocked()
	for at, q := range v.mu.queues {
		kept := len(q.held)
		q.held = slices.DeleteFunc(q.held, func(h heldMessage) bool { return h.visibleAt <= now.UnixMilli() })
		v.countLocked(len(q.held) - kept)
		switch {
		case len(q.held) == 0:
			if v.mu.off.IsZero() && !q.ahead && q.pulling == nil && now.Sub(q.pulled) > virtualIdle {
				delete(v.mu.queues, at)
			}
		case v.isAbandonedLocked(q, now):
			v.giveBackLocked(at, v.takeLocked(q, 0, len(q.held)))
		case now.Sub(q.moved) <= patience(g):
			v.renewLocked(at, q, now)
		}
	}
}

// tryAgainLocked proposes what could not be written before.
func (v *VirtualConsumer) tryAgainLocked() {
	failed := v.mu.failed
	v.mu.failed = nil
	for _, u := range failed {
		v.countLocked(-len(u.held))
		v.ackLocked(u.at, u.held)
	}
}

// renewLocked proposes new leases for what has little left.
func (v *VirtualConsumer) renewLocked(at place, q *virtualQueue, now time.Time) {
	to := now.Add(virtualLease).UnixMilli()
	var moves []pop.Move
	for i := range q.held {
		if h := &q.held[i]; h.visibleAt <= now.Add(virtualRenew).UnixMilli() {
			moves = append(moves, pop.Move{Ref: h.ref(at.queue), To: to})
			h.visibleAt = to
		}
	}
	for some := range slices.Chunk(moves, pop.MaxItems) {
		p := &commitlog.Proposal{Records: []record.Record{pop.ExtendRecord(&pop.Extend{Group: at.group, Topic: at.topic, Moves: some})}}
		p.Done = func(p *commitlog.Proposal) {
			v.mu.Lock()
			defer v.mu.Unlock()
			v.renewedLocked(at, some, p)
		}
		if err := v.b.store.Propose(p); err != nil {
			p.Err = err
			v.renewedLocked(at, some, p)
		}
	}
}

// renewedLocked sets right what was noted of leases that were not renewed. What somebody else has now, or a reset has forgotten, is
// held no more.
func (v *VirtualConsumer) renewedLocked(at place, moves []pop.Move, p *commitlog.Proposal) {
	q := v.mu.queues[at]
	if q == nil || p.Err == nil && pop.MaskOf(p.Outcomes[0]).Count() == len(moves) {
		return
	}
	was := map[int64]int64{} // of those that were not: the time before; 0: gone
	for i, m := range moves {
		switch {
		case p.Err != nil:
			was[m.Offset] = m.VisibleAt
		case !pop.MaskOf(p.Outcomes[0]).Has(i):
			was[m.Offset] = 0
		}
	}
	before := len(q.held)
	q.held = slices.DeleteFunc(q.held, func(h heldMessage) bool {
		ms, ok := was[h.offset]
		return ok && ms == 0 && h.visibleAt == moves[0].To
	})
	v.countLocked(len(q.held) - before)
	for i := range q.held {
		if ms, ok := was[q.held[i].offset]; ok && q.held[i].visibleAt == moves[0].To {
			q.held[i].visibleAt = ms
		}
	}
}
