package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Why a connection ended, or did not take a command.
var (
	ErrClosed     = errors.New("connection closed")
	ErrIdle       = errors.New("nothing read or written for too long")
	ErrStalled    = errors.New("the peer does not read what is written")
	ErrSlowReader = errors.New("too many bytes wait for the peer to read them")
	ErrNoMemory   = errors.New("no memory left for large frames")
	ErrTooLong    = errors.New("frame too long to send")
	ErrManyCalls  = errors.New("too many calls without an answer")
)

// limits of one connection; servers and clients fill them from their options.
type limits struct {
	frame int   // bytes of one frame, either way
	pause int64 // queued bytes from which on nothing more is read from the peer
	queue int64 // queued bytes from which on the connection is closed
	calls int   // own calls without an answer
}

// Conn is one connection, at either end. Its methods may be called from any goroutine, except where they say otherwise.
//
// Two goroutines belong to it: the reader cuts frames and calls the handler, the writer takes whatever has been queued
// since its last write and writes it at once.
type Conn struct {
	raw      net.Conn // as accepted or dialled
	rw       net.Conn // raw, or TLS over it
	lim      limits
	budget   *budget
	serve    func(*Conn, *Command)
	answered func(req, resp *Command) // may be nil
	remote   netip.AddrPort
	local    netip.AddrPort
	opened   time.Time
	version  atomic.Int32 // of the peer, from its last request

	underWay atomic.Int64 // requests served and not yet released
	quietFor atomic.Int32 // sweeps since the last read or write
	stalled  atomic.Int32 // sweeps since the write under way began, plus one; 0: none is
	finish   atomic.Bool  // read no more; close when all requests are answered

	out   outQueue
	calls calls

	done chan struct{} // closed with the connection
	end  struct {
		sync.Once
		err error // set before done is closed
	}

	attachment any
}

