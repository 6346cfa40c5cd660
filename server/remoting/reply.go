package remoting

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/message"
)

func init() {
	serveInline(wire.SendReplyMessage, "SEND_REPLY_MESSAGE", TierClient, sendReply)
	serveInline(wire.SendReplyMessageV2, "SEND_REPLY_MESSAGE_V2", TierClient, sendReply)
}

const (
	// pushTimeout is how long a requester may take to answer that it has the reply.
	pushTimeout = 10 * time.Second
	// maxReplies bounds the replies under way, maxPushes those to one requester. It answers within a round trip, so more
	// wait for one that has stopped reading, which must not keep others from theirs.
	maxReplies = 1024
	maxPushes  = 256
)

// sendReply serves codes 324 and 325: the answer to a request that was sent as an ordinary message. It is pushed to the client
// that the request names (REPLY_TO_CLIENT), which must produce over a connection of this door, and kept in the cluster's reply
// topic. Whether that client has it is the answer; nobody waits for what is kept.
func sendReply(d *Door, s *session, req *wire.Command) {
	started := d.replies.run(pushTimeout+d.opts.Timeout, func(ctx context.Context) { d.runPooled(ctx, s, req, reply) })
	if !started {
		resp := req.Reply(wire.SystemBusy, "too many replies wait for their requesters")
		addTraceFields(resp)
		s.conn.Respond(req, resp)
	}
}

// reply runs on a goroutine of its own. A refusal has the same fields as an answer to a send.
func reply(ctx context.Context, d *Door, s *session, req, resp *wire.Command) error {
	op := &sendOp{d: d, s: s, req: req}
	err := op.read()
	if isUnreadable(err) {
		return err
	}
	addTraceFields(resp)
	if err == nil && op.batch {
		err = refuse(wire.MessageIllegal, "a reply is one message")
	}
	if err == nil {
		err = d.broker.CheckSend(&op.send)
	}
	if err != nil {
		refused := d.errorReply(req, err)
		resp.Code, resp.Remark = refused.Code, refused.Remark
		refused.Release()
		return nil
	}
	if resp.Remark = d.push(ctx, op); resp.Remark != "" {
		resp.Code = wire.SystemError
	}
	results, err := d.broker.Send(ctx, &op.send)
	if err == nil {
		addStored(resp, d.broker.OffsetID(results[0].Position), results[0].QueueID, results[0].QueueOffset)
		return nil
	}
	if broker.CodeOf(err) == broker.CodeInternal {
		d.log.Warn().Err(err).Str("topic", op.send.Topic).Msg("cannot keep a reply")
	}
	if resp.Code == wire.Success {
		addStored(resp, "0", max(op.send.QueueID, 0), 0) // clients want numbers
	}
	return nil
}

func addStored(resp *wire.Command, id string, queue int32, offset int64) {
	resp.Fields.Add("msgId", id)
	resp.Fields.AddInt("queueId", int64(queue))
	resp.Fields.AddInt("queueOffset", offset)
}

// push gives the reply to its requester. Where that fails it answers the reference's remark.
func (d *Door) push(ctx context.Context, op *sendOp) (remark string) {
	m := &op.one[0]
	requester, ok := message.Property(m.Properties, message.PropReplyToClient)
	if !ok {
		return "reply message properties[" + message.PropReplyToClient + "] is null"
	}
	id := string(requester)
	var conn *wire.Conn
	if cl, there := d.broker.Clients().Producer(id); there {
		conn, _ = cl.Conn.(*wire.Conn)
	}
	if conn == nil {
		return "push reply message fail, channel of <" + id + "> not found."
	}
	if err := d.invokePush(ctx, conn, op); err != nil {
		d.log.Debug().Err(err).Str("client", id).Stringer("peer", conn.Remote()).Msg("a requester did not take its reply")
		return "push reply message to " + id + "fail."
	}
	return ""
}

var errManyPushes = errors.New("too many replies wait for this client")

func (d *Door) invokePush(ctx context.Context, conn *wire.Conn, op *sendOp) error {
	pushes := &conn.Attachment().(*session).pushes
	defer pushes.Add(-1)
	if pushes.Add(1) > maxPushes {
		return errManyPushes
	}
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	cmd := d.pushOf(op)
	answer, err := conn.Invoke(ctx, cmd)
	cmd.Release()
	if err != nil {
		return err
	}
	defer answer.Release()
	if answer.Code != wire.Success {
		return errors.New(answer.Remark)
	}
	return nil
}

// pushOf makes the request with which the reply goes to its requester (326): the fields of the reply by their long names, and
// where and when it passed here. The body is copied, because the connection may write it when the reply is long answered.
func (d *Door) pushOf(op *sendOp) *wire.Command {
	m, now := &op.one[0], time.Now().UnixMilli()
	cmd := wire.NewRequest(wire.PushReplyMessage)
	f := &cmd.Fields
	f.Add("producerGroup", op.send.ProducerGroup)
	f.Add("topic", op.send.Topic)
	f.Add("defaultTopic", op.send.DefaultTopic)
	f.AddInt("defaultTopicQueueNums", int64(op.send.DefaultQueues))
	f.AddInt("queueId", int64(op.send.QueueID))
	f.AddInt("sysFlag", int64(m.SysFlag))
	f.AddInt("bornTimestamp", m.BornTimestamp)
	f.AddInt("flag", int64(m.Flag))
	f.Add("properties", string(message.SetProperty(m.Properties, message.PropPushReplyTime, strconv.FormatInt(now, 10))))
	f.AddInt("reconsumeTimes", int64(m.ReconsumeTimes))
	f.AddBool("unitMode", op.send.Unit)
	f.Add("bornHost", m.BornHost.String())
	f.Add("storeHost", d.broker.Options().Advertise.String())
	f.AddInt("storeTimestamp", now)
	cmd.Body = bytes.Clone(m.Body)
	return cmd
}
