package grpc

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"

	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/server/grpc/adminpb"
)

// admin calls an rpc of the Admin service. It sends no client id: tools have none.
func (s *stub) admin(name string, req, resp proto.Message) {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := s.conn.Invoke(ctx, "/apache.rocketmq.v2.Admin/"+name, req, resp); err != nil {
		s.Fatalf("%s: %v", name, err)
	}
}

// refused calls an rpc and wants it to be answered with a code.
func (s *stub) refused(name string, req proto.Message, resp interface {
	proto.Message
	GetStatus() *pb.Status
}, want pb.Code) {
	s.Helper()
	proto.Reset(resp)
	s.admin(name, req, resp)
	if got := resp.GetStatus(); got.GetCode() != want {
		s.Errorf("%s(%v): %v, want %v", name, req, got, want)
	}
}

// TestAdminServesTheWholeService holds what is registered against the declaration.
func TestAdminServesTheWholeService(t *testing.T) {
	declared := adminpb.File_server_grpc_adminpb_admin_proto.Services().ByName("Admin").Methods()
	var want, got []string
	for i := range declared.Len() {
		want = append(want, string(declared.Get(i).Name()))
	}
	for _, r := range AdminRpcs() {
		got = append(got, r.Name)
		if !r.Served || r.Note == "" {
			t.Errorf("%+v", r)
		}
	}
	if !slices.Equal(got, want) || len(want) != 16 {
		t.Errorf("served %q, declared %q", got, want)
	}
	if n := len(adminNotes); n != len(want) {
		t.Errorf("%d notes", n)
	}
	if fd := protodesc.ToFileDescriptorProto(adminpb.File_server_grpc_adminpb_admin_proto); fd.GetPackage() == "apache.rocketmq.v2" {
		t.Error("the messages have the names that a later release of the official package brings")
	}
}

