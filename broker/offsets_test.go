package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/pop"
)

func (tb *testBroker) committed(t testing.TB, group, topic string, queue int32) int64 {
	t.Helper()
	offset, err := tb.CommittedOffset(group, topic, queue, false)
	if CodeOf(err) == CodeOffsetNotFound {
		return -1
	}
	if err != nil {
		t.Fatalf("committed offset: %v", err)
	}
	return offset
}

func TestOneWayCommitsAreSeenAtOnceAndWrittenDown(t *testing.T) {
	c := clock.NewFake(epoch)
	b := openBroker(t, withClock(c))
	b.topicOf(t, "t", 4)
	b.group(t, "g")
	commit := func(queue int32, offset int64) {
		t.Helper()
		if err := b.CommitOffsetAsync("g", OffsetCommit{"t", queue, offset}); err != nil {
			t.Fatal(err)
		}
	}
	before := b.store.Stats().LogCommitted
	commit(0, 5)
	commit(0, 7)
	commit(1, 3)
	if got := b.committed(t, "g", "t", 0); got != 7 {
		t.Errorf("committed %d, want 7", got)
	}
	if now := b.store.Stats().LogCommitted; now != before {
		t.Errorf("the log grew by %d bytes at once", now-before)
	}
	c.Advance(commitEvery)
	settle(t, b.due)
	for b.offsets.gatheredCount() > 0 {
		settle(t, b.due) // until the folder has applied it
	}
	if got := b.committed(t, "g", "t", 0); got != 7 {
		t.Errorf("after the flush committed %d, want 7", got)
	}
	commit(2, 9) // is written down by Close
	b.restart(t)
	for queue, want := range []int64{7, 3, 9, -1} {
		if got := b.committed(t, "g", "t", int32(queue)); got != want {
			t.Errorf("after a restart queue %d is at %d, want %d", queue, got, want)
		}
	}
}

func (o *offsets) gatheredCount() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.mu.gathered)
}

func TestCommitRefusals(t *testing.T) {
	b := openBroker(t)
	b.topicOf(t, "t", 2)
	ctx := context.Background()
	wantCode(t, "group", b.CommitOffsetAsync("none", OffsetCommit{"t", 0, 1}), CodeGroupNotFound)
	b.group(t, "g")
	for _, c := range []struct {
		what   string
		commit OffsetCommit
		want   Code
	}{
		{"topic", OffsetCommit{"none", 0, 1}, CodeTopicNotFound},
		{"queue", OffsetCommit{"t", 2, 1}, CodeParameter},
		{"offset", OffsetCommit{"t", 0, -1}, CodeParameter},
	} {
		wantCode(t, c.what, b.CommitOffsetAsync("g", c.commit), c.want)
		wantCode(t, c.what, b.CommitOffsets(ctx, "g", []OffsetCommit{{"t", 0, 0}, c.commit}), c.want)
	}
	if got := b.committed(t, "g", "t", 0); got != -1 {
		t.Errorf("a refused commit left %d behind", got)
	}
}

// What is gathered is bounded, is tried again when the log refuses it, and a later commit is not lost by an earlier flush.
func TestGatheredOffsets(t *testing.T) {
	var proposals []*commitlog.Proposal
	var refusal error
	o := newOffsets(clock.NewFake(epoch), func(p *commitlog.Proposal) error {
		if refusal == nil {
			proposals = append(proposals, p)
		}
		return refusal
	})
	at := place{1, 2, 3}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(o.gather(at, 5))
	refusal = commitlog.ErrBusy
	o.flush(nil)
	refusal = nil
	o.flush(nil)
	if len(proposals) != 1 {
		t.Fatalf("%d proposals, want one, after the log refused the first", len(proposals))
	}
	o.flush(nil)
	if len(proposals) != 1 {
		t.Error("what is under way was proposed again")
	}
	must(o.gather(at, 6))
	proposals[0].Done(proposals[0])
	if offset, ok := o.committed(at); !ok || offset != 6 {
		t.Errorf("after the first flush was applied the later commit is %d, %v", offset, ok)
	}
	o.flush(nil)
	proposals[1].Err = errors.New("failed")
	proposals[1].Done(proposals[1])
	if offset, ok := o.committed(at); !ok || offset != 6 {
		t.Errorf("after a failed flush the commit is %d, %v", offset, ok)
	}
	done := errors.New("not called")
	o.flush(func(err error) { done = err })
	proposals[2].Done(proposals[2])
	if done != nil || o.gatheredCount() != 0 {
		t.Errorf("flushed with %v, %d left", done, o.gatheredCount())
	}
	for i := range maxGathered {
		must(o.gather(place{1, 2, int32(i)}, 1))
	}
	wantCode(t, "over the bound", o.gather(place{1, 3, 0}, 1), CodeBusy)
	must(o.gather(place{1, 2, 0}, 2))
	o.flush(nil)
	if n := len(proposals[3].Records); n != maxGathered/commitChunk {
		t.Errorf("%d records for %d offsets", n, maxGathered)
	}
}

