// Package pop is where groups stand: cursors, popped messages (checkpoints) and how many of them are in flight.
//
// Popping a message moves the group's cursor past it and adds a checkpoint row under the time at which the message becomes
// visible again. An acknowledgement deletes the row, changing the invisible time moves it, and a row whose time has passed
// is simply the next thing that a pop takes: nothing has to revive it.
//
// Order of reading: this file, rows.go and records.go (the bytes), fold.go and forget.go (how records become rows),
// choose.go and floors.go (what a pop may take now), handle.go (receipt handles), moment.go (how much there is of what), check.go
// (what must hold); order.go and its neighbours (groups that are served in order).
//
// Rules of the package:
//   - A message that a group has in flight has exactly one checkpoint, and its offset is below the group's cursor. Moving
//     the cursor back therefore forgets the checkpoints at and above the new place.
//   - A record says what was handed out. It changes nothing where what it names is not as it was when the choice was made:
//     a range that does not begin at the cursor, a checkpoint that is gone or was handed out again since.
//   - The counters of a group on a topic change in the batch that changes the rows which they count.
//   - The fold looks at no clock and keeps nothing that its rows depend on beside the batch under way.
//   - Rows of a group on a topic exist only while both exist: the catalog deletes them with either, and the first row, a
//     cursor, is not written without looking for both. Ids are not reused, so nothing that comes late brings rows back. A place
//     that was forgotten, however, may be taken anew.
package pop

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/internal/viewcache"
	"github.com/cairnmq/cairn/kvindex"
)

// State is the Fold of the pop record kinds and the reads of its rows. Reads are safe for concurrent use and see the latest
// applied state; Apply, Finish and Publish belong to the folder's goroutine.
type State struct {
	engine  kvindex.Engine // only to read from
	cursors *viewcache.Cache[queue, Cursor]
	floors  *floors
	lines   lines
	fold    fold
}

// queue is a group in a queue.
type queue struct {
	place
	queue int32
}

// cachedCursors bounds the cursors that are kept in memory, about 150 bytes each.
const cachedCursors = 16384

// place is a group on a topic.
type place struct{ group, topic kvindex.ID }

// New returns the state that e holds.
func New(e kvindex.Engine) *State {
	return &State{
		engine: e, cursors: viewcache.New[queue, Cursor](cachedCursors), floors: newFloors(),
		lines: newLines(),
		fold: fold{lows: map[place]int64{}, empty: map[place]struct{}{},
			order: orderFold{lowTurns: map[place]int64{}, lowReady: map[place]int64{}}},
	}
}

var _ kvindex.Fold = (*State)(nil)

// Kinds lists the record kinds that the fold applies.
func (s *State) Kinds() []record.Kind {
	return []record.Kind{record.KindCommit, record.KindReset, record.KindForget, record.KindPop, record.KindAck, record.KindExtend}
}

// Apply turns one record into rows. The outcome of pop, ack and extend is a Mask of what was done, that of commit and reset
// the number of cursors that are now where the record says, that of forget how many are gone. Refused: nothing of what the record
// names was there any more.
func (s *State) Apply(b *kvindex.Batch, at record.Position, r record.Record) (record.Outcome, error) {
	f := &s.fold
	var out record.Outcome
	var err error
	switch r.Kind {
	case record.KindPop:
		out, err = f.applyPop(b, r.Payload)
	case record.KindAck:
		out, err = f.applyAck(b, r.Payload)
	case record.KindExtend:
		out, err = f.applyExtend(b, r.Payload)
	case record.KindCommit:
		out, err = f.applyMove(b, r.Payload, false)
	case record.KindReset:
		out, err = f.applyMove(b, r.Payload, true)
	case record.KindForget:
		out, err = f.applyForget(b, r.Payload)
	default:
		return record.Outcome{}, fmt.Errorf("pop: record of kind %v at %d is not pop's", r.Kind, at)
	}
	if err != nil {
		return record.Outcome{}, fmt.Errorf("pop: %v record at %d: %w", r.Kind, at, err)
	}
	return out, nil
}

