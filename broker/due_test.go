package broker

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/internal/clock"
)

var epoch = time.UnixMilli(1_800_000_000_000)

// newTestDue is a due loop on a clock that the test moves.
func newTestDue(t testing.TB) (*due, *clock.Fake) {
	c := clock.NewFake(epoch)
	d := newDue(c)
	t.Cleanup(d.close)
	return d, c
}

func receive[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came within 10 s")
		panic("unreachable")
	}
}

// settle waits until the loop has called everything that is due: what is added last at a time runs last at that time.
func settle(t testing.TB, d *due) {
	t.Helper()
	over := make(chan struct{})
	d.at(d.clock.Now(), func() { close(over) })
	receive(t, over)
}

func TestDueCallsInOrderOfTimeThenOfArrival(t *testing.T) {
	d, c := newTestDue(t)
	var got []int
	for i, after := range []time.Duration{3 * time.Second, time.Second, 2 * time.Second, time.Second} {
		d.at(epoch.Add(after), func() { got = append(got, i) })
	}
	settle(t, d)
	if len(got) != 0 {
		t.Fatalf("called %v before its time", got)
	}
	c.Advance(2 * time.Second)
	settle(t, d)
	if want := []int{1, 3, 2}; !slices.Equal(got, want) {
		t.Fatalf("after 2 s called %v, want %v", got, want)
	}
	c.Advance(time.Second)
	settle(t, d)
	if want := []int{1, 3, 2, 0}; !slices.Equal(got, want) {
		t.Fatalf("after 3 s called %v, want %v", got, want)
	}
}

func TestDueCancel(t *testing.T) {
	d, c := newTestDue(t)
	ran := make(chan string, 3)
	first := d.at(epoch.Add(time.Second), func() { ran <- "first" })
	second := d.at(epoch.Add(time.Second), func() { ran <- "second" })
	if !first() {
		t.Error("cancel of a pending deadline answered false")
	}
	if first() {
		t.Error("the second cancel answered true")
	}
	c.Advance(time.Second)
	if got := receive(t, ran); got != "second" {
		t.Errorf("%s ran", got)
	}
	if second() {
		t.Error("cancel of what has run answered true")
	}
	if n := d.len(); n != 0 {
		t.Errorf("%d deadlines are left", n)
	}
}

func TestDueEveryAndClose(t *testing.T) {
	c := clock.NewFake(epoch)
	d := newDue(c)
	ticks := make(chan time.Time, 10)
	d.every(10*time.Second, func() { ticks <- c.Now() })
	for i := range 3 {
		c.Advance(10 * time.Second)
		if got, want := receive(t, ticks), epoch.Add(time.Duration(i+1)*10*time.Second); !got.Equal(want) {
			t.Fatalf("tick at %v, want %v", got, want)
		}
	}
	cancel := d.at(c.Now().Add(time.Second), func() { t.Error("called after close") })
	d.close()
	c.Advance(time.Hour)
	if cancel() {
		t.Error("cancel after close answered true")
	}
	if d.at(c.Now(), func() { t.Error("called after close") })() {
		t.Error("a deadline was added after close")
	}
}

// A clock that moves between reading it and arming the timer must not make a deadline late.
func TestDueIsNotLateWhenTheClockMovesMeanwhile(t *testing.T) {
	for range 200 {
		c := clock.NewFake(epoch)
		d := newDue(c)
		ran := make(chan struct{})
		var moved sync.WaitGroup
		moved.Go(func() {
			for range 10 {
				c.Advance(time.Millisecond)
			}
		})
		d.at(epoch.Add(10*time.Millisecond), func() { close(ran) })
		moved.Wait()
		receive(t, ran)
		d.close()
	}
}

// Against a plain list: with any mix of adding, cancelling and moving the clock, exactly what is due and not cancelled runs,
// in order.
func TestDueProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := clock.NewFake(epoch)
		d := newDue(c)
		defer d.close()
		type item struct {
			id     int
			at     time.Time
			cancel func() bool
		}
		var pending []item
		var got, want []int
		settle := func() {
			over := make(chan struct{})
			d.at(c.Now(), func() { close(over) })
			<-over
		}
		next := 0
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				id, at := next, c.Now().Add(time.Duration(rapid.IntRange(-5, 50).Draw(t, "ms"))*time.Millisecond)
				next++
				it := item{id: id, at: at}
				it.cancel = d.at(at, func() { got = append(got, id) })
				if !at.After(c.Now()) {
					settle() // it runs at once, before what is added later for an earlier time
					want = append(want, id)
					return
				}
				pending = append(pending, it)
			},
			"cancel": func(t *rapid.T) {
				if len(pending) == 0 {
					return
				}
				i := rapid.IntRange(0, len(pending)-1).Draw(t, "which")
				if !pending[i].cancel() {
					t.Fatalf("deadline %d could not be cancelled", pending[i].id)
				}
				pending = slices.Delete(pending, i, i+1)
			},
			"advance": func(t *rapid.T) {
				c.Advance(time.Duration(rapid.IntRange(0, 30).Draw(t, "ms")) * time.Millisecond)
				settle()
				slices.SortStableFunc(pending, func(a, b item) int { return a.at.Compare(b.at) })
				for len(pending) > 0 && !pending[0].at.After(c.Now()) {
					want = append(want, pending[0].id)
					pending = pending[1:]
				}
			},
			"": func(t *rapid.T) {
				settle()
				if !slices.Equal(got, want) {
					t.Fatalf("ran %v, want %v", got, want)
				}
				if d.len() != len(pending) {
					t.Fatalf("%d pending, want %d", d.len(), len(pending))
				}
			},
		})
	})
}

func BenchmarkDueAddCancelAmong100000(b *testing.B) {
	d := newDue(clock.System)
	defer d.close()
	for range 100_000 {
		d.at(time.Now().Add(time.Hour+time.Duration(rand.Int64N(int64(time.Hour)))), func() {})
	}
	b.ReportAllocs()
	for b.Loop() {
		d.at(time.Now().Add(time.Hour+time.Duration(rand.Int64N(int64(time.Hour)))), func() {})()
	}
}