func TestResetsAreBounded(t *testing.T) {
	c := clock.NewFake(epoch)
	o := newOffsets(c, func(*commitlog.Proposal) error { return nil })
	for i := range maxResets + 10 {
		o.reset([]pop.Commit{{Group: 1, Topic: 2, Queue: int32(i), Offset: 1}}, func(error) {})
	}
	if n := len(o.mu.resets); n != maxResets {
		t.Errorf("%d resets are kept, want %d", n, maxResets)
	}
	c.Advance(resetNotice)
	o.expire()
	if n := len(o.mu.resets); n != 0 {
		t.Errorf("%d resets are kept after their time", n)
	}
}

func TestYoungQueues(t *testing.T) {
	b := openBroker(t)
	b.topicOf(t, "t", 2)
	b.sendBodies(t, "t", 0, 3)
	for queue := range int32(2) {
		if got, err := b.CommittedOffset("nobody", "t", queue, true); err != nil || got != 0 {
			t.Errorf("young queue %d: %d, %v, want 0", queue, got, err)
		}
		_, err := b.CommittedOffset("nobody", "t", queue, false)
		wantCode(t, "young, but without the default", err, CodeOffsetNotFound)
	}
	_, err := b.CommittedOffset("nobody", "none", 0, true)
	wantCode(t, "topic", err, CodeTopicNotFound)
}

func TestResetIsNoticedByPullsAndNotUndoneByOldCommits(t *testing.T) {
	c := clock.NewFake(epoch)
	b := openBroker(t, withClock(c))
	ctx := context.Background()
	b.topicOf(t, "t", 2)
	b.sendBodies(t, "t", 0, 10)
	b.sendBodies(t, "t", 1, 4)
	b.group(t, "g")
	if err := b.CommitOffsets(ctx, "g", []OffsetCommit{{"t", 0, 10}, {"t", 1, 4}}); err != nil {
		t.Fatal(err)
	}
	waiting, _ := b.suspended(t, PullRequest{Group: "g", Topic: "t", Offset: 10, Suspend: time.Hour})
	if err := b.CommitOffsetAsync("g", OffsetCommit{"t", 0, 10}); err != nil {
		t.Fatal(err)
	}
	moved, err := b.ResetOffsets(ctx, "g", "t", -1, 2, 0, false)
	if err != nil || !maps.Equal(moved, map[int32]int64{0: 2, 1: 2}) {
		t.Fatalf("moved %v, %v", moved, err)
	}
	if got := receive(t, waiting); got.err != nil || got.res.Status != PullOffsetMoved || got.res.NextOffset != 2 {
		t.Errorf("the waiting pull: %+v, %v", got.res, got.err)
	}
	stale := func() {
		t.Helper()
		if err := b.CommitOffsetAsync("g", OffsetCommit{"t", 0, 10}); err != nil {
			t.Error(err)
		}
		if err := b.CommitOffsets(ctx, "g", []OffsetCommit{{"t", 1, 4}}); err != nil {
			t.Error(err)
		}
		for queue := range int32(2) {
			if got := b.committed(t, "g", "t", queue); got != 2 {
				t.Errorf("queue %d is at %d after a commit from before the reset, want 2", queue, got)
			}
		}
	}
	stale() // queue 0 was told, queue 1 not yet
	if res := b.pull(t, "g", "t", 1, 4); res.Status != PullOffsetMoved || res.NextOffset != 2 {
		t.Errorf("the next pull: %+v", res)
	}
	stale() // both were told
	for queue := range int32(2) {
		if res := b.pull(t, "g", "t", queue, 2); res.Status != PullFound {
			t.Errorf("from the new offset: %+v", res)
		}
		if err := b.CommitOffsetAsync("g", OffsetCommit{"t", queue, 3}); err != nil {
			t.Error(err)
		}
		if got := b.committed(t, "g", "t", queue); got != 3 {
			t.Errorf("queue %d is at %d after a commit from behind the reset, want 3", queue, got)
		}
	}
}

