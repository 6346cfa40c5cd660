package grpc

import (
	"context"
	"testing"

	"google.golang.org/grpc"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestAPanicCostsItsCall(t *testing.T) {
	d := newRig(t).door
	_, err := d.guardUnary(context.Background(), nil, &grpc.UnaryServerInfo{FullMethod: "/s/unary"},
		func(context.Context, any) (any, error) { panic("broken") })
	if status.Code(err) != grpccodes.Internal {
		t.Errorf("unary: %v", err)
	}
	err = d.guardStream(d, nil, &grpc.StreamServerInfo{FullMethod: "/s/stream"}, func(any, grpc.ServerStream) error { panic("broken") })
	if status.Code(err) != grpccodes.Internal {
		t.Errorf("stream: %v", err)
	}
	resp, err := d.guardUnary(context.Background(), 1, &grpc.UnaryServerInfo{}, func(_ context.Context, req any) (any, error) { return req, nil })
	if resp != 1 || err != nil {
		t.Errorf("without one: %v, %v", resp, err)
	}
}
