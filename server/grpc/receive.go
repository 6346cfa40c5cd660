package grpc

import (
	"context"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/filter"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/server/grpc/transport"
)

// Limits on receives, as in the reference but for maxPolling, which is 20 s there: each poll that ends empty begins anew, and a
// hundred thousand that wait cost the more the shorter they are.
const (
	maxBatch         = 32
	minInvisible     = 10 * time.Second
	maxInvisible     = 12 * time.Hour
	minPolling       = 5 * time.Second
	maxPolling       = time.Minute
	consumeTimeout   = 15 * time.Minute // of a group that sets none
	pollingMargin    = 500 * time.Millisecond
	maxBeingAnswered = 256 << 20 // bytes of messages on their way to clients, above which there are no receives
)

// pollingTimeSince is the first client version that knows ILLEGAL_POLLING_TIME.
var pollingTimeSince = version{5, 0, 3}

// ReceiveMessage hands out messages of all queues of the topic, and waits for some when there are none. The stream has the status,
// then messages, then the time of the answer.
func (d *Door) ReceiveMessage(req *pb.ReceiveMessageRequest, stream pb.MessagingService_ReceiveMessageServer) error {
	ctx := stream.Context()
	err := d.receive(ctx, req, stream)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err() // nobody reads a status any more
	}
	status := &pb.ReceiveMessageResponse{Content: &pb.ReceiveMessageResponse_Status{Status: d.statusOf(rpcReceive, err)}}
	if err := stream.Send(status); err != nil {
		return err
	}
	return sendDelivered(stream, d.clock.Now())
}

func (d *Door) receive(ctx context.Context, req *pb.ReceiveMessageRequest, stream pb.MessagingService_ReceiveMessageServer) error {
	id, err := clientOf(ctx)
	if err != nil {
		return err
	}
	if d.answering.Load() > maxBeingAnswered {
		return refuse(pb.Code_TOO_MANY_REQUESTS, "clients are slow to take what they have asked for")
	}
	c, err := d.sessions.open(id)
	if err != nil {
		return err
	}
	defer d.sessions.closed(c)
	pop, err := d.popRequest(ctx, req, c)
	if err != nil {
		return err
	}
	topic, renewed := req.GetMessageQueue().GetTopic(), req.GetAutoRenew()
	req = nil // a hundred thousand may wait here
	res, err := d.broker.Pop(ctx, pop)
	if err != nil {
		return err
	}
	if res == nil || len(res.Ends) == 0 {
		return refuse(pb.Code_MESSAGE_NOT_FOUND, "no new message")
	}
	defer res.Buffer.Release()
	size := int64(len(res.Buffer.B))
	d.answering.Add(size)
	defer d.answering.Add(-size)
	l := lease{group: pop.Group, topic: pop.Topic, until: res.PoppedAt + res.Invisible}
	receipts := res.Receipts()
	if renewed && !c.hold(receipts, l, res.PoppedAt) {
		l.untouched = true
		d.undo(l, receipts)
		return refuse(pb.Code_MESSAGE_NOT_FOUND, "the client has terminated")
	}
	if err := d.answer(stream, topic, res, receipts); err != nil || ctx.Err() != nil {
		// The client did not wait for all of it. It may have got some, and may even have begun to work on them.
		for _, h := range receipts {
			c.settle(h)
		}
		d.undo(l, receipts)
		return err
	}
	return nil
}

// popRequest checks a receive and says what it comes to.
func (d *Door) popRequest(ctx context.Context, req *pb.ReceiveMessageRequest, c *session) (*broker.PopRequest, error) {
	topic, err := topicOf(req.GetMessageQueue().GetTopic())
	if err != nil {
		return nil, err
	}
	group, err := groupOf(req.GetGroup())
	if err != nil {
		return nil, err
	}
	wait, err := pollingTime(ctx, req, c)
	if err != nil {
		return nil, err
	}
	if !req.GetAutoRenew() {
		if err := checkInvisible(req.GetInvisibleDuration().AsDuration(), minInvisible); err != nil {
			return nil, err
		}
	}
	f, err := filterOf(req.GetFilterExpression())
	if err != nil {
		return nil, err
	}
	_, g, err := d.consumable(ctx, topic, group)
	if err != nil {
		return nil, err
	}
	return &broker.PopRequest{
		Group: group, Topic: topic, Queue: -1, Max: max(1, min(int(req.GetBatchSize()), maxBatch)),
		Invisible: invisibleTime(req, g), Wait: wait, Until: d.closing.Done(), Filter: f, AttemptID: req.GetAttemptId(),
	}, nil
}

