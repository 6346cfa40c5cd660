package transport

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
)

// Windows that clients have, in bytes. They do not change: no probing for the bandwidth, which costs a ping for nearly every request.
const (
	connWindow  = 1 << 20
	callWindow  = 256 << 10
	firstWindow = 65535 // of HTTP/2, before anybody has said otherwise
	maxWindow   = 1<<31 - 1

	maxFrame    = 16 << 10 // the least that a peer must take; we neither send nor take more
	tableSize   = 4096     // of header compression, both ways
	readBuffer  = 32 << 10
	lastID      = 1<<31 - 1
	maxStrikes  = 2 // pings that came too early, before the client is sent away
	farewell    = time.Second
	ticksInPong = 2
)

var goAwayPing = [8]byte{'g', 'o', ' ', 'a', 'w', 'a', 'y', '.'}

// conn is one connection. Its reader alone has the fields before mu.
type conn struct {
	srv    *Server
	nc     net.Conn
	in     *bufio.Reader
	frames *http2.Framer
	table  *hpack.Decoder
	window int // what the client may still send
	owed   int // what it has sent and was not given back to the window
	head   head
	block  []byte // of a header that goes on in further frames
	ends   bool   // the call has only that header
	// depends says that the client wants a call to wait for itself
	depends bool
	putOff  Flusher   // what Prompt handlers have put off
	came    time.Time // when what is read now came

	heard    atomic.Int64 // unix ns: when something came last
	handlers sync.WaitGroup
	wake     chan struct{} // cap 1: there is something for the writer
	written  chan struct{} // closed when the writer has ended

	mu struct {
		sync.Mutex
		queue
		later    []later // answers to make
		calls    map[uint32]*call
		active   int    // calls that have a handler, or wait for their request or their answer
		newest   uint32 // the largest id that a client has used
		room     *sync.Cond
		err      error // why the connection is over
		draining drain
		idle     time.Time // since when there was no call
		pinged   time.Time // when the client was asked for a sign of life; zero: it was not, or gave one
		strikes  int
		lastPing time.Time // of the client
		ticker   *time.Timer
	}
}

// drain is how far a connection is with going away.
type drain uint8

const (
	stays    drain = iota
	warned         // the client was told; it may have begun calls meanwhile
	agreed         // the client knows: no further calls
	finished       // the writer closes the connection when all is written
)

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{srv: s, nc: nc, window: connWindow, wake: make(chan struct{}, 1), written: make(chan struct{})}
	c.in = bufio.NewReaderSize(hearing{c}, readBuffer)
	c.frames = http2.NewFramer(nil, c.in)
	c.frames.SetMaxReadFrameSize(maxFrame)
	c.frames.SetReuseFrames()
	c.table = hpack.NewDecoder(tableSize, c.head.field)
	c.table.SetMaxStringLength(int(s.opts.MaxHeaders))
	c.mu.queue.init()
	c.mu.calls = map[uint32]*call{}
	c.mu.room = sync.NewCond(&c.mu)
	c.mu.idle = time.Now()
	return c
}

// hearing reads from the connection and notes when.
type hearing struct{ c *conn }

func (h hearing) Read(p []byte) (int, error) {
	h.c.flush()
	n, err := h.c.nc.Read(p)
	h.c.came = time.Now()
	h.c.heard.Store(h.c.came.UnixNano())
	return n, err
}

// greet waits for the client's preface, and answers it.
func (c *conn) greet() error {
	var preface [len(http2.ClientPreface)]byte
	if _, err := io.ReadFull(c.in, preface[:]); err != nil {
		return fmt.Errorf("read the preface: %w", err)
	}
	if !bytes.Equal(preface[:], []byte(http2.ClientPreface)) {
		return errors.New("the client does not speak HTTP/2")
	}
	q := &c.mu.queue
	q.done(q.frames.WriteSettings(
		http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: c.srv.opts.MaxCalls},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: callWindow},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: c.srv.opts.MaxHeaders},
	))
	q.done(q.frames.WriteWindowUpdate(0, connWindow-firstWindow))
	return nil
}

// serve returns when the connection is closed and all its handlers have returned.
func (c *conn) serve() {
	go c.write()
	c.signal()
	c.watch()
	err := c.read()
	var code http2.ConnectionError
	if errors.As(err, &code) {
		c.dismiss(http2.ErrCode(code), err.Error())
	}
	c.fail(err)
	<-c.written
	c.handlers.Wait()
}

// dismiss tells the client why the connection ends, if it still listens.
func (c *conn) dismiss(code http2.ErrCode, why string) {
	_ = c.nc.SetWriteDeadline(time.Now().Add(farewell))
	c.mu.Lock()
	c.mu.done(c.mu.frames.WriteGoAway(c.mu.newest, code, []byte(why)))
	c.mu.draining = finished
	c.mu.Unlock()
	c.signal()
	<-c.written
}

