package broker

import (
	"context"
	"time"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/pop"
)

// The reasons why a handle is not valid, made once: an acknowledgement that comes too late is nothing unusual.
var (
	errHandleUnreadable = &Error{Code: CodeInvalidHandle, Message: "this is no receipt handle", Err: pop.ErrHandle}
	errHandleForeign    = &Error{Code: CodeInvalidHandle, Message: "the receipt handle is for another group or topic"}
	errHandleLate       = &Error{Code: CodeInvalidHandle, Message: "the receipt handle's invisible time is over"}
	errHandleSpent      = &Error{Code: CodeInvalidHandle,
		Message: "the message was acknowledged, has another invisible time now, or was handed out again"}
)

// Ack acknowledges handles; the errors align with them (nil: done; CodeInvalidHandle: expired, stale or foreign). Concurrent
// calls share writes. When ctx ends before, what becomes of the handles is unknown.
//
// Refusals beside: CodeGroupNotFound, CodeTopicNotFound, CodeBusy, CodeReadOnly, CodeClosing.
func (b *Broker) Ack(ctx context.Context, group, topic string, handles []string) []error {
	errs, err := await(ctx, func(done func([]error, error)) {
		b.AckAsync(group, topic, handles, func(errs []error) { done(errs, nil) })
	})
	if err != nil {
		errs = make([]error, len(handles))
		setAll(errs, err)
	}
	return errs
}

// AckAsync is Ack that calls back: exactly once, from the folder goroutine or before it returns; done must not block. The
// handles may be changed as soon as AckAsync returns.
func (b *Broker) AckAsync(group, topic string, handles []string, done func([]error)) {
	a := newAck(len(handles), done)
	if err := b.gate.enter(); err != nil {
		a.refuse(err)
		return
	}
	defer b.gate.leave()
	g, t, err := b.groupAndTopic(group, topic)
	if err != nil {
		a.refuse(err)
		return
	}
	a.begin(b, g, t)
	for i, text := range handles {
		if h, err := pop.ParseHandle(text); err != nil {
			a.errs[i] = errHandleUnreadable
		} else {
			a.add(i, &h)
		}
	}
	a.propose(b)
}

// AckRead is AckAsync of one handle that was read already, for a group and a topic that were looked up.
func (b *Broker) AckRead(g *catalog.Group, t *catalog.Topic, h *pop.Handle, done func([]error)) {
	a := newAck(1, done)
	if err := b.gate.enter(); err != nil {
		a.refuse(err)
		return
	}
	defer b.gate.leave()
	a.begin(b, g, t)
	a.add(0, h)
	a.propose(b)
}

// ack is an acknowledgement under way.
type ack struct {
	group    *catalog.Group
	topic    *catalog.Topic
	now      int64 // ms
	errs     []error
	items    []int     // which handle each item of the records is
	refs     []pop.Ref // of the items
	done     func([]error)
	proposal commitlog.Proposal

	// Who waits for its turn may go on.
	popper  *popper
	ordered bool

	one struct { // room for the acknowledgement of one message
		errs    [1]error
		items   [1]int
		refs    [1]pop.Ref
		records [1]record.Record
	}
}

// newAck makes an acknowledgement of n handles.
func newAck(n int, done func([]error)) *ack {
	a := &ack{done: done}
	if n == 1 {
		a.errs, a.items, a.refs, a.proposal.Records = a.one.errs[:], a.one.items[:0], a.one.refs[:0], a.one.records[:0]
	} else {
		a.errs, a.items, a.refs = make([]error, n), make([]int, 0, n), make([]pop.Ref, 0, n)
	}
	return a
}

// refuse ends an acknowledgement of which nothing was done.
func (a *ack) refuse(err error) {
	setAll(a.errs, err)
	a.done(a.errs)
}

func (a *ack) begin(b *Broker, g *catalog.Group, t *catalog.Topic) {
	a.group, a.topic, a.now = g, t, b.clock.Now().UnixMilli()
	a.popper, a.ordered = b.pop, InOrder(g, t)
}

// add adds the i-th handle, unless it cannot be valid.
func (a *ack) add(i int, h *pop.Handle) {
	if a.errs[i] = mayBeGood(a.group, a.topic, h, a.now); a.errs[i] == nil {
		a.items, a.refs = append(a.items, i), append(a.refs, h.Ref())
	}
}

// propose makes the records.
func (a *ack) propose(b *Broker) {
	if len(a.items) == 0 {
		a.done(a.errs)
		return
	}
	e := pop.Ack{Group: a.group.ID, Topic: a.topic.ID}
	for rest := a.refs; len(rest) > 0; rest = rest[len(e.Refs):] {
		e.Refs = rest[:min(len(rest), pop.MaxItems)]
		a.proposal.Records = append(a.proposal.Records, pop.AckRecord(&e))
	}
	a.proposal.Done = a.applied
	if err := b.store.Propose(&a.proposal); err != nil {
		a.proposal.Err = err
		a.applied(&a.proposal)
	}
}

