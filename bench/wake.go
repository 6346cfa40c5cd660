package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	pollsPerConn    = 4000        // streams of an HTTP/2 connection are bounded
	pollsPerSecond  = 1000        // that begin, at least
	wakeTopics      = 1000        // at most, unless asked for more
	refusedPause    = time.Second // a long one: they are many
	settleAfterPoll = time.Second
	driverMemory    = 4 << 30 // bytes; below that the driver collects no garbage while it measures
)

// Wake has many pops wait, and then sends Count messages, one after the other, each to one of the topics taken at random. It
// measures the send, the time from the send to the message's receipt, and what of that comes after the answer to the send. A
// pop that ends without a message begins anew at once, as clients do: with Hold of 20 s, 100,000 of them end 5,000 times a second.
func Wake(ctx context.Context, o Options) (Result, error) {
	res := Result{What: "wake", Protocol: o.Protocol}
	if err := o.Pop.check(); err != nil {
		return res, err
	}
	if o.Pop.Polls < 1 || o.Count < 1 || o.Pop.Hold < time.Second {
		return res, errors.New("give a number of polls, one of messages, and at least a second for which a poll waits")
	}
	o.Pop.There, o.Pop.Filter = false, FilterNone
	if o.Pop.Topics < 1 {
		o.Pop.Topics = wakeTopics
	}
	o.Pop.Topics = min(o.Pop.Topics, o.Pop.Polls)
	places := o
	places.Pop.Groups, places.Count = o.Pop.Topics, int64(o.Pop.Topics)
	l, err := newLayout(&places)
	if err != nil {
		return res, err
	}
	if err := l.make(ctx, &o); err != nil {
		return res, err
	}
	w := &waking{o: &o, l: &l, received: make(chan arrival), wakes: newHist(), e2e: newHist(), sends: newHist()}
	o.Topic, o.Group = l.topics[0], l.groups[0]
	sending := o
	sending.Group, sending.Conns = "", 1
	o.Conns = max(o.Conns, (o.Pop.Polls+pollsPerConn-1)/pollsPerConn)
	waiters, err := o.prepared(ctx)
	if err != nil {
		return res, err
	}
	defer waiters.close()
	sender, err := sending.prepared(ctx)
	if err != nil {
		return res, err
	}
	defer sender.close()
	err = w.measure(ctx, &res, waiters, sender)
	return res, err
}

// arrival is a message that a waiting pop got.
type arrival struct {
	run, number uint64
	at          time.Time
}

type waking struct {
	o                 *Options
	l                 *layout
	received          chan arrival
	waiting           atomic.Int64 // pops under way
	begun             atomic.Int64 // pops that have been under way once
	empty, refused    atomic.Int64
	failed            atomic.Int64
	failure           atomic.Pointer[string]
	sends, e2e, wakes *hdrhistogram.Histogram // µs
}

func (w *waking) measure(ctx context.Context, res *Result, waiters, sending target) error {
	pctx, stop := context.WithCancel(ctx)
	var polls sync.WaitGroup
	defer polls.Wait()
	defer stop()
	if err := w.begin(pctx, waiters, &polls); err != nil {
		return err
	}
	s, err := sending.sender(0)
	if err != nil {
		return err
	}
	// The driver has as many streams as the broker, and a message would wait for its collector, too.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(driverMemory))
	usage := startUsage(w.o.PID)
	mctx, stopMeter := context.WithCancel(ctx)
	defer stopMeter()
	late, metered := hiccups(mctx)
	began := time.Now()
	start := newAlarm()
	defer start.close()
	res.Waiting = w.waiting.Load()
	for i := range w.o.Count {
		if w.o.Rate > 0 && !start.waitUntil(ctx, began.Add(time.Duration(float64(i)/w.o.Rate*float64(time.Second)))) {
			return ctx.Err()
		}
		if w.o.Duration > 0 && time.Since(began) > w.o.Duration {
			break
		}
		if !w.somebodyWaits(ctx) {
			return ctx.Err()
		}
		res.Waiting = min(res.Waiting, w.waiting.Load())
		res.Messages++
		if !w.one(ctx, s, uint64(began.UnixNano()), uint64(i)) {
			res.Lost++
		}
		if w.o.Progress != nil {
			w.o.Progress(i + 1)
		}
	}
	res.Took = time.Since(began)
	res.Broker = usage.stop(res.Messages)
	stopMeter()
	<-metered
	w.report(res)
	res.Machine = latency(late)
	return nil
}

