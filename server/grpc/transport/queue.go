package transport

import (
	"bytes"
	"runtime"
	"slices"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// maxQueued bytes may wait for the writer; whoever has more waits, and nothing more is read. A little more gets in: what frames add.
	maxQueued = 512 << 10
	// Below fewBytes the writer lets other handlers add theirs before it writes: a system call costs as much as several answers.
	fewBytes = 4 << 10
	// Fewer answers than fewAnswers count as fewBytes do.
	fewAnswers = 32
	// keptQueue is how large a buffer may be to be used again.
	keptQueue = 256 << 10
)

// queue is what waits for the writer, in the order in which it is sent. The mutex of its conn guards it.
type queue struct {
	bytes   []byte
	spare   []byte
	frames  *http2.Framer // writes to bytes
	table   *hpack.Encoder
	block   bytes.Buffer // of table
	head    usual        // of answers that are no refusals
	tail    usual        // of those that end well
	scant   bool         // the client had less room for table than there is
	window  int64        // what the client lets us send
	initial int64        // the same of a new call
	blocked []*call      // that have to wait for a window or for the writer
	told    bool         // part of an answer was queued since the client's last ping
}

func (q *queue) init() {
	q.frames = http2.NewFramer(q, nil)
	q.table = hpack.NewEncoder(&q.block)
	q.window, q.initial = firstWindow, firstWindow
	q.head.fields = []hpack.HeaderField{{Name: ":status", Value: "200"}, fieldContent}
	q.tail.fields = []hpack.HeaderField{{Name: "grpc-status", Value: "0"}}
}

// Write appends a frame.
func (q *queue) Write(p []byte) (int, error) {
	q.bytes = append(q.bytes, p...)
	return len(p), nil
}

func (q *queue) full() bool { return len(q.bytes) >= maxQueued }

// done takes what a method of frames returns: it fails for arguments only that cannot be in a frame.
func (q *queue) done(err error) {
	if err != nil {
		panic("transport: " + err.Error())
	}
}

// usual are fields that most answers have. Once both sides have all of them in their tables they are the same bytes each time, for
// fields of others are never put there.
type usual struct {
	fields []hpack.HeaderField
	block  []byte // nil until that is so
}

// usualHeader is header for fields that are usual.
func (q *queue) usualHeader(id uint32, ends bool, u *usual) {
	if u.block != nil {
		q.headers(id, ends, u.block)
		return
	}
	q.header(id, ends, u.fields...)
	// With the tail in the table, where it comes after a head, nothing pushes a field of either to another place any more, if it has room.
	if q.scant || u == &q.head && q.tail.block == nil {
		return
	}
	const indexed = 0x80 // the bit of a field that is a place in the table, of one byte here
	if b := q.block.Bytes(); len(b) == len(u.fields) && !slices.ContainsFunc(b, func(c byte) bool { return c&indexed == 0 }) {
		u.block = bytes.Clone(b)
	}
}

// resize is for a client that changes the size of its table.
func (q *queue) resize(size uint32) {
	q.table.SetMaxDynamicTableSize(size)
	if size < tableSize {
		q.scant, q.head.block, q.tail.block = true, nil, nil
	}
}

// header appends the fields of an answer, which must fit into a frame. Those that are not usual must be Sensitive.
func (q *queue) header(id uint32, ends bool, fields ...hpack.HeaderField) {
	q.block.Reset()
	for _, f := range fields {
		_ = q.table.WriteField(f) // a bytes.Buffer takes all
	}
	q.headers(id, ends, q.block.Bytes())
}

func (q *queue) headers(id uint32, ends bool, block []byte) {
	q.told = true
	q.done(q.frames.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndStream: ends, EndHeaders: true}))
}

// signal wakes the writer.
func (c *conn) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// releaseLocked lets all that wait for room look again.
func (c *conn) releaseLocked() {
	for i, k := range c.mu.blocked {
		select {
		case k.room <- struct{}{}:
		default:
		}
		c.mu.blocked[i] = nil
	}
	c.mu.blocked = c.mu.blocked[:0]
}

