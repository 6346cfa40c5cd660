package broker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/filter"
	"github.com/cairnmq/cairn/message"
)

// popAsync pops without waiting for it.
func (r *popRig) popAsync(req *PopRequest) (cancel func(), over chan popAnswer) {
	over = make(chan popAnswer, 2) // room for an answer too many
	cancel = r.PopAsync(req, func(res *PopResult, err error) { over <- popAnswer{res, err} })
	return cancel, over
}

// idle waits until n long polls wait and have come to rest.
func (r *popRig) idle(t testing.TB, n int) {
	t.Helper()
	poll(t, fmt.Sprintf("%d to wait", n), func() bool {
		r.polls.mu.Lock()
		defer r.polls.mu.Unlock()
		held := 0
		for p := range r.polls.mu.all {
			p.mu.Lock()
			if p.mu.held {
				held++
			}
			p.mu.Unlock()
		}
		return held == n && len(r.polls.mu.all) == n && r.waiters.len() == n
	})
}

// A long poll ends in every way that there is, once, and leaves nothing behind.
func TestHowLongPollsEnd(t *testing.T) {
	r := newPopRig(t)
	r.topicOf(t, "t", 2)
	r.send(t, "t", 1, plain("there"))
	req := waitingPop(3)
	req.ShortNonce = true

	_, over := r.popAsync(req)
	a := arriveOne(t, over)
	if a.err != nil {
		t.Fatal(a.err)
	}
	wantBodies(t, "what was there", bodiesOf(t, a.res), "there")

	_, over = r.popAsync(req)
	r.idle(t, 1)
	r.send(t, "t", 0, plain("sent"))
	a = arriveOne(t, over)
	if a.err != nil {
		t.Fatal(a.err)
	}
	wantBodies(t, "what was sent", bodiesOf(t, a.res), "sent")

	_, over = r.popAsync(req)
	r.idle(t, 1)
	r.clock.Advance(time.Minute)
	a = arriveOne(t, over)
	if a.err != nil || !slices.Equal(a.res.Attempts, []int32{2, 2}) {
		t.Fatalf("when both are visible again: %+v", a)
	}
	a.res.Buffer.Release()
	for _, err := range r.Ack(context.Background(), "g", "t", a.res.Receipts()) {
		if err != nil {
			t.Error(err)
		}
	}

	nothing := func(what string, over chan popAnswer) {
		t.Helper()
		if a := arriveOne(t, over); a.err != nil || a.res == nil || a.res.Buffer != nil {
			t.Errorf("%s: %+v", what, a)
		}
		r.idle(t, 0)
	}
	_, over = r.popAsync(req)
	r.idle(t, 1)
	r.clock.Advance(time.Hour)
	nothing("out of time", over)
	cancel, over := r.popAsync(req)
	r.idle(t, 1)
	cancel()
	cancel()
	nothing("cancelled", over)
	at := popOf(1)
	_, over = r.popAsync(&at)
	nothing("without waiting", over)

	for what, c := range map[string]struct {
		change func(*PopRequest)
		want   Code
	}{
		"no message": {func(q *PopRequest) { q.Max = 0 }, CodeParameter},
		"no topic":   {func(q *PopRequest) { q.Topic = "none" }, CodeTopicNotFound},
		"queue":      {func(q *PopRequest) { q.Queue = 2 }, CodeParameter},
	} {
		wrong := *waitingPop(1)
		c.change(&wrong)
		_, over := r.popAsync(&wrong)
		wantCode(t, what, arriveOne(t, over).err, c.want)
	}
	r.waiters.max = 0
	_, over = r.popAsync(req)
	wantCode(t, "too many wait", arriveOne(t, over).err, CodeBusy)
	r.waiters.max = maxWaiters

	_, over = r.popAsync(req)
	r.idle(t, 1)
	r.check(t)
	b := r.Broker
	r.restart(t)
	wantCode(t, "the broker was closed", arriveOne(t, over).err, CodeClosing)
	b.PopAsync(req, func(res *PopResult, err error) { over <- popAnswer{res, err} })
	wantCode(t, "a closed broker", arriveOne(t, over).err, CodeClosing)
	if n := len(over); n != 0 {
		t.Errorf("%d answers too many", n)
	}
}

