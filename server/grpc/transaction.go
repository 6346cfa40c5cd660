package grpc

import (
	"context"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/txn"
)

// EndTransaction commits or rolls back what was sent as a transaction. Its id says where the half message is, so that any client
// that has it can end it, at any time, also after a restart of the broker.
func (d *Door) EndTransaction(ctx context.Context, req *pb.EndTransactionRequest) (*pb.EndTransactionResponse, error) {
	err := d.endTransaction(ctx, req)
	return &pb.EndTransactionResponse{Status: d.statusOf(rpcEndTransaction, err)}, nil
}

func (d *Door) endTransaction(ctx context.Context, req *pb.EndTransactionRequest) error {
	if _, err := clientOf(ctx); err != nil {
		return err
	}
	topic, err := topicOf(req.GetTopic())
	if err != nil {
		return err
	}
	at, id, err := txn.ParseID(req.GetTransactionId())
	if err != nil {
		return refuse(pb.Code_INVALID_TRANSACTION_ID, "%s", err)
	}
	end := &broker.EndTransactionRequest{
		Topic: topic, UniqueID: id, Position: at, FromCheck: req.GetSource() == pb.TransactionSource_SOURCE_SERVER_CHECK,
	}
	switch r := req.GetResolution(); r {
	case pb.TransactionResolution_TRANSACTION_RESOLUTION_UNSPECIFIED:
		end.Resolution = broker.TransactionUnknown // what a client's checker says that does not know
	case pb.TransactionResolution_COMMIT:
		end.Resolution = broker.TransactionCommit
	case pb.TransactionResolution_ROLLBACK:
		end.Resolution = broker.TransactionRollback
	default:
		return refuse(pb.Code_BAD_REQUEST, "resolution %d is not known", r)
	}
	err = d.broker.EndTransaction(ctx, end)
	switch broker.CodeOf(err) {
	case broker.CodeNotFound, broker.CodeParameter, broker.CodeConflict:
		return refuse(pb.Code_INVALID_TRANSACTION_ID, "%s", err)
	}
	return err
}

// willAsk lets a producer be asked for the end of the transactions that it sends. Those of topics in its settings are asked
// anyway; clients add a topic to their settings some minutes after they first send to it, or never.
func (d *Door) willAsk(ctx context.Context, id string, topic *pb.Resource) {
	c := d.sessions.get(id)
	if c == nil {
		return
	}
	if s := c.settings(); s != nil && s.kind == pb.ClientType_PRODUCER && c.learn(topic) {
		d.register(ctx, c, s)
	}
}

// check puts the question for the end of a transaction among the commands to a client. It is false when the client does not
// read its commands, or knows nothing of the topic.
func (d *Door) check(c *session, q *broker.TransactionCheck) bool {
	topic := c.produced(q.Topic)
	if topic == nil {
		return false
	}
	m, _, err := message.Decode(q.Layout)
	if err != nil {
		d.trouble.Error().Err(err).Str("topic", q.Topic).Str("id", q.UniqueID).Msg("decode a half message")
		return false
	}
	conv, err := newConverter(topic, d.opts.DelayLevels)
	if err != nil {
		return false // a name that came in goes out
	}
	return c.command(conv.command(&m, txn.ID(q.Half.Position, q.UniqueID)))
}
