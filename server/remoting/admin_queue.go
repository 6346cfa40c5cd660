package remoting

import (
	"context"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/filter"
	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/wire"
)

const queryConsumeQueue = 321

func init() {
	servePooled(queryConsumeQueue, "QUERY_CONSUME_QUEUE", TierAdmin, queueEntries)
}

// queueEntries serves code 321: the entries of a queue as the index has them. With a group it also says which of them the
// group's subscription lets through.
func queueEntries(_ context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	f := req.Fields
	topic, queue, err := queueOf(req)
	if err != nil {
		return err
	}
	index, err := f.Int64("index")
	if err != nil {
		return err
	}
	count, err := f.Int32("count")
	if err != nil {
		return err
	}
	entries, low, high, err := d.broker.QueueEntries(topic, queue, index, int(count))
	switch code := broker.CodeOf(err); {
	case err != nil && code == broker.CodeParameter:
		return refuse(wire.SystemError, "%d@%s is not exist!", queue, topic)
	case err != nil && code != broker.CodeTopicNotFound:
		return err
	case len(entries) == 0:
		return refuse(wire.SystemError, "Index %d of %d@%s is not exist!", index, queue, topic)
	}
	out := body.QueueEntries{MinQueueIndex: low, MaxQueueIndex: high, QueueData: make([]body.QueueEntry, 0, len(entries))}
	lets := d.subscriptionFilter(&out, f.Text("consumerGroup"), topic)
	for _, e := range entries {
		out.QueueData = append(out.QueueData, body.QueueEntry{
			PhysicOffset: int64(e.Position), PhysicSize: e.Size, TagsCode: e.TagHash, Eval: lets != nil && lets.MatchHash(e.TagHash),
		})
	}
	return adminBody(resp, out)
}

// subscriptionFilter is the filter of a group that is online; out says what it is, or why there is none. To the queue, every
// message may match a filter that is not one of tags.
func (d *Door) subscriptionFilter(out *body.QueueEntries, group, topic string) *filter.Expr {
	if group == "" {
		return nil
	}
	s, ok := d.broker.Clients().Subscription(group, topic)
	if !ok {
		out.FilterData = group + "@" + topic + " is not online!"
		return nil
	}
	sub := subscriptionBody(s)
	out.Subscription = &sub
	expr, err := filter.Parse(s.ExpressionType, s.Expression)
	if err != nil {
		out.FilterData = err.Error()
		return nil
	}
	return expr
}
