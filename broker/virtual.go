package broker

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/pop"
	"github.com/cairnmq/cairn/store"
)

// Virtual queues, in the order of reading: this file (what they are, and pulling from them), virtual_settle.go (commits, what is
// renewed, what is given back), virtual_switch.go (turning them on and off under consumers that run).
//
// A consumer that pulls owns queues, so a group can have no more consumers with work than the topic has queues. In a group with the
// attribute queues.virtual each consumer is led to believe that it owns every queue. What it pulls is popped for it, and becomes the
// end of a queue of its own, with gaps where others got something:
//
//	queue of the topic   0 1 2 3 4 5 6 7 8 9
//	virtual queue of A   0 1     4 5     8     next 9
//	virtual queue of B       2 3     6 7       next 8
//
// The rules, which are what clients do with offsets (ProcessQueue and RemoteBrokerOffsetStore in Java, processQueue in Go):
//   - Offsets of a virtual queue rise. A client commits the lowest offset that it has not consumed, and never one below what it has
//     committed before, so nothing may come to it later with an offset below what it was told. A message that another one gave back
//     lies below; it is shown with the next free offset in place of its own.
//   - A pull is answered from what the consumer holds at that offset and behind. Only at the end of that more is popped. So an answer
//     that was lost, and a client that begins again at the offset that it committed, miss nothing.
//   - A commit acknowledges what is held below it.
//   - What is held is invisible for the others for a short time, which is renewed while the consumer is there. A consumer that goes
//     gives back what it holds.

const (
	// virtualLease is how long a message stays with its consumer when nothing renews it any more, as after a crash of the broker.
	virtualLease = time.Minute
	// virtualSweep is how often is looked for leases of which virtualRenew or less is left.
	virtualSweep = 10 * time.Second
	virtualRenew = 40 * time.Second
	// virtualIdle is how long a virtual queue that holds nothing is remembered. Its client knows as much.
	virtualIdle = 2 * time.Minute

	// virtualHeld is how much a consumer holds of one queue before it gets more, so that the first one does not take what all
	// others could work on. virtualHeldMost is how much of all queues, virtualHeldAll how much all consumers; of 48 bytes each.
	virtualHeld     = 256
	virtualHeldMost = 1 << 16
	virtualHeldAll  = 4 << 20
	// virtualPause is how long the pull of a consumer that holds so much waits. The next one tells what is consumed meanwhile.
	virtualPause = 250 * time.Millisecond
)

// virtuals are the consumers of groups with virtual queues.
type virtuals struct {
	held atomic.Int64 // by all of them
	mu   struct {
		sync.Mutex
		all map[*VirtualConsumer]struct{}
	}
}

func newVirtuals() *virtuals {
	vs := &virtuals{}
	vs.mu.all = map[*VirtualConsumer]struct{}{}
	return vs
}

func (vs *virtuals) list() []*VirtualConsumer {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	all := make([]*VirtualConsumer, 0, len(vs.mu.all))
	for v := range vs.mu.all {
		all = append(all, v)
	}
	return all
}

// close ends what waits.
func (vs *virtuals) close() {
	for _, v := range vs.list() {
		v.interrupt()
	}
}

// VirtualConsumer is a consumer of a group with virtual queues: what one connection holds. Safe for concurrent use.
type VirtualConsumer struct {
	b     *Broker
	group string

	// The mutex is held while records are proposed, which does not block, so that a lease which is renewed is acknowledged as it
	// will be then.
	mu struct {
		sync.Mutex
		closed  bool
		queues  map[place]*virtualQueue
		held    int       // in all queues
		off     time.Time // since when the group has no virtual queues any more; zero: it has
		failed  []unsettled
		ofGroup kvindex.ID // whose queues these are: a group that is made anew is another one
	}
}

