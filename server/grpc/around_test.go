package grpc

import (
	"context"
	"testing"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/internal/rpctime"
	"github.com/cairnmq/cairn/server/grpc/transport"
)

// answered is a call whose answer is looked at.
type answered struct {
	answer any
	err    error
}

func (a *answered) Answer(b transport.Builder) { a.answer, a.err = b.Build() }
func (a *answered) Came() time.Time            { return time.Now() }

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
	torn := &sending{late: late{d: d}, results: make([]broker.SendResult, 1)} // of a request without a message
	if _, err = torn.Build(); status.Code(err) != grpccodes.Internal {
		t.Errorf("an answer to a send: %v", err)
	}
	if _, err = (&ackPart{late: late{d: d}}).Build(); status.Code(err) != grpccodes.Internal {
		t.Errorf("an answer to an acknowledgement: %v", err)
	}
	given := &answered{}
	s := &sending{late: late{d: d, rpc: rpcSend, pending: given}, req: &pb.SendMessageRequest{}}
	s.guarded(func() { panic("broken") })
	if sent, is := given.answer.(*pb.SendMessageResponse); !is || given.err != nil || sent.GetStatus().GetCode() != pb.Code_INTERNAL_SERVER_ERROR {
		t.Errorf("a send that was put off: %v, %v", given.answer, given.err)
	}
	resp, err := d.guardUnary(context.Background(), 1, &grpc.UnaryServerInfo{FullMethod: "/s/unary"}, func(_ context.Context, req any) (any, error) { return req, nil })
	if resp != 1 || err != nil {
		t.Errorf("without one: %v, %v", resp, err)
	}
	timed, err := reg.Gather()
	if err != nil || len(timed) != 1 || len(timed[0].Metric) != 4 { // three that panicked, one that did not
		t.Errorf("%v, %v", timed, err)
	}
}
