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
// Looks for one queue pass over the rows of all others, so they remember a floor of their own.
//
// A floor must never be above a row. A reader that has walked from the old floor to the first row may raise it to there, but
// while it walked the folder may have committed a lower row, which its iterator does not see:
//
//	reader: reads epoch, makes the iterator, walks ┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄ raises the floor
//	folder:                                  commits a lower row, publishes
//
// Therefore each publication raises the epoch, and for the groups whose rows it added notes the epoch and lowers the floors; a floor
// is not raised by whoever began before that. When the reader comes before the publication, the publication lowers what it raised. No
// clock is involved, so none can go wrong.
type floors struct {
	mu struct {
		sync.Mutex
		epoch uint64
		lru   *simplelru.LRU[place, *floor]
	}
}

// floor is what is remembered of a group on a topic.
type floor struct {
	at     int64           // ms
	epoch  uint64          // of the last publication that added rows, or of when this began to be remembered
	queues map[int32]int64 // ms; a queue's floor is at least at
}

// maxQueueFloors bounds floor.queues.
const maxQueueFloors = 64

func newFloors() *floors {
	lru, err := simplelru.NewLRU[place, *floor](maxFloors, nil)
	if err != nil {
		panic(err) // only a size below 1
	}
	f := &floors{}
	f.mu.lru = lru
	return f
}

// get returns the floor in ms, and the epoch to hand to raise. It must be called before the rows are read.
func (f *floors) get(at place) (floor int64, epoch uint64) { return f.getIn(at, AnyQueue) }

// getIn is get for a look at one queue, or with AnyQueue at all.
func (f *floors) getIn(at place, queue int32) (ms int64, epoch uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e, ok := f.mu.lru.Get(at)
	if !ok { // from now on publications are noted
		e = &floor{epoch: f.mu.epoch}
		f.mu.lru.Add(at, e)
	}
	return max(e.at, e.queues[queue]), f.mu.epoch
}

// raise notes that there was no row below floor, unless one was published since epoch.
func (f *floors) raise(at place, floor int64, epoch uint64) { f.raiseIn(at, AnyQueue, floor, epoch) }

// raiseIn is raise for a look at one queue, or with AnyQueue at all.
func (f *floors) raiseIn(at place, queue int32, ms int64, epoch uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e, ok := f.mu.lru.Get(at)
	switch {
	case !ok || e.epoch > epoch:
		return
	case queue == AnyQueue:
		e.at = max(e.at, ms)
	default:
		if e.queues == nil || len(e.queues) >= maxQueueFloors && e.queues[queue] == 0 {
			e.queues = map[int32]int64{}
		}
		e.queues[queue] = max(e.queues[queue], ms)
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
		e, ok := f.mu.lru.Peek(at)
		if !ok {
			continue
		}
		e.at, e.epoch = min(e.at, low), f.mu.epoch
		for queue, ms := range e.queues {
			e.queues[queue] = min(ms, low)
		}
	}
}
