package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// AckMode is how a consumer that pops acknowledges.
type AckMode string

// Ways to acknowledge.
const (
	AckEach  AckMode = "each"  // each message by a call of its own, those of one pop at once, as the official clients do
	AckBatch AckMode = "batch" // all messages of a pop by one call
	AckNever AckMode = "never"
)

// Filter is what a group that pops selects by.
type Filter string

// Filters. What passes has the tag hit, and hit as its property kind.
const (
	FilterNone Filter = "none"
	FilterTag  Filter = "tag"
	FilterSQL  Filter = "sql"
)

const (
	tagHit  = "hit"
	tagMiss = "miss"
)

// PopOptions of Pop and Wake.
type PopOptions struct {
	Names     string // name server by which topics and groups are made and filled when the messages go over gRPC
	Groups    int    // consumer groups; each takes an equal part of the messages
	Topics    int    // topics that the groups read, at most one each; 0: as many as groups (Wake: at most 1,000)
	Queues    int    // of each topic
	There     bool   // take what the topic holds already, instead of topics of the run's own that are filled first
	Ack       AckMode
	Invisible time.Duration // whole ms; over gRPC at least 10 s
	FailEvery int64         // each so-manieth message is not acknowledged when it comes first; 0: none
	Filter    Filter
	PassEvery int64         // each so-manieth message passes the filter
	Polls     int           // Wake: pops that wait
	Hold      time.Duration // how long a pop may wait; over gRPC 5 to 20 s
}

// nameServer is where the run's topics and groups are made and filled.
func (o *Options) nameServer() string {
	if o.Protocol == Remoting {
		return o.Endpoint
	}
	return o.Pop.Names
}

func (p *PopOptions) check() error {
	switch {
	case p.Ack != AckEach && p.Ack != AckBatch && p.Ack != AckNever:
		return fmt.Errorf("%q is not each, batch or never", p.Ack)
	case p.Filter != FilterNone && p.Filter != FilterTag && p.Filter != FilterSQL:
		return fmt.Errorf("%q is not none, tag or sql", p.Filter)
	case p.Filter != FilterNone && (p.PassEvery < 1 || p.There):
		return errors.New("a filter needs --pass-every, and messages of its own")
	case p.Ack == AckNever && p.FailEvery > 0:
		return errors.New("what is never acknowledged cannot fail")
	case p.There && p.FailEvery > 0:
		return errors.New("failures need messages of their own")
	case p.Invisible < time.Millisecond:
		return errors.New("give an invisible time")
	}
	return nil
}

// tagOf is the tag of the i-th message of a topic, when each so-manieth passes.
func tagOf(i, passEvery int64) string {
	if i%passEvery == 0 {
		return tagHit
	}
	return tagMiss
}

// place is where a pop looks.
type place struct{ group, topic string }

// popped is a message that came, as far as its acknowledgement needs it.
type popped struct {
	id     string   // gRPC
	handle string   // gRPC: the receipt handle. Remoting: the property POP_CK
	check  popCheck // Remoting: the handle, taken apart
}

// errBusy is the answer of a broker at which too many pops wait.
var errBusy = errors.New("the broker turns pops away")

// popper pops and acknowledges for one worker.
type popper interface {
	// pop waits for at most Hold. Each body that comes goes to f, which does not keep it. When they were popped is 0 when none
	// came. It returns errBusy, or what failed for good.
	pop(ctx context.Context, p place, f func(body []byte, m popped)) (at time.Time, err error)
	// ackEach settles messages of one pop, each by a call of its own, all at once, and returns when all are answered. It calls done
	// for each as it is answered, from several goroutines.
	ackEach(ctx context.Context, p place, ms []popped, done func(error))
	// ackTogether settles messages of one pop by one call.
	ackTogether(ctx context.Context, p place, ms []popped) error
}

// Pop fills topics, unless they are, and has groups pop all of it and acknowledge.
func Pop(ctx context.Context, o Options) (Result, error) {
	res := Result{What: "pop", Protocol: o.Protocol}
	if err := o.Pop.check(); err != nil {
		return res, err
	}
	l, err := newLayout(&o)
	if err != nil {
		return res, err
	}
	if err := l.make(ctx, &o); err != nil {
		return res, err
	}
	if !o.Pop.There {
		if err := l.announce(ctx, o); err != nil {
			return res, err
		}
		if err := l.fill(ctx, o); err != nil {
			return res, fmt.Errorf("fill the topics: %w", err)
		}
		quiet(ctx, o.PID) // what the messages cost that were sent is not what it costs to pop them
	}
	o.Topic, o.Group = l.topics[0], l.groups[0]
	t, err := o.prepared(ctx)
	if err != nil {
		return res, err
	}
	defer t.close()
	r := newPopRun(&o, &l)
	usage := startUsage(o.PID)
	mctx, stopMeter := context.WithCancel(ctx)
	defer stopMeter()
	late, metered := hiccups(mctx)
	began := time.Now()
	err = r.all(ctx, t)
	res.Broker = usage.stop(r.messages())
	stopMeter()
	<-metered
	res.Machine = latency(late)
	r.report(&res, began)
	return res, err
}