func TestResetIsNoticedByPopsAtOnce(t *testing.T) {
	b := openBroker(t)
	ctx := context.Background()
	b.topicOf(t, "t", 2)
	b.sendBodies(t, "t", 1, 3)
	pop := func(wait time.Duration) int {
		res, err := b.Pop(ctx, &PopRequest{Group: "g", Topic: "t", Queue: -1, Max: 32, Invisible: time.Hour, Wait: wait})
		if err != nil {
			t.Error(err)
			return -1
		}
		res.Buffer.Release()
		return len(res.Handles)
	}
	if n := pop(0); n != 3 {
		t.Fatalf("popped %d, want 3", n)
	}
	got := make(chan int, 1)
	go func() { got <- pop(time.Hour) }()
	for b.waiters.n.Load() == 0 {
		runtime.Gosched()
	}
	if _, err := b.ResetOffsets(ctx, "g", "t", -1, -1, 0, true); err != nil {
		t.Fatal(err)
	}
	if n := receive(t, got); n != 3 {
		t.Errorf("after the reset the waiting pop got %d, want 3", n)
	}
	if c, err := b.GroupCounters("g", "t"); err != nil || c != (GroupCounters{InFlight: 3}) {
		t.Errorf("counters %+v, %v: what was in flight before the reset is to be forgotten", c, err)
	}
}

func TestResetByTimeAndItsBounds(t *testing.T) {
	c := clock.NewFake(epoch)
	b := openBroker(t, withClock(c))
	ctx := context.Background()
	b.topicOf(t, "t", 1)
	b.group(t, "g")
	for range 5 {
		b.send(t, "t", 0, plain("x"))
		c.Advance(time.Second)
	}
	at := func(seconds int64) int64 { return epoch.UnixMilli() + seconds*1000 }
	for _, step := range []struct {
		what       string
		offset, ms int64
		force      bool
		want       int64
	}{
		{"no offset yet", -1, at(2), false, 2},
		{"forward without force", -1, at(4), false, 2},
		{"forward with force", -1, at(4), true, 4},
		{"back", -1, at(1), false, 1},
		{"to the end", -1, -1, true, 5},
		{"between two", -1, at(2) + 1, true, 3},
		{"by offset, forward", 5, 0, false, 5},
		{"by offset, back", 0, 0, false, 0},
	} {
		moved, err := b.ResetOffsets(ctx, "g", "t", 0, step.offset, step.ms, step.force)
		if err != nil || moved[0] != step.want {
			t.Errorf("%s: %v, %v, want %d", step.what, moved, err, step.want)
		}
		if got := b.committed(t, "g", "t", 0); got != step.want {
			t.Errorf("%s: committed %d, want %d", step.what, got, step.want)
		}
	}
	for what, reset := range map[string]func() error{
		"offset":      func() error { _, err := b.ResetOffsets(ctx, "g", "t", 0, 6, 0, true); return err },
		"queue":       func() error { _, err := b.ResetOffsets(ctx, "g", "t", 1, 0, 0, true); return err },
		"no topic":    func() error { _, err := b.ResetOffsets(ctx, "g", "none", 0, 0, 0, true); return err },
		"no group":    func() error { _, err := b.ResetOffsets(ctx, "none", "t", 0, 0, 0, true); return err },
		"all, offset": func() error { _, err := b.ResetOffsets(ctx, "g", "t", -1, 99, 0, true); return err },
	} {
		want := CodeParameter
		switch what {
		case "no topic":
			want = CodeTopicNotFound
		case "no group":
			want = CodeGroupNotFound
		}
		wantCode(t, what, reset(), want)
	}
}

func TestTopicsOfGroupAndGroupsOfTopic(t *testing.T) {
	c := clock.NewFake(epoch)
	b := openBroker(t, withClock(c))
	b.topicOf(t, "t", 2)
	b.topicOf(t, "u", 1)
	b.group(t, "g")
	b.group(t, "h")
	b.sendBodies(t, "t", 0, 5)
	if err := b.CommitOffsets(context.Background(), "g", []OffsetCommit{{"t", 0, 3}}); err != nil {
		t.Fatal(err)
	}
	topics := func(want ...string) {
		t.Helper()
		if got, err := b.GroupTopics("g"); err != nil || !slices.Equal(got, want) {
			t.Errorf("topics %q, %v, want %q", got, err, want)
		}
	}
	topics("t")
	if err := b.CommitOffsetAsync("g", OffsetCommit{"u", 0, 0}); err != nil {
		t.Fatal(err)
	}
	topics("t", "u")
	b.clients.RegisterConsumer("online", &Client{ID: "c"}, subscribed(1, "t"))
	for topic, want := range map[string][]string{"t": {"g", "online"}, "u": {"g"}} {
		if got, err := b.GroupsOfTopic(topic); err != nil || !slices.Equal(got, want) {
			t.Errorf("groups of %s: %q, %v, want %q", topic, got, err, want)
		}
	}
	_, err := b.GroupTopics("none")
	wantCode(t, "group", err, CodeGroupNotFound)
	_, err = b.GroupsOfTopic("none")
	wantCode(t, "topic", err, CodeTopicNotFound)
}

