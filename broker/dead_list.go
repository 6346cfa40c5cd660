package broker

import (
	"context"
	"errors"
	"math"
	"strconv"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/pop"
	"github.com/cairnmq/cairn/store"
)

// deadKeeper is the group whose place in a dead-letter topic says which dead letters were redriven or purged: those behind its
// cursor are not yet looked at, those with a checkpoint were and are still there, the others are gone. No consumer has it.
const deadKeeper = "CID_RMQ_SYS_DLQ"

const (
	defaultLetters = 100
	maxLetters     = 1000
	maxDeadGroups  = 1000
	// deadBytes bounds what one call reads of dead letters, roughly: they may be large, and somebody waits.
	deadBytes = 32 << 20
)

// DeadGroup is a group that has dead letters.
type DeadGroup struct {
	Group          string
	Topic          string // %DLQ%group
	Count          int64  // neither redriven nor purged
	Oldest, Newest int64  // ms: when the first and the last of them died
}

// DeadGroups lists the groups that have dead letters by name, behind one of them (""), at most so many (0 or above 1000: 1000).
// more says that there may be more. CodeClosing.
func (b *Broker) DeadGroups(behind string, most int) (found []DeadGroup, more bool, err error) {
	if err := b.gate.enter(); err != nil {
		return nil, false, err
	}
	defer b.gate.leave()
	if most <= 0 || most > maxDeadGroups {
		most = maxDeadGroups
	}
	var failed error
	err = b.catalog.EachTopicBehind(catalog.DLQPrefix, catalog.DLQPrefix+behind, func(t *catalog.Topic) bool {
		if more = len(found) == most; more {
			return false
		}
		d := DeadGroup{Group: t.Name[len(catalog.DLQPrefix):], Topic: t.Name}
		if failed = b.countDead(t, &d); failed == nil && d.Count > 0 {
			found = append(found, d)
		}
		return failed == nil
	})
	if err == nil {
		err = failed
	}
	return found, more, verbError(err, "list dead letters")
}

// DeadGroup is what DeadGroups says of one group; one without dead letters has none. CodeGroupIllegal, CodeClosing.
func (b *Broker) DeadGroup(group string) (DeadGroup, error) {
	if err := b.gate.enter(); err != nil {
		return DeadGroup{}, err
	}
	defer b.gate.leave()
	d := DeadGroup{Group: group, Topic: catalog.DLQPrefix + group}
	t, err := b.deadTopic(group, &DeadFilter{})
	if CodeOf(err) == CodeGroupNotFound {
		return d, nil
	}
	if err == nil {
		err = b.countDead(t, &d)
	}
	return d, verbError(err, "count the dead letters of "+group)
}

// countDead counts the dead letters of a topic. It walks through those that a redrive has passed over.
func (b *Broker) countDead(t *catalog.Topic, d *DeadGroup) error {
	keeper, err := b.keeper()
	if err != nil {
		return err
	}
	kept := map[int32]int64{} // queue → offset of the first one that was passed over
	for q := range t.Queues() {
		s, err := b.deadStand(keeper, t, q)
		if err != nil {
			return err
		}
		if s.next < s.high {
			d.Count += s.high - s.next
			kept[q] = s.next
		}
	}
	var failed error
	err = b.store.Pop.EachFrom(keeper, t.ID, pop.Ref{}, func(e *pop.Expired) bool {
		low, _, err := b.store.Bounds(t.ID, e.Queue)
		if failed = err; err != nil || e.Offset < low {
			return err == nil
		}
		d.Count++
		if first, ok := kept[e.Queue]; !ok || e.Offset < first {
			kept[e.Queue] = e.Offset
		}
		return true
	})
	if err != nil || failed != nil {
		return errors.Join(err, failed)
	}
	for q, first := range kept {
		if err := b.deadTimes(t, q, first, d); err != nil {
			return err
		}
	}
	return nil
}

// deadTimes widens the times of d by those of a queue whose first dead letter has an offset.
func (b *Broker) deadTimes(t *catalog.Topic, queue int32, first int64, d *DeadGroup) error {
	low, high, err := b.store.Bounds(t.ID, queue)
	if err != nil {
		return err
	}
	oldest, err := b.storeTime(t.ID, queue, first, low, high)
	if err != nil || oldest < 0 {
		return err
	}
	newest, err := b.storeTime(t.ID, queue, high-1, low, high)
	if err != nil {
		return err
	}
	if d.Oldest == 0 || oldest < d.Oldest {
		d.Oldest = oldest
	}
	d.Newest = max(d.Newest, newest)
	return nil
}

