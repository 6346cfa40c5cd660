package pop

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// model is what groups have in flight, as plain as it can be said.
type model struct {
	topics, groups map[kvindex.ID]bool // that are there
	cursors        map[modelQueue]int64
	inFlight       map[modelMessage]modelCheckpoint
	order          orderModel
	promises       promises
}

type modelQueue struct {
	place
	queue int32
}

type modelMessage struct {
	modelQueue
	offset int64
}

type modelCheckpoint struct {
	visible  int64
	nonce    uint64
	attempts int32
	line     uint64
	// postponed: it was given back.
	postponed bool
}

func newModel() *model {
	return &model{topics: map[kvindex.ID]bool{}, groups: map[kvindex.ID]bool{}, cursors: map[modelQueue]int64{},
		inFlight: map[modelMessage]modelCheckpoint{}, order: newOrderModel(), promises: newPromises()}
}

func (m *model) there(at place) bool { return m.topics[at.topic] && m.groups[at.group] }

// holds says that ref names what is in flight.
func (m *model) holds(at place, ref Ref) (modelMessage, modelCheckpoint, bool) {
	msg := modelMessage{modelQueue{at, ref.Queue}, ref.Offset}
	c, ok := m.inFlight[msg]
	return msg, c, ok && c.visible == ref.VisibleAt && c.nonce == ref.Nonce
}

func (m *model) pop(p *Pop) (done Mask) {
	at := place{p.Group, p.Topic}
	if !m.there(at) {
		return 0
	}
	for _, ref := range p.Dropped {
		if msg, _, ok := m.holds(at, ref); ok {
			m.settled(msg)
		}
	}
	o := &orderedPop{m, p, map[modelLine][]int64{}}
	for i := range p.Discarded {
		o.head(at, &p.Discarded[i], true)
	}
	for i, ref := range p.Again {
		if p.Ordered {
			if o.again(at, ref) {
				done |= 1 << i
			}
		} else if msg, c, ok := m.holds(at, ref); ok {
			m.inFlight[msg] = modelCheckpoint{p.VisibleAt, p.Nonce, c.attempts + 1, c.line, false}
			done |= 1 << i
		}
	}
	item := len(p.Again)
	for i := range p.Unparked {
		if o.head(at, &p.Unparked[i], false) {
			done |= 1 << (item + i)
		}
	}
	item += len(p.Unparked)
	entries, parked := p.Entries, p.Parked
	for _, r := range p.Ranges {
		q := modelQueue{at, r.Queue}
		if next, ok := m.cursors[q]; !ok || next == r.Start {
			m.cursors[q] = r.End
			if p.Ordered {
				done |= o.orderedRange(q, entries[:r.Count], parked[:r.Parked]) << item
			} else {
				for i, e := range entries[:r.Count] {
					m.inFlight[modelMessage{q, e.Offset}] = modelCheckpoint{p.VisibleAt, p.Nonce, 1, 0, false}
					done |= 1 << (item + i)
				}
			}
		}
		item += r.Count
		entries, parked = entries[r.Count:], parked[r.Parked:]
	}
	return done
}

func (m *model) ack(at place, refs []Ref) (done Mask) {
	for i, ref := range refs {
		if msg, _, ok := m.holds(at, ref); ok {
			m.settled(msg)
			done |= 1 << i
		}
	}
	return done
}

func (m *model) extend(at place, moves []Move) (done Mask) {
	for i, move := range moves {
		if msg, c, ok := m.holds(at, move.Ref); ok {
			c.visible, c.postponed = move.To, move.Postponed
			if move.Free && c.attempts > 0 {
				c.attempts--
			}
			m.inFlight[msg] = c
			done |= 1 << i
		}
	}
	return done
}

func (m *model) move(commits []Commit, reset bool) (moved int64) {
	for _, c := range commits {
		q := modelQueue{place{c.Group, c.Topic}, c.Queue}
		if !m.there(q.place) || c.Queue < 0 || c.Offset < 0 {
			continue
		}
		old, was := m.cursors[q]
		m.cursors[q] = c.Offset
		moved++
		switch {
		case reset:
			m.forgetOrder(q, 0)
		case was && c.Offset < old:
			m.forgetOrder(q, c.Offset)
		}
	}
	return moved
}

func (m *model) drop(gone func(place) bool) {
	maps.DeleteFunc(m.cursors, func(q modelQueue, _ int64) bool { return gone(q.place) })
	maps.DeleteFunc(m.inFlight, func(msg modelMessage, _ modelCheckpoint) bool { return gone(msg.place) })
	maps.DeleteFunc(m.order.parked, func(msg modelMessage, _ uint64) bool { return gone(msg.place) })
	maps.DeleteFunc(m.order.ready, func(l modelLine, _ int64) bool { return gone(l.place) })
	m.promises.forget(func(msg modelMessage) bool { return gone(msg.place) })
}

