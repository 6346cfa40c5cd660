package bench

import (
	"context"
	"testing"
	"time"
)

func TestAlarmIsNeverEarly(t *testing.T) {
	a := newAlarm()
	defer a.close()
	for _, d := range []time.Duration{-time.Second, 0, 1, 100 * time.Microsecond, lastWait, lastWait + time.Millisecond} {
		due := time.Now().Add(d)
		if !a.waitUntil(t.Context(), due) || time.Now().Before(due) {
			t.Errorf("a wait of %s: it is %s before", d, time.Until(due))
		}
	}
}

func TestAlarmEndsWithItsContext(t *testing.T) {
	a := newAlarm()
	defer a.close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, d := range []time.Duration{0, time.Hour} {
		if a.waitUntil(ctx, time.Now().Add(d)) {
			t.Errorf("a wait of %s goes on", d)
		}
	}
}