// Many send, many pop at the same time, and some of these change their minds: each message is handed out once, or is there still.
func TestLongPollsLoseNothing(t *testing.T) {
	const messages, consumers = 1000, 8
	r := newPopRig(t)
	r.topicOf(t, "t", 4)
	r.group(t, "g")
	var got sync.Map
	var count atomic.Int64
	var wg sync.WaitGroup
	keep := func(res *PopResult) {
		for i, body := range bodiesOf(t, res) {
			if _, twice := got.LoadOrStore(body, true); twice || res.Attempts[i] != 1 {
				t.Errorf("%s came twice, or as attempt %d", body, res.Attempts[i])
			}
			count.Add(1)
		}
	}
	sent := make(chan struct{})
	for range consumers {
		wg.Go(func() {
			for {
				cancel, over := r.popAsync(waitingPop(1 + rand.IntN(5)))
				if rand.IntN(3) == 0 {
					cancel()
				}
				select {
				case a := <-over:
					if a.err != nil {
						t.Error(a.err)
						return
					}
					keep(a.res)
				case <-sent:
					cancel()
					a := <-over
					if a.err == nil {
						keep(a.res)
					}
					return
				}
			}
		})
	}
	for i := range messages {
		if _, err := r.Send(context.Background(), &SendRequest{
			Topic: "t", QueueID: int32(i % 4), Messages: []message.Message{plain(fmt.Sprint(i))},
		}); err != nil {
			t.Error(err)
			break
		}
	}
	close(sent)
	wg.Wait()
	r.idle(t, 0)
	poll(t, "what was given back", func() bool {
		req := popOf(maxPop)
		res, err := r.Pop(context.Background(), &req)
		if err != nil {
			t.Fatal(err)
		}
		keep(res)
		return count.Load() >= messages
	})
}

// While anything is there nobody waits, whoever is woken and cancelled in between.
func TestNobodyWaitsForWhatIsThere(t *testing.T) {
	r := newPopRig(t)
	r.topicOf(t, "t", 1)
	r.group(t, "g")
	for range 100 {
		cancel, first := r.popAsync(waitingPop(1))
		_, second := r.popAsync(waitingPop(1))
		r.idle(t, 2)
		go cancel()
		r.send(t, "t", 0, plain("x"))
		select {
		case a := <-second:
			a.res.Buffer.Release()
			(<-first).res.Buffer.Release()
		case a := <-first:
			if a.res.Buffer == nil {
				a = arriveOne(t, second)
				a.res.Buffer.Release()
				continue
			}
			a.res.Buffer.Release()
			r.send(t, "t", 0, plain("y"))
			a = arriveOne(t, second)
			a.res.Buffer.Release()
		}
	}
}

// A group that is new in a queue that has lost messages begins where it wants to.
func TestANewGroupMayBeginWithTheOldest(t *testing.T) {
	r := newPopRig(t)
	r.topicOf(t, "t", 1)
	r.sendBodies(t, "t", 0, 3)
	r.clock.Advance(100 * time.Hour)
	if err := r.store.Expire(context.Background(), r.clock.Now()); err != nil {
		t.Fatal(err)
	}
	r.send(t, "t", 0, plain("oldest"))
	req := popOf(5)
	req.Group = "newest"
	got, _ := r.popBodies(t, req)
	wantBodies(t, "from the end", got)
	req.Group, req.FromMin = "oldest", true
	got, _ = r.popBodies(t, req)
	wantBodies(t, "from the beginning", got, "oldest")
	got, _ = r.popBodies(t, req)
	wantBodies(t, "once", got)
}

// What an idle long poll costs: memory, and no goroutine.
func TestMemoryOfALongPoll(t *testing.T) {
	const n = 2000
	r := newPopRig(t)
	r.topicOf(t, "t", 8)
	r.popBodies(t, popOf(1))
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	routines := runtime.NumGoroutine()
	var over atomic.Int64
	cancels := make([]func(), n)
	for i := range cancels {
		cancels[i] = r.PopAsync(waitingPop(32), func(*PopResult, error) { over.Add(1) })
	}
	poll(t, "all to wait, and their goroutines to end", func() bool {
		return r.waiters.len() == n && runtime.NumGoroutine() <= routines
	})
	runtime.GC()
	runtime.ReadMemStats(&after)
	heap := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / n
	t.Logf("a long poll takes %d bytes", heap)
	if heap > 4<<10 {
		t.Errorf("a long poll takes %d bytes", heap)
	}
	for _, cancel := range cancels {
		cancel()
	}
	poll(t, "all to end", func() bool { return over.Load() == n })
	r.idle(t, 0)
}