// run is one random run: records are gathered for a batch from what the view says at that time, so that some of them name
// what an earlier one of the same batch changes.
type run struct {
	*machine
	*model
	now     int64
	pending []record.Record
	expect  []record.Outcome // Refused is compared where the model can tell
	handed  []handedOut      // refs that were handed out once
}

type handedOut struct {
	place
	Ref
}

// begin tells the model which batch the next record will be part of.
func (r *run) begin() { r.order.batch = int64(len(r.log) + 1) }

func (r *run) propose(rec record.Record, done int64) {
	r.pending = append(r.pending, rec)
	r.expect = append(r.expect, record.Outcome{Offset: done, Refused: done == 0})
}

func (r *run) applyPending(t *rapid.T) {
	if len(r.pending) == 0 {
		return
	}
	got := r.machine.apply(r.now, r.pending...)
	for i, o := range got {
		kind := r.pending[i].Kind
		if r.expect[i].Offset < 0 {
			continue // not a record of ours
		}
		if o.Offset != r.expect[i].Offset {
			t.Fatalf("%v: outcome %b, want %b", kind, o.Offset, r.expect[i].Offset)
		}
		if kind != record.KindPop && o.Refused != r.expect[i].Refused {
			t.Fatalf("%v: refused is %v", kind, o.Refused)
		}
	}
	r.pending, r.expect = nil, nil
}

func (r *run) place(t *rapid.T) place {
	return place{
		group: rapid.SampledFrom(slices.Sorted(maps.Keys(r.groups))).Draw(t, "group"),
		topic: rapid.SampledFrom(slices.Sorted(maps.Keys(r.topics))).Draw(t, "topic"),
	}
}

// proposePop chooses like a broker would: what is expired, then from the cursors.
func (r *run) proposePop(t *rapid.T) {
	at := r.place(t)
	p := &Pop{Group: at.group, Topic: at.topic, PoppedAt: r.now, Nonce: rapid.Uint64Range(1, 1<<20).Draw(t, "nonce")}
	p.VisibleAt = r.now + rapid.Int64Range(0, 40).Draw(t, "invisible")
	// One of the groups is mostly served in order, the other one mostly not.
	seldom := rapid.IntRange(0, 7).Draw(t, "seldom") == 0
	if ordered := at.group%2 == 0; ordered != seldom {
		r.orderedChoice(t, at, p)
	} else {
		r.plainChoice(t, at, p)
	}
	r.begin()
	passed := r.passedOver(p)
	done := r.pop(p)
	r.propose(p.Record(), int64(done))
	for _, msg := range passed() {
		r.promises.settle(msg)
	}
	refs := slices.Clone(p.Again)
	for _, h := range p.Unparked {
		refs = append(refs, Ref{Queue: h.Queue, Offset: h.Offset})
	}
	for entries, ranges := p.Entries, p.Ranges; len(ranges) > 0; ranges = ranges[1:] {
		for _, e := range entries[:ranges[0].Count] {
			refs = append(refs, Ref{Queue: ranges[0].Queue, Offset: e.Offset})
		}
		entries = entries[ranges[0].Count:]
	}
	for i, ref := range refs {
		if done.Has(i) {
			ref.VisibleAt, ref.Nonce = p.VisibleAt, p.Nonce
			r.handed = append(r.handed, handedOut{at, ref})
			r.promises.handOut(t, modelMessage{modelQueue{at, ref.Queue}, ref.Offset}, p)
		}
	}
}

func (r *run) plainChoice(t *rapid.T, at place, p *Pop) {
	for i, e := range r.expired(at.group, at.topic, r.now) {
		switch {
		case i%7 == 6:
			p.Dropped = append(p.Dropped, e.Ref)
		case len(p.Again) < 8:
			p.Again = append(p.Again, e.Ref)
		}
	}
	for q := range int32(2) {
		start := max(r.next(at.group, at.topic, q), 0)
		rg := Range{Queue: q, Start: start, End: start}
		for range rapid.IntRange(0, 4).Draw(t, "n") {
			if rapid.IntRange(0, 3).Draw(t, "matches") > 0 {
				p.Entries = append(p.Entries, Entry{Offset: rg.End, Position: record.Position(100 * rg.End), Size: 10})
				rg.Count++
			}
			rg.End++
		}
		p.Ranges = append(p.Ranges, rg)
	}
}

