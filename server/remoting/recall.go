package remoting

import (
	"context"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/internal/wire"
)

func init() {
	servePooled(wire.RecallMessage, "RECALL_MESSAGE", TierClient, recallMessage)
}

// recallMessage serves code 370: a producer wants a delayed message back.
func recallMessage(ctx context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	topic, err := req.Fields.Need("topic")
	if err != nil {
		return err
	}
	resp.Fields.Add("MSG_REGION", regionID)
	if _, err := d.broker.Topic(topic); broker.CodeOf(err) == broker.CodeTopicNotFound {
		resp.Code, resp.Remark = wire.TopicNotExist, "recall failed, the topic["+topic+"] not exist"
		return nil
	}
	id, err := d.broker.Recall(ctx, &broker.RecallRequest{Topic: topic, Handle: req.Fields.Text("recallHandle")})
	if err == nil {
		resp.Fields.Add("msgId", id)
		return nil
	}
	resp.Code = wire.IllegalOperation
	switch broker.CodeOf(err) {
	case broker.CodeInvalidHandle:
		resp.Remark = "recall handle is invalid"
	case broker.CodeNotFound:
		resp.Remark = "recall failed, there is no such message: " + err.Error()
	case broker.CodeDelivered:
		resp.Remark = "recall failed, it comes too late: " + err.Error()
	default:
		return err
	}
	return nil
}
