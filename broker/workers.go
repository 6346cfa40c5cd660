package broker

import "sync"

// workers is a pool that runs what was woken: an arrival or a deadline only notes that something can go on, here it goes on. The
// queue holds no more than may wait, since each is woken at most once.
type workers struct {
	wg    sync.WaitGroup
	batch int // how many a worker takes at once
	mu    struct {
		sync.Mutex
		queue  []func()
		closed bool
	}
	more sync.Cond
}

// newWorkers makes n workers. What never blocks is best taken in batches, so that the lock is not taken for each; behind what
// blocks nothing should have been taken.
func newWorkers(n, batch int) *workers {
	w := &workers{batch: batch}
	w.more.L = &w.mu
	for range n {
		w.wg.Go(w.work)
	}
	return w
}

// run calls f from one of the workers, soon; it does not block. After close f is called at once, by the caller.
func (w *workers) run(f func()) {
	w.mu.Lock()
	closed := w.mu.closed
	if !closed {
		w.mu.queue = append(w.mu.queue, f)
	}
	w.mu.Unlock()
	if closed {
		f()
		return
	}
	w.more.Signal()
}

// close waits until the queue is empty and the workers have ended.
func (w *workers) close() {
	w.mu.Lock()
	w.mu.closed = true
	w.mu.Unlock()
	w.more.Broadcast()
	w.wg.Wait()
}

func (w *workers) work() {
	mine := make([]func(), w.batch)
	for {
		w.mu.Lock()
		for len(w.mu.queue) == 0 && !w.mu.closed {
			w.more.Wait()
		}
		n := copy(mine, w.mu.queue)
		clear(w.mu.queue[:n])
		if w.mu.queue = w.mu.queue[n:]; len(w.mu.queue) == 0 {
			w.mu.queue = nil
		}
		w.mu.Unlock()
		if n == 0 {
			return
		}
		for i := range mine[:n] {
			mine[i]()
			mine[i] = nil
		}
	}
}