// write sends what is queued until the connection is over.
func (c *conn) write() {
	defer close(c.written)
	var answers []later
	var scratch []byte // for an answer
	for range c.wake {
		c.mu.Lock()
		if n := len(c.mu.bytes) + len(c.mu.later)*fewBytes/fewAnswers; n > 0 && n < fewBytes {
			c.mu.Unlock()
			runtime.Gosched()
			c.mu.Lock()
		}
		if len(c.mu.later) > 0 {
			answers, c.mu.later = c.mu.later, answers[:0]
			c.mu.Unlock()
			for i, a := range answers {
				scratch = c.answer(a, scratch)
				answers[i] = later{}
			}
			c.mu.Lock()
		}
		out, finished := c.mu.bytes, c.mu.draining == finished
		c.mu.bytes, c.mu.spare = c.mu.spare[:0], nil
		over := c.mu.err != nil
		if len(out) >= maxQueued/2 {
			c.mu.room.Broadcast()
		}
		c.releaseLocked()
		c.mu.Unlock()
		if over {
			return
		}
		if len(out) > 0 {
			if _, err := c.nc.Write(out); err != nil {
				c.fail(err)
				return
			}
		}
		if finished { // what comes now would come after the farewell
			_ = c.nc.Close() // the reader finds out
			return
		}
		if cap(out) <= keptQueue {
			c.mu.Lock()
			c.mu.spare = out
			c.mu.Unlock()
		}
	}
}

// answer makes an answer in scratch, which it returns for the next, and queues it. For one that finds no room a goroutine waits.
func (c *conn) answer(a later, scratch []byte) []byte {
	m, err := a.builder.Build()
	var b []byte
	if err == nil {
		b, err = a.call.encode(scratch[:0], m)
	}
	if err != nil {
		c.finish(a.call, statusOf(err))
		return scratch
	}
	c.mu.Lock()
	rest, ok := c.sendLocked(a.call, b, true)
	c.mu.Unlock()
	switch {
	case !ok:
		c.handlers.Go(func() { _ = c.send(a.call, rest, true) }) // serve waits for it after the writer; an error: the client has gone
		return nil
	case cap(b) > keptRoom:
		return nil
	}
	return b
}

var fieldContent = hpack.HeaderField{Name: "content-type", Value: contentType}

// send queues a message of a call, which begins with its five bytes of length, and after the last one the end of the call. It waits
// while the client's windows or the queue have no room. The error is that of the call's context.
func (c *conn) send(k *call, msg []byte, last bool) error {
	c.mu.Lock()
	for {
		if k.over {
			c.mu.Unlock()
			return k.Err()
		}
		rest, all := c.sendLocked(k, msg, last)
		if all {
			break
		}
		msg = rest
		if k.room == nil {
			k.room = make(chan struct{}, 1)
		}
		c.mu.blocked = append(c.mu.blocked, k)
		c.mu.Unlock()
		c.signal()
		select {
		case <-k.room:
		case <-k.Done():
		}
		c.mu.Lock()
	}
	c.mu.Unlock()
	c.signal()
	return nil
}

// sendLocked queues what there is room for, and says whether that was all. Of a call that is over nothing is left to send.
func (c *conn) sendLocked(k *call, msg []byte, last bool) (rest []byte, all bool) {
	if k.over {
		return nil, true
	}
	if !k.headed {
		c.mu.usualHeader(k.id, false, &c.mu.head)
		k.headed = true
	}
	for len(msg) > 0 && !c.mu.full() {
		n := min(int64(len(msg)), k.sendWindow, c.mu.window, maxFrame)
		if n <= 0 {
			break
		}
		c.mu.done(c.mu.frames.WriteData(k.id, false, msg[:n]))
		k.sendWindow -= n
		c.mu.window -= n
		msg = msg[n:]
		c.mu.told = true
	}
	if len(msg) > 0 {
		return msg, false
	}
	if last {
		c.mu.usualHeader(k.id, true, &c.mu.tail)
		c.closeLocked(k)
	}
	return nil, true
}

// finish ends a call with a status, unless the client has ended it.
func (c *conn) finish(k *call, s *status.Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k.over {
		return
	}
	code := "200"
	if !k.headed && s.Code() != codes.OK {
		code = k.httpStatus
	}
	var fields []hpack.HeaderField
	if !k.headed {
		fields = append(fields, hpack.HeaderField{Name: ":status", Value: code, Sensitive: true}, fieldContent)
	}
	fields = append(fields, statusFields(s)...)
	c.mu.header(k.id, true, fields...)
	c.closeLocked(k)
	c.signal()
}

// closeLocked forgets a call whose end is queued.
func (c *conn) closeLocked(k *call) {
	if !k.ended { // the client may stop sending
		c.mu.done(c.mu.frames.WriteRSTStream(k.id, http2.ErrCodeNo))
	}
	c.leaveLocked(k)
}