// fail ends the connection and the contexts of all calls.
func (c *conn) fail(err error) {
	defer c.nc.Close() // which may have to wait, with TLS
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.err != nil {
		return
	}
	c.mu.err = err
	if c.mu.ticker != nil {
		c.mu.ticker.Stop()
	}
	for _, k := range c.mu.calls {
		c.leaveLocked(k)
	}
	c.mu.room.Broadcast()
	c.signal()
}

// flush does what Prompt handlers have put off.
func (c *conn) flush() {
	if f := c.putOff; f != nil {
		c.putOff = nil
		f.Flush()
	}
}

// read handles frames until the connection ends. An http2.ConnectionError is the client's fault.
func (c *conn) read() error {
	defer c.flush()
	for {
		f, err := c.frames.ReadFrame()
		if err == nil {
			err = c.handle(f)
		}
		if err != nil {
			if err = c.survive(err); err != nil {
				return err
			}
		}
		if err := c.throttle(); err != nil {
			return err
		}
	}
}

// survive resets the call whose fault an error is. Others it returns.
func (c *conn) survive(err error) error {
	var stream http2.StreamError
	switch {
	case errors.As(err, &stream):
		c.reset(stream.StreamID, stream.Code)
		return nil
	case errors.Is(err, http2.ErrFrameTooLarge):
		return http2.ConnectionError(http2.ErrCodeFrameSize)
	}
	return err
}

// throttle lets a client that does not read what it is sent wait before its next frame.
func (c *conn) throttle() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.mu.full() && c.mu.err == nil {
		if c.putOff != nil {
			c.mu.Unlock()
			c.flush()
			c.mu.Lock()
			continue
		}
		c.mu.room.Wait()
	}
	return c.mu.err
}

func (c *conn) handle(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.DataFrame:
		return c.data(f)
	case *http2.HeadersFrame:
		if f.StreamID%2 == 0 {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		c.depends = f.HasPriority() && f.Priority.StreamDep == f.StreamID
		return c.fragment(f.StreamID, f.HeaderBlockFragment(), f.StreamEnded(), f.HeadersEnded())
	case *http2.ContinuationFrame: // the framer lets none come that does not go on with a header
		return c.fragment(f.StreamID, f.HeaderBlockFragment(), c.ends, f.HeadersEnded())
	case *http2.RSTStreamFrame:
		return c.cancelled(f.StreamID)
	case *http2.WindowUpdateFrame:
		return c.widen(f.StreamID, int64(f.Increment))
	case *http2.SettingsFrame:
		return c.settings(f)
	case *http2.PingFrame:
		return c.ping(f)
	case *http2.PushPromiseFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	case *http2.PriorityFrame: // otherwise of no interest
		if f.StreamDep == f.StreamID {
			return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeProtocol}
		}
	}
	return nil // a farewell, and what we do not know
}

// fragment takes a piece of a header, and the header when it is whole.
func (c *conn) fragment(id uint32, piece []byte, ends, whole bool) error {
	if len(c.block) > 0 || !whole {
		if len(c.block)+len(piece) > int(c.srv.opts.MaxHeaders) {
			return http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
		}
		c.block = append(c.block, piece...)
		c.ends = ends
		if !whole {
			return nil
		}
		piece = c.block
		c.block = nil
	}
	c.head = head{limit: int(c.srv.opts.MaxHeaders), wanted: c.srv.opts.Headers}
	if c.depends {
		c.head.fault = http2.ErrCodeProtocol
	}
	if _, err := c.table.Write(piece); err != nil {
		return http2.ConnectionError(http2.ErrCodeCompression)
	}
	if err := c.table.Close(); err != nil {
		return http2.ConnectionError(http2.ErrCodeCompression)
	}
	return c.header(id, ends)
}

// header begins a call, or ends what a client sends in one.
func (c *conn) header(id uint32, ends bool) error {
	c.mu.Lock()
	k := c.mu.calls[id]
	if k != nil {
		closed := k.ended
		k.ended = k.ended || ends
		c.mu.Unlock()
		switch {
		case closed:
			return http2.StreamError{StreamID: id, Code: http2.ErrCodeStreamClosed}
		case !ends || c.head.pseudos > 0 || c.head.fault != 0:
			return http2.StreamError{StreamID: id, Code: http2.ErrCodeProtocol}
		}
		c.ended(k)
		return nil
	}
	if id <= c.mu.newest {
		c.mu.Unlock()
		return http2.ConnectionError(http2.ErrCodeStreamClosed)
	}
	c.mu.newest = id
	switch {
	case c.mu.err != nil: // the writer found out first
		defer c.mu.Unlock()
		return c.mu.err
	case c.mu.draining >= agreed:
		c.mu.Unlock()
		return nil // the client knows that it was not begun
	case c.head.fault != 0 || c.head.pseudos&required != required:
		c.mu.Unlock()
		return http2.StreamError{StreamID: id, Code: max(c.head.fault, http2.ErrCodeProtocol)}
	case uint32(c.mu.active) >= c.srv.opts.MaxCalls:
		c.mu.Unlock()
		return http2.StreamError{StreamID: id, Code: http2.ErrCodeRefusedStream}
	}
	k = newCall(c, id, &c.head)
	k.sendWindow, k.ended = c.mu.initial, ends
	c.mu.calls[id] = k
	c.mu.active++
	c.mu.Unlock()
	if s := c.head.refusal(); s != nil {
		c.finish(k, s)
		return nil
	}
	var why string
	if k.method, why = c.srv.find(c.head.path); k.method == nil {
		c.finish(k, refused(codes.Unimplemented, why))
		return nil
	}
	if !k.method.collected() {
		k.arrived = make(chan struct{}, 1)
		c.start(k)
	}
	if ends {
		c.ended(k)
	}
	return nil
}