// someRefs are refs of one place, good ones and old ones.
func (r *run) someRefs(t *rapid.T) (at place, refs []Ref) {
	at = rapid.SampledFrom(r.handed).Draw(t, "of").place
	for range rapid.IntRange(1, 5).Draw(t, "refs") {
		if h := rapid.SampledFrom(r.handed).Draw(t, "ref"); h.place == at || rapid.IntRange(0, 9).Draw(t, "foreign") == 0 {
			refs = append(refs, h.Ref)
		}
	}
	return at, refs
}

func (r *run) commits(t *rapid.T) (out []Commit) {
	for range rapid.IntRange(1, 3).Draw(t, "commits") {
		at := r.place(t)
		out = append(out, Commit{at.group, at.topic, rapid.Int32Range(-1, 1).Draw(t, "queue"), rapid.Int64Range(-1, 20).Draw(t, "offset")})
	}
	return out
}

// compare looks whether rows and model say the same.
func (r *run) compare(t *rapid.T) {
	cursors := 0
	for q, want := range r.cursors {
		if got := r.next(q.group, q.topic, q.queue); got != want {
			t.Fatalf("%+v: cursor at %d, want %d", q, got, want)
		}
		cursors++
	}
	if n := r.rows(kvindex.SpaceCursor); n != cursors {
		t.Fatalf("%d cursors, want %d", n, cursors)
	}
	total := 0
	for topic := range r.topics {
		for group := range r.groups {
			total += r.comparePlace(t, place{group, topic})
		}
	}
	if total != len(r.model.inFlight) || r.rows(kvindex.SpaceCheckpoint) != total {
		t.Fatalf("%d of %d in flight seen, %d rows", total, len(r.model.inFlight), r.rows(kvindex.SpaceCheckpoint))
	}
}

func (r *run) comparePlace(t *rapid.T, at place) int {
	next, first, expired := int64(-1), int64(-1), int64(0)
	all := r.expired(at.group, at.topic, 1<<50)
	for i, e := range all {
		_, c, ok := r.holds(at, e.Ref)
		if !ok || c.attempts != e.Attempts {
			t.Fatalf("%+v: row %+v, the model has %+v", at, e, c)
		}
		if i == 0 {
			first = e.VisibleAt
		} else if e.VisibleAt < next {
			t.Fatal("not in due order")
		}
		next = e.VisibleAt
		if e.VisibleAt <= r.now {
			expired++
		}
	}
	if n := r.machine.inFlight(at.group, at.topic); n != int64(len(all)) {
		t.Fatalf("%+v: %d in flight, want %d", at, n, len(all))
	}
	if n, err := r.state.CountExpired(at.group, at.topic, r.now); err != nil || n != expired {
		t.Fatalf("%+v: %d expired, want %d (%v)", at, n, expired, err)
	}
	if n := int64(len(r.expired(at.group, at.topic, r.now))); n != expired {
		t.Fatalf("%+v: %d may be taken, want %d", at, n, expired)
	}
	r.compareOrder(t, at)
	r.compareQueues(t, at, all[:expired])
	r.compareShares(t, at)
	visible, ok, err := r.state.NextVisible(at.group, at.topic, r.now)
	later := slices.IndexFunc(all, func(e Expired) bool { return e.VisibleAt > r.now })
	if err != nil || ok != (later >= 0) || ok && visible != all[later].VisibleAt {
		t.Fatalf("%+v: next is visible at %d, %v, %v", at, visible, ok, err)
	}
	visible, ok, err = r.state.NextVisible(at.group, at.topic, -1)
	if err != nil || ok != (len(all) > 0) || ok && visible != first {
		t.Fatalf("%+v: next is visible at %d, %v, %v; want %d", at, visible, ok, err, first)
	}
	return len(all)
}

// The suite "model" of test/all.sh runs this one with ten thousand seeds and more.
func TestRandomRunsAgreeWithTheModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) { randomRun(rt, newMemoryMachine(t)) })
}

// The same on the engine that brokers have, whose crashes are those of its files.
func TestRandomRunsOnDiskAgreeWithTheModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := emptyMachine(t)
		m.open()
		defer func() { _ = m.engine.Close() }()
		randomRun(rt, m)
	})
}