// Finish ends the batch: each Apply has left its rows complete.
func (s *State) Finish(*kvindex.Batch) error {
	s.floors.announce(s.fold.lows)
	s.fold.fresh = s.fold.fresh[:0]
	s.fold.order.freshLines, s.fold.order.freshParked = s.fold.order.freshLines[:0], s.fold.order.freshParked[:0]
	return nil
}

// Publish lets the floors and the cached cursors follow the batch that was just committed. The folder calls it after the
// commit and before it answers whoever proposed the records.
func (s *State) Publish() {
	s.floors.lower(s.fold.lows, s.fold.empty)
	s.lines.publish(&s.fold)
	clear(s.fold.lows)
	clear(s.fold.empty)
	if len(s.fold.moved) == 0 {
		return
	}
	s.cursors.Publish(func(c viewcache.Publisher[queue, Cursor]) {
		for _, m := range s.fold.moved {
			if m.gone {
				c.Forget(m.queue)
			} else {
				c.Set(m.queue, m.to)
			}
		}
	})
	s.fold.moved = s.fold.moved[:0]
}

// scratch is room for one read.
type scratch struct{ lower, upper, val []byte }

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// Cursor is where a group stands in a queue.
type Cursor struct {
	Next      int64 // next offset that a pop hands out
	Committed int64 // what the group committed (pull) or popped up to (pop)
}

// Cursor reads where a group stands; ok is false when it never had a cursor there. For a group or topic that was deleted it
// may still answer where it stood.
func (s *State) Cursor(group, topic kvindex.ID, queueID int32) (c Cursor, ok bool, err error) {
	at := queue{place{group, topic}, queueID}
	c, ok, epoch := s.cursors.Get(at)
	if ok {
		return c, true, nil
	}
	sc := scratches.Get().(*scratch)
	defer scratches.Put(sc)
	sc.lower = kvindex.AppendCursorKey(sc.lower[:0], group, topic, queueID)
	val, ok, err := s.engine.Get(sc.lower, sc.val)
	if err != nil {
		return Cursor{}, false, fmt.Errorf("pop: read cursor of group id %d on topic id %d: %w", group, topic, err)
	}
	if !ok {
		return Cursor{}, false, nil
	}
	sc.val = val
	if c, err = decodeCursor(val); err != nil {
		return Cursor{}, false, err
	}
	s.cursors.Fill(at, c, epoch)
	return c, true, nil
}

// EachCursor lists a group's cursors in key order (topic 0: of all topics) until f returns false.
func (s *State) EachCursor(group, topic kvindex.ID, f func(topic kvindex.ID, queue int32, c Cursor) bool) error {
	prefix := kvindex.AppendCursorGroupPrefix(nil, group)
	if topic != 0 {
		prefix = kvindex.AppendCursorTopicPrefix(nil, group, topic)
	}
	err := kvindex.EachRow(s.engine, prefix, kvindex.PrefixEnd(prefix), func(key, val []byte) (bool, error) {
		c, err := decodeCursor(val)
		if err != nil {
			return false, err
		}
		return f(kvindex.ID(binary.BigEndian.Uint64(key[9:])), int32(binary.BigEndian.Uint32(key[17:])), c), nil
	})
	if err != nil {
		return fmt.Errorf("pop: list cursors of group id %d: %w", group, err)
	}
	return nil
}

// Counters reads the counters of a group on a topic.
func (s *State) Counters(group, topic kvindex.ID) (Counters, error) {
	sc := scratches.Get().(*scratch)
	defer scratches.Put(sc)
	sc.lower = kvindex.AppendCounterKey(sc.lower[:0], group, topic)
	val, ok, err := s.engine.Get(sc.lower, sc.val)
	if err != nil {
		return Counters{}, fmt.Errorf("pop: read counters of group id %d on topic id %d: %w", group, topic, err)
	}
	if !ok {
		return Counters{}, nil
	}
	sc.val = val
	return decodeCounters(val)
}

// InFlight is the number of checkpoints of a group on a topic, those that are visible again included.
func (s *State) InFlight(group, topic kvindex.ID) (int64, error) {
	c, err := s.Counters(group, topic)
	return c.InFlight, err
}
