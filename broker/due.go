package broker

import (
	"container/heap"
	"sync"
	"time"

	"github.com/cairnmq/cairn/internal/clock"
)

// due is the one loop that owns the clock: it calls functions at their time, in due order, from one goroutine, so they must
// not block. A pending deadline costs an entry in a heap: adding and cancelling are O(log n).
type due struct {
	clock clock.Clock
	wake  chan struct{} // the earliest deadline changed, or the loop has to end
	ended chan struct{}

	mu struct {
		sync.Mutex
		heap   deadlines
		seq    uint64
		closed bool
	}
}

// deadline is one function to be called at its time. Among equal times the one that was added first goes first.
type deadline struct {
	owner *due
	at    time.Time
	seq   uint64
	f     func()
	index int // in the heap, −1 when it is not there any more
}

// newDue starts the loop; close ends it.
func newDue(c clock.Clock) *due {
	d := &due{clock: c, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	go d.run()
	return d
}

// at arranges that f is called at t, or as soon after as possible; cancel forgets it (false: it has run or is running).
// After close nothing is called any more.
func (d *due) at(t time.Time, f func()) (cancel func() bool) {
	it := &deadline{}
	d.add(it, t, f)
	return it.cancel
}

// add is at with the caller's memory, which is the loop's until f was called or it was cancelled.
func (d *due) add(it *deadline, t time.Time, f func()) {
	*it = deadline{owner: d, at: t, f: f, index: -1}
	d.mu.Lock()
	closed := d.mu.closed
	if !closed {
		d.mu.seq++
		it.seq = d.mu.seq
		heap.Push(&d.mu.heap, it)
	}
	first := it.index == 0
	d.mu.Unlock()
	if first {
		d.nudge()
	}
}

// every calls f each period until close, the first time after one period.
func (d *due) every(period time.Duration, f func()) {
	var tick func()
	tick = func() {
		f()
		d.at(d.clock.Now().Add(period), tick)
	}
	d.at(d.clock.Now().Add(period), tick)
}

// cancel forgets a deadline that was added, or does nothing.
func (it *deadline) cancel() bool {
	d := it.owner
	if d == nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if it.index < 0 {
		return false
	}
	heap.Remove(&d.mu.heap, it.index)
	it.f = nil
	return true
}

// close ends the loop and waits for a function that is running. What is pending is never called.
func (d *due) close() {
	d.mu.Lock()
	d.mu.closed = true
	for _, it := range d.mu.heap {
		it.index = -1
	}
	d.mu.heap = nil
	d.mu.Unlock()
	d.nudge()
	<-d.ended
}

// len is the number of pending deadlines.
func (d *due) len() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.mu.heap)
}

func (d *due) nudge() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *due) run() {
	defer close(d.ended)
	timer := d.clock.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		next, closed := d.runDue()
		if closed {
			return
		}
		if !next.IsZero() {
			arm(d.clock, timer, next)
		}
		select {
		case <-timer.C():
		case <-d.wake:
		}
	}
}

// arm sets the timer to fire at t. A clock that is moved by hand can move between reading it and arming, and the timer would
// then be late by that much; so look again.
func arm(c clock.Clock, timer clock.Timer, t time.Time) {
	for {
		left := t.Sub(c.Now())
		timer.Reset(left)
		if left <= 0 || left-t.Sub(c.Now()) < time.Millisecond {
			return
		}
	}
}

// runDue calls what is due and returns the time of the earliest deadline that is not, zero when there is none.
func (d *due) runDue() (next time.Time, closed bool) {
	for {
		now := d.clock.Now()
		d.mu.Lock()
		if d.mu.closed || len(d.mu.heap) == 0 {
			closed = d.mu.closed
			d.mu.Unlock()
			return time.Time{}, closed
		}
		it := d.mu.heap[0]
		if it.at.After(now) {
			d.mu.Unlock()
			return it.at, false
		}
		heap.Pop(&d.mu.heap)
		f := it.f
		it.f = nil
		d.mu.Unlock()
		f()
	}
}

// deadlines is a heap by time, then by order of arrival.
type deadlines []*deadline

func (h deadlines) Len() int { return len(h) }
func (h deadlines) Less(i, j int) bool {
	if h[i].at.Equal(h[j].at) {
		return h[i].seq < h[j].seq
	}
	return h[i].at.Before(h[j].at)
}
func (h deadlines) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *deadlines) Push(x any) {
	it := x.(*deadline)
	it.index = len(*h)
	*h = append(*h, it)
}
func (h *deadlines) Pop() any {
	old := *h
	it := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	it.index = -1
	return it
}