// Notifications take nothing, and do not keep from others what they were woken for.
func TestNotifications(t *testing.T) {
	r := newPopRig(t)
	r.topicOf(t, "t", 2)
	r.group(t, "g")
	type answer struct {
		something bool
		err       error
	}
	notify := func(req NotifyRequest) (cancel func(), over chan answer) {
		over = make(chan answer, 2)
		return r.NotifyAsync(&req, func(something bool, err error) { over <- answer{something, err} }), over
	}
	ask := func(what string, req NotifyRequest, want bool) {
		t.Helper()
		_, over := notify(req)
		if a := arriveOne(t, over); a.err != nil || a.something != want {
			t.Errorf("%s: %+v", what, a)
		}
	}
	of := NotifyRequest{Group: "g", Topic: "t", Queue: -1}
	tagged, inOne, sql, waits := of, of, of, of
	tagged.Filter = tags(t, "a")
	inOne.Queue = 1
	var err error
	if sql.Filter, err = filter.Parse(filter.SQL92, "x = 1"); err != nil {
		t.Fatal(err)
	}
	waits.Wait = time.Hour

	ask("nothing", of, false)
	_, first := notify(waits)
	_, second := notify(waits)
	_, popped := r.popAsync(waitingPop(1))
	r.idle(t, 3)
	if n, err := r.Polling("g", "t", -1); n != 3 || err != nil {
		t.Errorf("%d wait, %v", n, err)
	}
	if n, err := r.Polling("g", "t", 0); n != 0 || err != nil {
		t.Errorf("%d wait for queue 0, %v", n, err)
	}
	r.send(t, "t", 0, plain("one", "TAGS", "b"))
	a := arriveOne(t, popped)
	if a.err != nil {
		t.Fatal(a.err)
	}
	wantBodies(t, "popped", bodiesOf(t, a.res), "one")
	for _, over := range []chan answer{first, second} { // they may have looked before or after the pop
		select {
		case a := <-over:
			if a.err != nil || !a.something {
				t.Errorf("%+v", a)
			}
		default:
		}
	}
	r.send(t, "t", 0, plain("two", "TAGS", "b"))
	ask("something", of, true)
	ask("of another tag", tagged, false)
	ask("in another queue", inOne, false)
	ask("of an expression that has to be tried", sql, true)
	r.idle(t, 0)
	got, _ := r.popBodies(t, popOf(5))
	wantBodies(t, "taken by nobody", got, "two")
	ask("in flight", of, false)
	r.clock.Advance(time.Minute)
	ask("visible again", tagged, true)

	gone := waits
	r.topicOf(t, "empty", 1)
	gone.Topic = "empty"
	cancel, over := notify(gone)
	r.idle(t, 1)
	cancel()
	if a := arriveOne(t, over); a != (answer{}) {
		t.Errorf("cancelled: %+v", a)
	}
	gone.Topic = "none"
	_, over = notify(gone)
	wantCode(t, "no topic", arriveOne(t, over).err, CodeTopicNotFound)
	_, err = r.Polling("g", "t", 9)
	wantCode(t, "no queue", err, CodeParameter)
	_, err = r.Polling("g", "none", -1)
	wantCode(t, "no topic", err, CodeTopicNotFound)
}

// In an ordered group only what comes next in its line is something.
func TestNotificationsInOrder(t *testing.T) {
	r := newPopRig(t)
	r.topicOf(t, "t", 1)
	g := catalog.DefaultGroup("g")
	g.ConsumeMessageOrderly = true
	if err := r.PutGroup(context.Background(), g, ""); err != nil {
		t.Fatal(err)
	}
	ask := func(what string, want bool, peeked ...string) {
		t.Helper()
		over := make(chan bool, 1)
		r.NotifyAsync(&NotifyRequest{Group: "g", Topic: "t", Queue: -1}, func(something bool, err error) {
			if err != nil {
				t.Error(err)
			}
			over <- something
		})
		if got := arriveOne(t, over); got != want {
			t.Errorf("%s: %v", what, got)
		}
		res, err := r.Peek(&PeekRequest{Group: "g", Topic: "t", Queue: -1, Max: 9})
		if err != nil {
			t.Fatal(err)
		}
		wantBodies(t, what, bodiesOf(t, res), peeked...)
	}
	r.send(t, "t", 0, plain("1", "__SHARDINGKEY", "k"))
	got, _ := r.popBodies(t, popOf(5))
	wantBodies(t, "first", got, "1")
	r.send(t, "t", 0, plain("2", "__SHARDINGKEY", "k"))
	got, _ = r.popBodies(t, popOf(5)) // finds that it has to wait
	wantBodies(t, "behind the first", got)
	ask("something waits in its line", false)
	r.clock.Advance(time.Minute)
	ask("the first is visible again", true, "1")
	_, handles := r.popBodies(t, popOf(5))
	if err := r.Ack(context.Background(), "g", "t", handles)[0]; err != nil {
		t.Fatal(err)
	}
	ask("the first is done", true, "2")
}

