package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip" // which clients may use
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// A message on the wire:
//
//	byte    1: compressed, 0: not
//	uint32  length, big endian
//	length bytes
const prefix = 5

// call is one call: the stream of its handler, and its context.
type call struct {
	conn       *conn
	id         uint32
	method     *method
	headers    [maxWanted]string // the values of Options.Headers
	encoding   string
	came       time.Time
	httpStatus string // of an answer that is a refusal only
	deadline   time.Time

	// Of the reader.
	in   []byte // what came and is not cut into messages; of a collected call the request, once it was started
	lent bool   // in is the frame that was read last

	// The mutex of conn guards these.
	ended      bool // the client has nothing more to say
	running    bool // it has a handler that has not returned
	over       bool // nothing more is sent
	headed     bool // the header is sent
	sendWindow int64
	window     int      // what the client may still send
	owed       int      // what it has sent and was not given back to the window
	messages   [][]byte // that came and were not taken, of a call that is not collected; compressed ones begin with a 1
	waiting    int      // bytes of them

	room    chan struct{} // cap 1: there may be room to send
	arrived chan struct{} // cap 1: there may be a message

	ctx struct {
		sync.Mutex
		err   error
		done  chan struct{} // nil until somebody asks for it
		timer *time.Timer
	}
}

func newCall(c *conn, id uint32, h *head) *call {
	k := &call{conn: c, id: id, window: callWindow, headers: h.values, encoding: h.encoding, came: c.came, httpStatus: h.status()}
	if h.timed {
		k.deadline = k.came.Add(h.timeout)
	}
	return k
}

// take adds what came of a request, or of several, and is the last of it. The handler of a Prompt method is done with a request that
// came in one piece before the next frame is read, so that it needs no copy.
func (k *call) take(data []byte, last bool) *status.Status {
	if k.lent = last && k.in == nil && k.method.prompt; k.lent {
		k.in = data
	} else {
		if k.in == nil {
			k.in = room()
		}
		k.in = append(k.in, data...)
	}
	for len(k.in) >= prefix {
		n := int(binary.BigEndian.Uint32(k.in[1:]))
		switch limit := k.conn.srv.opts.MaxRequest; {
		case n > limit:
			return status.Newf(codes.ResourceExhausted, "grpc: received message larger than max (%d vs. %d)", n, limit)
		case k.in[0] > 1:
			return status.Newf(codes.Internal, "grpc: received unexpected payload format %d", k.in[0])
		case k.method.collected():
			if len(k.in) > prefix+n {
				return status.New(codes.Internal, "the call has more than one request")
			}
			return nil
		case len(k.in) < prefix+n:
			return nil
		}
		c := k.conn
		c.mu.Lock()
		k.messages = append(k.messages, append([]byte{}, k.in[:prefix+n]...))
		k.waiting += prefix + n
		c.mu.Unlock()
		k.in = append(k.in[:0], k.in[prefix+n:]...)
		k.notify()
	}
	return nil
}

// whole says what is wrong with the request of a collected call when the client has ended it.
func (k *call) whole() *status.Status {
	if len(k.in) < prefix || len(k.in) < prefix+int(binary.BigEndian.Uint32(k.in[1:])) {
		return status.New(codes.Internal, "the call ended before its request did")
	}
	return nil
}

// refund gives back to the window of a call what it has taken, unless messages wait for the handler.
func (k *call) refund() {
	c := k.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if k.owed < callWindow/4 || k.waiting >= callWindow/2 || k.ended || k.over {
		return
	}
	c.mu.done(c.mu.frames.WriteWindowUpdate(k.id, uint32(k.owed)))
	k.window += k.owed
	k.owed = 0
	c.signal()
}

func (k *call) notify() {
	select {
	case k.arrived <- struct{}{}:
	default:
	}
}

// run calls the handler.
func (k *call) run() {
	c, m := k.conn, k.method
	opts := &c.srv.opts
	var answer any
	var err error
	switch {
	case m.unary != nil:
		answer, err = m.unary.Handler(m.srv, k, k.request, opts.Unary)
	case opts.Stream != nil:
		err = opts.Stream(m.srv, k, m.sinfo, m.stream.Handler)
	default:
		err = m.stream.Handler(m.srv, k)
	}
	k.returned() // before the client hears of the end, since it may begin another call then
	if m.unary != nil && err == nil {
		if m.prompt { // the reader must not wait for room
			k.answer(made{answer})
			err = ErrLater
		} else {
			err = k.sendMessage(answer, true)
		}
	}
	if err != ErrLater {
		c.finish(k, statusOf(err))
	}
	c.handlers.Done()
}

