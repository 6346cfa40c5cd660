package broker

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/clock"
)

// virtualRig is a broker with group g, which has virtual queues, and topic t of one queue.
type virtualRig struct {
	*testBroker
	t     *testing.T
	clock *clock.Fake
}

func openVirtualRig(t *testing.T) *virtualRig {
	t.Helper()
	c := clock.NewFake(epoch)
	r := &virtualRig{openBroker(t, withClock(c)), t, c}
	r.topicOf(t, "t", 1)
	r.virtualGroup(t, "g", true)
	return r
}

// settle waits until what is due was done and what was proposed is applied.
func (r *virtualRig) settle() {
	r.t.Helper()
	over := make(chan struct{})
	r.due.at(r.clock.Now(), func() { close(over) })
	<-over
	r.send(r.t, "barrier", 0, plain(""))
}

// pass lets time go by, slowly enough for all that is done now and then.
func (r *virtualRig) pass(d time.Duration) {
	r.t.Helper()
	for ; d > 0; d -= 5 * time.Second {
		r.clock.Advance(min(d, 5*time.Second))
		r.settle()
	}
}

// pulled are the bodies and offsets that a pull gives.
func (r *virtualRig) pulled(v *VirtualConsumer, offset, commit int64) (bodies []string, res *PullResult) {
	r.t.Helper()
	return r.pulledFrom(v, "t", offset, commit)
}

func (r *virtualRig) pulledFrom(v *VirtualConsumer, topic string, offset, commit int64) (bodies []string, res *PullResult) {
	r.t.Helper()
	res = pullVirtually(r.t, v, PullRequest{Group: "g", Topic: topic, Offset: offset, CommitOffset: commit})
	for _, m := range decodeAll(r.t, bytesOf(res), res.Ends) {
		bodies = append(bodies, string(m.Body))
	}
	res.Buffer.Release()
	return bodies, res
}

func (r *virtualRig) want(v *VirtualConsumer, offset, commit int64, want ...string) *PullResult {
	r.t.Helper()
	got, res := r.pulled(v, offset, commit)
	if !slices.Equal(got, want) {
		r.t.Errorf("a pull at %d got %q, want %q", offset, got, want)
	}
	return res
}

func (r *virtualRig) wantLag(want int64) {
	r.t.Helper()
	r.settle()
	all, err := r.GroupProgress("g", "t")
	if err != nil {
		r.t.Fatal(err)
	}
	if got := all[0].Lag(); got != want {
		r.t.Errorf("%d left to consume, want %d", got, want)
	}
}

// A slow consumer keeps what it has as long as it lives and consumes something now and then; what it seems to have lost comes to
// others after twice the consume timeout, as another attempt.
func TestVirtualLeases(t *testing.T) {
	r := openVirtualRig(t)
	slow, other := r.OpenVirtual("g"), r.OpenVirtual("g")
	defer slow.Close()
	defer other.Close()
	r.sendBodies(t, "t", 0, 3)
	r.want(slow, 0, -1, "0", "1", "2")
	r.pass(29 * time.Minute)
	r.want(other, 0, -1)
	slow.Commit(OffsetCommit{Topic: "t", Offset: 1})
	r.pass(29 * time.Minute)
	r.want(other, 0, -1)
	r.wantLag(2)
	r.pass(3 * time.Minute)
	if _, res := r.pulled(other, 0, -1); len(res.Ends) != 2 {
		t.Errorf("of two messages that nobody consumes another one gets %d", len(res.Ends))
	}
	// Too late: it is not the one that has them.
	slow.Commit(OffsetCommit{Topic: "t", Offset: 3})
	r.wantLag(2)
	other.Commit(OffsetCommit{Topic: "t", Offset: 3})
	r.wantLag(0)
}

// After a crash of the broker nobody says that a consumer lives: what it held comes again within a minute, not when its consume timeout
// is over.
func TestVirtualQueuesAfterACrash(t *testing.T) {
	r := openVirtualRig(t)
	v := r.OpenVirtual("g")
	r.sendBodies(t, "t", 0, 2)
	r.want(v, 0, -1, "0", "1")
	r.restart(t)
	next := r.OpenVirtual("g")
	defer next.Close()
	r.want(next, 2, -1)
	r.clock.Advance(virtualLease)
	// Its client was told 2 as the next offset by the broker that crashed.
	if res := r.want(next, 2, -1, "0", "1"); res.NextOffset != 4 {
		t.Errorf("the next offset is %d", res.NextOffset)
	}
	r.wantLag(2)
	next.Commit(OffsetCommit{Topic: "t", Offset: 4})
	r.wantLag(0)
}