// offsetModel is what CommittedOffset must answer, said as simply as possible.
type offsetModel struct {
	committed map[int32]int64
	notice    map[int32]*modelNotice
}

type modelNotice struct {
	offset int64
	told   bool
	left   time.Duration
}

func (m *offsetModel) commit(queue int32, offset int64) {
	if n := m.notice[queue]; n == nil || n.offset == offset {
		m.committed[queue] = offset
	}
}

func (m *offsetModel) pull(queue int32, offset int64) (moved int64, told bool) {
	n := m.notice[queue]
	if n == nil {
		return 0, false
	}
	if n.told || n.offset == offset {
		delete(m.notice, queue)
		return 0, false
	}
	n.told, n.left = true, resetNotice
	return n.offset, true
}

func (m *offsetModel) pass(d time.Duration) {
	for queue, n := range m.notice {
		if n.left -= d; n.left <= 0 {
			delete(m.notice, queue)
		}
	}
}

// Any mix of commits, resets, pulls, time and restarts leaves the offsets where the model says.
func TestOffsetsProperty(t *testing.T) {
	const queues, length = 3, 20
	rapid.Check(t, func(rt *rapid.T) {
		c := clock.NewFake(epoch)
		b := openBroker(t, withClock(c))
		defer func() { b.close(t) }()
		ctx := context.Background()
		b.topicOf(t, "t", queues)
		b.group(t, "g")
		for q := range int32(queues) {
			b.sendBodies(t, "t", q, length)
		}
		m := &offsetModel{committed: map[int32]int64{}, notice: map[int32]*modelNotice{}}
		queue := func(rt *rapid.T) int32 { return rapid.Int32Range(0, queues-1).Draw(rt, "queue") }
		offset := func(rt *rapid.T) int64 { return rapid.Int64Range(0, length).Draw(rt, "offset") }
		rt.Repeat(map[string]func(*rapid.T){
			"commit one-way": func(rt *rapid.T) {
				q, at := queue(rt), offset(rt)
				if err := b.CommitOffsetAsync("g", OffsetCommit{"t", q, at}); err != nil {
					rt.Fatal(err)
				}
				m.commit(q, at)
			},
			"commit": func(rt *rapid.T) {
				q, at := queue(rt), offset(rt)
				if err := b.CommitOffsets(ctx, "g", []OffsetCommit{{"t", q, at}}); err != nil {
					rt.Fatal(err)
				}
				m.commit(q, at)
			},
			"flush": func(*rapid.T) { b.offsets.flush(nil) },
			"reset": func(rt *rapid.T) {
				q, at := queue(rt), offset(rt)
				if _, err := b.ResetOffsets(ctx, "g", "t", q, at, 0, true); err != nil {
					rt.Fatal(err)
				}
				m.committed[q], m.notice[q] = at, &modelNotice{offset: at, left: resetNotice}
			},
			"pull": func(rt *rapid.T) {
				q, at := queue(rt), offset(rt)
				res := b.pull(t, "g", "t", q, at)
				moved, told := m.pull(q, at)
				if (res.Status == PullOffsetMoved) != told || told && res.NextOffset != moved {
					rt.Fatalf("pull at %d: %+v, want moved %v to %d", at, res, told, moved)
				}
				res.Buffer.Release()
			},
			"time": func(rt *rapid.T) {
				d := time.Duration(rapid.IntRange(1, 150).Draw(rt, "s")) * time.Second
				c.Advance(d)
				m.pass(d)
			},
			"restart": func(*rapid.T) {
				b.restart(t)
				m.notice = map[int32]*modelNotice{}
			},
			"": func(rt *rapid.T) {
				got, want := "", ""
				for q := range int32(queues) {
					at, ok := m.committed[q]
					if !ok {
						at = -1
					}
					got, want = got+fmt.Sprint(" ", b.committed(t, "g", "t", q)), want+fmt.Sprint(" ", at)
				}
				if got != want {
					rt.Fatalf("offsets%s, want%s", got, want)
				}
			},
		})
	})
}