// returned is for when the handler has.
func (k *call) returned() {
	c := k.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	k.running = false
	if k.over {
		c.fewerLocked()
	}
}

// ErrLater is what a handler returns that has asked for Later.
var ErrLater = errors.New("the answer comes later")

// Pending is a unary call whose handler returned, or will return, ErrLater.
type Pending struct{ call *call }

// Builder makes the answer of a call.
type Builder interface{ Build() (any, error) }

// made is a Builder of what is there.
type made struct{ answer any }

func (m made) Build() (any, error) { return m.answer, nil }

// Later lets the handler of a unary call, whose context ctx is, return ErrLater before its answer is there.
func Later(ctx context.Context) Pending { return Pending{ctx.Value(callKey{}).(*call)} }

// Answer is to be called once, from anywhere; it does not wait. The answer is made and encoded by the writer of the connection,
// and not at all when the client has gone meanwhile. No interceptor is around it: a panic in Build is the process's.
func (p Pending) Answer(b Builder) { p.call.answer(b) }

// Came is when the call began to come.
func (p Pending) Came() time.Time { return p.call.came }

// Aside lets the handler of a Prompt method, whose context ctx is, leave what has to wait to a goroutine of its own, and return
// ErrLater. A panic in do is the process's.
func Aside(ctx context.Context, do func()) {
	ctx.Value(callKey{}).(*call).conn.handlers.Go(do) // serve waits for it after the reader
}

// Flusher is what handlers of Prompt methods have put off.
type Flusher interface{ Flush() }

// PutOff is where handlers of Prompt methods, whose context ctx is, keep what they put off to do it for several requests of the
// connection at once. It is the connection's, and only such a handler may use it, until it returns. What is there is flushed and
// taken out by the connection's reader before it waits for more of what the client sends: nothing waits for a request to come.
func PutOff(ctx context.Context) *Flusher { return &ctx.Value(callKey{}).(*call).conn.putOff }

// later is an answer that the writer makes.
type later struct {
	call    *call
	builder Builder
}

func (k *call) answer(b Builder) {
	c := k.conn
	c.mu.Lock()
	if !k.over {
		c.mu.later = append(c.mu.later, later{k, b})
	}
	c.mu.Unlock()
	c.signal()
}

// statusOf is that of a handler's error; nil is OK.
func statusOf(err error) *status.Status {
	s, ok := status.FromError(err)
	if !ok {
		s = status.FromContextError(err)
	}
	return s
}

// request decodes the only message of a collected call. The second time there is none.
func (k *call) request(m any) error {
	in := k.in
	if in == nil {
		return io.EOF
	}
	k.in = nil
	err := k.decode(in, m)
	if !k.lent {
		giveBack(in)
	}
	return err
}

func (k *call) decode(msg []byte, m any) error {
	opts := &k.conn.srv.opts
	body := msg[prefix:]
	if msg[0] == 1 {
		d := encoding.GetCompressor(k.encoding)
		if d == nil {
			return status.Errorf(codes.Unimplemented, "grpc: Decompressor is not installed for grpc-encoding %q", k.encoding)
		}
		r, err := d.Decompress(bytes.NewReader(body))
		if err == nil {
			body, err = io.ReadAll(io.LimitReader(r, int64(opts.MaxRequest)+1))
		}
		switch {
		case err != nil:
			return status.Errorf(codes.Internal, "grpc: failed to decompress the message: %v", err)
		case len(body) > opts.MaxRequest:
			return status.Errorf(codes.ResourceExhausted, "grpc: message after decompression larger than max %d", opts.MaxRequest)
		}
	}
	if err := opts.Codec.Unmarshal(body, m); err != nil {
		return status.Errorf(codes.Internal, "grpc: error unmarshalling request: %v", err)
	}
	return nil
}

// sendMessage encodes and queues a message, and after the last one the end of the call.
func (k *call) sendMessage(m any, last bool) error {
	b, err := k.encode(room(), m)
	if err != nil {
		return err
	}
	err = k.conn.send(k, b, last)
	giveBack(b)
	return err
}

// encode is a message as it is sent, in an empty buffer.
func (k *call) encode(empty []byte, m any) ([]byte, error) {
	b, err := k.conn.srv.opts.Codec.Append(append(empty, make([]byte, prefix)...), m)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "grpc: error while marshaling: %v", err)
	}
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-prefix))
	return b, nil
}