// Who holds as much as one may hold gets no more until it has consumed some, or another one takes it.
func TestVirtualQueuesAreShared(t *testing.T) {
	r := openVirtualRig(t)
	greedy, other := r.OpenVirtual("g"), r.OpenVirtual("g")
	defer greedy.Close()
	defer other.Close()
	r.sendBodies(t, "t", 0, 2*virtualHeld)
	at := int64(0)
	for at < virtualHeld {
		_, res := r.pulled(greedy, at, -1)
		at = res.NextOffset
	}
	answered := make(chan *PullResult, 1)
	pull := func(commit int64) {
		greedy.PullAsync(&PullRequest{Group: "g", Topic: "t", Offset: at, CommitOffset: commit}, func(res *PullResult, err error) {
			if err != nil {
				t.Error(err)
			}
			answered <- res
		})
	}
	pull(-1)
	select {
	case res := <-answered:
		t.Fatalf("a consumer with %d messages gets %d more", at, len(res.Ends))
	default:
	}
	r.clock.Advance(virtualPause)
	if res := <-answered; res.Status != PullNoNewMessage || res.NextOffset != at {
		t.Fatalf("%+v", res)
	}
	if _, res := r.pulled(other, 0, -1); len(res.Ends) != maxPop {
		t.Errorf("another consumer gets %d", len(res.Ends))
	}
	pull(100)
	if res := <-answered; res.Status != PullFound {
		t.Errorf("who has consumed some gets none: %+v", res)
	} else {
		res.Buffer.Release()
	}
}

// When virtual queues are turned off, who keeps the queue is led to where its group is, and what it commits is its group's as soon as
// all that it held is consumed. What the others held comes from the retry topic.
func TestVirtualQueuesTurnedOff(t *testing.T) {
	r := openVirtualRig(t)
	keeps, drops := r.OpenVirtual("g"), r.OpenVirtual("g")
	defer keeps.Close()
	defer drops.Close()
	r.sendBodies(t, "t", 0, 2)
	r.want(keeps, 0, -1, "0", "1")
	r.send(t, "t", 0, plain("a"), plain("b"))
	r.want(drops, 2, -1, "a", "b")
	r.virtualGroup(t, "g", false)
	r.send(t, "t", 0, plain("new"))

	answered := make(chan *PullResult, 1)
	keeps.PullAsync(&PullRequest{Group: "g", Topic: "t", Offset: 2, CommitOffset: 1}, func(res *PullResult, err error) {
		if err != nil {
			t.Error(err)
		}
		answered <- res
	})
	r.pass(switchGrace)
	if res := <-answered; res.Status != PullNoMatch || res.NextOffset != 4 {
		t.Fatalf("who keeps the queue is told %+v", res)
	}
	r.want(keeps, 4, 1, "new")
	wantCommitted := func(want int64) {
		t.Helper()
		if got, err := r.CommittedOffset("g", "t", 0, false); err != nil || got != want {
			t.Errorf("the group is at %d, %v, want %d", got, err, want)
		}
	}
	wantCommitted(4)
	if !keeps.Commit(OffsetCommit{Topic: "t", Offset: 1}) {
		t.Error("a commit below what others consumed moves the group back")
	}
	if keeps.Commit(OffsetCommit{Topic: "t", Offset: 5}) {
		t.Error("a commit of the last message is not the group's")
	}
	if err := r.CommitOffsets(context.Background(), "g", []OffsetCommit{{Topic: "t", Offset: 5}}); err != nil {
		t.Fatal(err)
	}
	wantCommitted(5)
	r.wantLag(2)

	r.pass(switchAbandon)
	r.want(keeps, 5, 5)
	waitFor(t, "what nobody has any more is in the retry topic", func() bool {
		got := r.pull(t, "g", catalog.RetryPrefix+"g", 0, 0)
		defer got.Buffer.Release()
		return len(got.Ends) == 2
	})
	r.wantLag(0)
}

