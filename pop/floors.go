package pop

import (
	"math"
	"slices"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// maxFloors bounds the floors that are remembered, about 150 bytes each.
const maxFloors = 16384

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
//
// The folder itself knows from the counters when a group has no row: then the floor is never, and the next rows say where it is.
//
// That may hide a row between its commit and its publication. Who must not miss one that is committed watches the floor while it
// takes its snapshot, and batches are announced before they are committed.
type floors struct {
	mu struct {
		sync.Mutex
		epoch     uint64
		lru       *simplelru.LRU[place, *floor]
		announced map[place]int64 // what the batch under way writes, from its announcement to its publication
		watches   []*watch
	}
}

// watch is a floor that follows all that is announced.
type watch struct {
	place
	ms int64
}

// noRaise is an epoch that is later than all.
const noRaise = math.MaxUint64

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
	return f.getLocked(at, queue), f.mu.epoch
}

func (f *floors) getLocked(at place, queue int32) int64 {
	e, ok := f.mu.lru.Get(at)
	if !ok { // from now on publications are noted
		e = &floor{epoch: f.mu.epoch}
		if _, soon := f.mu.announced[at]; soon {
			e.epoch = noRaise
		}
		f.mu.lru.Add(at, e)
	}
	return max(e.at, e.queues[queue])
}

// watch begins to watch the floor of a group on a topic.
func (f *floors) watch(at place) *watch {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := &watch{at, f.getLocked(at, AnyQueue)}
	f.mu.watches = append(f.mu.watches, w)
	return w
}

// end ends a watch: no row that was committed by now is below the answer, unless it was deleted before the watch began.
func (f *floors) end(w *watch) (ms int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.watches = slices.DeleteFunc(f.mu.watches, func(one *watch) bool { return one == w })
	return w.ms
}

// announce tells of a batch that is about to be committed and writes rows at these times at the earliest. Until lower follows it the
// floors are not raised; lows must not change.
func (f *floors) announce(lows map[place]int64) {
	if len(lows) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.announced = lows
	f.lowerLocked(lows, noRaise)
	for _, w := range f.mu.watches {
		if low, ok := lows[w.place]; ok {
			w.ms = min(w.ms, low)
		}
	}
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

// lower follows a batch that was committed and wrote rows at these times at the earliest. Places in empty had no row at some time
// within the batch, and so have none now but what it wrote.
func (f *floors) lower(lows map[place]int64, empty map[place]struct{}) {
	if len(lows) == 0 && len(empty) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.epoch++
	f.mu.announced = nil
	for at := range empty {
		e, ok := f.mu.lru.Get(at)
		if !ok {
			e = &floor{}
			f.mu.lru.Add(at, e)
		}
		e.at, e.epoch = never, f.mu.epoch
	}
	f.lowerLocked(lows, f.mu.epoch)
}

func (f *floors) lowerLocked(lows map[place]int64, epoch uint64) {
	for at, low := range lows {
		e, ok := f.mu.lru.Peek(at)
		if !ok {
			continue
		}
		e.at, e.epoch = min(e.at, low), epoch
		for queue, ms := range e.queues {
			e.queues[queue] = min(ms, low)
		}
	}
}
