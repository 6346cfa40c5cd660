package broker

import (
	"errors"
	"math"
	"math/rand/v2"
	"sync"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/filter"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/pop"
	"github.com/cairnmq/cairn/store"
)

const (
	// popScan is how many queue entries one look looks at, in each queue, to find what matches its filter.
	popScan = 16384
	// maxSteps is how often one look goes on behind expired checkpoints of other queues.
	maxSteps = 16
	// maxExpired is how many expired checkpoints one look looks at.
	maxExpired = 128
)

// take is one look of a pop: it chooses messages and reads them, writes one record that says what it chose, and answers when
// that is applied.
//
//	what is expired ─┐
//	what waits       │
//	queue, queue, …  ┴─▶ chosen, read ─▶ one Pop record ─▶ applied ─▶ what the fold refused is taken out ─▶ answer
//
// The messages in buf, ends and attempts align with the items of the record: first what is handed out again, then what
// has waited in its line (pop_order.go), then what is new.
type take struct {
	p        *popper
	from     store.Reader
	req      *PopRequest
	filter   *filter.Expr
	group    kvindex.ID
	topic    kvindex.ID
	now      int64 // ms
	rec      pop.Pop
	buf      *store.Buffer
	ends     []int
	attempts []int32
	expiry   bool // holds the lease on what is expired
	newcomer bool // the group has no cursor in one of the queues
	passed   bool // entries were passed over
	unseen   bool // something expired may be there that it has not got to
	more     bool // something may be left
	budget   int  // what may still be read and compared, as maxSift says
	failed   error
	limit    int32 // deliveries after which a message is dead
	dead     deadFound
	ordered  bool              // the group is served in order
	barred   bool              // the queue under way is held up by a message that has no message group
	lines    map[pop.Line]bool // of those that this look has met: whether what comes to it may be handed out

	entries  []store.Entry
	picked   []store.Entry
	expired  []pop.Expired
	heads    []pop.Head
	payload  []byte
	records  []record.Record
	proposal commitlog.Proposal
	applied  chan struct{}
}

var takes = sync.Pool{New: func() any {
	t := &take{applied: make(chan struct{}, 1)}
	t.proposal.Done = func(*commitlog.Proposal) { t.done() }
	return t
}}

// take looks once. again says that nothing was found and that it is worth looking again at once. With a result, err says what
// could not be handed out.
func (p *popper) take(r *popping) (res *PopResult, again bool, err error) {
	t := takes.Get().(*take)
	defer t.put()
	t.p, t.from, t.req, t.filter, t.group, t.topic = p, r.b.reader(r.cold), r.req, r.req.Filter, r.g.ID, r.t.ID
	t.now = p.clock.Now().UnixMilli()
	r.looked = t.now
	t.rec.Reset()
	t.rec.Group, t.rec.Topic, t.rec.PoppedAt = t.group, t.topic, t.now
	t.rec.VisibleAt = t.now + invisibleMs(r.req.Invisible)
	t.limit = attemptsFor(r.g, r.t)
	t.ordered = r.inOrder()
	t.rec.Ordered = t.ordered
	t.choose(r)
	if errors.Is(t.failed, store.ErrCold) {
		t.abandon()
		return nil, false, t.failed
	}
	if t.rec.Empty() && len(t.dead.letters) == 0 {
		if t.expiry {
			t.leave(place{t.group, t.topic, everything})
		}
		return nil, t.unseen && t.failed == nil, t.failed
	}
	if err := t.write(); err != nil {
		return nil, false, err
	}
	buried := t.buried(r)
	t.wakeNext(t.ordered && buried > 0) // what was behind them may go now
	mask := pop.MaskOf(t.proposal.Outcomes[0])
	if mask.Count() < t.rec.Items() {
		t.keep(mask)
	}
	if len(t.ends) == 0 {
		if t.failed != nil {
			return nil, false, t.failed
		}
		return nil, t.rec.Items() > 0 || t.passed || buried > 0, nil
	}
	if err := r.ended(); err != nil {
		t.giveBack(mask)
		return nil, false, err
	}
	t.remember(mask)
	return t.result(mask), false, t.failed
}

// choose takes what was handed out before, then what has waited, then what is new. A group that is not served in order any more may
// have left something waiting; that comes alone, since only the record of an ordered pop can say it.
func (t *take) choose(r *popping) {
	if t.ordered {
		t.takeOrdered()
	} else if t.p.store.Pop.MayHaveReady(t.group, t.topic) && t.lease() {
		if t.takeReady(); len(t.rec.Unparked)+len(t.rec.Discarded) > 0 {
			t.more = true
			return
		}
	}
	if !t.ordered {
		t.takeExpired()
	}
	t.bury(r)
	t.takeQueues(r.t.ReadQueues)
}

