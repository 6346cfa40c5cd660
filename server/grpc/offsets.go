package grpc

import (
	"context"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/store"
)

// PullMessage reads one queue from an offset on, and waits when the offset is at the end. The stream has the status, messages,
// and the offset to go on from, also when there is no message (MESSAGE_NOT_FOUND) or the offset was outside (ILLEGAL_OFFSET).
func (d *Door) PullMessage(req *pb.PullMessageRequest, stream pb.MessagingService_PullMessageServer) error {
	ctx := stream.Context()
	res, err := d.pull(ctx, req)
	if ctx.Err() != nil {
		if res != nil {
			res.Buffer.Release()
		}
		return ctx.Err()
	}
	if err != nil {
		return stream.Send(pullStatus(d.statusOf(rpcPull, err)))
	}
	defer res.Buffer.Release()
	switch res.Status {
	case broker.PullFound:
		err = d.answerPull(stream, req.GetMessageQueue().GetTopic(), res)
	case broker.PullOffsetMoved:
		err = stream.Send(pullStatus(&pb.Status{Code: pb.Code_ILLEGAL_OFFSET, Message: "the offset is outside the queue"}))
	default:
		err = stream.Send(pullStatus(&pb.Status{Code: pb.Code_MESSAGE_NOT_FOUND, Message: "no new message"}))
	}
	if err != nil {
		return err
	}
	return stream.Send(&pb.PullMessageResponse{Content: &pb.PullMessageResponse_NextOffset{NextOffset: res.NextOffset}})
}

func pullStatus(s *pb.Status) *pb.PullMessageResponse {
	return &pb.PullMessageResponse{Content: &pb.PullMessageResponse_Status{Status: s}}
}

func (d *Door) pull(ctx context.Context, req *pb.PullMessageRequest) (*broker.PullResult, error) {
	topic, group, err := d.queueOf(ctx, req.GetMessageQueue(), req.GetGroup())
	if err != nil {
		return nil, err
	}
	if req.GetOffset() < 0 {
		return nil, refuse(pb.Code_ILLEGAL_OFFSET, "the offset %d is negative", req.GetOffset())
	}
	f, err := filterOf(req.GetFilterExpression())
	if err != nil {
		return nil, err
	}
	if _, _, err := d.consumable(ctx, topic, group); err != nil {
		return nil, err
	}
	wait := max(0, min(req.GetLongPollingTimeout().AsDuration(), maxPolling))
	if deadline, ok := ctx.Deadline(); ok {
		wait = max(0, min(wait, time.Until(deadline)-pollingMargin))
	}
	waiting, cancel := d.untilClosing(ctx)
	defer cancel()
	res, err := d.broker.Pull(waiting, &broker.PullRequest{
		Group: group, Topic: topic, QueueID: req.GetMessageQueue().GetId(), Offset: req.GetOffset(),
		MaxMessages: max(1, min(int(req.GetBatchSize()), maxBatch)), Filter: f, Suspend: wait, CommitOffset: -1,
	})
	if err != nil && ctx.Err() == nil && d.closing.Err() != nil {
		return nil, refuse(pb.Code_MESSAGE_NOT_FOUND, "the broker is closing")
	}
	return res, err
}

func (d *Door) answerPull(stream pb.MessagingService_PullMessageServer, topic *pb.Resource, res *broker.PullResult) error {
	conv, err := newConverter(topic, d.opts.DelayLevels)
	if err != nil {
		return err
	}
	if err := stream.Send(pullStatus(statusOK)); err != nil {
		return err
	}
	begin := 0
	for _, end := range res.Ends {
		m, _, err := message.Decode(res.Buffer.B[begin:end])
		if err != nil {
			return err
		}
		if err := stream.SendMsg(conv.convert(&m, &delivery{attempt: m.ReconsumeTimes + 1})); err != nil {
			return err
		}
		begin = end
	}
	return nil
}

// queueOf checks the client and the names of a call on one queue of a group.
func (d *Door) queueOf(ctx context.Context, q *pb.MessageQueue, group *pb.Resource) (topic, name string, err error) {
	if _, err := clientOf(ctx); err != nil {
		return "", "", err
	}
	if topic, err = topicOf(q.GetTopic()); err != nil {
		return "", "", err
	}
	if name, err = groupOf(group); err != nil {
		return "", "", err
	}
	return topic, name, nil
}

// UpdateOffset commits how far a group has read a queue.
func (d *Door) UpdateOffset(ctx context.Context, req *pb.UpdateOffsetRequest) (*pb.UpdateOffsetResponse, error) {
	topic, group, err := d.queueOf(ctx, req.GetMessageQueue(), req.GetGroup())
	if err == nil && req.GetOffset() < 0 {
		err = refuse(pb.Code_ILLEGAL_OFFSET, "the offset %d is negative", req.GetOffset())
	}
	if err == nil {
		_, _, err = d.consumable(ctx, topic, group)
	}
	if err == nil {
		err = d.broker.CommitOffsets(ctx, group, []broker.OffsetCommit{
			{Topic: topic, Queue: req.GetMessageQueue().GetId(), Offset: req.GetOffset()},
		})
	}
	return &pb.UpdateOffsetResponse{Status: d.statusOf(rpcUpdate, err)}, nil
}

// GetOffset answers what UpdateOffset has committed; OFFSET_NOT_FOUND when nothing was.
func (d *Door) GetOffset(ctx context.Context, req *pb.GetOffsetRequest) (*pb.GetOffsetResponse, error) {
	topic, group, err := d.queueOf(ctx, req.GetMessageQueue(), req.GetGroup())
	var offset int64
	if err == nil {
		offset, err = d.broker.CommittedOffset(group, topic, req.GetMessageQueue().GetId(), false)
	}
	return &pb.GetOffsetResponse{Status: d.statusOf(rpcGet, err), Offset: offset}, nil
}

// QueryOffset answers the first offset of a queue, the next one to be given, or the first that was stored at a time or later.
func (d *Door) QueryOffset(ctx context.Context, req *pb.QueryOffsetRequest) (*pb.QueryOffsetResponse, error) {
	offset, err := d.queryOffset(ctx, req)
	return &pb.QueryOffsetResponse{Status: d.statusOf(rpcQueryOffset, err), Offset: offset}, nil
}

func (d *Door) queryOffset(ctx context.Context, req *pb.QueryOffsetRequest) (int64, error) {
	if _, err := clientOf(ctx); err != nil {
		return 0, err
	}
	topic, err := topicOf(req.GetMessageQueue().GetTopic())
	if err != nil {
		return 0, err
	}
	queue := req.GetMessageQueue().GetId()
	switch req.GetQueryOffsetPolicy() {
	case pb.QueryOffsetPolicy_BEGINNING:
		return d.broker.MinOffset(topic, queue)
	case pb.QueryOffsetPolicy_END:
		return d.broker.MaxOffset(topic, queue)
	case pb.QueryOffsetPolicy_TIMESTAMP:
		if !req.GetTimestamp().IsValid() {
			return 0, refuse(pb.Code_BAD_REQUEST, "the timestamp is missing or out of range")
		}
		return d.broker.OffsetByTime(topic, queue, req.GetTimestamp().AsTime().UnixMilli(), store.Lower)
	}
	return 0, refuse(pb.Code_BAD_REQUEST, "offset policy %s is not known", req.GetQueryOffsetPolicy())
}