// start hands a call to a handler.
func (c *conn) start(k *call) {
	c.mu.Lock()
	if k.over { // the connection has failed
		c.mu.Unlock()
		return
	}
	k.running = true
	c.handlers.Add(1)
	c.mu.Unlock()
	if k.method.prompt {
		k.run()
		return
	}
	select {
	case c.srv.work <- k:
	default:
		go k.run()
	}
}

func (c *conn) data(f *http2.DataFrame) error {
	n := int(f.Length) // with what it is padded by
	if c.window -= n; c.window < 0 {
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	c.owed += n
	c.mu.Lock()
	if c.owed >= connWindow/4 {
		c.mu.done(c.mu.frames.WriteWindowUpdate(0, uint32(c.owed)))
		c.window += c.owed
		c.owed = 0
		c.signal()
	}
	k, newest := c.mu.calls[f.StreamID], c.mu.newest
	closed, overdrawn := false, false
	if k != nil {
		k.window -= n
		k.owed += n
		closed, overdrawn = k.ended, k.window < 0
	}
	c.mu.Unlock()
	switch {
	case k == nil && f.StreamID > newest:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	case k == nil:
		return nil // of a call that is over
	case closed:
		return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeStreamClosed}
	case overdrawn:
		return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeFlowControl}
	}
	fault := k.take(f.Data(), f.StreamEnded())
	if f.StreamEnded() { // what came has its place before its end is seen
		c.mu.Lock()
		k.ended = true
		c.mu.Unlock()
	}
	switch {
	case fault != nil:
		c.finish(k, fault)
	case f.StreamEnded():
		c.ended(k)
	default:
		k.refund()
	}
	return nil
}

// ended is for a call in which the client has nothing more to say.
func (c *conn) ended(k *call) {
	if !k.method.collected() {
		k.notify()
	} else if s := k.whole(); s != nil {
		c.finish(k, s)
	} else {
		c.start(k)
	}
}

func (c *conn) cancelled(id uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id > c.mu.newest {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	if k := c.mu.calls[id]; k != nil {
		c.leaveLocked(k)
	}
	return nil
}

// reset ends a call for the client's fault.
func (c *conn) reset(id uint32, code http2.ErrCode) {
	c.mu.Lock()
	if k := c.mu.calls[id]; k != nil {
		c.leaveLocked(k)
	}
	c.mu.done(c.mu.frames.WriteRSTStream(id, code))
	c.mu.Unlock()
	c.signal()
}

// leaveLocked ends a call without an answer. A handler that it has finds its context at an end, and counts until it returns.
func (c *conn) leaveLocked(k *call) {
	delete(c.mu.calls, k.id)
	k.over = true
	if !k.running {
		c.fewerLocked()
	}
	k.cancel()
}

// fewerLocked counts a call less.
func (c *conn) fewerLocked() {
	if c.mu.active--; c.mu.active > 0 {
		return
	}
	c.mu.idle = time.Now()
	if c.mu.draining == agreed {
		c.mu.draining = finished
		c.signal()
	}
}

func (c *conn) widen(id uint32, by int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id == 0 {
		if c.mu.window += by; c.mu.window > maxWindow {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
	} else if k := c.mu.calls[id]; k != nil {
		if k.sendWindow += by; k.sendWindow > maxWindow {
			return http2.StreamError{StreamID: id, Code: http2.ErrCodeFlowControl}
		}
	} else if id > c.mu.newest {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	c.releaseLocked()
	return nil
}

func (c *conn) settings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	err := f.ForeachSetting(func(s http2.Setting) error {
		if err := s.Valid(); err != nil {
			return err
		}
		switch s.ID {
		case http2.SettingInitialWindowSize:
			by := int64(s.Val) - c.mu.initial
			c.mu.initial = int64(s.Val)
			for _, k := range c.mu.calls {
				if k.sendWindow += by; k.sendWindow > maxWindow {
					return http2.ConnectionError(http2.ErrCodeFlowControl)
				}
			}
		case http2.SettingHeaderTableSize:
			c.mu.resize(min(s.Val, tableSize))
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.mu.done(c.mu.frames.WriteSettingsAck())
	c.releaseLocked()
	c.signal()
	return nil
}
