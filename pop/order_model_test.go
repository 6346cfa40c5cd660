package pop

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/internal/record"
)

// orderModel says of groups that are served in order what waits, and since which log batch a line is ready.
type orderModel struct {
	parked map[modelMessage]uint64 // the line's ID
	ready  map[modelLine]int64
	batch  int64 // index of the log batch under way
}

type modelLine struct {
	modelQueue
	id uint64
}

func newOrderModel() orderModel {
	return orderModel{parked: map[modelMessage]uint64{}, ready: map[modelLine]int64{}}
}

// flying and waiting are the offsets of a line that are in flight and that wait.
func (m *model) flying(l modelLine) (out []int64) {
	for msg, c := range m.inFlight {
		if msg.modelQueue == l.modelQueue && c.line == l.id {
			out = append(out, msg.offset)
		}
	}
	slices.Sort(out)
	return out
}

func (m *model) waiting(l modelLine) (out []int64) {
	for msg, id := range m.order.parked {
		if msg.modelQueue == l.modelQueue && id == l.id {
			out = append(out, msg.offset)
		}
	}
	slices.Sort(out)
	return out
}

// settle notes whether a line is ready after something of it has changed.
func (m *model) settle(l modelLine) {
	since, was := m.order.ready[l]
	delete(m.order.ready, l)
	if l.id == 0 || len(m.flying(l)) > 0 || len(m.waiting(l)) == 0 {
		return
	}
	if !was {
		since = m.order.batch
	}
	m.order.ready[l] = since
}

// settled deletes what is in flight and settles its line.
func (m *model) settled(msg modelMessage) {
	c := m.inFlight[msg]
	delete(m.inFlight, msg)
	m.settle(modelLine{msg.modelQueue, c.line})
}

// orderedPop is a pop record under way.
type orderedPop struct {
	*model
	p    *Pop
	mine map[modelLine][]int64 // what it hands out, by line
}

// follows says that all of a line that is in flight is handed out by this record.
func (o *orderedPop) follows(l modelLine) bool { return slices.Equal(o.flying(l), o.mine[l]) }

// handOut hands out the next message of a line. Whatever the fold's reasons: nothing earlier may be in flight from before, or wait.
func (o *orderedPop) handOut(msg modelMessage, id uint64, attempts int32) {
	l := modelLine{msg.modelQueue, id}
	for _, offset := range o.flying(l) {
		if offset < msg.offset && !slices.Contains(o.mine[l], offset) {
			panic(fmt.Sprintf("offset %d of %+v goes while %d is in flight", msg.offset, l, offset))
		}
	}
	for _, offset := range o.waiting(l) {
		if offset <= msg.offset {
			panic(fmt.Sprintf("offset %d of %+v goes while %d waits", msg.offset, l, offset))
		}
	}
	o.inFlight[msg] = modelCheckpoint{o.p.VisibleAt, o.p.Nonce, attempts, id, false}
	o.mine[l] = append(o.mine[l], msg.offset)
	o.settle(l)
}

func (o *orderedPop) again(at place, ref Ref) bool {
	msg, c, ok := o.holds(at, ref)
	if !ok {
		return false
	}
	if c.line == 0 {
		o.inFlight[msg] = modelCheckpoint{o.p.VisibleAt, o.p.Nonce, c.attempts + 1, 0, false}
		return true
	}
	l := modelLine{msg.modelQueue, c.line}
	flying := o.flying(l)
	if i := slices.Index(flying, msg.offset); !slices.Equal(flying[:i], o.mine[l]) {
		return false
	}
	o.handOut(msg, c.line, c.attempts+1)
	return true
}

func (o *orderedPop) head(at place, h *Head, discard bool) bool {
	msg := modelMessage{modelQueue{at, h.Queue}, h.Offset}
	l := modelLine{msg.modelQueue, h.ID}
	if since, ready := o.order.ready[l]; len(o.mine[l]) == 0 && (!ready || since != h.Since) || !o.follows(l) || o.order.parked[msg] != h.ID {
		return false
	}
	delete(o.order.parked, msg)
	if discard {
		o.settle(l)
	} else {
		o.handOut(msg, h.ID, 1)
	}
	return true
}

