package bench

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// rpcTrial answers calls as the tests need it:
//
//	SendMessage     its answer's message is the body, and tells the header x-mq-client-id
//	QueryRoute      fails with what the topic says
//	Heartbeat       waits until its context ends
//	ReceiveMessage  as many messages of 300,000 bytes as the batch size says
//	Telemetry       answers each command with itself
type rpcTrial struct {
	v2.UnimplementedMessagingServiceServer
	waiting chan struct{}
	ended   chan error
}

func (*rpcTrial) SendMessage(ctx context.Context, r *v2.SendMessageRequest) (*v2.SendMessageResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	return &v2.SendMessageResponse{Status: &v2.Status{Message: strings.Join(md["x-mq-client-id"], "") + string(r.GetMessages()[0].GetBody())}}, nil
}

func (*rpcTrial) QueryRoute(_ context.Context, r *v2.QueryRouteRequest) (*v2.QueryRouteResponse, error) {
	return nil, status.Error(codes.FailedPrecondition, r.GetTopic().GetName())
}

func (s *rpcTrial) Heartbeat(ctx context.Context, _ *v2.HeartbeatRequest) (*v2.HeartbeatResponse, error) {
	s.waiting <- struct{}{}
	<-ctx.Done()
	s.ended <- ctx.Err()
	return nil, ctx.Err()
}

func (*rpcTrial) ReceiveMessage(r *v2.ReceiveMessageRequest, out v2.MessagingService_ReceiveMessageServer) error {
	for range r.GetBatchSize() {
		m := &v2.ReceiveMessageResponse{Content: &v2.ReceiveMessageResponse_Message{Message: &v2.Message{Body: make([]byte, 300_000)}}}
		if err := out.Send(m); err != nil {
			return err
		}
	}
	return nil
}

func (*rpcTrial) Telemetry(s v2.MessagingService_TelemetryServer) error {
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = s.Send(m)
		}
		if err != nil {
			return err
		}
	}
}

// newRPCTrial is a server of grpc-go, and a connection to it.
func newRPCTrial(t *testing.T, opts ...grpc.ServerOption) (*rpcTrial, *grpc.Server, v2.MessagingServiceClient) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	trial := &rpcTrial{waiting: make(chan struct{}, 100), ended: make(chan error, 100)}
	srv := grpc.NewServer(append(opts, grpc.MaxRecvMsgSize(64<<20))...)
	v2.RegisterMessagingServiceServer(srv, trial)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	c, err := dialRPC(t.Context(), ln.Addr().String(), metadata.Pairs("x-mq-client-id", "me"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.close()
		srv.Stop()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return trial, srv, v2.NewMessagingServiceClient(c)
}

func send(ctx context.Context, c v2.MessagingServiceClient, size int) error {
	body := strings.Repeat("x", size)
	a, err := c.SendMessage(ctx, &v2.SendMessageRequest{Messages: []*v2.Message{{Body: []byte(body)}}})
	if err == nil && a.GetStatus().GetMessage() != "me"+body {
		err = errors.New("another answer than what was sent")
	}
	return err
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestUnaryCallsOfEverySize(t *testing.T) {
	_, _, c := newRPCTrial(t)
	for _, size := range []int{0, 1, 16<<10 - 20, 16 << 10, 70_000, 20 << 20} {
		if err := send(within(t), c, size); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func TestMoreCallsThanTheBrokerTakesAtOnce(t *testing.T) {
	_, _, c := newRPCTrial(t, grpc.MaxConcurrentStreams(3))
	ctx := within(t)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for range 20 {
				if err := send(ctx, c, 50_000); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

func TestAnswersThatStream(t *testing.T) {
	_, _, c := newRPCTrial(t)
	for _, want := range []int32{0, 1, 100} { // more than the windows
		in, err := c.ReceiveMessage(within(t), &v2.ReceiveMessageRequest{BatchSize: want})
		if err != nil {
			t.Fatal(err)
		}
		for range want {
			if m, err := in.Recv(); err != nil || len(m.GetMessage().GetBody()) != 300_000 {
				t.Fatal(err)
			}
		}
		if _, err := in.Recv(); !errors.Is(err, io.EOF) {
			t.Fatalf("after %d: %v", want, err)
		}
	}
}

func TestMessagesBothWays(t *testing.T) {
	_, _, c := newRPCTrial(t)
	s, err := c.Telemetry(within(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, nonce := range []string{"a", "b"} {
		want := &v2.TelemetryCommand{Command: &v2.TelemetryCommand_PrintThreadStackTraceCommand{
			PrintThreadStackTraceCommand: &v2.PrintThreadStackTraceCommand{Nonce: nonce}}}
		if err := s.Send(want); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Recv(); err != nil || got.GetPrintThreadStackTraceCommand().GetNonce() != nonce {
			t.Fatalf("%v %v", got, err)
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
}

func TestStatusOfACall(t *testing.T) {
	_, _, c := newRPCTrial(t)
	const why = "100 % größer\nals"
	_, err := c.QueryRoute(within(t), &v2.QueryRouteRequest{Topic: &v2.Resource{Name: why}})
	if s := status.Convert(err); s.Code() != codes.FailedPrecondition || s.Message() != why {
		t.Fatal(err)
	}
	if _, err = c.AckMessage(within(t), &v2.AckMessageRequest{}); status.Code(err) != codes.Unimplemented {
		t.Fatal(err)
	}
}

func TestGivingACallUpEndsItAtTheBroker(t *testing.T) {
	trial, _, c := newRPCTrial(t)
	ctx, cancel := context.WithCancel(within(t))
	go func() {
		<-trial.waiting
		cancel()
	}()
	if _, err := c.Heartbeat(ctx, &v2.HeartbeatRequest{}); status.Code(err) != codes.Canceled {
		t.Fatal(err)
	}
	if err := <-trial.ended; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := send(within(t), c, 10); err != nil {
		t.Fatal(err)
	}
}

func TestALostConnectionEndsItsCalls(t *testing.T) {
	trial, srv, c := newRPCTrial(t)
	go func() {
		<-trial.waiting
		srv.Stop()
	}()
	if _, err := c.Heartbeat(within(t), &v2.HeartbeatRequest{}); status.Code(err) != codes.Unavailable {
		t.Fatal(err)
	}
	if err := send(within(t), c, 10); status.Code(err) != codes.Unavailable {
		t.Fatal(err)
	}
}

func TestNobodyListens(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := dialRPC(t.Context(), addr, nil); err == nil {
		t.Fatal("connected")
	}
}
