package pop

import (
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cairnmq/cairn/kvindex"
)

// While readers look, the folder writes rows below and above what they have seen, and deletes others. A floor that is raised
// above a row that a reader did not see would hide that row for good.
func TestFloorsNeverHideARow(t *testing.T) {
	m := newMachine(t)
	topic, group := m.topic("t"), m.group("g")
	stop := make(chan struct{})
	var readers sync.WaitGroup
	t.Cleanup(func() {
		close(stop)
		readers.Wait()
	})
	for range 2 {
		readers.Go(func() {
			var buf []Expired
			for now := int64(0); ; now = (now + 37) % 1000 {
				select {
				case <-stop:
					return
				default:
				}
				var err error
				if buf, err = m.state.Expired(group, topic, AnyQueue, now, 4, buf[:0]); err != nil {
					t.Error(err)
					return
				}
				if _, _, err = m.state.NextVisible(group, topic, -1); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	rng := rand.New(rand.NewPCG(1, 2))
	var live []Ref
	for i := int64(0); i < 500; i++ {
		visible := 5000 - rng.Int64N(min(i+1, 5000))
		m.apply(i, popped(group, topic, 0, i, i, 0, visible, 1))
		live = append(live, Ref{VisibleAt: visible, Offset: i, Nonce: 1})
		for len(live) > 3 {
			at := rng.IntN(len(live))
			m.apply(i, ackOf(group, topic, live[at]))
			live[at] = live[len(live)-1]
			live = live[:len(live)-1]
		}
		if got := m.expired(group, topic, 10_000); len(got) != len(live) {
			t.Fatalf("step %d: %d of %d rows are found", i, len(got), len(live))
		}
	}
	m.check()
}

// A look must not walk over what was acknowledged, however much that was: after the first look the floor is above it.
func TestFloorsSkipWhatWasAcknowledged(t *testing.T) {
	m := newMachine(t)
	topic, group := m.topic("t"), m.group("g")
	floor := func() int64 {
		at, _ := m.state.floors.get(place{group, topic})
		return at
	}
	if got := m.expired(group, topic, 500); len(got) != 0 || floor() != 500+lookahead {
		t.Fatalf("%v, floor %d", got, floor())
	}
	m.apply(1, popped(group, topic, 0, 0, 1, 1, 700, 1))
	if floor() != 700 {
		t.Fatalf("floor %d above a row", floor())
	}
	m.apply(1, popped(group, topic, 0, 2, 2, 1, 90_000, 1))
	m.apply(1, ackOf(group, topic, Ref{VisibleAt: 700, Nonce: 1}, Ref{VisibleAt: 700, Offset: 1, Nonce: 1}))
	if got := m.expired(group, topic, 800); len(got) != 0 || floor() != 800+lookahead {
		t.Fatalf("%v, floor %d", got, floor())
	}
	if at, ok, err := m.state.NextVisible(group, topic, -1); err != nil || !ok || at != 90_000 || floor() != 90_000 {
		t.Fatalf("%d %v %v, floor %d", at, ok, err, floor())
	}
	if at, ok, err := m.state.NextVisible(group, topic, 90_000); err != nil || ok {
		t.Fatalf("%d %v %v after the last one", at, ok, err)
	}
	// The clock may jump back: nothing below the floor is there, and what comes there lowers it.
	if got := m.expired(group, topic, 10); len(got) != 0 || floor() != 90_000 {
		t.Fatalf("%v, floor %d", got, floor())
	}
	m.apply(1, popped(group, topic, 0, 3, 3, 1, 5, 1))
	if got := m.expired(group, topic, 10); len(got) != 1 || floor() != 5 {
		t.Fatalf("%v, floor %d", got, floor())
	}
	m.apply(1, ackOf(group, topic, Ref{VisibleAt: 5, Offset: 3, Nonce: 1}, Ref{VisibleAt: 90_000, Offset: 2, Nonce: 1}))
	if _, ok, err := m.state.NextVisible(group, topic, -1); err != nil || ok || floor() != never {
		t.Fatalf("%v %v, floor %d", ok, err, floor())
	}
}

// When a group has nothing in flight no look is needed to know it: not when it is new, and not when all was acknowledged. In a batch that
// leaves nothing the floor is where its rows were, or above.
func TestFloorsOfGroupsThatHaveNothing(t *testing.T) {
	m := newMachine(t)
	topic, group := m.topic("t"), m.group("g")
	floor := func() int64 {
		at, _ := m.state.floors.get(place{group, topic})
		return at
	}
	want := func(what string, want int64) {
		t.Helper()
		if got := floor(); got != want {
			t.Errorf("%s: the floor is at %d, want %d", what, got, want)
		}
	}
	m.apply(1, (&Pop{Group: group, Topic: topic, Ranges: []Range{{Queue: 0, Start: 0, End: 0}, {Queue: 1, Start: 5, End: 5}}}).Record())
	want("new", never)
	m.apply(1, popped(group, topic, 0, 0, 1, 1, 700, 1))
	want("two in flight", 700)
	m.apply(1, ackOf(group, topic, Ref{VisibleAt: 700, Nonce: 1}))
	want("one in flight", 700)
	m.apply(1, ackOf(group, topic, Ref{VisibleAt: 700, Offset: 1, Nonce: 1}))
	want("none in flight", never)
	m.apply(1, popped(group, topic, 0, 2, 2, 1, 500, 1), ackOf(group, topic, Ref{VisibleAt: 500, Offset: 2, Nonce: 1}),
		popped(group, topic, 0, 3, 3, 1, 900, 1))
	want("one that came and went, and one that came", 500)
	if got := m.expired(group, topic, 900); len(got) != 1 || got[0].Offset != 3 {
		t.Errorf("%v is expired", got)
	}
	want("after a look", 900)
	m.apply(1, ackOf(group, topic, Ref{VisibleAt: 900, Offset: 3, Nonce: 1}), popped(group, topic, 0, 4, 4, 1, 800, 1))
	want("one that went, and one that came", 800)
	m.check()
	m.crash(0)
	want("after a restart, when the log was applied again", 800)
	if got := m.expired(group, topic, 900); len(got) != 1 || got[0].Offset != 4 {
		t.Errorf("%v is expired", got)
	}
}

// Who takes a snapshot while a batch is committed has the floor of that batch's rows, published or not.
func TestAWatchSeesWhatIsCommitted(t *testing.T) {
	f := newFloors()
	at, other := place{1, 2}, place{1, 3}
	want := func(what string, got, want int64) {
		t.Helper()
		if got != want {
			t.Errorf("%s: the floor is at %d, want %d", what, got, want)
		}
	}
	raise := func(ms int64) {
		_, epoch := f.get(at)
		f.raise(at, ms, epoch)
	}
	raise(1500)
	before := f.watch(at)
	lows := map[place]int64{at: 700, other: 5}
	f.announce(lows)
	between := f.watch(at)
	raise(1500) // a look that does not see the row yet
	after := f.watch(at)
	f.lower(lows, nil)
	raise(900) // the row is gone again
	want("begun before", f.end(before), 700)
	want("begun when it was announced", f.end(between), 700)
	want("begun after a look", f.end(after), 700)
	want("begun later", f.end(f.watch(at)), 900)
	// One that nothing is remembered of.
	unknown := map[place]int64{{7, 7}: 10}
	f.announce(unknown)
	_, epoch := f.get(place{7, 7})
	f.raise(place{7, 7}, 100, epoch)
	want("unknown until it was announced", f.end(f.watch(place{7, 7})), 0)
	if len(f.mu.watches) > 0 {
		t.Errorf("%d watches are left", len(f.mu.watches))
	}
}

func TestFloorsAreBounded(t *testing.T) {
	f := newFloors()
	for i := range kvindex.ID(2 * maxFloors) {
		_, epoch := f.get(place{group: i})
		f.raise(place{group: i}, 5, epoch)
	}
	if n := f.mu.lru.Len(); n != maxFloors {
		t.Fatalf("%d floors", n)
	}
}

func BenchmarkExpired(b *testing.B) {
	m := newMachine(b)
	topic, group := m.topic("t"), m.group("g")
	m.apply(1, popped(group, topic, 0, 0, 31, 1, 1_000_000, 1))
	b.Run("nothing", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if got, err := m.state.Expired(group, topic, AnyQueue, 1000, 32, nil); err != nil || len(got) > 0 {
				b.Fatal(got, err)
			}
		}
	})
	b.Run("32", func(b *testing.B) {
		b.ReportAllocs()
		var buf []Expired
		for b.Loop() {
			var err error
			if buf, err = m.state.Expired(group, topic, AnyQueue, 2_000_000, 32, buf[:0]); err != nil || len(buf) != 32 {
				b.Fatal(len(buf), err)
			}
		}
	})
}
