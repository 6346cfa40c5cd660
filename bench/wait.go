package bench

import (
	"context"
	"time"
)

// waitUntil says whether the time came before the end of ctx. It may be late by a millisecond and more.
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

// lastWait is the end of a wait for which an alarm is set. Nothing interrupts it.
const lastWait = 2 * time.Millisecond

// waitUntil is as the function, but exact.
func (a *alarm) waitUntil(ctx context.Context, t time.Time) bool {
	if time.Until(t) > lastWait && !waitUntil(ctx, t.Add(-lastWait)) {
		return false
	}
	if d := time.Until(t); d > 0 {
		a.wait(d)
	}
	return ctx.Err() == nil
}
