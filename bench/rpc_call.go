package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// rpcPrefix is in front of a message: a byte that says whether it is compressed, and its length in four, big-endian.
const rpcPrefix = 5

// rpcCall is a call under way. It is the grpc.ClientStream of one that streams.
type rpcCall struct {
	c       *rpcConn
	ctx     context.Context
	id      uint32
	streams bool
	ready   chan struct{} // cap 1: something came, or the call has ended

	// The mutex of rpcConn guards these.
	window int64
	owed   int    // bytes that came and were not given back to the window
	came   []byte // and was not taken yet
	ended  bool
	err    error // of a call that has ended; nil for one that went well
}

var (
	_ grpc.ClientConnInterface = (*rpcConn)(nil)
	_ grpc.ClientStream        = (*rpcCall)(nil)
)

// Invoke makes a unary call.
func (c *rpcConn) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	k, err := c.begin(ctx, method, false, args)
	if err != nil {
		return err
	}
	select {
	case <-k.ready:
	case <-ctx.Done():
		return k.cancel()
	}
	if k.err != nil { // it has ended: nobody else has it any more
		return k.err
	}
	msg, rest, err := cut(k.came)
	if err != nil || msg == nil || len(rest) > 0 {
		return unavailable(errors.Join(err, errors.New("a unary call is answered by one message")))
	}
	return decode(msg, reply)
}

// NewStream begins a call that streams.
func (c *rpcConn) NewStream(ctx context.Context, _ *grpc.StreamDesc, method string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	return c.begin(ctx, method, true, nil)
}