// enter is a new message that is free to go, unless its line is not.
func (o *orderedPop) enter(q modelQueue, e Entry, may bool) bool {
	l := modelLine{q, e.Line}
	msg := modelMessage{q, e.Offset}
	if may && o.follows(l) && len(o.waiting(l)) == 0 {
		o.handOut(msg, e.Line, 1)
		return true
	}
	o.order.parked[msg] = e.Line
	o.settle(l)
	return false
}

// orderedRange answers which of the entries are handed out.
func (o *orderedPop) orderedRange(q modelQueue, entries, parked []Entry) (done Mask) {
	type entry struct {
		Entry
		item int
	}
	var all []entry
	for i, e := range entries {
		all = append(all, entry{e, i})
	}
	for _, e := range parked {
		all = append(all, entry{e, -1})
	}
	slices.SortStableFunc(all, func(a, b entry) int { return cmp.Compare(a.Offset, b.Offset) })
	for _, e := range all {
		if o.enter(q, e.Entry, e.item >= 0) {
			done |= 1 << e.item
		}
	}
	return done
}

// lineOf is the line that a message has in these runs, unless its group is not served in order.
func lineOf(offset int64) uint64 { return uint64(1 + offset*2654435761>>7%3) }

// orderedChoice adds to a pop what a broker would choose for a group that is served in order, from a view that may be old by the time
// the record is applied; and now and then something that it would not.
func (r *run) orderedChoice(t *rapid.T, at place, p *Pop) {
	p.Ordered = true
	expired, err := r.state.Unlined(at.group, at.topic, AnyQueue, r.now, 3, nil)
	if err == nil {
		expired, err = r.state.Turns(at.group, at.topic, AnyQueue, r.now, 8, expired)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range expired {
		switch rapid.IntRange(0, 9).Draw(t, "expired") {
		case 0:
			p.Dropped = append(p.Dropped, e.Ref)
		case 1: // left out, so that those behind it are refused
		default:
			p.Again = append(p.Again, e.Ref)
		}
	}
	heads, err := r.state.Ready(at.group, at.topic, AnyQueue, rapid.IntRange(0, 6).Draw(t, "heads"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range heads {
		if rapid.IntRange(0, 9).Draw(t, "discard") == 0 {
			p.Discarded = append(p.Discarded, h)
		} else {
			p.Unparked = append(p.Unparked, h)
		}
	}
	for q := range int32(2) {
		start := max(r.next(at.group, at.topic, q), 0)
		rg := Range{Queue: q, Start: start, End: start}
		for range rapid.IntRange(0, 6).Draw(t, "n") {
			e := Entry{Offset: rg.End, Position: record.Position(100 * rg.End), Size: 10, Line: lineOf(rg.End)}
			held, err := r.state.HasLine(at.group, at.topic, Line{q, e.Line})
			if err != nil {
				t.Fatal(err)
			}
			if rapid.IntRange(0, 9).Draw(t, "wrong") == 0 {
				held = !held
			}
			switch {
			case rapid.IntRange(0, 5).Draw(t, "matches") == 0:
			case held:
				p.Parked = append(p.Parked, e)
				rg.Parked++
			default:
				p.Entries = append(p.Entries, e)
				rg.Count++
			}
			rg.End++
		}
		p.Ranges = append(p.Ranges, rg)
	}
}

// compareOrder looks whether what waits and what is ready is as the model says.
func (r *run) compareOrder(t *rapid.T, at place) {
	waiting := int64(0)
	for msg := range r.order.parked {
		if msg.place == at {
			waiting++
		}
	}
	c, err := r.state.Counters(at.group, at.topic)
	if err != nil || c.Parked != waiting {
		t.Fatalf("%+v: %d parked, want %d (%v)", at, c.Parked, waiting, err)
	}
	heads, err := r.state.Ready(at.group, at.topic, AnyQueue, 1000, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := map[modelLine][]int64{}
	last := int64(0)
	for _, h := range heads {
		l := modelLine{modelQueue{at, h.Queue}, h.ID}
		if since, ok := r.order.ready[l]; !ok || since != h.Since || h.Since < last {
			t.Fatalf("%+v is ready since %d, want %d (%v); before it %d", l, h.Since, since, ok, last)
		}
		last = h.Since
		got[l] = append(got[l], h.Offset)
	}
	for l := range r.order.ready {
		if l.place == at && !slices.Equal(got[l], r.waiting(l)) {
			t.Fatalf("%+v: %v may go, want %v", l, got[l], r.waiting(l))
		}
	}
	r.compareTurns(t, at)
	if len(heads) > 0 && (!r.state.MayHaveReady(at.group, at.topic) || !r.state.MayHaveTurn(at.group, at.topic, r.now)) {
		t.Fatalf("%+v: nothing may be ready, but %+v is", at, heads)
	}
}

// compareTurns looks whether what may be handed out again is what has nothing before it.
func (r *run) compareTurns(t *rapid.T, at place) {
	turns, err := r.state.Turns(at.group, at.topic, AnyQueue, r.now, 1000, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[Ref]bool{}
	lines := map[modelLine]bool{}
	for msg, c := range r.model.inFlight {
		if msg.place == at && c.line != 0 {
			lines[modelLine{msg.modelQueue, c.line}] = true
		}
	}
	for l := range lines {
		for _, offset := range r.flying(l) {
			c := r.model.inFlight[modelMessage{l.modelQueue, offset}]
			if c.visible > r.now {
				break
			}
			want[Ref{VisibleAt: c.visible, Queue: l.queue, Offset: offset, Nonce: c.nonce}] = true
		}
	}
	for i, e := range turns {
		if !want[e.Ref] {
			t.Fatalf("%+v: it is not the turn of %+v", at, e)
		}
		delete(want, e.Ref)
		if i > 0 && e.Line == turns[i-1].Line && e.Queue == turns[i-1].Queue && e.Offset <= turns[i-1].Offset {
			t.Fatalf("%+v: offset %d comes before %d", at, turns[i-1].Offset, e.Offset)
		}
	}
	if len(want) > 0 {
		t.Fatalf("%+v: the turn of %v is not seen", at, slices.Collect(maps.Keys(want)))
	}
	r.compareUnlined(t, at)
}

func (r *run) compareUnlined(t *rapid.T, at place) {
	expired, err := r.state.Unlined(at.group, at.topic, AnyQueue, r.now, 1000, nil)
	if err != nil {
		t.Fatal(err)
	}
	for msg, c := range r.model.inFlight {
		ref := Ref{VisibleAt: c.visible, Queue: msg.queue, Offset: msg.offset, Nonce: c.nonce}
		is := slices.ContainsFunc(expired, func(e Expired) bool { return e.Ref == ref })
		if msg.place == at && is != (c.line == 0 && c.visible <= r.now) {
			t.Fatalf("%+v: offset %d of line %d is among what is in no line: %v", at, msg.offset, c.line, is)
		}
	}
}

// forgetOrder forgets what waits in a queue from an offset on. Who has chosen from such a line must choose again.
func (m *model) forgetOrder(q modelQueue, from int64) {
	cut := map[modelLine]bool{}
	for msg, id := range m.order.parked {
		if msg.modelQueue == q && msg.offset >= from {
			delete(m.order.parked, msg)
			cut[modelLine{q, id}] = true
		}
	}
	for msg, c := range m.inFlight {
		if msg.modelQueue == q && msg.offset >= from {
			delete(m.inFlight, msg)
			cut[modelLine{q, c.line}] = true
		}
	}
	for l := range cut {
		delete(m.order.ready, l)
		m.settle(l)
	}
	m.promises.forget(func(msg modelMessage) bool { return msg.modelQueue == q && msg.offset >= from })
}
