package broker

import (
	"context"
	"encoding/json"
	"time"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/record"
)

// Turning virtual queues on and off under consumers that run.
//
// On: what the consumers committed before is where the group begins to pop. What they have and did not commit comes again, as with
// any change of who owns a queue.
//
// Off: nobody gets anything until clients can have found out what they keep. Who keeps a queue goes on with what it holds, and is led to where the group's cursor is. What it commits is of the group only
// when all that it held is consumed; until then the cursor is ahead of it. What the others hold and do not commit soon is given
// back, and since nobody pops any more it goes to the group's retry topic (HandOver).

const (
	// switchGrace is how long nobody gets anything from the old queues, so that clients find out first which ones they keep.
	switchGrace = 3 * time.Second
	// switchAbandon is how long the client that keeps a queue may not pull it, with what it holds from before.
	switchAbandon = 30 * time.Second
)

// virtualSwitched is called when a group was given virtual queues or has none any more: its consumers are to find out at once.
func (b *Broker) virtualSwitched(g *catalog.Group) {
	for _, v := range b.virtuals.list() {
		if v.group == g.Name {
			v.mu.Lock()
			v.noteSwitchLocked(g.VirtualQueues(), b.clock.Now())
			v.mu.Unlock()
			v.interrupt()
		}
	}
	b.pulls.wakeGroup(g.ID)
	members, _, _ := b.clients.Consumers(g.Name)
	for _, c := range members {
		if c.Notify != nil {
			c.Notify(g.Name)
		}
	}
}

func (v *VirtualConsumer) noteSwitchLocked(on bool, now time.Time) {
	switch {
	case on && !v.mu.off.IsZero():
		v.mu.off = time.Time{}
		for _, q := range v.mu.queues {
			q.left = false
		}
	case !on && v.mu.off.IsZero():
		v.mu.off = now
	}
}

// isAbandonedLocked says that virtual queues were turned off, and the client does not have this one any more.
func (v *VirtualConsumer) isAbandonedLocked(q *virtualQueue, now time.Time) bool {
	switch {
	case v.mu.off.IsZero():
		return false
	case q.left:
		return now.Sub(q.pulled) > switchAbandon
	}
	return !q.pulled.After(v.mu.off) && now.Sub(v.mu.off) > switchGrace
}

// isPlain says whether a commit is the group's own, after virtual queues were turned off. A queue that is settled is forgotten.
func (v *VirtualConsumer) isPlain(at place, offset int64) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	q := v.mu.queues[at]
	switch {
	case q == nil:
		return true
	case !q.left || offset < q.floor:
		return false
	case len(q.held) == 0:
		delete(v.mu.queues, at)
	}
	return true
}

// pullPlainly pulls for a consumer whose group has no virtual queues any more.
func (p *virtualPull) pullPlainly() (cancel func()) {
	v, b := p.v, p.v.b
	if !v.isPlain(p.at, p.req.CommitOffset) {
		p.req.CommitOffset = -1
	}
	now := b.clock.Now()
	v.mu.Lock()
	v.noteSwitchLocked(false, now)
	until := v.mu.off.Add(switchGrace)
	q := v.mu.queues[p.at]
	if !now.Before(until) && (q == nil || q.left) {
		if q != nil {
			q.pulled = now
		}
		v.mu.Unlock()
		return b.PullAsync(&p.req, p.done)
	}
	if q == nil { // it took the queue while it was virtual, and comes for the first time, or began it again
		q = &virtualQueue{moved: now}
		v.mu.queues[p.at] = q
	}
	q.pulled, q.pulling = now, p
	v.mu.Unlock()
	p.after(until, func() { b.workers.run(p.leave) })
	return p.stop
}

// leave leads the client to where its group is. Where it has been told an offset behind that, because of messages that came back, it
// is told to begin again.
func (p *virtualPull) leave() {
	v, b := p.v, p.v.b
	if err := b.gate.enter(); err != nil {
		p.fail(err)
		return
	}
	defer b.gate.leave()
	c, there, err := b.store.Pop.Cursor(p.at.group, p.at.topic, p.at.queue)
	if err != nil {
		p.fail(verbError(err, "pull from "+p.topic.Name))
		return
	}
	if !there { // the group is another one by now
		c.Next = p.req.Offset
	}
	status := PullNoMatch
	v.mu.Lock()
	q := v.mu.queues[p.at]
	switch {
	case q == nil:
	case q.next > c.Next || p.req.Offset > c.Next:
		b.offsets.told(p.at, c.Next)
		v.dropLocked(p.at, q)
		status = PullOffsetMoved
	default:
		q.left, q.floor = true, c.Next
		if i := q.from(p.req.Offset); i < len(q.held) { // an answer that it did not get
			v.giveBackLocked(p.at, v.takeLocked(q, i, len(q.held)))
		}
	}
	v.mu.Unlock()
	p.answer(status, c.Next, nil, nil)
}

// told notes that a consumer is being told to go on at an offset. Until its next pull, commits of others are from before.
func (o *offsets) told(at place, offset int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.noteResetLocked(at, &reset{offset: offset, told: true, until: o.clock.Now().Add(resetNotice)})
}

// switchRecords are what a group needs beside its own record when its virtual queues are turned on or, while was says that it has
// some, off. When they are turned on, commits of the group are ignored until the caller says that it is done: offsets.heed.
func (b *Broker) switchRecords(ctx context.Context, was *catalog.Group) ([]record.Record, error) {
	if was.VirtualQueues() {
		return b.handOverRecords(was)
	}
	// The group begins to pop at what was committed one-way, and what is committed from now on must not move it back.
	b.offsets.ignore(was.ID)
	_, err := await(ctx, func(done func(struct{}, error)) {
		b.offsets.flush(func(err error) { done(struct{}{}, err) })
	})
	return nil, verbError(err, "write committed offsets")
}

// handOverRecords have what a group has popped and does not acknowledge go to its retry topic from now on.
func (b *Broker) handOverRecords(g *catalog.Group) (records []record.Record, err error) {
	topics, err := b.topicsOf(g, "")
	if err != nil {
		return nil, err
	}
	for _, t := range topics {
		_, set, err := b.storedMode(g, t)
		if err != nil {
			return nil, err
		}
		if set {
			continue
		}
		value, err := json.Marshal(storedMode{Group: g.Name, Topic: t.Name})
		if err != nil {
			return nil, err
		}
		records = append(records, b.catalog.PutKV(requestModes, requestModeKey(g, t), string(value)))
	}
	return records, nil
}
