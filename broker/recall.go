package broker

import (
	"context"
	"strconv"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/store"
)

// RecallRequest asks for a delayed message back before it is delivered.
type RecallRequest struct {
	Topic  string // of the message
	Handle string // from its SendResult, or built like the reference's
}

// Recall takes a delayed message back and answers its unique id: it will never be delivered. To recall twice is no error. The
// race with its firing is decided by the log: either it is recalled, or it was delivered and the answer says so.
//
// Refusals: CodeInvalidHandle (not a handle, or of another topic or broker), CodeNotFound (no such delayed message),
// CodeDelivered, CodeTopicNotFound, CodeBusy, CodeReadOnly, CodeClosing.
func (b *Broker) Recall(ctx context.Context, req *RecallRequest) (uniqueID string, err error) {
	if err := b.gate.enter(); err != nil {
		return "", err
	}
	defer b.gate.leave()
	h, err := delay.ParseHandle(req.Handle)
	switch {
	case err != nil:
		return "", &Error{Code: CodeInvalidHandle, Message: "recall from " + req.Topic + ": " + err.Error(), Err: err}
	case h.Topic != req.Topic:
		return "", refuse(CodeInvalidHandle, "recall from %s: the handle is of topic %s", req.Topic, h.Topic)
	case h.Broker != b.opts.BrokerName:
		return "", refuse(CodeInvalidHandle, "recall from %s: the handle is of broker %s, this is %s", req.Topic, h.Broker,
			b.opts.BrokerName)
	}
	t, err := b.topic(req.Topic)
	if err != nil {
		return "", err
	}
	recalled, err := b.recallPending(ctx, t, &h)
	if err == nil && !recalled {
		err = b.recalledBefore(t, &h)
	}
	if err != nil {
		return "", err
	}
	return h.UniqueID, nil
}

// recallPending takes the message back if it is pending. One that is not is asked of the log all the same, which refuses it: a
// timer's row is gone a moment before its queue shows the message, and not any more when the log has answered.
func (b *Broker) recallPending(ctx context.Context, t *catalog.Topic, h *delay.Handle) (bool, error) {
	at := delay.Point{Due: h.Due, Origin: max(h.Origin, 0)}
	if h.Origin < 0 {
		found, ok, err := b.store.DelayedByID(t.ID, h.UniqueID)
		if err != nil {
			return false, verbError(err, "look for the delayed message "+h.UniqueID)
		}
		if ok && found.Due == h.Due {
			at = found
		}
	}
	timer, pending, err := b.store.Delay.Get(at)
	if err != nil {
		return false, verbError(err, "look up the delayed message "+h.UniqueID)
	}
	if pending {
		buf := store.NewBuffer()
		defer buf.Release()
		layout, err := b.store.ReadStored(timer.Position, timer.Size, buf)
		if err != nil {
			return false, verbError(err, "read the delayed message "+h.UniqueID)
		}
		if timer.Topic != t.ID || !isCalled(layout, h.UniqueID) {
			return false, noDelayed(h)
		}
	}
	outcomes, err := b.append(ctx, "recall "+h.UniqueID, delay.Recall{Point: at, Topic: t.ID}.Record())
	return err == nil && !outcomes[0].Refused, err
}

// foundByID bounds how many messages of one unique id are looked at: a sender that tries again gives the same one.
const foundByID = 16

// recalledBefore answers a recall of what is not pending: nil when it was recalled before.
func (b *Broker) recalledBefore(t *catalog.Topic, h *delay.Handle) error {
	if h.Origin >= 0 {
		hour := kvindex.HourOf(h.Due)
		ended, ok, err := kvindex.ReadEnded(b.store.Reader(), hour, int64(h.Origin))
		if err != nil {
			return verbError(err, "look up what became of "+h.UniqueID)
		}
		if ok && ended.Outcome == kvindex.OutcomeRecalled {
			return b.checkRecalled(h)
		}
	}
	buf := store.NewBuffer()
	defer buf.Release()
	const everything = 1 << 62 // ms
	ends, err := b.store.Query(t.ID, kvindex.IndexUniqueID, h.UniqueID, 0, everything, foundByID, buf)
	if err != nil {
		return verbError(err, "look for the delayed message "+h.UniqueID)
	}
	start, delivered := 0, false
	for _, end := range ends {
		layout := buf.B[start:end]
		start = end
		switch state, inNoQueue := message.Property(message.PropertiesOf(layout), store.PropState); {
		case inNoQueue && h.Origin < 0 && string(state) == kvindex.OutcomeRecalled.String() && wasDueAt(layout, h.Due):
			return nil
		case !inNoQueue && wasDueAt(layout, h.Due):
			delivered = true
		}
	}
	if delivered {
		return refuse(CodeDelivered, "message %s was delivered before it was recalled", h.UniqueID)
	}
	return noDelayed(h)
}

// checkRecalled compares the id of a handle with that of the message at its origin, which was recalled; it may be gone.
func (b *Broker) checkRecalled(h *delay.Handle) error {
	buf := store.NewBuffer()
	defer buf.Release()
	layout, err := b.store.ReadByPosition(h.Origin, buf)
	if code, _ := codeOfCause(err); err != nil && code != CodeNotFound {
		return verbError(err, "read the delayed message "+h.UniqueID)
	}
	if err == nil && !isCalled(layout, h.UniqueID) {
		return noDelayed(h)
	}
	return nil
}

func noDelayed(h *delay.Handle) error {
	return refuse(CodeNotFound, "topic %s has no delayed message %s that is due at %s", h.Topic, h.UniqueID,
		kvindex.FormatTime(h.Due))
}

func isCalled(layout []byte, uniqueID string) bool {
	id, ok := message.Property(message.PropertiesOf(layout), message.PropUniqueKey)
	return ok && string(id) == uniqueID
}

// wasDueAt says whether a message that waits no more was delayed until a time (ms): a timer says so itself, any other came to
// its queue then at the earliest.
func wasDueAt(layout []byte, due int64) bool {
	props := message.PropertiesOf(layout)
	if out, ok := message.Property(props, message.PropTimerOut); ok {
		return string(out) == strconv.FormatInt(due, 10)
	}
	wish := wishOf(props)
	return wish.asks() && message.StoreTimestampOf(layout) >= due
}