// begin sends the header of a call, and of a unary one its only message.
func (c *rpcConn) begin(ctx context.Context, method string, streams bool, args any) (*rpcCall, error) {
	k := &rpcCall{c: c, ctx: ctx, streams: streams, ready: make(chan struct{}, 1)}
	var msg []byte
	if !streams {
		var err error
		if msg, err = encode(args); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.mu.err == nil && len(c.mu.calls) >= c.mu.limit {
		if err := c.waitLocked(ctx); err != nil {
			return nil, err
		}
	}
	if c.mu.err != nil {
		return nil, unavailable(c.mu.err)
	}
	k.id, k.window = c.mu.next, c.mu.initial
	c.mu.next += 2
	c.mu.calls[k.id] = k
	c.mu.block.Reset()
	fields := c.fields
	for i := range fields {
		must(c.mu.table.WriteField(fields[i]))
		if i == 1 { // where the other pseudo headers are
			must(c.mu.table.WriteField(hpack.HeaderField{Name: ":path", Value: method}))
		}
	}
	if deadline, is := ctx.Deadline(); is {
		must(c.mu.table.WriteField(timeoutField(deadline)))
	}
	must(c.mu.frames.WriteHeaders(http2.HeadersFrameParam{StreamID: k.id, BlockFragment: c.mu.block.Bytes(), EndHeaders: true}))
	if !streams {
		if err := k.sendLocked(msg, true); err != nil {
			return nil, err
		}
	}
	c.signal()
	return k, nil
}

// sendLocked queues a message, as the windows allow.
func (k *rpcCall) sendLocked(msg []byte, last bool) error {
	c := k.c
	for {
		if k.ended {
			return nil // it is answered already
		}
		n := max(min(int64(len(msg)), k.window, c.mu.window, rpcFrame), 0)
		ends := last && n == int64(len(msg))
		if n > 0 || ends {
			must(c.mu.frames.WriteData(k.id, ends, msg[:n]))
			k.window -= n
			c.mu.window -= n
		}
		if msg = msg[n:]; len(msg) == 0 {
			c.signal()
			return nil
		}
		if n > 0 {
			continue
		}
		c.signal()
		if c.waitLocked(k.ctx) != nil && !k.ended {
			return k.cancelLocked()
		}
	}
}

// end says that nothing more comes.
func (k *rpcCall) end(err error) {
	k.ended, k.err = true, err
	k.notify()
}

func (k *rpcCall) notify() {
	select {
	case k.ready <- struct{}{}:
	default:
	}
}

// cancel tells the broker that nobody waits any more.
func (k *rpcCall) cancel() error {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	return k.cancelLocked()
}

func (k *rpcCall) cancelLocked() error {
	c := k.c
	if c.leaveLocked(k.id) != nil {
		must(c.mu.frames.WriteRSTStream(k.id, http2.ErrCodeCancel))
		c.signal()
		k.end(status.FromContextError(k.ctx.Err()).Err())
	}
	return status.FromContextError(k.ctx.Err()).Err()
}

// SendMsg queues a message.
func (k *rpcCall) SendMsg(m any) error {
	msg, err := encode(m)
	if err != nil {
		return err
	}
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	return k.sendLocked(msg, false)
}

// CloseSend says that this was the last message.
func (k *rpcCall) CloseSend() error {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	return k.sendLocked(nil, true)
}

// RecvMsg waits for a message. io.EOF when the call has ended well.
func (k *rpcCall) RecvMsg(m any) error {
	for {
		k.c.mu.Lock()
		msg, rest, err := cut(k.came)
		ended, outcome := k.ended, k.err
		k.came = rest
		k.c.mu.Unlock()
		switch {
		case err != nil:
			_ = k.cancel()
			return unavailable(err)
		case msg != nil:
			return decode(msg, m)
		case ended && outcome == nil:
			return io.EOF
		case ended:
			return outcome
		}
		select {
		case <-k.ready:
		case <-k.ctx.Done():
			return k.cancel()
		}
	}
}

// Context is that of the call.
func (k *rpcCall) Context() context.Context { return k.ctx }

// Header is not kept.
func (*rpcCall) Header() (metadata.MD, error) { return nil, nil }

// Trailer is not kept.
func (*rpcCall) Trailer() metadata.MD { return nil }

// cut takes the first message off what came; nil when it is not whole yet.
func cut(came []byte) (msg, rest []byte, err error) {
	if len(came) < rpcPrefix {
		return nil, came, nil
	}
	n := binary.BigEndian.Uint32(came[1:])
	switch {
	case came[0] != 0:
		return nil, came, errors.New("the answer is compressed, which was not asked for")
	case n > rpcAnswer:
		return nil, came, fmt.Errorf("an answer of %d bytes is too large", n)
	case len(came)-rpcPrefix < int(n):
		return nil, came, nil
	}
	return came[rpcPrefix : rpcPrefix+n : rpcPrefix+n], came[rpcPrefix+n:], nil
}

func encode(m any) ([]byte, error) {
	p, is := m.(proto.Message)
	if !is {
		return nil, status.Errorf(codes.Internal, "%T is no message", m)
	}
	b, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, rpcPrefix, rpcPrefix+256), p)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "encode %T: %v", m, err)
	}
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-rpcPrefix))
	return b, nil
}

func decode(msg []byte, m any) error {
	p, is := m.(proto.Message)
	if !is {
		return status.Errorf(codes.Internal, "%T is no message", m)
	}
	if err := proto.Unmarshal(msg, p); err != nil {
		return status.Errorf(codes.Internal, "decode %T: %v", m, err)
	}
	return nil
}

func unavailable(err error) error { return status.Error(codes.Unavailable, err.Error()) }

// rpcHead is what a header says that ends a call.
type rpcHead struct{ http, code, message string }

func (h *rpcHead) field(f hpack.HeaderField) {
	switch f.Name {
	case ":status":
		h.http = f.Value
	case "grpc-status":
		h.code = f.Value
	case "grpc-message":
		h.message = f.Value
	}
}

// outcome is nil for a call that went well.
func (h *rpcHead) outcome() error {
	if h.code == "0" {
		return nil
	}
	code, err := strconv.ParseUint(h.code, 10, 32)
	if err != nil {
		return unavailable(fmt.Errorf("HTTP status %s, and none of gRPC", h.http))
	}
	message, err := url.PathUnescape(h.message)
	if err != nil {
		message = h.message
	}
	return status.Error(codes.Code(code), message)
}
