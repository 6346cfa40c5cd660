package pop

import (
	"fmt"

	"github.com/cairnmq/cairn/kvindex"
)

// orderFold is what the fold needs for lines.
type orderFold struct {
	line lineRow // the one under way
	was  waiting // what waited in it when it was read
	key  []byte
	val  []byte
	// mine says how many messages at the front of a line the pop record under way hands out.
	mine []lineCount
	// freshLines and freshParked are what the batch under way wrote, as fold.fresh.
	freshLines  []freshLine
	freshParked []freshParked
	// lowTurns and lowReady are the first places in the two lists that were written since the last Publish.
	lowTurns, lowReady map[place]int64
}

// waiting is what waits in a line: parked messages, and those of them that may go.
type waiting struct{ parked, free int64 }

func (r *lineRow) waiting() waiting {
	w := waiting{parked: r.parked}
	if len(r.flights) == 0 {
		w.free = r.parked
	}
	return w
}

type lineCount struct {
	Line
	n int
}

type freshLine struct {
	place
	Line
}

type freshParked struct {
	freshLine
	offset int64
}

// handedOut is how many messages of a line the record under way hands out.
func (o *orderFold) handedOut(l Line) int {
	for i := range o.mine {
		if o.mine[i].Line == l {
			return o.mine[i].n
		}
	}
	return 0
}

func (o *orderFold) handOut(l Line) {
	for i := range o.mine {
		if o.mine[i].Line == l {
			o.mine[i].n++
			return
		}
	}
	o.mine = append(o.mine, lineCount{l, 1})
}

// readLine reads a line into f.order.line and answers its turn; nothing in flight and nothing parked when there is no row.
func (f *fold) readLine(b *kvindex.Batch, at place, l Line) (turn, error) {
	o := &f.order
	o.key = kvindex.AppendOrderLineKey(o.key[:0], at.group, at.topic, kvindex.OrderLine, l.Queue, l.ID)
	val, ok, err := b.Get(o.key)
	if err != nil {
		return turn{}, err
	}
	if !ok {
		o.line, o.was = lineRow{flights: o.line.flights[:0]}, waiting{}
		return turn{}, nil
	}
	if err := o.line.decode(val); err != nil {
		return turn{}, fmt.Errorf("group id %d on topic id %d queue %d: %w", at.group, at.topic, l.Queue, err)
	}
	o.was = o.line.waiting()
	return o.line.turn(), nil
}

// writeLine writes f.order.line, which had that turn, and its place in the lists, and counts what waits. A line that becomes ready is
// so since this batch.
func (f *fold) writeLine(b *kvindex.Batch, at place, l Line, was turn) {
	o := &f.order
	waits := o.line.waiting()
	f.change.Parked += waits.parked - o.was.parked
	f.change.Free += waits.free - o.was.free
	switch {
	case len(o.line.flights) > 0:
		o.line.since = 0
	case was.kind != kvindex.OrderReady:
		o.line.since = int64(b.Index())
	}
	if o.line.parked == 0 {
		o.line.from = 0
	}
	is := o.line.turn()
	o.key = kvindex.AppendOrderLineKey(o.key[:0], at.group, at.topic, kvindex.OrderLine, l.Queue, l.ID)
	if is.kind == 0 {
		b.Delete(o.key)
	} else {
		o.val = appendLine(o.val[:0], &o.line)
		b.Set(o.key, o.val)
		o.freshLines = append(o.freshLines, freshLine{at, l})
	}
	if is == was {
		return
	}
	// A line comes to a place once and leaves it before it comes there again.
	if was.kind != 0 {
		o.key = kvindex.AppendOrderPlaceKey(o.key[:0], at.group, at.topic, was.kind, was.since, l.Queue, l.ID)
		b.SingleDelete(o.key)
	}
	if is.kind == 0 {
		return
	}
	o.key = kvindex.AppendOrderPlaceKey(o.key[:0], at.group, at.topic, is.kind, is.since, l.Queue, l.ID)
	lows := o.lowTurns
	o.val = o.val[:0]
	if is.kind == kvindex.OrderReady {
		lows = o.lowReady
		o.val = appendReady(o.val, o.line.from)
	}
	b.Set(o.key, o.val)
	if low, ok := lows[at]; !ok || is.since < low {
		lows[at] = is.since
	}
}

// leave takes what was in flight out of its line.
func (f *fold) leave(b *kvindex.Batch, at place, l Line, offset int64) error {
	was, err := f.readLine(b, at, l)
	if err != nil {
		return err
	}
	line := &f.order.line
	i := line.find(offset)
	if i < 0 {
		return f.notInLine(at, l, offset)
	}
	line.flights = append(line.flights[:i], line.flights[i+1:]...)
	f.writeLine(b, at, l, was)
	return nil
}

