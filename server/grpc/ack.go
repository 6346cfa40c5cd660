package grpc

import (
	"context"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"

	"github.com/cairnmq/cairn/broker"
)

// AckMessage settles messages for good. Each entry has a status of its own.
func (d *Door) AckMessage(ctx context.Context, req *pb.AckMessageRequest) (*pb.AckMessageResponse, error) {
	entries, err := d.ack(ctx, req)
	if err != nil {
		return &pb.AckMessageResponse{Status: d.statusOf(rpcAck, err)}, nil
	}
	return &pb.AckMessageResponse{Status: overall(entries), Entries: entries}, nil
}

func (d *Door) ack(ctx context.Context, req *pb.AckMessageRequest) ([]*pb.AckMessageResultEntry, error) {
	id, err := clientOf(ctx)
	if err != nil {
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
	if len(req.GetEntries()) == 0 {
		return nil, refuse(pb.Code_BAD_REQUEST, "nothing to acknowledge")
	}
	handles := make([]string, len(req.GetEntries()))
	for i, e := range req.GetEntries() {
		if e.GetLiteTopic() != "" {
			return nil, refuse(pb.Code_UNSUPPORTED, "%s", notImplemented[rpcSyncLite])
		}
		handles[i] = e.GetReceiptHandle()
	}
	errs := d.broker.Ack(ctx, group, topic, handles)
	c := d.sessions.get(id)
	out := make([]*pb.AckMessageResultEntry, len(handles))
	for i, e := range req.GetEntries() {
		out[i] = &pb.AckMessageResultEntry{MessageId: e.GetMessageId(), ReceiptHandle: handles[i], Status: d.statusOf(rpcAck, errs[i])}
		if c != nil && errs[i] == nil {
			c.settle(handles[i])
		}
	}
	return out, nil
}

// overall is the status that all entries have, or MULTIPLE_RESULTS.
func overall(entries []*pb.AckMessageResultEntry) *pb.Status {
	first := entries[0].GetStatus()
	for _, e := range entries[1:] {
		if e.GetStatus().GetCode() != first.GetCode() {
			return &pb.Status{Code: pb.Code_MULTIPLE_RESULTS, Message: "the entries have different results"}
		}
	}
	return first
}

// ChangeInvisibleDuration sets anew, from now on, how long a message stays invisible. The old handle is invalid afterwards.
func (d *Door) ChangeInvisibleDuration(ctx context.Context, req *pb.ChangeInvisibleDurationRequest) (*pb.ChangeInvisibleDurationResponse, error) {
	handle, err := d.changeInvisible(ctx, req)
	return &pb.ChangeInvisibleDurationResponse{Status: d.statusOf(rpcChange, err), ReceiptHandle: handle}, nil
}

func (d *Door) changeInvisible(ctx context.Context, req *pb.ChangeInvisibleDurationRequest) (string, error) {
	id, err := clientOf(ctx)
	if err != nil {
		return "", err
	}
	topic, err := topicOf(req.GetTopic())
	if err != nil {
		return "", err
	}
	group, err := groupOf(req.GetGroup())
	if err != nil {
		return "", err
	}
	invisible := req.GetInvisibleDuration().AsDuration()
	if err := checkInvisible(invisible, 0); err != nil {
		return "", err
	}
	if req.GetLiteTopic() != "" {
		return "", refuse(pb.Code_UNSUPPORTED, "%s", notImplemented[rpcSyncLite])
	}
	c := d.sessions.get(id)
	verb := d.broker.ChangeInvisible
	switch {
	case req.GetSuspend(): // the delivery is not to count as an attempt
		verb = d.broker.GiveBack
	case c != nil && c.settings() != nil && c.settings().kind == pb.ClientType_PUSH_CONSUMER: // only what it has failed on
		verb = d.broker.Postpone
	}
	var handle string
	if req.GetInvisibleDuration() == nil && !req.GetSuspend() {
		handle, err = d.broker.Nack(ctx, group, topic, req.GetReceiptHandle()) // the group's retry policy says when it comes back
	} else {
		handle, err = verb(ctx, group, topic, req.GetReceiptHandle(), invisible)
	}
	if err != nil {
		return "", err
	}
	if c != nil {
		c.settle(req.GetReceiptHandle()) // from here on the client itself decides when the message comes back
	}
	return handle, nil
}

// ForwardMessageToDeadLetterQueue gives a message up: it is settled, and is in the group's dead-letter topic from now on.
func (d *Door) ForwardMessageToDeadLetterQueue(ctx context.Context, req *pb.ForwardMessageToDeadLetterQueueRequest) (*pb.ForwardMessageToDeadLetterQueueResponse, error) {
	return &pb.ForwardMessageToDeadLetterQueueResponse{Status: d.statusOf(rpcForward, d.forward(ctx, req))}, nil
}

func (d *Door) forward(ctx context.Context, req *pb.ForwardMessageToDeadLetterQueueRequest) error {
	id, err := clientOf(ctx)
	if err != nil {
		return err
	}
	topic, err := topicOf(req.GetTopic())
	if err != nil {
		return err
	}
	group, err := groupOf(req.GetGroup())
	if err != nil {
		return err
	}
	if req.GetLiteTopic() != "" {
		return refuse(pb.Code_UNSUPPORTED, "%s", notImplemented[rpcSyncLite])
	}
	err = d.broker.Forward(ctx, &broker.ForwardRequest{
		Group: group, Topic: topic, Handle: req.GetReceiptHandle(), Attempts: req.GetDeliveryAttempt(),
	})
	if c := d.sessions.get(id); c != nil && err == nil {
		c.settle(req.GetReceiptHandle())
	}
	return err
}

// SyncLiteSubscription is answered with NOT_IMPLEMENTED.
func (d *Door) SyncLiteSubscription(ctx context.Context, req *pb.SyncLiteSubscriptionRequest) (*pb.SyncLiteSubscriptionResponse, error) {
	err := d.checked(ctx, rpcSyncLite, func() error { return d.names(req.GetTopic(), req.GetGroup()) })
	return &pb.SyncLiteSubscriptionResponse{Status: d.statusOf(rpcSyncLite, err)}, nil
}

// checked refuses an rpc that is not implemented, after the checks that it shares with the others.
func (d *Door) checked(ctx context.Context, rpc string, check func() error) error {
	if _, err := clientOf(ctx); err != nil {
		return err
	}
	if err := check(); err != nil {
		return err
	}
	return refuseRPC(rpc)
}

func (d *Door) names(topic, group *pb.Resource) error {
	if _, err := topicOf(topic); err != nil {
		return err
	}
	_, err := groupOf(group)
	return err
}
