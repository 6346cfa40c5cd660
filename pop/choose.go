package pop

import (
	"fmt"
	"math"

	"github.com/cairnmq/cairn/kvindex"
)

// AnyQueue asks for the checkpoints of all queues.
const AnyQueue int32 = -1

// Expired is a checkpoint whose time has passed: its message may be handed out again. Ref names it, its nonce included.
type Expired struct {
	Ref
	Checkpoint
}

const (
	// lookahead is how far beyond now a look for what is expired walks, in ms. What it finds not to be there spares the next
	// looks the walk: while the floor is above now a look costs no more than a lookup in memory.
	lookahead = 1000
	// maxPassed bounds the checkpoints of other queues that one look at one queue walks past, but for those of one millisecond.
	maxPassed = 1024
	// never is above every time, and such that a little more does not overflow.
	never = math.MaxInt64 / 2
)

// MayHaveExpired says whether Expired may find something in a queue (AnyQueue: in any). It costs no read, and false is certain.
func (s *State) MayHaveExpired(group, topic kvindex.ID, queue int32, now int64) bool {
	floor, _ := s.floors.getIn(place{group, topic}, queue)
	return floor <= now
}

// Expired appends to dst up to most checkpoints of a queue (AnyQueue: of all) that are visible again at now (ms), earliest
// first. For one queue it walks past a bounded number of others: when it finds less than it may and MayHaveExpired is true after it,
// the next call goes on from there.
func (s *State) Expired(group, topic kvindex.ID, queue int32, now int64, most int, dst []Expired) ([]Expired, error) {
	at := place{group, topic}
	floor, epoch := s.floors.getIn(at, queue)
	if floor > now || most <= 0 {
		return dst, nil
	}
	until, end := min(now, never)+lookahead, len(dst)+most
	first, passed, last := until, 0, int64(-1)
	err := s.walk(at, floor, until, func(ref Ref, val []byte) (bool, error) {
		other := queue != AnyQueue && queue != ref.Queue
		if other && ref.VisibleAt <= now && (passed < maxPassed || ref.VisibleAt == last) {
			passed++
			last = ref.VisibleAt
			return true, nil
		}
		first = min(first, ref.VisibleAt)
		if other || ref.VisibleAt > now || len(dst) == end {
			return false, nil
		}
		c, err := decodeCheckpoint(val)
		ref.Nonce = c.Nonce
		dst = append(dst, Expired{Ref: ref, Checkpoint: c})
		return true, err
	})
	if err != nil {
		return dst, err
	}
	s.floors.raiseIn(at, queue, first, epoch)
	return dst, nil
}

// NextVisible is the earliest time (ms) later than after at which a checkpoint of the group on the topic becomes visible; ok is
// false when there is none.
func (s *State) NextVisible(group, topic kvindex.ID, after int64) (visibleAt int64, ok bool, err error) {
	at := place{group, topic}
	floor, epoch := s.floors.get(at)
	from := max(floor, min(after, never-1)+1)
	if from == never {
		return 0, false, nil
	}
	visibleAt = never
	err = s.walk(at, from, never, func(ref Ref, _ []byte) (bool, error) {
		visibleAt = ref.VisibleAt
		return false, nil
	})
	if err != nil {
		return 0, false, err
	}
	if from == floor {
		s.floors.raise(at, visibleAt, epoch)
	}
	return visibleAt, visibleAt != never, nil
}

// CountExpired counts the checkpoints that are visible again at now (ms). It walks through them.
func (s *State) CountExpired(group, topic kvindex.ID, now int64) (n int64, err error) {
	at := place{group, topic}
	floor, _ := s.floors.get(at)
	if floor > now {
		return 0, nil
	}
	err = s.walk(at, floor, min(now, never)+1, func(Ref, []byte) (bool, error) {
		n++
		return true, nil
	})
	return n, err
}

// walk calls f for the checkpoints with from ≤ visible-at < to, in order, until it returns false. The ref has no nonce.
func (s *State) walk(at place, from, to int64, f func(ref Ref, val []byte) (more bool, err error)) error {
	sc := scratches.Get().(*scratch)
	defer scratches.Put(sc)
	sc.lower = kvindex.AppendCheckpointTimeKey(sc.lower[:0], at.group, at.topic, max(from, 0))
	sc.upper = kvindex.AppendCheckpointTimeKey(sc.upper[:0], at.group, at.topic, max(to, 0))
	err := kvindex.EachRow(s.engine, sc.lower, sc.upper, func(key, val []byte) (bool, error) { return f(refOfKey(key), val) })
	if err != nil {
		return fmt.Errorf("pop: read checkpoints of group id %d on topic id %d: %w", at.group, at.topic, err)
	}
	return nil
}
