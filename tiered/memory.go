package tiered

import (
	"math"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// pageKind tells what a page is, for an object may be read in two ways.
type pageKind byte

const (
	pageBlock pageKind = 'b' // a block of a bodies object
	pageTail  pageKind = 'e' // the end of a bodies object: index and footer
	pageTable pageKind = 't' // pageSize bytes of a table object
)

// pageKey names a page of an object.
type pageKey struct {
	object string
	kind   pageKind
	page   int
}

// pageOverhead is what an entry of the cache costs beside its bytes, about.
const pageOverhead = 200

// flight is a page that somebody fetches at present. bytes and err are set when done is closed.
type flight struct {
	done  chan struct{}
	bytes []byte
	err   error
}

// memory is the cache of decoded pages: those that were used last, up to a number of bytes. A page that is being fetched is in
// it as a flight, so that nobody fetches it a second time.
type memory struct {
	limit int64 // bytes
	mu    struct {
		sync.Mutex
		lru     *simplelru.LRU[pageKey, []byte]
		bytes   int64
		flights map[pageKey]*flight
	}
}

func newMemory(limit int64) *memory {
	m := &memory{limit: limit}
	lru, err := simplelru.NewLRU[pageKey, []byte](math.MaxInt, func(k pageKey, b []byte) {
		m.mu.bytes -= int64(len(b)) + pageOverhead
	})
	if err != nil {
		panic(err) // only a size below 1
	}
	m.mu.lru = lru
	m.mu.flights = map[pageKey]*flight{}
	return m
}

// claim looks up the pages first to last of an object: what is there is in have; what somebody fetches is in flights; the rest
// is now the caller's to fetch and to land, and is in spans, which are runs of neighbours. have and flights are aligned with the
// pages.
func (m *memory) claim(object string, kind pageKind, first, last int) (have [][]byte, flights []*flight, spans []span) {
	have, flights = make([][]byte, last-first+1), make([]*flight, last-first+1)
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range have {
		key := pageKey{object, kind, first + i}
		if b, ok := m.mu.lru.Get(key); ok {
			have[i] = b
			continue
		}
		if f := m.mu.flights[key]; f != nil {
			flights[i] = f
			continue
		}
		f := &flight{done: make(chan struct{})}
		m.mu.flights[key], flights[i] = f, f
		if n := len(spans); n > 0 && spans[n-1].last == first+i-1 {
			spans[n-1].last++
		} else {
			spans = append(spans, span{first + i, first + i})
		}
	}
	return have, flights, spans
}

// land ends the flight of a page that claim gave the caller.
func (m *memory) land(key pageKey, b []byte, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.mu.flights[key]
	delete(m.mu.flights, key)
	if f.bytes, f.err = b, err; err == nil {
		m.addLocked(key, b)
	}
	close(f.done)
}

func (m *memory) addLocked(key pageKey, b []byte) {
	m.mu.lru.Remove(key)
	m.mu.lru.Add(key, b)
	m.mu.bytes += int64(len(b)) + pageOverhead
	for m.mu.bytes > m.limit && m.mu.lru.Len() > 1 {
		m.mu.lru.RemoveOldest()
	}
}

// forget drops the pages of an object.
func (m *memory) forget(object string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range m.mu.lru.Keys() {
		if key.object == object {
			m.mu.lru.Remove(key)
		}
	}
}

// size is how many bytes are cached.
func (m *memory) size() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.bytes
}

// span is the pages first to last.
type span struct{ first, last int }

func (s span) len() int { return s.last - s.first + 1 }

// get returns a page when it is there.
func (m *memory) get(key pageKey) (b []byte, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.lru.Get(key)
}
