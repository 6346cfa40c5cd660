package broker

import (
	"context"
	"time"

	"github.com/cairnmq/cairn/filter"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/pop"
	"github.com/cairnmq/cairn/store"
)

// NotifyRequest asks whether a pop of the group would find something.
type NotifyRequest struct {
	Group, Topic string
	Queue        int32         // −1: all readable queues of the topic
	Wait         time.Duration // long poll; 0 answers at once
	Filter       *filter.Expr
	QueueOrder   bool // as of a PopRequest
}

// NotifyAsync answers whether there is something for the group, and waits up to req.Wait for it. Nothing is taken: who asks
// pops then, and may come too late. It may say yes where only messages are that the filter will pass over, or that have to wait
// behind others of their message group: what an SQL92 expression makes of them is for the pop to find out, and so is a tag that is
// not among the next popScan messages of a queue.
//
// done is called exactly once, from a goroutine of its own or before NotifyAsync returns; cancel ends the wait. Refusals: those
// of Pop.
func (b *Broker) NotifyAsync(req *NotifyRequest, done func(something bool, err error)) (cancel func()) {
	// The least that a pop can ask for, so that one check serves both.
	return b.startPoll(context.Background(), &longPoll{tell: done}, &PopRequest{
		Group: req.Group, Topic: req.Topic, Queue: req.Queue, Max: 1, Invisible: time.Millisecond, Wait: req.Wait, Filter: req.Filter,
		QueueOrder: req.QueueOrder,
	})
}

// something is a look that takes nothing. Whoever it answers was not in the way of the others: the next one that waits is woken
// as after every look that leaves something.
func (r *popping) something() (bool, error) {
	if err := r.check(); err != nil {
		return false, err
	}
	r.looked = r.p.clock.Now().UnixMilli()
	again, heads, err := r.seen(r.looked, 1)
	unseen := !r.inOrder() && r.req.Queue >= 0 && r.p.store.Pop.MayHaveExpired(r.g.ID, r.t.ID, r.req.Queue, r.looked)
	if err != nil || unseen || len(again)+len(heads) > 0 {
		return err == nil, verbError(err, "look for messages of "+r.t.Name)
	}
	first, end := queuesOf(r.req.Queue, r.t.ReadQueues)
	var entries []store.Entry
	for q := first; q < end; q++ {
		s, err := r.p.stand(place{r.g.ID, r.t.ID, q})
		found := false
		if err == nil {
			found, entries, err = mayMatch(r.b.reader(r.cold), r.t.ID, q, s, r.req.Filter, entries)
		}
		if found && err == nil {
			barred := false
			barred, err = r.barred(q, max(s.next, s.low))
			found = !barred
		}
		if found || err != nil {
			return found, verbError(err, "look for messages of "+r.t.Name)
		}
	}
	return false, nil
}

// seen lists what a look at now (ms) would take of what the group has met before, up to most of each: what is visible again, and what
// has waited in a line of which nothing is in flight.
func (r *popping) seen(now int64, most int) (again []pop.Expired, heads []pop.Head, err error) {
	s, group, topic, queue := r.p.store.Pop, r.g.ID, r.t.ID, r.req.Queue
	switch {
	case !r.inOrder():
		again, err = s.Expired(group, topic, queue, now, most, nil)
	case s.MayHaveTurn(group, topic, now):
		if again, err = s.Unlined(group, topic, queue, now, most, nil); err == nil {
			again, err = s.Turns(group, topic, queue, now, most-len(again), again)
		}
	}
	if err == nil && s.MayHaveReady(group, topic) {
		heads, err = s.Ready(group, topic, queue, most, nil)
	}
	return again, heads, err
}

// queuesOf is the range of queues that a request for one (or −1 for all of them) means.
func queuesOf(queue, readable int32) (first, end int32) {
	if queue >= 0 {
		return queue, queue + 1
	}
	return 0, readable
}

// mayMatch says whether something in the queue may match, by the tags of the next popScan messages. room is scratch, and is
// given back.
func mayMatch(r store.Reader, topic kvindex.ID, queue int32, s stand, f *filter.Expr, room []store.Entry) (bool, []store.Entry, error) {
	from := max(s.next, s.low)
	if from >= s.high || f.All() || f.NeedsProperties() {
		return from < s.high, room, nil
	}
	for scanned := 0; scanned < popScan; scanned += len(room) {
		var err error
		room, err = r.Entries(topic, queue, from, scanChunk, room[:0])
		if err != nil || len(room) == 0 {
			return false, room, err
		}
		for i := range room {
			if f.MatchHash(room[i].TagHash) {
				return true, room, nil
			}
		}
		from = room[len(room)-1].Offset + 1
	}
	return from < s.high, room, nil
}

// Polling is how many pops and notifications of the group wait for exactly that queue of the topic (−1: for all of its queues).
// CodeGroupNotFound, CodeTopicNotFound, CodeParameter.
func (b *Broker) Polling(group, topic string, queue int32) (int, error) {
	if err := b.gate.enter(); err != nil {
		return 0, err
	}
	defer b.gate.leave()
	r := &popping{b: b, p: b.pop, req: &PopRequest{Group: group, Topic: topic, Queue: queue}}
	if err := r.check(); err != nil {
		return 0, err
	}
	return b.waiters.polling(r.g.ID, r.t.ID, queue), nil
}

// polling counts the waiters of a group that asked for that queue, whatever their filters.
func (ws *waiters) polling(group, topic kvindex.ID, queue int32) (n int) {
	s := ws.shard(topic)
	s.Lock()
	defer s.Unlock()
	t := s.topics[topic]
	if t == nil {
		return 0
	}
	t.eachLine(group, func(l *line) {
		if l.queue == queue {
			n += l.n
		}
	})
	return n
}
