// Package transport serves gRPC calls over HTTP/2.
//
// HTTP/2's frames and header compression are those of golang.org/x/net, services, statuses and contexts those of grpc-go, so that
// generated code, health and reflection work with it as they do with grpc-go's server. The loop between the two is written for calls
// that are many and small, an acknowledgement for each message above all.
//
// Read conn.go first: the frames that come; then queue.go: those that go; then call.go: what a handler sees.
//
//   - A connection has a goroutine that reads and one that writes. A call runs on one of the server's goroutines that stay, or on
//     one of its own while all of those are busy.
//   - A call that has one request begins when all of that is there: until then it costs its bytes and no goroutine.
//   - A handler that would only wait may return before, and leave its answer to whoever has it (Later): then a call costs no goroutine.
//   - What handlers do where requests are read they may put off, to do it for all requests that are there at once (PutOff), or leave
//     to a goroutine when it has to wait (Aside).
//   - What is to be written is appended to the connection's queue under its mutex, by whoever has it, and the writer takes all there
//     is at once. The queue is bounded: handlers wait, and the reader stops reading.
package transport

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// Codec turns messages into bytes and back.
type Codec interface {
	// Append appends m in its wire form.
	Append(dst []byte, m any) ([]byte, error)
	// Unmarshal fills m. It keeps nothing of data.
	Unmarshal(data []byte, m any) error
}

// Options of a Server. All must be set but for the interceptors, Headers and Prompt.
type Options struct {
	Codec Codec
	// Handshake makes of a connection one that speaks HTTP/2, within HandshakeTimeout, in which the client must also begin to do so.
	Credentials      credentials.TransportCredentials
	HandshakeTimeout time.Duration
	Unary            grpc.UnaryServerInterceptor
	Stream           grpc.StreamServerInterceptor
	MaxRequest       int    // bytes of one message of a client
	MaxHeaders       uint32 // bytes of a call's headers
	MaxCalls         uint32 // under way on one connection
	// Headers are the names, in lower case, of what handlers ask Header for: four at most. Others are not kept.
	Headers []string
	Workers int // goroutines that stay, for all connections
	// Prompt are unary methods, as /package.Service/Method, whose handlers never wait: they run where requests are read.
	Prompt []string
	// Idle is how long a connection may be without a call before the client is told to close it.
	Idle time.Duration
	// A client from which nothing comes for Ping is asked for a sign of life, and gone after Pong without one.
	Ping, Pong time.Duration
	// LeastPing is how far apart a client's own pings must be.
	LeastPing time.Duration
}

// ErrStopped is Serve's error after Stop or GracefulStop.
var ErrStopped = errors.New("the server was stopped")

// method is one rpc.
type method struct {
	name   string // /package.Service/Method
	srv    any
	unary  *grpc.MethodDesc // or
	stream *grpc.StreamDesc
	uinfo  *grpc.UnaryServerInfo
	sinfo  *grpc.StreamServerInfo
	prompt bool // as Options.Prompt
}

// collected says that the call begins when its only request is there.
func (m *method) collected() bool { return m.stream == nil || !m.stream.ClientStreams }

// Server serves gRPC. New, RegisterService for each service, Serve, Stop in this order.
type Server struct {
	opts     Options
	services map[string]grpc.ServiceInfo
	methods  map[string]*method
	work     chan *call // to the workers; unbuffered

	serving sync.WaitGroup // connections
	workers sync.WaitGroup
	idle    chan struct{} // closed when the workers may go
	dismiss sync.Once

	mu struct {
		sync.Mutex
		listeners map[net.Listener]struct{}
		pending   map[net.Conn]struct{} // in their handshake
		conns     map[*conn]struct{}
		closing   bool // nothing new begins
	}
}

// New makes a server without services. It panics when there are too many Headers.
func New(o Options) *Server {
	if len(o.Headers) > maxWanted {
		panic("transport: more headers than are kept")
	}
	s := &Server{opts: o, services: map[string]grpc.ServiceInfo{}, methods: map[string]*method{}, work: make(chan *call), idle: make(chan struct{})}
	s.mu.listeners, s.mu.pending, s.mu.conns = map[net.Listener]struct{}{}, map[net.Conn]struct{}{}, map[*conn]struct{}{}
	for range o.Workers {
		s.workers.Go(func() {
			for {
				select {
				case c := <-s.work:
					c.run()
				case <-s.idle:
					return
				}
			}
		})
	}
	return s
}

