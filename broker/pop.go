package broker

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/filter"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/pop"
	"github.com/cairnmq/cairn/store"
)

// Popping, in the order of reading: this file (the verb), pop_poll.go (look, wait, look again), pop_take.go (one look), pop_lease.go (who
// chooses where), pop_alarm.go (waking up for what becomes visible), pop_order.go (groups that
// are served in order) and pop_attempt.go (requests that come again), pop_ack.go, pop_counters.go;
// pop_notify.go and pop_peek.go (asking without taking).
//
// A message that was handed out is invisible to the group until its time has passed. Then it is handed out again, before
// anything new, with one more attempt; or, when the group has had all the deliveries that it allows, the pop that meets it moves
// it to the group's dead letters (dead.go) and goes on.

// maxPop bounds the messages of one receive, maxPopBytes their bytes; one message is always handed out whole.
const (
	maxPop      = 32
	maxPopBytes = 4 << 20
)

// PopRequest asks for messages that a group has not got yet, or whose invisible time has passed.
type PopRequest struct {
	Group, Topic string
	Queue        int32           // −1: all readable queues of the topic
	Max          int             // 1..32
	Invisible    time.Duration   // > 0; rounded up to whole milliseconds
	Wait         time.Duration   // long poll; 0 answers at once
	Filter       *filter.Expr    // messages that do not match are passed over for good, for this group
	AttemptID    string          // tells a repeated request of a group that is served in order
	QueueOrder   bool            // in order of the queue, whatever group, topic and message groups say: order of POP_MESSAGE
	FromMin      bool            // a group that is new in a queue begins with the first message there is
	Until        <-chan struct{} // closed: nothing is waited for any more; nil: never. Pop only
	ShortNonce   bool            // the handles' nonce is less than 1<<31, for doors whose own handles have no room for more
}

// PopResult: Buffer holds stored layouts (Ends: end of each), Handles and Attempts (1 for the first delivery) align with
// them; the receiver releases it. No messages: Buffer is nil.
type PopResult struct {
	Buffer    *store.Buffer
	Ends      []int
	Handles   []pop.Handle
	Attempts  []int32
	PoppedAt  int64 // ms
	Invisible int64 // ms
	Waited    bool  // it had to wait, or waited in vain
}

// usualHandle is about the length of a handle's text.
const usualHandle = 48

// Receipts are the texts of the handles. All lie in one string.
func (r *PopResult) Receipts() []string {
	text := make([]byte, 0, usualHandle*len(r.Handles))
	ends := make([]int, len(r.Handles))
	for i := range r.Handles {
		text = r.Handles[i].AppendTo(text)
		ends[i] = len(text)
	}
	all, begin := string(text), 0
	texts := make([]string, len(ends))
	for i, end := range ends {
		texts[i], begin = all[begin:end], end
	}
	return texts
}

// popper is what popping needs beside the index.
type popper struct {
	store    *store.Store
	clock    clock.Clock
	due      *due
	waiters  *waiters
	leases   *leases
	alarms   *alarms
	attempts *attempts
	turn     atomic.Uint32 // which queue a look begins with
	quiet    atomic.Int64  // ms: until then nothing is logged
	closing  chan struct{}
}

// newPopper makes Broker.pop. The broker calls it in start, as soon as the due loop runs, and calls close in Close before it
// shuts the gate: pops that wait are inside.
func newPopper(s *store.Store, c clock.Clock, d *due, ws *waiters) *popper {
	return &popper{
		store: s, clock: c, due: d, waiters: ws, leases: newLeases(), alarms: newAlarms(d, ws),
		attempts: newAttempts(),
		closing:  make(chan struct{}),
	}
}

// close ends all waits with CodeClosing. It must not be called twice.
func (p *popper) close() { close(p.closing) }

// Pop hands out messages, expired ones before new ones, and waits up to req.Wait for some. Nothing found is not an error.
// A group that is not there is made when that is allowed. Where the group has never been, it begins with the first message of
// a queue that has lost none yet, and behind the last one of any other. When ctx ends before the answer, what was taken is
// given back and does not count as an attempt.
//
// A group that is served in order (InOrder) gets a message only when nothing earlier of its message group is in flight but in the same answer,
// before it; of messages without a message group, nothing earlier of their queue. A request that repeats the attempt id of an
// earlier one gets the messages of that again, as long as all are invisible and untouched. With QueueOrder every group is
// served in order, and all of a queue is in order with each other.
//
// Refusals: CodeTopicNotFound, CodeGroupNotFound, CodeGroupIllegal, CodeNoPermission (topic not readable, group disabled),
// CodeParameter, CodeBusy, CodeReadOnly, CodeClosing.
func (b *Broker) Pop(ctx context.Context, req *PopRequest) (*PopResult, error) {
	type answer struct {
		res *PopResult
		err error
	}
	over := make(chan answer, 1)
	p := &longPoll{answer: func(res *PopResult, err error) { over <- answer{res, err} }}
	cancel := b.startPoll(ctx, p, req)
	select {
	case a := <-over:
		return a.res, a.err
	case <-ctx.Done():
	case <-req.Until:
	}
	cancel()
	a := <-over
	if a.err == nil && len(a.res.Ends) == 0 && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return a.res, a.err
}

