package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"
)

// Handler is what a server calls. For one connection all three are called from its reader goroutine, one after the
// other, so a Serve that takes long holds back that connection's next requests; different connections run at once.
type Handler interface {
	// Opened is called before the first request.
	Opened(c *Conn)
	// Serve owns cmd and ends, now or later and from any goroutine, with one Conn.Respond or Command.Release.
	Serve(c *Conn, cmd *Command)
	// Closed is called once when the connection has ended; c.Err says why. Responses are dropped from now on.
	Closed(c *Conn)
}

// Options of a server. Zero values take the default.
type Options struct {
	FrameLimit int           // bytes of a frame in either direction; 16 MiB
	PauseBytes int64         // bytes queued for one peer from which on its requests wait; 4 MiB
	QueueBytes int64         // bytes queued for one peer from which on it is cut off; 64 MiB, at least PauseBytes + FrameLimit
	BigBytes   int64         // read buffers beyond 64 KiB each, over all connections; 512 MiB. Who needs more is cut off
	MaxConns   int           // connections at once; 65536. Further ones are closed at once
	Idle       time.Duration // close after this long without a read or write, or with a write that does not end; 120 s
	Handshake  time.Duration // limit of a TLS handshake; 10 s
	Grace      time.Duration // how long Shutdown still answers new requests, with GO_AWAY where it is known; 0: not at all
	TLS        *tls.Config   // nil: plain only. Else plain and TLS share the port, told apart by the first byte
	RequireTLS bool          // refuse plain connections
	Logger     zerolog.Logger
	// Answered is called with each request and its response before they are released; it must not block. May be nil.
	Answered func(req, resp *Command)
}

func (o Options) withDefaults() Options {
	setDefault(&o.FrameLimit, DefaultFrameLimit)
	setDefault(&o.PauseBytes, 4<<20)
	setDefault(&o.QueueBytes, 64<<20)
	setDefault(&o.BigBytes, 512<<20)
	setDefault(&o.MaxConns, 65536)
	setDefault(&o.Idle, 120*time.Second)
	setDefault(&o.Handshake, 10*time.Second)
	o.QueueBytes = max(o.QueueBytes, o.PauseBytes+int64(o.FrameLimit))
	// What peers do wrong is logged, but a crowd of them does not fill the disk.
	o.Logger = o.Logger.Sample(&zerolog.BurstSampler{Burst: 50, Period: time.Second})
	return o
}

func setDefault[T int | int64 | time.Duration](p *T, def T) {
	if *p <= 0 {
		*p = def
	}
}

// ErrServerClosed is returned by Serve after Shutdown or Close.
var ErrServerClosed = errors.New("server closed")

// sweeps is how often Idle is divided; a connection is closed after Idle to Idle·9/8.
const sweeps = 8

// Server accepts connections and owns their goroutines.
type Server struct {
	opts    Options
	handler Handler
	budget  *budget
	goAway  atomic.Bool
	stop    chan struct{} // closed when no connections are accepted any more
	wg      sync.WaitGroup

	mu struct {
		sync.Mutex
		closed    bool
		listeners map[net.Listener]struct{}
		conns     map[*Conn]struct{}
	}
}

// NewServer makes a server; Serve makes it serve.
func NewServer(h Handler, opts Options) *Server {
	s := &Server{opts: opts.withDefaults(), handler: h, stop: make(chan struct{})}
	s.budget = newBudget(s.opts.BigBytes)
	s.mu.listeners = map[net.Listener]struct{}{}
	s.mu.conns = map[*Conn]struct{}{}
	s.wg.Add(1)
	go s.sweepLoop()
	return s
}

// Conns is how many connections there are.
func (s *Server) Conns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.mu.conns)
}

// EachConn calls f for every connection until it returns false; f must not block.
func (s *Server) EachConn(f func(*Conn) bool) {
	for _, c := range s.snapshot() {
		if !f(c) {
			return
		}
	}
}

func (s *Server) snapshot() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*Conn, 0, len(s.mu.conns))
	for c := range s.mu.conns {
		all = append(all, c)
	}
	return all
}

// Serve accepts connections from ln, which it closes, until the server is closed: then it returns ErrServerClosed. It may
// be called for several listeners.
func (s *Server) Serve(ln net.Listener) error {
	defer ln.Close() //nolint:errcheck // nothing was written to it
	s.mu.Lock()
	if s.mu.closed {
		s.mu.Unlock()
		return ErrServerClosed
	}
	s.mu.listeners[ln] = struct{}{}
	s.mu.Unlock()
	for {
		raw, err := ln.Accept()
		if err != nil {
			if s.isClosed() {
				return ErrServerClosed
			}
			if !outOfDescriptors(err) {
				return fmt.Errorf("accept on %v: %w", ln.Addr(), err)
			}
			s.opts.Logger.Warn().Err(err).Msg("cannot accept connections")
			select {
			case <-time.After(100 * time.Millisecond):
			case <-s.stop:
			}
			continue
		}
		s.accepted(raw)
	}
}

// outOfDescriptors is true for errors that pass when other files or connections are closed.
func outOfDescriptors(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOBUFS) ||
		errors.Is(err, syscall.ENOMEM) || errors.Is(err, syscall.ECONNABORTED)
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.closed
}

