package remoting

import (
	"context"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/store"
)

func init() {
	serveInline(wire.EndTransaction, "END_TRANSACTION", TierClient, endTransaction)
	servePooled(wire.ResumeCheckHalfMessage, "RESUME_CHECK_HALF_MESSAGE", TierAdmin, resumeCheck)
}

// maxCheckBacklog is how many bytes may wait for a producer to read them before it is passed over by checks: another of its
// group may be able to answer, and the connection has its sends to answer first.
const maxCheckBacklog = 8 << 20

// endTransaction serves code 37. Producers send it one-way; what they do not learn, a check will bring up again. It runs on the
// reader goroutine; the answer comes from the broker's folder. There is none to a producer that does not know yet.
func endTransaction(d *Door, s *session, req *wire.Command) {
	r, err := endOf(req)
	if err != nil {
		s.conn.Respond(req, d.errorReply(req, err))
		return
	}
	if r.Resolution == broker.TransactionUnknown {
		req.Release()
		return
	}
	d.broker.EndTransactionAsync(r, func(err error) {
		if err == nil {
			s.conn.Respond(req, req.Reply(wire.Success, ""))
			return
		}
		d.log.Debug().Err(err).Str("group", r.Group).Int64("position", int64(r.Position)).Msg("the end of a transaction was refused")
		s.conn.Respond(req, d.errorReply(req, endError(err)))
	})
}

// endOf reads the request. Position and producer group say which half message is meant, as in the reference. The topic is not
// looked at: Java clients with a namespace leave that out of it here.
func endOf(req *wire.Command) (*broker.EndTransactionRequest, error) {
	f := req.Fields
	group, err := f.Need("producerGroup")
	if err != nil {
		return nil, err
	}
	at, err := f.Int64("commitLogOffset")
	if err != nil {
		return nil, err
	}
	if at < 0 {
		return nil, refuse(wire.SystemError, "there is no half message at %d", at)
	}
	flag, err := f.Int32("commitOrRollback")
	if err != nil {
		return nil, err
	}
	r := &broker.EndTransactionRequest{Group: group, Position: record.Position(at), UniqueID: uniqueIDOf(f, at)}
	switch flag {
	case 0:
		r.Resolution = broker.TransactionUnknown
	case message.FlagCommit:
		r.Resolution = broker.TransactionCommit
	case message.FlagRollback:
		r.Resolution = broker.TransactionRollback
	default:
		return nil, refuse(wire.SystemError, "commitOrRollback %d is none of 0 (unknown), %d (commit), %d (rollback)", flag,
			message.FlagCommit, message.FlagRollback)
	}
	r.FromCheck, err = f.BoolOr("fromTransactionCheck", false)
	return r, err
}

// uniqueIDOf is the unique id of the half message at a position as far as the request names it. Some clients put the offset id
// where others put the unique one; that says no more than the position.
func uniqueIDOf(f wire.Fields, at int64) string {
	for _, key := range []string{"transactionId", "msgId"} {
		id := f.Text(key)
		if id == "" {
			continue
		}
		if _, named, err := message.ParseOffsetID(id); err != nil || named != at {
			return id
		}
	}
	return ""
}

// endError gives a refusal the code that the reference has for it.
func endError(err error) error {
	switch broker.CodeOf(err) {
	case broker.CodeNotFound, broker.CodeParameter, broker.CodeTopicNotFound:
		return refuse(wire.SystemError, "%v", err)
	}
	return err
}

// checkTransaction asks a producer for the end of a transaction, which it answers with code 37; false when it cannot be asked.
func (d *Door) checkTransaction(s *session, c *broker.TransactionCheck) bool {
	if s.conn.Queued() > maxCheckBacklog {
		return false
	}
	at := int64(c.Half.Position)
	cmd := wire.NewRequest(wire.CheckTransactionState)
	cmd.Fields.Add("topic", c.Topic)
	cmd.Fields.AddInt("tranStateTableOffset", 0)
	cmd.Fields.AddInt("commitLogOffset", at)
	cmd.Fields.Add("msgId", c.UniqueID)
	cmd.Fields.Add("transactionId", c.UniqueID)
	cmd.Fields.Add("offsetMsgId", d.broker.OffsetID(c.Half.Position))
	buf := store.NewBuffer() // the layout is the caller's, and may be written later
	buf.B = append(buf.B[:0], c.Layout...)
	cmd.Body, cmd.BodyDone = buf.B, buf.Release
	err := s.conn.OneWay(cmd)
	cmd.Release()
	if err != nil {
		d.log.Debug().Err(err).Stringer("peer", s.conn.Remote()).Str("group", c.Group).Msg("cannot ask a producer for the end of a transaction")
	}
	return err == nil
}

// resumeCheck serves code 323: an operator wants the producers of a half message, named by its offset id, to be asked now.
func resumeCheck(ctx context.Context, d *Door, _ *session, req, _ *wire.Command) error {
	id, err := req.Fields.Need("msgId")
	if err != nil {
		return err
	}
	_, at, err := message.ParseOffsetID(id)
	if err != nil {
		return refuse(wire.InvalidParameter, "%v", err)
	}
	return endError(d.broker.ResumeCheck(ctx, req.Fields.Text("topic"), record.Position(at)))
}
