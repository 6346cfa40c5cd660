// Package viewcache is a bounded cache in front of rows of the index that never holds what a published change replaced.
//
// The folder is the only writer of the index. It commits a batch and then publishes: Set or Forget for every value that
// the batch changed. A reader that missed reads the index and fills the cache. The danger is the slow reader:
//
//	reader: miss, reads the old row ┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄ fills the cache with it, for good
//	folder:                           commits the new row, forgets
//
// Therefore a miss returns an epoch that every publication raises, and a fill with an older epoch is dropped. A fill with
// the present epoch began after the last publication; whatever is committed but not yet published is forgotten by the
// publication that follows. What is not there is not cached, so that asking for names that do not exist costs no memory.
package viewcache

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// Epoch says when a miss happened, in publications.
type Epoch uint64

// Cache holds the values that were used last. Safe for concurrent use.
type Cache[K comparable, V any] struct {
	mu struct {
		sync.Mutex
		epoch Epoch
		lru   *simplelru.LRU[K, V]
	}
}

// New returns a cache of at most size entries; size must be positive.
func New[K comparable, V any](size int) *Cache[K, V] {
	lru, err := simplelru.NewLRU[K, V](size, nil)
	if err != nil {
		panic(err) // only a size below 1
	}
	c := &Cache[K, V]{}
	c.mu.lru = lru
	return c
}

// Get returns the cached value of k, or the epoch to hand to Fill.
func (c *Cache[K, V]) Get(k K) (v V, ok bool, epoch Epoch) {
	c.mu.Lock()
	v, ok = c.mu.lru.Get(k)
	epoch = c.mu.epoch
	c.mu.Unlock()
	return v, ok, epoch
}

// Fill caches what was read from the index after the miss that returned epoch, unless something was published since.
func (c *Cache[K, V]) Fill(k K, v V, epoch Epoch) {
	c.mu.Lock()
	if epoch == c.mu.epoch {
		c.mu.lru.Add(k, v)
	}
	c.mu.Unlock()
}

// Publisher changes the cache after a batch became visible; it is valid inside Publish only.
type Publisher[K comparable, V any] struct{ c *Cache[K, V] }

// Set caches the new value of k.
func (p Publisher[K, V]) Set(k K, v V) { p.c.mu.lru.Add(k, v) }

// Forget drops k.
func (p Publisher[K, V]) Forget(k K) { p.c.mu.lru.Remove(k) }

// ForgetAll drops everything.
func (p Publisher[K, V]) ForgetAll() { p.c.mu.lru.Purge() }

// Publish applies all changes of one batch at once. Only the folder calls it, after the batch was committed.
func (c *Cache[K, V]) Publish(change func(Publisher[K, V])) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.epoch++
	change(Publisher[K, V]{c})
}

// Len is the number of entries.
func (c *Cache[K, V]) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.lru.Len()
}