// somebodyWaits returns once a pop is under way: where there is only one, it may still acknowledge the message before. It does not
// wait for ever, since the broker may turn all away.
func (w *waking) somebodyWaits(ctx context.Context) bool {
	for deadline := time.Now().Add(w.o.Wait); w.waiting.Load() == 0 && time.Now().Before(deadline); {
		if !waitUntil(ctx, time.Now().Add(2*time.Millisecond)) {
			return false
		}
	}
	return true
}

// begin starts the pops, and returns once each of them has been sent and the first ones have been under way for a while.
func (w *waking) begin(ctx context.Context, waiters target, polls *sync.WaitGroup) error {
	began := time.Now()
	rate := max(pollsPerSecond, float64(w.o.Pop.Polls)/w.o.Pop.Hold.Seconds()) // so that later they end as evenly
	for i := range w.o.Pop.Polls {
		p, err := waiters.popper(ctx, i)
		if err != nil {
			return err
		}
		if !waitUntil(ctx, began.Add(time.Duration(float64(i)/rate*float64(time.Second)))) {
			return ctx.Err()
		}
		g := i % len(w.l.groups)
		polls.Go(func() { w.poll(ctx, p, place{w.l.groups[g], w.l.topics[w.l.topic(g)]}) })
	}
	for w.begun.Load() < int64(w.o.Pop.Polls) {
		if !waitUntil(ctx, time.Now().Add(20*time.Millisecond)) {
			return ctx.Err()
		}
	}
	if !waitUntil(ctx, time.Now().Add(settleAfterPoll)) {
		return ctx.Err()
	}
	return nil
}

// poll keeps one pop waiting.
func (w *waking) poll(ctx context.Context, p popper, at place) {
	for first := true; ctx.Err() == nil; first = false {
		var ms []popped
		w.waiting.Add(1)
		if first {
			w.begun.Add(1)
		}
		_, err := p.pop(ctx, at, func(body []byte, m popped) {
			ms = append(ms, m)
			if len(body) >= bodyHeader {
				select {
				case w.received <- arrival{binary.BigEndian.Uint64(body), binary.BigEndian.Uint64(body[8:]), time.Now()}:
				case <-ctx.Done():
				}
			}
		})
		w.waiting.Add(-1)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errBusy):
			w.refused.Add(1)
			waitUntil(ctx, time.Now().Add(refusedPause))
		case err != nil:
			w.fail(fmt.Errorf("pop for %s: %w", at.group, err))
			waitUntil(ctx, time.Now().Add(refusedPause))
		case len(ms) == 0:
			w.empty.Add(1)
		default:
			if err := p.ackTogether(context.WithoutCancel(ctx), at, ms); err != nil {
				w.fail(err)
			}
		}
	}
}

func (w *waking) fail(err error) {
	w.failed.Add(1)
	text := err.Error()
	w.failure.CompareAndSwap(nil, &text)
}

// one sends a message and waits for it; false when it does not come.
func (w *waking) one(ctx context.Context, s sender, run, i uint64) bool {
	m := outgoing{topic: w.l.topics[rand.IntN(len(w.l.topics))], body: make([]byte, w.o.Size)}
	began := time.Now()
	binary.BigEndian.PutUint64(m.body, run)
	binary.BigEndian.PutUint64(m.body[8:], i)
	binary.BigEndian.PutUint64(m.body[16:], uint64(began.UnixNano()))
	if _, err := s.send(ctx, &m); err != nil {
		w.fail(fmt.Errorf("send: %w", err))
		return false
	}
	answered := time.Now()
	_ = w.sends.RecordValue(max(1, answered.Sub(began).Microseconds()))
	timeout := time.NewTimer(w.o.Wait)
	defer timeout.Stop()
	for {
		select {
		case a := <-w.received:
			if a.run != run || a.number != i {
				continue // one that was given up, or that came twice
			}
			_ = w.e2e.RecordValue(max(1, a.at.Sub(began).Microseconds()))
			_ = w.wakes.RecordValue(max(1, a.at.Sub(answered).Microseconds()))
			return true
		case <-timeout.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

func (w *waking) report(res *Result) {
	res.Throughput = float64(res.Messages) / res.Took.Seconds()
	res.Send, res.EndToEnd, res.Wake = latency(w.sends), latency(w.e2e), latency(w.wakes)
	res.Empty, res.Refused, res.Failed = w.empty.Load(), w.refused.Load(), w.failed.Load()
	if s := w.failure.Load(); s != nil {
		res.FirstError = *s
	}
}
