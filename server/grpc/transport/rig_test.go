package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// protobuf is the codec of the tests.
type protobuf struct{}

func (protobuf) Append(dst []byte, m any) ([]byte, error) {
	p, is := m.(proto.Message)
	if !is {
		return nil, fmt.Errorf("%T is no message", m)
	}
	return proto.MarshalOptions{}.MarshalAppend(dst, p)
}

func (protobuf) Unmarshal(data []byte, m any) error { return proto.Unmarshal(data, m.(proto.Message)) }

// trial is the service of the tests. Its calls are
//
//	Echo     a unary one that answers what it was sent
//	Fail     one that answers with a status: the code is the number of bytes
//	Wait     one that waits for the end of its context
//	Later    as Echo, but the answer is kept, if there is where, and is to be given by the test
//	Prompt   as Echo, where requests are read
//	Aside    as Echo, when the test has let it go on; it begins where requests are read
//	Gather   puts off what is asked, and answers as many bytes as there were such calls at once
//	Repeat   one request, answered by as many messages of 100,000 bytes as it has bytes
//	Chat     answers each message
type trial struct {
	waiting atomic.Int32    // calls of Wait and Chat under way
	ended   chan error      // what ended the contexts of those of Wait
	sent    atomic.Int64    // messages of Repeat
	freed   <-chan struct{} // if it is set, Wait waits for this instead
	kept    chan func()     // answers of Later
	built   atomic.Int64    // answers of Later that were wanted
	broken  int64           // which of them fails
	flushed atomic.Int64    // calls of Gather
}

type building func() (any, error)

func (b building) Build() (any, error) { return b() }

const serviceName = "trial.Trial"

func unary(name string, do func(s *trial, ctx context.Context, in *wrapperspb.BytesValue) (any, error)) grpc.MethodDesc {
	return grpc.MethodDesc{MethodName: name, Handler: func(srv any, ctx context.Context, dec func(any) error, i grpc.UnaryServerInterceptor) (any, error) {
		in := new(wrapperspb.BytesValue)
		if err := dec(in); err != nil {
			return nil, err
		}
		handle := func(ctx context.Context, in any) (any, error) {
			return do(srv.(*trial), ctx, in.(*wrapperspb.BytesValue))
		}
		if i == nil {
			return handle(ctx, in)
		}
		return i(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: "/" + serviceName + "/" + name}, handle)
	}}
}

var trialDesc = grpc.ServiceDesc{
	ServiceName: serviceName, HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{
		unary("Echo", func(_ *trial, _ context.Context, in *wrapperspb.BytesValue) (any, error) { return in, nil }),
		unary("Fail", func(_ *trial, _ context.Context, in *wrapperspb.BytesValue) (any, error) {
			return nil, status.Error(codes.Code(len(in.Value)), "100 % so, größer\nals")
		}),
		unary("Wait", func(s *trial, ctx context.Context, _ *wrapperspb.BytesValue) (any, error) {
			s.waiting.Add(1)
			defer s.waiting.Add(-1)
			if s.freed != nil {
				<-s.freed
				return new(wrapperspb.BytesValue), nil
			}
			<-ctx.Done()
			s.ended <- ctx.Err()
			return nil, ctx.Err()
		}),
		unary("Later", func(s *trial, ctx context.Context, in *wrapperspb.BytesValue) (any, error) {
			give := Later(ctx)
			answer := func() {
				give.Answer(building(func() (any, error) {
					if n := s.built.Add(1); s.broken == n {
						return nil, status.Error(codes.DataLoss, "broken")
					}
					return in, nil
				}))
			}
			if s.kept == nil {
				answer()
			} else {
				s.kept <- answer
			}
			return nil, ErrLater
		}),
		unary("Gather", func(s *trial, ctx context.Context, _ *wrapperspb.BytesValue) (any, error) {
			slot := PutOff(ctx)
			g, _ := (*slot).(*gathered)
			if g == nil {
				g = &gathered{s: s}
				*slot = g
			}
			g.answers = append(g.answers, Later(ctx))
			return nil, ErrLater
		}),
		unary("Aside", func(s *trial, ctx context.Context, in *wrapperspb.BytesValue) (any, error) {
			give := Later(ctx)
			Aside(ctx, func() {
				s.waiting.Add(1)
				defer s.waiting.Add(-1)
				<-s.freed
				give.Answer(made{in})
			})
			return nil, ErrLater
		}),
		unary("Prompt", func(_ *trial, _ context.Context, in *wrapperspb.BytesValue) (any, error) { return in, nil }),
	},
	Streams: []grpc.StreamDesc{
		{StreamName: "Repeat", ServerStreams: true, Handler: func(srv any, stream grpc.ServerStream) error {
			in := new(wrapperspb.BytesValue)
			if err := stream.RecvMsg(in); err != nil {
				return err
			}
			if err := stream.RecvMsg(in); !errors.Is(err, io.EOF) {
				return status.Errorf(codes.Internal, "after the request came %v", err)
			}
			for range in.Value {
				if err := stream.SendMsg(wrapperspb.Bytes(make([]byte, 100_000))); err != nil {
					return err
				}
				srv.(*trial).sent.Add(1)
			}
			return nil
		}},
		{StreamName: "Chat", ServerStreams: true, ClientStreams: true, Handler: func(srv any, stream grpc.ServerStream) error {
			srv.(*trial).waiting.Add(1)
			defer srv.(*trial).waiting.Add(-1)
			for {
				in := new(wrapperspb.BytesValue)
				if err := stream.RecvMsg(in); errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
				if err := stream.SendMsg(in); err != nil {
					return err
				}
			}
		}},
	},
}

