// Package remoting is the door for clients of RocketMQ's Remoting protocol: the Java client, rocketmq-client-go v2, mqadmin.
//
// Read table.go (which code is served by what), then door.go (how a request gets to its handler), then the family of codes
// that you look for: send.go, transaction.go, recall.go, pull.go, pop.go and pop_ack.go (receipt.go says what clients make of an
// answer), reply.go, assignment.go, clients.go, offsets.go, query.go, locks.go, topics.go, admin_*.go.
// The door has no state but sessions; what it answers with is decided by package broker.
package remoting

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/internal/rpctime"
	"github.com/cairnmq/cairn/internal/wire"
)

// Options of the door. Zero values take the default.
type Options struct {
	Wire    wire.Options  // limits, TLS; its Logger is set to Logger, its Grace is 300 ms when it is 0 and none when it is negative
	Workers int           // goroutines for requests that may block: 16
	Waiting int           // requests that may wait for one of them; further ones are answered SYSTEM_BUSY: 1024
	Timeout time.Duration // how long a request may take on a worker: 10 s
	Latency *rpctime.Histogram
	Logger  zerolog.Logger
}

// Door serves Remoting connections. It keeps sessions and nothing else.
type Door struct {
	broker *broker.Broker
	opts   Options
	server *wire.Server
	log    zerolog.Logger

	work    chan func(context.Context)
	workers sync.WaitGroup
	ctx     context.Context // ends when the workers have to
	cancel  context.CancelFunc
	relays  *relays     // tools' requests that wait for clients
	replies *relays     // replies that wait for their requesters
	closing atomic.Bool // nothing is held any more

	answering atomic.Int64 // bytes of popped messages on their way to clients

	mu struct {
		sync.Mutex
		sessions map[*session]struct{}
	}
}

// New makes a door to b, which it does not own. Close it, whether it has served or not.
func New(b *broker.Broker, opts Options) *Door {
	setDefault(&opts.Workers, 16)
	setDefault(&opts.Waiting, 1024)
	if opts.Timeout <= 0 {
		opts.Timeout = 10 * time.Second
	}
	if opts.Wire.Grace == 0 {
		opts.Wire.Grace = 300 * time.Millisecond
	}
	opts.Wire.Logger = opts.Logger
	d := &Door{broker: b, opts: opts, log: opts.Logger, work: make(chan func(context.Context), opts.Waiting), relays: newRelays(maxRelays), replies: newRelays(maxReplies)}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.mu.sessions = map[*session]struct{}{}
	if opts.Latency != nil {
		opts.Wire.Answered = d.answered
	}
	d.server = wire.NewServer((*handler)(d), opts.Wire)
	for range opts.Workers {
		d.workers.Go(d.worker)
	}
	return d
}

func setDefault(p *int, def int) {
	if *p <= 0 {
		*p = def
	}
}

// Serve accepts connections from ln, which it closes, until Close; then it returns nil.
func (d *Door) Serve(ln net.Listener) error {
	if err := d.server.Serve(ln); !errors.Is(err, wire.ErrServerClosed) {
		return err
	}
	return nil
}

// Conns is how many connections there are.
func (d *Door) Conns() int { return d.server.Conns() }

// Close stops accepting, lets held pulls and pops go empty-handed, answers what is under way and closes all connections. When ctx
// ends first, what is left is cut off and ctx's error returned.
func (d *Door) Close(ctx context.Context) error {
	d.closing.Store(true)
	for _, s := range d.sessions() {
		s.letGo()
	}
	d.relays.cancel()
	err := d.server.Shutdown(ctx)
	d.cancel()
	d.workers.Wait()
	d.relays.wait()
	d.replies.cancel()
	d.replies.wait()
	return err
}

func (d *Door) sessions() []*session {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]*session, 0, len(d.mu.sessions))
	for s := range d.mu.sessions {
		all = append(all, s)
	}
	return all
}

// handler is the door as its server sees it.
type handler Door

// Opened begins a session.
func (h *handler) Opened(c *wire.Conn) {
	d := (*Door)(h)
	s := newSession(d, c)
	c.Attach(s)
	d.mu.Lock()
	d.mu.sessions[s] = struct{}{}
	d.mu.Unlock()
}

// Closed ends a session: its pulls and pops are called off, its clients forgotten.
func (h *handler) Closed(c *wire.Conn) {
	d := (*Door)(h)
	s := c.Attachment().(*session)
	d.mu.Lock()
	delete(d.mu.sessions, s)
	d.mu.Unlock()
	s.end()
	d.broker.Clients().CloseConn(c)
}

// answered tells the metrics.
func (d *Door) answered(req, resp *wire.Command) {
	c := rpctime.Call{Protocol: "remoting", Request: "unsupported", Response: wire.ResponseName(resp.Code), Waited: req.Waited, OneWay: req.IsOneWay()}
	if e := table[req.Code]; e != nil {
		c.Request = e.label
	}
	d.opts.Latency.Observe(c, time.Since(req.Received))
}

// Serve gives a request to its handler.
func (h *handler) Serve(c *wire.Conn, req *wire.Command) {
	d := (*Door)(h)
	s := c.Attachment().(*session)
	e := table[req.Code]
	switch {
	case e == nil:
		c.Respond(req, req.Reply(wire.RequestCodeNotSupported, fmt.Sprintf(" request type %d not supported", req.Code)))
	case e.inline != nil:
		d.runInline(s, req, e)
	default:
		d.background(s, req, func(ctx context.Context) { d.runPooled(ctx, s, req, e.pooled) })
	}
}

// runInline keeps a handler's panic from taking the broker down: it costs the connection, since nobody knows whether the
// request was answered.
func (d *Door) runInline(s *session, req *wire.Command, e *entry) {
	defer func() {
		if p := recover(); p != nil {
			d.logPanic(s, e.Number, p)
			s.conn.Close()
		}
	}()
	e.inline(d, s, req)
}

// background has a worker run f, which is to answer req, or says that the workers are busy.
func (d *Door) background(s *session, req *wire.Command, f func(context.Context)) {
	select {
	case d.work <- f:
	default:
		s.conn.Respond(req, req.Reply(wire.SystemBusy, "[OVERLOAD]system busy, start flow control for a while"))
	}
}

func (d *Door) worker() {
	for {
		select {
		case f := <-d.work:
			d.run(f)
		case <-d.ctx.Done():
			return
		}
	}
}

func (d *Door) run(f func(context.Context)) {
	ctx, cancel := context.WithTimeout(d.ctx, d.opts.Timeout)
	defer cancel()
	f(ctx)
}

func (d *Door) runPooled(ctx context.Context, s *session, req *wire.Command, serve pooled) {
	resp := req.Reply(wire.Success, "")
	err := d.callPooled(ctx, s, req, resp, serve)
	if err != nil {
		resp.Release()
		resp = d.errorReply(req, err)
	}
	s.conn.Respond(req, resp)
}

func (d *Door) callPooled(ctx context.Context, s *session, req, resp *wire.Command, serve pooled) (err error) {
	defer func() {
		if p := recover(); p != nil {
			d.logPanic(s, req.Code, p)
			err = fmt.Errorf("the handler of request code %d failed", req.Code)
		}
	}()
	return serve(ctx, d, s, req, resp)
}

func (d *Door) logPanic(s *session, code int, p any) {
	d.log.Error().Int("code", code).Stringer("peer", s.conn.Remote()).Interface("panic", p).Bytes("stack", debug.Stack()).
		Msg("a request handler panicked")
}
