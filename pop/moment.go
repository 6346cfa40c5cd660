package pop

import (
	"errors"
	"fmt"

	"github.com/cairnmq/cairn/kvindex"
)

// Moment is how a group stands on a topic as all rows said it together, so that nothing is counted twice or not at all. It keeps
// rows that are gone from being cleaned away: Close it soon. Not for concurrent use.
type Moment struct {
	at    place
	rows  kvindex.Snapshot
	floor int64 // ms: there are no checkpoints below
	key   []byte
	val   []byte
	line  lineRow
}

// Share says where messages are that a group was handed or has parked, and not settled. Each is counted once.
type Share struct {
	Ready     int64 // may be handed out: visible again, or parked in a line of which nothing is in flight
	InFlight  int64 // a consumer has it
	Postponed int64 // was given back, to become visible later
	Parked    int64 // waits for an earlier one of its line
}

// Sum is the number of all.
func (s Share) Sum() int64 { return s.Ready + s.InFlight + s.Postponed + s.Parked }

// QueueShare is the share of one queue.
type QueueShare struct {
	Share
	First int64 // the first offset of those that are counted, at or behind the one that was asked for; −1 when there is none
}

// Moment begins one.
func (s *State) Moment(group, topic kvindex.ID) *Moment {
	at := place{group, topic}
	w := s.floors.watch(at)
	rows := s.engine.NewSnapshot()
	return &Moment{at: at, rows: rows, floor: s.floors.end(w)}
}

// Close ends it.
func (m *Moment) Close() error { return m.rows.Close() }

func (m *Moment) failed(err error) error {
	return fmt.Errorf("pop: count what group id %d has of topic id %d: %w", m.at.group, m.at.topic, err)
}

// get reads the value of m.key into m.val.
func (m *Moment) get() (ok bool, err error) {
	val, ok, err := m.rows.Get(m.key, m.val)
	m.val = val
	if err != nil {
		err = m.failed(err)
	}
	return ok, err
}

// Cursor is State.Cursor.
func (m *Moment) Cursor(queue int32) (c Cursor, ok bool, err error) {
	m.key = kvindex.AppendCursorKey(m.key[:0], m.at.group, m.at.topic, queue)
	if ok, err = m.get(); err == nil && ok {
		c, err = decodeCursor(m.val)
	}
	return c, ok, err
}

// Counters is State.Counters.
func (m *Moment) Counters() (c Counters, err error) {
	m.key = kvindex.AppendCounterKey(m.key[:0], m.at.group, m.at.topic)
	ok, err := m.get()
	if err == nil && ok {
		c, err = decodeCounters(m.val)
	}
	return c, err
}

// Share is made from the counters, which know no time. It walks through what is visible again at now (ms) or through what is not, whichever
// is less; with lines, always through the former.
func (m *Moment) Share(now int64) (Share, error) {
	c, err := m.Counters()
	if err != nil {
		return Share{}, err
	}
	s := Share{Ready: c.Free, InFlight: c.InFlight - c.Postponed, Postponed: c.Postponed, Parked: c.Parked - c.Free}
	if c.InFlight == 0 {
		return s, nil
	}
	if lined, err := m.hasLines(); err != nil {
		return s, err
	} else if !lined {
		visible, postponed, err := m.countVisible(now, c)
		s.Ready += visible
		s.Postponed -= postponed
		s.InFlight -= visible - postponed
		return s, err
	}
	err = m.eachCheckpoint(min(now, never)+1, func(ref Ref, c *Checkpoint) error {
		if c.Postponed {
			s.Postponed--
		} else {
			s.InFlight--
		}
		return m.addVisible(&s, ref, c, now)
	})
	return s, err
}

// hasLines says whether something of the group is in order.
func (m *Moment) hasLines() (any bool, err error) {
	prefix := kvindex.AppendOrderKindPrefix(nil, m.at.group, m.at.topic, kvindex.OrderLine)
	err = kvindex.EachRow(m.rows, prefix, kvindex.PrefixEnd(prefix), func(_, _ []byte) (bool, error) {
		any = true
		return false, nil
	})
	if err != nil {
		err = m.failed(err)
	}
	return any, err
}

// countVisible counts, of all checkpoints (c), those that are visible at now, and of these the postponed ones. It goes through those that
// are and those that are not at the same time, and stops when either is at its end.
func (m *Moment) countVisible(now int64, c Counters) (visible, postponed int64, err error) {
	between := kvindex.AppendCheckpointTimeKey(nil, m.at.group, m.at.topic, max(min(now, never)+1, m.floor))
	front, err := m.rows.NewIter(kvindex.AppendCheckpointTimeKey(nil, m.at.group, m.at.topic, m.floor), between)
	if err != nil {
		return 0, 0, m.failed(err)
	}
	back, err := m.rows.NewIter(between, kvindex.PrefixEnd(kvindex.AppendCheckpointTopicPrefix(nil, m.at.group, m.at.topic)))
	if err != nil {
		return 0, 0, m.failed(errors.Join(err, front.Close()))
	}
	are, areNot := counting{it: front}, counting{it: back}
	for more := true; more && err == nil; {
		if more, err = are.step(); err == nil && more {
			more, err = areNot.step()
		}
	}
	if err = errors.Join(err, front.Close(), back.Close()); err != nil {
		return 0, 0, m.failed(err)
	}
	if are.over {
		return are.n, are.postponed, nil
	}
	return c.InFlight - areNot.n, c.Postponed - areNot.postponed, nil
}

// counting goes through checkpoints one by one.
type counting struct {
	it           kvindex.Iter
	n, postponed int64
	over         bool
}

