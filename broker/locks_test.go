package broker

import (
	"slices"
	"testing"
	"time"

	"github.com/cairnmq/cairn/internal/clock"
)

func TestQueueLocks(t *testing.T) {
	c := clock.NewFake(epoch)
	l := newQueueLocks(c)
	q := func(n ...int32) (out []QueueRef) {
		for _, n := range n {
			out = append(out, QueueRef{"t", n})
		}
		return out
	}
	want := func(step string, got, want []QueueRef) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: locked %v, want %v", step, got, want)
		}
	}
	want("free queues", l.lock("g", "a", q(0, 1)), q(0, 1))
	want("one is another's", l.lock("g", "b", q(1, 2)), q(2))
	want("groups do not mind each other", l.lock("h", "b", q(0, 1)), q(0, 1))
	c.Advance(lockExpiry - time.Second)
	want("renewed", l.lock("g", "a", q(0)), q(0))
	c.Advance(time.Second)
	want("what was not renewed is free", l.lock("g", "b", q(0, 1)), q(1))
	l.unlock("g", "b", q(0, 1))
	want("only one's own was given up", l.lock("g", "c", q(0, 1)), q(1))
	c.Advance(lockExpiry)
	l.expire()
	if n := len(l.mu.owners); n != 0 {
		t.Errorf("%d locks are left after their time", n)
	}
}
