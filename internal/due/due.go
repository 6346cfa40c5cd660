// Package due lets one goroutine wait for the first row of a key space that is ordered by time.
package due

import (
	"math"
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
//	look:   notes the epoch, makes the iterator, walks ┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄ raises the floor
//	folder:                                   commits a lower row, calls Lower
//
// Therefore each Lower begins an epoch, and a look from an older one raises nothing: it is to be done again, and Changed says
// so. When the look ends before the call, the call lowers what it raised.
type Floor struct {
	changed chan struct{}
	mu      struct {
		sync.Mutex
		at    int64
		epoch uint64
	}
}

// NewFloor returns a floor below all times.
func NewFloor() *Floor { return &Floor{changed: make(chan struct{}, 1)} }

// Changed receives when what the last First found may not be the first any more because an earlier row came.
func (f *Floor) Changed() <-chan struct{} { return f.changed }

// At is where a look at rows begins.
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
	f.mu.epoch++
	if low < f.mu.at {
		f.mu.at = low
		f.tell()
	}
}

// First raises the floor to the time of the first row, which look finds beginning at from; look returns Never when there is
// none.
func (f *Floor) First(look func(from int64) (first int64, err error)) error {
	f.mu.Lock()
	from, epoch := f.mu.at, f.mu.epoch
	f.mu.Unlock()
	first, err := look(from)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.epoch == epoch {
		f.mu.at = max(f.mu.at, first)
	} else {
		f.tell()
	}
	return nil
}

func (f *Floor) tell() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}
