package broker

import (
	"context"
	"runtime"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/cairnmq/cairn/internal/clock"
)

const (
	// coldShare is which part of the processors' time cold readers get while messages come in: one in so many.
	coldShare = 16
	// coldBurst is for how long they may go on before they pay for it.
	coldBurst = 5 * time.Millisecond
	// coldCharge is the most that one read is charged: the rest of its time it waited for the object store.
	coldCharge = time.Millisecond
	// coldAlone is for how long nothing came in when there is nobody to be kept from his messages.
	coldAlone = 100 * time.Millisecond
)

// coldBudget keeps those who catch up with what is in the tier from taking the processors of those who wait for what comes in. While
// nothing comes in it lets them take what they get.
type coldBudget struct {
	clock   clock.Clock
	puts    func() int64  // messages that came in, ever
	limiter *rate.Limiter // of their time, in µs

	mu struct {
		sync.Mutex
		puts int64     // when last looked at
		at   time.Time // when that was found to have changed
	}
}

func newColdBudget(c clock.Clock, puts func() int64) *coldBudget {
	share := float64(runtime.GOMAXPROCS(0)) / coldShare
	b := &coldBudget{clock: c, puts: puts, limiter: rate.NewLimiter(rate.Limit(share*1e6), int(coldBurst.Microseconds()))}
	b.mu.puts = puts()
	return b
}

// run calls f, when there is time to be spent or ctx has ended.
func (b *coldBudget) run(ctx context.Context, f func()) {
	began, ok := b.clock.Now(), false
	if b.alone(began) {
		f()
		return
	}
	if began, ok = b.rest(ctx, began); ok {
		defer func() { b.spend(began, b.clock.Now()) }()
	}
	f()
}

// rest waits until there is time to be spent, and says when that is; not ok when ctx ends before.
func (b *coldBudget) rest(ctx context.Context, now time.Time) (_ time.Time, ok bool) {
	pause := b.pause(now)
	if pause <= 0 {
		return now, true
	}
	timer := b.clock.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C():
		return b.clock.Now(), true
	case <-ctx.Done():
		return now, false
	}
}

// pause is how long who wants to read now has to wait.
func (b *coldBudget) pause(now time.Time) time.Duration {
	return b.limiter.ReserveN(now, 1).DelayFrom(now)
}

// spend charges for a read.
func (b *coldBudget) spend(began, ended time.Time) {
	b.limiter.ReserveN(ended, int(min(ended.Sub(began), coldCharge).Microseconds()))
}

// alone says that nothing came in for a while.
func (b *coldBudget) alone(now time.Time) bool {
	puts := b.puts()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.puts != puts {
		b.mu.puts, b.mu.at = puts, now
	}
	return now.Sub(b.mu.at) >= coldAlone
}
