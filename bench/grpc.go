package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// grpcTarget speaks the protocol's own messages, without a client library, so that the broker is what is measured.
type grpcTarget struct {
	o       *Options
	conns   []*rpcConn
	clients []v2.MessagingServiceClient
	streams []v2.MessagingService_TelemetryClient
	queues  []*v2.MessageQueue
	seq     atomic.Uint64
	ended   context.CancelFunc
	ctx     context.Context

	mu    sync.Mutex
	acks  *hdrhistogram.Histogram
	crews []*crew
}

func newGRPC(o *Options) (*grpcTarget, error) {
	t := &grpcTarget{o: o}
	t.ctx, t.ended = context.WithCancel(context.Background())
	headers := metadata.Pairs("x-mq-client-id", fmt.Sprintf("cairn-bench@%d", time.Now().UnixNano()),
		"x-mq-language", "GO", "x-mq-protocol", "v2", "x-mq-client-version", "5.1.4")
	for range o.Conns {
		c, err := dialRPC(t.ctx, o.Endpoint, headers)
		if err != nil {
			t.close()
			return nil, err
		}
		t.conns = append(t.conns, c)
		t.clients = append(t.clients, v2.NewMessagingServiceClient(c))
	}
	return t, nil
}

// crew is ended by close.
func (t *grpcTarget) crew() *crew {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := newCrew(t.ctx, t.o.Batch)
	t.crews = append(t.crews, c)
	return c
}

func (t *grpcTarget) close() {
	t.ended()
	for _, c := range t.crews {
		c.wait()
	}
	for _, c := range t.conns {
		c.close()
	}
}

func (t *grpcTarget) ackLatency() *hdrhistogram.Histogram {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.acks
}

func (t *grpcTarget) topic() *v2.Resource { return &v2.Resource{Name: t.o.Topic} }
func (t *grpcTarget) group() *v2.Resource { return &v2.Resource{Name: t.o.Group} }

// prepare asks for the route and announces the client's settings, which servers want before anything else.
func (t *grpcTarget) prepare(ctx context.Context) error {
	host, portText, err := net.SplitHostPort(t.o.Endpoint)
	if err != nil {
		return err
	}
	port, err := strconv.ParseInt(portText, 10, 32)
	if err != nil {
		return err
	}
	endpoints := &v2.Endpoints{Scheme: v2.AddressScheme_IPv4, Addresses: []*v2.Address{{Host: host, Port: int32(port)}}}
	route, err := t.clients[0].QueryRoute(ctx, &v2.QueryRouteRequest{Topic: t.topic(), Endpoints: endpoints})
	if err != nil {
		return err
	}
	if err := ok(route.GetStatus()); err != nil {
		return err
	}
	t.queues = route.GetMessageQueues()
	for _, c := range t.clients {
		stream, err := c.Telemetry(t.ctx)
		if err != nil {
			return err
		}
		if err := stream.Send(&v2.TelemetryCommand{Command: &v2.TelemetryCommand_Settings{Settings: t.settings(endpoints)}}); err != nil {
			return err
		}
		if _, err := stream.Recv(); err != nil {
			return fmt.Errorf("settings: %w", err)
		}
		t.streams = append(t.streams, stream)
	}
	return nil
}

func (t *grpcTarget) settings(endpoints *v2.Endpoints) *v2.Settings {
	s := &v2.Settings{AccessPoint: endpoints, RequestTimeout: durationpb.New(10 * time.Second),
		UserAgent: &v2.UA{Language: v2.Language_GOLANG, Version: "5.1.4", Platform: "bench", Hostname: "bench"}}
	if t.o.Group == "" {
		kind := v2.ClientType_PRODUCER
		s.ClientType = &kind
		s.PubSub = &v2.Settings_Publishing{Publishing: &v2.Publishing{Topics: []*v2.Resource{t.topic()}}}
		return s
	}
	kind := v2.ClientType_SIMPLE_CONSUMER
	s.ClientType = &kind
	s.PubSub = &v2.Settings_Subscription{Subscription: &v2.Subscription{Group: t.group(), Subscriptions: []*v2.SubscriptionEntry{
		{Topic: t.topic(), Expression: &v2.FilterExpression{Type: v2.FilterType_TAG, Expression: "*"}}}}}
	return s
}

func ok(s *v2.Status) error {
	if s.GetCode() == v2.Code_OK {
		return nil
	}
	return fmt.Errorf("%s: %s", s.GetCode(), s.GetMessage())
}

type grpcSender struct {
	t      *grpcTarget
	client v2.MessagingServiceClient
	worker int
}

func (t *grpcTarget) sender(worker int) (sender, error) {
	return &grpcSender{t: t, client: t.clients[worker%len(t.clients)], worker: worker}, nil
}

