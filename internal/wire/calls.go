package wire

import "sync"

// calls are the requests that we sent and wait for.
type calls struct {
	mu struct {
		sync.Mutex
		last   int32
		wait   map[int32]func(*Command, error)
		closed error
	}
}

// number makes a request number; it goes on after a wrap.
func (q *calls) number() int32 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.numberLocked()
}

func (q *calls) numberLocked() int32 {
	q.mu.last = (q.mu.last + 1) & 0x7FFFFFFF
	return q.mu.last
}

func (q *calls) add(done func(*Command, error), limit int) (int32, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.mu.closed != nil {
		return 0, q.mu.closed
	}
	if len(q.mu.wait) >= limit {
		return 0, ErrManyCalls
	}
	if q.mu.wait == nil {
		q.mu.wait = map[int32]func(*Command, error){}
	}
	n := q.numberLocked()
	for q.mu.wait[n] != nil {
		n = q.numberLocked()
	}
	q.mu.wait[n] = done
	return n, nil
}

// remove forgets a call; false when its answer came first.
func (q *calls) remove(n int32) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	_, ok := q.mu.wait[n]
	delete(q.mu.wait, n)
	return ok
}

// answer gives a response to whoever waits for it; one that nobody waits for (any more) is dropped.
func (q *calls) answer(resp *Command) {
	q.mu.Lock()
	done := q.mu.wait[resp.Opaque]
	delete(q.mu.wait, resp.Opaque)
	q.mu.Unlock()
	if done == nil {
		resp.Release()
		return
	}
	done(resp, nil)
}

// fail ends all calls with err, and those that come later.
func (q *calls) fail(err error) {
	q.mu.Lock()
	wait := q.mu.wait
	q.mu.wait = nil
	q.mu.closed = err
	q.mu.Unlock()
	for _, done := range wait {
		done(nil, err)
	}
}
