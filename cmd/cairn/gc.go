package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// The garbage collector's price is the heap that lives, its yield the garbage: with a small heap it runs many times a second
// and takes a sixth of the CPU of a gRPC send. So garbage may grow to several times the heap as long as that is little.
const (
	leastGCPercent = 100
	mostGCPercent  = 400
	garbageRoom    = 128 << 20 // bytes of garbage beyond the live heap's own size
	retuneEvery    = time.Second
)

// gcPercent is the setting for a live heap of so many bytes: room for as much garbage again and garbageRoom, within bounds.
func gcPercent(live uint64) int {
	return int(min(mostGCPercent, leastGCPercent+100*garbageRoom/max(live, 1)))
}

// tuneGC keeps the collector's setting in line with the live heap until ctx ends, unless GOGC or GOMEMLIMIT is set.
func tuneGC(ctx context.Context) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(retuneEvery)
	defer tick.Stop()
	for set := 0; ; {
		metrics.Read(live)
		if p := gcPercent(live[0].Value.Uint64()); p != set {
			debug.SetGCPercent(p)
			set = p
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
