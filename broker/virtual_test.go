package broker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/message"
)

const virtualModelQueues = 2

// virtualGroup makes a group with virtual queues or turns them off.
func (tb *testBroker) virtualGroup(t testing.TB, name string, on bool) {
	t.Helper()
	g := catalog.DefaultGroup(name)
	if err := tb.PutGroup(context.Background(), g, fmt.Sprintf("+%s=%t", catalog.AttrVirtualQueues, on)); err != nil {
		t.Fatal(err)
	}
}

// pullVirtually waits for the answer of a pull.
func pullVirtually(t testing.TB, v *VirtualConsumer, req PullRequest) *PullResult {
	t.Helper()
	type answer struct {
		res *PullResult
		err error
	}
	over := make(chan answer, 1)
	v.PullAsync(&req, func(res *PullResult, err error) { over <- answer{res, err} })
	select {
	case a := <-over:
		if a.err != nil {
			t.Fatal(a.err)
		}
		return a.res
	case <-time.After(10 * time.Second):
		t.Fatal("a pull is not answered")
	}
	return nil
}

// processQueue is what a client knows of a queue, in the terms of the Java client.
type processQueue struct {
	next   int64            // where it pulls
	tree   map[int64]string // not consumed yet, by offset
	last   int64            // the offset that it put in last
	commit int64            // what it knows as its committed offset; rises only
}

func (q *processQueue) first() int64 {
	if len(q.tree) == 0 {
		return q.last + 1
	}
	return slices.Min(slices.Collect(maps.Keys(q.tree)))
}

type virtualClient struct {
	v      *VirtualConsumer
	queues [virtualModelQueues]*processQueue
}

// virtualRun is one random run.
type virtualRun struct {
	tb       *testBroker
	t        testing.TB
	clock    *clock.Fake
	clients  map[int]*virtualClient
	joined   int
	sent     int
	consumed map[string]int // by body: how often
	settled  map[string]bool
}

func (r *virtualRun) someone(t *rapid.T) *virtualClient {
	if len(r.clients) == 0 {
		return nil
	}
	return r.clients[rapid.SampledFrom(slices.Sorted(maps.Keys(r.clients))).Draw(t, "who")]
}

func (r *virtualRun) someQueue(t *rapid.T) int {
	return rapid.IntRange(0, virtualModelQueues-1).Draw(t, "queue")
}

func (r *virtualRun) send(t *rapid.T) {
	for range rapid.IntRange(1, 6).Draw(t, "n") {
		body := fmt.Sprint(r.sent)
		r.tb.send(r.t, "t", int32(r.sent%virtualModelQueues), plain(body))
		r.sent++
	}
}

func (r *virtualRun) join(*rapid.T) {
	if len(r.clients) < 5 {
		c := &virtualClient{v: r.tb.OpenVirtual("g")}
		for i := range c.queues {
			c.begin(r, i)
		}
		r.clients[r.joined] = c
		r.joined++
	}
}

// begin makes a queue of the client anew, as after a rebalance: what it consumed and did not commit may come again.
func (c *virtualClient) begin(r *virtualRun, i int) {
	at, ok := c.v.Offset("t", int32(i))
	if !ok {
		var err error
		if at, err = r.tb.CommittedOffset("g", "t", int32(i), true); err != nil {
			r.t.Fatal(err)
		}
	}
	c.queues[i] = &processQueue{next: at, tree: map[int64]string{}, last: at - 1, commit: at}
}

// pull asks for more, and now and then loses the answer.
func (r *virtualRun) pull(t *rapid.T) {
	c := r.someone(t)
	if c == nil {
		return
	}
	i := r.someQueue(t)
	q := c.queues[i]
	req := PullRequest{Group: "g", Topic: "t", QueueID: int32(i), Offset: q.next, CommitOffset: -1,
		MaxMessages: rapid.IntRange(1, 4).Draw(t, "most")}
	if rapid.Bool().Draw(t, "commits") && q.commit > 0 {
		req.CommitOffset = q.commit
		r.committed(c, i)
	}
	res := pullVirtually(r.t, c.v, req)
	defer res.Buffer.Release()
	if res.Status == PullFound && rapid.IntRange(0, 9).Draw(t, "lost") == 0 {
		return
	}
	if res.NextOffset < q.next {
		t.Fatalf("a pull at %d leads back to %d", q.next, res.NextOffset)
	}
	for _, m := range decodeAll(r.t, bytesOf(res), res.Ends) {
		r.received(t, q, i, &m)
	}
	q.next = res.NextOffset
}

func (r *virtualRun) received(t *rapid.T, q *processQueue, queue int, m *message.Message) {
	body := string(m.Body)
	if m.QueueOffset < q.next {
		t.Fatalf("%s came with offset %d to a pull at %d", body, m.QueueOffset, q.next)
	}
	for id, other := range r.clients {
		for at, b := range other.queues[queue].tree {
			if b == body {
				t.Fatalf("%s came at %d while client %d has it at %d", body, m.QueueOffset, id, at)
			}
		}
	}
	if r.settled[body] {
		t.Fatalf("%s came again after its commit", body)
	}
	q.tree[m.QueueOffset], q.last = body, m.QueueOffset
}

// consume consumes any message that a client has.
func (r *virtualRun) consume(t *rapid.T) {
	c := r.someone(t)
	if c == nil {
		return
	}
	q := c.queues[r.someQueue(t)]
	for range rapid.IntRange(1, 5).Draw(t, "n") {
		if len(q.tree) == 0 {
			return
		}
		at := rapid.SampledFrom(slices.Sorted(maps.Keys(q.tree))).Draw(t, "message")
		r.consumed[q.tree[at]]++
		delete(q.tree, at)
		q.commit = max(q.commit, q.first())
	}
}