// shift changes the time at which what is in flight becomes visible. For a pop in order it does so only when the record hands out
// everything before it as well.
func (f *fold) shift(b *kvindex.Batch, at place, l Line, offset, to int64, inOrder bool) (bool, error) {
	was, err := f.readLine(b, at, l)
	if err != nil {
		return false, err
	}
	line := &f.order.line
	i := line.find(offset)
	if i < 0 {
		return false, f.notInLine(at, l, offset)
	}
	if inOrder {
		if i != f.order.handedOut(l) {
			return false, nil
		}
		f.order.handOut(l)
	}
	line.flights[i].visibleAt = to
	f.writeLine(b, at, l, was)
	return true, nil
}

func (f *fold) notInLine(at place, l Line, offset int64) error {
	return fmt.Errorf("group id %d on topic id %d: offset %d of queue %d is not in its line: %w", at.group, at.topic, offset,
		l.Queue, errMalformed)
}

// follow adds a message to what is in flight of f.order.line, when all of that is handed out by this record.
func (f *fold) follow(l Line, offset, visibleAt int64) bool {
	line := &f.order.line
	n := len(line.flights)
	if n != f.order.handedOut(l) || n > 0 && line.flights[n-1].offset >= offset {
		return false
	}
	line.flights = append(line.flights, flight{offset, visibleAt})
	f.order.handOut(l)
	return true
}

// handOutInOrder hands out those entries of a range whose line is free and parks the others, in the order of their offsets. It
// answers which were handed out.
func (f *fold) handOutInOrder(b *kvindex.Batch, at place, queue int32, entries, parked []Entry, p *Pop) (done Mask, err error) {
	for i := 0; i < len(entries) || len(parked) > 0; {
		if i == len(entries) || len(parked) > 0 && parked[0].Offset < entries[i].Offset {
			if _, err := f.enter(b, at, queue, &parked[0], nil); err != nil {
				return 0, err
			}
			parked = parked[1:]
			continue
		}
		ok, err := f.enter(b, at, queue, &entries[i], p)
		if err != nil {
			return 0, err
		}
		if ok {
			done |= 1 << i
		}
		i++
	}
	return done, nil
}

// enter hands out a message that comes to its line, or parks it: always when there is no pop.
func (f *fold) enter(b *kvindex.Batch, at place, queue int32, e *Entry, p *Pop) (handedOut bool, err error) {
	l := Line{queue, e.Line}
	was, err := f.readLine(b, at, l)
	if err != nil {
		return false, err
	}
	o := &f.order
	if p != nil && o.line.parked == 0 && f.follow(l, e.Offset, p.VisibleAt) {
		f.writeLine(b, at, l, was)
		row := Checkpoint{Nonce: p.Nonce, Attempts: 1, Position: e.Position, Size: e.Size, PoppedAt: p.PoppedAt, FirstAt: p.PoppedAt,
			Line: e.Line}
		f.add(b, at, Ref{VisibleAt: p.VisibleAt, Queue: queue, Offset: e.Offset}, &row)
		return true, nil
	}
	o.key = kvindex.AppendOrderParkedKey(o.key[:0], at.group, at.topic, queue, e.Line, e.Offset)
	o.val = appendParked(o.val[:0], e.Position, e.Size)
	b.Set(o.key, o.val)
	o.freshParked = append(o.freshParked, freshParked{freshLine{at, l}, e.Offset})
	if o.line.parked == 0 {
		o.line.from = e.Offset
	}
	o.line.parked++
	f.writeLine(b, at, l, was)
	return false, nil
}

// unpark hands out the first message that waits in a line, or with discard passes it over for good. The line must be ready since
// the batch that the head names, or be one that this record hands out from.
func (f *fold) unpark(b *kvindex.Batch, at place, h *Head, p *Pop, discard bool) (bool, error) {
	was, err := f.readLine(b, at, h.Line)
	if err != nil {
		return false, err
	}
	o := &f.order
	if mine := o.handedOut(h.Line); mine == 0 && was != (turn{kvindex.OrderReady, h.Since}) || mine != len(o.line.flights) {
		return false, nil
	}
	key := kvindex.AppendOrderParkedKey(f.key[:0], at.group, at.topic, h.Queue, h.ID, h.Offset)
	f.key = key
	val, ok, err := b.Get(key)
	if err != nil || !ok {
		return false, err
	}
	position, size, err := decodeParked(val)
	if err != nil || !discard && !f.follow(h.Line, h.Offset, p.VisibleAt) {
		return false, err
	}
	b.SingleDelete(key)
	if !discard { // what is before it has gone
		o.line.from = h.Offset + 1
	}
	o.line.parked--
	f.writeLine(b, at, h.Line, was)
	if !discard {
		row := Checkpoint{Nonce: p.Nonce, Attempts: 1, Position: position, Size: size, PoppedAt: p.PoppedAt, FirstAt: p.PoppedAt, Line: h.ID}
		f.add(b, at, Ref{VisibleAt: p.VisibleAt, Queue: h.Queue, Offset: h.Offset}, &row)
	}
	return true, nil
}

