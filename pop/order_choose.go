package pop

import (
	"fmt"
	"sync/atomic"

	"github.com/cairnmq/cairn/kvindex"
)

// lines are what reads remember of lines. The two lists have floors as the checkpoints have.
type lines struct {
	turns *floors // in ms
	ready *floors // in log batches
	// rest are floors of the checkpoints that are in no line.
	rest *floors
	// any says whether there are lines at all: groups that are not served in order need not look for what an earlier time has
	// left to them.
	any atomic.Int32
}

// Values of lines.any.
const (
	linesUnknown int32 = iota
	linesNone
	linesSome // or there were since the start
)

func newLines() lines { return lines{turns: newFloors(), ready: newFloors(), rest: newFloors()} }

// publish follows a batch that was committed.
func (l *lines) publish(f *fold) {
	if len(f.order.lowTurns)+len(f.order.lowReady) > 0 {
		l.any.Store(linesSome)
	}
	l.rest.lower(f.lows, nil)
	l.turns.lower(f.order.lowTurns, nil)
	l.ready.lower(f.order.lowReady, nil)
	clear(f.order.lowTurns)
	clear(f.order.lowReady)
}

// MayHaveReady says whether Ready may find something, for a group that need not be served in order. Mostly it costs no read, and
// false is certain.
func (s *State) MayHaveReady(group, topic kvindex.ID) bool {
	if s.lines.any.Load() == linesUnknown {
		found := linesNone
		err := kvindex.EachRow(s.engine, spaceStart(kvindex.SpaceOrder), spaceEnd(kvindex.SpaceOrder), func(_, _ []byte) (bool, error) {
			found = linesSome
			return false, nil
		})
		if err != nil {
			return true // the look finds out
		}
		s.lines.any.CompareAndSwap(linesUnknown, found) // unless the folder has written one meanwhile
	}
	if s.lines.any.Load() == linesNone {
		return false
	}
	floor, _ := s.lines.ready.get(place{group, topic})
	return floor != never
}

// MayHaveTurn says whether Unlined, Turns or Ready may find something for a group that is served in order. It costs no read, and
// false is certain.
func (s *State) MayHaveTurn(group, topic kvindex.ID, now int64) bool {
	at := place{group, topic}
	for _, f := range []*floors{s.lines.turns, s.lines.rest} {
		if floor, _ := f.get(at); floor <= now {
			return true
		}
	}
	floor, _ := s.lines.ready.get(at)
	return floor != never
}

// Turns appends to dst up to most checkpoints of lines, of a queue (AnyQueue: of all), that are visible again at now (ms) and have
// nothing before them in their line that is not: the line whose turn came first is first, and what is of one line is together.
func (s *State) Turns(group, topic kvindex.ID, queue int32, now int64, most int, dst []Expired) ([]Expired, error) {
	at := place{group, topic}
	floor, epoch := s.lines.turns.get(at)
	if floor > now || most <= 0 {
		return dst, nil
	}
	until, end := min(now, never)+lookahead, len(dst)+most
	first := until
	err := s.walkPlaces(at, kvindex.OrderTurn, floor, until, func(since int64, l Line, _ []byte) (more bool, err error) {
		first = min(first, since)
		if since > now || len(dst) >= end {
			return false, nil
		}
		if queue == AnyQueue || queue == l.Queue {
			dst, err = s.turnOf(at, l, now, end, dst)
		}
		return true, err
	})
	if err != nil {
		return dst, err
	}
	s.lines.turns.raise(at, first, epoch)
	return dst, nil
}

// turnOf appends the checkpoints at the front of a line that are visible again, until dst has end.
func (s *State) turnOf(at place, l Line, now int64, end int, dst []Expired) ([]Expired, error) {
	sc := scratches.Get().(*scratch)
	defer scratches.Put(sc)
	sc.lower = kvindex.AppendOrderLineKey(sc.lower[:0], at.group, at.topic, kvindex.OrderLine, l.Queue, l.ID)
	val, ok, err := s.engine.Get(sc.lower, sc.val)
	if err != nil || !ok {
		return dst, err
	}
	sc.val = val
	var line lineRow
	if err := line.decode(val); err != nil {
		return dst, err
	}
	for _, fl := range line.flights {
		if fl.visibleAt > now || len(dst) >= end {
			break
		}
		ref := Ref{VisibleAt: fl.visibleAt, Queue: l.Queue, Offset: fl.offset}
		sc.lower = ref.appendKey(sc.lower[:0], at)
		val, ok, err := s.engine.Get(sc.lower, sc.val)
		if err != nil || !ok { // the line was changed meanwhile
			return dst, err
		}
		sc.val = val
		c, err := decodeCheckpoint(val)
		if err != nil {
			return dst, err
		}
		ref.Nonce = c.Nonce
		dst = append(dst, Expired{Ref: ref, Checkpoint: c})
	}
	return dst, nil
}

