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
	handle, err := req.Fields.Need("recallHandle")
	if err != nil {
		return err
	}
	id, err := d.broker.Recall(ctx, &broker.RecallRequest{Topic: topic, Handle: handle})
	switch broker.CodeOf(err) {
	case broker.CodeInvalidHandle:
		return refuse(wire.IllegalOperation, "recall failed, the handle is invalid: %v", err)
	case broker.CodeNotFound:
		return refuse(wire.IllegalOperation, "recall failed, there is no such message: %v", err)
	case broker.CodeDelivered:
		return refuse(wire.IllegalOperation, "recall failed, it comes too late: %v", err)
	}
	if err != nil {
		return err
	}
	resp.Fields.Add("msgId", id)
	return nil
}