// applyWaiting does what a pop record says of messages that waited; the mask is of those that are handed out.
func (f *fold) applyWaiting(b *kvindex.Batch, at place, p *Pop) (done Mask, changed bool, err error) {
	for i := range p.Discarded {
		ok, err := f.unpark(b, at, &p.Discarded[i], p, true)
		if err != nil {
			return 0, false, err
		}
		changed = changed || ok
	}
	for i := range p.Unparked {
		ok, err := f.unpark(b, at, &p.Unparked[i], p, false)
		if err != nil {
			return 0, false, err
		}
		if ok {
			done |= 1 << i
		}
	}
	return done, changed || done != 0, nil
}

// ---- forgetting ----

// forgetOrder takes the messages of each queue in froms whose offset is at least the one given there out of their lines. The
// checkpoints are the caller's.
func (f *fold) forgetOrder(b *kvindex.Batch, at place, froms map[int32]int64) error {
	any, all := false, true
	err := f.eachLine(b, at, func(l Line) (bool, error) {
		from, ok := froms[l.Queue]
		any, all = true, ok && from == 0
		return all, nil
	})
	if err != nil || !any {
		return err
	}
	if all { // the usual reset, of all queues: nothing is left of any line
		return f.forgetAllOrder(b, at)
	}
	err = f.eachLine(b, at, func(l Line) (bool, error) {
		from, ok := froms[l.Queue]
		if !ok {
			return true, nil
		}
		return true, f.cutLine(b, at, l, from)
	})
	if err != nil {
		return err
	}
	for queue, from := range froms {
		if from == 0 { // cutLine has left these
			prefix := kvindex.AppendOrderQueuePrefix(nil, at.group, at.topic, kvindex.OrderParked, queue)
			b.DeleteRange(prefix, kvindex.PrefixEnd(prefix))
		}
	}
	return f.count(b, at)
}

func (f *fold) forgetAllOrder(b *kvindex.Batch, at place) error {
	c, err := f.counters(b, at)
	if err != nil {
		return err
	}
	prefix := kvindex.AppendOrderTopicPrefix(nil, at.group, at.topic)
	b.DeleteRange(prefix, kvindex.PrefixEnd(prefix))
	f.change.Parked, f.change.Free = -c.Parked, -c.Free
	return f.count(b, at)
}

// cutLine takes what is at and behind an offset out of a line. With 0 it leaves the rows of what waits. What stays ready is so since
// this batch: who has chosen from it before must choose again.
func (f *fold) cutLine(b *kvindex.Batch, at place, l Line, from int64) error {
	was, err := f.readLine(b, at, l)
	if err != nil || was.kind == 0 {
		return err
	}
	gone := f.order.line.parked
	if from > 0 {
		if gone, err = f.forgetParked(b, at, l, from); err != nil {
			return err
		}
	}
	o := &f.order
	kept := 0
	for kept < len(o.line.flights) && o.line.flights[kept].offset < from {
		kept++
	}
	if gone == 0 && kept == len(o.line.flights) {
		return nil
	}
	o.line.flights = o.line.flights[:kept]
	o.line.parked -= gone
	if was.kind == kvindex.OrderReady {
		o.key = kvindex.AppendOrderPlaceKey(o.key[:0], at.group, at.topic, was.kind, was.since, l.Queue, l.ID)
		b.SingleDelete(o.key)
		was = turn{}
	}
	f.writeLine(b, at, l, was)
	return nil
}

// forgetParked deletes what waits in a line at and behind an offset.
func (f *fold) forgetParked(b *kvindex.Batch, at place, l Line, from int64) (gone int64, err error) {
	forget := func(key []byte) error {
		_, ok, err := b.Get(key)
		if err == nil && ok {
			b.SingleDelete(key)
			gone++
		}
		return err
	}
	lower := kvindex.AppendOrderParkedKey(nil, at.group, at.topic, l.Queue, l.ID, from)
	upper := kvindex.PrefixEnd(kvindex.AppendOrderLineKey(nil, at.group, at.topic, kvindex.OrderParked, l.Queue, l.ID))
	err = kvindex.EachRow(b.Engine(), lower, upper, func(key, _ []byte) (bool, error) { return true, forget(key) })
	for i := 0; i < len(f.order.freshParked) && err == nil; i++ {
		if p := &f.order.freshParked[i]; p.freshLine == (freshLine{at, l}) && p.offset >= from {
			f.key = kvindex.AppendOrderParkedKey(f.key[:0], at.group, at.topic, l.Queue, l.ID, p.offset)
			err = forget(f.key)
		}
	}
	return gone, err
}

// eachLine calls do for the lines of a group on a topic, until it returns false, as fold.eachRow does for checkpoints: some come
// twice, and some that are gone.
func (f *fold) eachLine(b *kvindex.Batch, at place, do func(Line) (more bool, err error)) error {
	more := true
	prefix := kvindex.AppendOrderKindPrefix(nil, at.group, at.topic, kvindex.OrderLine)
	err := kvindex.EachRow(b.Engine(), prefix, kvindex.PrefixEnd(prefix), func(key, _ []byte) (_ bool, err error) {
		more, err = do(lineOfKey(key))
		return more, err
	})
	for i := 0; i < len(f.order.freshLines) && more && err == nil; i++ {
		if fresh := &f.order.freshLines[i]; fresh.place == at {
			more, err = do(fresh.Line)
		}
	}
	return err
}
