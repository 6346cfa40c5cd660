package broker

import (
	"errors"
	"math"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/pop"
	"github.com/cairnmq/cairn/store"
)

// Looks for groups that are served in order: package pop says how (order.go). What a look chooses from an older view the fold
// parks, so nothing here needs to be exact but for speed.

// InOrder says whether a group gets the messages of a topic in order: when it is an ordered group, or the topic is for messages that
// have an order. Users of the reference have to mark both, and lose the order in silence when they forget the group.
func InOrder(g *catalog.Group, t *catalog.Topic) bool {
	return g.ConsumeMessageOrderly || t.MessageType() == "FIFO"
}

// inOrder says whether this pop is served in order.
func (r *popping) inOrder() bool { return r.req.QueueOrder || InOrder(r.g, r.t) }

// lineOf is the line of a message that is new to the group.
func (r *PopRequest) lineOf(queue int32, layout []byte) pop.Line {
	var group []byte
	if !r.QueueOrder {
		group, _ = message.Property(message.PropertiesOf(layout), message.PropShardingKey)
	}
	return pop.Line{Queue: queue, ID: pop.LineOf(group)}
}

const (
	// maxWaiting is how many messages one look parks, at most.
	maxWaiting = 512
	// spare is how many more than it has room for a look lists, since some may be dead or damaged.
	spare = 4
)

// takeOrdered takes what was handed out before: what is in no line, from a time when the group was not served in order, then what is
// next in its line; and then what waits in lines of which nothing is in flight.
func (t *take) takeOrdered() {
	if t.lines == nil {
		t.lines = map[pop.Line]bool{}
	}
	s := t.p.store.Pop
	if !s.MayHaveTurn(t.group, t.topic, t.now) || !t.lease() {
		return
	}
	most := t.room() + spare
	expired, err := s.Unlined(t.group, t.topic, t.req.Queue, t.now, most, t.expired[:0])
	rest := len(expired)
	if err == nil {
		expired, err = s.Turns(t.group, t.topic, t.req.Queue, t.now, most-rest, expired)
	}
	if t.expired = expired; err != nil {
		t.fail(err)
		return
	}
	t.more = len(expired) == most
	t.budget = math.MaxInt // they are few, and matched before
	t.readExpired(t.expired[:rest])
	t.takeTurns(t.expired[rest:])
	t.takeReady()
	t.passed = t.passed || len(t.rec.Dropped) > 0 // which may have held up others
}

// takeTurns takes expired checkpoints of lines. What is behind a dead letter waits until that is one.
func (t *take) takeTurns(expired []pop.Expired) {
	for len(expired) > 0 {
		if t.room() <= 0 {
			t.more = true
			return
		}
		n := 1 + behind(expired)
		alive := 0
		for alive < n && expired[alive].Attempts < t.limit {
			alive++
		}
		t.readExpired(expired[:max(alive, 1)])
		expired = expired[n:]
	}
}

// behind is how many expired checkpoints follow the first one that are of the same line.
func behind(expired []pop.Expired) (n int) {
	first := &expired[0]
	for i := range expired[1:] {
		if e := &expired[1+i]; e.Line == 0 || e.Line != first.Line || e.Queue != first.Queue {
			break
		}
		n++
	}
	return n
}

// takeReady takes what waits in lines of which nothing is in flight.
func (t *take) takeReady() {
	var err error
	most := t.room() + spare
	t.heads, err = t.p.store.Pop.Ready(t.group, t.topic, t.req.Queue, most, t.heads[:0])
	if err != nil {
		t.fail(err)
		return
	}
	t.more = t.more || len(t.heads) == most
	t.budget = math.MaxInt
	for heads := t.heads; len(heads) > 0; {
		if t.room() <= 0 {
			t.more = true
			return
		}
		n := 1
		for n < len(heads) && heads[n].Line == heads[0].Line {
			n++
		}
		t.readHeads(heads[:n])
		heads = heads[n:]
	}
}