// SendMsg queues a message. It waits while the client does not take what there is.
func (k *call) SendMsg(m any) error { return k.sendMessage(m, false) }

// RecvMsg waits for the client's next message; io.EOF: there is none.
func (k *call) RecvMsg(m any) error {
	if k.method.collected() {
		return k.request(m)
	}
	c := k.conn
	for {
		c.mu.Lock()
		over, ended := k.over, k.ended
		if len(k.messages) > 0 && !over {
			msg := k.messages[0]
			k.messages[0] = nil
			k.messages = k.messages[1:]
			k.waiting -= len(msg)
			c.mu.Unlock()
			k.refund()
			return k.decode(msg, m)
		}
		c.mu.Unlock()
		switch {
		case over:
			return status.FromContextError(k.Err()).Err()
		case ended && len(k.in) > 0: // nothing comes any more that the reader could add
			return status.Error(codes.Internal, "the call ended in the middle of a message")
		case ended:
			return io.EOF
		}
		select {
		case <-k.arrived:
		case <-k.Done():
			return status.FromContextError(k.Err()).Err()
		}
	}
}

// Context is the call itself.
func (k *call) Context() context.Context { return k }

var errNoMetadata = errors.New("answers have no metadata")

// SetHeader fails: none of the services that there are has anything to say in headers, nor in trailers.
func (k *call) SetHeader(metadata.MD) error { return errNoMetadata }

// SendHeader fails, see SetHeader.
func (k *call) SendHeader(metadata.MD) error { return errNoMetadata }

// SetTrailer does nothing, see SetHeader.
func (k *call) SetTrailer(metadata.MD) {}

// Deadline is the client's, if it has sent one.
func (k *call) Deadline() (time.Time, bool) { return k.deadline, !k.deadline.IsZero() }

// Done is closed when the call is over, its client has gone, or its deadline has passed.
func (k *call) Done() <-chan struct{} {
	k.ctx.Lock()
	defer k.ctx.Unlock()
	if k.ctx.done == nil {
		k.ctx.done = make(chan struct{})
		if k.ctx.err != nil {
			close(k.ctx.done)
		} else if !k.deadline.IsZero() {
			k.ctx.timer = time.AfterFunc(time.Until(k.deadline), func() { k.end(context.DeadlineExceeded) })
		}
	}
	return k.ctx.done
}

// Err is why Done is closed.
func (k *call) Err() error {
	k.ctx.Lock()
	defer k.ctx.Unlock()
	if k.ctx.err == nil && k.ctx.done == nil && !k.deadline.IsZero() && !time.Now().Before(k.deadline) {
		return context.DeadlineExceeded // without a channel there is no timer
	}
	return k.ctx.err
}

// callKey is the key by which a context gives its call.
type callKey struct{}

// Value is the call for callKey.
func (k *call) Value(key any) any {
	if key == (callKey{}) {
		return k
	}
	return nil
}

func (k *call) cancel() { k.end(context.Canceled) }

func (k *call) end(err error) {
	k.ctx.Lock()
	defer k.ctx.Unlock()
	if k.ctx.err != nil {
		return
	}
	k.ctx.err = err
	if k.ctx.timer != nil {
		k.ctx.timer.Stop()
	}
	if k.ctx.done != nil {
		close(k.ctx.done)
	}
}

// Header is what the client of a call, whose context or a child of it this is, sent under a name of Options.Headers; "" without.
func Header(ctx context.Context, name string) string {
	if k, is := ctx.Value(callKey{}).(*call); is {
		if i := slices.Index(k.conn.srv.opts.Headers, name); i >= 0 {
			return k.headers[i]
		}
	}
	return ""
}

// Peer is the address of the client; nil when the context is not a call's.
func Peer(ctx context.Context) net.Addr {
	if k, is := ctx.Value(callKey{}).(*call); is {
		return k.conn.nc.RemoteAddr()
	}
	return nil
}

// keptRoom is how large a buffer of a message may be to be used again.
const keptRoom = 64 << 10

var rooms = sync.Pool{New: func() any { return new([]byte) }}

// room is an empty buffer, for giveBack.
func room() []byte {
	b := rooms.Get().(*[]byte)
	if cap(*b) == 0 {
		*b = make([]byte, 0, 1024)
	}
	return (*b)[:0]
}

func giveBack(b []byte) {
	if cap(b) <= keptRoom {
		rooms.Put(&b)
	}
}

func (k *call) String() string { return fmt.Sprintf("call %d of %s", k.id, k.conn.nc.RemoteAddr()) }
