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
	errs := make([]error, len(handles))
	if err := b.gate.enter(); err != nil {
		setAll(errs, err)
		done(errs)
		return
	}
	defer b.gate.leave()
	a := &ack{errs: errs, done: done}
	if err := b.prepareAck(a, group, topic, handles); err != nil {
		setAll(errs, err)
		done(errs)
		return
	}
	if len(a.items) == 0 {
		done(errs)
		return
	}
	a.proposal.Done = a.applied
	if err := b.store.Propose(&a.proposal); err != nil {
		a.proposal.Err = err
		a.applied(&a.proposal)
	}
}

// ack is an acknowledgement under way.
type ack struct {
	errs     []error
	items    []int // which handle each item of the records is
	done     func([]error)
	proposal commitlog.Proposal

	// Who waits for its turn may go on.
	popper  *popper
	key     groupOfTopic
	ordered bool
	refs    []pop.Ref // of a group that is served in order
}

// prepareAck sorts out the handles that cannot be valid and makes the records of the others.
func (b *Broker) prepareAck(a *ack, group, topic string, handles []string) error {
	g, t, err := b.groupAndTopic(group, topic)
	if err != nil {
		return err
	}
	now := b.clock.Now().UnixMilli()
	a.popper, a.key, a.ordered = b.pop, groupOfTopic{g.ID, t.ID}, InOrder(g, t)
	e := pop.Ack{Group: g.ID, Topic: t.ID, Refs: make([]pop.Ref, 0, min(len(handles), pop.MaxItems))}
	for i, text := range handles {
		h, err := checkHandle(g, t, text, now)
		if err != nil {
			a.errs[i] = err
			continue
		}
		e.Refs = append(e.Refs, h.Ref())
		a.items = append(a.items, i)
		if a.ordered {
			a.refs = append(a.refs, h.Ref())
		}
		if len(e.Refs) == pop.MaxItems {
			a.proposal.Records = append(a.proposal.Records, pop.AckRecord(&e))
			e.Refs = e.Refs[:0]
		}
	}
	if len(e.Refs) > 0 {
		a.proposal.Records = append(a.proposal.Records, pop.AckRecord(&e))
	}
	return nil
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
	if a.popper != nil && err == nil {
		a.popper.acked(a.key, a.ordered, a.refs)
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
	switch {
	case err != nil:
		return h, errHandleUnreadable
	case h.Group != g.ID || h.Topic != t.ID: // or of a topic of that name that was deleted
		return h, errHandleForeign
	case h.VisibleAt <= now:
		return h, errHandleLate
	}
	return h, nil
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