// virtualQueue is what a consumer has of a queue.
type virtualQueue struct {
	next    int64         // everything that comes is shown with this offset or a later one
	held    []heldMessage // in the order of shown
	pulling *virtualPull  // the newest pull, while it waits
	pulled  time.Time     // when it pulled last
	moved   time.Time     // when it last got or consumed something
	ahead   bool          // the client may have been told an offset that its group has not come to

	// After virtual queues were turned off: the consumer was led to the offset where the group is, and commits below are about
	// what it still holds.
	left  bool
	floor int64
}

// heldMessage is a message that the consumer has and has not consumed, as far as it told.
type heldMessage struct {
	shown     int64 // its offset for the consumer
	offset    int64
	position  record.Position
	visibleAt int64 // ms
	nonce     uint64
	attempts  int32
}

func (h *heldMessage) ref(queue int32) pop.Ref {
	return pop.Ref{VisibleAt: h.visibleAt, Queue: queue, Offset: h.offset, Nonce: h.nonce}
}

// from is the index of the first one that is held at an offset or behind.
func (q *virtualQueue) from(offset int64) int {
	i, _ := slices.BinarySearchFunc(q.held, offset, func(h heldMessage, at int64) int {
		if h.shown < at {
			return -1
		}
		return 1
	})
	return i
}

// OpenVirtual makes a consumer of a group; the caller closes it when its client goes.
func (b *Broker) OpenVirtual(group string) *VirtualConsumer {
	v := &VirtualConsumer{b: b, group: group}
	v.mu.queues = map[place]*virtualQueue{}
	b.virtuals.mu.Lock()
	defer b.virtuals.mu.Unlock()
	b.virtuals.mu.all[v] = struct{}{}
	return v
}

// PullAsync is Broker.PullAsync for a consumer with virtual queues. A pull ends the one before it of the same queue. When the group
// has no virtual queues any more, the consumer is led to where its group is.
//
// Refusals: those of Broker.PullAsync, CodeNoPermission (the topic is in order: who gets a queue's messages in turns has no order),
// CodeGroupNotFound: no group is made.
func (v *VirtualConsumer) PullAsync(req *PullRequest, done func(*PullResult, error)) (cancel func()) {
	b := v.b
	p := &virtualPull{v: v, req: *req, done: done}
	if err := b.gate.enter(); err != nil {
		done(nil, err)
		return p.stop
	}
	defer b.gate.leave()
	t, g, err := (&pull{b: b, req: *req}).check()
	if err == nil && g.VirtualQueues() && InOrder(g, t) {
		err = refuse(CodeNoPermission, "consumer group %s has virtual queues, and topic %s is consumed in order", g.Name, t.Name)
	}
	if err != nil {
		done(nil, err)
		return p.stop
	}
	p.at, p.topic = place{g.ID, t.ID, req.QueueID}, t
	if req.CommitOffset >= 0 {
		v.settle(p.at, req.CommitOffset)
	}
	if !g.VirtualQueues() {
		return p.pullPlainly()
	}
	p.begin()
	return p.stop
}

// virtualPull is a pull from a virtual queue under way.
type virtualPull struct {
	v     *VirtualConsumer
	at    place
	topic *catalog.Topic
	req   PullRequest
	pop   PopRequest
	done  func(*PullResult, error)
	timer deadline

	mu struct {
		sync.Mutex
		stopped bool
		cancel  func() // of what it waits for
	}
}

