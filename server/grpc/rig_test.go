package grpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	client "github.com/apache/rocketmq-clients/golang/v5"
	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/store"
)

// TestMain keeps the official client from writing its logs where a user's are.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "cairn-grpc-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Setenv(client.CLIENT_LOG_ROOT, dir)
	os.Setenv(client.CLIENT_LOG_LEVEL, "error")
	client.ResetLogger()
	dial := client.NewRpcClient
	client.NewRpcClient = func(target string, opts ...client.RpcClientOption) (client.RpcClient, error) {
		return dial(target, append(opts, client.WithRpcClientConnOption(client.WithZapLogger(zap.NewNop())))...)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// rig is a door with a real broker behind it.
type rig struct {
	testing.TB
	broker *broker.Broker
	door   *Door
	addr   string
	dir    string
	opts   broker.Options
	ended  chan error
}

func newRig(t testing.TB, change ...func(*broker.Options)) *rig {
	t.Helper()
	r := &rig{TB: t, dir: t.TempDir(), opts: broker.Options{
		ClusterName: "DefaultCluster", BrokerName: "broker-a", Advertise: netip.MustParseAddrPort("127.0.0.1:10911"),
		AdvertiseGRPC: netip.MustParseAddrPort("192.0.2.7:8081"), AutoCreateTopics: true, AutoCreateGroups: true, DefaultQueues: 4,
		Clock: clock.System, Logger: zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel),
	}}
	for _, f := range change {
		f(&r.opts)
	}
	r.open()
	t.Cleanup(r.close)
	return r
}

func (r *rig) open() {
	r.Helper()
	b, err := broker.Open(context.Background(), store.Options{
		FS: vfs.Default, Dir: r.dir, SegmentSize: 64 << 20, CacheBytes: 32 << 20, Mode: commitlog.ModeOS, Clock: r.opts.Clock, Logger: r.opts.Logger,
	}, r.opts)
	if err != nil {
		r.Fatal(err)
	}
	addr := "127.0.0.1:0"
	if r.addr != "" {
		addr = r.addr // after a restart clients must find it again
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		r.Fatal(err)
	}
	r.broker, r.door, r.addr, r.ended = b, New(b, Options{Logger: r.opts.Logger}), ln.Addr().String(), make(chan error, 1)
	go func() { r.ended <- r.door.Serve(ln) }()
}

func (r *rig) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := r.door.Close(ctx); err != nil {
		r.Errorf("close the door: %v", err)
	}
	if err := <-r.ended; err != nil {
		r.Errorf("serve: %v", err)
	}
	if err := r.broker.Close(); err != nil {
		r.Errorf("close the broker: %v", err)
	}
}

// withFakeClock makes a rig's time stand still.
func withFakeClock(c *clock.Fake) func(*broker.Options) {
	return func(o *broker.Options) { o.Clock = c }
}

func (r *rig) topic(name, kind string) {
	r.Helper()
	t := catalog.Topic{Name: name, ReadQueues: 4, WriteQueues: 4, Perm: catalog.PermRead | catalog.PermWrite, TopicFilterType: "SINGLE_TAG"}
	if err := r.broker.PutTopic(context.Background(), t, "+message.type="+kind); err != nil {
		r.Fatal(err)
	}
}

// stub is a client of the protocol alone.
type stub struct {
	pb.MessagingServiceClient
	*rig
	id, version string
	conn        *grpc.ClientConn
}

func (r *rig) stub(id string) *stub {
	r.Helper()
	cc, err := grpc.NewClient(r.addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20), grpc.WaitForReady(true)))
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { cc.Close() })
	return &stub{MessagingServiceClient: pb.NewMessagingServiceClient(cc), rig: r, id: id, version: "5.1.4", conn: cc}
}

// ctx is that of a call that may take as long as this.
func (s *stub) ctx(timeout time.Duration) context.Context {
	ctx := context.Background()
	if s.id != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, headerClientID, s.id)
	}
	ctx = metadata.AppendToOutgoingContext(ctx, headerLanguage, "GO", headerVersion, s.version)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	s.Cleanup(cancel)
	return ctx
}

func resource(name string) *pb.Resource { return &pb.Resource{Name: name} }

// telemetry opens the client's stream with settings, and waits for the answer.
func (s *stub) telemetry(settings *pb.Settings) (pb.MessagingService_TelemetryClient, *pb.Settings, error) {
	s.Helper()
	stream, err := s.Telemetry(s.ctx(time.Minute))
	if err != nil {
		return nil, nil, err
	}
	err = stream.Send(&pb.TelemetryCommand{Command: &pb.TelemetryCommand_Settings{Settings: settings}})
	if err != nil && !errors.Is(err, io.EOF) { // EOF: the stream has ended already, and Recv says why
		return nil, nil, err
	}
	cmd, err := stream.Recv()
	if err != nil {
		return nil, nil, err
	}
	if cmd.GetStatus().GetCode() != pb.Code_OK {
		return nil, nil, fmt.Errorf("status %v", cmd.GetStatus())
	}
	return stream, cmd.GetSettings(), nil
}