// gathered is calls of Gather that came together.
type gathered struct {
	s       *trial
	answers []Pending
}

func (g *gathered) Flush() {
	g.s.flushed.Add(int64(len(g.answers)))
	for _, answer := range g.answers {
		answer.Answer(made{wrapperspb.Bytes(make([]byte, len(g.answers)))})
	}
}

// rig is a server of trial on a port of its own.
type rig struct {
	testing.TB
	*trial
	srv  *Server
	addr string
}

func newRig(t testing.TB, change ...func(*Options)) *rig {
	t.Helper()
	o := Options{
		Codec: protobuf{}, Credentials: insecure.NewCredentials(), HandshakeTimeout: 5 * time.Second, MaxRequest: 4 << 20, MaxHeaders: 16 << 10,
		MaxCalls: 100, Workers: 2, Headers: []string{"x-mq-client-id"}, Prompt: []string{"/" + serviceName + "/Prompt", "/" + serviceName + "/Gather", "/" + serviceName + "/Aside"},
		Idle: time.Minute, Ping: time.Minute, Pong: 20 * time.Second, LeastPing: time.Second,
	}
	for _, f := range change {
		f(&o)
	}
	r := &rig{TB: t, trial: &trial{ended: make(chan error, 1000)}, srv: New(o)}
	r.srv.RegisterService(&trialDesc, r.trial)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = ln.Addr().String()
	done := make(chan error, 1)
	go func() { done <- r.srv.Serve(ln) }()
	t.Cleanup(func() {
		r.srv.Stop()
		if err := <-done; !errors.Is(err, ErrStopped) {
			t.Errorf("serve: %v", err)
		}
	})
	return r
}

// client is one of grpc-go.
func (r *rig) client(opts ...grpc.DialOption) *grpc.ClientConn {
	r.Helper()
	cc, err := grpc.NewClient(r.addr, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))...)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { cc.Close() })
	return cc
}

func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	r.Cleanup(cancel)
	return ctx
}

func invoke(ctx context.Context, cc *grpc.ClientConn, name string, size int, opts ...grpc.CallOption) (int, error) {
	in := make([]byte, size)
	for i := range in {
		in[i] = byte(i * i)
	}
	var out wrapperspb.BytesValue
	err := cc.Invoke(ctx, "/"+serviceName+"/"+name, wrapperspb.Bytes(in), &out, opts...)
	if err == nil && name != "Wait" && string(out.Value) != string(in) {
		err = errors.New("the echo is another")
	}
	return len(out.Value), err
}

func (r *rig) stream(ctx context.Context, cc *grpc.ClientConn, name string) grpc.ClientStream {
	r.Helper()
	s, err := cc.NewStream(ctx, &grpc.StreamDesc{StreamName: name, ServerStreams: true, ClientStreams: name == "Chat"}, "/"+serviceName+"/"+name)
	if err != nil {
		r.Fatal(err)
	}
	return s
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within 20 s: " + what)
		}
	}
}