func TestDescribeGroupAccumulation(t *testing.T) {
	r := newRig(t)
	r.topic("t", "NORMAL")
	r.topic("u", "NORMAL")
	s := r.stub("c")
	pop := func(topic string) []*pb.Message {
		t.Helper()
		got, err := s.receive(s.ctx(10*time.Second), receiveRequest(topic, "g", time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		return got.messages
	}
	s.send("t", "a", "b", "c")
	s.send("u", "d")
	held := pop("t")
	for len(held) < 3 {
		held = append(held, pop("t")...)
	}
	if n := len(pop("u")); n != 1 {
		t.Fatalf("%d messages", n)
	}
	s.ack("t", "g", held[0].GetSystemProperties().GetReceiptHandle())
	s.send("t", "e", "f")
	check := func(what string, got *adminpb.DescribeGroupAccumulationResponse_GroupAccumulation, inFlight, ready int64) {
		t.Helper()
		if got.GetInflightMessages() != inFlight || got.GetReadyMessages() != ready || got.GetAccumulation() != inFlight+ready {
			t.Errorf("%s: %v, want %d in flight and %d ready", what, got, inFlight, ready)
		}
	}
	resp := &adminpb.DescribeGroupAccumulationResponse{}
	s.admin("DescribeGroupAccumulation", &adminpb.DescribeGroupAccumulationRequest{
		DeploymentName: proto.String("any"), Group: resource("g"), Topics: []*pb.Resource{resource("t")},
	}, resp)
	if resp.GetStatus().GetCode() != pb.Code_OK || len(resp.GetTopicAccumulation()) != 1 {
		t.Fatal(resp)
	}
	check("all", resp.GetAccumulation(), 3, 2)
	one := resp.GetTopicAccumulation()["t"]
	check("t", one, 2, 2)
	if now := time.Now().UnixMilli(); one.GetLastConsumeTimestamp() == 0 || one.GetLastConsumeTimestamp() > now {
		t.Errorf("the last settled message was stored at %d", one.GetLastConsumeTimestamp())
	}
	if wait := one.GetDeliverDelayTime().AsDuration(); wait < 0 || wait > time.Minute {
		t.Errorf("the first that nobody was handed is there for %s", wait)
	}
	for _, c := range []struct {
		group, topic string
		lite         *string
		want         pb.Code
	}{
		{"none", "", nil, pb.Code_CONSUMER_GROUP_NOT_FOUND}, {"", "", nil, pb.Code_ILLEGAL_CONSUMER_GROUP},
		{"g", "none", nil, pb.Code_TOPIC_NOT_FOUND}, {"g", "t", proto.String("lite"), pb.Code_UNSUPPORTED},
	} {
		req := &adminpb.DescribeGroupAccumulationRequest{Group: resource(c.group), LiteTopic: c.lite}
		if c.topic != "" {
			req.Topics = []*pb.Resource{resource(c.topic)}
		}
		s.refused("DescribeGroupAccumulation", req, resp, c.want)
		if resp.GetAccumulation() != nil {
			t.Errorf("a refusal with %v", resp)
		}
	}
}

func TestAdminRefusesWhatIsNoMessage(t *testing.T) {
	r := newRig(t)
	s := r.stub("c")
	err := s.conn.Invoke(s.ctx(10*time.Second), "/apache.rocketmq.v2.Admin/NoSuchThing", &pb.Resource{}, &pb.Resource{})
	if status.Code(err) != grpccodes.Unimplemented {
		t.Errorf("what is not there: %v", err)
	}
	broken := &pb.Resource{} // field 2 of the request is a message, here it is a string that is none
	broken.Name = "\x7f"
	err = s.conn.Invoke(s.ctx(10*time.Second), "/apache.rocketmq.v2.Admin/DescribeTopicStatus", broken, &pb.Resource{})
	if status.Code(err) != grpccodes.Internal {
		t.Errorf("a broken request: %v", err)
	}
}

func TestChangeLogLevel(t *testing.T) {
	r := newRig(t)
	s := r.stub("c")
	before := zerolog.GlobalLevel()
	t.Cleanup(func() { zerolog.SetGlobalLevel(before) })
	resp := &pb.ChangeLogLevelResponse{}
	for level, want := range map[pb.ChangeLogLevelRequest_Level]zerolog.Level{
		pb.ChangeLogLevelRequest_TRACE: zerolog.TraceLevel, pb.ChangeLogLevelRequest_DEBUG: zerolog.DebugLevel,
		pb.ChangeLogLevelRequest_WARN: zerolog.WarnLevel, pb.ChangeLogLevelRequest_ERROR: zerolog.ErrorLevel,
	} {
		s.admin("ChangeLogLevel", &pb.ChangeLogLevelRequest{Level: level}, resp)
		if zerolog.GlobalLevel() != want || !strings.Contains(resp.GetRemark(), want.String()) {
			t.Errorf("%v: the level is %v; %q", level, zerolog.GlobalLevel(), resp.GetRemark())
		}
	}
	is := zerolog.GlobalLevel()
	err := s.conn.Invoke(s.ctx(10*time.Second), "/apache.rocketmq.v2.Admin/ChangeLogLevel", &pb.ChangeLogLevelRequest{Level: 9}, resp)
	if status.Code(err) != grpccodes.InvalidArgument || zerolog.GlobalLevel() != is {
		t.Errorf("a level that is none: %v, the level is %v", err, zerolog.GlobalLevel())
	}
}

func TestDescribeTopicStatus(t *testing.T) {
	r := newRig(t)
	began := time.Now().Add(-time.Second)
	r.topic("fifo", "FIFO")
	r.topic("mixed", "MIXED")
	s, resp := r.stub("c"), &adminpb.DescribeTopicStatusResponse{}
	s.admin("DescribeTopicStatus", &adminpb.DescribeTopicStatusRequest{Topic: resource("fifo")}, resp)
	if resp.GetStatus().GetCode() != pb.Code_OK || resp.GetTopicMessageType() != pb.MessageType_FIFO ||
		!reflect.DeepEqual(resp.GetTags(), map[string]string{"message.type": "FIFO"}) {
		t.Error(resp)
	}
	if at := resp.GetCreateTimestamp().AsTime(); at.Before(began) || at.After(time.Now()) {
		t.Errorf("it was made at %s", at)
	}
	s.refused("DescribeTopicStatus", &adminpb.DescribeTopicStatusRequest{Topic: resource("mixed")}, resp, pb.Code_OK)
	if resp.GetTopicMessageType() != pb.MessageType_MESSAGE_TYPE_UNSPECIFIED {
		t.Error(resp)
	}
	s.refused("DescribeTopicStatus", &adminpb.DescribeTopicStatusRequest{Topic: resource("none")}, resp, pb.Code_TOPIC_NOT_FOUND)
	s.refused("DescribeTopicStatus", &adminpb.DescribeTopicStatusRequest{}, resp, pb.Code_ILLEGAL_TOPIC)
}

func TestGetTopicRoute(t *testing.T) {
	r := newRig(t)
	r.topic("t", "NORMAL")
	if err := r.broker.PutKV(context.Background(), "ORDER_TOPIC_CONFIG", "t", "broker-a:4"); err != nil {
		t.Fatal(err)
	}
	s, resp := r.stub("c"), &adminpb.GetTopicRouteResponse{}
	for protocol, addr := range map[string]string{"": "127.0.0.1:10911", "remoting": "127.0.0.1:10911", "GRPC": "192.0.2.7:8081"} {
		s.refused("GetTopicRoute", &adminpb.GetTopicRouteRequest{Topic: resource("t"), ProtocolType: protocol}, resp, pb.Code_OK)
		var route body.TopicRoute
		if err := json.Unmarshal([]byte(resp.GetTopicRouteData()), &route); err != nil {
			t.Fatal(err)
		}
		if len(route.BrokerDatas) != 1 || route.BrokerDatas[0].BrokerAddrs[0] != addr || route.BrokerDatas[0].Cluster != "DefaultCluster" ||
			len(route.QueueDatas) != 1 || route.QueueDatas[0].ReadQueueNums != 4 || route.OrderTopicConf != "broker-a:4" {
			t.Errorf("%q: %+v", protocol, route)
		}
	}
	s.refused("GetTopicRoute", &adminpb.GetTopicRouteRequest{Topic: resource("none")}, resp, pb.Code_TOPIC_NOT_FOUND)
	s.refused("GetTopicRoute", &adminpb.GetTopicRouteRequest{Topic: resource("t"), ProtocolType: "smtp"}, resp, pb.Code_BAD_REQUEST)
}

func TestGetProxyRuntimeStats(t *testing.T) {
	r := newRig(t)
	r.topic("t", "NORMAL")
	p, c := r.stub("p"), r.stub("c")
	if _, _, err := p.telemetry(producerSettings("t")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.telemetry(consumerSettings(pb.ClientType_SIMPLE_CONSUMER, "g", "t")); err != nil {
		t.Fatal(err)
	}
	p.send("t", "a", "b", "c")
	resp := &adminpb.GetProxyRuntimeStatsResponse{}
	c.admin("GetProxyRuntimeStats", &adminpb.GetProxyRuntimeStatsRequest{}, resp)
	if resp.GetStatus().GetCode() != pb.Code_OK || resp.GetProxyName() != "broker-a" || resp.GetInTps() <= 0 || resp.GetOutTps() != 0 ||
		resp.GetConnections() != 2 || resp.GetProducers() != 1 || resp.GetConsumers() != 1 {
		t.Error(resp)
	}
}

func TestAdminSendMessage(t *testing.T) {
	r := newRig(t)
	r.topic("t", "NORMAL")
	s, resp := r.stub("c"), &adminpb.AdminSendMessageResponse{}
	s.refused("AdminSendMessage", &adminpb.AdminSendMessageRequest{
		Topic: resource("t"), Tag: proto.String("tag"), Key: proto.String("key"), Body: []byte("hello"), UserProperties: map[string]string{"a": "b"},
		ExtInfo: map[string]string{"protocol_type": "GRPC_V2"},
	}, resp, pb.Code_OK)
	id := resp.GetMessageId()
	got, err := s.receive(s.ctx(10*time.Second), receiveRequest("t", "g", time.Minute))
	if err != nil || len(got.messages) != 1 {
		t.Fatalf("%v, %v", got, err)
	}
	m := got.messages[0]
	if p := m.GetSystemProperties(); string(m.GetBody()) != "hello" || p.GetTag() != "tag" || !slices.Equal(p.GetKeys(), []string{"key"}) ||
		p.GetMessageId() != id || id == "" || m.GetUserProperties()["a"] != "b" {
		t.Error(m)
	}
	for want, req := range map[pb.Code]*adminpb.AdminSendMessageRequest{
		pb.Code_MESSAGE_BODY_EMPTY: {Topic: resource("t")},
		pb.Code_ILLEGAL_TOPIC:      {Topic: resource("TBW102"), Body: []byte("x")},
		pb.Code_UNSUPPORTED: {Topic: resource("t"), Body: []byte("x"), SystemProperties: &pb.SystemProperties{
			MessageType: pb.MessageType_TRANSACTION,
		}},
		pb.Code_MESSAGE_PROPERTY_CONFLICT_WITH_TYPE: {Topic: resource("t"), Body: []byte("x"), SystemProperties: &pb.SystemProperties{
			MessageGroup: proto.String("in order"),
		}},
	} {
		s.refused("AdminSendMessage", req, resp, want)
	}
}

func TestReleaseOf(t *testing.T) {
	// As the reference's own list has them.
	for ordinal, want := range map[int32]string{
		213: "4.0.0", 214: "4.0.1-SNAPSHOT", 215: "4.0.1", 233: "4.1.0", 401: "4.9.4", 409: "4.9.8", 413: "5.0.0", 475: "5.3.1", 513: "5.5.0", 79: "ordinal 79", -1: "ordinal -1",
	} {
		if got := releaseOf(ordinal); got != want {
			t.Errorf("%d: %s, want %s", ordinal, got, want)
		}
	}
}

// TestAdminGoesThroughInterceptors: whoever guards the door guards this service too.
func TestAdminGoesThroughInterceptors(t *testing.T) {
	r := newRig(t)
	var called string
	guard := func(_ context.Context, _ any, info *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
		called = info.FullMethod
		return nil, errors.New("no")
	}
	for _, m := range adminService.Methods {
		if _, err := m.Handler(r.door, context.Background(), func(any) error { return nil }, guard); err == nil || called != "/apache.rocketmq.v2.Admin/"+m.MethodName {
			t.Errorf("%s: %v, the guard saw %s", m.MethodName, err, called)
		}
	}
}
