package wire

import (
	"sync"
	"sync/atomic"
)

// chunk is a read buffer that commands alias. The reader holds one reference, each command that has a body another; the
// reader goes on behind what was read and starts over only when it is the only holder.
type chunk struct {
	b      []byte
	refs   atomic.Int32
	budget *budget // that counts b, if it is a big one
}

// Sizes of chunks. Up to the largest they are pooled; a frame that needs more grows by steps as its bytes arrive, so that
// announcing a length costs the sender nothing of ours.
const (
	chunkMin  = 4 << 10
	chunkRead = 64 << 10 // a busy connection reads this much at once
	chunkMax  = 1 << 20
	chunkStep = 4 // from one size to the next
)

var chunkPools [5]sync.Pool // 4 KiB, 16 KiB, 64 KiB, 256 KiB, 1 MiB

// newChunk is one of at least n bytes, or nil when the budget for big ones is used up.
func newChunk(n int, bud *budget) *chunk {
	size := chunkMin
	for i := range chunkPools {
		if n <= size {
			c, _ := chunkPools[i].Get().(*chunk)
			if c == nil {
				c = &chunk{b: make([]byte, size)}
			}
			return c.take(bud)
		}
		size *= chunkStep
	}
	return (&chunk{b: make([]byte, n)}).take(bud)
}

func (c *chunk) take(bud *budget) *chunk {
	c.refs.Store(1)
	if len(c.b) > chunkRead {
		if !bud.take(int64(len(c.b))) {
			c.pool()
			return nil
		}
		c.budget = bud
	}
	return c
}

func (c *chunk) hold() { c.refs.Add(1) }

func (c *chunk) release() {
	switch n := c.refs.Add(-1); {
	case n > 0:
		return
	case n < 0:
		panic("wire: a read buffer was released twice")
	}
	if c.budget != nil {
		c.budget.give(int64(len(c.b)))
		c.budget = nil
	}
	c.pool()
}

func (c *chunk) pool() {
	size := chunkMin
	for i := range chunkPools {
		if len(c.b) == size {
			chunkPools[i].Put(c)
			return
		}
		size *= chunkStep
	}
}

// budget bounds the bytes of big chunks over all connections of a server.
type budget struct{ left atomic.Int64 }

func newBudget(n int64) *budget {
	b := &budget{}
	b.left.Store(n)
	return b
}

func (b *budget) take(n int64) bool {
	if b.left.Add(-n) >= 0 {
		return true
	}
	b.left.Add(n)
	return false
}

func (b *budget) give(n int64) { b.left.Add(n) }
