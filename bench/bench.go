// Package bench drives any broker that speaks RocketMQ's protocols with load, and measures it: rates, latencies, and what
// the broker's process spent. `cairn bench` is its command line, bench/compare.sh runs it on Cairn and the Java reference.
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

// Protocol of a run.
type Protocol string

// Protocols.
const (
	Remoting Protocol = "remoting"
	GRPC     Protocol = "grpc"
)

// Options of a run.
type Options struct {
	Protocol Protocol
	Endpoint string // name server (remoting) or gRPC address
	Topic    string
	Group    string
	Workers  int           // senders, or receivers
	Conns    int           // connections that the workers share
	Size     int           // bytes of a body, at least 24
	Count    int64         // messages; 0: as many as come in Duration
	Duration time.Duration // ends a run early; 0: none
	Rate     float64       // messages a second, open loop: a send is due at its time whether the one before has been answered or not; 0: closed loop
	Batch    int           // messages of one receive or pull, 1..32
	Wait     time.Duration // a consumer that got nothing for this long is done
	Delay    time.Duration // of what is sent; 0: none
	Spread   time.Duration // delays are this much longer at most, evenly spread
	Open     bool          // half messages are left open instead of committed
	Pop      PopOptions
	PID      int // the broker's process, 0: unknown
	Progress func(done int64)

	kind    kind
	fromEnd bool // receivers leave out what is there already
}

// kind of the messages that a run sends, as the attribute message.type of topics says it; normal ones say nothing.
type kind string

const (
	normal        kind = ""
	delayed       kind = "DELAY"
	transactional kind = "TRANSACTION"
)

// Latency is a distribution in ms.
type Latency struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

// Result of a run.
type Result struct {
	What       string        `json:"what"` // produce, consume, e2e, timers, recall, txn, pop, wake
	Protocol   Protocol      `json:"protocol"`
	Messages   int64         `json:"messages"`
	Failed     int64         `json:"failed"`
	Repeated   int64         `json:"repeated"`
	Lost       int64         `json:"lost"`
	Took       time.Duration `json:"took_ns"`
	Throughput float64       `json:"throughput"` // messages a second
	Send       *Latency      `json:"send_ms,omitempty"`
	Ack        *Latency      `json:"ack_ms,omitempty"`
	EndToEnd   *Latency      `json:"e2e_ms,omitempty"`
	Late       *Latency      `json:"late_ms,omitempty"`      // from when a timer was due to its receipt, of those that were not early
	Recall     *Latency      `json:"recall_ms,omitempty"`    // of the request that takes a delayed message back
	Pair       *Latency      `json:"pair_ms,omitempty"`      // send of a half message and its commit together
	Early      int64         `json:"early,omitempty"`        // timers that came before they were due
	EarlyMax   float64       `json:"early_max_ms,omitempty"` // by how much at most
	Disordered int64         `json:"disordered,omitempty"`   // timers that came behind one of their queue that was due later
	Pop        *Latency      `json:"pop_ms,omitempty"`       // of a pop that brought messages
	Wake       *Latency      `json:"wake_ms,omitempty"`      // from the answer to a send until the pop that waited has the message; 1 µs when it was there before
	Redeliver  int64         `json:"redeliver,omitempty"`    // messages that were not acknowledged, so that they had to come once more
	Empty      int64         `json:"empty,omitempty"`        // pops that brought nothing
	Waiting    int64         `json:"waiting,omitempty"`      // fewest pops that were under way at a send
	Refused    int64         `json:"refused,omitempty"`      // pops that the broker turned away because too many waited
	Machine    *Latency      `json:"machine_ms,omitempty"`   // by how much mere waits of the driver were late meanwhile
	Broker     *Usage        `json:"broker,omitempty"`
	FirstError string        `json:"first_error,omitempty"`
}

// outgoing is a message to be sent. The sender does not keep it.
type outgoing struct {
	topic string // empty: the run's
	tag   string // empty: none; else it is the property kind as well, for SQL92
	body  []byte
	due   time.Time // whole ms, of a delayed message
}