// committed notes what a commit settles: what the client got and has no more, below what it commits. Everything that is settled was
// consumed, or a message is lost.
func (r *virtualRun) committed(c *virtualClient, i int) {
	c.v.mu.Lock()
	defer c.v.mu.Unlock()
	for at, q := range c.v.mu.queues {
		if at.queue != int32(i) {
			continue
		}
		for _, h := range q.held {
			if h.shown < c.queues[i].commit {
				r.settled[fmt.Sprint(h.offset*virtualModelQueues+int64(i))] = true
			}
		}
	}
}

func (r *virtualRun) commit(t *rapid.T) {
	if c := r.someone(t); c != nil {
		i := r.someQueue(t)
		r.committed(c, i)
		if !c.v.Commit(OffsetCommit{Topic: "t", Queue: int32(i), Offset: c.queues[i].commit}) {
			t.Fatal("a commit of a virtual queue is taken for one of the group")
		}
	}
}

// rebalance begins a client's queue again, after committing as clients do.
func (r *virtualRun) rebalance(t *rapid.T) {
	if c := r.someone(t); c != nil {
		i := r.someQueue(t)
		r.committed(c, i)
		c.v.Commit(OffsetCommit{Topic: "t", Queue: int32(i), Offset: c.queues[i].commit})
		c.begin(r, i)
	}
}

func (r *virtualRun) leave(t *rapid.T) {
	if len(r.clients) == 0 {
		return
	}
	id := rapid.SampledFrom(slices.Sorted(maps.Keys(r.clients))).Draw(t, "who")
	r.clients[id].v.Close()
	delete(r.clients, id)
}

func (r *virtualRun) pass(t *rapid.T) {
	r.clock.Advance(time.Duration(rapid.IntRange(1, 9).Draw(t, "seconds")) * time.Second)
}

// settle waits until everything that was proposed is applied.
func (r *virtualRun) settle() { r.tb.send(r.t, "barrier", 0, plain("")) }

// check compares what is left to consume with what was not settled.
func (r *virtualRun) check(t *rapid.T) {
	r.settle()
	all, err := r.tb.GroupProgress("g", "t")
	if err != nil {
		t.Fatal(err)
	}
	if lag, want := all[0].Lag(), int64(r.sent-len(r.settled)); lag != want {
		t.Fatalf("%d messages left to consume, want %d of %d", lag, want, r.sent)
	}
	held := int64(0)
	for _, c := range r.clients {
		c.v.mu.Lock()
		n := 0
		for _, q := range c.v.mu.queues {
			n += len(q.held)
		}
		if n != c.v.mu.held {
			t.Errorf("%d messages counted, %d held", c.v.mu.held, n)
		}
		held += int64(n)
		c.v.mu.Unlock()
	}
	if got := r.tb.virtuals.held.Load(); got != held {
		t.Fatalf("%d messages counted, %d held by all", got, held)
	}
}

// drain has the clients that are left, or a new one, consume everything.
func (r *virtualRun) drain(t *rapid.T) {
	r.join(t)
	for idle := 0; idle < 3; {
		r.settle()
		before := len(r.settled)
		for _, id := range slices.Sorted(maps.Keys(r.clients)) {
			c := r.clients[id]
			for i := range c.queues {
				q := c.queues[i]
				for at, body := range q.tree {
					r.consumed[body]++
					delete(q.tree, at)
				}
				q.commit = max(q.commit, q.first())
				r.committed(c, i)
				res := pullVirtually(r.t, c.v, PullRequest{Group: "g", Topic: "t", QueueID: int32(i), Offset: q.next, CommitOffset: q.commit})
				for _, m := range decodeAll(r.t, bytesOf(res), res.Ends) {
					r.received(t, q, i, &m)
				}
				res.Buffer.Release()
				q.next = res.NextOffset
			}
		}
		if idle++; len(r.settled) > before {
			idle = 0
		}
	}
	for n := range r.sent {
		if body := fmt.Sprint(n); r.consumed[body] == 0 || !r.settled[body] {
			t.Fatalf("message %s was consumed %d times, settled: %t", body, r.consumed[body], r.settled[body])
		}
	}
}

// Random joins, leaves, losses and commits: each message is consumed, none is with two consumers at once, none comes after its commit,
// and what is left to consume counts exactly.
func TestVirtualQueuesModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := clock.NewFake(epoch)
		tb := openBroker(t, withClock(c))
		tb.topicOf(t, "t", virtualModelQueues)
		tb.virtualGroup(t, "g", true)
		r := &virtualRun{tb: tb, t: t, clock: c, clients: map[int]*virtualClient{}, consumed: map[string]int{}, settled: map[string]bool{}}
		r.join(rt)
		r.join(rt)
		rt.Repeat(map[string]func(*rapid.T){
			"send": r.send, "pull": r.pull, "pull more": r.pull, "consume": r.consume, "commit": r.commit, "rebalance": r.rebalance,
			"join": r.join, "leave": r.leave, "time": r.pass, "": r.check,
		})
		r.drain(rt)
		for _, c := range r.clients {
			c.v.Close()
		}
		r.clients = nil
		r.check(rt)
		tb.close(t)
	})
}

func bytesOf(res *PullResult) []byte {
	if res.Buffer == nil {
		return nil
	}
	return res.Buffer.B
}
