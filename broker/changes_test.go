package broker

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

func TestChangesLetOneAtATime(t *testing.T) {
	c := newChanges()
	inside, most := 0, 0
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for range 50 {
				if err := c.lock(context.Background(), "k"); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				inside++
				most = max(most, inside)
				mu.Unlock()
				mu.Lock()
				inside--
				mu.Unlock()
				c.leave("k", nil)
			}
		})
	}
	all.Wait()
	if most != 1 {
		t.Errorf("%d were inside at once", most)
	}
	if len(c.mu.underWay) != 0 || c.mu.held != 0 {
		t.Errorf("left over: %d changes, %d bytes", len(c.mu.underWay), c.mu.held)
	}
}

func TestChangesTellTheOutcomeAndBoundWhatWaits(t *testing.T) {
	c := newChanges()
	if mine, err := c.enter("k", 0, nil); !mine || err != nil {
		t.Fatalf("first: %v, %v", mine, err)
	}
	var got []error
	note := func(err error) { got = append(got, err) }
	if mine, err := c.enter("k", maxHeld/2, note); mine || err != nil {
		t.Fatalf("second: %v, %v", mine, err)
	}
	if _, err := c.enter("k", maxHeld/2, note); CodeOf(err) != CodeBusy {
		t.Errorf("over the bound: %v, want CodeBusy", err)
	}
	if mine, _ := c.enter("other", 0, note); !mine {
		t.Error("another name was taken")
	}
	failed := errors.New("failed")
	c.leave("k", failed)
	if len(got) != 1 || !errors.Is(got[0], failed) {
		t.Errorf("told %v, want the outcome once", got)
	}
	if c.mu.held != 0 {
		t.Errorf("%d bytes held", c.mu.held)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if err := c.lock(ctx, "other"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("lock of a taken name: %v, want the context's error", err)
	}
}
