package store

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/cairnmq/cairn/internal/record"
)

const (
	// maxTails bounds the entries that all tails have room for, 40 bytes each. There are at most cachedQueues of them: with one
	// entry each they would take six times as much.
	maxTails = 1 << 18
	// maxTail bounds the entries of one.
	maxTail = 1 << 12
)

// tails remember the newest entries of the queues that were written last: who reads what has just come needs no look at the index,
// which costs more than all else that finds a message. They hold what was published, as the rows have it, and only save reads.
type tails struct {
	mu struct {
		sync.Mutex
		lru  *simplelru.LRU[queueKey, *tail]
		room int // entries that all of them have room for
	}
}

// tail is the end of a queue. Its entries follow each other.
type tail struct{ entries []Entry }

func newTails() *tails {
	t := &tails{}
	lru, err := simplelru.NewLRU(cachedQueues, func(_ queueKey, e *tail) { t.mu.room -= cap(e.entries) })
	if err != nil {
		panic(err) // only a size below 1
	}
	t.mu.lru = lru
	return t
}

// publish follows a batch that was committed, before its bounds are published: whoever knows of a message finds it.
func (t *tails) publish(touched []*pending, timestamp int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range touched {
		if p.fresh.len() > 0 {
			t.addLocked(p, timestamp)
		}
	}
	for t.mu.room > maxTails {
		t.mu.lru.RemoveOldest()
	}
}

func (t *tails) addLocked(p *pending, timestamp int64) {
	e, ok := t.mu.lru.Get(p.queueKey)
	if !ok {
		e = &tail{}
		t.mu.lru.Add(p.queueKey, e)
	}
	t.mu.room -= cap(e.entries)
	if n := len(e.entries); n > 0 && e.entries[n-1].Offset+1 != p.base {
		e.entries = e.entries[:0]
	}
	from := max(p.fresh.len()-maxTail, 0)
	if n := len(e.entries); n > 0 && n+p.fresh.len() > maxTail {
		kept := min(maxTail/2, max(maxTail-p.fresh.len(), 0))
		e.entries = e.entries[:copy(e.entries, e.entries[n-kept:])]
	}
	for i := from; i < p.fresh.len(); i++ {
		e.entries = append(e.entries, Entry{
			Offset: p.base + int64(i), Position: record.Position(p.fresh.positions[i]), Size: p.fresh.sizes[i],
			TagHash: p.fresh.tags[i], StoreTime: timestamp,
		})
	}
	t.mu.room += cap(e.entries)
}

// read appends up to most entries of a queue to dst, from offset on; ok is false when it does not know that one.
func (t *tails) read(k queueKey, offset int64, most int, dst []Entry) (_ []Entry, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.mu.lru.Peek(k)
	if !ok || len(e.entries) == 0 || offset < e.entries[0].Offset || offset > e.entries[len(e.entries)-1].Offset {
		return dst, false
	}
	known := e.entries[offset-e.entries[0].Offset:]
	return append(dst, known[:min(len(known), most)]...), true
}
