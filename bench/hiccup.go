package bench

import (
	"context"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// hiccupWait is how long the meter of the machine waits each time.
const hiccupWait = time.Millisecond

// hiccups measures the machine and the driver themselves: by how much mere waits are late while the load runs. No latency that
// is measured here can be told from it below that. It ends with ctx; the histogram (µs) may be read once done is closed.
func hiccups(ctx context.Context) (hist *hdrhistogram.Histogram, done <-chan struct{}) {
	hist = newHist()
	over := make(chan struct{})
	go func() {
		defer close(over)
		a := newAlarm()
		defer a.close()
		for due := time.Now().Add(hiccupWait); a.waitUntil(ctx, due); {
			// Waits that would have begun during a late one are late as well: so count operations of a steady rate.
			for now := time.Now(); !due.After(now); due = due.Add(hiccupWait) {
				_ = hist.RecordValue(max(1, now.Sub(due).Microseconds()))
			}
		}
	}()
	return hist, over
}
