package broker

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cairnmq/cairn/message"
)

// What a group has let expire in one queue does not hide what has expired in another from who pops only that one, nor what is new.
func TestOneQueueBehindTheBacklogOfAnother(t *testing.T) {
	const backlog = 3000
	r := newPopRig(t)
	r.topicOf(t, "t", 2)
	r.group(t, "g")
	var messages []message.Message
	for i := range backlog {
		messages = append(messages, plain(fmt.Sprint(i)))
	}
	r.send(t, "t", 0, messages...)
	for got := 0; got < backlog; r.clock.Advance(time.Millisecond) {
		bodies, _ := r.popBodies(t, popOf(maxPop))
		if len(bodies) == 0 {
			t.Fatalf("%d came", got)
		}
		got += len(bodies)
	}
	r.send(t, "t", 1, plain("old"))
	one := popOf(maxPop)
	one.Queue = 1
	bodies, _ := r.popBodies(t, one)
	wantBodies(t, "for the first time", bodies, "old")
	r.clock.Advance(2 * time.Minute)
	r.send(t, "t", 1, plain("new"))
	bodies, _ = r.popBodies(t, one)
	wantBodies(t, "when all is expired", bodies, "old", "new")
	bodies, _ = r.popBodies(t, one)
	wantBodies(t, "when nothing is left", bodies)

	// Who waits for one queue is woken for what expires there.
	waiting := waitingPop(maxPop)
	waiting.Queue = 1
	_, over := r.popAsync(waiting)
	r.idle(t, 1)
	r.clock.Advance(2 * time.Minute)
	a := arriveOne(t, over)
	if a.err != nil {
		t.Fatal(a.err)
	}
	bodies = bodiesOf(t, a.res)
	slices.Sort(bodies)
	wantBodies(t, "when it is expired again", bodies, "new", "old")
}
