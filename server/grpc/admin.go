package grpc

import (
	"context"
	"strings"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/server/grpc/adminpb"
)

// adminName is the protocol's name of the Admin service.
const adminName = "apache.rocketmq.v2.Admin"

// adminService is the protocol's Admin. A deployment that a request names is passed over: here is one. Calls need no client id.
var adminService = grpc.ServiceDesc{
	ServiceName: adminName,
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{
		adminRPC("ChangeLogLevel", (*Door).changeLogLevel),
		adminRPC("DescribeTopicStatus", (*Door).describeTopicStatus),
		adminRPC("ListSubscription", (*Door).listSubscription),
		adminRPC("DescribeSubscription", (*Door).describeSubscription),
		adminRPC("DeleteSubscription", (*Door).deleteSubscription),
		adminRPC("DescribeGroupAccumulation", (*Door).describeGroupAccumulation),
		adminRPC("ListConsumerConnection", (*Door).listConsumerConnection),
		adminRPC("ResetGroupOffset", (*Door).resetGroupOffset),
		adminRPC("QueryMessage", (*Door).queryMessage),
		adminRPC("PrintThreadStackTrace", (*Door).printThreadStackTrace),
		adminRPC("VerifyMessage", (*Door).verifyMessage),
		adminRPC("AdminSendMessage", (*Door).adminSendMessage),
		adminRPC("GetConsumerRunningInfo", (*Door).getConsumerRunningInfo),
		adminRPC("GetTopicRoute", (*Door).getTopicRoute),
		adminRPC("QueryTimeSpan", (*Door).queryTimeSpan),
		adminRPC("GetProxyRuntimeStats", (*Door).getProxyRuntimeStats),
	},
	Metadata: adminpb.File_server_grpc_adminpb_admin_proto.Path(),
}

// pointer is a pointer to a message.
type pointer[T any] interface {
	*T
	proto.Message
}

// adminRPC describes an rpc that serve answers; a failure becomes the status of an otherwise empty response.
func adminRPC[Q, R any, PQ pointer[Q], PR pointer[R]](name string, serve func(*Door, context.Context, PQ, PR) error) grpc.MethodDesc {
	answer := func(ctx context.Context, d *Door, req PQ) (any, error) {
		resp := PR(new(R))
		err := serve(d, ctx, req, resp)
		if err != nil {
			resp = PR(new(R))
		}
		m := resp.ProtoReflect()
		field := m.Descriptor().Fields().ByName("status")
		if field == nil {
			if err != nil {
				return nil, status.Error(grpccodes.InvalidArgument, err.Error())
			}
			return resp, nil
		}
		m.Set(field, protoreflect.ValueOfMessage(d.statusOf(name, err).ProtoReflect()))
		return resp, nil
	}
	return grpc.MethodDesc{MethodName: name, Handler: func(srv any, ctx context.Context, read func(any) error, around grpc.UnaryServerInterceptor) (any, error) {
		req, d := PQ(new(Q)), srv.(*Door)
		if err := read(req); err != nil {
			return nil, err
		}
		if around == nil {
			return answer(ctx, d, req)
		}
		info := &grpc.UnaryServerInfo{Server: srv, FullMethod: "/" + adminName + "/" + name}
		return around(ctx, req, info, func(ctx context.Context, req any) (any, error) { return answer(ctx, d, req.(PQ)) })
	}}
}

// logLevels are the protocol's levels in its order.
var logLevels = [...]zerolog.Level{zerolog.TraceLevel, zerolog.DebugLevel, zerolog.InfoLevel, zerolog.WarnLevel, zerolog.ErrorLevel}

// changeLogLevel changes the level of the whole process until it is changed again or the process ends.
func (d *Door) changeLogLevel(_ context.Context, req *pb.ChangeLogLevelRequest, resp *pb.ChangeLogLevelResponse) error {
	if n := int(req.GetLevel()); n < 0 || n >= len(logLevels) {
		return refuse(pb.Code_BAD_REQUEST, "level %d is not known", n)
	}
	was, is := zerolog.GlobalLevel(), logLevels[req.GetLevel()]
	zerolog.SetGlobalLevel(is)
	resp.Remark = "the log level is " + is.String() + ", it was " + was.String()
	d.log.WithLevel(is).Stringer("level", is).Stringer("was", was).Msg("the log level was changed")
	return nil
}

// anyTopic answers a topic of any kind, the system's own included.
func (d *Door) anyTopic(r *pb.Resource) (*catalog.Topic, error) {
	name := nameOf(r)
	if err := catalog.ValidateTopicName(name); err != nil {
		return nil, refuse(pb.Code_ILLEGAL_TOPIC, "%s", err)
	}
	return d.broker.Topic(name)
}

