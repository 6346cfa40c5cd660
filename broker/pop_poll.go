package broker

import (
	"context"
	"errors"
	"sync"

	"github.com/cairnmq/cairn/store"
)

// longPoll is a pop, or the question whether there is something to pop, that holds no goroutine while it waits. It is done in pieces, each on
// a goroutine of a pool, since the stack of a look is deep and that of who waits should not be:
//
//	begin ─▶ look ─┬───────────────────────────────────▶ answer
//	               └─▶ turn: add waiter, look again ─┬─▶ answer
//	                     ▲                           └─▶ held
//	                     └──────── woken, out of time, cancelled, closing
//
// While it is held it costs its own memory, which has the waiter and the deadline in it: what the garbage collector follows for each
// of a hundred thousand is time that others wait.
type longPoll struct {
	popping
	answer func(*PopResult, error) // of a pop, called exactly once; nil for the question whether there is something
	tell   func(bool, error)       // of the question
	res    *PopResult              // of the last look
	looks  bool                    // it has looked for the first time
	waited bool                    // it was held
	timer  deadline
	woken  bool // a waiter of this turn or an earlier one was woken, and nobody was woken in its place

	mu struct {
		sync.Mutex
		held bool
		rung bool // something happened while it was not held
	}
}

// longPolls are the polls under way, from their beginning to their answer.
type longPolls struct {
	mu struct {
		sync.Mutex
		all    map[*longPoll]struct{}
		closed bool
	}
}

func newLongPolls() *longPolls {
	ps := &longPolls{}
	ps.mu.all = map[*longPoll]struct{}{}
	return ps
}

func (ps *longPolls) add(p *longPoll) error {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	switch {
	case ps.mu.closed:
		return errClosing
	case len(ps.mu.all) >= maxWaiters:
		return refuse(CodeBusy, "%d pops are under way", len(ps.mu.all))
	}
	ps.mu.all[p] = struct{}{}
	return nil
}

func (ps *longPolls) remove(p *longPoll) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	delete(ps.mu.all, p)
}

// close ends those that wait. The popper is closed before, so that each finds out why.
func (ps *longPolls) close() {
	ps.mu.Lock()
	ps.mu.closed = true
	all := make([]*longPoll, 0, len(ps.mu.all))
	for p := range ps.mu.all {
		all = append(all, p)
	}
	ps.mu.Unlock()
	for _, p := range all {
		p.ring()
	}
}

// PopAsync is Pop that calls back, and waits without a goroutine: done is called exactly once, from a goroutine of a pool or
// before PopAsync returns. req must not be changed until then. cancel, which may come at any time and more than once, ends
// the wait: the answer is empty, and what was taken meanwhile is given back.
func (b *Broker) PopAsync(req *PopRequest, done func(*PopResult, error)) (cancel func()) {
	return b.startPoll(context.Background(), &longPoll{answer: done}, req)
}

// startPoll begins a poll. When ctx ends it takes nothing more, but only cancel ends its wait.
func (b *Broker) startPoll(ctx context.Context, p *longPoll, req *PopRequest) (cancel func()) {
	err := p.init(ctx, b, req)
	if err == nil {
		err = b.gate.enter()
	}
	if err != nil {
		p.done(false, err)
		return func() {}
	}
	if err := b.polls.add(p); err != nil {
		p.finish(false, err)
		return func() {}
	}
	b.lookers.run(p.begin)
	return p.stop
}

// stop has the poll end. It may come at any time.
func (p *longPoll) stop() {
	p.stopped.Store(true)
	p.ring()
}

// try looks once.
func (p *longPoll) try() (found bool, err error) {
	switch {
	case p.tell != nil:
		return p.something()
	case p.looks:
		p.res, err = p.look()
	default:
		p.looks = true
		p.res, err = p.first()
	}
	return p.res != nil, err
}

// done calls back.
func (p *longPoll) done(found bool, err error) {
	if p.tell != nil {
		p.tell(found, err)
		return
	}
	if p.res == nil && err == nil {
		p.res = &PopResult{}
	}
	if p.res != nil {
		p.res.Waited = p.waited
	}
	p.answer(p.res, err)
}

// begin looks for the first time.
func (p *longPoll) begin() {
	found, err := p.try()
	if errors.Is(err, store.ErrCold) {
		p.goCold(p.begin)
		return
	}
	if found || err != nil || p.over() {
		p.finish(found, err)
		return
	}
	ring := p.ring
	p.waiter.wake = ring
	p.p.due.add(&p.timer, p.deadline, ring)
	p.turn()
}

// turn is one round of waiting after the other, until it is held or over.
//
// The order against lost wake-ups: be found by those who wake, then look once more, then wait. Whoever was woken owes it to
// the group to wake the next one when it ends, because what it was woken for may still be there.
func (p *longPoll) turn() {
	for {
		w := &p.waiter
		w.want(&p.popping)
		if err := p.p.waiters.add(w); err != nil {
			p.passOn(p.woken)
			p.finish(false, err)
			return
		}
		found, err := p.try()
		if errors.Is(err, store.ErrCold) {
			p.woken = !p.p.waiters.remove(w) || p.woken
			p.goCold(p.turn)
			return
		}
		if !found && err == nil {
			p.woken, p.cold = false, false
			if !p.over() {
				p.p.alarms.arm(p.p.store.Pop, groupOfTopic{w.group, w.topic}, p.looked)
				if p.hold() {
					return
				}
				err = p.why()
			}
		}
		if p.endTurn(found, err) {
			return
		}
	}
}

// goCold has those go on with the poll that may wait for the tier.
func (p *longPoll) goCold(on func()) {
	p.cold = true
	end := func(err error) {
		p.passOn(p.woken)
		p.finish(false, err)
	}
	err := p.b.cold.run(func() {
		if err := p.why(); err != nil {
			end(err)
			return
		}
		on()
	})
	if err != nil {
		end(err)
	}
}

// hold ends the work on the poll until it is rung (true), unless it was rung already.
func (p *longPoll) hold() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.rung {
		p.mu.rung = false
		return false
	}
	p.mu.held, p.waited = true, true
	return true
}

// ring has the poll look again, or find out that it has to end. It does not block.
func (p *longPoll) ring() {
	p.mu.Lock()
	held := p.mu.held
	p.mu.held, p.mu.rung = false, !held
	p.mu.Unlock()
	if held {
		p.b.lookers.run(p.resume)
	}
}

// resume goes on where turn has held.
func (p *longPoll) resume() {
	if !p.endTurn(false, p.why()) {
		p.turn()
	}
}

// endTurn says whether the poll is over, and answers it then.
func (p *longPoll) endTurn(found bool, err error) (over bool) {
	p.woken = !p.p.waiters.remove(&p.waiter) || p.woken
	if !found && err == nil && p.woken && p.over() { // at the last moment
		if found, err = p.try(); errors.Is(err, store.ErrCold) {
			err = nil // there is no time for that
		}
	}
	if !found && err == nil && !p.over() {
		return false
	}
	p.passOn(p.woken)
	p.finish(found, err)
	return true
}

// why says why the poll has to end before its time.
func (p *longPoll) why() error {
	select {
	case <-p.p.closing:
		return errClosing
	default:
		return p.ended()
	}
}

// finish answers. Who cancelled it is told nothing but that there is nothing.
func (p *longPoll) finish(found bool, err error) {
	p.timer.cancel()
	p.b.polls.remove(p)
	if p.ended() != nil && CodeOf(err) != CodeClosing {
		err = nil
	}
	p.done(found, err)
	p.b.gate.leave()
}