// step counts one more; false when there is none.
func (c *counting) step() (bool, error) {
	ok := false
	if c.n == 0 {
		ok = c.it.First()
	} else {
		ok = c.it.Next()
	}
	if !ok {
		c.over = true
		return false, c.it.Error()
	}
	cp, err := decodeCheckpoint(c.it.Value())
	c.n++
	if cp.Postponed {
		c.postponed++
	}
	return true, err
}

// Shares counts the rows of each queue; queues of which there is nothing are left out. It walks through everything in flight and
// through all lines, but not through what is parked. first says behind which offset QueueShare.First is looked for: what is before
// it is gone.
func (m *Moment) Shares(now int64, first func(queue int32) (int64, error)) (map[int32]*QueueShare, error) {
	c := &census{m: m, first: first, queues: map[int32]*QueueShare{}, lows: map[int32]int64{}}
	err := m.eachCheckpoint(never, func(ref Ref, cp *Checkpoint) error {
		s, err := c.found(ref.Queue, ref.Offset)
		switch {
		case err != nil:
			return err
		case ref.VisibleAt <= now:
			return m.addVisible(&s.Share, ref, cp, now)
		case cp.Postponed:
			s.Postponed++
		default:
			s.InFlight++
		}
		return nil
	})
	if err == nil {
		err = c.lines()
	}
	return c.queues, err
}

// addVisible counts a checkpoint that is visible again.
func (m *Moment) addVisible(s *Share, ref Ref, c *Checkpoint, now int64) error {
	held, err := m.heldUp(ref, c, now)
	if held {
		s.Parked++
	} else {
		s.Ready++
	}
	return err
}

// heldUp says whether something before a checkpoint of its line is still invisible.
func (m *Moment) heldUp(ref Ref, c *Checkpoint, now int64) (bool, error) {
	if c.Line == 0 {
		return false, nil
	}
	m.key = kvindex.AppendOrderLineKey(m.key[:0], m.at.group, m.at.topic, kvindex.OrderLine, ref.Queue, c.Line)
	ok, err := m.get()
	if err != nil || !ok {
		return false, err
	}
	if err := m.line.decode(m.val); err != nil {
		return false, m.failed(err)
	}
	for _, fl := range m.line.flights {
		if fl.offset >= ref.Offset {
			break
		}
		if fl.visibleAt > now {
			return true, nil
		}
	}
	return false, nil
}

// eachCheckpoint calls f for those that are visible before a time (ms), in order. f must not keep what it is given.
func (m *Moment) eachCheckpoint(before int64, f func(Ref, *Checkpoint) error) error {
	lower := kvindex.AppendCheckpointTimeKey(nil, m.at.group, m.at.topic, m.floor)
	upper := kvindex.PrefixEnd(kvindex.AppendCheckpointTopicPrefix(nil, m.at.group, m.at.topic))
	if before < never {
		upper = kvindex.AppendCheckpointTimeKey(nil, m.at.group, m.at.topic, max(before, 0))
	}
	var c Checkpoint
	err := kvindex.EachRow(m.rows, lower, upper, func(key, val []byte) (_ bool, err error) {
		if c, err = decodeCheckpoint(val); err != nil {
			return false, err
		}
		return true, f(refOfKey(key), &c)
	})
	if err != nil {
		return m.failed(err)
	}
	return nil
}

// census counts by queue.
type census struct {
	m      *Moment
	first  func(queue int32) (int64, error)
	queues map[int32]*QueueShare
	lows   map[int32]int64 // what first has answered
}

// found is the share of a queue in which an offset was found; −1: one that is not known.
func (c *census) found(queue int32, offset int64) (*QueueShare, error) {
	s := c.queues[queue]
	if s == nil {
		low, err := c.first(queue)
		if err != nil {
			return nil, err
		}
		s = &QueueShare{First: -1}
		c.queues[queue], c.lows[queue] = s, low
	}
	if offset >= c.lows[queue] && (s.First < 0 || offset < s.First) {
		s.First = offset
	}
	return s, nil
}

// lines counts what is parked.
func (c *census) lines() error {
	m := c.m
	prefix := kvindex.AppendOrderKindPrefix(nil, m.at.group, m.at.topic, kvindex.OrderLine)
	err := kvindex.EachRow(m.rows, prefix, kvindex.PrefixEnd(prefix), func(key, val []byte) (bool, error) {
		if err := m.line.decode(val); err != nil {
			return false, err
		}
		l, waits := lineOfKey(key), m.line.waiting()
		if waits.parked == 0 {
			return true, nil
		}
		s, err := c.found(l.Queue, -1)
		if err != nil {
			return false, err
		}
		s.Ready += waits.free
		s.Parked += waits.parked - waits.free
		// What is in flight is before all that is parked, and was found already.
		low := c.lows[l.Queue]
		if n := len(m.line.flights); n > 0 && m.line.flights[n-1].offset >= low {
			return true, nil
		}
		offset, err := c.firstParked(l, max(m.line.from, low))
		if err == nil {
			_, err = c.found(l.Queue, offset)
		}
		return true, err
	})
	if err != nil {
		return m.failed(err)
	}
	return nil
}

// firstParked is the first offset that waits in a line, from one on; −1 when there is none.
func (c *census) firstParked(l Line, from int64) (offset int64, err error) {
	at := c.m.at
	offset = -1
	lower := kvindex.AppendOrderParkedKey(nil, at.group, at.topic, l.Queue, l.ID, from)
	err = kvindex.EachRow(c.m.rows, lower, kvindex.PrefixEnd(lower[:len(lower)-8]), func(key, _ []byte) (bool, error) {
		offset = offsetOfParked(key)
		return false, nil
	})
	return offset, err
}