// What is peeked at stays, expired messages come before new ones.
func TestPeek(t *testing.T) {
	r := newPopRig(t)
	r.topicOf(t, "t", 2)
	r.group(t, "g")
	peek := func(queue int32, most int) (bodies []string, attempts []int32) {
		t.Helper()
		res, err := r.Peek(&PeekRequest{Group: "g", Topic: "t", Queue: queue, Max: most})
		if err != nil {
			t.Fatal(err)
		}
		return bodiesOf(t, res), res.Attempts
	}
	if got, _ := peek(-1, 32); got != nil {
		t.Errorf("of nothing: %v", got)
	}
	r.send(t, "t", 0, plain("a"), plain("b"))
	r.send(t, "t", 1, plain("c"))
	for range 2 {
		got, attempts := peek(-1, 32)
		wantBodies(t, "all", got, "a", "b", "c")
		if !slices.Equal(attempts, []int32{1, 1, 1}) {
			t.Errorf("attempts %v", attempts)
		}
	}
	got, _ := peek(1, 32)
	wantBodies(t, "one queue", got, "c")
	got, _ = peek(-1, 2)
	wantBodies(t, "the first", got, "a", "b")
	req := popOf(1)
	req.Queue = 0
	got, _ = r.popBodies(t, req)
	wantBodies(t, "popped", got, "a")
	got, _ = peek(-1, 32)
	wantBodies(t, "what is not in flight", got, "b", "c")
	r.clock.Advance(time.Minute)
	got, attempts := peek(-1, 2)
	wantBodies(t, "visible again first", got, "a", "b")
	if !slices.Equal(attempts, []int32{2, 1}) {
		t.Errorf("attempts %v", attempts)
	}
	if n, err := r.Unpopped("g", "t", 0); n != 1 || err != nil {
		t.Errorf("%d are left in queue 0, %v", n, err)
	}
	for what, c := range map[string]struct {
		req  PeekRequest
		want Code
	}{
		"no message": {PeekRequest{Group: "g", Topic: "t"}, CodeParameter},
		"too many":   {PeekRequest{Group: "g", Topic: "t", Max: maxPop + 1}, CodeParameter},
		"no group":   {PeekRequest{Group: "none", Topic: "t", Max: 1}, CodeGroupNotFound},
		"no queue":   {PeekRequest{Group: "g", Topic: "t", Max: 1, Queue: 2}, CodeParameter},
	} {
		_, err := r.Peek(&c.req)
		wantCode(t, what, err, c.want)
	}
	_, err := r.Unpopped("none", "t", 0)
	wantCode(t, "no group", err, CodeGroupNotFound)
}

// The mode of a group on a topic is part of the log, and of this group and this topic only.
func TestRequestModes(t *testing.T) {
	r := newPopRig(t)
	r.topicOf(t, "t", 1)
	r.group(t, "g")
	ctx := context.Background()
	want := func(what string, m RequestMode) {
		t.Helper()
		if got, err := r.RequestMode("g", "t"); err != nil || got != m {
			t.Errorf("%s: %+v, %v", what, got, err)
		}
	}
	set := func(m RequestMode) {
		t.Helper()
		if err := r.SetRequestMode(ctx, "g", "t", m); err != nil {
			t.Fatal(err)
		}
	}
	want("at first", RequestMode{})
	pops := RequestMode{Pop: true, Share: 3}
	set(pops)
	want("set", pops)
	if m, err := r.RequestMode("nobody", "t"); err != nil || m != (RequestMode{}) {
		t.Errorf("of a group that is not there: %+v, %v", m, err)
	}
	r.crash(t)
	want("after a crash", pops)
	set(RequestMode{})
	want("set back", RequestMode{})
	set(pops)
	if err := r.DeleteGroup(ctx, "g", true); err != nil {
		t.Fatal(err)
	}
	r.group(t, "g")
	want("of a group that was made anew", RequestMode{})

	wantCode(t, "no topic", r.SetRequestMode(ctx, "g", "none", pops), CodeTopicNotFound)
	wantCode(t, "no group", r.SetRequestMode(ctx, "none", "t", pops), CodeGroupNotFound)
	wantCode(t, "a retry topic", r.SetRequestMode(ctx, "g", catalog.RetryPrefix+"g", pops), CodeNoPermission)
	_, err := r.RequestMode("g", "none")
	wantCode(t, "no topic", err, CodeTopicNotFound)
}

// However many polls come at once, few of them look at a time.
func TestPollsThatComeAtOnceTakeNoGoroutines(t *testing.T) {
	r := newPopRig(t)
	r.topicOf(t, "t", 8)
	r.popBodies(t, popOf(1))
	const n = 5000
	before, most := runtime.NumGoroutine(), 0
	for range n {
		r.PopAsync(waitingPop(1), func(*PopResult, error) {})
		most = max(most, runtime.NumGoroutine())
	}
	poll(t, "all to wait", func() bool {
		most = max(most, runtime.NumGoroutine())
		return r.waiters.len() == n
	})
	if more := most - before; more > 50 {
		t.Errorf("%d goroutines more than before", more)
	}
}
