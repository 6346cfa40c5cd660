package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"runtime"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/metadata"
)

const (
	rpcConnWindow = 16 << 20 // bytes that the broker may send at once, over a connection and in a call: given back as they come
	rpcCallWindow = 1 << 20
	firstWindow   = 65535    // of HTTP/2, before anybody has said otherwise
	rpcFrame      = 16 << 10 // the largest frame, both ways
	rpcAnswer     = 64 << 20 // the largest answer
	// fewBytes wait until other workers have added theirs: a system call costs as much as several requests.
	fewBytes = 4 << 10
)

// rpcConn is a connection for gRPC calls, which the protocol's generated client uses in place of a grpc.ClientConn. It does what a
// driver needs and no more, for what a driver takes of the processors is missing to the broker that it measures: requests of
// calls that run at once are written together, and who waits for an answer decodes it. It does not come back once it is lost.
type rpcConn struct {
	nc      net.Conn
	fields  []hpack.HeaderField // of every call
	wake    chan struct{}       // cap 1: there is something to write
	workers sync.WaitGroup

	mu struct {
		sync.Mutex
		out, spare []byte
		frames     *http2.Framer // writes to out
		table      *hpack.Encoder
		block      bytes.Buffer // of table
		window     int64        // what the broker lets us send
		initial    int64        // the same of a new call
		limit      int          // calls under way at once; none before the broker has said how many
		told       bool         // the broker has said what it wants
		calls      map[uint32]*rpcCall
		next       uint32     // id of the next call
		room       *sync.Cond // of those who wait for a window or to begin a call
		err        error      // why the connection is over
	}
}

// dialRPC connects. Every call sends md.
func dialRPC(ctx context.Context, endpoint string, md metadata.MD) (*rpcConn, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", endpoint)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", endpoint, err)
	}
	c := &rpcConn{nc: nc, wake: make(chan struct{}, 1), fields: []hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: endpoint},
		{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"}, {Name: "user-agent", Value: "cairn-bench"},
	}}
	for name, values := range md {
		for _, v := range values {
			c.fields = append(c.fields, hpack.HeaderField{Name: name, Value: v})
		}
	}
	q := &c.mu
	q.out = append(q.out, http2.ClientPreface...)
	q.frames = http2.NewFramer((*rpcQueue)(c), nil)
	q.table = hpack.NewEncoder(&q.block)
	q.window, q.initial, q.next = firstWindow, firstWindow, 1
	q.calls = map[uint32]*rpcCall{}
	q.room = sync.NewCond(&q.Mutex)
	must(q.frames.WriteSettings(http2.Setting{ID: http2.SettingEnablePush}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: rpcCallWindow}))
	must(q.frames.WriteWindowUpdate(0, rpcConnWindow-firstWindow))
	c.signal()
	c.workers.Go(c.write)
	c.workers.Go(c.read)
	return c, nil
}

// must takes what a method of Framer returns that writes to memory: it fails for arguments only that cannot be in a frame.
func must(err error) {
	if err != nil {
		panic("bench: " + err.Error())
	}
}

// rpcQueue appends frames to what is to be written. Its mutex is held.
type rpcQueue rpcConn

func (q *rpcQueue) Write(p []byte) (int, error) {
	q.mu.out = append(q.mu.out, p...)
	return len(p), nil
}

func (c *rpcConn) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// close ends the calls that are under way and waits for the connection's goroutines.
func (c *rpcConn) close() {
	c.fail(net.ErrClosed)
	c.workers.Wait()
}

func (c *rpcConn) fail(err error) {
	c.mu.Lock()
	if c.mu.err == nil {
		c.mu.err = err
		for id, k := range c.mu.calls {
			delete(c.mu.calls, id)
			k.end(unavailable(err))
		}
	}
	c.mu.room.Broadcast()
	c.mu.Unlock()
	_ = c.nc.Close()
	c.signal()
}

func (c *rpcConn) write() {
	for range c.wake {
		c.mu.Lock()
		if n := len(c.mu.out); n > 0 && n < fewBytes {
			c.mu.Unlock()
			runtime.Gosched()
			c.mu.Lock()
		}
		out, over := c.mu.out, c.mu.err != nil
		c.mu.out, c.mu.spare = c.mu.spare[:0], nil
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
		c.mu.Lock()
		c.mu.spare = out
		c.mu.Unlock()
	}
}