// propKind is the property of messages that have a tag.
const propKind = "kind"

// receipt is what the answer to a send says that is needed to recall a delayed message, or to end a transaction.
type receipt struct {
	id, handle, transaction string
	position, offset        int64 // of a half message; Remoting only
}

// sender makes one request at a time and waits for its answer. One goroutine uses it.
type sender interface {
	send(ctx context.Context, m *outgoing) (receipt, error)
	recall(ctx context.Context, r *receipt) error
	commit(ctx context.Context, r *receipt) error
}

// receiver hands each body that comes to f, and settles (acknowledges) what it must. It returns when ctx ends. The queue is −1
// where others receive from it as well, so that nothing can be said about the order.
type receiver interface {
	receive(ctx context.Context, f func(queue int32, body []byte)) error
}

// target makes senders and receivers of one broker.
type target interface {
	prepare(ctx context.Context) error // the topic is there
	sender(worker int) (sender, error)
	receivers(ctx context.Context, n int) ([]receiver, error)
	popper(ctx context.Context, worker int) (popper, error)
	ackLatency() *hdrhistogram.Histogram // µs; nil when nothing is acknowledged one by one
	close()
}

func (o *Options) target() (target, error) {
	switch {
	case o.Size < bodyHeader:
		return nil, fmt.Errorf("a body has at least %d bytes", bodyHeader)
	case o.Workers < 1 || o.Conns < 1:
		return nil, errors.New("at least one worker and one connection")
	case o.Batch < 1 || o.Batch > 32:
		return nil, errors.New("a batch is 1 to 32 messages")
	case o.Count == 0 && o.Duration == 0:
		return nil, errors.New("give a count or a duration")
	}
	switch o.Protocol {
	case Remoting:
		return newRemoting(o), nil
	case GRPC:
		return newGRPC(o)
	}
	return nil, fmt.Errorf("%q is neither remoting nor grpc", o.Protocol)
}

// prepared is a target whose topic is there.
func (o *Options) prepared(ctx context.Context) (target, error) {
	t, err := o.target()
	if err != nil {
		return nil, err
	}
	if err := t.prepare(ctx); err != nil {
		t.close()
		return nil, fmt.Errorf("prepare topic %s: %w", o.Topic, err)
	}
	return t, nil
}

// A body begins with the run's number, the message's number and the time when its send was due, or when it is to be delivered
// when it is a delayed one, 8 bytes each.
const bodyHeader = 24

// Produce sends.
func Produce(ctx context.Context, o Options) (Result, error) {
	if o.Delay > 0 || o.Spread > 0 {
		o.kind = delayed
	}
	r, _, err := run(ctx, o, true, false)
	r.What = "produce"
	return r, err
}

// Consume receives what is there already, until Count came or nothing came for Wait.
func Consume(ctx context.Context, o Options) (Result, error) {
	r, _, err := run(ctx, o, false, true)
	r.What = "consume"
	return r, err
}

// EndToEnd sends and receives at once, and checks that each message came once.
func EndToEnd(ctx context.Context, o Options) (Result, error) {
	o.fromEnd = true
	r, seen, err := run(ctx, o, true, true)
	r.What = "e2e"
	r.Lost = r.Messages - seen
	return r, err
}

