package grpc

import (
	"context"
	"runtime/debug"

	"google.golang.org/grpc"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A handler's panic costs its call, not the broker.

func (d *Door) guardUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
	defer d.recovered(info.FullMethod, &err)
	return handle(ctx, req)
}

func (d *Door) guardStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
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
