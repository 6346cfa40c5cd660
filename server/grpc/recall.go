package grpc

import (
	"context"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"

	"github.com/cairnmq/cairn/broker"
)

// RecallMessage takes a delayed message back before it is delivered.
func (d *Door) RecallMessage(ctx context.Context, req *pb.RecallMessageRequest) (*pb.RecallMessageResponse, error) {
	id, err := d.recall(ctx, req)
	return &pb.RecallMessageResponse{Status: d.statusOf(rpcRecall, err), MessageId: id}, nil
}

func (d *Door) recall(ctx context.Context, req *pb.RecallMessageRequest) (string, error) {
	if _, err := clientOf(ctx); err != nil {
		return "", err
	}
	topic, err := topicOf(req.GetTopic())
	if err != nil {
		return "", err
	}
	id, err := d.broker.Recall(ctx, &broker.RecallRequest{Topic: topic, Handle: req.GetRecallHandle()})
	if broker.CodeOf(err) == broker.CodeInvalidHandle { // not a receipt handle, which its code is for
		return "", refuse(pb.Code_BAD_REQUEST, "%s", err)
	}
	return id, err
}