// Nobody gets anything of a queue while clients find out which ones they keep: neither who was led to the group's cursor when virtual
// queues were turned off before, nor who took the queue so late that its first pull comes when they are off.
func TestVirtualQueuesTurnedOffAgain(t *testing.T) {
	r := openVirtualRig(t)
	led, late := r.OpenVirtual("g"), r.OpenVirtual("g")
	defer led.Close()
	defer late.Close()
	r.sendBodies(t, "t", 0, 2)
	r.want(led, 0, -1, "0", "1")
	wantHeldBack := func(who string, v *VirtualConsumer, offset int64) {
		t.Helper()
		answered := make(chan *PullResult, 1)
		v.PullAsync(&PullRequest{Group: "g", Topic: "t", Offset: offset, CommitOffset: -1}, func(res *PullResult, err error) {
			if err != nil {
				t.Error(err)
			}
			answered <- res
		})
		r.clock.Advance(switchGrace - time.Millisecond)
		r.settle()
		select {
		case res := <-answered:
			t.Fatalf("%s gets %d messages before clients know what they keep", who, len(res.Ends))
		default:
		}
		r.clock.Advance(time.Millisecond)
		if res := <-answered; res.Status != PullNoMatch || res.NextOffset != 2 {
			t.Fatalf("%s is told %+v", who, res)
		}
	}
	r.virtualGroup(t, "g", false)
	wantHeldBack("the one that has pulled", led, 2)
	r.send(t, "t", 0, plain("new"))
	r.virtualGroup(t, "g", true)
	r.virtualGroup(t, "g", false)
	wantHeldBack("the one that was led before", led, 2)
	r.want(led, 2, -1, "new")
	r.virtualGroup(t, "g", true)
	r.virtualGroup(t, "g", false)
	wantHeldBack("the one that has not pulled yet", late, 0)
	r.want(late, 2, -1, "new")
}

// A commit of the consumer that had a queue for itself, which comes while virtual queues are being turned on, would be written when
// others have popped behind it, and they would get that again.
func TestCommitsWhileVirtualQueuesAreTurnedOn(t *testing.T) {
	r := openVirtualRig(t)
	r.virtualGroup(t, "g", false)
	r.sendBodies(t, "t", 0, 4)
	commit := func(offset int64) {
		t.Helper()
		if err := r.CommitOffsetAsync("g", OffsetCommit{Topic: "t", Offset: offset}); err != nil {
			t.Fatal(err)
		}
	}
	commit(1)
	g, err := r.Group("g")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.switchRecords(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	commit(2)
	if n := r.offsets.gatheredCount(); n != 0 {
		t.Errorf("%d commits are to be written when the group pops already", n)
	}
	r.virtualGroup(t, "g", true)
	v := r.OpenVirtual("g")
	defer v.Close()
	r.want(v, 0, -1, "1", "2", "3")
	commit(4) // as a tool does
	if n := r.offsets.gatheredCount(); n != 1 {
		t.Errorf("%d commits are to be written when virtual queues are on", n)
	}
}

// A client that was told offsets which the queue does not have yet, because of messages that came back, begins again.
func TestVirtualQueuesTurnedOffBehindTheEnd(t *testing.T) {
	r := openVirtualRig(t)
	a, b := r.OpenVirtual("g"), r.OpenVirtual("g")
	defer a.Close()
	r.sendBodies(t, "t", 0, 2)
	r.want(b, 0, -1, "0", "1")
	r.want(a, 2, -1)
	b.Close()
	r.settle()
	if res := r.want(a, 2, -1, "0", "1"); res.NextOffset != 4 {
		t.Fatalf("the next offset is %d", res.NextOffset)
	}
	r.virtualGroup(t, "g", false)
	answered := make(chan *PullResult, 1)
	a.PullAsync(&PullRequest{Group: "g", Topic: "t", Offset: 4, CommitOffset: 4}, func(res *PullResult, _ error) { answered <- res })
	r.pass(switchGrace)
	if res := <-answered; res.Status != PullOffsetMoved || res.NextOffset != 2 {
		t.Fatalf("%+v", res)
	}
	// What it still commits is of offsets that there are not.
	if err := r.CommitOffsets(context.Background(), "g", []OffsetCommit{{Topic: "t", Offset: 4}}); err != nil {
		t.Fatal(err)
	}
	if got, err := r.CommittedOffset("g", "t", 0, false); err != nil || got != 2 {
		t.Errorf("the group is at %d, %v", got, err)
	}
	r.wantLag(0)
}
