package broker

import (
	"context"
	"errors"
	"math"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/store"
)

const (
	defaultTimers = 100
	maxTimers     = 1000
	maxBuckets    = 1000
	// ctxEvery is after how many timers a search looks whether it is still wanted.
	ctxEvery = 4096
)

// TimerQuery asks for pending timers in due order.
type TimerQuery struct {
	Topic    string      // "": of all topics
	From, To int64       // ms, both included; To 0: no end
	After    delay.Point // go on behind this one
	Most     int         // at most 1000; 0: 100
}

// TimerInfo is a pending timer.
type TimerInfo struct {
	delay.Point
	Topic          string
	Queue          int32
	Level          int32
	Stored         int64 // ms
	UniqueID, Keys string
	Handle         string // to recall it with
	BodySize       int
}

// Timers lists pending timers. more says that there are more behind the last one. A timer whose body cannot be read has no id
// and no handle; those of deleted topics are left out. CodeTopicNotFound, CodeParameter (times), CodeClosing.
func (b *Broker) Timers(q TimerQuery) (found []TimerInfo, more bool, err error) {
	if err := b.gate.enter(); err != nil {
		return nil, false, err
	}
	defer b.gate.leave()
	if q.Most <= 0 {
		q.Most = defaultTimers
	}
	most := min(q.Most, maxTimers)
	var timers []delay.Timer
	err = b.eachTimer(context.Background(), &q, func(t *delay.Timer, topic string) bool {
		if more = len(found) == most; more {
			return false
		}
		timers = append(timers, *t)
		found = append(found, TimerInfo{Point: t.Point, Topic: topic, Queue: t.Queue, Level: t.Level})
		return true
	})
	if err != nil {
		return nil, false, verbError(err, "list timers")
	}
	buf := store.NewBuffer()
	defer buf.Release()
	for i := range found {
		buf.B = buf.B[:0]
		if err := b.fillIn(&found[i], &timers[i], buf); err != nil {
			return nil, false, err
		}
	}
	return found, more, nil
}

// fillIn adds what only the body of a timer tells.
func (b *Broker) fillIn(info *TimerInfo, t *delay.Timer, buf *store.Buffer) error {
	layout, err := b.store.ReadStored(t.Position, t.Size, buf)
	var corrupt *commitlog.CorruptError
	if errors.Is(err, commitlog.ErrGone) || errors.As(err, &corrupt) {
		return nil
	}
	if err != nil {
		return verbError(err, "read a delayed message")
	}
	m, _, err := message.Decode(layout)
	if err != nil {
		return verbError(err, "read a delayed message")
	}
	id, _ := message.Property(m.Properties, message.PropUniqueKey)
	keys, _ := message.Property(m.Properties, message.PropKeys)
	info.Stored, info.BodySize, info.UniqueID, info.Keys = m.StoreTimestamp, len(m.Body), string(id), string(keys)
	info.Handle = delay.Handle{
		Topic: info.Topic, Broker: b.opts.BrokerName, Due: t.Due, UniqueID: info.UniqueID, Origin: t.Origin,
	}.String()
	return nil
}

// eachTimer calls f for the timers that a query asks for, in due order, until it returns false. f must not keep the timer.
func (b *Broker) eachTimer(ctx context.Context, q *TimerQuery, f func(t *delay.Timer, topic string) bool) error {
	if q.From < 0 || q.To < 0 || q.After.Due < 0 || q.After.Origin < 0 {
		return refuse(CodeParameter, "timers due from %d to %d, behind %d", q.From, q.To, q.After.Due)
	}
	from := delay.Point{Due: q.From}
	if from.Before(q.After) {
		from = delay.Point{Due: q.After.Due, Origin: q.After.Origin + 1}
	}
	to := q.To
	if to == 0 {
		to = math.MaxInt64
	}
	only, left, err := b.timersOf(q.Topic)
	if err != nil || left == 0 {
		return err
	}
	names := map[kvindex.ID]string{}
	read, failed := 0, error(nil)
	err = b.store.Delay.Each(from, func(t *delay.Timer) bool {
		if read++; read%ctxEvery == 0 {
			failed = ctx.Err()
		}
		if t.Due > to || failed != nil {
			return false
		}
		if only != 0 && t.Topic != only {
			return true
		}
		name, known := names[t.Topic]
		if !known {
			if name, failed = b.nameOf(t.Topic); failed != nil {
				return false
			}
			names[t.Topic] = name
		}
		if name == "" {
			return true
		}
		left--
		return f(t, name) && left > 0
	})
	if err == nil {
		err = failed
	}
	return err
}

// timersOf is a topic's id with the number of its timers, so that nobody looks for more; 0 and no end for the empty name.
func (b *Broker) timersOf(topic string) (kvindex.ID, int64, error) {
	if topic == "" {
		return 0, math.MaxInt64, nil
	}
	t, err := b.topic(topic)
	if err != nil {
		return 0, 0, err
	}
	n, err := b.store.Delay.Pending(t.ID)
	return t.ID, n, err
}

// nameOf is a topic's name, "" when it was deleted.
func (b *Broker) nameOf(topic kvindex.ID) (string, error) {
	t, err := b.catalog.TopicByID(topic)
	if code, _ := codeOfCause(err); err != nil && code == CodeTopicNotFound {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return t.Name, nil
}

// TimerBucket is how many timers are due from a time on, up to the next bucket's.
type TimerBucket struct {
	From  int64 // ms
	Count int64
}

// TimerHistogram counts pending timers of a topic ("": of all) in buckets of so many ms between two times (To 0: to the last
// timer), at most 1000 buckets; empty ones are left out. The buckets begin at the query's From; its After and Most do not
// count. It reads every timer in between, and stops when ctx ends. CodeParameter (width, times, or more than 1000 buckets),
// CodeTopicNotFound, CodeClosing.
func (b *Broker) TimerHistogram(ctx context.Context, q TimerQuery, width int64) ([]TimerBucket, error) {
	if err := b.gate.enter(); err != nil {
		return nil, err
	}
	defer b.gate.leave()
	if width <= 0 {
		return nil, refuse(CodeParameter, "buckets of %d ms", width)
	}
	q.After = delay.Point{}
	var out []TimerBucket
	tooMany := false
	err := b.eachTimer(ctx, &q, func(t *delay.Timer, _ string) bool {
		from := t.Due - (t.Due-q.From)%width
		if n := len(out); n > 0 && out[n-1].From == from {
			out[n-1].Count++
			return true
		}
		if tooMany = len(out) == maxBuckets; tooMany {
			return false
		}
		out = append(out, TimerBucket{From: from, Count: 1})
		return true
	})
	switch {
	case err != nil:
		return nil, verbError(err, "count timers")
	case tooMany:
		return nil, refuse(CodeParameter, "the timers fill more than %d buckets of %d ms", maxBuckets, width)
	}
	return out, nil
}
