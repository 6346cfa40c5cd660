package kvindex

import (
	"sync/atomic"
	"time"
)

const (
	firstPause  = 10 * time.Millisecond
	longestWait = time.Second
)

// backoff spaces out attempts that keep failing, from 10 ms up to 1 s. Safe for concurrent use.
type backoff struct{ failures atomic.Int32 }

func (b *backoff) failed()    { b.failures.Add(1) }
func (b *backoff) succeeded() { b.failures.Store(0) }

// wait pauses when the last attempt has failed; either channel cuts it short.
func (b *backoff) wait(quit, alsoQuit <-chan struct{}) {
	n := b.failures.Load()
	if n == 0 {
		return
	}
	t := time.NewTimer(min(firstPause<<min(n-1, 10), longestWait))
	defer t.Stop()
	select {
	case <-t.C:
	case <-quit:
	case <-alsoQuit:
	}
}

func stopped(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
