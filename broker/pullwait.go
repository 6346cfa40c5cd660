package broker

import (
	"sync"

	"github.com/cairnmq/cairn/kvindex"
)

// hold is one wait of a pull. An arrival, its deadline, a reset, cancel and Close all want to end it: the one that claims it
// does, and goes on with the pull.
type hold struct {
	p      *pull
	at     place
	waiter waiter
	res    *PullResult // what cancel answers

	mu struct {
		sync.Mutex
		claimed bool
		forget  func() bool // its deadline
	}
}

// pulls are the pulls that wait.
type pulls struct {
	mu struct {
		sync.Mutex
		holds  map[*hold]struct{}
		closed bool
	}
}

func newPulls() *pulls {
	ps := &pulls{}
	ps.mu.holds = map[*hold]struct{}{}
	return ps
}

// wait makes the pull wait for an arrival in its queue. again means that there may be something already; otherwise the pull
// is answered, or somebody else will go on with it.
func (p *pull) wait(at place, res *PullResult) (again bool) {
	h := &hold{p: p, at: at, res: res}
	h.waiter = waiter{topic: at.topic, group: at.group, queue: at.queue, pull: true, filter: p.req.Filter, wake: h.goOn}
	if p.cancelledOr(h) {
		if h.claim() { // it may be cancelled once more
			p.done(res, nil)
		}
		return false
	}
	again = p.begin(h)
	h.mu.Lock()
	claimed := h.mu.claimed
	h.mu.Unlock()
	if claimed { // perhaps before all of it was in
		h.takeOut()
	}
	return again
}

// begin puts the hold where those who end waits find it. The order against lost wake-ups: be found, then look once more, then
// leave.
func (p *pull) begin(h *hold) (again bool) {
	b := p.b
	if !b.pulls.add(h) {
		if h.claim() {
			p.done(nil, errClosing)
		}
		return false
	}
	if err := b.waiters.add(&h.waiter); err != nil {
		if h.claim() {
			p.done(nil, err)
		}
		return false
	}
	_, high, err := b.store.Bounds(h.at.topic, h.at.queue)
	if err != nil || high > p.req.Offset || b.offsets.hasReset(h.at) {
		return h.claim()
	}
	h.mu.Lock()
	if !h.mu.claimed {
		h.mu.forget = b.due.at(p.deadline, h.goOn)
	}
	h.mu.Unlock()
	return false
}

// cancelledOr says that the pull was cancelled, or else that h is what cancel has to end.
func (p *pull) cancelledOr(h *hold) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.hold = h
	return p.mu.cancelled
}

// claim makes the caller the one who goes on with the pull (true), and takes the hold out of everything that could end it.
func (h *hold) claim() bool {
	h.mu.Lock()
	if h.mu.claimed {
		h.mu.Unlock()
		return false
	}
	h.mu.claimed = true
	forget := h.mu.forget
	h.mu.Unlock()
	if forget != nil {
		forget()
	}
	h.takeOut()
	return true
}

func (h *hold) takeOut() {
	h.p.b.waiters.remove(&h.waiter)
	h.p.b.pulls.remove(h)
}

// goOn is called when something arrived, when the deadline has come and when the group was reset.
func (h *hold) goOn() {
	if h.claim() {
		h.p.b.workers.run(h.p.run)
	}
}

// cancel ends the wait; a pull that does not wait ends by itself.
func (p *pull) cancel() {
	p.mu.Lock()
	p.mu.cancelled = true
	h := p.mu.hold
	p.mu.Unlock()
	if h != nil && h.claim() {
		p.done(h.res, nil)
	}
}

func (ps *pulls) add(h *hold) bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.mu.closed {
		return false
	}
	ps.mu.holds[h] = struct{}{}
	return true
}

func (ps *pulls) remove(h *hold) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	delete(ps.mu.holds, h)
}

// wake lets the pulls of a group on a topic look again.
func (ps *pulls) wake(group, topic kvindex.ID) {
	for _, h := range ps.list() {
		if h.at.group == group && h.at.topic == topic {
			h.goOn()
		}
	}
}

// wakeGroup lets the pulls of a group look again.
func (ps *pulls) wakeGroup(group kvindex.ID) {
	for _, h := range ps.list() {
		if h.at.group == group {
			h.goOn()
		}
	}
}

// close ends all waits with CodeClosing; none begins any more.
func (ps *pulls) close() {
	ps.mu.Lock()
	ps.mu.closed = true
	ps.mu.Unlock()
	for _, h := range ps.list() {
		if h.claim() {
			h.p.done(nil, errClosing)
		}
	}
}

func (ps *pulls) list() []*hold {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	out := make([]*hold, 0, len(ps.mu.holds))
	for h := range ps.mu.holds {
		out = append(out, h)
	}
	return out
}

// count is how many wait.
func (ps *pulls) count() int {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return len(ps.mu.holds)
}
