// Package clock is the time source that everything of ours takes instead of package time, so that tests decide what
// time it is.
package clock

import (
	"sync"
	"time"
)

// Clock tells the time and waits for it. Implementations are safe for concurrent use.
type Clock interface {
	Now() time.Time
	// NewTimer fires once after d; a d of zero or less fires at once.
	NewTimer(d time.Duration) Timer
}

// Timer is a time.Timer whose channel is a method.
type Timer interface {
	C() <-chan time.Time
	Stop() bool
	Reset(d time.Duration) bool
}

// System is the machine's own clock.
var System Clock = system{}

type system struct{}

func (system) Now() time.Time                 { return time.Now() }
func (system) NewTimer(d time.Duration) Timer { return systemTimer{time.NewTimer(d)} }

type systemTimer struct{ *time.Timer }

func (t systemTimer) C() <-chan time.Time { return t.Timer.C }

// Fake is a clock that moves only when it is told to.
type Fake struct {
	mu struct {
		sync.Mutex
		now    time.Time
		timers map[*fakeTimer]struct{}
	}
}

// NewFake returns a fake clock that stands at now.
func NewFake(now time.Time) *Fake {
	f := &Fake{}
	f.mu.now = now
	f.mu.timers = map[*fakeTimer]struct{}{}
	return f
}

// Now returns the time that the clock stands at.
func (f *Fake) Now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.now
}

// Advance moves the clock by d, which may be negative, and fires the timers that came due.
func (f *Fake) Advance(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.now = f.mu.now.Add(d)
	for t := range f.mu.timers {
		t.fireIfDueLocked()
	}
}

// NewTimer returns a timer that Advance fires.
func (f *Fake) NewTimer(d time.Duration) Timer {
	t := &fakeTimer{clock: f, c: make(chan time.Time, 1)}
	f.mu.Lock()
	defer f.mu.Unlock()
	t.armLocked(d)
	return t
}

// Awaited says whether somebody waits for exactly the time t.
func (f *Fake) Awaited(t time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for timer := range f.mu.timers {
		if timer.due.Equal(t) {
			return true
		}
	}
	return false
}

type fakeTimer struct {
	clock *Fake
	due   time.Time
	c     chan time.Time
}

func (t *fakeTimer) C() <-chan time.Time { return t.c }

func (t *fakeTimer) armLocked(d time.Duration) {
	t.due = t.clock.mu.now.Add(d)
	t.clock.mu.timers[t] = struct{}{}
	t.fireIfDueLocked()
}

func (t *fakeTimer) fireIfDueLocked() {
	if t.due.After(t.clock.mu.now) {
		return
	}
	delete(t.clock.mu.timers, t)
	select {
	case t.c <- t.clock.mu.now:
	default:
	}
}

func (t *fakeTimer) Stop() bool {
	t.clock.mu.Lock()
	defer t.clock.mu.Unlock()
	_, armed := t.clock.mu.timers[t]
	delete(t.clock.mu.timers, t)
	return armed
}

func (t *fakeTimer) Reset(d time.Duration) bool {
	t.clock.mu.Lock()
	defer t.clock.mu.Unlock()
	_, armed := t.clock.mu.timers[t]
	t.armLocked(d)
	return armed
}
