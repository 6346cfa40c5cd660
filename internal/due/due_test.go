package due

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

func changed(f *Floor) bool {
	select {
	case <-f.Changed():
		return true
	default:
		return false
	}
}

func TestFloor(t *testing.T) {
	f := NewFloor()
	want := func(at int64, told bool) {
		t.Helper()
		if got := f.At(); got != at {
			t.Fatalf("the floor is at %d, want %d", got, at)
		}
		if got := changed(f); got != told {
			t.Fatalf("told: %v", got)
		}
	}
	want(0, false)
	f.Lower(50) // nobody has looked, so nobody waits
	want(0, false)
	f.Look().End(50)
	want(50, false)
	f.Lower(Never)
	f.Lower(50)
	f.Lower(60)
	want(50, false)
	f.Lower(40)
	f.Lower(30)
	want(30, true) // once
	f.Look().End(40)
	want(40, false)
	// What came while it looked is below what it found, or is not.
	look := f.Look()
	f.Lower(55)
	f.Lower(58)
	look.End(60)
	want(55, true)
	look = f.Look()
	f.Lower(65)
	look.End(60)
	want(60, false)
	f.Look().End(Never)
	want(Never, false)
	f.Lower(70)
	want(70, true)
	// A look that began before another one and ends after it lowers nothing.
	first, second := f.Look(), f.Look()
	second.End(90)
	first.End(80)
	want(90, false)
	f.Lower(85)
	want(85, true)
	// Each of two hears of what came.
	first, second = f.Look(), f.Look()
	f.Lower(86)
	second.End(95)
	want(86, true)
	first.End(95)
	want(86, true)
	look = f.Look()
	if look.From != 86 {
		t.Errorf("a look begins at %d", look.From)
	}
	look.Fail()
	want(86, false)
	if len(f.mu.looks) != 0 {
		t.Errorf("%d looks under way", len(f.mu.looks))
	}
}

// One goroutine takes the first row whenever it is told to look, others put rows anywhere. Each row is found: none stays
// below the floor, and the waiting ends.
func TestNoRowIsMissed(t *testing.T) {
	const writers, each = 2, 2000
	f := NewFloor()
	var mu sync.Mutex
	var rows []int64 // sorted
	var all sync.WaitGroup
	for w := range uint64(writers) {
		rng := rand.New(rand.NewPCG(w, 1))
		all.Go(func() {
			for range each {
				at := rng.Int64N(1000)
				mu.Lock()
				i, _ := slices.BinarySearch(rows, at)
				rows = slices.Insert(rows, i, at)
				mu.Unlock()
				f.Lower(at)
			}
		})
	}
	for taken := 0; taken < writers*each; {
		look := f.Look()
		mu.Lock()
		found := int64(Never)
		if i, _ := slices.BinarySearch(rows, look.From); i < len(rows) {
			found = rows[i]
		}
		mu.Unlock()
		look.End(found)
		if found == Never {
			<-f.Changed() // the test hangs when a wake-up is lost
			continue
		}
		mu.Lock()
		if i, ok := slices.BinarySearch(rows, found); ok {
			rows = slices.Delete(rows, i, i+1)
			taken++
		}
		mu.Unlock()
	}
	all.Wait()
	if len(rows) != 0 {
		t.Fatalf("%d rows are left", len(rows))
	}
}