func run(ctx context.Context, o Options, produce, consume bool) (Result, int64, error) {
	res := Result{Protocol: o.Protocol}
	t, err := o.prepared(ctx)
	if err != nil {
		return res, 0, err
	}
	defer t.close()
	p := newProducing(o)
	c := &consuming{o: o, run: p.run, any: !produce, hist: newHist(), seen: newBitmap()}
	usage := startUsage(o.PID)
	mctx, stopMeter := context.WithCancel(ctx)
	defer stopMeter()
	late, metered := hiccups(mctx)
	began := time.Now()

	cctx, stopConsuming := context.WithCancel(ctx)
	defer stopConsuming()
	consumed := make(chan error, 1)
	if consume {
		rs, err := t.receivers(cctx, o.Workers)
		if err != nil {
			return res, 0, err
		}
		c.last.Store(time.Now().UnixNano())
		go func() { consumed <- c.all(cctx, stopConsuming, rs) }()
	} else {
		consumed <- nil
	}
	if produce {
		err = p.all(ctx, t)
		c.expect.Store(p.sent.Load())
		res.Messages = p.sent.Load()
		res.Took = time.Since(began)
		res.Send = latency(p.hist)
	}
	c.sendingDone.Store(true)
	err = errors.Join(err, <-consumed)
	if consume {
		if !produce {
			res.Messages = c.count.Load()
			c.lastSeen(began, &res.Took)
		} else {
			c.lastSeen(began, &res.Took)
			res.EndToEnd = latency(c.hist)
		}
		res.Repeated = c.repeated.Load()
		if h := t.ackLatency(); h != nil {
			res.Ack = latency(h)
		}
	}
	p.report(&res)
	if res.Took > 0 {
		res.Throughput = float64(res.Messages) / res.Took.Seconds()
	}
	res.Broker = usage.stop(res.Messages)
	stopMeter()
	<-metered
	res.Machine = latency(late)
	return res, c.distinct.Load(), err
}

func newHist() *hdrhistogram.Histogram { return hdrhistogram.New(1, 600_000_000, 3) }

func latency(h *hdrhistogram.Histogram) *Latency {
	if h.TotalCount() == 0 {
		return nil
	}
	ms := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1000 }
	return &Latency{P50: ms(50), P99: ms(99), P999: ms(99.9), Max: float64(h.Max()) / 1000}
}

type producing struct {
	o            Options
	run          uint64
	due          func(i int64) time.Time // when the i-th message is to be delivered; nil: at once
	do           func(ctx context.Context, s sender, i int64, m *outgoing) error
	next         atomic.Int64
	sent, failed atomic.Int64
	firstError   atomic.Pointer[string]
	mu           sync.Mutex
	hist         *hdrhistogram.Histogram // µs from when a send was due to its answer
}

func newProducing(o Options) *producing {
	p := &producing{o: o, run: uint64(time.Now().UnixNano()), hist: newHist(), do: sendOnly}
	switch o.kind {
	case delayed:
		p.due = func(i int64) time.Time { return time.Now().Add(o.Delay + spread(o.Spread, i)) }
	case transactional:
		if !o.Open {
			p.do = sendAndCommit
		}
	}
	return p
}

func sendOnly(ctx context.Context, s sender, _ int64, m *outgoing) error {
	_, err := s.send(ctx, m)
	return err
}

func (p *producing) all(ctx context.Context, t target) error {
	if p.o.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.o.Duration)
		defer cancel()
	}
	began := time.Now()
	var wg sync.WaitGroup
	for w := range p.o.Workers {
		s, err := t.sender(w)
		if err != nil {
			return err
		}
		wg.Go(func() { p.work(ctx, began, s) })
	}
	wg.Wait()
	return nil
}

// report adds what failed to a result.
func (p *producing) report(res *Result) {
	res.Failed += p.failed.Load()
	if s := p.firstError.Load(); s != nil && res.FirstError == "" {
		res.FirstError = *s
	}
}

