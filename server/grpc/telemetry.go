package grpc

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/filter"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/server/grpc/transport"
)

// What the settings of clients are set to.
const (
	producerAttempts      = 3
	producerFirstWait     = 10 * time.Millisecond
	producerLongestWait   = time.Second
	producerMultiplier    = 2
	receiveBatch          = 32
	longPolling           = 30 * time.Second // the clients' own default
	liteQuota             = 2000
	maxLiteTopic          = 64
	defaultRequestTimeout = 3 * time.Second
)

// Telemetry keeps a stream for as long as the client lives: it brings the client's settings, and answers them with what the
// server has made of them. Producers get commands on it: they are asked for the end of transactions; consumers are asked what tools
// want to know.
//
// A stream whose settings cannot be is ended with a gRPC error, since clients that start wait for settings and for nothing else.
func (d *Door) Telemetry(stream pb.MessagingService_TelemetryServer) error {
	ctx := stream.Context()
	id, err := clientOf(ctx)
	if err != nil {
		return telemetryError(err)
	}
	c, err := d.sessions.open(id)
	if err != nil {
		return telemetryError(err)
	}
	defer d.sessions.closed(c)
	out := newCommands(&d.answering)
	c.listen(out)
	defer c.unlisten(out)
	in, failed := receiveCommands(stream)
	for {
		select {
		case <-d.closing.Done():
			return status.Error(grpccodes.Unavailable, "the broker is closing")
		case err := <-failed:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case cmd := <-out.queue:
			if err := out.write(cmd, stream.SendMsg); err != nil {
				return err
			}
		case cmd := <-in:
			s := cmd.GetSettings()
			if s == nil {
				// The end of a transaction comes as a call, so that this is an answer that nobody waits for any more.
				if !d.questions.answered(c, cmd) {
					d.log.Debug().Str("client", id).Msg("telemetry without settings")
				}
				continue
			}
			merged, err := d.mergeSettings(ctx, c, s)
			if err != nil {
				return telemetryError(err)
			}
			answer := &pb.TelemetryCommand{Status: statusOK, Command: &pb.TelemetryCommand_Settings{Settings: merged}}
			if err := stream.Send(answer); err != nil {
				return err
			}
		}
	}
}

// receiveCommands lets the handler wait for the next command and for the closing of the door at the same time. The goroutine
// ends with the stream's context, which ends with the handler.
func receiveCommands(stream pb.MessagingService_TelemetryServer) (<-chan *pb.TelemetryCommand, <-chan error) {
	commands, failed := make(chan *pb.TelemetryCommand), make(chan error, 1)
	go func() {
		for {
			cmd, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case commands <- cmd:
			case <-stream.Context().Done():
				return
			}
		}
	}()
	return commands, failed
}

func telemetryError(err error) error {
	var r *refusal
	if errors.As(err, &r) {
		if r.code >= 40000 && r.code < 50000 {
			return status.Errorf(grpccodes.InvalidArgument, "%d %s: %s", r.code, r.code, r.text)
		}
		return status.Errorf(grpccodes.Unimplemented, "%d %s: %s", r.code, r.code, r.text)
	}
	if code := codes[broker.CodeOf(err)]; code >= 40000 && code < 50000 {
		return status.Errorf(grpccodes.InvalidArgument, "%d %s: %s", code, code, err)
	}
	return status.Error(grpccodes.Internal, err.Error())
}

// mergeSettings checks and completes a client's settings, remembers them, and enters the client in the broker's table.
func (d *Door) mergeSettings(ctx context.Context, c *session, in *pb.Settings) (*pb.Settings, error) {
	s := &settings{kind: in.GetClientType(), requestTimeout: in.GetRequestTimeout().AsDuration(), language: transport.Header(ctx, headerLanguage), agent: in.GetUserAgent()}
	if s.requestTimeout <= 0 {
		s.requestTimeout = defaultRequestTimeout
	}
	out := proto.Clone(in).(*pb.Settings)
	out.Metric = &pb.Metric{On: false}
	var err error
	switch {
	case s.kind == pb.ClientType_LITE_PUSH_CONSUMER || s.kind == pb.ClientType_LITE_SIMPLE_CONSUMER:
		err = refuse(pb.Code_UNSUPPORTED, "%s", notImplemented[rpcSyncLite])
	case out.GetPublishing() != nil:
		err = d.mergePublishing(s, out)
	case out.GetSubscription() != nil:
		err = d.mergeSubscription(ctx, s, out)
	default:
		err = refuse(pb.Code_BAD_REQUEST, "settings without publishing or subscription")
	}
	if err != nil {
		return nil, err
	}
	c.set(s)
	d.register(ctx, c, s)
	return out, nil
}

