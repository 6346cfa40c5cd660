package delay

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/kvindex/foldtest"
)

// model is what waits, as plain as it can be said.
type model struct {
	topics   map[kvindex.ID]bool // that are there
	timers   map[Point]Timer
	levels   map[int32]LevelCount
	recalled map[Point]bool
}

func (m *model) sorted() []Timer {
	return slices.SortedFunc(maps.Values(m.timers), func(a, b Timer) int {
		if a.Before(b.Point) {
			return -1
		}
		return 1
	})
}

func (m *model) add(t Timer) {
	m.timers[t.Point] = t
	m.levels[t.Level] = LevelCount{m.levels[t.Level].In + 1, m.levels[t.Level].Out}
}

func (m *model) remove(at Point) (t Timer, ok bool) {
	if t, ok = m.timers[at]; ok {
		delete(m.timers, at)
		m.levels[t.Level] = LevelCount{m.levels[t.Level].In, m.levels[t.Level].Out + 1}
	}
	return t, ok
}

// run is one random run.
type run struct {
	foldtest.Run[*State]
	*model
	origin record.Position
	points []Point // of all timers that ever were
}

func newRun(t testing.TB) *run {
	r := &run{Run: foldtest.Run[*State]{Machine: newMachine(t), Now: base}, model: &model{topics: map[kvindex.ID]bool{},
		timers: map[Point]Timer{}, levels: map[int32]LevelCount{}, recalled: map[Point]bool{}}}
	r.Apply(base, putTopic(1), putTopic(2), putTopic(3))
	r.topics[1], r.topics[2], r.topics[3] = true, true, true
	return r
}

func (r *run) propose(s step, changed int, released ...kvindex.Release) {
	r.Propose(s, foldtest.Changed(changed, released...))
}

func one(ok bool) int {
	if ok {
		return 1
	}
	return 0
}

// Times lie close together, so that timers meet, and around the horizon.
var delays = rapid.OneOf(rapid.Int64Range(-5, 40), rapid.Int64Range(Horizon.Milliseconds()-2, Horizon.Milliseconds()+30),
	rapid.Int64Range(0, 4*Horizon.Milliseconds()))

func (r *run) proposeAdd(t *rapid.T) {
	if len(r.topics) == 0 {
		t.Skip()
	}
	r.origin += record.Position(rapid.IntRange(1, 3).Draw(t, "gap"))
	timer := Timer{
		Point: Point{r.Now + delays.Draw(t, "delay"), r.origin}, Position: r.origin,
		Topic: rapid.SampledFrom(slices.Sorted(maps.Keys(r.topics))).Draw(t, "topic"), Queue: rapid.Int32Range(0, 2).Draw(t, "queue"),
		Size: rapid.Int32Range(1, 1000).Draw(t, "size"), TagHash: int64(rapid.Int32Range(-1, 1).Draw(t, "tag")),
		Level: rapid.Int32Range(0, 2).Draw(t, "level"),
	}
	r.points = append(r.points, timer.Point)
	r.model.add(timer)
	r.propose(add(timer), 1)
}

func (r *run) point(t *rapid.T) Point {
	if len(r.points) == 0 {
		t.Skip()
	}
	if rapid.IntRange(0, 9).Draw(t, "foreign") == 0 {
		return Point{r.Now, r.origin + 1000}
	}
	return rapid.SampledFrom(r.points).Draw(t, "point")
}

func (r *run) proposeFire(t *rapid.T) {
	from, to := Point{}, Point{Due: r.Now + rapid.Int64Range(-30, 3).Draw(t, "to"), Origin: 1 << 40}
	if len(r.points) > 0 && rapid.Bool().Draw(t, "between points") {
		from, to = r.point(t), r.point(t)
	}
	if to.Before(from) {
		from, to = to, from
	}
	var released []kvindex.Release
	if to.Due <= r.Now {
		for _, timer := range r.sorted() {
			if !timer.Before(from) && !to.Before(timer.Point) {
				_, _ = r.remove(timer.Point)
				released = append(released, releaseOf(&timer))
			}
		}
	}
	r.propose(fire(from, to), len(released), released...)
}

func (r *run) proposeTake(t *rapid.T) {
	at := r.point(t)
	if at.Due > r.Now {
		r.propose(take(at), 0)
		return
	}
	if timer, ok := r.remove(at); ok {
		r.propose(take(at), 1, releaseOf(&timer))
		return
	}
	r.propose(take(at), 0)
}

func (r *run) proposeMove(t *rapid.T) {
	at := r.point(t)
	timer, ok := r.timers[at]
	r.origin++
	if ok {
		timer.Position, timer.Size = r.origin, timer.Size+1
		r.timers[at] = timer
	}
	r.propose(move(at, r.origin, timer.Size), one(ok))
}

func (r *run) proposeRecall(t *rapid.T) {
	at, topic := r.point(t), rapid.SampledFrom([]kvindex.ID{1, 2, 3}).Draw(t, "topic")
	timer, ok := r.timers[at]
	if rapid.IntRange(0, 4).Draw(t, "its own topic") > 0 {
		topic = timer.Topic
	}
	if ok = ok && timer.Topic == topic; ok {
		_, _ = r.remove(at)
		r.recalled[at] = true
	}
	r.propose(recall(at, topic), one(ok))
}