// put gives the take back for another look.
func (t *take) put() {
	t.buf.Release()
	rec, ends, attempts := t.rec, t.ends[:0], t.attempts[:0]
	rec.Reset()
	clear(t.records)
	clear(t.lines)
	*t = take{
		rec: rec, ends: ends, attempts: attempts, entries: t.entries[:0], picked: t.picked[:0], expired: t.expired[:0],
		heads: t.heads[:0], lines: t.lines, payload: t.payload[:0], records: t.records[:0], dead: deadFound{deaths: t.dead.deaths[:0]}, applied: t.applied,
		proposal: commitlog.Proposal{Done: t.proposal.Done},
	}
	takes.Put(t)
}

// room is how many messages may still be taken.
func (t *take) room() int {
	if len(t.ends) > 0 && len(t.buf.B) >= maxPopBytes {
		return 0
	}
	return t.req.Max - len(t.ends)
}

// ---- choosing ----

// takeExpired takes what is visible again, earliest first.
func (t *take) takeExpired() {
	s := t.p.store.Pop
	if !s.MayHaveExpired(t.group, t.topic, t.req.Queue, t.now) {
		return
	}
	// For one queue each step passes over some of what is expired in others.
	for step := 1; t.expiredOf(1) == 0; step++ {
		t.unseen = t.req.Queue >= 0 && s.MayHaveExpired(t.group, t.topic, t.req.Queue, t.now)
		if !t.unseen || step == maxSteps || t.failed != nil {
			return
		}
	}
	t.unseen = false
	t.budget = math.MaxInt // they are few, and matched before
	if !t.lease() {
		return
	}
	// What this look has dealt with is still there, in front of the rest.
	for seen := 0; t.room() > 0 && seen < maxExpired; {
		if t.expiredOf(seen+t.room()) <= seen {
			t.more = t.more || t.req.Queue >= 0 // it may have stopped before the end
			return
		}
		seen += t.readExpired(t.expired[seen:])
	}
	t.more = true
}

// lease makes this look the one that chooses from what is expired and what waits, until its record is applied.
func (t *take) lease() bool {
	if !t.expiry {
		_, t.expiry = t.p.leases.acquire(place{t.group, t.topic, everything}, noEnd)
	}
	return t.expiry
}

// expiredOf lists up to most expired checkpoints that the request may have.
func (t *take) expiredOf(most int) (n int) {
	var err error
	t.expired, err = t.p.store.Pop.Expired(t.group, t.topic, t.req.Queue, t.now, most, t.expired[:0])
	if err != nil {
		t.fail(err)
		return 0
	}
	return len(t.expired)
}

// readExpired reads the messages of expired checkpoints, those of one queue that follow each other together. It answers how
// many it has dealt with: all, unless the limit of bytes is reached.
func (t *take) readExpired(expired []pop.Expired) (dealt int) {
	for dealt < len(expired) && t.room() > 0 {
		rest := expired[dealt:]
		if rest[0].Attempts >= t.limit {
			t.dead.deaths = append(t.dead.deaths, rest[0])
			dealt++
			continue
		}
		n := 1
		for n < len(rest) && rest[n].Queue == rest[0].Queue && rest[n].Offset > rest[n-1].Offset && rest[n].Attempts < t.limit {
			n++
		}
		t.picked = t.picked[:0]
		for i := range rest[:n] {
			e := &rest[i]
			t.picked = append(t.picked, store.Entry{Offset: e.Offset, Position: e.Position, Size: e.Size})
		}
		looked := t.read(t.picked, func(i int, layout []byte) verdict {
			e := &rest[i]
			if !t.wants(layout) {
				t.rec.Dropped = append(t.rec.Dropped, e.Ref)
				return passOver
			}
			t.rec.Again = append(t.rec.Again, e.Ref)
			t.attempts = append(t.attempts, e.Attempts+1)
			return handOut
		})
		if dealt += looked; looked < n && t.room() > 0 {
			// It cannot be read: it stays where it is, and does not hold up the others, apart from those behind it in its line.
			dealt += 1 + behind(rest[looked:])
		}
	}
	return dealt
}

