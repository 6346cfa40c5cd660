// Package grpc is the door for gRPC clients: MessagingService and Admin of apache.rocketmq.v2, on the protocol package of the official
// Go client.
//
// A call is decoded, checked, turned into a verb of package broker, and answered; failures travel in the protocol's own
// Status, never as a gRPC error (streams that cannot go on, such as a Telemetry with impossible settings, are the exception).
// The door has no state but sessions: who is connected, with which settings, and which messages were handed to push
// consumers. Losing it loses nothing: receipt handles describe themselves and are checked by the broker.
//
// # Names
//
// A resource namespace becomes a prefix of the name, "ns%name", as Remoting clients write it. With the broker's
// AutoCreateTopics, QueryRoute and SendMessage make a topic that is not there, unless its name is reserved for a group
// (%RETRY%, %DLQ%) or for the system; gRPC clients ask for the route before anything else, so a topic that only SendMessage made
// would never be made. Consumer groups are made on demand when a consumer sends its settings or receives.
//
// # Push consumers
//
// They ask with auto_renew: the server decides how long a message stays invisible. The door gives it the group's
// consumeTimeoutMinute (15 minutes unless it was changed) at once, so that there is one handle from first to last, valid after a
// restart of the broker too, and nothing has to be renewed. What a client holds comes back sooner, a second later, when
// it says that it terminates, or when neither a stream nor a call of it has been seen for 20 s. A listener that needs longer
// than the group's consume timeout gets its message a second time.
//
// # Transactions
//
// A producer is asked for the end of its transactions on its telemetry stream; any producer that has the topic in its settings,
// or has sent a transaction to it, may be. A question goes to the newest stream of a client, and is given up, for the broker to
// ask another producer or later, when the client does not read what it is sent.
//
// # Reading order
//
// door.go, listen.go (plain text and TLS on one port), package transport (HTTP/2), rpcs.go (what is served), caller.go and status.go; sessions.go,
// telemetry.go and commands.go (who is there); route.go, send.go, transaction.go, recall.go, receive.go, ack.go, offsets.go
// (the calls); admin.go, admin_groups.go, admin_messages.go, admin_ask.go (the Admin service); convert.go and codec.go (bytes).
package grpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"github.com/rs/zerolog"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/rpctime"
	"github.com/cairnmq/cairn/server/grpc/transport"
)

// Options of the door. The zero value of each means its default.
type Options struct {
	// TLS serves clients that begin with a TLS handshake; plain text is spoken on the same port. nil: a certificate of its own,
	// made at start and kept in memory, which the official clients accept since they do not verify.
	TLS *tls.Config
	// MaxConnections open at once, default 10,000; one more is closed at once.
	MaxConnections int
	// Version is what the Admin service says that this is.
	Version string
	Latency *rpctime.Histogram
	Logger  zerolog.Logger
}

const (
	defaultConnections = 10_000
	// maxStreams bounds the calls under way on one connection. A push consumer has one long poll for each topic.
	maxStreams = 8192
	// streamWorkers are goroutines that serve one call after the other: a new one would have to grow its stack each time.
	// Long polls keep theirs, so there are more than processors.
	streamWorkers = 256
	// A request may hold a few messages of the largest size, and what is a little too large must get as far as the check
	// that says so.
	leastRequest = 16 << 20
)

// Door serves gRPC. New, Serve, Close in this order.
type Door struct {
	pb.UnimplementedMessagingServiceServer
	broker    *broker.Broker
	opts      broker.Options
	max       int // connections
	clock     clock.Clock
	log       zerolog.Logger
	trouble   zerolog.Logger // at most so many lines a second
	server    *transport.Server
	health    *health.Server
	sessions  *sessions
	questions *questions
	version   string
	answering atomic.Int64 // bytes of messages on their way to clients

	connections atomic.Int64 // open now

	latency *rpctime.Histogram // may be nil

	closing context.Context // ends when Close begins: what only waits should end
	close   context.CancelFunc
}

// New makes a door to b. The broker must outlive it.
func New(b *broker.Broker, opts Options) *Door {
	bo := b.Options()
	d := &Door{broker: b, opts: bo, max: opts.MaxConnections, latency: opts.Latency, clock: bo.Clock, log: opts.Logger, version: opts.Version, questions: newQuestions(), health: health.NewServer()}
	// One cause can make every call fail: the first few lines tell as much as all.
	d.trouble = opts.Logger.Sample(&zerolog.BurstSampler{Burst: 10, Period: time.Second})
	if d.max <= 0 {
		d.max = defaultConnections
	}
	if d.clock == nil {
		d.clock = clock.System
	}

	d.closing, d.close = context.WithCancel(context.Background())
	d.sessions = newSessions(d)
	d.server = transport.New(transport.Options{
		Codec:            codec{},
		Credentials:      newSniffer(opts.TLS),
		HandshakeTimeout: 10 * time.Second,
		Unary:            d.guardUnary,
		Stream:           d.guardStream,
		MaxRequest:       max(leastRequest, 4*bo.MaxMessageSize),
		MaxHeaders:       64 << 10,
		MaxCalls:         maxStreams,
		Headers:          []string{headerClientID, headerLanguage, headerVersion},
		Workers:          streamWorkers,
		Prompt:           []string{pb.MessagingService_SendMessage_FullMethodName, pb.MessagingService_AckMessage_FullMethodName},
		Idle:             120 * time.Second,
		Ping:             60 * time.Second,
		Pong:             20 * time.Second,
		LeastPing:        time.Second, // clients ping every 10 to 30 s
	})
	pb.RegisterMessagingServiceServer(d.server, d)
	d.server.RegisterService(&adminService, d)
	healthpb.RegisterHealthServer(d.server, d.health)
	registerReflection(d.server)
	return d
}

// Serve answers on ln until Close; it then returns nil.
func (d *Door) Serve(ln net.Listener) error {
	err := d.server.Serve(&boundedListener{Listener: ln, max: int64(d.max), open: &d.connections, log: d.trouble})
	if err == nil || errors.Is(err, transport.ErrStopped) || d.closing.Err() != nil {
		return nil
	}
	return fmt.Errorf("serve gRPC: %w", err)
}

// Close stops accepting, tells clients to go elsewhere, ends long polls and telemetry streams and waits for the other calls
// until ctx ends; then it closes the connections. It returns ctx's error when calls were cut off.
func (d *Door) Close(ctx context.Context) error {
	d.health.Shutdown()
	d.close()
	done := make(chan struct{})
	go func() {
		d.server.GracefulStop()
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
		d.server.Stop()
		<-done
	}
	d.sessions.wait()
	return err
}