// proposeTopic deletes a topic, or makes the next one. Ids are never used again.
func (r *run) proposeTopic(t *rapid.T) {
	if len(r.topics) == 3 {
		gone := rapid.SampledFrom(slices.Sorted(maps.Keys(r.topics))).Draw(t, "deleted")
		delete(r.topics, gone)
		r.Propose(deleteTopic(gone), result{})
		return
	}
	next := kvindex.ID(len(r.points) + 10)
	r.topics[next] = true
	r.Propose(putTopic(next), result{})
}

// apply ends the batch; the next one is later.
func (r *run) apply(t *rapid.T) {
	if err := r.Commit(); err != nil {
		t.Fatal(err)
	}
	r.compare(t)
	r.Now += rapid.OneOf(rapid.Int64Range(0, 30), rapid.Int64Range(0, Horizon.Milliseconds())).Draw(t, "later")
}

// compare looks whether readers see what the model says.
func (r *run) compare(t *rapid.T) {
	want := r.sorted()
	timers, err := dueTimers(r.Fold, 1<<60, 1<<30)
	if err != nil || len(timers) != len(want) {
		t.Fatalf("%d timers, want %d (%v)", len(timers), len(want), err)
	}
	pending, long := map[kvindex.ID]int64{}, 0
	for i := range want {
		if timers[i].Hour != 0 {
			long++
		}
		want[i].Hour = timers[i].Hour // which Check looks at
		if timers[i] != want[i] {
			t.Fatalf("got %+v, want %+v", timers[i], want[i])
		}
		if r.topics[timers[i].Topic] {
			pending[timers[i].Topic]++
		}
	}
	for topic := range r.topics {
		if n, err := r.Fold.Pending(topic); err != nil || n != pending[topic] {
			t.Fatalf("topic %d: %d timers, want %d (%v)", topic, n, pending[topic], err)
		}
	}
	for level, n := range r.levels {
		if got, err := r.Fold.Level(level); level != 0 && (err != nil || got != n) {
			t.Fatalf("level %d: %+v, want %+v (%v)", level, got, n, err)
		}
	}
	err = r.Fold.EachLong(1<<31, func(hour uint32, at Point) bool {
		if timer, ok, err := r.Fold.Get(at); !ok || err != nil || timer.Hour != hour {
			t.Fatalf("listed under hour %d: %+v, %v, %v", hour, timer, ok, err)
		}
		long--
		return true
	})
	if err != nil || long != 0 {
		t.Fatalf("%d long timers more than are listed (%v)", long, err)
	}
	r.compareNext(t, want)
	r.compareRecalled(t)
}

func (r *run) compareNext(t *rapid.T, want []Timer) {
	next, ok, err := r.Fold.Next()
	if err != nil || ok != (len(want) > 0) || ok && next.Point != want[0].Point {
		t.Fatalf("next is %+v, %v, %v", next, ok, err)
	}
	now := slices.IndexFunc(want, func(timer Timer) bool { return timer.Due > r.Now })
	if now < 0 {
		now = len(want)
	}
	timers, err := dueTimers(r.Fold, r.Now, 1000)
	if err != nil || len(timers) != now {
		t.Fatalf("%d due, want %d (%v)", len(timers), now, err)
	}
}

func (r *run) compareRecalled(t *rapid.T) {
	for _, at := range r.points {
		e, ok, err := kvindex.ReadEnded(r.Engine, kvindex.HourOf(at.Due), int64(at.Origin))
		if err != nil || ok != r.recalled[at] || ok && e.Outcome != kvindex.OutcomeRecalled {
			t.Fatalf("%+v ended: %+v, %v, %v", at, e, ok, err)
		}
	}
}

func TestRandomRunsAgreeWithTheModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		sub, end := foldtest.OneRun(t)
		defer end()
		r := newRun(sub)
		rt.Repeat(map[string]func(*rapid.T){
			"add": r.proposeAdd, "add again": r.proposeAdd, "one more": r.proposeAdd, "fire": r.proposeFire, "take": r.proposeTake,
			"move": r.proposeMove, "recall": r.proposeRecall, "topic": r.proposeTopic,
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

// Where one batch ends and the next begins makes no difference to rows and to what is released, as long as the time is the
// same.
func TestBatchBoundariesMakeNoDifference(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		sub, end := foldtest.OneRun(t)
		defer end()
		r := newRun(sub)
		cut := newMachine(sub)
		cut.Apply(base, putTopic(1), putTopic(2), putTopic(3))
		for range rapid.IntRange(1, 4).Draw(rt, "batches") {
			for range rapid.IntRange(1, 12).Draw(rt, "steps") {
				rapid.SampledFrom([]func(*rapid.T){r.proposeAdd, r.proposeAdd, r.proposeFire, r.proposeTake, r.proposeMove,
					r.proposeRecall}).Draw(rt, "step")(rt)
			}
			err := r.CommitInParts(cut, func(left int) int { return rapid.IntRange(1, left).Draw(rt, "in one batch") })
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
