package pop

import "testing"

// What a group has left lying, however much that is, costs neither its own looks nor those of others a walk.
func TestLooksDoNotWalkThroughABacklog(t *testing.T) {
	const backlog = 6 * maxPassed
	m := newMemoryMachine(t)
	topic, stuck, other := m.topic("t"), m.group("stuck"), m.group("other")
	for first := int64(0); first < backlog; first += 32 {
		m.apply(1, popped(stuck, topic, 0, first, first+31, 1, 1000+first, 1))
		if err := m.engine.Flush(); err != nil { // the states before need no memory
			t.Fatal(err)
		}
	}
	m.apply(1, popped(stuck, topic, 1, 0, 0, 1, 1000+backlog, 1), popped(other, topic, 0, 0, 31, 1, 1_000_000, 1))
	look := func(what string, queue int32, now int64, bound, want int) (done bool) {
		t.Helper()
		group := stuck
		if what == "another group" {
			group = other
		}
		before := *m.memory.moves
		got, err := m.state.Expired(group, topic, queue, now, 32, nil)
		if err != nil {
			t.Fatal(err)
		}
		if moves := *m.memory.moves - before; moves > bound {
			t.Errorf("%s: %d moves to find %d", what, moves, len(got))
		}
		done = len(got) > 0 || !m.state.MayHaveExpired(group, topic, queue, now)
		if done && len(got) != want {
			t.Errorf("%s: %d found, want %d", what, len(got), want)
		}
		return done
	}
	look("nothing visible yet", AnyQueue, 10, 2, 0)
	look("nothing visible yet", 1, 10, 2, 0)
	look("another group", AnyQueue, 1000, 2, 0)
	const late = 1000 + 2*backlog
	look("all is visible", AnyQueue, late, 34, 32)
	look("its queue", 0, late, 34, 32)
	// For another queue each look gets a step further, once, whatever others write meanwhile.
	looks := 1
	for ; !look("another queue", 1, late, maxPassed+40, 1); looks++ {
		m.apply(2, popped(other, topic, 0, 32*int64(looks), 32*int64(looks)+31, 1, 1_000_000, 1))
		if looks > backlog/maxPassed+1 {
			t.Fatal("it does not get to the end")
		}
	}
	look("another queue, from then on", 1, late, 2, 1)
	m.apply(2, ackOf(stuck, topic, Ref{VisibleAt: 1000 + backlog, Queue: 1, Nonce: 1}))
	look("another queue, when there is nothing", 1, late, 2, 0)
	look("another queue, when there is nothing", 1, late, 0, 0)
	look("another group", AnyQueue, late, 2, 0)
	// What comes before all is seen at once.
	m.apply(2, popped(stuck, topic, 1, 1, 1, 1, 500, 2))
	look("another queue", 1, late, maxPassed+2, 1)
	look("all is visible", AnyQueue, late, 34, 32)
}
