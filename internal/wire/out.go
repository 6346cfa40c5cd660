package wire

import (
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// spliceMin is the size from which on a body is written from where it is instead of being copied into the batch.
const spliceMin = 8 << 10

// outQueue is what waits to be written: at most one batch, to which everybody appends.
type outQueue struct {
	mu struct {
		sync.Mutex
		batch *batch
		shut  bool
	}
	queued  atomic.Int64  // bytes in batch and in the write under way
	wake    chan struct{} // for the writer: there is something to do
	drained chan struct{} // for the reader: something was written
}

// batch is encoded frames, with the large bodies left out and spliced in when it is written.
type batch struct {
	buf   []byte
	cuts  []cut
	bytes int64
}

// cut is a body that belongs before buf[at:].
type cut struct {
	at   int
	body []byte
	done func()
}

var batches = sync.Pool{New: func() any { return new(batch) }}

// put encodes cmd and takes its body over.
func (q *outQueue) put(cmd *Command, lim limits) error {
	defer cmd.bodyDone() // copied, or not wanted
	q.mu.Lock()
	if q.mu.shut {
		q.mu.Unlock()
		return ErrClosed
	}
	if n := q.queued.Load(); n > lim.queue {
		q.mu.Unlock()
		return fmt.Errorf("%w: %d", ErrSlowReader, n)
	}
	b := q.mu.batch
	if b == nil {
		b = batches.Get().(*batch)
	}
	at := len(b.buf)
	b.buf = cmd.appendHead(b.buf)
	size := len(b.buf) - at + len(cmd.Body)
	if size > lim.frame {
		b.buf = b.buf[:at]
		q.mu.batch = b
		q.mu.Unlock()
		return fmt.Errorf("%w: %d bytes", ErrTooLong, size)
	}
	if len(cmd.Body) >= spliceMin {
		b.cuts = append(b.cuts, cut{len(b.buf), cmd.Body, cmd.BodyDone})
		cmd.BodyDone = nil
	} else {
		b.buf = append(b.buf, cmd.Body...)
	}
	first := b.bytes == 0
	b.bytes += int64(size)
	q.queued.Add(int64(size))
	q.mu.batch = b
	q.mu.Unlock()
	if first {
		q.poke()
	}
	return nil
}

// poke wakes the writer.
func (q *outQueue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take hands the batch to the writer, nil when there is nothing.
func (q *outQueue) take() *batch {
	q.mu.Lock()
	defer q.mu.Unlock()
	b := q.mu.batch
	q.mu.batch = nil
	if b != nil && b.bytes == 0 {
		b.free()
		return nil
	}
	return b
}

// wrote is called with a batch that was written, wholly or not.
func (q *outQueue) wrote(b *batch) {
	q.queued.Add(-b.bytes)
	select {
	case q.drained <- struct{}{}:
	default:
	}
	b.free()
}

// shut drops what waits and refuses more.
func (q *outQueue) shut() {
	q.mu.Lock()
	b := q.mu.batch
	q.mu.batch = nil
	q.mu.shut = true
	q.mu.Unlock()
	if b != nil {
		q.wrote(b)
	}
}

// write writes everything with one call where the connection is plain TCP.
func (b *batch) write(w io.Writer, vec *net.Buffers) error {
	if len(b.cuts) == 0 {
		_, err := w.Write(b.buf)
		return err
	}
	v := (*vec)[:0]
	at := 0
	for i := range b.cuts {
		v = append(v, b.buf[at:b.cuts[i].at], b.cuts[i].body)
		at = b.cuts[i].at
	}
	if at < len(b.buf) {
		v = append(v, b.buf[at:])
	}
	*vec = v
	_, err := vec.WriteTo(w) // moves *vec on and clears what it has written
	*vec = v[:0]
	return err
}

// free calls the callbacks of the bodies and gives the batch back.
func (b *batch) free() {
	for i := range b.cuts {
		if done := b.cuts[i].done; done != nil {
			done()
		}
	}
	clear(b.cuts)
	if cap(b.buf) > chunkMax || cap(b.cuts) > maxPooledFields {
		return
	}
	*b = batch{buf: b.buf[:0], cuts: b.cuts[:0]}
	batches.Put(b)
}