// popping is a Pop under way.
type popping struct {
	b        *Broker
	p        *popper
	ctx      context.Context
	stopped  atomic.Bool // nobody waits for it any more
	req      *PopRequest
	g        *catalog.Group // of the last look
	t        *catalog.Topic
	looked   int64     // ms: when it looked last
	asked    bool      // whether it repeats an earlier request
	cold     bool      // it is with those that read the tier
	deadline time.Time // zero: does not wait
	waiter   waiter
}

// init checks what the request itself says.
func (r *popping) init(ctx context.Context, b *Broker, req *PopRequest) error {
	if req.Max < 1 || req.Max > maxPop || req.Invisible <= 0 {
		return refuse(CodeParameter, "pop of %d messages for %v: 1 to %d, for more than nothing", req.Max, req.Invisible, maxPop)
	}
	r.b, r.p, r.ctx, r.req = b, b.pop, ctx, req
	if req.Wait > 0 {
		r.deadline = b.clock.Now().Add(req.Wait)
	}
	return nil
}

// first looks for the first time, and makes the group when that is allowed.
func (r *popping) first() (*PopResult, error) {
	res, err := r.look()
	if CodeOf(err) == CodeGroupNotFound {
		if _, err = r.b.EnsureGroup(r.ctx, r.req.Group); err == nil {
			res, err = r.look()
		}
	}
	return res, err
}

// ended is why nothing more is to be taken.
func (r *popping) ended() error {
	if r.stopped.Load() {
		return context.Canceled
	}
	return r.ctx.Err()
}

// over says that there is no time left to wait.
func (r *popping) over() bool {
	return r.deadline.IsZero() || !r.p.clock.Now().Before(r.deadline)
}

// check looks up group and topic, and whether this group may pop there.
func (r *popping) check() (err error) {
	req := r.req
	if r.g, err = r.b.group(req.Group); err != nil {
		return err
	}
	if r.t, err = r.b.topic(req.Topic); err != nil {
		return err
	}
	switch {
	case !r.g.ConsumeEnable:
		return refuse(CodeNoPermission, "consumer group %s is disabled", r.g.Name)
	case r.t.Perm&catalog.PermRead == 0:
		return refuse(CodeNoPermission, "topic %s is not readable", r.t.Name)
	case req.Queue < -1 || req.Queue >= r.t.ReadQueues:
		return refuse(CodeParameter, "queue %d of topic %s is not within 0 to %d", req.Queue, r.t.Name, r.t.ReadQueues-1)
	}
	return nil
}

// look takes what there is. It goes on as long as it makes headway without finding anything and has time: a filter may pass
// over more than one look looks at, and a reset may come in between.
func (r *popping) look() (*PopResult, error) {
	for {
		if err := r.check(); err != nil {
			return nil, err
		}
		if !r.asked && r.req.AttemptID != "" && r.inOrder() {
			r.asked = true
			if res, err := r.repeat(); res != nil || err != nil {
				return res, verbError(err, "pop from "+r.t.Name)
			}
		}
		res, again, err := r.p.take(r)
		switch {
		case err != nil && res == nil:
			return nil, verbError(err, "pop from "+r.t.Name)
		case res != nil:
			if err != nil && !unreached(err) && r.p.mayComplain() {
				r.b.log.Error().Err(err).Str("group", r.g.Name).Str("topic", r.t.Name).Msg("a message cannot be handed out")
			}
			r.b.meters.countOut(r.g, r.t, len(res.Ends), len(res.Buffer.B))
			return res, nil
		case !again:
			return nil, nil
		case r.ended() != nil:
			return nil, r.ended()
		case !r.deadline.IsZero() && r.over(): // what was passed over stays so; what is left is for the next one
			r.p.waiters.ready(r.g.ID, r.t.ID, 1)
			return nil, nil
		}
	}
}

// passOn lets the next one look when this one was woken, and sees to it that the group is woken for what becomes visible
// later: the alarm that is over may have woken this one.
func (r *popping) passOn(woken bool) {
	group, topic := r.waiter.group, r.waiter.topic
	if anyone, _ := r.p.waiters.waiting(group, topic); !anyone {
		return
	}
	if woken {
		r.p.waiters.ready(group, topic, 1)
	}
	r.p.alarms.arm(r.p.store.Pop, groupOfTopic{group, topic}, r.looked)
}

// mayComplain says yes once a second: what cannot be handed out is met by every look.
func (p *popper) mayComplain() bool {
	now, until := p.clock.Now().UnixMilli(), p.quiet.Load()
	return now >= until && p.quiet.CompareAndSwap(until, now+1000)
}
