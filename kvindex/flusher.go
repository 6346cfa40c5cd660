package kvindex

import (
	"errors"
	"fmt"
	"sync"
)

const (
	// rowOverhead is what a row takes in memory beside its key and value, estimated a little high: a skip-list node.
	rowOverhead = 48
	// rangesUnflushed is how many range-deletes fill a memtable by themselves. Each costs every iterator that is made after
	// the next one: what a drain or the deletion of many topics leaves must not stay until enough rows have come.
	rangesUnflushed = 256
)

// flusher is the account of unflushed rows and the only one who starts flushes. One goroutine of it runs flush after flush,
// never two at a time, so that at most two memtables exist: one that fills and one that is being written. Both engines use it.
type flusher struct {
	memtable int64 // bytes that may gather while a flush is under way
	// seal begins to write all rows committed so far; await returns nil when they are durable. An error of await that does
	// not wrap ErrFailed or ErrClosed is one failed attempt: the engine goes on trying and await is called again.
	// After an error of seal, seal is called again a little later.
	seal  func() error
	await func(quit <-chan struct{}) error

	kick chan struct{} // capacity 1: somebody wants a flush
	quit chan struct{}
	done chan struct{}

	mu struct {
		sync.Mutex
		changed  *sync.Cond
		active   int64        // bytes of rows that no flush has taken yet
		sealed   int64        // bytes of rows that the present flush writes
		wanted   bool         // a flush was asked for and has not been sealed
		waiters  []chan error // of the flush wanted
		attempts int64        // failed ones
		lastErr  error        // of the last failed attempt
		dead     error        // ErrFailed or ErrClosed: no more flushes
		waits    int64
		selfMade int64
	}
}

func newFlusher(memtable int64, seal func() error, await func(quit <-chan struct{}) error) *flusher {
	f := &flusher{memtable: memtable, seal: seal, await: await,
		kick: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{})}
	f.mu.changed = sync.NewCond(&f.mu.Mutex)
	go f.run()
	return f
}

// admit waits until a batch of so many bytes, rows and range-deletes fits into the memtable that fills, and counts it. One
// larger than a memtable is admitted as soon as it has one for itself.
func (f *flusher) admit(size, rows, ranges int) error {
	bytes := int64(size) + int64(rows)*rowOverhead + int64(ranges)*(f.memtable/rangesUnflushed)
	f.mu.Lock()
	defer f.mu.Unlock()
	attempts := f.mu.attempts
	waited := false
	for f.mu.dead == nil && f.mu.active > 0 && f.mu.active+bytes > f.memtable {
		if f.mu.attempts != attempts {
			return fmt.Errorf("no memory is left for unflushed rows and the flush does not get on: %w", f.mu.lastErr)
		}
		f.beginLocked()
		if !waited {
			waited = true
			f.mu.waits++
		}
		f.mu.changed.Wait()
	}
	if f.mu.dead != nil {
		return f.mu.dead
	}
	f.mu.active += bytes
	if f.mu.active > f.memtable/8*7 {
		f.beginLocked()
	}
	return nil
}

// beginLocked is for when nobody asked for a flush in time.
func (f *flusher) beginLocked() {
	if f.mu.sealed == 0 && !f.mu.wanted {
		f.mu.selfMade++
		f.wantLocked()
	}
}

// due says that three quarters of a memtable have gathered and nothing is being done about it.
func (f *flusher) due() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.dead == nil && !f.mu.wanted && f.mu.sealed == 0 && f.mu.active >= f.memtable/4*3
}

// request asks for a flush; the channel yields its outcome once.
func (f *flusher) request() <-chan error {
	c := make(chan error, 1)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.dead != nil {
		c <- f.mu.dead
		return c
	}
	f.mu.waiters = append(f.mu.waiters, c)
	f.wantLocked()
	return c
}

func (f *flusher) wantLocked() {
	f.mu.wanted = true
	select {
	case f.kick <- struct{}{}:
	default: // it is asked for already
	}
}

// stop ends the goroutine; a flush under way is left to the engine.
func (f *flusher) stop() {
	close(f.quit)
	<-f.done
}

func (f *flusher) run() {
	defer close(f.done)
	for {
		select {
		case <-f.kick:
		case <-f.quit:
			f.die(ErrClosed, nil)
			return
		}
		f.mu.Lock()
		waiters := f.mu.waiters
		f.mu.waiters, f.mu.wanted = nil, false
		f.mu.active, f.mu.sealed = 0, max(f.mu.active, 1)
		f.mu.changed.Broadcast()
		f.mu.Unlock()
		if !f.flush(waiters) {
			return
		}
	}
}

// flush tries until all rows committed so far are durable, and tells the waiters of success or of the first failure;
// false when it will never be.
func (f *flusher) flush(waiters []chan error) bool {
	var pause backoff
	for sealed := false; ; {
		var err error
		if !sealed {
			err = f.seal()
			sealed = err == nil
		}
		if err == nil {
			err = f.await(f.quit)
		}
		if fatal(err) {
			f.die(err, waiters)
			return false
		}
		f.mu.Lock()
		if err == nil {
			f.mu.sealed = 0
		} else {
			// Whoever waits for the next flush hears of it, too: it cannot begin before this one is through.
			waiters = append(waiters, f.mu.waiters...)
			f.mu.waiters = nil
			f.mu.attempts++
			f.mu.lastErr = err
		}
		f.mu.changed.Broadcast()
		f.mu.Unlock()
		answer(waiters, err)
		if err == nil {
			return true
		}
		waiters = nil
		if !sealed {
			pause.failed()
			pause.wait(f.quit, nil)
			if stopped(f.quit) {
				f.die(ErrClosed, nil)
				return false
			}
		}
	}
}

func (f *flusher) die(err error, waiters []chan error) {
	f.mu.Lock()
	f.mu.dead = err
	waiters = append(waiters, f.mu.waiters...)
	f.mu.waiters = nil
	f.mu.changed.Broadcast()
	f.mu.Unlock()
	answer(waiters, err)
}

func (f *flusher) fill(m *Metrics) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m.UnflushedBytes = f.mu.active + f.mu.sealed
	m.FailedFlushes, m.ForcedWaits, m.SelfMadeFlushes = f.mu.attempts, f.mu.waits, f.mu.selfMade
}

func answer(waiters []chan error, err error) {
	for _, w := range waiters {
		w <- err
	}
}

func fatal(err error) bool { return errors.Is(err, ErrFailed) || errors.Is(err, ErrClosed) }
