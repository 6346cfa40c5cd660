package store

import (
	"strconv"
	"time"
	"unsafe"

	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/txn"
)

// verdict is what becomes of a message that may have to wait.
type verdict int

const (
	visible verdict = iota // it is entered in its queue now
	waiting                // it has the row of a timer or a half message
	refused                // it is the copy of a timer or of a popped message that is not there any more
)

// wait gives a message that waits to whom it waits with, lets a timer follow its body to the copy, or settles the checkpoint that
// a copy stands for.
func (f *queueFold) wait(b *kvindex.Batch, m *stored, e entry) (verdict, error) {
	queue := message.QueueIDOf(m.layout)
	switch {
	case m.kind == record.KindHalf:
		return waiting, f.txn.Add(b, &txn.Half{
			Position: e.position, CheckAt: m.check, Topic: m.topic, Queue: queue, Size: e.size, TagHash: e.tag,
			Stored: b.Timestamp(), Group: string(f.props.group), ID: hashBytes(kvindex.IndexUniqueID, f.props.uniqueID),
			Delayed: f.props.delayed,
		})
	case m.kind == record.KindDelayed && m.timer.Due <= b.Timestamp():
		return visible, nil
	case m.kind == record.KindForward:
		ok, err := f.pop.Settle(b, m.popped)
		if !ok {
			return refused, err
		}
		return visible, err
	case m.kind == record.KindDelayed:
		return waiting, f.delay.Add(b, &delay.Timer{
			Point: delay.Point{Due: m.timer.Due, Origin: e.position}, Topic: m.topic, Queue: queue, Position: e.position,
			Size: e.size, TagHash: e.tag, Level: f.props.delayLevel(),
		})
	}
	v, ok, err := waiting, false, error(nil)
	if m.fired {
		v = visible
		_, ok, err = f.delay.Take(b, m.timer)
	} else {
		ok, err = f.delay.Move(b, m.timer, e.position, e.size)
	}
	if !ok {
		v = refused
	}
	return v, err
}

// release enters what became visible in its queues, or makes it a timer; at is the position of the record that released it.
// What belongs to a topic that was deleted goes nowhere.
func (f *queueFold) release(b *kvindex.Batch, at record.Position, released []kvindex.Release) error {
	for i := range released {
		r := &released[i]
		p, err := f.open(b, queueKey{r.Topic, r.Queue})
		if err != nil {
			return err
		}
		if p == nil {
			continue
		}
		ended := kvindex.Ended{Outcome: kvindex.OutcomeCommitted}
		if due := max(r.Due, b.Timestamp()); due > b.Timestamp() || tooOld(r, due) {
			ended = kvindex.Ended{Outcome: kvindex.OutcomeScheduled, Number: due}
			err = f.delay.Add(b, &delay.Timer{
				Point: delay.Point{Due: due, Origin: r.Position}, Topic: r.Topic, Queue: r.Queue, Position: r.Position,
				Size: r.Size, TagHash: r.TagHash, Hour: r.Hour,
			})
		} else {
			ended.Number, err = f.enter(b, p, at, entry{r.Position, r.Size, r.TagHash})
		}
		if err != nil {
			return err
		}
		if r.Half {
			f.key = kvindex.AppendEndedKey(f.key[:0], r.Hour, int64(r.Position))
			f.val = kvindex.AppendEnded(f.val[:0], ended)
			b.Set(f.key, f.val)
		}
	}
	return nil
}

// tooOld says that a queue entry made now (ms) must not point at the bytes of a half message, since their segment may go before
// the entry does. Such a message becomes a timer that is due at once, and those fire from a copy.
func tooOld(r *kvindex.Release, now int64) bool {
	return r.Half && now-int64(r.Hour)*time.Hour.Milliseconds() > delay.Horizon.Milliseconds()
}

// delayLevel is that of the message which was scanned last; 0 when it has none.
func (p *properties) delayLevel() int32 {
	n, err := strconv.ParseInt(unsafe.String(unsafe.SliceData(p.level), len(p.level)), 10, 32)
	if err != nil || n < 0 {
		return 0
	}
	return int32(n)
}
