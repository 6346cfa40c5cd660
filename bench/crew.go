package bench

import (
	"context"
	"sync"
)

// crew runs calls that wait side by side. Its goroutines stay, as a fresh one grows its stack anew in every call: an eighth of
// what an acknowledgement over gRPC costs the driver.
type crew struct {
	jobs chan func()
	all  sync.WaitGroup
}

// newCrew starts as many goroutines as calls are to be under way at once; they end with ctx.
func newCrew(ctx context.Context, size int) *crew {
	c := &crew{jobs: make(chan func())}
	for range size {
		c.all.Go(func() {
			for {
				select {
				case job := <-c.jobs:
					job()
				case <-ctx.Done():
					return
				}
			}
		})
	}
	return c
}

// each calls f for 0 to n−1 and returns when all have returned; not after ctx has ended.
func (c *crew) each(n int, f func(i int)) {
	var over sync.WaitGroup
	over.Add(n)
	for i := range n {
		c.jobs <- func() {
			defer over.Done()
			f(i)
		}
	}
	over.Wait()
}

// wait returns when the crew has gone.
func (c *crew) wait() { c.all.Wait() }
