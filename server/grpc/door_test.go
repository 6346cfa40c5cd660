package grpc

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"google.golang.org/grpc"
	grpccodes "google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/store"
)

func noAutoCreate(o *broker.Options) { o.AutoCreateTopics, o.AutoCreateGroups = false, false }

func TestRoute(t *testing.T) {
	r := newRig(t)
	s := r.stub("c1")
	asked := &pb.Endpoints{Scheme: pb.AddressScheme_DOMAIN_NAME, Addresses: []*pb.Address{{Host: "mq.example.com", Port: 80}}}
	resp, err := s.QueryRoute(s.ctx(5*time.Second), &pb.QueryRouteRequest{Topic: resource("made-on-demand"), Endpoints: asked})
	if err != nil || resp.GetStatus().GetCode() != pb.Code_OK {
		t.Fatalf("%v, %v", resp, err)
	}
	if len(resp.GetMessageQueues()) != 4 {
		t.Fatalf("%d queues, want the 4 of topics made on demand", len(resp.GetMessageQueues()))
	}
	for i, q := range resp.GetMessageQueues() {
		if q.GetId() != int32(i) || q.GetPermission() != pb.Permission_READ_WRITE || q.GetBroker().GetName() != "broker-a" ||
			!proto.Equal(q.GetBroker().GetEndpoints(), asked) || fmt.Sprint(q.GetAcceptMessageTypes()) != "[NORMAL]" {
			t.Errorf("queue %d: %v", i, q)
		}
	}
	resp, err = s.QueryRoute(s.ctx(5*time.Second), &pb.QueryRouteRequest{Topic: resource("made-on-demand")})
	if err != nil {
		t.Fatal(err)
	}
	if a := resp.GetMessageQueues()[0].GetBroker().GetEndpoints(); a.GetAddresses()[0].GetHost() != "192.0.2.7" || a.GetScheme() != pb.AddressScheme_IPv4 {
		t.Errorf("who names no endpoints gets %v, want the advertised address", a)
	}
}

// TestRouteOfUnequalQueues: a queue has the same id for readers and writers.
func TestRouteOfUnequalQueues(t *testing.T) {
	r := newRig(t)
	s := r.stub("c1")
	perms := func(topic catalog.Topic) (out []pb.Permission) {
		t.Helper()
		topic.Name, topic.TopicFilterType = "T", "SINGLE_TAG"
		if err := r.broker.PutTopic(context.Background(), topic, "+message.type=MIXED"); err != nil {
			t.Fatal(err)
		}
		resp, err := s.QueryRoute(s.ctx(5*time.Second), &pb.QueryRouteRequest{Topic: resource("T")})
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range resp.GetMessageQueues() {
			out = append(out, q.GetPermission())
			if fmt.Sprint(q.GetAcceptMessageTypes()) != "[NORMAL FIFO DELAY TRANSACTION]" {
				t.Errorf("a mixed topic accepts %v", q.GetAcceptMessageTypes())
			}
		}
		return out
	}
	if got := fmt.Sprint(perms(catalog.Topic{ReadQueues: 3, WriteQueues: 1, Perm: 6})); got != "[READ_WRITE READ READ]" {
		t.Error(got)
	}
	if got := fmt.Sprint(perms(catalog.Topic{ReadQueues: 1, WriteQueues: 2, Perm: 6})); got != "[READ_WRITE WRITE]" {
		t.Error(got)
	}
	if got := fmt.Sprint(perms(catalog.Topic{ReadQueues: 1, WriteQueues: 2, Perm: 4})); got != "[READ NONE]" {
		t.Error(got)
	}
}

func TestRouteRefusals(t *testing.T) {
	r := newRig(t, noAutoCreate)
	for _, c := range []struct {
		id, topic string
		want      pb.Code
	}{
		{"", "T", pb.Code_CLIENT_ID_REQUIRED},
		{strings.Repeat("x", 300), "T", pb.Code_BAD_REQUEST},
		{"c1", "unknown", pb.Code_TOPIC_NOT_FOUND},
		{"c1", "a b", pb.Code_ILLEGAL_TOPIC},
		{"c1", "SCHEDULE_TOPIC_XXXX", pb.Code_ILLEGAL_TOPIC},
	} {
		s := r.stub(c.id)
		resp, err := s.QueryRoute(s.ctx(5*time.Second), &pb.QueryRouteRequest{Topic: resource(c.topic)})
		if err != nil || resp.GetStatus().GetCode() != c.want {
			t.Errorf("%s: %v, %v, want %v", c.topic, resp.GetStatus(), err, c.want)
		}
	}
}

