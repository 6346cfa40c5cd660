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
	PID      int           // the broker's process, 0: unknown
	Progress func(done int64)

	fromEnd bool // receivers leave out what is there already
}

// Latency is a distribution in ms.
type Latency struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

// Result of a run.
type Result struct {
	What       string        `json:"what"` // produce, consume, e2e
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
	Machine    *Latency      `json:"machine_ms,omitempty"` // by how much mere waits of the driver were late meanwhile
	Broker     *Usage        `json:"broker,omitempty"`
	FirstError string        `json:"first_error,omitempty"`
}

// sender sends one message and waits for the answer. One goroutine uses it.
type sender interface {
	send(ctx context.Context, body []byte) error
}

// receiver hands each body that comes to f, and settles (acknowledges) what it must. It returns when ctx ends.
type receiver interface {
	receive(ctx context.Context, f func(body []byte)) error
}

// target makes senders and receivers of one broker.
type target interface {
	prepare(ctx context.Context) error // the topic is there
	sender(worker int) (sender, error)
	receivers(ctx context.Context, n int) ([]receiver, error)
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

// A body begins with the run's number, the message's number and the time when its send was due, 8 bytes each.
const bodyHeader = 24

// Produce sends.
func Produce(ctx context.Context, o Options) (Result, error) {
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
	t, err := o.target()
	if err != nil {
		return res, 0, err
	}
	defer t.close()
	if err := t.prepare(ctx); err != nil {
		return res, 0, fmt.Errorf("prepare topic %s: %w", o.Topic, err)
	}
	p := &producing{o: o, run: uint64(time.Now().UnixNano()), hist: newHist()}
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
		res.Messages, res.Failed = p.sent.Load(), p.failed.Load()
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
	if s := p.firstError.Load(); s != nil {
		res.FirstError = *s
	}
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
	next         atomic.Int64
	sent, failed atomic.Int64
	firstError   atomic.Pointer[string]
	mu           sync.Mutex
	hist         *hdrhistogram.Histogram // µs from when a send was due to its answer
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

func (p *producing) work(ctx context.Context, began time.Time, s sender) {
	hist := newHist()
	body := make([]byte, p.o.Size)
	binary.BigEndian.PutUint64(body, p.run)
	for ctx.Err() == nil {
		i := p.next.Add(1) - 1
		if p.o.Count > 0 && i >= p.o.Count {
			break
		}
		due := time.Now()
		if p.o.Rate > 0 {
			due = began.Add(time.Duration(float64(i) / p.o.Rate * float64(time.Second)))
			if !waitUntil(ctx, due) {
				break
			}
		}
		binary.BigEndian.PutUint64(body[8:], uint64(i))
		binary.BigEndian.PutUint64(body[16:], uint64(due.UnixNano()))
		if err := s.send(context.WithoutCancel(ctx), body); err != nil {
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

func waitUntil(ctx context.Context, t time.Time) bool {
	d := time.Until(t)
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
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

	mu   sync.Mutex
	seen *bitmap
	hist *hdrhistogram.Histogram // µs from when a send was due to its receipt
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
	idle := time.Since(time.Unix(0, c.last.Load()))
	if c.any {
		return c.o.Count > 0 && c.count.Load() >= c.o.Count || idle > c.o.Wait
	}
	return c.distinct.Load() >= c.expect.Load() || idle > c.o.Wait
}

func (c *consuming) got(body []byte) {
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