func (s *Server) accepted(raw net.Conn) {
	lim := limits{frame: s.opts.FrameLimit, pause: s.opts.PauseBytes, queue: s.opts.QueueBytes, calls: maxCalls}
	c := newConn(raw, lim, s.budget, s.dispatch)
	c.answered = s.opts.Answered
	s.mu.Lock()
	full := len(s.mu.conns) >= s.opts.MaxConns
	if s.mu.closed || full {
		s.mu.Unlock()
		_ = raw.Close() // it never carried anything
		if full {
			s.opts.Logger.Warn().Stringer("peer", c.remote).Int("max", s.opts.MaxConns).Msg("refused a connection: too many")
		}
		return
	}
	s.mu.conns[c] = struct{}{}
	s.wg.Add(1)
	s.mu.Unlock()
	go s.run(c)
}

// run is the life of a connection.
func (s *Server) run(c *Conn) {
	defer s.wg.Done()
	first, err := s.greet(c)
	if err != nil {
		c.fail(err)
	} else {
		var writer sync.WaitGroup
		writer.Add(1)
		go func() { defer writer.Done(); c.writeLoop() }()
		s.handler.Opened(c)
		c.readLoop(first)
		writer.Wait()
		s.handler.Closed(c)
	}
	s.mu.Lock()
	delete(s.mu.conns, c)
	s.mu.Unlock()
	s.logEnd(c)
}

// greet tells TLS from plain by the first byte: 0x16 begins a TLS handshake and never a frame, whose length would be
// over 350 MB. It returns what was read and belongs to the first frame.
func (s *Server) greet(c *Conn) (first []byte, err error) {
	if s.opts.TLS == nil {
		return nil, nil
	}
	one := make([]byte, 1)
	if _, err := io.ReadFull(c.raw, one); err != nil {
		return nil, err
	}
	if one[0] != 0x16 {
		if s.opts.RequireTLS {
			return nil, errPlain
		}
		return one, nil
	}
	t := tls.Server(&prefixedConn{Conn: c.raw, r: &prefixed{first: one, rest: c.raw}}, s.opts.TLS)
	ctx, cancel := context.WithTimeout(context.Background(), s.opts.Handshake)
	defer cancel()
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", errHandshake, err)
	}
	c.rw = t
	return nil, nil
}

var (
	errPlain     = errors.New("plain connection refused: TLS is required")
	errHandshake = errors.New("TLS handshake")
)

// logEnd writes one line for an end that tells something, and nothing for a peer that just went.
func (s *Server) logEnd(c *Conn) {
	err := c.Err()
	for _, bad := range []error{ErrFrame, ErrHeader, ErrSlowReader, ErrStalled, ErrNoMemory, errPlain, errHandshake} {
		if errors.Is(err, bad) {
			s.opts.Logger.Warn().Stringer("peer", c.remote).Err(err).Msg("closed a connection")
			return
		}
	}
	s.opts.Logger.Debug().Stringer("peer", c.remote).AnErr("reason", err).Msg("connection closed")
}

// dispatch is Conn.serve of every connection.
func (s *Server) dispatch(c *Conn, cmd *Command) {
	// One-way requests are served to the end: their sender would never hear that they were not.
	if s.goAway.Load() && cmd.Version > Version5_3_1 && !cmd.IsOneWay() {
		c.Respond(cmd, cmd.Reply(GoAway, "please go away"))
		return
	}
	s.handler.Serve(c, cmd)
}

func (s *Server) sweepLoop() {
	defer s.wg.Done()
	t := time.NewTicker(max(s.opts.Idle/sweeps, time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-t.C:
			s.sweep()
		case <-s.stop:
			return
		}
	}
}

func (s *Server) sweep() {
	for _, c := range s.snapshot() {
		c.sweep(sweeps)
	}
}

// Shutdown stops accepting, goes on answering for Options.Grace (clients newer than 5.3.1 are told to go away and find
// another connection), then reads nothing more, waits until the requests under way are answered and closes. It returns
// when all goroutines have ended. When ctx ends first, what is left is cut off and ctx's error returned.
func (s *Server) Shutdown(ctx context.Context) error {
	s.goAway.Store(true)
	s.stopListening()
	if s.opts.Grace > 0 && s.Conns() > 0 {
		grace, cancel := context.WithTimeout(ctx, s.opts.Grace)
		<-grace.Done()
		cancel()
	}
	for _, c := range s.snapshot() {
		c.finishSoon()
	}
	ended := make(chan struct{})
	go func() { s.wg.Wait(); close(ended) }()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
	}
	for _, c := range s.snapshot() {
		c.fail(ErrServerClosed)
	}
	<-ended
	return ctx.Err()
}

// Close cuts off all connections and waits for their goroutines.
func (s *Server) Close() {
	s.stopListening()
	for _, c := range s.snapshot() {
		c.fail(ErrServerClosed)
	}
	s.wg.Wait()
}

func (s *Server) stopListening() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return
	}
	s.mu.closed = true
	close(s.stop)
	for ln := range s.mu.listeners {
		_ = ln.Close() // Serve sees it and returns
	}
}

// prefixed reads first, then the rest.
type prefixed struct {
	first []byte
	rest  io.Reader
}

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.first) == 0 {
		return p.rest.Read(b)
	}
	n := copy(b, p.first)
	p.first = p.first[n:]
	return n, nil
}

// prefixedConn is a connection some of whose bytes were read already.
type prefixedConn struct {
	net.Conn
	r io.Reader
}

func (p *prefixedConn) Read(b []byte) (int, error) { return p.r.Read(b) }