// takeQueues takes what is new, from one queue after the other, beginning with another one each time. A group that is new on
// the topic gets its place in all queues at once: what comes to a queue from now on is for it.
func (t *take) takeQueues(queues int32) {
	t.budget = maxSift
	first, n := t.req.Queue, min(queues, 1) // a topic may have no queue to read
	if first < 0 && queues > 0 {
		first, n = int32(t.p.turn.Add(1)%uint32(queues)), queues
	}
	for i := range n {
		if t.room() <= 0 && !t.newcomer {
			t.more = true
			return
		}
		if err := t.takeQueue((first + i) % queues); err != nil {
			t.fail(err)
		}
	}
}

// stand is where a group is in a queue, and how far there is to go.
type stand struct {
	next, low, high int64
	there           bool // it has a cursor
}

func (p *popper) stand(at place) (s stand, err error) {
	c, there, err := p.store.Pop.Cursor(at.group, at.topic, at.queue)
	if err != nil {
		return stand{}, err
	}
	s = stand{next: c.Next, there: there}
	s.low, s.high, err = p.store.Bounds(at.topic, at.queue)
	if !there {
		s.next = beginning(s.low, s.high)
	}
	return s, err
}

// beginning is where a group begins in a queue where it has never been: a queue that has lost nothing yet is young, and the
// group is meant to see all of it.
func beginning(low, high int64) int64 {
	if low == 0 {
		return 0
	}
	return high
}

// stand is where the request's group is in a queue, or begins there.
func (t *take) stand(at place) (stand, error) {
	s, err := t.p.stand(at)
	if !s.there && t.req.FromMin {
		s.next = s.low
	}
	return s, err
}

// takeQueue takes what is new in a queue. It gives way to whoever else is choosing there.
func (t *take) takeQueue(queue int32) error {
	at := place{t.group, t.topic, queue}
	s, err := t.stand(at)
	if err != nil || s.there && max(s.next, s.low) >= s.high {
		return err
	}
	next, mine := t.p.leases.acquire(at, s.high)
	if !mine {
		return nil
	}
	// Now nobody else moves the cursor but commits and resets, and the fold sees to those.
	if s, err = t.stand(at); err != nil {
		t.leave(at)
		return err
	}
	if next != unknown {
		s.next, s.there = next, true
	}
	t.newcomer = t.newcomer || !s.there
	r := pop.Range{Queue: queue, Start: s.next}
	before, parked := len(t.rec.Entries), len(t.rec.Parked)
	t.barred = false
	r.End, err = t.scan(queue, s)
	r.Count, r.Parked = len(t.rec.Entries)-before, len(t.rec.Parked)-parked
	t.more = t.more || r.End < s.high && err == nil && !t.barred
	if r.End == r.Start && s.there {
		t.leave(at)
		return err
	}
	t.passed = t.passed || r.End > r.Start
	t.rec.Ranges = append(t.rec.Ranges, r)
	return err
}

// scan takes the entries of a queue that match, and answers where it stopped.
func (t *take) scan(queue int32, s stand) (end int64, err error) {
	from := max(s.next, s.low)
	if from >= s.high {
		return s.next, nil
	}
	end = s.next
	window := t.room()
	if t.ordered { // the first may be all that there is to see
		if free, err := t.free(pop.Line{Queue: queue, ID: pop.LineOf(nil)}); err != nil {
			return end, err
		} else if !free {
			window = 1
		}
	}
	for scanned := 0; scanned < popScan && from < s.high && t.room() > 0 && t.budget > 0; scanned += len(t.entries) {
		chunk, most := scanChunk, t.room()
		switch {
		case t.filter.All() && !t.ordered:
			chunk = most
		case t.ordered || t.filter.NeedsProperties(): // all are read, more at once while few match
			chunk, most = window, window
			window = min(2*window, scanChunk)
		}
		t.entries, err = t.from.Entries(t.topic, queue, from, chunk, t.entries[:0])
		if err != nil {
			return end, err
		}
		if len(t.entries) == 0 { // trimmed since the bounds were read
			return s.high, nil
		}
		t.picked = t.picked[:0]
		for i := range t.entries {
			e := &t.entries[i]
			if t.filter.MatchHash(e.TagHash) {
				if len(t.picked) == most {
					break
				}
				t.picked = append(t.picked, *e)
			}
			from = e.Offset + 1
		}
		looked := t.read(t.picked, func(i int, layout []byte) verdict { return t.place(queue, &t.picked[i], layout) })
		if looked < len(t.picked) {
			return t.picked[looked].Offset, nil
		}
		end = from
	}
	return end, nil
}