func invisibleTime(req *pb.ReceiveMessageRequest, g *catalog.Group) time.Duration {
	if !req.GetAutoRenew() {
		return req.GetInvisibleDuration().AsDuration()
	}
	if g.ConsumeTimeoutMinute > 0 {
		return min(time.Duration(g.ConsumeTimeoutMinute)*time.Minute, maxInvisible)
	}
	return consumeTimeout
}

func checkInvisible(t, least time.Duration) error {
	if t < least || t > maxInvisible {
		return refuse(pb.Code_ILLEGAL_INVISIBLE_TIME, "the invisible time %s is not within %s to %s", t, least, maxInvisible)
	}
	return nil
}

// pollingTime is how long a receive may wait: what the client asks for, else what its deadline leaves after half its
// request timeout; 5 s to a minute, and a little less than to the deadline, so that an answer still arrives.
func pollingTime(ctx context.Context, req *pb.ReceiveMessageRequest, c *session) (time.Duration, error) {
	remaining := maxInvisible
	if deadline, ok := ctx.Deadline(); ok {
		remaining = time.Until(deadline)
	}
	var wait time.Duration
	if req.LongPollingTimeout != nil {
		wait = req.GetLongPollingTimeout().AsDuration()
	} else {
		request := defaultRequestTimeout
		if s := c.settings(); s != nil {
			request = s.requestTimeout
		}
		wait = remaining - request/2
	}
	wait = max(minPolling, min(wait, maxPolling))
	if remaining < minPolling {
		code := pb.Code_BAD_REQUEST
		if v, ok := parseVersion(transport.Header(ctx, headerVersion)); ok && v.atLeast(pollingTimeSince) {
			code = pb.Code_ILLEGAL_POLLING_TIME
		}
		return 0, refuse(code, "the deadline leaves %s for polling, the least is %s", remaining.Round(time.Millisecond), minPolling)
	}
	return min(wait, remaining-pollingMargin), nil
}

func filterOf(f *pb.FilterExpression) (*filter.Expr, error) {
	kind := filter.Tag
	if f.GetType() == pb.FilterType_SQL {
		kind = filter.SQL92
	}
	e, err := filter.Parse(kind, f.GetExpression())
	if err != nil {
		return nil, refuse(pb.Code_ILLEGAL_FILTER_EXPRESSION, "%s", err)
	}
	return e, nil
}

func (d *Door) answer(stream pb.MessagingService_ReceiveMessageServer, topic *pb.Resource, res *broker.PopResult, receipts []string) error {
	conv, err := newConverter(topic, d.opts.DelayLevels)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(receiveOK); err != nil {
		return err
	}
	begin := 0
	for i, end := range res.Ends {
		m, _, err := message.Decode(res.Buffer.B[begin:end])
		if err != nil {
			return err
		}
		out := conv.convert(&m, &delivery{receipts[i], res.Attempts[i], time.Duration(res.Invisible) * time.Millisecond})
		if err := stream.SendMsg(out); err != nil {
			return err
		}
		begin = end
	}
	return sendDelivered(stream, time.UnixMilli(res.PoppedAt))
}

// sendDelivered ends the stream of an answer with its time.
func sendDelivered(stream pb.MessagingService_ReceiveMessageServer, at time.Time) error {
	return stream.Send(&pb.ReceiveMessageResponse{Content: &pb.ReceiveMessageResponse_DeliveryTimestamp{DeliveryTimestamp: timestamppb.New(at)}})
}

var receiveOK = &pb.ReceiveMessageResponse{Content: &pb.ReceiveMessageResponse_Status{Status: statusOK}}