func (a *ack) applied(p *commitlog.Proposal) {
	err := verbError(p.Err, "acknowledge")
	for n, i := range a.items {
		switch {
		case err != nil:
			a.errs[i] = err
		case !pop.MaskOf(p.Outcomes[n/pop.MaxItems]).Has(n % pop.MaxItems):
			a.errs[i] = errHandleSpent
		}
	}
	if err == nil {
		a.popper.acked(groupOfTopic{a.group.ID, a.topic.ID}, a.ordered, a.refs)
	}
	a.done(a.errs)
}

func setAll(errs []error, err error) {
	for i := range errs {
		errs[i] = err
	}
}

func (b *Broker) groupAndTopic(group, topic string) (*catalog.Group, *catalog.Topic, error) {
	g, err := b.group(group)
	if err != nil {
		return nil, nil, err
	}
	t, err := b.topic(topic)
	return g, t, err
}

// checkHandle reads a handle that may still be good at now (ms).
func checkHandle(g *catalog.Group, t *catalog.Topic, text string, now int64) (pop.Handle, error) {
	h, err := pop.ParseHandle(text)
	if err != nil {
		return h, errHandleUnreadable
	}
	return h, mayBeGood(g, t, &h, now)
}

// mayBeGood says why a handle cannot be good at now (ms).
func mayBeGood(g *catalog.Group, t *catalog.Topic, h *pop.Handle, now int64) error {
	switch {
	case h.Group != g.ID || h.Topic != t.ID: // or of a topic of that name that was deleted
		return errHandleForeign
	case h.VisibleAt <= now:
		return errHandleLate
	}
	return nil
}

// ChangeInvisible moves a message's visible-at to now+invisible and answers the new handle; the old one is not good any more,
// unless the time is the same to the millisecond. An invisible time of 0 makes the message visible at once. Who has the message keeps
// it until then: it counts as in flight. When ctx ends before, what becomes of it is unknown.
//
// Refusals: CodeInvalidHandle, CodeParameter (negative time), CodeGroupNotFound, CodeTopicNotFound, CodeBusy, CodeReadOnly,
// CodeClosing.
func (b *Broker) ChangeInvisible(ctx context.Context, group, topic, handle string, invisible time.Duration) (string, error) {
	return b.changeInvisible(ctx, group, topic, handle, invisible, pop.Move{})
}

// Postpone is ChangeInvisible for a message that its receiver has failed on: nobody has it until then, and it counts as delayed.
func (b *Broker) Postpone(ctx context.Context, group, topic, handle string, invisible time.Duration) (string, error) {
	return b.changeInvisible(ctx, group, topic, handle, invisible, pop.Move{Postponed: true})
}

// GiveBack is Postpone for a message that its receiver did not try to consume: the delivery does not count as an attempt.
func (b *Broker) GiveBack(ctx context.Context, group, topic, handle string, invisible time.Duration) (string, error) {
	return b.changeInvisible(ctx, group, topic, handle, invisible, pop.Move{Postponed: true, Free: true})
}

func (b *Broker) changeInvisible(ctx context.Context, group, topic, handle string, invisible time.Duration, how pop.Move) (string, error) {
	if err := b.gate.enter(); err != nil {
		return "", err
	}
	defer b.gate.leave()
	g, t, err := b.groupAndTopic(group, topic)
	if err != nil {
		return "", err
	}
	if invisible < 0 {
		return "", refuse(CodeParameter, "invisible for %v", invisible)
	}
	now := b.clock.Now().UnixMilli()
	h, err := checkHandle(g, t, handle, now)
	if err != nil {
		return "", err
	}
	moved := h
	moved.PoppedAt, moved.VisibleAt = now, now+(invisible+time.Millisecond-1).Milliseconds()
	how.Ref, how.To = h.Ref(), moved.VisibleAt
	e := &pop.Extend{Group: g.ID, Topic: t.ID, Moves: []pop.Move{how}}
	return await(ctx, func(done func(string, error)) {
		p := &commitlog.Proposal{Records: []record.Record{pop.ExtendRecord(e)}}
		p.Done = func(p *commitlog.Proposal) {
			switch {
			case p.Err != nil:
				done("", verbError(p.Err, "change the invisible time"))
			case p.Outcomes[0].Refused:
				done("", errHandleSpent)
			default:
				b.pop.alarms.note(groupOfTopic{g.ID, t.ID}, moved.VisibleAt)
				done(string(moved.AppendTo(nil)), nil)
			}
		}
		if err := b.store.Propose(p); err != nil {
			p.Err = err
			p.Done(p)
		}
	})
}