func (d *Door) mergePublishing(s *settings, out *pb.Settings) error {
	p := out.GetPublishing()
	for _, r := range p.GetTopics() {
		if _, err := topicOf(r); err != nil {
			return err
		}
	}
	s.topics = slices.Clone(p.GetTopics())
	if s.kind == pb.ClientType_CLIENT_TYPE_UNSPECIFIED {
		s.kind = pb.ClientType_PRODUCER
	}
	out.BackoffPolicy = &pb.RetryPolicy{
		MaxAttempts: producerAttempts,
		Strategy: &pb.RetryPolicy_ExponentialBackoff{ExponentialBackoff: &pb.ExponentialBackoff{
			Initial: durationpb.New(producerFirstWait), Max: durationpb.New(producerLongestWait), Multiplier: producerMultiplier,
		}},
	}
	p.ValidateMessageType = true
	p.MaxBodySize = int32(d.opts.MaxMessageSize)
	return nil
}

func (d *Door) mergeSubscription(ctx context.Context, s *settings, out *pb.Settings) error {
	sub := out.GetSubscription()
	version := d.clock.Now().UnixMilli()
	for _, e := range sub.GetSubscriptions() {
		name, err := topicOf(e.GetTopic())
		if err != nil {
			return err
		}
		s.consumer.Subscriptions = append(s.consumer.Subscriptions, subscriptionOf(name, e.GetExpression(), version))
	}
	s.consumer.MessageModel, s.consumer.FromWhere = "CLUSTERING", "CONSUME_FROM_LAST_OFFSET"
	s.consumer.ConsumeType = "CONSUME_PASSIVELY"
	if s.kind == pb.ClientType_SIMPLE_CONSUMER || s.kind == pb.ClientType_PULL_CONSUMER {
		s.consumer.ConsumeType = "CONSUME_ACTIVELY"
	}
	group, err := groupOf(sub.GetGroup())
	if err != nil {
		return err
	}
	g, err := d.broker.EnsureGroup(ctx, group)
	if err != nil {
		return err
	}
	s.group = group
	sub.Fifo = proto.Bool(d.inOrder(g, s.consumer.Subscriptions))
	sub.ReceiveBatchSize = proto.Int32(receiveBatch)
	sub.LongPollingTimeout = durationpb.New(longPolling)
	sub.LiteSubscriptionQuota = proto.Int32(liteQuota)
	sub.MaxLiteTopicSize = proto.Int32(maxLiteTopic)
	out.BackoffPolicy = retryPolicyOf(g)
	return nil
}

// inOrder says whether a consumer gets something in order. What it gets otherwise it handles one after the other then, too.
func (d *Door) inOrder(g *catalog.Group, subscriptions []broker.Subscription) bool {
	return g.ConsumeMessageOrderly || slices.ContainsFunc(subscriptions, func(s broker.Subscription) bool {
		t, err := d.broker.Topic(s.Topic)
		return err == nil && broker.InOrder(g, t)
	})
}

func subscriptionOf(topic string, f *pb.FilterExpression, version int64) broker.Subscription {
	s := broker.Subscription{Topic: topic, Expression: f.GetExpression(), ExpressionType: filter.Tag, Version: version}
	if f.GetType() == pb.FilterType_SQL {
		s.ExpressionType = filter.SQL92
		return s
	}
	if s.Expression == "" {
		s.Expression = "*"
	}
	if s.Expression != "*" {
		for tag := range strings.SplitSeq(s.Expression, "||") {
			if tag = strings.TrimSpace(tag); tag != "" {
				s.Tags = append(s.Tags, tag)
				s.Codes = append(s.Codes, int32(message.TagHash(tag)))
			}
		}
	}
	return s
}

