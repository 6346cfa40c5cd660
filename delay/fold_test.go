package delay

import (
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cairnmq/cairn/internal/codec"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

func timer(due int64, origin record.Position) Timer {
	return Timer{Point: Point{due, origin}, Topic: 7, Position: origin, Size: 100}
}

func TestForeignAndBrokenRecordsAreErrors(t *testing.T) {
	m := newMachine(t)
	b := kvindex.NewBatch(m.Engine)
	b.Begin(1, 1, 1)
	for _, r := range []record.Record{
		{Kind: record.KindDelayed}, {Kind: record.KindCopy}, {Kind: record.KindFire}, {Kind: record.KindRecall},
		{Kind: record.KindFire, Payload: []byte{recordForm, 5, 5, 0, 4}}, {Kind: record.KindFire, Payload: []byte{recordForm, 0, 0, 0, 0, 0}},
		{Kind: record.KindFire, Payload: []byte{recordForm + 1, 0, 0, 0, 0}}, {Kind: record.KindRecall, Payload: []byte{recordForm, 1, 1}},
	} {
		if _, err := m.Fold.Apply(b, 0, r); err == nil {
			t.Errorf("%v with payload %x was applied", r.Kind, r.Payload)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

// A fold does not guess what a damaged row said.
func TestDamagedRowsAreErrors(t *testing.T) {
	m := newMachine(t)
	at := Point{1000, 5}
	m.Apply(1, putTopic(7), add(timer(1000, 5)))
	for _, key := range [][]byte{at.appendKey(nil), kvindex.AppendTimerCounterKey(nil, 7)} {
		var good []byte
		m.Spoil(func(w kvindex.Writer) {
			good, _, _ = m.Engine.Get(key, nil)
			w.Set(key, []byte("nonsense!"))
		})
		b := kvindex.NewBatch(m.Engine)
		b.Begin(1, 1, 2000)
		for name, s := range map[string]step{"take": take(at), "recall": recall(at, 7), "fire": everything(2000)} {
			if _, err := s(m.Fold, b, 0); !errors.Is(err, codec.ErrMalformed) {
				t.Errorf("%s with a damaged %x: %v", name, key[0], err)
			}
			b.Begin(1, 1, 2000)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		m.Spoil(func(w kvindex.Writer) { w.Set(key, good) })
	}
	check(t, m)
	m.Spoil(func(w kvindex.Writer) { w.Set(at.appendKey(nil), nil) })
	if _, _, err := m.Fold.Get(at); !errors.Is(err, codec.ErrMalformed) {
		t.Error(err)
	}
	if _, _, err := m.Fold.Next(); !errors.Is(err, codec.ErrMalformed) {
		t.Error(err)
	}
	if _, err := dueTimers(m.Fold, 2000, 1); !errors.Is(err, codec.ErrMalformed) {
		t.Error(err)
	}
}

// A machine whose clock has lost the date begins in the hour 0, which a row takes for none.
func TestLongTimersOfTheFirstHour(t *testing.T) {
	m := newMachine(t)
	due := 2 * Horizon.Milliseconds()
	m.Apply(5, putTopic(7), add(timer(due, 1)), add(timer(due, 2)), add(timer(due, 3)))
	m.Apply(5, recall(Point{due, 1}, 7), move(Point{due, 2}, 100, 100))
	check(t, m)
	m.Apply(due, move(Point{due, 2}, 200, 100), everything(due))
	check(t, m)
}

func TestCheckFindsWhatIsWrong(t *testing.T) {
	const long = 100 * int64(time.Hour/time.Millisecond)
	for name, spoil := range map[string]func(w kvindex.Writer){
		"counter":    func(w kvindex.Writer) { w.Set(kvindex.AppendTimerCounterKey(nil, 7), appendCounter(nil, 3)) },
		"no counter": func(w kvindex.Writer) { w.Delete(kvindex.AppendTimerCounterKey(nil, 7)) },
		"counter of nothing": func(w kvindex.Writer) {
			w.Set(kvindex.AppendTimerCounterKey(nil, 8), appendCounter(nil, 1))
		},
		"damaged counter": func(w kvindex.Writer) { w.Set(kvindex.AppendTimerCounterKey(nil, 7), nil) },
		"timer":           func(w kvindex.Writer) { w.Set(Point{1000, 1}.appendKey(nil), []byte("nonsense")) },
		"lost timer":      func(w kvindex.Writer) { w.Delete(Point{1000, 1}.appendKey(nil)) },
		"not listed":      func(w kvindex.Writer) { w.Delete(kvindex.AppendLongTimerKey(nil, 5, long, 2)) },
		"listed elsewhere": func(w kvindex.Writer) {
			w.Delete(kvindex.AppendLongTimerKey(nil, 5, long, 2))
			w.Set(kvindex.AppendLongTimerKey(nil, 6, long, 2), nil)
		},
		"listed for nothing": func(w kvindex.Writer) { w.Set(kvindex.AppendLongTimerKey(nil, 5, long, 3), nil) },
	} {
		m := newMachine(t)
		m.Apply(5*int64(time.Hour/time.Millisecond), putTopic(7), add(timer(1000, 1)), add(timer(long, 2)))
		check(t, m)
		m.Spoil(spoil)
		if err := Check(m.Engine); err == nil {
			t.Errorf("%s: nothing found", name)
		}
	}
}

// Readers that stop early get no more, and those that begin in the middle nothing from before.
func TestEach(t *testing.T) {
	m := newMachine(t)
	const long = 100 * int64(time.Hour/time.Millisecond)
	other := timer(long, 6)
	other.Topic = 8
	m.Apply(5*int64(time.Hour/time.Millisecond), putTopic(7), putTopic(8), add(timer(10, 5)), add(timer(10, 3)), add(timer(long, 4)), add(other))
	var got []record.Position
	collect := func(most int) func(at record.Position) bool {
		got = nil
		return func(at record.Position) bool {
			got = append(got, at)
			return len(got) < most
		}
	}
	for _, c := range []struct {
		from Point
		most int
		want []record.Position
	}{
		{Point{}, 9, []record.Position{3, 5, 4, 6}}, {Point{}, 2, []record.Position{3, 5}}, {Point{10, 4}, 9, []record.Position{5, 4, 6}},
		{Point{11, 0}, 1, []record.Position{4}}, {Point{long, 7}, 9, nil},
	} {
		f := collect(c.most)
		if err := m.Fold.Each(c.from, func(t *Timer) bool { return f(t.Origin) }); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("from %v: %v, %v", c.from, got, err)
		}
	}
	f := collect(1)
	if err := m.Fold.EachLong(6, func(_ uint32, at Point) bool { return f(at.Origin) }); err != nil || !slices.Equal(got, []record.Position{4}) {
		t.Errorf("long: %v, %v", got, err)
	}
	f = collect(1)
	err := m.Fold.EachPending(func(topic kvindex.ID, _ int64) bool { return f(record.Position(topic)) })
	if err != nil || !slices.Equal(got, []record.Position{7}) {
		t.Errorf("pending: %v, %v", got, err)
	}
	timers, err := dueTimers(m.Fold, 10, 1)
	if err != nil || len(timers) != 1 || timers[0].Origin != 3 {
		t.Errorf("due: %v, %v", timers, err)
	}
}

func told(s *State) bool {
	select {
	case <-s.Changed():
		return true
	default:
		return false
	}
}

// Who waits for the first timer is told of one before it, and of no other.
func TestChangedTellsOfEarlierTimers(t *testing.T) {
	m := newMachine(t)
	next := func(want record.Position) {
		t.Helper()
		timers, err := dueTimers(m.Fold, 1<<60, 1)
		if err != nil || len(timers) != min(int(want), 1) || want != 0 && timers[0].Origin != want {
			t.Fatalf("%+v, %v; want %d", timers, err, want)
		}
	}
	next(0)
	m.Apply(1, putTopic(7), add(timer(1000, 1)))
	if !told(m.Fold) {
		t.Fatal("the first timer woke nobody")
	}
	next(1)
	m.Apply(1, add(timer(1000, 2)), add(timer(2000, 3)))
	m.Apply(1, recall(Point{2000, 3}, 7), move(Point{1000, 1}, 50, 10))
	if told(m.Fold) {
		t.Fatal("woken for nothing")
	}
	m.Apply(1, add(timer(999, 4)))
	m.Apply(1, add(timer(998, 5)))
	if !told(m.Fold) || told(m.Fold) {
		t.Fatal("an earlier timer woke nobody, or twice")
	}
	next(5)
	m.Apply(998, everything(998))
	next(4)
	m.Apply(1000, everything(1000))
	if told(m.Fold) {
		t.Fatal("woken for what an earlier batch added")
	}
	next(0)
	// Late ones, below all that has fired.
	m.Apply(1000, add(timer(10, 6)))
	if timers, err := dueTimers(m.Fold, 1000, 9); err != nil || len(timers) != 1 || !told(m.Fold) {
		t.Fatalf("a timer below the floor is not found: %v, %v", timers, err)
	}
	next(6)
	check(t, m)
}

// One goroutine fires whatever is due next, as told by looks and Changed alone, while timers come at any time: the test hangs
// when one is hidden below the floor or its wake-up is lost.
func TestNoTimerIsOverlooked(t *testing.T) {
	m := newMachine(t)
	const batches, each = 400, 3
	const now = 1 << 40 // all are due
	m.Apply(now, putTopic(7))
	var folder sync.Mutex
	var adder sync.WaitGroup
	adder.Go(func() {
		rng := rand.New(rand.NewPCG(1, 2))
		for i := range batches {
			var steps []step
			for j := range each {
				steps = append(steps, add(timer(1+rng.Int64N(1000), record.Position(1+each*i+j))))
			}
			folder.Lock()
			m.Apply(now, steps...)
			folder.Unlock()
		}
	})
	defer adder.Wait()
	fired := map[record.Position]bool{}
	for len(fired) < batches*each {
		look, err := m.Fold.Look(now, 8, nil)
		if err != nil {
			t.Error(err)
			return
		}
		if len(look.Due) == 0 {
			look.Done(true)
			<-m.Fold.Changed()
			continue
		}
		folder.Lock()
		r := m.Apply(now, fire(look.Due[0].Point, look.Due[len(look.Due)-1].Point))[0]
		folder.Unlock()
		look.Done(true)
		if look.Next == Never && len(fired)+len(r.Released) < batches*each {
			<-m.Fold.Changed() // without another look
		}
		for _, rel := range r.Released {
			if fired[rel.Position] {
				t.Errorf("the timer of origin %d fired twice", rel.Position)
			}
			fired[rel.Position] = true
		}
	}
	adder.Wait()
	check(t, m)
}

// rangeCounter counts the range-deletes of its writers.
type rangeCounter struct {
	kvindex.Engine
	ranges int
}

func (c *rangeCounter) NewWriter() kvindex.Writer { return &countingWriter{c.Engine.NewWriter(), c} }

type countingWriter struct {
	kvindex.Writer
	counter *rangeCounter
}

func (w *countingWriter) DeleteRange(lower, upper []byte) {
	w.counter.ranges++
	w.Writer.DeleteRange(lower, upper)
}

// What fires a thousand times a second must not leave as many ranges to every later iterator.
func TestRangesAreRemovedOnlyWhenManyFire(t *testing.T) {
	for n, want := range map[int]int{1: 0, rangeFrom - 1: 0, rangeFrom: 1} {
		m := newMachine(t)
		steps := []step{putTopic(7)}
		for i := range n {
			steps = append(steps, add(timer(1000, record.Position(i+1))))
		}
		steps = append(steps, move(Point{1000, 1}, 1<<30, 100))
		m.Apply(1, steps...)
		c := &rangeCounter{Engine: m.Engine}
		b := kvindex.NewBatch(c)
		b.Begin(1, 1, 1000)
		if r, err := everything(1000)(m.Fold, b, 0); err != nil || r.Offset != int64(n) {
			t.Fatal(r, err)
		}
		if err := b.Commit(); err != nil {
			t.Fatal(err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		left, err := dueTimers(m.Fold, 2000, 1)
		if c.ranges != want || err != nil || len(left) != 0 {
			t.Errorf("%d fired with %d range-deletes, want %d; left: %v %v", n, c.ranges, want, left, err)
		}
	}
}
