package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// The garbage collector's price is the heap that lives, its yield the garbage: with a small heap it runs many times a second
// and takes a sixth of the CPU of a gRPC send; with the streams of 100,000 waiting polls one cycle delays what wakes them. So
// garbage may grow to several times the heap as long as that is little beside the memory that there is.
const (
	leastGCPercent = 100
	mostGCPercent  = 400
	roomShare      = 8       // the share of the memory that garbage may take beyond the live heap's own size: an eighth
	unknownMemory  = 1 << 30 // bytes; taken for the memory where nothing tells how much there is
	retuneEvery    = time.Second
)

// gcPercent is the setting for a live heap of so many bytes: room for as much garbage again and so many bytes more, within bounds.
func gcPercent(live, room uint64) int {
	return int(min(mostGCPercent, leastGCPercent+100*room/max(live, 1)))
}

// memory is how many bytes this process may take: the limit of its cgroup, where it has one, or what the machine has.
func memory() uint64 {
	m, err := memlimit.ApplyFallback(memlimit.FromCgroup, memlimit.FromSystem)()
	if err != nil || m == 0 {
		return unknownMemory
	}
	return m
}

// tuneGC keeps the collector's setting in line with the live heap until ctx ends, unless GOGC or GOMEMLIMIT is set.
func tuneGC(ctx context.Context) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	room := memory() / roomShare
	tick := time.NewTicker(retuneEvery)
	defer tick.Stop()
	for set := 0; ; {
		metrics.Read(live)
		if p := gcPercent(live[0].Value.Uint64(), room); p != set {
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
