package remoting

import (
	"context"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/store"
)

func init() {
	servePooled(wire.QueryConsumerOffset, "QUERY_CONSUMER_OFFSET", TierClient, queryConsumerOffset)
	serveInline(wire.UpdateConsumerOffset, "UPDATE_CONSUMER_OFFSET", TierClient, updateConsumerOffset)
	servePooled(wire.SearchOffsetByTimestamp, "SEARCH_OFFSET_BY_TIMESTAMP", TierClient, searchOffset)
	servePooled(wire.GetMaxOffset, "GET_MAX_OFFSET", TierClient, maxOffset)
	servePooled(wire.GetMinOffset, "GET_MIN_OFFSET", TierClient, minOffset)
	servePooled(wire.GetEarliestStoreTime, "GET_EARLIEST_MSG_STORETIME", TierClient, earliestStoreTime)
}

// isNothing tells whether a verb has refused because there is no such topic, queue or offset. To the codes of this file that is an
// empty queue, as in the reference.
func isNothing(err error) bool {
	switch broker.CodeOf(err) {
	case broker.CodeTopicNotFound, broker.CodeParameter, broker.CodeOffsetNotFound:
		return err != nil
	}
	return false
}

// queueOf reads the topic and queue of a request.
func queueOf(req *wire.Command) (topic string, queue int32, err error) {
	if topic, err = req.Fields.Need("topic"); err != nil {
		return "", 0, err
	}
	queue, err = req.Fields.Int32("queueId")
	return topic, queue, err
}

// queryConsumerOffset serves code 14. A group without an offset is told 0 while the queue still begins there, unless it
// asks not to be.
func queryConsumerOffset(_ context.Context, d *Door, s *session, req, resp *wire.Command) error {
	topic, queue, err := queueOf(req)
	if err != nil {
		return err
	}
	group, err := req.Fields.Need("consumerGroup")
	if err != nil {
		return err
	}
	zero, err := req.Fields.BoolOr("setZeroIfNotFound", true)
	if err != nil {
		return err
	}
	if v := s.virtualOf(group); v != nil {
		if offset, ok := v.Offset(topic, queue); ok {
			resp.Fields.AddInt("offset", offset)
			return nil
		}
	}
	offset, err := d.broker.CommittedOffset(group, topic, queue, zero)
	switch {
	case isNothing(err) && !zero:
		return refuse(wire.QueryNotFound, "Not found, do not set to zero, maybe this group boot first")
	case isNothing(err):
		return refuse(wire.QueryNotFound, "Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first")
	case err != nil:
		return err
	}
	resp.Fields.AddInt("offset", offset)
	return nil
}

// updateConsumerOffset serves code 15. One-way commits, the usual ones, are gathered; who waits for an answer gets it when
// the commit is durable.
func updateConsumerOffset(d *Door, s *session, req *wire.Command) {
	group, c, err := commitOf(req)
	switch {
	case err != nil:
		s.conn.Respond(req, d.errorReply(req, err))
	case d.commitsVirtually(s, group, c):
		if req.IsOneWay() {
			req.Release()
		} else {
			s.conn.Respond(req, req.Reply(wire.Success, ""))
		}
	case req.IsOneWay():
		if err := d.broker.CommitOffsetAsync(group, c); err != nil {
			d.log.Debug().Err(err).Str("group", group).Str("topic", c.Topic).Msg("one-way offset commit refused")
		}
		req.Release()
	default:
		d.background(s, req, func(ctx context.Context) {
			d.runPooled(ctx, s, req, func(ctx context.Context, d *Door, _ *session, _, _ *wire.Command) error {
				return d.broker.CommitOffsets(ctx, group, []broker.OffsetCommit{c})
			})
		})
	}
}

func commitOf(req *wire.Command) (group string, c broker.OffsetCommit, err error) {
	if c.Topic, c.Queue, err = queueOf(req); err != nil {
		return "", c, err
	}
	if group = req.Fields.Text("consumerGroup"); group == "" {
		return "", c, refuse(wire.SubscriptionGroupNotExist, "Group null not exist!")
	}
	if req.Fields.Text("commitOffset") == "" {
		return "", c, refuse(wire.InvalidParameter, "Offset is null, topic is %s", c.Topic)
	}
	if c.Offset, err = req.Fields.Int64("commitOffset"); err == nil && c.Offset < 0 {
		err = refuse(wire.InvalidParameter, "the offset to commit is %d", c.Offset)
	}
	return group, c, err
}

// searchOffset serves code 29.
func searchOffset(_ context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	topic, queue, err := queueOf(req)
	if err != nil {
		return err
	}
	ms, err := req.Fields.Int64("timestamp")
	if err != nil {
		return err
	}
	boundary := store.Lower
	if req.Fields.Text("boundaryType") == "UPPER" {
		boundary = store.Upper
	}
	offset, err := d.broker.OffsetByTime(topic, queue, ms, boundary)
	if err != nil && !isNothing(err) {
		return err
	}
	resp.Fields.AddInt("offset", offset)
	return nil
}

// maxOffset serves code 30.
func maxOffset(_ context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	return queueNumber(req, resp, "offset", 0, func(topic string, queue int32) (int64, error) {
		if queues, ok, err := d.broker.WaitingQueues(topic); err != nil {
			return 0, err
		} else if ok && queue >= 0 && int(queue) < len(queues) {
			return queues[queue].Max, nil
		}
		return d.broker.MaxOffset(topic, queue)
	})
}

// minOffset serves code 31.
func minOffset(_ context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	return queueNumber(req, resp, "offset", 0, d.broker.MinOffset)
}

// earliestStoreTime serves code 32.
func earliestStoreTime(_ context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	return queueNumber(req, resp, "timestamp", -1, d.broker.EarliestStoreTime)
}

// queueNumber answers a number of a queue, that of one that is not there with none.
func queueNumber(req, resp *wire.Command, field string, none int64, ask func(topic string, queue int32) (int64, error)) error {
	topic, queue, err := queueOf(req)
	if err != nil {
		return err
	}
	n, err := ask(topic, queue)
	switch {
	case isNothing(err):
		n = none
	case err != nil:
		return err
	}
	resp.Fields.AddInt(field, n)
	return nil
}
