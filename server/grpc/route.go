package grpc

import (
	"context"
	"net/netip"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/catalog"
)

// acceptTypes is what each type of topic takes.
var acceptTypes = map[string][]pb.MessageType{
	"UNSPECIFIED": {pb.MessageType_MESSAGE_TYPE_UNSPECIFIED},
	"NORMAL":      {pb.MessageType_NORMAL},
	"FIFO":        {pb.MessageType_FIFO},
	"DELAY":       {pb.MessageType_DELAY},
	"TRANSACTION": {pb.MessageType_TRANSACTION},
	"LITE":        {pb.MessageType_LITE},
	"PRIORITY":    {pb.MessageType_PRIORITY},
	"MIXED":       {pb.MessageType_NORMAL, pb.MessageType_FIFO, pb.MessageType_DELAY, pb.MessageType_TRANSACTION},
}

// QueryRoute answers the queues of a topic, all of them on this broker, by their real ids.
func (d *Door) QueryRoute(ctx context.Context, req *pb.QueryRouteRequest) (*pb.QueryRouteResponse, error) {
	queues, err := d.route(ctx, req)
	return &pb.QueryRouteResponse{Status: d.statusOf(rpcQueryRoute, err), MessageQueues: queues}, nil
}

func (d *Door) route(ctx context.Context, req *pb.QueryRouteRequest) ([]*pb.MessageQueue, error) {
	if _, err := clientOf(ctx); err != nil {
		return nil, err
	}
	name, err := topicOf(req.GetTopic())
	if err != nil {
		return nil, err
	}
	t, err := d.topic(ctx, name)
	if err != nil {
		return nil, err
	}
	self := d.self(req.GetEndpoints())
	queues := make([]*pb.MessageQueue, 0, t.Queues())
	for id := range t.Queues() {
		queues = append(queues, &pb.MessageQueue{
			Topic: req.GetTopic(), Id: id, Broker: self, Permission: permissionOf(t, id), AcceptMessageTypes: acceptTypes[t.MessageType()],
		})
	}
	return queues, nil
}

func permissionOf(t *catalog.Topic, queue int32) pb.Permission {
	read := t.Perm&catalog.PermRead != 0 && queue < t.ReadQueues
	write := t.Perm&catalog.PermWrite != 0 && queue < t.WriteQueues
	switch {
	case read && write:
		return pb.Permission_READ_WRITE
	case read:
		return pb.Permission_READ
	case write:
		return pb.Permission_WRITE
	}
	return pb.Permission_NONE
}

// self is this broker under the address that the client asked with: it has just shown that this one works for it, whatever
// network, container or tunnel lies between.
func (d *Door) self(asked *pb.Endpoints) *pb.Broker {
	if len(asked.GetAddresses()) == 0 {
		asked = endpointsOf(d.opts.AdvertiseGRPC)
	}
	return &pb.Broker{Name: d.opts.BrokerName, Id: 0, Endpoints: asked}
}

func endpointsOf(a netip.AddrPort) *pb.Endpoints {
	scheme := pb.AddressScheme_IPv4
	if a.Addr().Is6() {
		scheme = pb.AddressScheme_IPv6
	}
	return &pb.Endpoints{Scheme: scheme, Addresses: []*pb.Address{{Host: a.Addr().String(), Port: int32(a.Port())}}}
}

// QueryAssignment answers one assignment that stands for all queues: every consumer of a group receives from all of them, and
// the broker shares the messages out. Where the order matters it is one for each queue, as in the reference: so many receives does
// a consumer have under way then. Each of them gets messages of all queues, in the order of their message groups.
func (d *Door) QueryAssignment(ctx context.Context, req *pb.QueryAssignmentRequest) (*pb.QueryAssignmentResponse, error) {
	assignments, err := d.assignments(ctx, req)
	return &pb.QueryAssignmentResponse{Status: d.statusOf(rpcAssignment, err), Assignments: assignments}, nil
}

func (d *Door) assignments(ctx context.Context, req *pb.QueryAssignmentRequest) ([]*pb.Assignment, error) {
	if _, err := clientOf(ctx); err != nil {
		return nil, err
	}
	topic, err := topicOf(req.GetTopic())
	if err != nil {
		return nil, err
	}
	group, err := groupOf(req.GetGroup())
	if err != nil {
		return nil, err
	}
	t, g, err := d.consumable(ctx, topic, group)
	if err != nil {
		return nil, err
	}
	self := d.self(req.GetEndpoints())
	assigned := func(id int32) *pb.Assignment {
		return &pb.Assignment{MessageQueue: &pb.MessageQueue{
			Topic: req.GetTopic(), Id: id, Broker: self, Permission: pb.Permission_READ_WRITE,
			AcceptMessageTypes: acceptTypes[t.MessageType()],
		}}
	}
	if !broker.InOrder(g, t) {
		return []*pb.Assignment{assigned(-1)}, nil
	}
	all := make([]*pb.Assignment, 0, t.ReadQueues)
	for id := range t.ReadQueues {
		all = append(all, assigned(id))
	}
	return all, nil
}

// consumable answers a topic and a group that may receive from it. The group is made when that is allowed.
func (d *Door) consumable(ctx context.Context, topic, group string) (*catalog.Topic, *catalog.Group, error) {
	t, err := d.broker.Topic(topic)
	if err != nil {
		return nil, nil, err
	}
	g, err := d.broker.EnsureGroup(ctx, group)
	if err != nil {
		return nil, nil, err
	}
	switch kind := t.MessageType(); {
	case t.Perm&catalog.PermRead == 0 || t.ReadQueues == 0:
		return nil, nil, refuse(pb.Code_FORBIDDEN, "topic %s is not readable", topic)
	case !g.ConsumeEnable:
		return nil, nil, refuse(pb.Code_FORBIDDEN, "consuming is disabled for group %s", group)
	case kind == "LITE":
		return nil, nil, refuse(pb.Code_UNSUPPORTED, "receiving from topic %s: topics of type %s are not supported yet", topic, kind)
	}
	return t, g, nil
}
