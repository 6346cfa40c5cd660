package bench

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"
)

// unordered is the queue of a message of which several receivers take.
const unordered int32 = -1

// spread is the i-th of evenly spread parts of d. Neighbours in number are far from each other in time, so that messages are
// not sent in the order in which they are due.
func spread(d time.Duration, i int64) time.Duration {
	_, part := math.Modf(float64(i) * math.Phi)
	return time.Duration(part * float64(d))
}

// earliness is what a consumer of timers finds wrong.
type earliness struct {
	count, most int64           // timers that came early, and by how many ns at most
	disordered  int64           // timers that came behind one of their queue that was due later
	lastDue     map[int32]int64 // unix ns, by queue
}

func (e *earliness) add(ns int64) {
	e.count++
	e.most = max(e.most, ns)
}

func (e *earliness) order(queue int32, due int64) {
	if queue == unordered {
		return
	}
	if e.lastDue == nil {
		e.lastDue = map[int32]int64{}
	}
	if due < e.lastDue[queue] {
		e.disordered++
	}
	e.lastDue[queue] = due
}

// errOverdue says that a timers run was badly asked for.
var errOverdue = errors.New("it was due before it was sent: give a longer delay")

// Timers sends delayed messages that are due within Spread after Delay, and measures by how much they come late. With a Rate
// so many are due each second. The time that counts is that from the first one's due time on; Delay must be long enough to
// send them all.
func Timers(ctx context.Context, o Options) (Result, error) {
	res := Result{What: "timers", Protocol: o.Protocol}
	o.kind, o.fromEnd = delayed, true
	if o.Count == 0 {
		o.Count = int64(o.Rate * o.Duration.Seconds())
	}
	if o.Rate > 0 {
		o.Spread = time.Duration(float64(o.Count) / o.Rate * float64(time.Second))
	}
	if o.Delay <= 0 {
		return res, errors.New("give a delay that is long enough to send all timers")
	}
	o.Rate, o.Duration = 0, 0 // sends go as fast as they are answered
	t, err := o.prepared(ctx)
	if err != nil {
		return res, err
	}
	defer t.close()
	rs, err := t.receivers(ctx, o.Workers)
	if err != nil {
		return res, err
	}
	usage := startUsage(o.PID)
	first := time.Now().Add(o.Delay).Truncate(time.Millisecond)
	p := newProducing(o)
	p.due = func(i int64) time.Time { return first.Add(spread(o.Spread, i)) }
	p.do = func(ctx context.Context, s sender, i int64, m *outgoing) error {
		if !m.due.After(time.Now()) {
			return errOverdue
		}
		return sendOnly(ctx, s, i, m)
	}
	c := &consuming{o: o, run: p.run, hist: newHist(), seen: newBitmap(), patience: first.Add(o.Spread)}
	cctx, stop := context.WithCancel(ctx)
	defer stop()
	consumed := make(chan error, 1)
	go func() { consumed <- c.all(cctx, stop, rs) }()

	err = p.all(ctx, t)
	c.expect.Store(p.sent.Load())
	c.sendingDone.Store(true)
	late, metered := hiccups(cctx) // while timers fire only
	err = errors.Join(err, <-consumed)
	stop()
	<-metered

	p.report(&res)
	res.Messages, res.Lost, res.Repeated = p.sent.Load(), p.sent.Load()-c.distinct.Load(), c.repeated.Load()
	c.lastSeen(first, &res.Took)
	if res.Took > 0 {
		res.Throughput = float64(c.distinct.Load()) / res.Took.Seconds()
	}
	res.Send, res.Late, res.Machine = latency(p.hist), latency(c.hist), latency(late)
	res.Early, res.EarlyMax, res.Disordered = c.early.count, float64(c.early.most)/1e6, c.early.disordered
	if h := t.ackLatency(); h != nil {
		res.Ack = latency(h)
	}
	res.Broker = usage.stop(res.Messages)
	return res, err
}

// Recall sends Count messages that are due after Delay, and then measures how they are taken back.
func Recall(ctx context.Context, o Options) (Result, error) {
	res := Result{What: "recall", Protocol: o.Protocol}
	o.kind = delayed
	if o.Count == 0 || o.Delay <= 0 {
		return res, errors.New("give a count, and a delay that is long enough to recall so many")
	}
	t, err := o.prepared(ctx)
	if err != nil {
		return res, err
	}
	defer t.close()
	var mu sync.Mutex
	var receipts []receipt
	sending := newProducing(o)
	sending.do = func(ctx context.Context, s sender, _ int64, m *outgoing) error {
		r, err := s.send(ctx, m)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		receipts = append(receipts, r)
		return nil
	}
	if err := sending.all(ctx, t); err != nil {
		return res, err
	}
	sending.report(&res)
	res.Send = latency(sending.hist)
	if len(receipts) == 0 {
		return res, errors.New("nothing was sent that could be recalled")
	}

	o.Count = int64(len(receipts))
	recalling := newProducing(o)
	recalling.do = func(ctx context.Context, s sender, i int64, _ *outgoing) error { return s.recall(ctx, &receipts[i]) }
	usage := startUsage(o.PID)
	mctx, stopMeter := context.WithCancel(ctx)
	defer stopMeter()
	late, metered := hiccups(mctx)
	began := time.Now()
	err = recalling.all(ctx, t)
	res.Took = time.Since(began)
	stopMeter()
	<-metered
	recalling.report(&res)
	res.Messages, res.Recall, res.Machine = recalling.sent.Load(), latency(recalling.hist), latency(late)
	res.Throughput = float64(res.Messages) / res.Took.Seconds()
	res.Broker = usage.stop(res.Messages)
	return res, err
}

// Transactions sends half messages and commits each one when it was stored, unless they are to be left open; a pair counts as
// one message.
func Transactions(ctx context.Context, o Options) (Result, error) {
	o.kind = transactional
	r, _, err := run(ctx, o, true, false)
	r.What = "txn"
	if !o.Open {
		r.Pair, r.Send = r.Send, nil
	}
	return r, err
}

func sendAndCommit(ctx context.Context, s sender, _ int64, m *outgoing) error {
	r, err := s.send(ctx, m)
	if err != nil {
		return err
	}
	return s.commit(ctx, &r)
}
