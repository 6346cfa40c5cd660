package broker

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/cairnmq/cairn/catalog"
)

// A clock that is set back makes invisible again what was given to a receive; other receives in between must not have it forgotten.
func TestARepeatedReceiveAfterTheClockWasSetBack(t *testing.T) {
	r := newPopRig(t)
	r.topicOf(t, "t", 2)
	g := catalog.DefaultGroup("g")
	g.ConsumeMessageOrderly = true
	if err := r.PutGroup(context.Background(), g, ""); err != nil {
		t.Fatal(err)
	}
	r.send(t, "t", 0, plain("first"))
	first := popOf(1)
	first.AttemptID = "x"
	bodies, _ := r.popBodies(t, first)
	wantBodies(t, "at first", bodies, "first")
	r.clock.Advance(first.Invisible + time.Second)
	r.send(t, "t", 1, plain("second"))
	second := popOf(1)
	second.Queue, second.AttemptID = 1, "y"
	bodies, _ = r.popBodies(t, second)
	wantBodies(t, "another one", bodies, "second")
	r.clock.Advance(-10 * time.Second)
	bodies, handles := r.popBodies(t, first)
	wantBodies(t, "repeated", bodies, "first")
	if errs := r.Ack(context.Background(), "g", "t", handles); !slices.Equal(errs, []error{nil}) {
		t.Errorf("acknowledged: %v", errs)
	}
}