func retryPolicyOf(g *catalog.Group) *pb.RetryPolicy {
	out := &pb.RetryPolicy{MaxAttempts: g.MaxAttempts()}
	ms := func(n int64) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Millisecond) }
	if p := g.RetryPolicy; p != nil && p.Type == catalog.RetryExponential {
		e := p.Backoff()
		out.Strategy = &pb.RetryPolicy_ExponentialBackoff{ExponentialBackoff: &pb.ExponentialBackoff{
			Initial: ms(e.Initial), Max: ms(e.Max), Multiplier: float32(e.Multiplier),
		}}
		return out
	}
	c := &pb.CustomizedBackoff{}
	for _, wait := range g.RetryPolicy.Waits() {
		c.Next = append(c.Next, ms(wait))
	}
	out.Strategy = &pb.RetryPolicy_CustomizedBackoff{CustomizedBackoff: c}
	return out
}

// register enters a client in the broker's table, where tools look; a producer as one group for each of its topics.
func (d *Door) register(ctx context.Context, c *session, s *settings) {
	client := &broker.Client{
		ID: c.id, Address: addressOf(ctx), Language: s.language, Version: remotingVersion, Protocol: "grpc", Conn: c,
	}
	if s.kind == pb.ClientType_PRODUCER {
		client.Check = func(q *broker.TransactionCheck) bool { return d.check(c, q) }
		for _, topic := range c.produces() {
			d.broker.Clients().RegisterProducer(nameOf(topic), client)
		}
		return
	}
	d.broker.Clients().RegisterConsumer(s.group, client, s.consumer)
}

// Heartbeat keeps a client in the broker's table.
func (d *Door) Heartbeat(ctx context.Context, req *pb.HeartbeatRequest) (*pb.HeartbeatResponse, error) {
	err := d.heartbeat(ctx, req)
	return &pb.HeartbeatResponse{Status: d.statusOf(rpcHeartbeat, err)}, nil
}

func (d *Door) heartbeat(ctx context.Context, req *pb.HeartbeatRequest) error {
	id, err := clientOf(ctx)
	if err != nil {
		return err
	}
	var s *settings
	c := d.sessions.get(id)
	if c != nil {
		s = c.settings()
	}
	if s == nil {
		return refuse(pb.Code_UNRECOGNIZED_CLIENT_TYPE, "no settings of client %s have come before its heartbeat", id)
	}
	switch req.GetClientType() {
	case pb.ClientType_PRODUCER:
	case pb.ClientType_PUSH_CONSUMER, pb.ClientType_SIMPLE_CONSUMER, pb.ClientType_PULL_CONSUMER:
		if _, err := groupOf(req.GetGroup()); err != nil {
			return err
		}
	case pb.ClientType_LITE_PUSH_CONSUMER, pb.ClientType_LITE_SIMPLE_CONSUMER:
		return refuse(pb.Code_UNSUPPORTED, "%s", notImplemented[rpcSyncLite])
	default:
		return refuse(pb.Code_UNRECOGNIZED_CLIENT_TYPE, "client type %s is not known", req.GetClientType())
	}
	if req.GetClientType() != s.kind {
		return refuse(pb.Code_UNRECOGNIZED_CLIENT_TYPE, "a heartbeat of a %s, but the settings are of a %s", req.GetClientType(), s.kind)
	}
	d.register(ctx, c, s)
	return nil
}

// NotifyClientTermination forgets a client; what it has received and not settled comes back to its group.
func (d *Door) NotifyClientTermination(ctx context.Context, req *pb.NotifyClientTerminationRequest) (*pb.NotifyClientTerminationResponse, error) {
	err := d.terminated(ctx, req)
	return &pb.NotifyClientTerminationResponse{Status: d.statusOf(rpcTermination, err)}, nil
}

func (d *Door) terminated(ctx context.Context, req *pb.NotifyClientTerminationRequest) error {
	id, err := clientOf(ctx)
	if err != nil {
		return err
	}
	c := d.sessions.get(id)
	if c == nil || c.settings() == nil {
		return refuse(pb.Code_UNRECOGNIZED_CLIENT_TYPE, "client %s is not known", id)
	}
	if c.settings().kind != pb.ClientType_PRODUCER {
		if _, err := groupOf(req.GetGroup()); err != nil {
			return err
		}
	}
	d.sessions.terminate(c)
	return nil
}
