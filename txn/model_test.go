package txn

import (
	"cmp"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/kvindex/foldtest"
)

// model is what is not decided, as plain as it can be said.
type model struct {
	topics map[kvindex.ID]bool // that are there
	halves map[record.Position]Half
	ended  map[record.Position]kvindex.Outcome // a commit is the store's to remember
}

// sorted lists the half messages that are parked, or those that are not, by position.
func (m *model) sorted(parked bool) (out []Half) {
	for _, at := range slices.Sorted(maps.Keys(m.halves)) {
		if h := m.halves[at]; (h.Reason != NotParked) == parked {
			out = append(out, h)
		}
	}
	return out
}

// note says whether a check changes anything.
func (m *model) note(c Check) bool {
	h, ok := m.halves[c.Position]
	if !ok || h.Reason != NotParked {
		return false
	}
	if !c.Free {
		h.Checks++
	}
	h.CheckAt, h.Reason = c.Next, c.Park
	if c.Park != NotParked {
		h.CheckAt = 0
	}
	m.halves[c.Position] = h
	return true
}

// end says what an end comes to.
func (m *model) end(e End) result {
	h, ok := m.halves[e.Position]
	if !ok {
		return foldtest.Changed(0)
	}
	delete(m.halves, e.Position)
	switch e.Action {
	case Rollback:
		m.ended[e.Position] = kvindex.OutcomeRolledBack
	case Expire:
		m.ended[e.Position] = kvindex.OutcomeExpired
	case Commit:
		return foldtest.Changed(1, kvindex.Release{Topic: h.Topic, Queue: h.Queue, Position: h.Position, Size: h.Size,
			TagHash: h.TagHash, Due: e.Due, Half: true, Hour: kvindex.HourOf(h.Stored)})
	}
	return foldtest.Changed(1)
}

// run is one random run.
type run struct {
	foldtest.Run[*State]
	*model
	last record.Position
	were []Half // all half messages that ever were, as they were added
}

func newRun(t testing.TB) *run {
	r := &run{Run: foldtest.Run[*State]{Machine: newMachine(t), Now: base}, model: &model{topics: map[kvindex.ID]bool{},
		halves: map[record.Position]Half{}, ended: map[record.Position]kvindex.Outcome{}}}
	for _, id := range []kvindex.ID{1, 2, 3} {
		r.topics[id] = true
		r.Apply(base, putTopic(id))
	}
	return r
}

// Checks lie close together, so that they meet; some were due before their half message came.
var (
	waits   = rapid.OneOf(rapid.Int64Range(-5, 40), rapid.Int64Range(0, 7_200_000))
	actions = rapid.SampledFrom([]Action{Commit, Commit, Rollback, Expire})
	reasons = rapid.SampledFrom([]Reason{NotParked, NotParked, NotParked, NoAnswer, NoProducer, ParkedByOps})
)

func (r *run) proposeAdd(t *rapid.T) {
	if len(r.topics) == 0 {
		t.Skip()
	}
	r.last += record.Position(rapid.IntRange(1, 3).Draw(t, "gap"))
	h := Half{
		Position: r.last, CheckAt: r.Now + waits.Draw(t, "wait"), Stored: r.Now, ID: rapid.Uint64().Draw(t, "id"),
		Topic: rapid.SampledFrom(slices.Sorted(maps.Keys(r.topics))).Draw(t, "topic"), Queue: rapid.Int32Range(0, 2).Draw(t, "queue"),
		Size: rapid.Int32Range(1, 1000).Draw(t, "size"), TagHash: int64(rapid.Int32Range(-1, 1).Draw(t, "tag")),
		Delayed: rapid.Bool().Draw(t, "delayed"), Group: rapid.SampledFrom([]string{"", "g", "a longer group"}).Draw(t, "group"),
	}
	r.were = append(r.were, h)
	r.halves[h.Position] = h
	r.Propose(add(h), foldtest.Changed(1))
}

