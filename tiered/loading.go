package tiered

import (
	"context"
	"fmt"
	"sync"
)

// loading is how far a tier has come with its first manifest.
type loading struct {
	done   chan struct{} // closed when it is there, or was seen to be missing
	failed chan struct{} // closed when the first try failed
	mu     struct {
		sync.Mutex
		err    error // of the last try
		loaded bool
	}
}

func newLoading() *loading { return &loading{done: make(chan struct{}), failed: make(chan struct{})} }

// tried notes what became of a try.
func (l *loading) tried(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := l.mu.err == nil
	switch l.mu.err = err; {
	case l.mu.loaded:
	case err == nil:
		l.mu.loaded = true
		close(l.done)
	case first:
		close(l.failed)
	}
}

// wait returns nil once the manifest was loaded, and an error when the last try failed: whoever reads may ask again, which is better
// than to be held up for as long as an outage takes.
func (l *loading) wait(ctx context.Context) error {
	select {
	case <-l.done:
		return nil
	default:
	}
	select {
	case <-l.done:
		return nil
	case <-l.failed:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrNotLoaded, ctx.Err())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.loaded {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrNotLoaded, l.mu.err)
}