// RegisterService adds a service; it panics when there is one of that name, as grpc-go's does.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	if _, twice := s.services[desc.ServiceName]; twice {
		panic("transport: service " + desc.ServiceName + " is there twice")
	}
	info := grpc.ServiceInfo{Metadata: desc.Metadata}
	add := func(name string, m *method) {
		m.name, m.srv = "/"+desc.ServiceName+"/"+name, impl
		m.prompt = m.unary != nil && slices.Contains(s.opts.Prompt, m.name)
		s.methods[m.name] = m
	}
	for i := range desc.Methods {
		d := &desc.Methods[i]
		m := &method{unary: d}
		add(d.MethodName, m)
		m.uinfo = &grpc.UnaryServerInfo{Server: impl, FullMethod: m.name}
		info.Methods = append(info.Methods, grpc.MethodInfo{Name: d.MethodName})
	}
	for i := range desc.Streams {
		d := &desc.Streams[i]
		m := &method{stream: d}
		add(d.StreamName, m)
		m.sinfo = &grpc.StreamServerInfo{FullMethod: m.name, IsClientStream: d.ClientStreams, IsServerStream: d.ServerStreams}
		info.Methods = append(info.Methods, grpc.MethodInfo{Name: d.StreamName, IsClientStream: d.ClientStreams, IsServerStream: d.ServerStreams})
	}
	s.services[desc.ServiceName] = info
}

// GetServiceInfo is what reflection asks for.
func (s *Server) GetServiceInfo() map[string]grpc.ServiceInfo { return s.services }

// find is the rpc of a path, or what to say when there is none.
func (s *Server) find(path string) (*method, string) {
	if m := s.methods[path]; m != nil {
		return m, ""
	}
	service, name, found := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch _, known := s.services[service]; {
	case !found || !strings.HasPrefix(path, "/"):
		return nil, fmt.Sprintf("malformed method name: %q", path)
	case known:
		return nil, fmt.Sprintf("unknown method %v for service %v", name, service)
	}
	return nil, fmt.Sprintf("unknown service %v", service)
}

// Serve accepts connections until Stop or GracefulStop, or until ln fails for good. It closes ln.
func (s *Server) Serve(ln net.Listener) error {
	s.mu.Lock()
	if s.mu.closing {
		s.mu.Unlock()
		_ = ln.Close()
		return ErrStopped
	}
	s.mu.listeners[ln] = struct{}{}
	s.mu.Unlock()
	for wait := time.Duration(0); ; {
		nc, err := ln.Accept()
		if err == nil {
			wait = 0
			s.begin(nc)
			continue
		}
		s.mu.Lock()
		closing := s.mu.closing
		s.mu.Unlock()
		var passing interface{ Temporary() bool }
		switch {
		case closing:
			return ErrStopped
		case !errors.As(err, &passing) || !passing.Temporary():
			_ = ln.Close()
			return fmt.Errorf("accept: %w", err)
		}
		// out of file descriptors, for one
		wait = min(max(2*wait, 5*time.Millisecond), time.Second)
		select {
		case <-time.After(wait):
		case <-s.idle:
		}
	}
}

func (s *Server) begin(nc net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closing {
		_ = nc.Close()
		return
	}
	s.mu.pending[nc] = struct{}{}
	s.serving.Go(func() {
		c, err := s.handshake(nc)
		s.mu.Lock()
		delete(s.mu.pending, nc)
		if err != nil || s.mu.closing {
			s.mu.Unlock()
			_ = nc.Close()
			return
		}
		s.mu.conns[c] = struct{}{}
		s.mu.Unlock()
		c.serve()
		s.mu.Lock()
		delete(s.mu.conns, c)
		s.mu.Unlock()
	})
}

func (s *Server) handshake(nc net.Conn) (*conn, error) {
	if err := nc.SetDeadline(time.Now().Add(s.opts.HandshakeTimeout)); err != nil {
		return nil, fmt.Errorf("set the handshake's deadline: %w", err)
	}
	secure, _, err := s.opts.Credentials.ServerHandshake(nc)
	if err != nil {
		return nil, fmt.Errorf("handshake: %w", err)
	}
	c := newConn(s, secure)
	if err := c.greet(); err != nil {
		return nil, err
	}
	if err := secure.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("reset the deadline: %w", err)
	}
	return c, nil
}

// close lets nothing new begin, and gives the connections that there are.
func (s *Server) close() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.closing = true
	for ln := range s.mu.listeners {
		_ = ln.Close()
	}
	for nc := range s.mu.pending {
		_ = nc.Close()
	}
	conns := make([]*conn, 0, len(s.mu.conns))
	for c := range s.mu.conns {
		conns = append(conns, c)
	}
	return conns
}

// Stop closes all connections, which ends the contexts of their calls, and waits for the handlers.
func (s *Server) Stop() {
	for _, c := range s.close() {
		c.fail(ErrStopped)
	}
	s.wait()
}

// GracefulStop tells clients to go elsewhere and waits for the calls under way. Stop cuts it short.
func (s *Server) GracefulStop() {
	for _, c := range s.close() {
		c.goAway()
	}
	s.wait()
}

// wait is for all connections; then the workers may go.
func (s *Server) wait() {
	s.serving.Wait()
	s.dismiss.Do(func() { close(s.idle) })
	s.workers.Wait()
}