// read takes frames until the connection ends.
func (c *rpcConn) read() {
	frames := http2.NewFramer(nil, bufio.NewReaderSize(c.nc, 64<<10))
	frames.SetMaxReadFrameSize(rpcFrame)
	frames.SetReuseFrames()
	in := &rpcReader{c: c}
	in.table = hpack.NewDecoder(4096, in.head.field)
	for {
		f, err := frames.ReadFrame()
		if err == nil {
			err = in.take(f)
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
}

// rpcReader is what the reader of a connection alone has.
type rpcReader struct {
	c     *rpcConn
	table *hpack.Decoder
	head  rpcHead
	ends  bool // the header that goes on in further frames is the last of its call
	owed  int  // bytes that came and were not given back to the window
}

func (r *rpcReader) take(f http2.Frame) error {
	c := r.c
	switch f := f.(type) {
	case *http2.DataFrame:
		return r.data(f)
	case *http2.HeadersFrame:
		r.head, r.ends = rpcHead{}, f.StreamEnded()
		return r.fragment(f.StreamID, f.HeaderBlockFragment(), f.HeadersEnded())
	case *http2.ContinuationFrame:
		return r.fragment(f.StreamID, f.HeaderBlockFragment(), f.HeadersEnded())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch f := f.(type) {
	case *http2.WindowUpdateFrame:
		if f.StreamID == 0 {
			c.mu.window += int64(f.Increment)
		} else if k := c.mu.calls[f.StreamID]; k != nil {
			k.window += int64(f.Increment)
		}
		c.mu.room.Broadcast()
	case *http2.RSTStreamFrame:
		if k := c.leaveLocked(f.StreamID); k != nil {
			k.end(unavailable(fmt.Errorf("the broker gave the call up: %s", f.ErrCode)))
		}
	case *http2.SettingsFrame:
		if f.IsAck() {
			return nil
		}
		return r.settingsLocked(f)
	case *http2.PingFrame:
		if !f.IsAck() {
			must(c.mu.frames.WritePing(true, f.Data))
			c.signal()
		}
	case *http2.GoAwayFrame:
		return fmt.Errorf("the broker closes the connection: %s %s", f.ErrCode, f.DebugData())
	}
	return nil
}

func (r *rpcReader) settingsLocked(f *http2.SettingsFrame) error {
	c := r.c
	if !c.mu.told {
		c.mu.told, c.mu.limit = true, math.MaxInt
	}
	err := f.ForeachSetting(func(s http2.Setting) error {
		if err := s.Valid(); err != nil {
			return err
		}
		switch s.ID {
		case http2.SettingInitialWindowSize:
			for _, k := range c.mu.calls {
				k.window += int64(s.Val) - c.mu.initial
			}
			c.mu.initial = int64(s.Val)
		case http2.SettingMaxConcurrentStreams:
			c.mu.limit = int(s.Val)
		case http2.SettingHeaderTableSize:
			c.mu.table.SetMaxDynamicTableSizeLimit(s.Val)
		}
		return nil
	})
	must(c.mu.frames.WriteSettingsAck())
	c.mu.room.Broadcast()
	c.signal()
	return err
}

func (r *rpcReader) data(f *http2.DataFrame) error {
	c, n := r.c, int(f.Length) // with what it is padded by
	r.owed += n
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.owed >= rpcConnWindow/4 {
		must(c.mu.frames.WriteWindowUpdate(0, uint32(r.owed)))
		r.owed = 0
		c.signal()
	}
	k := c.mu.calls[f.StreamID]
	if k == nil {
		return nil // of a call that is over
	}
	k.came = append(k.came, f.Data()...)
	if k.owed += n; k.owed >= rpcCallWindow/4 && !f.StreamEnded() {
		must(c.mu.frames.WriteWindowUpdate(f.StreamID, uint32(k.owed)))
		k.owed = 0
		c.signal()
	}
	if f.StreamEnded() {
		c.leaveLocked(f.StreamID)
		k.end(unavailable(errors.New("the answer has no status")))
	} else if k.streams {
		k.notify()
	}
	return nil
}

// fragment takes a piece of a header, and when that is the last, what it says of its call.
func (r *rpcReader) fragment(id uint32, piece []byte, whole bool) error {
	if _, err := r.table.Write(piece); err != nil || !whole {
		return err
	}
	if err := r.table.Close(); err != nil {
		return err
	}
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	if !r.ends {
		return nil
	}
	if k := r.c.leaveLocked(id); k != nil {
		k.end(r.head.outcome())
	}
	return nil
}

// leaveLocked takes a call out, so that another may begin, and who still sends in it stops.
func (c *rpcConn) leaveLocked(id uint32) *rpcCall {
	k := c.mu.calls[id]
	if k != nil {
		delete(c.mu.calls, id)
		c.mu.room.Broadcast()
	}
	return k
}

// waitLocked waits for room, until the connection or ctx ends.
func (c *rpcConn) waitLocked(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.mu.room.Broadcast()
	})
	defer stop()
	c.mu.room.Wait()
	if c.mu.err != nil {
		return unavailable(c.mu.err)
	}
	return ctx.Err()
}

// timeoutField says when a call is to end, rounded up to seconds: most calls have the same, which compresses well.
func timeoutField(deadline time.Time) hpack.HeaderField {
	left := max(time.Until(deadline), time.Second)
	return hpack.HeaderField{Name: "grpc-timeout", Value: fmt.Sprintf("%dS", (left+time.Second-1)/time.Second)}
}