// randomRun is one run of records that two groups on two topics write, one of them mostly served in order.
func randomRun(rt *rapid.T, m *machine) {
	r := &run{machine: m, model: newModel(), now: 1000}
	for i := range 2 {
		r.topics[m.topic(fmt.Sprint("t", i))] = true
		r.groups[m.group(fmt.Sprint("g", i))] = true
	}
	ifHanded := func(f func(*rapid.T)) func(*rapid.T) {
		return func(t *rapid.T) {
			r.begin()
			if len(r.handed) == 0 {
				t.Skip()
			}
			f(t)
		}
	}
	began := func(f func(*rapid.T)) func(*rapid.T) {
		return func(t *rapid.T) {
			r.begin()
			f(t)
		}
	}
	rt.Repeat(map[string]func(*rapid.T){
		"pop": r.proposePop, "pop again": r.proposePop,
		"ack": ifHanded(func(t *rapid.T) {
			at, refs := r.someRefs(t)
			done := r.ack(at, refs)
			r.propose(ackOf(at.group, at.topic, refs...), int64(done))
			for i, ref := range refs {
				if done.Has(i) {
					r.promises.settle(modelMessage{modelQueue{at, ref.Queue}, ref.Offset})
				}
			}
		}),
		"extend": ifHanded(func(t *rapid.T) {
			at, refs := r.someRefs(t)
			var moves []Move
			for _, ref := range refs {
				move := Move{ref, r.now + rapid.Int64Range(0, 40).Draw(t, "to"), rapid.Bool().Draw(t, "free"), rapid.Bool().Draw(t, "postponed")}
				if rapid.IntRange(0, 3).Draw(t, "same") == 0 {
					move.To = ref.VisibleAt
				}
				moves = append(moves, move)
				ref.VisibleAt = move.To
				r.handed = append(r.handed, handedOut{at, ref})
			}
			done := r.extend(at, moves)
			r.propose(moveOf(at.group, at.topic, moves...), int64(done))
			for i, move := range moves {
				if done.Has(i) {
					r.promises.held[modelMessage{modelQueue{at, move.Queue}, move.Offset}] = move.To
				}
			}
		}),
		"commit": began(func(t *rapid.T) { c := r.commits(t); r.propose(CommitRecord(c), r.move(c, false)) }),
		"reset":  began(func(t *rapid.T) { c := r.commits(t); r.propose(ResetRecord(c), r.move(c, true)) }),
		"forget": began(func(t *rapid.T) {
			at := r.place(t)
			gone := int64(0)
			for q := range r.cursors {
				if q.place == at {
					gone++
				}
			}
			r.drop(func(p place) bool { return p == at })
			r.propose(ForgetRecord(at.group, at.topic), gone)
		}),
		"delete": func(t *rapid.T) {
			r.applyPending(t) // the record lists the groups of now
			r.deleteOne(t)
		},
		"advance": func(t *rapid.T) { r.now = max(r.now+rapid.Int64Range(-20, 60).Draw(t, "by"), 0) },
		"apply":   r.applyPending,
		"flush": func(t *rapid.T) {
			if err := m.engine.Flush(); err != nil {
				t.Fatal(err)
			}
		},
		"crash": func(t *rapid.T) {
			r.applyPending(t)
			kept := 0
			if m.memory != nil {
				kept = rapid.IntRange(0, m.memory.unflushed()).Draw(t, "kept")
			}
			m.crash(kept)
		},
		"": func(t *rapid.T) {
			if len(r.pending) == 0 {
				r.compare(t)
			}
		},
	})
	r.applyPending(rt)
	r.compare(rt)
	if err := m.checked(); err != nil {
		rt.Fatal(err)
	}
}

// deleteOne deletes a topic or a group and makes it anew, with a pop for the old one in the same batch.
func (r *run) deleteOne(t *rapid.T) {
	at := r.place(t)
	var old record.Record
	late := popped(at.group, at.topic, 0, max(r.next(at.group, at.topic, 0), 0), max(r.next(at.group, at.topic, 0), 0), r.now, r.now+5, 1)
	if rapid.Bool().Draw(t, "topic") {
		topic, err := r.cat.TopicByID(at.topic)
		if err != nil {
			t.Fatal(err)
		}
		old = r.deleteTopic(topic.Name)
		r.drop(func(p place) bool { return p.topic == at.topic })
		delete(r.topics, at.topic)
		r.machine.apply(r.now, old, late)
		r.topics[r.topic(topic.Name)] = true
		return
	}
	group, err := r.cat.GroupByID(at.group)
	if err != nil {
		t.Fatal(err)
	}
	clean := rapid.Bool().Draw(t, "clean")
	old = r.cat.DeleteGroup(group, clean)
	if clean {
		r.drop(func(p place) bool { return p.group == at.group })
		delete(r.groups, at.group)
		r.machine.apply(r.now, old, late)
	} else {
		r.machine.apply(r.now, old)
	}
	r.groups[kvindex.ID(r.machine.apply(r.now, r.cat.PutGroup(catalog.DefaultGroup(group.Name)))[0].Offset)] = true
}