// popRun is what all workers of a run share.
type popRun struct {
	o         *Options
	l         *layout
	expected  int64          // messages that are to come, of all groups
	every     int64          // of a group's messages each so-manieth is one of them
	toCome    []atomic.Int64 // by group: messages that have not come yet
	toSettle  []atomic.Int64 // by group: messages that are not settled yet
	next      atomic.Int64   // group to look at
	settled   atomic.Int64   // of expected
	came      atomic.Int64   // of expected
	empty     atomic.Int64   // pops without a message
	refused   atomic.Int64   // pops turned away
	failed    atomic.Int64   // pops and acknowledgements
	last      atomic.Int64   // unix ns of the last message or settlement
	stop      func()         // ends the workers
	failure   atomic.Pointer[string]
	mu        sync.Mutex
	seen      *bitmap             // messages that came
	due       map[int64]time.Time // by message that was not acknowledged: when it is due again
	early     earliness
	repeated  int64
	redeliver int64
	pops      *hdrhistogram.Histogram // µs
	acks      *hdrhistogram.Histogram // µs
	late      *hdrhistogram.Histogram // µs
}

func newPopRun(o *Options, l *layout) *popRun {
	n := len(l.groups)
	r := &popRun{o: o, l: l, every: 1, toCome: make([]atomic.Int64, n), toSettle: make([]atomic.Int64, n), seen: newBitmap(),
		due: map[int64]time.Time{}, pops: newHist(), acks: newHist(), late: newHist()}
	if o.Pop.Filter != FilterNone {
		r.every = o.Pop.PassEvery
	}
	each := (l.each + r.every - 1) / r.every
	for g := range n {
		r.toCome[g].Store(each)
		r.toSettle[g].Store(each)
	}
	r.expected = each * int64(n)
	return r
}

// all runs the workers until everything is settled, or nothing has come for too long.
func (r *popRun) all(ctx context.Context, t target) error {
	ctx, r.stop = context.WithCancel(ctx)
	defer r.stop()
	r.last.Store(time.Now().UnixNano())
	var workers sync.WaitGroup
	for w := range r.o.Workers {
		p, err := t.popper(ctx, w)
		if err != nil {
			return err
		}
		workers.Go(func() { r.work(ctx, p) })
	}
	patience := r.o.Wait
	if r.o.Pop.FailEvery > 0 {
		patience += r.o.Pop.Invisible
	}
	for waitUntil(ctx, time.Now().Add(20*time.Millisecond)) {
		if time.Since(time.Unix(0, r.last.Load())) > patience {
			r.stop()
		}
	}
	workers.Wait()
	return nil
}

// After a pop that the broker refuses a client waits for so long. The first as official clients do.
const (
	pauseBusy   = 20 * time.Millisecond
	pauseFailed = 200 * time.Millisecond
)

func (r *popRun) work(ctx context.Context, p popper) {
	var numbers []int64
	var ms []popped
	for ctx.Err() == nil {
		g := r.pick()
		at := place{group: r.l.groups[g], topic: r.l.topics[r.l.topic(g)]}
		began := time.Now()
		numbers, ms = numbers[:0], ms[:0]
		poppedAt, err := p.pop(ctx, at, func(body []byte, m popped) {
			numbers, ms = append(numbers, numberOf(body)), append(ms, m)
		})
		switch {
		case err != nil && ctx.Err() != nil:
		case errors.Is(err, errBusy):
			r.refused.Add(1)
			waitUntil(ctx, time.Now().Add(pauseBusy))
		case err != nil:
			r.fail(1, fmt.Errorf("pop for %s: %w", at.group, err))
			waitUntil(ctx, time.Now().Add(pauseFailed))
		case len(ms) == 0:
			r.empty.Add(1)
		default:
			r.settle(ctx, p, g, at, r.took(g, numbers, ms, poppedAt, time.Since(began)))
		}
	}
}

// pick is the next group that has something to come, or else something to be settled.
func (r *popRun) pick() int {
	n := int64(len(r.toCome))
	for _, left := range [][]atomic.Int64{r.toCome, r.toSettle} {
		for range n {
			if g := r.next.Add(1) % n; left[g].Load() > 0 {
				return int(g)
			}
		}
	}
	return 0
}