func producerSettings(topics ...string) *pb.Settings {
	p := &pb.Publishing{}
	for _, t := range topics {
		p.Topics = append(p.Topics, resource(t))
	}
	return &pb.Settings{ClientType: pb.ClientType_PRODUCER.Enum(), PubSub: &pb.Settings_Publishing{Publishing: p}}
}

func consumerSettings(kind pb.ClientType, group string, topics ...string) *pb.Settings {
	sub := &pb.Subscription{Group: resource(group)}
	for _, t := range topics {
		sub.Subscriptions = append(sub.Subscriptions, &pb.SubscriptionEntry{
			Topic: resource(t), Expression: &pb.FilterExpression{Type: pb.FilterType_TAG, Expression: "*"},
		})
	}
	return &pb.Settings{ClientType: kind.Enum(), RequestTimeout: durationpb.New(3 * time.Second), PubSub: &pb.Settings_Subscription{Subscription: sub}}
}

// send sends messages and fails the test when they are refused.
func (s *stub) send(topic string, bodies ...string) []*pb.SendResultEntry {
	s.Helper()
	req := &pb.SendMessageRequest{}
	for _, b := range bodies {
		req.Messages = append(req.Messages, good(func(m *pb.Message) {
			m.Topic, m.Body, m.SystemProperties.MessageId = resource(topic), []byte(b), "id-"+b
		}))
	}
	resp, err := s.SendMessage(s.ctx(10*time.Second), req)
	if err != nil || resp.GetStatus().GetCode() != pb.Code_OK {
		s.Fatalf("send: %v, %v", resp, err)
	}
	return resp.GetEntries()
}

// sendOne sends one message that is not like all others, and fails the test when it is refused.
func (s *stub) sendOne(topic, body string, change ...func(*pb.Message)) *pb.SendResultEntry {
	s.Helper()
	named := func(m *pb.Message) {
		m.Topic, m.Body, m.SystemProperties.MessageId = resource(topic), []byte(body), "id-"+body
	}
	m := good(append([]func(*pb.Message){named}, change...)...)
	resp, err := s.SendMessage(s.ctx(10*time.Second), &pb.SendMessageRequest{Messages: []*pb.Message{m}})
	if err != nil || resp.GetStatus().GetCode() != pb.Code_OK || len(resp.GetEntries()) != 1 {
		s.Fatalf("send: %v, %v", resp, err)
	}
	return resp.GetEntries()[0]
}

// receiveRequest is that of a simple consumer.
func receiveRequest(topic, group string, invisible time.Duration) *pb.ReceiveMessageRequest {
	return &pb.ReceiveMessageRequest{
		Group: resource(group), MessageQueue: &pb.MessageQueue{Topic: resource(topic), Id: -1}, BatchSize: 32,
		FilterExpression: &pb.FilterExpression{Type: pb.FilterType_TAG, Expression: "*"}, InvisibleDuration: durationpb.New(invisible),
	}
}

// pushRequest is that of a push consumer.
func pushRequest(topic, group string) *pb.ReceiveMessageRequest {
	r := receiveRequest(topic, group, 0)
	r.InvisibleDuration, r.AutoRenew, r.AttemptId = nil, true, proto.String("attempt")
	return r
}

// received is what one receive came to.
type received struct {
	status   *pb.Status
	messages []*pb.Message
	at       time.Time // delivery timestamp
}

func (s *stub) receive(ctx context.Context, req *pb.ReceiveMessageRequest) (received, error) {
	s.Helper()
	var out received
	stream, err := s.ReceiveMessage(ctx, req)
	if err != nil {
		return out, err
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			if out.status == nil {
				return out, err
			}
			return out, nil
		}
		switch c := resp.GetContent().(type) {
		case *pb.ReceiveMessageResponse_Status:
			out.status = c.Status
		case *pb.ReceiveMessageResponse_Message:
			out.messages = append(out.messages, c.Message)
		case *pb.ReceiveMessageResponse_DeliveryTimestamp:
			out.at = c.DeliveryTimestamp.AsTime()
		}
	}
}

func (s *stub) ack(topic, group string, handles ...string) *pb.AckMessageResponse {
	s.Helper()
	req := &pb.AckMessageRequest{Topic: resource(topic), Group: resource(group)}
	for i, h := range handles {
		req.Entries = append(req.Entries, &pb.AckMessageEntry{MessageId: fmt.Sprint("m", i), ReceiptHandle: h})
	}
	resp, err := s.AckMessage(s.ctx(10*time.Second), req)
	if err != nil {
		s.Fatal(err)
	}
	return resp
}

// eventually polls until the condition holds.
func (r *rig) eventually(what string, holds func() bool) {
	r.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(15 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-limit:
			r.Fatalf("waited too long until %s", what)
		}
	}
}