// position is mostly of a half message that was there once; of the last ones rather than of others, so that what one batch does
// to the same half message is often much.
func (r *run) position(t *rapid.T) record.Position {
	if len(r.were) == 0 || rapid.IntRange(0, 9).Draw(t, "foreign") == 0 {
		return r.last + 1000
	}
	among := r.were
	if rapid.Bool().Draw(t, "a late one") {
		among = among[max(0, len(among)-3):]
	}
	return rapid.SampledFrom(among).Draw(t, "half").Position
}

func (r *run) proposeEnd(t *rapid.T) { r.endOf(t, r.position(t)) }

func (r *run) endOf(t *rapid.T, at record.Position) {
	e := End{Position: at, Action: actions.Draw(t, "action")}
	if e.Action == Commit && rapid.Bool().Draw(t, "delayed") {
		e.Due = r.Now + 1 + max(0, waits.Draw(t, "delay"))
	}
	r.Propose(end(e.Position, e.Action, e.Due), r.model.end(e))
}

func (r *run) proposeChecks(t *rapid.T) {
	r.checksOf(t, func() record.Position { return r.position(t) })
}

func (r *run) checksOf(t *rapid.T, position func() record.Position) {
	var checks []Check
	changed := 0
	for range rapid.IntRange(0, 4).Draw(t, "checks") {
		c := Check{Position: position(), Free: rapid.Bool().Draw(t, "free"), Park: reasons.Draw(t, "park"),
			Next: r.Now + waits.Draw(t, "next")}
		if r.note(c) {
			changed++
		}
		checks = append(checks, c)
	}
	r.Propose(note(checks...), foldtest.Changed(changed))
}

// proposeStory does several things to one half message.
func (r *run) proposeStory(t *rapid.T) {
	at := r.position(t)
	for range rapid.IntRange(2, 5).Draw(t, "turns") {
		if rapid.IntRange(0, 2).Draw(t, "turn") == 0 {
			r.endOf(t, at)
		} else {
			r.checksOf(t, func() record.Position { return at })
		}
	}
}

// proposeTopic deletes a topic, or makes the next one. Ids are never used again.
func (r *run) proposeTopic(t *rapid.T) {
	if len(r.topics) == 3 {
		gone := rapid.SampledFrom(slices.Sorted(maps.Keys(r.topics))).Draw(t, "deleted")
		delete(r.topics, gone)
		r.Propose(deleteTopic(gone), result{})
		return
	}
	r.last++
	next := kvindex.ID(r.last + 10)
	r.topics[next] = true
	r.Propose(putTopic(next), result{})
}

// apply ends the batch; the next one is later.
func (r *run) apply(t *rapid.T) {
	if err := r.Commit(); err != nil {
		t.Fatal(err)
	}
	r.compare(t)
	r.Now += rapid.OneOf(rapid.Int64Range(0, 30), rapid.Int64Range(0, 7_200_000)).Draw(t, "later")
}

// compare looks whether readers see what the model says.
func (r *run) compare(t *rapid.T) {
	counts := map[kvindex.ID]Count{}
	for _, parked := range []bool{false, true} {
		var got []Half
		err := r.Fold.Each(parked, 0, func(h *Half) bool {
			got = append(got, *h)
			return true
		})
		want := r.sorted(parked)
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("parked %v: got %+v, want %+v (%v)", parked, got, want, err)
		}
		for _, h := range want {
			n := counts[h.Topic]
			if parked {
				n.Parked++
			} else {
				n.Open++
			}
			counts[h.Topic] = n
		}
	}
	r.compareCounts(t, counts)
	r.compareChecks(t)
	for _, h := range r.were {
		want, waits := r.halves[h.Position]
		if got, ok, err := r.Fold.Get(h.Position); err != nil || ok != waits || got != want {
			t.Fatalf("got %+v, %v, %v, want %+v", got, ok, err, want)
		}
		outcome, ended := r.ended[h.Position]
		e, ok, err := kvindex.ReadEnded(r.Engine, kvindex.HourOf(h.Stored), int64(h.Position))
		if err != nil || ok != ended || e != (kvindex.Ended{Outcome: outcome}) {
			t.Fatalf("%d ended: %+v, %v, %v, want %v", h.Position, e, ok, err, outcome)
		}
	}
}

