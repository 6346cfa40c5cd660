// Package due lets one goroutine wait for the first row of a key space that is ordered by time.
package due

import (
	"math"
	"slices"
	"sync"
)

// Never is later than any time.
const Never = math.MaxInt64

// Floor is a time (ms) below which a key space has no row. Looks begin there, so that they do not walk through the remains of
// all that was due before; and whoever has looked and waits is told when a row comes below it. Safe for concurrent use, with
// one goroutine that waits on Changed.
//
// A floor must never be above a row. A look raises it to the first row, but while it walked the folder may have committed a
// lower row, which its iterator does not see:
//
//	look:   begins, makes the iterator, walks ┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄ ends with what it found
//	folder:                           commits a lower row, calls Lower
//
// Therefore every look under way takes note of the lowest row that came meanwhile: it raises the floor no further, and Changed
// says that there is one before what the look found. When the look ends before the call, the call lowers what it raised.
type Floor struct {
	changed chan struct{}
	mu      struct {
		sync.Mutex
		at    int64
		looks []*Look // under way
	}
}

// NewFloor returns a floor below all times.
func NewFloor() *Floor { return &Floor{changed: make(chan struct{}, 1)} }

// Changed receives when what the last look found may not be the first any more because an earlier row came.
func (f *Floor) Changed() <-chan struct{} { return f.changed }

// At is where a look at rows begins that does not raise the floor.
func (f *Floor) At() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.at
}

// Lower follows a batch that was committed; low is the earliest time of the rows that it wrote, Never when it wrote none.
func (f *Floor) Lower(low int64) {
	if low == Never {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.mu.looks {
		l.low = min(l.low, low)
	}
	if low < f.mu.at {
		f.mu.at = low
		f.tell()
	}
}

// Look is a walk through the rows that may raise the floor. It must be ended, once.
type Look struct {
	From  int64 // where it begins
	floor *Floor
	low   int64 // the earliest row that came since
}

// Look begins a look: the iterator is to be made after it.
func (f *Floor) Look() *Look {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := &Look{From: f.mu.at, floor: f, low: Never}
	f.mu.looks = append(f.mu.looks, l)
	return l
}

// End raises the floor to first: of the rows that the look has seen this is the first one that is still there, Never when there
// is none.
func (l *Look) End(first int64) {
	f := l.floor
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.looks = slices.DeleteFunc(f.mu.looks, func(one *Look) bool { return one == l })
	f.mu.at = max(f.mu.at, min(first, l.low))
	if l.low < first {
		f.tell()
	}
}

// Fail ends a look that has found out nothing.
func (l *Look) Fail() { l.End(l.From) }

func (f *Floor) tell() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}