// stop ends the wait; what does not wait ends by itself.
func (p *virtualPull) stop() {
	p.mu.Lock()
	p.mu.stopped = true
	cancel := p.mu.cancel
	p.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

// waits notes how to end what the pull waits for.
func (p *virtualPull) waits(cancel func()) {
	p.mu.Lock()
	p.mu.cancel = cancel
	stopped := p.mu.stopped
	p.mu.Unlock()
	if stopped {
		cancel()
	}
}

// after has f called at a time, or nothing answered when the pull is ended before.
func (p *virtualPull) after(at time.Time, f func()) {
	p.v.b.due.add(&p.timer, at, f)
	p.waits(func() {
		if p.timer.cancel() {
			p.nothing()
		}
	})
}

// begin answers with what the consumer holds already, or pops.
func (p *virtualPull) begin() {
	v, b := p.v, p.v.b
	again, full, old := v.enter(p)
	if old != nil {
		old.stop()
	}
	switch {
	case len(again) > 0:
		p.serveAgain(again)
	case full:
		p.after(b.clock.Now().Add(virtualPause), func() { b.workers.run(p.nothing) })
	default:
		p.takePlace()
	}
}

// enter makes p the pull of its queue. It answers what the consumer holds at p's offset and behind, whether it holds too much to get
// more, and the pull before.
func (v *VirtualConsumer) enter(p *virtualPull) (again []heldMessage, full bool, old *virtualPull) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.mu.closed {
		return nil, true, nil // nobody is there to be answered
	}
	if v.mu.ofGroup != p.at.group {
		v.forgetLocked()
		v.mu.ofGroup = p.at.group
	}
	q := v.mu.queues[p.at]
	now := v.b.clock.Now()
	v.noteSwitchLocked(true, now)
	if q == nil {
		q = &virtualQueue{moved: now}
		v.mu.queues[p.at] = q
	}
	old, q.pulling = q.pulling, p
	q.pulled = now
	if i := q.from(p.req.Offset); i < len(q.held) {
		return slices.Clone(q.held[i:min(i+p.most(), len(q.held))]), false, old
	}
	if q.next < p.req.Offset {
		q.next, q.ahead = p.req.Offset, true
	}
	full = len(q.held) >= virtualHeld || v.mu.held >= virtualHeldMost || v.b.virtuals.held.Load() >= virtualHeldAll
	return nil, full, old
}

func (p *virtualPull) most() int {
	if p.req.MaxMessages <= 0 {
		return maxPop
	}
	return min(p.req.MaxMessages, maxPop)
}

// serveAgain answers with messages that the consumer holds, and so was given before.
func (p *virtualPull) serveAgain(held []heldMessage) {
	buf, ends := store.NewBuffer(), []int(nil)
	next := held[len(held)-1].shown + 1
	for i := range held {
		h := &held[i]
		if len(buf.B) >= maxPullBytes {
			next = h.shown
			break
		}
		entries, err := p.v.b.store.Entries(p.at.topic, p.at.queue, h.offset, 1, nil)
		if err != nil || len(entries) == 0 || entries[0].Offset != h.offset {
			continue // it is gone, and acknowledged with the next commit
		}
		begin := len(buf.B)
		if _, err := p.v.b.store.ReadMessages(entries, maxPullBytes, buf); err != nil {
			continue
		}
		h.patch(buf.B[begin:])
		ends = append(ends, len(buf.B))
	}
	if len(ends) == 0 {
		buf.Release()
		p.answer(PullNoMatch, next, nil, nil)
		return
	}
	p.answer(PullFound, next, buf, ends)
}

// patch makes a stored layout what the consumer is to see.
func (h *heldMessage) patch(layout []byte) {
	if h.shown != h.offset {
		message.PatchQueueOffset(layout, h.shown)
	}
	if h.attempts > 1 {
		message.PatchReconsumeTimes(layout, message.ReconsumeTimesOf(layout)+h.attempts-1)
	}
}

// takePlace pops. A group that was never in the queue begins where its first consumer does, which knows where it wants to; the
// record changes nothing when another one was first.
func (p *virtualPull) takePlace() {
	b := p.v.b
	_, there, err := b.store.Pop.Cursor(p.at.group, p.at.topic, p.at.queue)
	low, high, boundsErr := b.store.Bounds(p.at.topic, p.at.queue)
	switch {
	case err != nil || boundsErr != nil:
		p.fail(verbError(cmp.Or(err, boundsErr), "pull from "+p.topic.Name))
	case there:
		p.startPop()
	default:
		at, now := min(max(p.req.Offset, low), high), b.clock.Now().UnixMilli()
		r := pop.Pop{Group: p.at.group, Topic: p.at.topic, PoppedAt: now, VisibleAt: now,
			Ranges: []pop.Range{{Queue: p.at.queue, Start: at, End: at}}}
		b.propose("pull from "+p.topic.Name, []record.Record{r.Record()}, func(_ *commitlog.Proposal, err error) {
			if err != nil {
				p.fail(err)
				return
			}
			p.startPop()
		})
	}
}

