package grpc

import (
	"context"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cairnmq/cairn/internal/rpctime"
	"github.com/cairnmq/cairn/server/grpc/transport"
)

// What goes around each call: a handler's panic costs the call, not the broker, and the metrics are told how long it took.

func (d *Door) guardUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
	defer d.timed(info.FullMethod, &err, time.Now())
	defer d.recovered(info.FullMethod, &err)
	return handle(ctx, req)
}

func (d *Door) guardStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	if !info.IsClientStream { // others last as long as their client
		defer d.timed(info.FullMethod, &err, time.Now())
	}
	defer d.recovered(info.FullMethod, &err)
	return handle(srv, stream)
}

// recovered is to be deferred itself.
func (d *Door) recovered(method string, err *error) {
	if p := recover(); p != nil {
		d.log.Error().Str("method", method).Interface("panic", p).Bytes("stack", debug.Stack()).Msg("a request handler panicked")
		*err = status.Error(grpccodes.Internal, "the handler of "+method+" failed")
	}
}

// timed tells the metrics. The code of a call that ended well stands in its answer, and is not looked at here.
func (d *Door) timed(method string, err *error, began time.Time) {
	if d.latency == nil || *err == transport.ErrLater { // which tells them itself
		return
	}
	c := rpctime.Call{Protocol: "grpc", Request: method[strings.LastIndexByte(method, '/')+1:], Response: "success"}
	if *err != nil {
		c.Response = strings.ToLower(status.Code(*err).String())
	}
	d.latency.Observe(c, time.Since(began))
}

// late is a call of an rpc that cannot fail any more, but for a panic of its builder; that has to be guarded by recovered.
type late struct {
	d       *Door
	rpc     string
	pending interface {
		Answer(transport.Builder)
		Came() time.Time
	}
}

func (d *Door) later(ctx context.Context, rpc string) late { return late{d, rpc, transport.Later(ctx)} }

// answer is to be called once.
func (l late) answer(b transport.Builder) {
	if l.d.latency != nil {
		l.d.latency.Observe(rpctime.Call{Protocol: "grpc", Request: l.rpc, Response: "success"}, time.Since(l.pending.Came()))
	}
	l.pending.Answer(b)
}
