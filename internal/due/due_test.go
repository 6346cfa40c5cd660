package due

import (
	"errors"
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

// finds is a look that finds a row at first, after what happens during it.
func finds(first int64, during ...func()) func(int64) (int64, error) {
	return func(int64) (int64, error) {
		for _, f := range during {
			f()
		}
		return first, nil
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
	first := func(look func(int64) (int64, error)) {
		t.Helper()
		if err := f.First(look); err != nil {
			t.Fatal(err)
		}
	}
	want(0, false)
	f.Lower(50) // nobody has looked, so nobody waits
	want(0, false)
	first(finds(50))
	want(50, false)
	f.Lower(Never)
	f.Lower(50)
	f.Lower(60)
	want(50, false)
	f.Lower(40)
	f.Lower(30)
	want(30, true) // once
	first(finds(40))
	want(40, false)
	// What came while it looked may have been below what it found.
	first(finds(60, func() { f.Lower(55) }))
	want(40, true)
	first(finds(Never))
	want(Never, false)
	f.Lower(70)
	want(70, true)
	// A look that began before another one and ends after it lowers nothing.
	first(finds(80, func() { first(finds(90)) }))
	want(90, false)
	f.Lower(85)
	want(85, true)
	broken := errors.New("broken")
	if err := f.First(func(from int64) (int64, error) {
		if from != 85 {
			t.Errorf("a look begins at %d", from)
		}
		return 100, broken
	}); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	want(85, false)
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
		var found int64
		err := f.First(func(from int64) (int64, error) {
			mu.Lock()
			defer mu.Unlock()
			found = Never
			if i, _ := slices.BinarySearch(rows, from); i < len(rows) {
				found = rows[i]
			}
			return found, nil
		})
		if err != nil {
			t.Fatal(err)
		}
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