// numberOf is a message's number, −1 when it is none of ours.
func numberOf(body []byte) int64 {
	if len(body) < bodyHeader {
		return -1
	}
	return int64(binary.BigEndian.Uint64(body[8:]))
}

// took notes what came to group g, and returns what is to be acknowledged.
func (r *popRun) took(g int, numbers []int64, ms []popped, poppedAt time.Time, took time.Duration) []popped {
	now := time.Now()
	r.last.Store(now.UnixNano())
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.pops.RecordValue(max(1, took.Microseconds()))
	if r.o.Pop.There {
		r.new(g, len(ms))
		return ms
	}
	good := ms[:0]
	for i, m := range ms {
		within := numbers[i] - int64(r.l.topic(g))*r.l.each
		if within < 0 || within >= r.l.each || within%r.every != 0 {
			r.fail(1, fmt.Errorf("the message %d came to %s, which does not select it", numbers[i], r.l.groups[g]))
			continue
		}
		within /= r.every
		slot := int64(g)*(r.expected/int64(len(r.l.groups))) + within
		if r.seen.add(uint64(slot)) {
			r.new(g, 1)
			if every := r.o.Pop.FailEvery; every > 0 && within%every == 0 {
				r.due[slot] = poppedAt.Add(r.o.Pop.Invisible)
				r.redeliver++
				continue
			}
		} else {
			r.again(slot, now)
		}
		good = append(good, m)
	}
	return good
}

// new notes that n messages came to group g for the first time.
func (r *popRun) new(g, n int) {
	r.toCome[g].Add(-int64(n))
	if done := r.came.Add(int64(n)); r.o.Progress != nil {
		r.o.Progress(done * r.every)
	}
	if r.o.Pop.Ack == AckNever {
		r.done(g, n)
	}
}

// again notes that a message came once more, which it had to once when it was not acknowledged.
func (r *popRun) again(slot int64, now time.Time) {
	due, ok := r.due[slot]
	if !ok {
		r.repeated++
		return
	}
	delete(r.due, slot)
	if early := due.Sub(now); early > 0 {
		r.early.add(int64(early))
		return
	}
	_ = r.late.RecordValue(max(1, now.Sub(due).Microseconds()))
}

// settle acknowledges.
func (r *popRun) settle(ctx context.Context, p popper, g int, at place, ms []popped) {
	if r.o.Pop.Ack == AckNever || len(ms) == 0 {
		return
	}
	ctx = context.WithoutCancel(ctx)
	began := time.Now()
	if r.o.Pop.Ack == AckBatch {
		r.answered(g, len(ms), began, p.ackTogether(ctx, at, ms))
		return
	}
	p.ackEach(ctx, at, ms, func(err error) { r.answered(g, 1, began, err) })
}

// answered notes the answer to an acknowledgement of n messages of group g.
func (r *popRun) answered(g, n int, began time.Time, err error) {
	took := time.Since(began)
	if err != nil {
		r.fail(n, err)
	}
	r.mu.Lock()
	_ = r.acks.RecordValue(max(1, took.Microseconds()))
	r.mu.Unlock()
	r.done(g, n)
}

func (r *popRun) fail(n int, err error) {
	r.failed.Add(int64(n))
	text := err.Error()
	r.failure.CompareAndSwap(nil, &text)
}

// done notes that n messages of group g are settled, and ends the run with the last one. A refused acknowledgement counts too:
// what comes of it is a repeated message.
func (r *popRun) done(g, n int) {
	r.last.Store(time.Now().UnixNano())
	r.toSettle[g].Add(-int64(n))
	if r.settled.Add(int64(n)) >= r.expected {
		r.stop()
	}
}

// messages counts those of the topics that were seen, whether they pass the filter or not, so that costs are those of a message
// there.
func (r *popRun) messages() int64 {
	if came := r.came.Load(); r.every == 1 || came < r.expected {
		return came * r.every
	}
	return r.o.Count
}

func (r *popRun) report(res *Result, began time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	res.Messages = r.messages()
	res.Took = time.Unix(0, r.last.Load()).Sub(began)
	if res.Took > 0 {
		res.Throughput = float64(res.Messages) / res.Took.Seconds()
	}
	res.Lost = r.expected - r.came.Load() + int64(len(r.due))
	res.Repeated, res.Redeliver = r.repeated, r.redeliver
	res.Empty, res.Refused = r.empty.Load(), r.refused.Load()
	res.Early, res.EarlyMax = r.early.count, float64(r.early.most)/1e6
	res.Failed = r.failed.Load()
	if s := r.failure.Load(); s != nil {
		res.FirstError = *s
	}
	res.Pop, res.Ack, res.Late = latency(r.pops), latency(r.acks), latency(r.late)
}