// describeTopicStatus answers UNSPECIFIED for the type of a topic that takes several.
func (d *Door) describeTopicStatus(_ context.Context, req *adminpb.DescribeTopicStatusRequest, resp *adminpb.DescribeTopicStatusResponse) error {
	t, err := d.anyTopic(req.GetTopic())
	if err != nil {
		return err
	}
	if kinds := acceptTypes[t.MessageType()]; len(kinds) == 1 {
		resp.TopicMessageType = kinds[0]
	}
	resp.Tags = t.Attributes
	if t.Created > 0 {
		resp.CreateTimestamp = atMilli(t.Created)
	}
	return nil
}

func atMilli(ms int64) *timestamppb.Timestamp {
	return &timestamppb.Timestamp{Seconds: ms / 1000, Nanos: int32(ms % 1000 * 1e6)}
}

// getTopicRoute answers the route as Remoting clients get it from a name server, with this broker's address for the protocol
// that the request names. Which network a client is in makes no difference.
func (d *Door) getTopicRoute(_ context.Context, req *adminpb.GetTopicRouteRequest, resp *adminpb.GetTopicRouteResponse) error {
	addr := d.opts.Advertise
	switch strings.ToLower(req.GetProtocolType()) {
	case "", "remoting":
	case "grpc", "grpc_v2":
		addr = d.opts.AdvertiseGRPC
	default:
		return refuse(pb.Code_BAD_REQUEST, "protocol type %q is neither remoting nor grpc", req.GetProtocolType())
	}
	t, err := d.anyTopic(req.GetTopic())
	if err != nil {
		return err
	}
	route := body.TopicRoute{
		BrokerDatas: []body.BrokerData{{
			BrokerAddrs: map[int64]string{0: addr.String()}, BrokerName: d.opts.BrokerName, Cluster: d.opts.ClusterName,
		}},
		FilterServerTable: map[string][]string{},
		QueueDatas: []body.QueueData{{
			BrokerName: d.opts.BrokerName, Perm: t.Perm, ReadQueueNums: t.ReadQueues, WriteQueueNums: t.WriteQueues, TopicSysFlag: t.SysFlag,
		}},
	}
	if route.OrderTopicConf, _, err = d.broker.Catalog().KV("ORDER_TOPIC_CONFIG", t.Name); err != nil {
		return err
	}
	data, err := body.Marshal(route)
	resp.TopicRouteData = string(data)
	return err
}

// getProxyRuntimeStats tells of the whole broker; the connections are this door's.
func (d *Door) getProxyRuntimeStats(_ context.Context, _ *adminpb.GetProxyRuntimeStatsRequest, resp *adminpb.GetProxyRuntimeStatsResponse) error {
	in, out := d.broker.Traffic()
	producers, consumers := d.broker.Clients().Counts()
	resp.ProxyName, resp.Version = d.opts.BrokerName, d.version
	resp.InTps, resp.OutTps = in.Minute.TPS(), out.Minute.TPS()
	resp.Connections, resp.Producers, resp.Consumers = d.connections.Load(), int64(producers), int64(consumers)
	return nil
}

// adminSendMessage sends as a producer does; the id is made here unless the system properties have one. A transaction is refused:
// nobody could be asked for its end.
func (d *Door) adminSendMessage(ctx context.Context, req *adminpb.AdminSendMessageRequest, resp *adminpb.AdminSendMessageResponse) error {
	s := &pb.SystemProperties{}
	if given := req.GetSystemProperties(); given != nil {
		s = proto.Clone(given).(*pb.SystemProperties)
	}
	if s.GetMessageType() == pb.MessageType_TRANSACTION {
		return refuse(pb.Code_UNSUPPORTED, "a transaction needs a producer that can be asked for its end")
	}
	if s.GetMessageId() == "" {
		s.MessageId = message.NewUniqueID()
	}
	if req.Tag != nil {
		s.Tag = req.Tag
	}
	if req.Key != nil {
		s.Keys = append(s.Keys, req.GetKey())
	}
	m := &pb.Message{Topic: req.GetTopic(), UserProperties: req.GetUserProperties(), SystemProperties: s, Body: req.GetBody()}
	var out broker.SendRequest
	err := d.toStore(ctx, "", &pb.SendMessageRequest{Messages: []*pb.Message{m}}, nil, &out)
	if err == nil {
		_, err = d.broker.Send(ctx, &out)
	}
	if err != nil {
		return err
	}
	resp.MessageId = s.GetMessageId()
	return nil
}

// notFound is a refusal for something that a call names and that is not there.
func notFound(format string, args ...any) error { return refuse(pb.Code_NOT_FOUND, format, args...) }