func newConn(raw net.Conn, lim limits, bud *budget, serve func(*Conn, *Command)) *Conn {
	c := &Conn{raw: raw, rw: raw, lim: lim, budget: bud, serve: serve, done: make(chan struct{}), opened: time.Now()}
	c.remote, c.local = addrPort(raw.RemoteAddr()), addrPort(raw.LocalAddr())
	c.out.wake = make(chan struct{}, 1)
	c.out.drained = make(chan struct{}, 1)
	return c
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// Remote is the peer's address, zero when the connection is not TCP.
func (c *Conn) Remote() netip.AddrPort { return c.remote }

// Local is our own address.
func (c *Conn) Local() netip.AddrPort { return c.local }

// Opened is when the connection was made.
func (c *Conn) Opened() time.Time { return c.opened }

// PeerVersion is what the peer's last request said, 0 before the first.
func (c *Conn) PeerVersion() int { return int(c.version.Load()) }

// TLS describes the session; ok is false on a plain connection.
func (c *Conn) TLS() (state tls.ConnectionState, ok bool) {
	if t, isTLS := c.rw.(*tls.Conn); isTLS {
		return t.ConnectionState(), true
	}
	return tls.ConnectionState{}, false
}

// Attach keeps something with the connection. It is called from Handler.Opened, or before requests can come.
func (c *Conn) Attach(v any) { c.attachment = v }

// Attachment is what Attach kept.
func (c *Conn) Attachment() any { return c.attachment }

// Done is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err is why the connection ended, nil while it has not.
func (c *Conn) Err() error {
	select {
	case <-c.done:
		return c.end.err
	default:
		return nil
	}
}

// Queued is how many bytes wait to be written or are being written.
func (c *Conn) Queued() int64 { return c.out.queued.Load() }

// fail ends the connection at once. Only the first reason counts.
func (c *Conn) fail(err error) {
	c.end.Do(func() {
		c.end.err = err
		close(c.done)
		_ = c.raw.Close() // nobody could do anything about its error
		c.out.shut()
		c.calls.fail(err)
	})
}

// close ends the connection after what was written reached the kernel.
func (c *Conn) close(err error) {
	if t, ok := c.rw.(*tls.Conn); ok {
		_ = t.CloseWrite() // tells the peer that nothing was cut off
	}
	c.fail(err)
}

// Close ends the connection at once; requests and calls under way are lost. It does not wait for its goroutines.
func (c *Conn) Close() { c.fail(ErrClosed) }

// finishSoon makes the connection close when the requests under way are answered.
func (c *Conn) finishSoon() {
	c.finish.Store(true)
	_ = c.raw.SetReadDeadline(time.Unix(1, 0)) // fails only on a closed connection
	c.out.poke()
}

// requestDone is called when a request of this connection was released.
func (c *Conn) requestDone() {
	if c.underWay.Add(-1) == 0 && c.finish.Load() {
		c.out.poke()
	}
}

// readLoop is the reader; it returns when the connection has ended. first was read before.
func (c *Conn) readLoop(first []byte) {
	r := reader{src: c.rw, limit: c.lim.frame, budget: c.budget, size: chunkMin, timed: c.answered != nil}
	defer r.close()
	if len(first) > 0 {
		r.src = &prefixed{first: first, rest: c.rw}
	}
	for { // what was read is served, also when it is time to finish
		frame, err := r.next()
		if err != nil {
			if !c.finish.Load() {
				c.fail(err)
			}
			break
		}
		c.quietFor.Store(0)
		cmd := getCommand()
		if err := cmd.decode(frame); err != nil {
			cmd.Release()
			c.fail(err)
			break
		}
		if cmd.Body != nil {
			r.cur.hold()
			cmd.chunk = r.cur
		}
		if cmd.IsResponse() {
			c.calls.answer(cmd)
			continue
		}
		cmd.conn, cmd.Received = c, r.filled
		c.underWay.Add(1)
		c.version.Store(int32(cmd.Version))
		c.serve(c, cmd)
		if c.out.queued.Load() > c.lim.pause {
			c.waitDrained()
		}
	}
	<-c.done
}

// waitDrained holds the reader back until the writer has caught up.
func (c *Conn) waitDrained() {
	for c.out.queued.Load() > c.lim.pause/2 {
		select {
		case <-c.out.drained:
		case <-c.done:
			return
		}
	}
}

// writeLoop is the writer; it returns when the connection has ended.
func (c *Conn) writeLoop() {
	var vec net.Buffers
	for {
		select {
		case <-c.out.wake:
		case <-c.done:
			return
		}
		for {
			answered := c.finish.Load() && c.underWay.Load() == 0
			b := c.out.take()
			if b == nil {
				if answered {
					c.close(ErrClosed)
					return
				}
				break
			}
			c.stalled.Store(1)
			err := b.write(c.rw, &vec)
			c.stalled.Store(0)
			c.quietFor.Store(0)
			c.out.wrote(b)
			if err != nil {
				c.fail(fmt.Errorf("write: %w", err))
				return
			}
		}
	}
}

// sweep counts the time without reading, writing or progress and closes after n sweeps.
func (c *Conn) sweep(n int32) {
	// A write that ends just now sets stalled to 0, which must not be counted on from.
	if w := c.stalled.Load(); w > n {
		c.fail(ErrStalled)
	} else if w > 0 {
		c.stalled.CompareAndSwap(w, w+1)
	} else if c.quietFor.Add(1) > n {
		c.fail(ErrIdle)
	}
}

// Respond answers a request and releases both. To a one-way request nothing is sent. A response that is longer than a
// frame may be is replaced by one that says so. When the connection has ended the response is dropped.
func (c *Conn) Respond(req, resp *Command) {
	if c.answered != nil {
		c.answered(req, resp)
	}
	if !req.IsOneWay() {
		resp.Opaque = req.Opaque
		resp.Flag |= flagResponse
		resp.Serialize = req.Serialize
		if err := c.send(resp); errors.Is(err, ErrTooLong) {
			short := req.Reply(SystemError, fmt.Sprintf("the answer has more than %d bytes", c.lim.frame))
			_ = c.send(short) // has ended otherwise
			short.Release()
		}
	}
	resp.Release()
	req.Release()
}

// OneWay sends a request that is not answered. cmd is not released, but its Body is given away.
func (c *Conn) OneWay(cmd *Command) error {
	cmd.Flag = flagOneWay
	cmd.Opaque = c.calls.number()
	return c.send(cmd)
}

// Invoke sends a request and waits for its response, which the caller may Release. cmd is not released, but its Body is
// given away. Errors: ctx's, ErrManyCalls, ErrTooLong, or why the connection ended.
func (c *Conn) Invoke(ctx context.Context, cmd *Command) (*Command, error) {
	type answer struct {
		resp *Command
		err  error
	}
	ch := make(chan answer, 1)
	n, err := c.call(cmd, func(resp *Command, err error) { ch <- answer{resp, err} })
	if err != nil {
		return nil, err
	}
	select {
	case a := <-ch:
		return a.resp, a.err
	case <-ctx.Done():
		if c.calls.remove(n) {
			return nil, ctx.Err()
		}
		a := <-ch // it has just come
		return a.resp, a.err
	}
}

// InvokeAsync is Invoke with a callback, which is called exactly once, from the reader goroutine or from whoever closes
// the connection; it must not block and owns the response. It is not called when InvokeAsync returns an error. There is
// no time limit but the connection's end.
func (c *Conn) InvokeAsync(cmd *Command, done func(resp *Command, err error)) error {
	_, err := c.call(cmd, done)
	return err
}

func (c *Conn) call(cmd *Command, done func(*Command, error)) (int32, error) {
	n, err := c.calls.add(done, c.lim.calls)
	if err != nil {
		cmd.bodyDone()
		return 0, err
	}
	cmd.Flag = 0
	cmd.Opaque = n
	if err := c.send(cmd); err != nil && c.calls.remove(n) {
		return 0, err
	}
	return n, nil
}

// send queues a command.
func (c *Conn) send(cmd *Command) error {
	err := c.out.put(cmd, c.lim)
	if errors.Is(err, ErrSlowReader) {
		c.fail(err)
	}
	return err
}