// Ready appends to dst up to most messages that wait in lines, of a queue (AnyQueue: of all), of which nothing is in flight: the
// line that is ready since longest is first, and its messages follow each other in order.
func (s *State) Ready(group, topic kvindex.ID, queue int32, most int, dst []Head) ([]Head, error) {
	at := place{group, topic}
	floor, epoch := s.lines.ready.get(at)
	if floor == never || most <= 0 {
		return dst, nil
	}
	first, end := int64(never), len(dst)+most
	err := s.walkPlaces(at, kvindex.OrderReady, floor, never, func(since int64, l Line, val []byte) (bool, error) {
		first = min(first, since)
		if len(dst) >= end {
			return false, nil
		}
		if queue != AnyQueue && queue != l.Queue {
			return true, nil
		}
		from, err := decodeReady(val)
		if err == nil {
			dst, err = s.headsOf(at, l, since, from, end, dst)
		}
		return true, err
	})
	if err != nil {
		return dst, err
	}
	s.lines.ready.raise(at, first, epoch)
	return dst, nil
}

// headsOf appends what waits in a line from an offset on, until dst has end.
func (s *State) headsOf(at place, l Line, since, from int64, end int, dst []Head) ([]Head, error) {
	lower := kvindex.AppendOrderParkedKey(nil, at.group, at.topic, l.Queue, l.ID, from)
	upper := kvindex.PrefixEnd(lower[:len(lower)-8])
	err := kvindex.EachRow(s.engine, lower, upper, func(key, val []byte) (bool, error) {
		if len(dst) >= end {
			return false, nil
		}
		position, size, err := decodeParked(val)
		dst = append(dst, Head{Line: l, Since: since, Offset: offsetOfParked(key), Position: position, Size: size})
		return true, err
	})
	return dst, err
}

// walkPlaces calls f for the lines whose place in a list is from ≤ place < to, in order, until it returns false.
func (s *State) walkPlaces(at place, kind kvindex.OrderKind, from, to int64,
	f func(since int64, l Line, val []byte) (more bool, err error),
) error {
	sc := scratches.Get().(*scratch)
	defer scratches.Put(sc)
	sc.lower = kvindex.AppendOrderSinceKey(sc.lower[:0], at.group, at.topic, kind, max(from, 0))
	sc.upper = kvindex.AppendOrderSinceKey(sc.upper[:0], at.group, at.topic, kind, max(to, 0))
	err := kvindex.EachRow(s.engine, sc.lower, sc.upper, func(key, val []byte) (bool, error) {
		since, l := placeOfTurn(key)
		return f(since, l, val)
	})
	if err != nil {
		return fmt.Errorf("pop: read the order of group id %d on topic id %d: %w", at.group, at.topic, err)
	}
	return nil
}

// HasLine says whether something of a line is in flight or waits: what comes to the line now has to wait.
func (s *State) HasLine(group, topic kvindex.ID, l Line) (bool, error) {
	sc := scratches.Get().(*scratch)
	defer scratches.Put(sc)
	sc.lower = kvindex.AppendOrderLineKey(sc.lower[:0], group, topic, kvindex.OrderLine, l.Queue, l.ID)
	val, ok, err := s.engine.Get(sc.lower, sc.val)
	if err != nil {
		return false, fmt.Errorf("pop: read a line of group id %d on topic id %d: %w", group, topic, err)
	}
	if ok {
		sc.val = val
	}
	return ok, nil
}

// maxSkipped bounds the checkpoints of lines that one look for others walks past, but for those of one millisecond.
const maxSkipped = 512

// Unlined is Expired without the checkpoints of lines: what a group has in flight from before it was served in order. It walks past
// a bounded number of others, and goes on from there the next time.
func (s *State) Unlined(group, topic kvindex.ID, queue int32, now int64, most int, dst []Expired) ([]Expired, error) {
	at := place{group, topic}
	floor, epoch := s.lines.rest.get(at)
	if floor > now || most <= 0 {
		return dst, nil
	}
	until, end, skipped := min(now, never)+lookahead, len(dst)+most, 0
	first, last := until, int64(-1)
	err := s.walk(at, floor, until, func(ref Ref, val []byte) (bool, error) {
		c, err := decodeCheckpoint(val)
		if err != nil {
			return false, err
		}
		if c.Line != 0 && ref.VisibleAt <= now && (skipped < maxSkipped || ref.VisibleAt == last) {
			skipped++
			last = ref.VisibleAt
			return true, nil
		}
		first = min(first, ref.VisibleAt)
		if c.Line != 0 || ref.VisibleAt > now || len(dst) == end {
			return false, nil
		}
		if queue == AnyQueue || queue == ref.Queue {
			ref.Nonce = c.Nonce
			dst = append(dst, Expired{Ref: ref, Checkpoint: c})
		}
		return true, nil
	})
	if err != nil {
		return dst, err
	}
	s.lines.rest.raise(at, first, epoch)
	return dst, nil
}
