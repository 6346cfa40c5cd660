package broker

import (
	"context"
	"sync/atomic"

	"github.com/cairnmq/cairn/store"
)

// What is in the tier is read by workers of their own, so that whoever waits for an object store keeps nobody waiting who reads what is
// here. Every pull and every look of a pop reads here first; the one that meets ErrCold is begun anew by a cold worker.
const (
	// coldWorkers is how many pulls and pops read the tier at a time.
	coldWorkers = 16
	// maxCold is how many may wait for that.
	maxCold = 8192
)

// coldReaders is those workers.
type coldReaders struct {
	workers *workers
	budget  *coldBudget
	ctx     context.Context // of their reads of the tier
	stop    context.CancelFunc
	inside  atomic.Int32 // under way or waiting
}

func newColdReaders(b *coldBudget) *coldReaders {
	c := &coldReaders{workers: newWorkers(coldWorkers, 1), budget: b}
	c.ctx, c.stop = context.WithCancel(context.Background())
	return c
}

// run calls f from one of the workers. CodeBusy when too many wait.
func (c *coldReaders) run(f func()) error {
	if c.inside.Add(1) > maxCold {
		c.inside.Add(-1)
		return refuse(CodeBusy, "%d pulls and pops wait for the tier", maxCold)
	}
	c.workers.run(func() {
		defer c.inside.Add(-1)
		c.budget.run(c.ctx, f)
	})
	return nil
}

// close waits for those that are under way; who waits for the tier gets an error.
func (c *coldReaders) close() {
	c.stop()
	c.workers.close()
}

// reader is that of a pull or a pop: for a cold one it reads the tier.
func (b *Broker) reader(cold bool) store.Reader {
	if cold {
		return b.store.Anywhere(b.cold.ctx)
	}
	return b.store.Here()
}