// place decides what becomes of a message that is new.
func (t *take) place(queue int32, e *store.Entry, layout []byte) verdict {
	if !t.wants(layout) {
		return passOver
	}
	entry := pop.Entry{Offset: e.Offset, Position: e.Position, Size: e.Size}
	if t.ordered {
		if v := t.line(queue, layout, &entry); v != handOut {
			return v
		}
	}
	t.rec.Entries = append(t.rec.Entries, entry)
	t.attempts = append(t.attempts, 1)
	return handOut
}

// verdict is what becomes of a message that was read.
type verdict int

const (
	passOver verdict = iota
	handOut
	halt // the look goes no further, and has not looked at this one
)

// read reads the messages of entries of one queue, and asks of each what becomes of it, with its layout, nil when it is gone; those
// that are handed out lie in buf then. It stops at the limit of bytes, when there are enough, when the budget is spent, or at a
// message that cannot be read, and answers how many it got through.
func (t *take) read(entries []store.Entry, judge func(i int, layout []byte) verdict) (looked int) {
	if t.buf == nil {
		t.buf = store.NewBuffer()
	}
	for looked < len(entries) && t.room() > 0 && t.budget > 0 {
		begin := len(t.buf.B)
		ends, err := t.from.ReadMessages(entries[looked:], maxPopBytes-begin, t.buf)
		if errors.Is(err, commitlog.ErrGone) {
			judge(looked, nil)
			looked++
			continue
		}
		if err != nil {
			t.fail(err)
			return looked
		}
		kept, halted := begin, false
		for _, end := range ends {
			if len(t.ends) == t.req.Max || t.budget <= 0 {
				break
			}
			layout := t.buf.B[begin:end]
			v := judge(looked, layout)
			if halted = v == halt; halted {
				break
			}
			if v == handOut {
				kept += copy(t.buf.B[kept:], layout)
				t.ends = append(t.ends, kept)
			}
			looked++
			begin = end
		}
		t.buf.B = t.buf.B[:kept]
		if halted {
			return looked
		}
	}
	return looked
}

// wants decides by the message itself: the index has only the hash of its tag. What is gone nobody wants.
func (t *take) wants(layout []byte) bool {
	if layout == nil {
		return false
	}
	if t.filter.All() {
		return true
	}
	props := message.PropertiesOf(layout)
	if t.filter.NeedsProperties() {
		t.budget -= len(layout) + t.filter.Work(len(props))
	}
	return t.filter.Match(props)
}

// fail notes why one part of the look got nothing. The others go on: a damaged message holds up its queue only. What is in the tier
// goes before, for it can be had.
func (t *take) fail(err error) {
	if t.failed == nil || errors.Is(err, store.ErrCold) {
		t.failed = err
	}
}

// ---- writing ----

// write proposes the record and waits until it is applied. That is not cut short: the leases and the buffer are in use until
// then, and the log answers every proposal.
func (t *take) write() error {
	t.rec.Nonce = rand.Uint64()
	if t.req.ShortNonce {
		t.rec.Nonce >>= 33
	}
	t.payload = t.rec.AppendTo(t.payload[:0])
	t.records = append(append(t.records[:0], record.Record{Kind: record.KindPop, Payload: t.payload}), t.dead.letters...)
	t.proposal.Records = t.records
	t.eachQueue(func(at place, r *pop.Range, _ int) bool {
		t.p.leases.proposing(at, r.End)
		return false
	})
	more := t.more
	if err := t.p.store.Propose(&t.proposal); err != nil {
		more = false
		t.proposal.Err = err
		t.done()
	}
	// From here on others may choose what comes after.
	t.wakeNext(t.eachQueue(func(at place, _ *pop.Range, _ int) bool { return t.p.leases.chosen(at) }) || more)
	<-t.applied
	return t.proposal.Err
}

// eachQueue calls f for every queue of the record, with the first item of its range, and says whether one of the calls did.
func (t *take) eachQueue(f func(at place, r *pop.Range, item int) bool) (any bool) {
	item := len(t.rec.Again) + len(t.rec.Unparked)
	for i := range t.rec.Ranges {
		r := &t.rec.Ranges[i]
		any = f(place{t.group, t.topic, r.Queue}, r, item) || any
		item += r.Count
	}
	return any
}

// done is called when the record is applied, from the folder goroutine, or has failed.
func (t *take) done() {
	mask := pop.Mask(0)
	if t.proposal.Err == nil {
		mask = pop.MaskOf(t.proposal.Outcomes[0])
	}
	if mask != 0 {
		t.p.alarms.note(groupOfTopic{t.group, t.topic}, t.rec.VisibleAt)
	}
	wake := t.eachQueue(func(at place, r *pop.Range, item int) bool {
		// Of a range without a message the outcome does not tell.
		return t.p.leases.applied(at, mask>>item&(1<<r.Count-1) != 0)
	})
	if t.expiry {
		wake = t.p.leases.chosen(place{t.group, t.topic, everything}) || wake
	}
	t.wakeNext(wake || t.ordered && t.freed(mask))
	t.applied <- struct{}{}
}