func (r *run) compareCounts(t *rapid.T, want map[kvindex.ID]Count) {
	for topic := range r.topics {
		if n, err := r.Fold.Count(topic); err != nil || n != want[topic] {
			t.Fatalf("topic %d has %+v, want %+v (%v)", topic, n, want[topic], err)
		}
	}
	maps.DeleteFunc(want, func(topic kvindex.ID, _ Count) bool { return !r.topics[topic] })
	got := map[kvindex.ID]Count{}
	err := r.Fold.EachCount(func(topic kvindex.ID, n Count) bool {
		got[topic] = n
		return true
	})
	if err != nil || !maps.Equal(got, want) {
		t.Fatalf("got %+v, want %+v (%v)", got, want, err)
	}
}

func (r *run) compareChecks(t *rapid.T) {
	want := r.sorted(false)
	slices.SortStableFunc(want, func(a, b Half) int { return cmp.Compare(a.CheckAt, b.CheckAt) })
	next, ok, err := r.Fold.NextCheck()
	if err != nil || ok != (len(want) > 0) || ok && next != want[0].CheckAt {
		t.Fatalf("the next check is at %d, %v, %v, want %+v", next, ok, err, want)
	}
	now := slices.IndexFunc(want, func(h Half) bool { return h.CheckAt > r.Now })
	if now >= 0 {
		want = want[:now]
	}
	most := rapid.IntRange(1, 8).Draw(t, "most")
	due, err := r.Fold.Due(r.Now, most, nil)
	if want = want[:min(most, len(want))]; err != nil || !slices.Equal(due, want) {
		t.Fatalf("due are %+v, want %+v (%v)", due, want, err)
	}
}

func TestRandomRunsAgreeWithTheModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		sub, end := foldtest.OneRun(t)
		defer end()
		r := newRun(sub)
		rt.Repeat(map[string]func(*rapid.T){
			"add": r.proposeAdd, "add again": r.proposeAdd, "end": r.proposeEnd, "checks": r.proposeChecks, "story": r.proposeStory,
			"topic": r.proposeTopic,
			"apply": r.apply,
			"flush": func(*rapid.T) { r.Flush() },
			"crash": func(t *rapid.T) { r.apply(t); r.Crash(); r.compare(t) },
			"":      func(*rapid.T) {},
		})
		r.apply(rt)
		if err := r.Check(); err != nil {
			rt.Fatal(err)
		}
	})
}

// Where one batch ends and the next begins makes no difference to rows and to what is released.
func TestBatchBoundariesMakeNoDifference(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		sub, end := foldtest.OneRun(t)
		defer end()
		r, cut := newRun(sub), newRun(sub)
		for range rapid.IntRange(1, 4).Draw(rt, "batches") {
			for range rapid.IntRange(1, 12).Draw(rt, "steps") {
				rapid.SampledFrom([]func(*rapid.T){r.proposeAdd, r.proposeAdd, r.proposeEnd, r.proposeChecks,
					r.proposeStory}).Draw(rt, "step")(rt)
			}
			err := r.CommitInParts(cut.Machine, func(left int) int { return rapid.IntRange(1, left).Draw(rt, "in one batch") })
			if err != nil {
				rt.Fatal(err)
			}
			r.apply(rt)
		}
		if a, b := r.Hex(), cut.Hex(); a != b {
			rt.Fatalf("as one batch:\n%s\nin parts:\n%s", a, b)
		}
	})
}