// readHeads reads messages that wait in one line. One that cannot be read holds up those behind it.
func (t *take) readHeads(heads []pop.Head) {
	t.picked = t.picked[:0]
	for i := range heads {
		h := &heads[i]
		t.picked = append(t.picked, store.Entry{Offset: h.Offset, Position: h.Position, Size: h.Size})
	}
	looked := t.read(t.picked, func(i int, layout []byte) verdict {
		if !t.wants(layout) {
			t.rec.Discarded = append(t.rec.Discarded, heads[i])
			t.rec.Ordered, t.passed = true, true
			return passOver
		}
		t.rec.Unparked = append(t.rec.Unparked, heads[i])
		t.rec.Ordered = true
		t.attempts = append(t.attempts, 1)
		return handOut
	})
	t.more = t.more || looked < len(heads) && t.room() <= 0
}

// line decides what becomes of a new message of an ordered group. Where one without a message group is held up, so is its queue: such
// messages are in order with each other only, but parking them one by one would gain nobody anything in the usual queue, in which
// none has a message group.
func (t *take) line(queue int32, layout []byte, e *pop.Entry) verdict {
	t.budget -= len(layout)
	l := t.req.lineOf(queue, layout)
	free, err := t.free(l)
	if err != nil {
		t.fail(err)
		return halt
	}
	e.Line = l.ID
	switch {
	case free:
		return handOut
	case l.OfQueue():
		t.barred = true
		return halt
	case len(t.rec.Parked) >= maxWaiting:
		return halt
	}
	t.rec.Parked = append(t.rec.Parked, *e)
	return passOver
}

// free says whether what comes to a line may be handed out, as far as this look knows.
func (t *take) free(l pop.Line) (bool, error) {
	if free, known := t.lines[l]; known {
		return free, nil
	}
	held, err := t.p.store.Pop.HasLine(t.group, t.topic, l)
	if err != nil {
		return false, err
	}
	t.lines[l] = !held
	return !held, nil
}

// freed says whether the record that was applied may have left something to go that this look did not find so.
func (t *take) freed(mask pop.Mask) bool {
	if len(t.rec.Dropped) > 0 { // it may have held up a line, or a queue
		return true
	}
	return (len(t.rec.Parked) > 0 || mask.Count() < t.rec.Items()) && t.p.store.Pop.MayHaveReady(t.group, t.topic)
}

// acked wakes one that waits when what was acknowledged has held up others: in their lines, or in the queues of these handles. refs
// are needed for groups that are served in order only. Of others one may wait that asks for the order of queues.
func (p *popper) acked(key groupOfTopic, ordered bool, refs []pop.Ref) {
	anyone, byQueue := p.waiters.waiting(key.group, key.topic)
	if !anyone || !ordered && !byQueue {
		return
	}
	wake := byQueue || p.store.Pop.MayHaveTurn(key.group, key.topic, p.clock.Now().UnixMilli())
	for i := 0; i < len(refs) && !wake; i++ {
		s, err := p.stand(place{key.group, key.topic, refs[i].Queue})
		wake = err == nil && max(s.next, s.low) < s.high
	}
	if wake {
		p.waiters.ready(key.group, key.topic, 1)
	}
}

// ---- asking without taking ----

// barred says whether a queue is held up by its next message, from an offset on: a pop would find nothing new there.
func (r *popping) barred(queue int32, offset int64) (bool, error) {
	l := pop.Line{Queue: queue, ID: pop.LineOf(nil)}
	if !r.inOrder() {
		return false, nil
	}
	if held, err := r.p.store.Pop.HasLine(r.g.ID, r.t.ID, l); err != nil || !held {
		return false, err
	}
	from := r.b.reader(r.cold)
	entries, err := from.Entries(r.t.ID, queue, offset, 1, nil)
	if err != nil || len(entries) == 0 {
		return false, err
	}
	buf := store.NewBuffer()
	defer buf.Release()
	ends, err := from.ReadMessages(entries, maxPopBytes, buf)
	if errors.Is(err, commitlog.ErrGone) {
		return false, nil // a pop passes over it
	}
	if err != nil {
		return false, err
	}
	return r.req.lineOf(queue, buf.B[:ends[0]]) == l, nil
}