// TestGroupTopicsAreNotMadeOnDemand: retry and dead-letter topics come with their group.
func TestGroupTopicsAreNotMadeOnDemand(t *testing.T) {
	s := newRig(t).stub("c1")
	for _, topic := range []string{"%RETRY%g", "%DLQ%g"} {
		resp, err := s.QueryRoute(s.ctx(5*time.Second), &pb.QueryRouteRequest{Topic: resource(topic)})
		if err != nil || resp.GetStatus().GetCode() != pb.Code_TOPIC_NOT_FOUND {
			t.Errorf("%s: %v, %v", topic, resp.GetStatus(), err)
		}
	}
}

func TestAssignment(t *testing.T) {
	r := newRig(t)
	r.topic("T", "NORMAL")
	r.topic("lite", "LITE")
	if err := r.broker.PutTopic(context.Background(), catalog.Topic{Name: "closed", ReadQueues: 1, WriteQueues: 1, Perm: catalog.PermWrite, TopicFilterType: "SINGLE_TAG"}, ""); err != nil {
		t.Fatal(err)
	}
	disabled := catalog.DefaultGroup("disabled")
	disabled.ConsumeEnable = false
	if err := r.broker.PutGroup(context.Background(), disabled, ""); err != nil {
		t.Fatal(err)
	}
	s := r.stub("c1")
	ask := func(topic, group string) *pb.QueryAssignmentResponse {
		t.Helper()
		resp, err := s.QueryAssignment(s.ctx(5*time.Second), &pb.QueryAssignmentRequest{Topic: resource(topic), Group: resource(group)})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	resp := ask("T", "g")
	if len(resp.GetAssignments()) != 1 || resp.GetAssignments()[0].GetMessageQueue().GetId() != -1 {
		t.Errorf("assignments %v, want one of all queues", resp)
	}
	for _, c := range []struct {
		topic, group string
		want         pb.Code
	}{
		{"closed", "g", pb.Code_FORBIDDEN}, {"T", "disabled", pb.Code_FORBIDDEN},
		{"lite", "g", pb.Code_UNSUPPORTED},
		{"T", "", pb.Code_ILLEGAL_CONSUMER_GROUP}, {"", "g", pb.Code_ILLEGAL_TOPIC},
	} {
		if got := ask(c.topic, c.group).GetStatus().GetCode(); got != c.want {
			t.Errorf("%s of %s: %v, want %v", c.topic, c.group, got, c.want)
		}
	}
}

func TestProducerSettings(t *testing.T) {
	r := newRig(t, func(o *broker.Options) { o.MaxMessageSize = 123456 })
	s := r.stub("p1")
	sent := producerSettings("T1", "T2")
	sent.UserAgent = &pb.UA{Language: pb.Language_GOLANG, Hostname: "laptop"}
	_, got, err := s.telemetry(sent)
	if err != nil {
		t.Fatal(err)
	}
	e := got.GetBackoffPolicy().GetExponentialBackoff()
	if got.GetBackoffPolicy().GetMaxAttempts() != 3 || e.GetInitial().AsDuration() != 10*time.Millisecond ||
		e.GetMax().AsDuration() != time.Second || e.GetMultiplier() != 2 {
		t.Errorf("back-off %v", got.GetBackoffPolicy())
	}
	if p := got.GetPublishing(); !p.GetValidateMessageType() || p.GetMaxBodySize() != 123456 || len(p.GetTopics()) != 2 {
		t.Errorf("publishing %v", p)
	}
	if got.GetMetric() == nil || got.GetMetric().GetOn() || got.GetUserAgent().GetHostname() != "laptop" {
		t.Errorf("settings %v", got)
	}
	for _, topic := range []string{"T1", "T2"} {
		ps := r.broker.Clients().Producers(topic)
		if len(ps) != 1 || ps[0].ID != "p1" || ps[0].Language != "GO" || ps[0].Protocol != "grpc" || ps[0].Address.Addr().String() != "127.0.0.1" {
			t.Errorf("producers of %s: %v", topic, ps)
		}
	}
}

func TestConsumerSettings(t *testing.T) {
	r := newRig(t)
	custom := catalog.DefaultGroup("custom")
	custom.RetryMaxTimes, custom.ConsumeMessageOrderly = 2, true
	custom.RetryPolicy = &catalog.RetryPolicy{Type: catalog.RetryExponential, Exponential: &catalog.ExponentialBackoff{Initial: 100, Max: 900, Multiplier: 3}}
	if err := r.broker.PutGroup(context.Background(), custom, ""); err != nil {
		t.Fatal(err)
	}
	_, got, err := r.stub("c1").telemetry(consumerSettings(pb.ClientType_PUSH_CONSUMER, "fresh", "T"))
	if err != nil {
		t.Fatal(err)
	}
	sub := got.GetSubscription()
	if sub.GetFifo() || sub.GetReceiveBatchSize() != 32 || sub.GetLongPollingTimeout().AsDuration() != 30*time.Second {
		t.Errorf("subscription %v", sub)
	}
	if p := got.GetBackoffPolicy(); p.GetMaxAttempts() != 17 || len(p.GetCustomizedBackoff().GetNext()) != 18 ||
		p.GetCustomizedBackoff().GetNext()[2].AsDuration() != 10*time.Second {
		t.Errorf("back-off %v", got.GetBackoffPolicy())
	}
	if _, err := r.broker.Group("fresh"); err != nil {
		t.Errorf("the group was not made: %v", err)
	}
	clients, info, ok := r.broker.Clients().Consumers("fresh")
	if !ok || len(clients) != 1 || info.ConsumeType != "CONSUME_PASSIVELY" || info.MessageModel != "CLUSTERING" ||
		len(info.Subscriptions) != 1 || info.Subscriptions[0].Topic != "T" {
		t.Errorf("consumers %v, %+v", clients, info)
	}
	_, got, err = r.stub("c2").telemetry(consumerSettings(pb.ClientType_SIMPLE_CONSUMER, "custom"))
	if err != nil {
		t.Fatal(err)
	}
	e := got.GetBackoffPolicy().GetExponentialBackoff()
	if !got.GetSubscription().GetFifo() || got.GetBackoffPolicy().GetMaxAttempts() != 3 || e.GetInitial().AsDuration() != 100*time.Millisecond ||
		e.GetMax().AsDuration() != 900*time.Millisecond || e.GetMultiplier() != 3 {
		t.Errorf("settings %v", got)
	}
	if _, info, _ := r.broker.Clients().Consumers("custom"); info.ConsumeType != "CONSUME_ACTIVELY" {
		t.Errorf("consume type %s", info.ConsumeType)
	}
}

func TestImpossibleSettings(t *testing.T) {
	r := newRig(t, noAutoCreate)
	for name, c := range map[string]struct {
		id       string
		settings *pb.Settings
		want     grpccodes.Code
		text     string
	}{
		"no client id":            {"", producerSettings("T"), grpccodes.InvalidArgument, "40017"},
		"neither":                 {"c", &pb.Settings{}, grpccodes.InvalidArgument, "40000"},
		"illegal topic":           {"c", producerSettings("a b"), grpccodes.InvalidArgument, "40002"},
		"illegal group":           {"c", consumerSettings(pb.ClientType_PUSH_CONSUMER, "a b"), grpccodes.InvalidArgument, "40003"},
		"illegal topic of a sub":  {"c", consumerSettings(pb.ClientType_PUSH_CONSUMER, "g", "a b"), grpccodes.InvalidArgument, "40002"},
		"group not made":          {"c", consumerSettings(pb.ClientType_PUSH_CONSUMER, "unknown"), grpccodes.InvalidArgument, "40403"},
		"lite push consumer":      {"c", consumerSettings(pb.ClientType_LITE_PUSH_CONSUMER, "g"), grpccodes.Unimplemented, "50500"},
		"lite simple consumer":    {"c", consumerSettings(pb.ClientType_LITE_SIMPLE_CONSUMER, "g"), grpccodes.Unimplemented, "50500"},
		"subscription of nothing": {"c", &pb.Settings{PubSub: &pb.Settings_Subscription{Subscription: &pb.Subscription{}}}, grpccodes.InvalidArgument, "40003"},
	} {
		_, _, err := r.stub(c.id).telemetry(c.settings)
		if status.Code(err) != c.want || !strings.Contains(fmt.Sprint(err), c.text) {
			t.Errorf("%s: %v, want %v with %s", name, err, c.want, c.text)
		}
	}
}

func TestHeartbeat(t *testing.T) {
	r := newRig(t)
	s := r.stub("c1")
	beat := func(kind pb.ClientType, group string) pb.Code {
		t.Helper()
		resp, err := s.Heartbeat(s.ctx(5*time.Second), &pb.HeartbeatRequest{ClientType: kind, Group: resource(group)})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetStatus().GetCode()
	}
	if got := beat(pb.ClientType_PUSH_CONSUMER, "g"); got != pb.Code_UNRECOGNIZED_CLIENT_TYPE {
		t.Errorf("before the settings: %v", got)
	}
	if _, _, err := s.telemetry(consumerSettings(pb.ClientType_PUSH_CONSUMER, "g", "T")); err != nil {
		t.Fatal(err)
	}
	r.broker.Clients().UnregisterConsumer("g", "c1")
	if got := beat(pb.ClientType_PUSH_CONSUMER, "g"); got != pb.Code_OK {
		t.Errorf("heartbeat: %v", got)
	}
	if ids := r.broker.Clients().ConsumerIDs("g"); fmt.Sprint(ids) != "[c1]" {
		t.Errorf("consumers %v", ids)
	}
	for kind, want := range map[pb.ClientType]pb.Code{
		pb.ClientType_CLIENT_TYPE_UNSPECIFIED: pb.Code_UNRECOGNIZED_CLIENT_TYPE, 77: pb.Code_UNRECOGNIZED_CLIENT_TYPE,
		pb.ClientType_PRODUCER: pb.Code_UNRECOGNIZED_CLIENT_TYPE, pb.ClientType_LITE_PUSH_CONSUMER: pb.Code_UNSUPPORTED,
	} {
		if got := beat(kind, "g"); got != want {
			t.Errorf("%v: %v, want %v", kind, got, want)
		}
	}
	if got := beat(pb.ClientType_PUSH_CONSUMER, "a b"); got != pb.Code_ILLEGAL_CONSUMER_GROUP {
		t.Errorf("illegal group: %v", got)
	}
}

func TestTermination(t *testing.T) {
	r := newRig(t)
	s := r.stub("c1")
	end := func(group string) pb.Code {
		t.Helper()
		resp, err := s.NotifyClientTermination(s.ctx(5*time.Second), &pb.NotifyClientTerminationRequest{Group: resource(group)})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetStatus().GetCode()
	}
	if got := end("g"); got != pb.Code_UNRECOGNIZED_CLIENT_TYPE {
		t.Errorf("unknown client: %v", got)
	}
	if _, _, err := s.telemetry(consumerSettings(pb.ClientType_PUSH_CONSUMER, "g", "T")); err != nil {
		t.Fatal(err)
	}
	if got := end(""); got != pb.Code_ILLEGAL_CONSUMER_GROUP {
		t.Errorf("no group: %v", got)
	}
	if got := end("g"); got != pb.Code_OK {
		t.Errorf("%v", got)
	}
	if ids := r.broker.Clients().ConsumerIDs("g"); len(ids) != 0 {
		t.Errorf("still there: %v", ids)
	}
	p := r.stub("p1")
	if _, _, err := p.telemetry(producerSettings("T1", "T2")); err != nil {
		t.Fatal(err)
	}
	resp, err := p.NotifyClientTermination(p.ctx(5*time.Second), &pb.NotifyClientTerminationRequest{Group: resource("")})
	if err != nil || resp.GetStatus().GetCode() != pb.Code_OK {
		t.Errorf("a producer: %v, %v", resp, err)
	}
	if groups := r.broker.Clients().ProducerGroups(); len(groups) != 0 {
		t.Errorf("producer groups %v", groups)
	}
}

func TestSend(t *testing.T) {
	r := newRig(t)
	s := r.stub("p1")
	one := s.send("T", "a")
	if len(one) != 1 || one[0].GetMessageId() != "id-a" || one[0].GetStatus().GetCode() != pb.Code_OK {
		t.Errorf("entries %v", one)
	}
	many := s.send("T", "b", "c", "d")
	if len(many) != 3 || many[2].GetMessageId() != "id-d" || many[2].GetOffset() != many[0].GetOffset()+2 {
		t.Errorf("entries %v", many)
	}
	buf := store.NewBuffer()
	defer buf.Release()
	ends, err := r.broker.QueryByUniqueID("T", "id-c", 0, time.Now().Add(time.Hour).UnixMilli(), 10, buf)
	if err != nil || len(ends) != 1 {
		t.Fatalf("found %d, %v", len(ends), err)
	}
	m, _, err := message.Decode(buf.B)
	if err != nil {
		t.Fatal(err)
	}
	p := message.DecodeProperties(m.Properties)
	if string(m.Body) != "c" || p["UNIQ_KEY"] != "id-c" || p["PGROUP"] != "T" || p["RECONSUME_TIME"] != "0" || p["__BORNHOST"] != "127.0.0.1" ||
		p["BORN_TIMESTAMP"] == "" || m.BornHost.Addr().String() != "127.0.0.1" {
		t.Errorf("stored %+v, %v", m, p)
	}
}

func TestSendRefusals(t *testing.T) {
	r := newRig(t, func(o *broker.Options) { o.MaxMessageSize, o.AutoCreateTopics = testMaxBody, false })
	for _, kind := range []string{"NORMAL", "FIFO", "DELAY", "TRANSACTION", "PRIORITY", "LITE", "MIXED"} {
		r.topic("T-"+kind, kind)
	}
	r.topic("T", "NORMAL")
	s := r.stub("p1")
	send := func(ms ...*pb.Message) *pb.SendMessageResponse {
		t.Helper()
		resp, err := s.SendMessage(s.ctx(10*time.Second), &pb.SendMessageRequest{Messages: ms})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	for _, c := range illegalMessages {
		if got := send(good(c.change)); got.GetStatus().GetCode() != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
		if c.want == pb.Code_OK {
			continue
		}
		if got := send(good(), good(c.change)); got.GetStatus().GetCode() != c.want || len(got.GetEntries()) > 0 {
			t.Errorf("%s behind a good one: %v, want %v", c.name, got, c.want)
		}
	}
	to := func(topic string) func(*pb.Message) { return func(m *pb.Message) { m.Topic = resource(topic) } }
	for name, c := range map[string]struct {
		change []func(*pb.Message)
		want   pb.Code
	}{
		"unknown topic":                 {[]func(*pb.Message){to("unknown")}, pb.Code_TOPIC_NOT_FOUND},
		"illegal topic":                 {[]func(*pb.Message){to("a b")}, pb.Code_ILLEGAL_TOPIC},
		"no topic":                      {[]func(*pb.Message){func(m *pb.Message) { m.Topic = nil }}, pb.Code_ILLEGAL_TOPIC},
		"system topic":                  {[]func(*pb.Message){to("RMQ_SYS_TRANS_HALF_TOPIC")}, pb.Code_ILLEGAL_TOPIC},
		"normal to a FIFO topic":        {[]func(*pb.Message){to("T-FIFO")}, pb.Code_MESSAGE_PROPERTY_CONFLICT_WITH_TYPE},
		"FIFO to a normal topic":        {[]func(*pb.Message){messageGroup("g")}, pb.Code_MESSAGE_PROPERTY_CONFLICT_WITH_TYPE},
		"delayed to a normal topic":     {[]func(*pb.Message){deliverIn(time.Minute)}, pb.Code_MESSAGE_PROPERTY_CONFLICT_WITH_TYPE},
		"transaction to a normal topic": {[]func(*pb.Message){transaction}, pb.Code_MESSAGE_PROPERTY_CONFLICT_WITH_TYPE},
		"delayed transaction to a topic of transactions": {[]func(*pb.Message){to("T-TRANSACTION"), delayedTransaction(time.Minute)},
			pb.Code_MESSAGE_PROPERTY_CONFLICT_WITH_TYPE},
		"delayed to a topic of transactions":     {[]func(*pb.Message){to("T-TRANSACTION"), deliverIn(time.Minute)}, pb.Code_MESSAGE_PROPERTY_CONFLICT_WITH_TYPE},
		"delayed by more than the longest delay": {[]func(*pb.Message){to("T-DELAY"), deliverIn(366 * 24 * time.Hour)}, pb.Code_ILLEGAL_DELIVERY_TIME},
		"transaction delayed by more than the longest delay": {[]func(*pb.Message){to("T-MIXED"), delayedTransaction(366 * 24 * time.Hour)},
			pb.Code_ILLEGAL_DELIVERY_TIME},
		"priority": {[]func(*pb.Message){to("T-PRIORITY"), system(func(s *pb.SystemProperties) {
			s.Priority, s.MessageType = proto.Int32(1), pb.MessageType_PRIORITY
		})}, pb.Code_UNSUPPORTED},
		"lite": {[]func(*pb.Message){to("T-LITE"), system(func(s *pb.SystemProperties) {
			s.LiteTopic, s.MessageType = proto.String("l"), pb.MessageType_LITE
		})}, pb.Code_UNSUPPORTED},
	} {
		if got := send(good(c.change...)); got.GetStatus().GetCode() != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if got := send(good(), good(to("T-NORMAL"))); got.GetStatus().GetCode() != pb.Code_MESSAGE_CORRUPTED {
		t.Errorf("two topics: %v", got)
	}
	if got := send(); got.GetStatus().GetCode() != pb.Code_MESSAGE_CORRUPTED {
		t.Errorf("no message: %v", got)
	}
	for name, change := range map[string]func(*pb.Message){"delayed": deliverIn(time.Minute), "transactions": transaction} {
		if got := send(good(to("T-MIXED"), change), good(to("T-MIXED"), change)); got.GetStatus().GetCode() != pb.Code_BAD_REQUEST {
			t.Errorf("two %s in one request: %v", name, got)
		}
	}
	nobody := r.stub("")
	resp, err := nobody.SendMessage(nobody.ctx(time.Second), &pb.SendMessageRequest{Messages: []*pb.Message{good()}})
	if err != nil || resp.GetStatus().GetCode() != pb.Code_CLIENT_ID_REQUIRED {
		t.Errorf("no client id: %v, %v", resp, err)
	}
}

func TestSendMakesTopics(t *testing.T) {
	r := newRig(t)
	r.stub("p1").send("fresh", "a")
	if topic, err := r.broker.Topic("fresh"); err != nil || topic.WriteQueues != 4 {
		t.Errorf("%v, %v", topic, err)
	}
}

// TestNotImplemented: the table of rpcs says what they answer.
func TestNotImplemented(t *testing.T) {
	r := newRig(t)
	r.topic("T", "NORMAL")
	answers := func(s *stub, topic, group string) map[string]*pb.Status {
		t.Helper()
		ctx := s.ctx(10 * time.Second)
		lite, err := s.SyncLiteSubscription(ctx, &pb.SyncLiteSubscriptionRequest{Topic: resource(topic), Group: resource(group)})
		if err != nil {
			t.Fatal(err)
		}
		return map[string]*pb.Status{rpcSyncLite: lite.GetStatus()}
	}
	got := answers(r.stub("c1"), "T", "g")
	rpcs := Rpcs()
	if len(rpcs) != 17 {
		t.Errorf("%d rpcs", len(rpcs))
	}
	for _, rpc := range rpcs {
		s := got[rpc.Name]
		if rpc.Served != (s == nil) {
			t.Errorf("%s: served %v, answers %v", rpc.Name, rpc.Served, s)
		}
		if !rpc.Served && (s.GetCode() != pb.Code_NOT_IMPLEMENTED || s.GetMessage() == "" || s.GetMessage() != rpc.Note) {
			t.Errorf("%s: %v, the table says %q", rpc.Name, s, rpc.Note)
		}
		delete(got, rpc.Name)
	}
	if len(got) > 0 {
		t.Errorf("not in the table: %v", got)
	}
	for name, s := range answers(r.stub("c1"), "a b", "g") {
		if s.GetCode() != pb.Code_ILLEGAL_TOPIC {
			t.Errorf("%s with an illegal topic: %v", name, s)
		}
	}
	for name, s := range answers(r.stub(""), "T", "g") {
		if s.GetCode() != pb.Code_CLIENT_ID_REQUIRED {
			t.Errorf("%s without client id: %v", name, s)
		}
	}
}

func TestNotesNameRpcs(t *testing.T) {
	known := map[string]bool{}
	for _, rpc := range Rpcs() {
		known[rpc.Name] = true
	}
	for _, notes := range []map[string]string{notes, notImplemented} {
		for name := range notes {
			if !known[name] {
				t.Errorf("a note on %s, which is no rpc", name)
			}
		}
	}
}

func TestOffsets(t *testing.T) {
	r := newRig(t)
	r.topic("T", "NORMAL")
	s := r.stub("c1")
	first := s.send("T", "a", "b", "c")[0].GetOffset()
	var queue *pb.MessageQueue
	for id := range int32(4) {
		if n, err := r.broker.MaxOffset("T", id); err != nil {
			t.Fatal(err)
		} else if n == 3 {
			queue = &pb.MessageQueue{Topic: resource("T"), Id: id}
		}
	}
	if first != 0 || queue == nil {
		t.Fatalf("the messages are at %d of %v", first, queue)
	}
	query := func(p pb.QueryOffsetPolicy, at *timestamppb.Timestamp) *pb.QueryOffsetResponse {
		t.Helper()
		resp, err := s.QueryOffset(s.ctx(5*time.Second), &pb.QueryOffsetRequest{MessageQueue: queue, QueryOffsetPolicy: p, Timestamp: at})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	for _, c := range []struct {
		got  *pb.QueryOffsetResponse
		code pb.Code
		want int64
	}{
		{query(pb.QueryOffsetPolicy_BEGINNING, nil), pb.Code_OK, 0},
		{query(pb.QueryOffsetPolicy_END, nil), pb.Code_OK, 3},
		{query(pb.QueryOffsetPolicy_TIMESTAMP, timestamppb.New(time.Now().Add(-time.Hour))), pb.Code_OK, 0},
		{query(pb.QueryOffsetPolicy_TIMESTAMP, timestamppb.New(time.Now().Add(time.Hour))), pb.Code_OK, 3},
		{query(pb.QueryOffsetPolicy_TIMESTAMP, nil), pb.Code_BAD_REQUEST, 0},
		{query(99, nil), pb.Code_BAD_REQUEST, 0},
	} {
		if c.got.GetStatus().GetCode() != c.code || c.got.GetOffset() != c.want {
			t.Errorf("%v, want %v %d", c.got, c.code, c.want)
		}
	}
	get := func() *pb.GetOffsetResponse {
		t.Helper()
		resp, err := s.GetOffset(s.ctx(5*time.Second), &pb.GetOffsetRequest{Group: resource("g"), MessageQueue: queue})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	if got := get(); got.GetStatus().GetCode() != pb.Code_OFFSET_NOT_FOUND {
		t.Errorf("unknown group: %v", got)
	}
	update := func(offset int64) pb.Code {
		t.Helper()
		resp, err := s.UpdateOffset(s.ctx(5*time.Second), &pb.UpdateOffsetRequest{Group: resource("g"), MessageQueue: queue, Offset: offset})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetStatus().GetCode()
	}
	if got := update(-1); got != pb.Code_ILLEGAL_OFFSET {
		t.Errorf("negative offset: %v", got)
	}
	if got := get(); got.GetStatus().GetCode() != pb.Code_OFFSET_NOT_FOUND {
		t.Errorf("nothing committed: %v", got)
	}
	if got := update(2); got != pb.Code_OK {
		t.Errorf("update: %v", got)
	}
	if got := get(); got.GetStatus().GetCode() != pb.Code_OK || got.GetOffset() != 2 {
		t.Errorf("get: %v", got)
	}
}

func TestPull(t *testing.T) {
	r := newRig(t)
	r.topic("T", "NORMAL")
	s := r.stub("c1")
	s.send("T", "a", "b", "c")
	queue := &pb.MessageQueue{Topic: resource("T")}
	for id := range int32(4) {
		if n, _ := r.broker.MaxOffset("T", id); n == 3 {
			queue.Id = id
		}
	}
	pull := func(change func(*pb.PullMessageRequest)) (st pb.Code, bodies string, next int64) {
		t.Helper()
		req := &pb.PullMessageRequest{Group: resource("g"), MessageQueue: queue, BatchSize: 32, FilterExpression: &pb.FilterExpression{Expression: "*"}}
		change(req)
		stream, err := s.PullMessage(s.ctx(10*time.Second), req)
		if err != nil {
			t.Fatal(err)
		}
		next = -1
		for {
			resp, err := stream.Recv()
			if err != nil {
				return st, bodies, next
			}
			switch c := resp.GetContent().(type) {
			case *pb.PullMessageResponse_Status:
				st = c.Status.GetCode()
			case *pb.PullMessageResponse_Message:
				bodies += string(c.Message.GetBody())
				if c.Message.GetSystemProperties().ReceiptHandle != nil || c.Message.GetSystemProperties().GetDeliveryAttempt() != 1 {
					t.Errorf("pulled %v", c.Message)
				}
			case *pb.PullMessageResponse_NextOffset:
				next = c.NextOffset
			}
		}
	}
	for name, c := range map[string]struct {
		change func(*pb.PullMessageRequest)
		st     pb.Code
		bodies string
		next   int64
	}{
		"from the beginning": {func(*pb.PullMessageRequest) {}, pb.Code_OK, "abc", 3},
		"two":                {func(r *pb.PullMessageRequest) { r.BatchSize = 2 }, pb.Code_OK, "ab", 2},
		"from the middle":    {func(r *pb.PullMessageRequest) { r.Offset = 1 }, pb.Code_OK, "bc", 3},
		"at the end":         {func(r *pb.PullMessageRequest) { r.Offset = 3 }, pb.Code_MESSAGE_NOT_FOUND, "", 3},
		"beyond":             {func(r *pb.PullMessageRequest) { r.Offset = 99 }, pb.Code_ILLEGAL_OFFSET, "", 3},
		"negative":           {func(r *pb.PullMessageRequest) { r.Offset = -1 }, pb.Code_ILLEGAL_OFFSET, "", -1},
		"unknown queue": {func(r *pb.PullMessageRequest) {
			r.MessageQueue = &pb.MessageQueue{Topic: resource("T"), Id: 99}
		}, pb.Code_BAD_REQUEST, "", -1},
		"SQL": {func(r *pb.PullMessageRequest) {
			r.FilterExpression = &pb.FilterExpression{Type: pb.FilterType_SQL, Expression: "KEYS IS NULL AND TAGS = 'tag' OR TRUE"}
		}, pb.Code_OK, "abc", 3},
		"SQL that nothing matches": {func(r *pb.PullMessageRequest) {
			r.FilterExpression = &pb.FilterExpression{Type: pb.FilterType_SQL, Expression: "nothing = 'x'"}
		}, pb.Code_MESSAGE_NOT_FOUND, "", 3},
		"no SQL": {func(r *pb.PullMessageRequest) { r.FilterExpression.Type = pb.FilterType_SQL }, pb.Code_ILLEGAL_FILTER_EXPRESSION, "", -1},
	} {
		st, bodies, next := pull(c.change)
		if st != c.st || bodies != c.bodies || next != c.next {
			t.Errorf("%s: %v %q %d, want %v %q %d", name, st, bodies, next, c.st, c.bodies, c.next)
		}
	}
	// A pull that waits gets what comes.
	got := make(chan string, 1)
	go func() {
		_, bodies, _ := pull(func(r *pb.PullMessageRequest) { r.Offset, r.LongPollingTimeout = 3, durationpb.New(8*time.Second) })
		got <- bodies
	}()
	began := time.Now()
	for len(got) == 0 && time.Since(began) < 8*time.Second { // it may go to any queue
		s.send("T", "d")
		if n, _ := r.broker.MaxOffset("T", queue.Id); n > 3 {
			break
		}
	}
	if bodies := <-got; bodies != "d" {
		t.Errorf("a pull that waited got %q", bodies)
	}
}

func TestHealthAndReflection(t *testing.T) {
	s := newRig(t).stub("c1")
	h, err := healthpb.NewHealthClient(s.conn).Check(s.ctx(5*time.Second), &healthpb.HealthCheckRequest{})
	if err != nil || h.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", h, err)
	}
	stream, err := reflectionpb.NewServerReflectionClient(s.conn).ServerReflectionInfo(s.ctx(5 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil || !strings.Contains(resp.String(), "apache.rocketmq.v2.MessagingService") {
		t.Errorf("reflection: %v, %v", resp, err)
	}
}

// TestUnknownMethod is the one case in which gRPC itself refuses.
func TestUnknownMethod(t *testing.T) {
	s := newRig(t).stub("c1")
	err := s.conn.Invoke(s.ctx(5*time.Second), "/apache.rocketmq.v2.MessagingService/Nonsense", &pb.HeartbeatRequest{}, &pb.HeartbeatResponse{}, grpc.WaitForReady(true))
	if status.Code(err) != grpccodes.Unimplemented {
		t.Errorf("%v", err)
	}
}

// TestSendsThatComeTogether: calls of one connection are answered each for itself, whatever they are stored with.
func TestSendsThatComeTogether(t *testing.T) {
	r := newRig(t)
	r.topic("T", "NORMAL")
	r.topic("D", "DELAY")
	s := r.stub("p")
	message := func(topic, id string) *pb.SendMessageRequest {
		return &pb.SendMessageRequest{Messages: []*pb.Message{{Topic: resource(topic), Body: []byte(id),
			SystemProperties: &pb.SystemProperties{MessageId: id, MessageType: pb.MessageType_NORMAL}}}}
	}
	const each = 3 * maxSends
	var all sync.WaitGroup
	for i := range each {
		for topic, want := range map[string]pb.Code{"T": pb.Code_OK, "D": pb.Code_MESSAGE_PROPERTY_CONFLICT_WITH_TYPE, "a b": pb.Code_ILLEGAL_TOPIC, "made": pb.Code_OK} {
			all.Go(func() {
				id := fmt.Sprint(topic, "-", i)
				resp, err := s.SendMessage(s.ctx(20*time.Second), message(topic, id))
				if err != nil || resp.GetStatus().GetCode() != want {
					t.Errorf("%s: %v, %v, want %v", id, resp, err, want)
				} else if want == pb.Code_OK && (len(resp.GetEntries()) != 1 || resp.Entries[0].GetMessageId() != id) {
					t.Errorf("%s: %v", id, resp)
				}
			})
		}
	}
	all.Wait()
	for _, topic := range []string{"T", "made"} {
		there := map[string]bool{}
		for len(there) < each {
			got, err := s.receive(s.ctx(10*time.Second), receiveRequest(topic, "g", time.Minute))
			if err != nil || len(got.messages) == 0 {
				t.Fatalf("%s: %d messages, then %v, %v", topic, len(there), got.status, err)
			}
			for _, m := range got.messages {
				if id := m.GetSystemProperties().GetMessageId(); id != string(m.GetBody()) || there[id] {
					t.Errorf("%s: message %s has the body %s, or is there twice", topic, id, m.GetBody())
				}
				there[m.GetSystemProperties().GetMessageId()] = true
			}
		}
	}
}
