package pop

import (
	"fmt"
	"math"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// fold is what the folder's goroutine needs. Nothing in it outlives a log batch but memory to reuse.
type fold struct {
	// fresh are the checkpoints that the batch under way wrote: who must find all rows of a queue looks through the engine's
	// rows and these.
	fresh []freshRow
	// lows are the earliest visible-at of what was written since the last Publish.
	lows map[place]int64
	// empty are the places that had no checkpoint at some time since the last Publish.
	empty map[place]struct{}
	// moved are the cursors that were written since the last Publish.
	moved []movedCursor

	order orderFold
	// change is what the record under way does to the counters of its group on its topic.
	change Counters
	// began says that the record under way has given its group a first cursor in a queue.
	began bool

	pop     Pop
	ack     Ack
	extend  Extend
	commits []Commit
	key     []byte
	val     []byte
}

type freshRow struct {
	place
	Ref
}

type movedCursor struct {
	queue queue
	to    Cursor
	gone  bool // it was forgotten
}

func (f *fold) applyPop(b *kvindex.Batch, payload []byte) (record.Outcome, error) {
	p := &f.pop
	if err := p.decode(payload); err != nil {
		return record.Outcome{}, err
	}
	at := place{p.Group, p.Topic}
	f.order.mine = f.order.mine[:0]
	var done Mask
	changed := false
	for _, ref := range p.Dropped { // first, since they may be before others of their line
		ok, err := f.remove(b, at, ref)
		if err != nil {
			return record.Outcome{}, err
		}
		changed = changed || ok
	}
	for i, ref := range p.Again {
		ok, err := f.handOutAgain(b, at, ref, p)
		if err != nil {
			return record.Outcome{}, err
		}
		if ok {
			done |= 1 << i
			changed = true
		}
	}
	waited, ok, err := f.applyWaiting(b, at, p)
	if err != nil {
		return record.Outcome{}, err
	}
	done |= waited << len(p.Again)
	changed = changed || ok
	moved, first, err := f.applyRanges(b, at, p)
	if err != nil {
		return record.Outcome{}, err
	}
	done |= first << (len(p.Again) + len(p.Unparked))
	return record.Outcome{Offset: int64(done), Refused: !changed && !moved}, f.count(b, at)
}

// applyRanges moves the cursors past the ranges of a pop, and hands out what it says of them; the mask is of the entries.
func (f *fold) applyRanges(b *kvindex.Batch, at place, p *Pop) (moved bool, done Mask, err error) {
	item, entries, parked := 0, p.Entries, p.Parked
	for _, r := range p.Ranges {
		ok, err := f.movePast(b, at, r)
		if err != nil {
			return false, 0, err
		}
		if ok {
			moved = true
			out := Mask(1<<r.Count - 1)
			if p.Ordered {
				out, err = f.handOutInOrder(b, at, r.Queue, entries[:r.Count], parked[:r.Parked], p)
			} else {
				f.handOut(b, at, r.Queue, entries[:r.Count], p)
			}
			if err != nil {
				return false, 0, err
			}
			done |= out << item
		}
		item += r.Count
		entries, parked = entries[r.Count:], parked[r.Parked:]
	}
	return moved, done, nil
}

// exists says whether group and topic are there.
func (f *fold) exists(b *kvindex.Batch, at place) (bool, error) {
	f.key = kvindex.AppendTopicIDKey(f.key[:0], at.topic)
	_, ok, err := b.Get(f.key)
	if err != nil || !ok {
		return false, err
	}
	f.key = kvindex.AppendGroupIDKey(f.key[:0], at.group)
	_, ok, err = b.Get(f.key)
	return ok, err
}

// handOutAgain moves an expired checkpoint to the pop's time, with one more attempt.
func (f *fold) handOutAgain(b *kvindex.Batch, at place, ref Ref, p *Pop) (bool, error) {
	row, ok, err := f.read(b, at, ref)
	if err == nil && ok && row.Line != 0 {
		ok, err = f.shift(b, at, Line{ref.Queue, row.Line}, ref.Offset, p.VisibleAt, p.Ordered)
	}
	if err != nil || !ok {
		return false, err
	}
	b.SingleDelete(f.key)
	row.Nonce, row.PoppedAt = p.Nonce, p.PoppedAt
	f.postpone(&row, false)
	if row.Attempts < math.MaxInt32 {
		row.Attempts++
	}
	ref.VisibleAt = p.VisibleAt
	f.write(b, at, ref, &row)
	return true, nil
}

// movePast moves the cursor past a range that begins where it stands. A group that has none there yet begins with the range.
func (f *fold) movePast(b *kvindex.Batch, at place, r Range) (bool, error) {
	c, ok, err := f.cursor(b, at, r.Queue)
	if err != nil {
		return false, err
	}
	if !ok {
		ok, err = f.exists(b, at)
		f.began = f.began || ok
	} else {
		ok = c.Next == r.Start
	}
	if err != nil || !ok {
		return false, err
	}
	f.setCursor(b, at, r.Queue, r.End)
	return true, nil
}

// handOut writes the checkpoints of messages that are handed out for the first time.
func (f *fold) handOut(b *kvindex.Batch, at place, queue int32, entries []Entry, p *Pop) {
	for i := range entries {
		e := &entries[i]
		row := Checkpoint{Nonce: p.Nonce, Attempts: 1, Position: e.Position, Size: e.Size, PoppedAt: p.PoppedAt, FirstAt: p.PoppedAt}
		f.add(b, at, Ref{VisibleAt: p.VisibleAt, Queue: queue, Offset: e.Offset}, &row)
	}
}

func (f *fold) applyAck(b *kvindex.Batch, payload []byte) (record.Outcome, error) {
	if err := f.ack.decode(payload); err != nil {
		return record.Outcome{}, err
	}
	at := place{f.ack.Group, f.ack.Topic}
	var done Mask
	for i, ref := range f.ack.Refs {
		ok, err := f.remove(b, at, ref)
		if err != nil {
			return record.Outcome{}, err
		}
		if ok {
			done |= 1 << i
		}
	}
	return record.Outcome{Offset: int64(done), Refused: done == 0}, f.count(b, at)
}

func (f *fold) applyExtend(b *kvindex.Batch, payload []byte) (record.Outcome, error) {
	if err := f.extend.decode(payload); err != nil {
		return record.Outcome{}, err
	}
	at := place{f.extend.Group, f.extend.Topic}
	var done Mask
	for i := range f.extend.Moves {
		ok, err := f.move(b, at, &f.extend.Moves[i])
		if err != nil {
			return record.Outcome{}, err
		}
		if ok {
			done |= 1 << i
		}
	}
	return record.Outcome{Offset: int64(done), Refused: done == 0}, f.count(b, at)
}

func (f *fold) move(b *kvindex.Batch, at place, m *Move) (bool, error) {
	row, ok, err := f.read(b, at, m.Ref)
	if err != nil || !ok {
		return false, err
	}
	was := row
	if m.Free {
		row.Attempts = max(row.Attempts-1, 0)
	}
	f.postpone(&row, m.Postponed)
	if m.To == m.VisibleAt && row == was {
		return true, nil // nothing moves
	}
	b.SingleDelete(f.key)
	if row.Line != 0 {
		if _, err := f.shift(b, at, Line{m.Queue, row.Line}, m.Offset, m.To, false); err != nil {
			return false, err
		}
	}
	ref := m.Ref
	ref.VisibleAt = m.To
	f.write(b, at, ref, &row)
	return true, nil
}

// read finds the row of a checkpoint that still has the nonce of ref, and leaves its key in f.key.
func (f *fold) read(b *kvindex.Batch, at place, ref Ref) (Checkpoint, bool, error) {
	f.key = ref.appendKey(f.key[:0], at)
	val, ok, err := b.Get(f.key)
	if err != nil || !ok {
		return Checkpoint{}, false, err
	}
	row, err := decodeCheckpoint(val)
	return row, err == nil && row.Nonce == ref.Nonce, err
}

// remove deletes the row of a checkpoint that still has the nonce of ref, and takes it out of its line.
//
// Each row is written in one log batch, since its offset is below the cursor from then on and moving the cursor back deletes
// it; therefore a single-delete is enough.
func (f *fold) remove(b *kvindex.Batch, at place, ref Ref) (bool, error) {
	row, ok, err := f.read(b, at, ref)
	if ok {
		b.SingleDelete(f.key)
		f.postpone(&row, false)
		f.change.InFlight--
		if row.Line != 0 {
			err = f.leave(b, at, Line{ref.Queue, row.Line}, ref.Offset)
		}
	}
	return ok, err
}

// postpone notes whether a checkpoint waits because it was given back.
func (f *fold) postpone(row *Checkpoint, postponed bool) {
	if row.Postponed {
		f.change.Postponed--
	}
	if postponed {
		f.change.Postponed++
	}
	row.Postponed = postponed
}

// add writes the checkpoint of a message that had none.
func (f *fold) add(b *kvindex.Batch, at place, ref Ref, row *Checkpoint) {
	f.change.InFlight++
	f.write(b, at, ref, row)
}

func (f *fold) write(b *kvindex.Batch, at place, ref Ref, row *Checkpoint) {
	f.key = ref.appendKey(f.key[:0], at)
	f.val = appendCheckpoint(f.val[:0], row)
	b.Set(f.key, f.val)
	f.fresh = append(f.fresh, freshRow{at, ref})
	if low, ok := f.lows[at]; !ok || ref.VisibleAt < low {
		f.lows[at] = ref.VisibleAt
	}
}

func (f *fold) cursor(b *kvindex.Batch, at place, queue int32) (Cursor, bool, error) {
	f.key = kvindex.AppendCursorKey(f.key[:0], at.group, at.topic, queue)
	val, ok, err := b.Get(f.key)
	if err != nil || !ok {
		return Cursor{}, false, err
	}
	c, err := decodeCursor(val)
	return c, err == nil, err
}

func (f *fold) setCursor(b *kvindex.Batch, at place, queueID int32, offset int64) {
	c := Cursor{Next: offset, Committed: offset}
	f.key = kvindex.AppendCursorKey(f.key[:0], at.group, at.topic, queueID)
	f.val = appendCursor(f.val[:0], c)
	b.Set(f.key, f.val)
	f.moved = append(f.moved, movedCursor{queue: queue{at, queueID}, to: c})
}

func (f *fold) counters(b *kvindex.Batch, at place) (Counters, error) {
	f.key = kvindex.AppendCounterKey(f.key[:0], at.group, at.topic)
	val, ok, err := b.Get(f.key)
	if err != nil || !ok {
		return Counters{}, err
	}
	return decodeCounters(val)
}

// count ends a record: it adds what the record changes to the counters, and notes a group that has nothing in flight.
func (f *fold) count(b *kvindex.Batch, at place) error {
	change, began := f.change, f.began
	f.change, f.began = Counters{}, false
	if change == (Counters{}) && !began {
		return nil
	}
	c, err := f.counters(b, at)
	if err != nil {
		return err
	}
	before := c.InFlight
	c.InFlight += change.InFlight
	if before == 0 || c.InFlight == 0 {
		f.empty[at] = struct{}{}
	}
	if change == (Counters{}) {
		return nil
	}
	c.Parked += change.Parked
	c.Free += change.Free
	c.Postponed += change.Postponed
	if err := c.check(); err != nil {
		return fmt.Errorf("group id %d on topic id %d: %w", at.group, at.topic, err)
	}
	f.key = kvindex.AppendCounterKey(f.key[:0], at.group, at.topic)
	f.val = appendCounters(f.val[:0], c)
	b.Set(f.key, f.val)
	return nil
}
