package viewcache

import (
	"sync"
	"sync/atomic"
	"testing"
)

func TestAFillOlderThanAPublicationIsDropped(t *testing.T) {
	c := New[string, int](4)
	_, ok, slow := c.Get("a")
	if ok {
		t.Fatal("an empty cache has a value")
	}
	c.Publish(func(p Publisher[string, int]) { p.Forget("a") })
	c.Fill("a", 1, slow)
	if _, ok, _ := c.Get("a"); ok {
		t.Fatal("a value read before the publication was cached after it")
	}
	_, _, epoch := c.Get("a")
	c.Fill("a", 2, epoch)
	if v, ok, _ := c.Get("a"); !ok || v != 2 {
		t.Fatalf("got %d, %v", v, ok)
	}
	c.Publish(func(p Publisher[string, int]) { p.Set("a", 3) })
	if v, _, _ := c.Get("a"); v != 3 {
		t.Fatalf("got %d after Set", v)
	}
	c.Publish(func(p Publisher[string, int]) { p.ForgetAll() })
	if c.Len() != 0 {
		t.Fatal("ForgetAll left something")
	}
}

func TestTheCacheIsBounded(t *testing.T) {
	c := New[int, int](8)
	for i := range 100 {
		_, _, epoch := c.Get(i)
		c.Fill(i, i, epoch)
	}
	if c.Len() != 8 {
		t.Fatalf("%d entries in a cache of 8", c.Len())
	}
}

// One writer commits rising values and publishes them; readers fill from what is committed. Nobody may see a value that
// is older than the one that was published before it asked.
func TestReadersNeverFallBehindWhatWasPublished(t *testing.T) {
	c := New[int, int64](2)
	var committed, published atomic.Int64
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				floor := published.Load()
				v, ok, epoch := c.Get(0)
				if !ok {
					v = committed.Load()
					c.Fill(0, v, epoch)
				}
				if v < floor {
					t.Errorf("read %d after %d was published", v, floor)
					return
				}
			}
		})
	}
	for i := int64(1); i <= 30_000; i++ {
		committed.Store(i)
		c.Publish(func(p Publisher[int, int64]) { p.Forget(0) })
		published.Store(i)
	}
	close(stop)
	wg.Wait()
}
