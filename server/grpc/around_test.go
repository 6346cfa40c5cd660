package grpc

import (
	"context"
	"testing"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cairnmq/cairn/internal/rpctime"
)

func TestAPanicCostsItsCall(t *testing.T) {
	d := newRig(t).door
	reg := prometheus.NewPedanticRegistry()
	var err error
	if d.latency, err = rpctime.New(reg, "c", "b"); err != nil {
		t.Fatal(err)
	}
	_, err = d.guardUnary(context.Background(), nil, &grpc.UnaryServerInfo{FullMethod: "/s/unary"},
		func(context.Context, any) (any, error) { panic("broken") })
	if status.Code(err) != grpccodes.Internal {
		t.Errorf("unary: %v", err)
	}
	err = d.guardStream(d, nil, &grpc.StreamServerInfo{FullMethod: "/s/stream"}, func(any, grpc.ServerStream) error { panic("broken") })
	if status.Code(err) != grpccodes.Internal {
		t.Errorf("stream: %v", err)
	}
	if _, err = d.guardLater("Later", func() any { panic("broken") })(); status.Code(err) != grpccodes.Internal {
		t.Errorf("an answer that comes later: %v", err)
	}
	if resp, err := d.guardLater("Later", func() any { return 1 })(); resp != 1 || err != nil {
		t.Errorf("an answer that comes later, without one: %v, %v", resp, err)
	}
	var answer any
	s := &sending{d: d, req: &pb.SendMessageRequest{}, answer: func(build func() any) { answer = build() }}
	s.guarded(func() { panic("broken") })
	if sent, is := answer.(*pb.SendMessageResponse); !is || sent.GetStatus().GetCode() != pb.Code_INTERNAL_SERVER_ERROR {
		t.Errorf("a send that was put off: %v", answer)
	}
	resp, err := d.guardUnary(context.Background(), 1, &grpc.UnaryServerInfo{FullMethod: "/s/unary"}, func(_ context.Context, req any) (any, error) { return req, nil })
	if resp != 1 || err != nil {
		t.Errorf("without one: %v, %v", resp, err)
	}
	timed, err := reg.Gather()
	if err != nil || len(timed) != 1 || len(timed[0].Metric) != 3 { // two that panicked, one that did not
		t.Errorf("%v, %v", timed, err)
	}
}