func (p *virtualPull) startPop() {
	p.pop = PopRequest{
		Group: p.req.Group, Topic: p.req.Topic, Queue: p.at.queue, Max: p.most(), Invisible: virtualLease, Wait: p.req.Suspend,
		Filter: p.req.Filter,
	}
	p.waits(p.v.b.PopAsync(&p.pop, p.popped))
}

// popped answers with what was popped.
func (p *virtualPull) popped(res *PopResult, err error) {
	switch {
	case err != nil:
		p.fail(err)
		return
	case len(res.Ends) == 0:
		p.nothing()
		return
	}
	held := heldOf(res)
	next, ok := p.v.hold(p, held)
	if !ok {
		res.Buffer.Release()
		p.nothing()
		return
	}
	begin := 0
	for i, end := range res.Ends {
		held[i].patch(res.Buffer.B[begin:end])
		begin = end
	}
	p.answer(PullFound, next, res.Buffer, res.Ends)
}

// heldOf lists what was popped, as it is shown by itself.
func heldOf(res *PopResult) []heldMessage {
	held := make([]heldMessage, len(res.Ends))
	begin := 0
	for i, end := range res.Ends {
		h := &res.Handles[i]
		held[i] = heldMessage{
			shown: h.Offset, offset: h.Offset, position: record.Position(message.PhysicalOffsetOf(res.Buffer.B[begin:end])),
			visibleAt: h.VisibleAt, nonce: h.Nonce, attempts: res.Attempts[i],
		}
		begin = end
	}
	return held
}

// hold adds what was popped to the consumer's queue, and gives each its offset there. It is given back when the pull is not the one
// that its client waits for.
func (v *VirtualConsumer) hold(p *virtualPull, popped []heldMessage) (next int64, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	q := v.mu.queues[p.at]
	if v.mu.closed || q == nil || q.pulling != p {
		v.giveBackLocked(p.at, popped)
		return 0, false
	}
	for i := range popped {
		h := &popped[i]
		h.shown = max(h.shown, q.next)
		q.next, q.ahead = h.shown+1, h.shown > h.offset
	}
	q.held = append(q.held, popped...)
	q.moved = v.b.clock.Now()
	v.countLocked(len(popped))
	return q.next, true
}

func (v *VirtualConsumer) countLocked(n int) {
	v.mu.held += n
	v.b.virtuals.held.Add(int64(n))
}

// nothing answers that there is nothing.
func (p *virtualPull) nothing() {
	next := p.req.Offset
	v := p.v
	v.mu.Lock()
	if q := v.mu.queues[p.at]; q != nil && q.pulling == p { // of what a later pull gets the client is not to be told
		next = max(next, q.next)
	}
	v.mu.Unlock()
	p.answer(PullNoNewMessage, next, nil, nil)
}

func (p *virtualPull) fail(err error) {
	p.end()
	p.done(nil, err)
}

// end makes the pull none that is waited for.
func (p *virtualPull) end() {
	v := p.v
	v.mu.Lock()
	defer v.mu.Unlock()
	if q := v.mu.queues[p.at]; q != nil && q.pulling == p {
		q.pulling = nil
	}
}

func (p *virtualPull) answer(status PullStatus, next int64, buf *store.Buffer, ends []int) {
	p.end()
	res := &PullResult{Status: status, NextOffset: next, Buffer: buf, Ends: ends}
	err := p.v.b.gate.enter()
	if err == nil {
		res.Min, res.Max, err = p.v.b.store.Bounds(p.at.topic, p.at.queue)
		p.v.b.gate.leave()
	}
	if err != nil {
		buf.Release()
		p.done(nil, verbError(err, "pull from "+p.topic.Name))
		return
	}
	p.done(res, nil)
}