func (p *producing) work(ctx context.Context, began time.Time, s sender) {
	hist, start := newHist(), newAlarm()
	defer start.close()
	m := outgoing{body: make([]byte, p.o.Size)}
	binary.BigEndian.PutUint64(m.body, p.run)
	for ctx.Err() == nil {
		i := p.next.Add(1) - 1
		if p.o.Count > 0 && i >= p.o.Count {
			break
		}
		due := time.Now()
		if p.o.Rate > 0 {
			due = began.Add(time.Duration(float64(i) / p.o.Rate * float64(time.Second)))
			if !start.waitUntil(ctx, due) {
				break
			}
		}
		mark := due
		if p.due != nil {
			m.due = p.due(i).Truncate(time.Millisecond)
			mark = m.due
		}
		binary.BigEndian.PutUint64(m.body[8:], uint64(i))
		binary.BigEndian.PutUint64(m.body[16:], uint64(mark.UnixNano()))
		if err := p.do(context.WithoutCancel(ctx), s, i, &m); err != nil {
			p.failed.Add(1)
			msg := err.Error()
			p.firstError.CompareAndSwap(nil, &msg)
			continue
		}
		_ = hist.RecordValue(max(1, time.Since(due).Microseconds()))
		if n := p.sent.Add(1); p.o.Progress != nil && n%1000 == 0 {
			p.o.Progress(n)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hist.Merge(hist)
}

type consuming struct {
	o           Options
	run         uint64
	any         bool // count messages of earlier runs too
	expect      atomic.Int64
	sendingDone atomic.Bool
	count       atomic.Int64
	distinct    atomic.Int64
	repeated    atomic.Int64
	last        atomic.Int64 // unix ns of the last message
	patience    time.Time    // no message need come before

	mu    sync.Mutex
	seen  *bitmap
	hist  *hdrhistogram.Histogram // µs from when a send, or a delayed message, was due to its receipt
	early earliness
}

func (c *consuming) all(ctx context.Context, stop func(), rs []receiver) error {
	errs := make(chan error, len(rs))
	for _, r := range rs {
		go func() { errs <- r.receive(ctx, c.got) }()
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var deadline <-chan time.Time
	if c.o.Duration > 0 && c.any {
		deadline = time.After(c.o.Duration)
	}
	var first error
	for left := len(rs); left > 0; {
		select {
		case err := <-errs:
			left--
			if err != nil && ctx.Err() == nil && first == nil {
				first = err
				stop()
			}
		case <-deadline:
			stop()
		case <-tick.C:
			if c.finished() {
				stop()
			}
		}
	}
	return first
}

func (c *consuming) finished() bool {
	if !c.sendingDone.Load() {
		return false
	}
	idle := min(time.Since(time.Unix(0, c.last.Load())), time.Since(c.patience))
	if c.any {
		return c.o.Count > 0 && c.count.Load() >= c.o.Count || idle > c.o.Wait
	}
	return c.distinct.Load() >= c.expect.Load() || idle > c.o.Wait
}

func (c *consuming) got(queue int32, body []byte) {
	if len(body) < bodyHeader || !c.any && binary.BigEndian.Uint64(body) != c.run {
		return
	}
	now := time.Now().UnixNano()
	c.last.Store(now)
	i, due := binary.BigEndian.Uint64(body[8:]), int64(binary.BigEndian.Uint64(body[16:]))
	if n := c.count.Add(1); c.o.Progress != nil && n%1000 == 0 && c.any {
		c.o.Progress(n)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.any {
		return
	}
	if !c.seen.add(i) {
		c.repeated.Add(1)
		return
	}
	c.distinct.Add(1)
	c.early.order(queue, due)
	if now < due {
		c.early.add(due - now)
		return
	}
	_ = c.hist.RecordValue(max(1, (now-due)/1000))
}

// lastSeen makes took the time until the last message came.
func (c *consuming) lastSeen(began time.Time, took *time.Duration) {
	if d := time.Unix(0, c.last.Load()).Sub(began); d > *took || c.any {
		*took = d
	}
}

// bitmap grows with the largest number added.
type bitmap struct{ words []uint64 }

func newBitmap() *bitmap { return &bitmap{} }

// add is false when i was there.
func (b *bitmap) add(i uint64) bool {
	for uint64(len(b.words)) <= i/64 {
		b.words = append(b.words, 0)
	}
	if b.words[i/64]&(1<<(i%64)) != 0 {
		return false
	}
	b.words[i/64] |= 1 << (i % 64)
	return true
}