// keeper is the id of the group deadKeeper, 0 when it has never been needed: a group without rows.
func (b *Broker) keeper() (kvindex.ID, error) {
	g, err := b.catalog.Group(deadKeeper)
	if errors.Is(err, catalog.ErrGroupNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return g.ID, nil
}

// deadStand is where the keeper stands in a queue of dead letters; next is the first that it has not looked at.
func (b *Broker) deadStand(keeper kvindex.ID, t *catalog.Topic, queue int32) (s stand, err error) {
	if s, err = b.pop.stand(place{keeper, t.ID, queue}); err == nil {
		s.there = s.there && keeper != 0
		if !s.there {
			s.next = s.low
		}
		s.next = max(s.next, s.low)
	}
	return s, err
}

// fresh is the Kept of a dead letter that no redrive has looked at.
const fresh = math.MaxInt64

// DeadPoint is a place in the order of a group's dead letters: first those that a redrive has looked at and passed over, in the order
// in which it did, then the others by queue and offset.
type DeadPoint struct {
	Kept   int64 // ms; fresh
	Queue  int32
	Offset int64
}

// DeadFilter says which dead letters are meant; the zero value of a field means all.
type DeadFilter struct {
	Tag, Reason, ID string // ID: unique id
	From, To        int64  // ms, both included: when it died
	redrives        int32  // those that were redriven less often
}

// DeadQuery asks for dead letters of a group.
type DeadQuery struct {
	Group  string
	Filter DeadFilter
	After  DeadPoint // go on behind this one
	Most   int       // at most 1000; 0: 100
}

// DeadLetter is a dead letter and what it says of itself; what it does not say is zero. Times are in ms.
type DeadLetter struct {
	DeadPoint
	Died               int64
	Reason             string
	Attempts, Redrives int32
	First, Last        int64 // deliveries
	Topic              string
	OriginQueue        int32 // −1: not known
	OriginOffset       int64 // −1: not known
	UniqueID, OriginID string
	Keys, Tag          string
	BodySize           int

	entry store.Entry
	ref   pop.Ref // the checkpoint of a kept one
}

// DeadMessages lists dead letters. more says that there may be more behind next. It looks at 16 times as many dead letters as it is
// to find, or 32 MiB of them at most, so that there may be more when nothing was found. One whose body cannot be read is left out.
//
// Refusals: CodeGroupNotFound (without dead letters), CodeParameter, CodeClosing.
func (b *Broker) DeadMessages(ctx context.Context, q DeadQuery) (found []DeadLetter, next DeadPoint, more bool, err error) {
	if err := b.gate.enter(); err != nil {
		return nil, next, false, err
	}
	defer b.gate.leave()
	t, err := b.deadTopic(q.Group, &q.Filter)
	if err != nil {
		return nil, next, false, err
	}
	keeper, err := b.keeper()
	if err != nil {
		return nil, next, false, verbError(err, "list dead letters")
	}
	if q.Most <= 0 {
		q.Most = defaultLetters
	}
	most := min(q.Most, maxLetters)
	next = q.After
	buf := store.NewBuffer()
	defer buf.Release()
	var page []DeadLetter
	read := 0
	for left := 16 * most; left > 0 && read < deadBytes && ctx.Err() == nil; left -= len(page) {
		if page, err = b.deadAfter(t, keeper, next, min(left, pop.MaxItems), page[:0]); err != nil {
			return nil, next, false, verbError(err, "list dead letters of "+q.Group)
		}
		if len(page) == 0 {
			return found, next, false, nil
		}
		for i := range page {
			d := &page[i]
			m, err := b.readDead(d, buf)
			if err != nil {
				return nil, next, false, verbError(err, "read a dead letter of "+q.Group)
			}
			next = d.DeadPoint
			read += int(d.entry.Size)
			if m != nil && q.Filter.match(d) {
				found = append(found, *d)
			}
			if len(found) == most {
				return found, next, true, nil
			}
		}
	}
	return found, next, true, ctx.Err()
}

// deadTopic is the topic of a group's dead letters.
func (b *Broker) deadTopic(group string, f *DeadFilter) (*catalog.Topic, error) {
	if f.From < 0 || f.To < 0 {
		return nil, refuse(CodeParameter, "dead letters from %d to %d", f.From, f.To)
	}
	if err := checkGroupName(group); err != nil {
		return nil, err
	}
	t, err := b.catalog.Topic(catalog.DLQPrefix + group)
	if errors.Is(err, catalog.ErrTopicNotFound) {
		return nil, refuse(CodeGroupNotFound, "consumer group %s has no dead letters", group)
	}
	return t, verbError(err, "look up the dead letters of "+group)
}

// match looks at what readDead has filled in.
func (f *DeadFilter) match(d *DeadLetter) bool {
	return (f.Tag == "" || f.Tag == d.Tag) && (f.Reason == "" || f.Reason == d.Reason) && (f.ID == "" || f.ID == d.UniqueID) &&
		d.Died >= f.From && (f.To == 0 || d.Died <= f.To) && (f.redrives == 0 || d.Redrives < f.redrives)
}

// deadAfter appends up to most dead letters behind a point to dst, without what only their bodies tell.
func (b *Broker) deadAfter(t *catalog.Topic, keeper kvindex.ID, after DeadPoint, most int, dst []DeadLetter) ([]DeadLetter, error) {
	end := len(dst) + most
	if after.Kept != fresh {
		var failed error
		from := pop.Ref{VisibleAt: after.Kept, Queue: after.Queue, Offset: after.Offset}
		err := b.store.Pop.EachFrom(keeper, t.ID, from, func(e *pop.Expired) bool {
			p := DeadPoint{e.VisibleAt, e.Queue, e.Offset}
			if p == after {
				return true
			}
			low, _, err := b.store.Bounds(t.ID, e.Queue)
			if failed = err; err == nil && e.Offset >= low {
				dst = append(dst, DeadLetter{
					DeadPoint: p, ref: e.Ref, entry: store.Entry{Offset: e.Offset, Position: e.Position, Size: e.Size},
				})
			}
			return failed == nil && len(dst) < end
		})
		if err != nil || failed != nil || len(dst) == end {
			return dst, errors.Join(err, failed)
		}
		after = DeadPoint{Kept: fresh, Offset: -1}
	}
	var entries []store.Entry
	for q := after.Queue; q < t.Queues() && len(dst) < end; q++ {
		s, err := b.deadStand(keeper, t, q)
		if err != nil {
			return dst, err
		}
		from := s.next
		if q == after.Queue {
			from = max(from, after.Offset+1)
		}
		if entries, err = b.store.Entries(t.ID, q, from, end-len(dst), entries[:0]); err != nil {
			return dst, err
		}
		for _, e := range entries {
			dst = append(dst, DeadLetter{DeadPoint: DeadPoint{fresh, q, e.Offset}, entry: e})
		}
	}
	return dst, nil
}

// readDead reads a dead letter and fills in what it says of itself; nil when it cannot be had any more. The message aliases buf.
func (b *Broker) readDead(d *DeadLetter, buf *store.Buffer) (*message.Message, error) {
	buf.B = buf.B[:0]
	layout, err := b.store.ReadStored(d.entry.Position, d.entry.Size, buf)
	var corrupt *commitlog.CorruptError
	if errors.Is(err, commitlog.ErrGone) || errors.As(err, &corrupt) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m, _, err := message.Decode(layout)
	if err != nil {
		return nil, err
	}
	text := func(key string) string {
		v, _ := message.Property(m.Properties, key)
		return string(v)
	}
	number := func(key string, otherwise int64) int64 {
		if n, err := strconv.ParseInt(text(key), 10, 64); err == nil {
			return n
		}
		return otherwise
	}
	d.Died, d.BodySize, d.Reason, d.Topic = m.StoreTimestamp, len(m.Body), text(propDeadReason), text(message.PropDLQTopic)
	d.Attempts = int32(number(propDeadAttempts, int64(m.ReconsumeTimes)))
	d.Redrives = int32(number(propRedrives, 0))
	d.First, d.Last = number(propDeadFirst, 0), number(propDeadLast, 0)
	d.OriginQueue, d.OriginOffset = int32(number(propDeadQueue, -1)), number(propDeadOffset, -1)
	d.UniqueID, d.OriginID = text(message.PropUniqueKey), text(message.PropOriginID)
	d.Keys, d.Tag = text(message.PropKeys), text(message.PropTags)
	if d.Topic == "" {
		d.Topic = text(message.PropRetryTopic)
	}
	return &m, nil
}
