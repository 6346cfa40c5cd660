package pop

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// maxFloors bounds the floors that are remembered, about 150 bytes each.
const maxFloors = 4096

// floors remember for the groups that are active on a topic a time below which they have no checkpoint, so that a look for
// what is expired does not walk through the remains of all that was acknowledged before. A floor only saves that walk: one
// that is not there counts as 0.
//
// A floor must never be above a row. A reader that has walked from the old floor to the first row may raise it to there, but
// while it walked the folder may have committed a lower row, which its iterator does not see:
//
//	reader: reads epoch, makes the iterator, walks ┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄ raises the floor
//	folder:                                  commits a lower row, publishes
//
// Therefore each publication raises the epoch and lowers the floors of what it added, and a floor is not raised by whoever
// began in an older epoch. When the reader comes before the publication, the publication lowers what it raised. No clock is
// involved, so none can go wrong.
type floors struct {
	mu struct {
		sync.Mutex
		epoch uint64
		lru   *simplelru.LRU[place, int64]
	}
}

func newFloors() *floors {
	lru, err := simplelru.NewLRU[place, int64](maxFloors, nil)
	if err != nil {
		panic(err) // only a size below 1
	}
	f := &floors{}
	f.mu.lru = lru
	return f
}

// get returns the floor in ms, and the epoch to hand to raise. It must be called before the rows are read.
func (f *floors) get(at place) (floor int64, epoch uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	floor, _ = f.mu.lru.Get(at)
	return floor, f.mu.epoch
}

// raise notes that there was no row below floor, unless something was published since epoch.
func (f *floors) raise(at place, floor int64, epoch uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if epoch == f.mu.epoch {
		f.mu.lru.Add(at, floor)
	}
}

// lower follows a batch that was committed and wrote rows at these times at the earliest.
func (f *floors) lower(lows map[place]int64) {
	if len(lows) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.epoch++
	for at, low := range lows {
		if floor, ok := f.mu.lru.Peek(at); ok && low < floor {
			f.mu.lru.Add(at, low)
		}
	}
}
