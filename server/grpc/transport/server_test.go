package transport

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Sizes about those of frames, windows and the limit, at once over one connection.
func TestCallsOfEverySize(t *testing.T) {
	r := newRig(t)
	cc := r.client()
	var wg sync.WaitGroup
	for _, size := range []int{0, 1, 100, maxFrame - 20, maxFrame, firstWindow, callWindow - 10, callWindow, callWindow + 1, connWindow, 4<<20 - 100} {
		for range 4 {
			wg.Go(func() {
				if n, err := invoke(r.ctx(), cc, "Echo", size); err != nil || n != size {
					t.Errorf("%d bytes: %d, %v", size, n, err)
				}
				if n, err := invoke(r.ctx(), cc, "Echo", size, grpc.UseCompressor(gzip.Name)); err != nil || n != size {
					t.Errorf("%d bytes, compressed: %d, %v", size, n, err)
				}
			})
		}
	}
	wg.Wait()
	for _, name := range []string{"Later", "Prompt"} {
		for _, size := range []int{0, firstWindow, callWindow + 1, connWindow} {
			if n, err := invoke(r.ctx(), cc, name, size); err != nil || n != size {
				t.Errorf("%s of %d bytes: %d, %v", name, size, n, err)
			}
		}
	}
	for _, size := range []int{4<<20 + 1, 5 << 20} {
		for _, opts := range [][]grpc.CallOption{nil, {grpc.UseCompressor(gzip.Name)}} {
			if _, err := invoke(r.ctx(), cc, "Echo", size, opts...); status.Code(err) != codes.ResourceExhausted {
				t.Errorf("%d bytes: %v", size, err)
			}
		}
	}
	if _, err := invoke(r.ctx(), cc, "Echo", 10); err != nil {
		t.Errorf("after those that were refused: %v", err)
	}
}

func TestStatuses(t *testing.T) {
	r := newRig(t)
	cc := r.client()
	for _, name := range []string{"Fail"} {
		_, err := invoke(r.ctx(), cc, name, int(codes.NotFound))
		if s := status.Convert(err); s.Code() != codes.NotFound || s.Message() != "100 % so, größer\nals" {
			t.Errorf("%v", err)
		}
	}
	for path, want := range map[string]string{
		"/trial.Trial/None": "unknown method None for service trial.Trial",
		"/other/Echo":       "unknown service other",
		"/nothing":          `malformed method name: "/nothing"`,
	} {
		err := cc.Invoke(r.ctx(), path, wrapperspb.Bytes(nil), new(wrapperspb.BytesValue))
		if s := status.Convert(err); s.Code() != codes.Unimplemented || s.Message() != want {
			t.Errorf("%s: %v", path, err)
		}
	}
	if info := r.srv.GetServiceInfo()[serviceName]; len(info.Methods) != len(trialDesc.Methods)+len(trialDesc.Streams) {
		t.Errorf("%+v", info)
	}
}

func TestStreams(t *testing.T) {
	r := newRig(t)
	cc := r.client()
	s := r.stream(r.ctx(), cc, "Repeat")
	if err := errors.Join(s.SendMsg(wrapperspb.Bytes(make([]byte, 30))), s.CloseSend()); err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		var m wrapperspb.BytesValue
		if err := s.RecvMsg(&m); errors.Is(err, io.EOF) && i == 30 {
			break
		} else if err != nil || len(m.Value) != 100_000 {
			t.Fatalf("message %d: %d bytes, %v", i, len(m.Value), err)
		}
	}
	c := r.stream(r.ctx(), cc, "Chat")
	for _, size := range []int{0, 10, 100_000, callWindow * 2, 3} {
		var m wrapperspb.BytesValue
		if err := errors.Join(c.SendMsg(wrapperspb.Bytes(make([]byte, size))), c.RecvMsg(&m)); err != nil || len(m.Value) != size {
			t.Fatalf("%d bytes: %d, %v", size, len(m.Value), err)
		}
	}
	if err := c.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := c.RecvMsg(new(wrapperspb.BytesValue)); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