func (s *grpcSender) send(ctx context.Context, m *outgoing) (receipt, error) {
	r := receipt{id: fmt.Sprintf("01%012X%04X%08X%08X", 0xBE0C4, s.worker&0xFFFF, uint32(time.Now().Unix()), uint32(s.t.seq.Add(1)))}
	sys := &v2.SystemProperties{MessageId: r.id, BodyEncoding: v2.Encoding_IDENTITY, MessageType: v2.MessageType_NORMAL,
		BornTimestamp: timestamppb.Now(), BornHost: "bench", QueueId: 0}
	var properties map[string]string
	if m.tag != "" {
		sys.Tag, properties = &m.tag, map[string]string{propKind: m.tag}
	}
	switch s.t.o.kind {
	case delayed:
		sys.MessageType, sys.DeliveryTimestamp = v2.MessageType_DELAY, timestamppb.New(m.due)
	case transactional:
		sys.MessageType = v2.MessageType_TRANSACTION
	}
	resp, err := s.client.SendMessage(ctx, &v2.SendMessageRequest{Messages: []*v2.Message{
		{Topic: &v2.Resource{Name: cmp.Or(m.topic, s.t.o.Topic)}, Body: m.body, SystemProperties: sys, UserProperties: properties}}})
	if err != nil {
		return r, err
	}
	if e := resp.GetEntries(); len(e) == 1 {
		r.handle, r.transaction = e[0].GetRecallHandle(), e[0].GetTransactionId()
	}
	return r, ok(resp.GetStatus())
}

func (s *grpcSender) recall(ctx context.Context, r *receipt) error {
	resp, err := s.client.RecallMessage(ctx, &v2.RecallMessageRequest{Topic: s.t.topic(), RecallHandle: r.handle})
	if err != nil {
		return err
	}
	return ok(resp.GetStatus())
}

func (s *grpcSender) commit(ctx context.Context, r *receipt) error {
	resp, err := s.client.EndTransaction(ctx, &v2.EndTransactionRequest{Topic: s.t.topic(), MessageId: r.id, TransactionId: r.transaction,
		Resolution: v2.TransactionResolution_COMMIT, Source: v2.TransactionSource_SOURCE_CLIENT})
	if err != nil {
		return err
	}
	return ok(resp.GetStatus())
}

type grpcReceiver struct {
	t      *grpcTarget
	client v2.MessagingServiceClient
	queue  *v2.MessageQueue
	crew   *crew
}

func (t *grpcTarget) receivers(ctx context.Context, n int) ([]receiver, error) {
	t.acks = newHist()
	a, err := t.clients[0].QueryAssignment(ctx, &v2.QueryAssignmentRequest{Topic: t.topic(), Group: t.group(), Endpoints: t.queues[0].GetBroker().GetEndpoints()})
	if err != nil {
		return nil, err
	}
	if err := ok(a.GetStatus()); err != nil {
		return nil, fmt.Errorf("assignment: %w", err)
	}
	if len(a.GetAssignments()) == 0 {
		return nil, errors.New("no assignment")
	}
	out := make([]receiver, n)
	for i := range out {
		out[i] = &grpcReceiver{t: t, client: t.clients[i%len(t.clients)], queue: a.GetAssignments()[i%len(a.GetAssignments())].GetMessageQueue(),
			crew: t.crew()}
	}
	return out, nil
}

func (r *grpcReceiver) receive(ctx context.Context, f func(int32, []byte)) error {
	for ctx.Err() == nil {
		handles, ids, err := r.once(ctx, f)
		if err != nil {
			return err
		}
		if err := r.ack(ctx, handles, ids); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

func (r *grpcReceiver) once(ctx context.Context, f func(int32, []byte)) (handles, ids []string, err error) {
	call, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	stream, err := r.client.ReceiveMessage(call, &v2.ReceiveMessageRequest{
		Group: r.t.group(), MessageQueue: r.queue, BatchSize: int32(r.t.o.Batch),
		FilterExpression:   &v2.FilterExpression{Type: v2.FilterType_TAG, Expression: "*"},
		InvisibleDuration:  durationpb.New(60 * time.Second),
		LongPollingTimeout: durationpb.New(5 * time.Second),
	})
	if err != nil {
		return nil, nil, err
	}
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) || ctx.Err() != nil:
			return handles, ids, nil
		case err != nil:
			return nil, nil, err
		}
		if s := m.GetStatus(); s != nil && s.GetCode() != v2.Code_OK && s.GetCode() != v2.Code_MESSAGE_NOT_FOUND {
			return nil, nil, ok(s)
		}
		if msg := m.GetMessage(); msg != nil {
			f(unordered, msg.GetBody())
			handles = append(handles, msg.GetSystemProperties().GetReceiptHandle())
			ids = append(ids, msg.GetSystemProperties().GetMessageId())
		}
	}
}

// ack acknowledges each message by a call of its own, all at once, as the official clients do.
func (r *grpcReceiver) ack(ctx context.Context, handles, ids []string) error {
	ctx = context.WithoutCancel(ctx)
	errs := make([]error, len(handles))
	took := make([]time.Duration, len(handles))
	r.crew.each(len(handles), func(i int) {
		at := time.Now()
		resp, err := r.client.AckMessage(ctx, &v2.AckMessageRequest{Group: r.t.group(), Topic: r.t.topic(),
			Entries: []*v2.AckMessageEntry{{MessageId: ids[i], ReceiptHandle: handles[i]}}})
		if err == nil {
			err = ok(resp.GetStatus())
		}
		errs[i], took[i] = err, time.Since(at)
	})
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	for _, d := range took {
		_ = r.t.acks.RecordValue(max(1, d.Microseconds()))
	}
	for _, err := range errs {
		if err != nil {
			return fmt.Errorf("acknowledge: %w", err)
		}
	}
	return nil
}