// abandon gives up what was chosen before anything of it was written. Where part of it is in the tier all of it is left to a look
// that reads there: a queue that others always come before would never be served.
func (t *take) abandon() {
	t.eachQueue(func(at place, _ *pop.Range, _ int) bool {
		t.leave(at)
		return false
	})
	if t.expiry {
		t.leave(place{t.group, t.topic, everything})
	}
}

// leave ends the choice in a queue that is not in the record.
func (t *take) leave(at place) { t.wakeNext(t.p.leases.chosen(at)) }

// wakeNext wakes one that waits, when something may be left or it found this one choosing.
func (t *take) wakeNext(wake bool) {
	if wake {
		t.p.waiters.ready(t.group, t.topic, 1)
	}
}

// ---- answering ----

// keep takes out of the buffer what the fold refused to hand out.
func (t *take) keep(mask pop.Mask) {
	kept, begin, n := 0, 0, 0
	for i, end := range t.ends {
		if mask.Has(i) {
			kept += copy(t.buf.B[kept:], t.buf.B[begin:end])
			t.ends[n], t.attempts[n] = kept, t.attempts[i]
			n++
		}
		begin = end
	}
	t.ends, t.attempts = t.ends[:n], t.attempts[:n]
	if t.buf != nil {
		t.buf.B = t.buf.B[:kept]
	}
}

// eachHandedOut calls f with the new place of each message that was handed out.
func (t *take) eachHandedOut(mask pop.Mask, f func(pop.Ref)) {
	ref := pop.Ref{VisibleAt: t.rec.VisibleAt, Nonce: t.rec.Nonce}
	item := 0
	for i := range t.rec.Again {
		if mask.Has(item) {
			ref.Queue, ref.Offset = t.rec.Again[i].Queue, t.rec.Again[i].Offset
			f(ref)
		}
		item++
	}
	for i := range t.rec.Unparked {
		if mask.Has(item) {
			ref.Queue, ref.Offset = t.rec.Unparked[i].Queue, t.rec.Unparked[i].Offset
			f(ref)
		}
		item++
	}
	entries := t.rec.Entries
	for i := range t.rec.Ranges {
		r := &t.rec.Ranges[i]
		for j := range entries[:r.Count] {
			if mask.Has(item) {
				ref.Queue, ref.Offset = r.Queue, entries[j].Offset
				f(ref)
			}
			item++
		}
		entries = entries[r.Count:]
	}
}

// result makes the answer; the buffer is the receiver's from here on.
func (t *take) result(mask pop.Mask) *PopResult {
	n := len(t.ends)
	res := &PopResult{
		Buffer: t.buf, Ends: append(make([]int, 0, n), t.ends...), Attempts: append(make([]int32, 0, n), t.attempts...),
		Handles: make([]pop.Handle, 0, n), PoppedAt: t.rec.PoppedAt, Invisible: t.rec.VisibleAt - t.rec.PoppedAt,
	}
	t.buf = nil
	h := pop.Handle{Group: t.group, Topic: t.topic, PoppedAt: t.rec.PoppedAt, VisibleAt: t.rec.VisibleAt, Nonce: t.rec.Nonce}
	t.eachHandedOut(mask, func(ref pop.Ref) {
		h.Queue, h.Offset, h.Attempts = ref.Queue, ref.Offset, t.attempts[len(res.Handles)]
		res.Handles = append(res.Handles, h)
	})
	return res
}

// giveBack makes visible at once what nobody receives. It does not wait, and what it cannot do is done by the invisible time.
func (t *take) giveBack(mask pop.Mask) {
	e := &pop.Extend{Group: t.group, Topic: t.topic}
	t.eachHandedOut(mask, func(ref pop.Ref) { e.Moves = append(e.Moves, pop.Move{Ref: ref, To: t.now, Free: true}) })
	p, group, topic := t.p, t.group, t.topic
	_ = p.store.Propose(&commitlog.Proposal{
		Records: []record.Record{pop.ExtendRecord(e)},
		Done: func(c *commitlog.Proposal) {
			if c.Err == nil {
				p.alarms.note(groupOfTopic{group, topic}, e.Moves[0].To)
			}
		},
	})
}