// A client that sends more than its handler takes has to wait, and loses nothing.
func TestSendingAhead(t *testing.T) {
	r := newRig(t)
	s := r.stream(r.ctx(), r.client(), "Chat")
	const messages, size = 200, 40_000
	sent := make(chan error, 1)
	go func() {
		for i := range messages {
			b := make([]byte, size)
			b[0] = byte(i)
			if err := s.SendMsg(wrapperspb.Bytes(b)); err != nil {
				sent <- err
				return
			}
		}
		sent <- s.CloseSend()
	}()
	for i := range messages {
		var m wrapperspb.BytesValue
		if err := s.RecvMsg(&m); err != nil || len(m.Value) != size || m.Value[0] != byte(i) {
			t.Fatalf("message %d: %d bytes, %v", i, len(m.Value), err)
		}
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// A client that reads nothing of one call holds that handler up, and no other call.
func TestSlowReader(t *testing.T) {
	r := newRig(t)
	cc := r.client(grpc.WithStaticStreamWindowSize(firstWindow), grpc.WithStaticConnWindowSize(8<<20))
	ctx, cancel := context.WithCancel(r.ctx())
	s := r.stream(ctx, cc, "Repeat")
	if err := errors.Join(s.SendMsg(wrapperspb.Bytes(make([]byte, 100))), s.CloseSend()); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if _, err := invoke(r.ctx(), cc, "Echo", 50_000); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.sent.Load(); n > 5 {
		t.Errorf("%d messages were sent that nobody reads", n)
	}
	cancel()
	r.srv.GracefulStop() // its handler has returned
}

func TestContexts(t *testing.T) {
	r := newRig(t)
	cc := r.client()
	ctx, cancel := context.WithTimeout(r.ctx(), 50*time.Millisecond)
	defer cancel()
	if _, err := invoke(ctx, cc, "Wait", 0); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("%v", err)
	}
	if err := <-r.ended; !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
		t.Errorf("the deadline has passed: %v", err)
	}
	ctx, cancel = context.WithCancel(r.ctx())
	done := make(chan error)
	go func() {
		_, err := invoke(ctx, cc, "Wait", 0)
		done <- err
	}()
	eventually(t, "the call is under way", func() bool { return r.waiting.Load() == 1 })
	cancel()
	if err := <-done; status.Code(err) != codes.Canceled {
		t.Errorf("%v", err)
	}
	if err := <-r.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	go func() {
		_, err := invoke(r.ctx(), cc, "Wait", 0)
		done <- err
	}()
	eventually(t, "the call is under way", func() bool { return r.waiting.Load() == 1 })
	cc.Close()
	if err := <-r.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the client has gone: %v", err)
	}
	<-done
}

func TestWhatAHandlerSees(t *testing.T) {
	var header, address, none string
	var deadline time.Duration
	r := newRig(t, func(o *Options) {
		o.Unary = func(ctx context.Context, in any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			child, cancel := context.WithCancel(ctx)
			defer cancel()
			header, none, address = Header(child, "x-mq-client-id"), Header(child, "x-other"), Peer(child).String()
			end, _ := ctx.Deadline()
			deadline = time.Until(end)
			return handle(ctx, in)
		}
	})
	ctx := metadata.AppendToOutgoingContext(r.ctx(), "x-mq-client-id", "me", "x-more", "1")
	if _, err := invoke(ctx, r.client(), "Echo", 1); err != nil {
		t.Fatal(err)
	}
	if header != "me" || none != "" || !strings.HasPrefix(address, "127.0.0.1:") || deadline <= 0 || deadline > 30*time.Second {
		t.Errorf("%q, %q, %s, %s", header, none, address, deadline)
	}
	if Header(t.Context(), "x") != "" || Peer(t.Context()) != nil {
		t.Error("a context that is not a call's")
	}
}

// More calls than may be under way wait at the client, and are answered.
func TestCallsAreBounded(t *testing.T) {
	free := make(chan struct{})
	r := newRig(t, func(o *Options) { o.MaxCalls = 3 })
	r.freed = free
	cc := r.client()
	if _, err := invoke(r.ctx(), cc, "Echo", 1); err != nil { // the client knows the bound now
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := invoke(r.ctx(), cc, "Wait", 0); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "three are under way", func() bool { return r.waiting.Load() == 3 })
	close(free)
	wg.Wait()
}

// Calls under way are answered before a server that stops gracefully has stopped, and the client makes no others here.
func TestGracefulStop(t *testing.T) {
	free := make(chan struct{})
	r := newRig(t)
	r.freed = free
	cc := r.client()
	done := make(chan error)
	go func() {
		_, err := invoke(r.ctx(), cc, "Wait", 0)
		done <- err
	}()
	eventually(t, "the call is under way", func() bool { return r.waiting.Load() == 1 })
	stopped := make(chan struct{})
	go func() {
		r.srv.GracefulStop()
		close(stopped)
	}()
	eventually(t, "the client makes no more calls here", func() bool {
		_, err := invoke(r.ctx(), cc, "Echo", 1)
		return status.Code(err) == codes.Unavailable
	})
	select {
	case <-stopped:
		t.Error("stopped with a call under way")
	default:
	}
	close(free)
	if err := <-done; err != nil {
		t.Errorf("the call under way: %v", err)
	}
	<-stopped
}

func TestStopCutsCallsOff(t *testing.T) {
	r := newRig(t)
	cc := r.client()
	done := make(chan error)
	go func() {
		_, err := invoke(r.ctx(), cc, "Wait", 0)
		done <- err
	}()
	eventually(t, "the call is under way", func() bool { return r.waiting.Load() == 1 })
	go r.srv.GracefulStop()
	r.srv.Stop()
	if err := <-done; status.Code(err) != codes.Unavailable {
		t.Errorf("%v", err)
	}
	if n := r.waiting.Load(); n != 0 {
		t.Errorf("%d handlers are there when all has stopped", n)
	}
}

