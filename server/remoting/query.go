package remoting

import (
	"context"
	"strconv"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/store"
)

func init() {
	servePooled(wire.QueryMessage, "QUERY_MESSAGE", TierClient, queryMessage)
	servePooled(wire.ViewMessageByID, "VIEW_MESSAGE_BY_ID", TierClient, viewMessage)
}

// maxQuery bounds the messages of one answer.
const maxQuery = 64

// queryMessage serves code 12: by key, or by unique id when `_UNIQUE_KEY_QUERY` or the index type says so.
func queryMessage(_ context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	f := req.Fields
	topic, err := f.Need("topic")
	if err != nil {
		return err
	}
	key, err := f.Need("key")
	if err != nil {
		return err
	}
	n, err := f.Int32("maxNum")
	switch {
	case err != nil:
		return err
	case n < 0:
		return refuse(wire.SystemError, "maxNum is %d", n)
	}
	begin, err := f.Int64("beginTimestamp")
	if err != nil {
		return err
	}
	end, err := f.Int64("endTimestamp")
	if err != nil {
		return err
	}
	byID, err := f.BoolOr("_UNIQUE_KEY_QUERY", f.Text("indexType") == "U")
	if err != nil {
		return err
	}
	query := d.broker.QueryByKey
	if byID {
		query = d.broker.QueryByUniqueID
	}
	stats := d.broker.Store().Stats()
	resp.Fields.AddInt("indexLastUpdateTimestamp", d.broker.Options().Clock.Now().UnixMilli())
	resp.Fields.AddInt("indexLastUpdatePhyoffset", int64(stats.Applied))
	var ends []int
	buf := store.NewBuffer()
	if n > 0 {
		ends, err = query(topic, key, begin, end, int(min(n, maxQuery)), buf)
	}
	if err = gone(err, broker.CodeTopicNotFound); err != nil || len(ends) == 0 {
		buf.Release()
		resp.Code, resp.Remark = wire.QueryNotFound, "can not find message, maybe time range not correct"
		return err
	}
	resp.Body, resp.BodyDone = buf.B, buf.Release
	return nil
}

// viewMessage serves code 33: the message at a physical offset. The topic of the request is not looked at, as in the reference: tools
// name the retry or dead-letter topic that they met a message in, and the message is where it was first written.
func viewMessage(_ context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	at, err := req.Fields.Int64("offset")
	if err != nil {
		return err
	}
	buf := store.NewBuffer()
	rec, err := d.broker.MessageByPosition("", record.Position(at), buf)
	if err != nil {
		buf.Release()
		return notFoundAs(err, "can not find message by the offset, "+strconv.FormatInt(at, 10))
	}
	resp.Body, resp.BodyDone = rec, buf.Release
	return nil
}