// The error of an answer that cannot be made is its call's, not the connection's.
func TestAnAnswerThatComesLaterFails(t *testing.T) {
	r := newRig(t)
	r.broken = 2
	cc := r.client()
	for i := 1; i <= 3; i++ {
		want := codes.OK
		if i == 2 {
			want = codes.DataLoss
		}
		if _, err := invoke(r.ctx(), cc, "Later", 10); status.Code(err) != want {
			t.Errorf("call %d: %v, want %v", i, err, want)
		}
	}
}

// Answers may come in any order, from anywhere.
func TestAnswersThatComeLater(t *testing.T) {
	const calls = 50
	r := newRig(t)
	r.kept = make(chan func(), calls)
	cc := r.client()
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() {
			if n, err := invoke(r.ctx(), cc, "Later", 1000*i); err != nil || n != 1000*i {
				t.Errorf("call %d: %d bytes, %v", i, n, err)
			}
		})
	}
	var answers []func()
	for range calls {
		answers = append(answers, <-r.kept)
	}
	slices.Reverse(answers)
	for _, answer := range answers {
		answer()
	}
	wg.Wait()
}

// An answer that nobody waits for any more is not made, and what it was for counts no longer.
func TestClientLeavesBeforeItsAnswer(t *testing.T) {
	r := newRig(t, func(o *Options) { o.MaxCalls = 1 })
	r.kept = make(chan func(), 1)
	cc := r.client()
	ctx, cancel := context.WithCancel(r.ctx())
	left := make(chan error, 1)
	go func() {
		_, err := invoke(ctx, cc, "Later", 10)
		left <- err
	}()
	answer := <-r.kept
	cancel()
	if err := <-left; status.Code(err) != codes.Canceled {
		t.Errorf("%v", err)
	}
	eventually(t, "there is room for one call", func() bool { // the handler may not have returned yet
		n, err := invoke(r.ctx(), cc, "Echo", 10)
		return err == nil && n == 10
	})
	answer()
	if n, err := invoke(r.ctx(), cc, "Prompt", 10); err != nil || n != 10 {
		t.Errorf("%d bytes, %v", n, err)
	}
	if n := r.built.Load(); n != 0 {
		t.Errorf("%d answers were made", n)
	}
}

// Going away in order waits for answers that come later.
func TestGracefulStopBeforeAnAnswer(t *testing.T) {
	r := newRig(t)
	r.kept = make(chan func(), 1)
	cc := r.client()
	done := make(chan error, 1)
	go func() {
		_, err := invoke(r.ctx(), cc, "Later", 10)
		done <- err
	}()
	answer := <-r.kept
	stopped := make(chan struct{})
	go func() {
		r.srv.GracefulStop()
		close(stopped)
	}()
	eventually(t, "the client makes no more calls here", func() bool {
		_, err := invoke(r.ctx(), cc, "Echo", 1)
		return status.Code(err) == codes.Unavailable
	})
	select {
	case <-stopped:
		t.Error("stopped before the answer")
	default:
	}
	answer()
	if err := <-done; err != nil {
		t.Errorf("the call: %v", err)
	}
	<-stopped
}

// What waits aside keeps no other call waiting, and is there to its end.
func TestAside(t *testing.T) {
	freed := make(chan struct{})
	r := newRig(t)
	r.freed = freed
	cc := r.client()
	done := make(chan error, 1)
	go func() {
		_, err := invoke(r.ctx(), cc, "Aside", 10)
		done <- err
	}()
	eventually(t, "the call waits", func() bool { return r.waiting.Load() == 1 })
	if n, err := invoke(r.ctx(), cc, "Prompt", 100); err != nil || n != 100 {
		t.Errorf("another call: %d bytes, %v", n, err)
	}
	stopped := make(chan struct{})
	go func() {
		r.srv.Stop()
		close(stopped)
	}()
	if err := <-done; status.Code(err) != codes.Unavailable {
		t.Errorf("the call: %v", err)
	}
	select {
	case <-stopped:
		t.Error("stopped before what waits has ended")
	default:
	}
	close(freed)
	<-stopped
}

// Stop does not wait for them.
func TestStopBeforeAnAnswer(t *testing.T) {
	r := newRig(t)
	r.kept = make(chan func(), 1)
	cc := r.client()
	done := make(chan error, 1)
	go func() {
		_, err := invoke(r.ctx(), cc, "Later", 10)
		done <- err
	}()
	answer := <-r.kept
	r.srv.Stop()
	if err := <-done; status.Code(err) != codes.Unavailable {
		t.Errorf("the call: %v", err)
	}
	answer()
}

func TestParseTimeout(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"1H": time.Hour, "2M": 2 * time.Minute, "3S": 3 * time.Second, "4m": 4 * time.Millisecond, "5u": 5 * time.Microsecond, "6n": 6,
		"0n": 0, "99999999H": 1 << 62, "99999999S": 99999999 * time.Second,
	} {
		if got, ok := parseTimeout(s); !ok || got != want {
			t.Errorf("%s: %s, %v", s, got, ok)
		}
	}
	for _, s := range []string{"", "S", "1", "1x", "-1S", "+1S", "123456789S", "1.5S"} {
		if got, ok := parseTimeout(s); ok {
			t.Errorf("%q: %s", s, got)
		}
	}
}
