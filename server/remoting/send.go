package remoting

import (
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/message"
)

func init() {
	serveInline(wire.SendMessage, "SEND_MESSAGE", TierClient, send)
	serveInline(wire.SendMessageV2, "SEND_MESSAGE_V2", TierClient, send)
	serveInline(wire.SendBatchMessage, "SEND_BATCH_MESSAGE", TierClient, send)
}

// regionID goes back with every send, as the trace of Java clients wants it.
const regionID = "DefaultRegion"

// sendOp is one send request under way. It is pooled, so that a send costs no allocation of its own.
type sendOp struct {
	d     *Door
	s     *session
	req   *wire.Command
	send  broker.SendRequest
	one   [1]message.Message
	props []byte
	batch bool
	done  func([]broker.SendResult, error) // answer, made once
	users atomic.Int32                     // send and answer: the later one gives the op back
}

var sendOps sync.Pool

func newSendOp() *sendOp {
	op, ok := sendOps.Get().(*sendOp)
	if !ok {
		op = &sendOp{}
		op.done = op.answer
	}
	return op
}

// send serves codes 10, 310 and 320. Delays and transactions are asked for by properties, which the verb reads. It runs on the reader goroutine; the answer comes from the broker's folder.
func send(d *Door, s *session, req *wire.Command) {
	op := newSendOp()
	op.d, op.s, op.req = d, s, req
	op.users.Store(2)
	if err := op.read(); err != nil {
		op.answer(nil, err)
	} else {
		d.broker.SendAsync(&op.send, op.done)
	}
	op.release()
}

// read makes the broker's request of the header and the body. Both header forms may come with either code.
func (op *sendOp) read() error {
	m := &op.one[0]
	*m = message.Message{}
	op.batch = op.req.Code == wire.SendBatchMessage
	if err := op.readFields(m); err != nil {
		return err
	}
	switch {
	case op.send.Topic == "" && !op.namesTopic():
		return &wire.FieldError{Field: "topic", Missing: true}
	case op.send.Topic == "":
		return refuse(wire.InvalidParameter, "The specified topic is blank.")
	case len(op.req.Body) == 0:
		return &unreadable{"the message has no body"}
	}
	m.Topic, m.QueueID = op.send.Topic, op.send.QueueID
	m.BornHost = op.s.conn.Remote()
	m.Body, m.Properties = op.req.Body, op.props
	if !op.batch {
		op.send.Messages = op.one[:]
		return nil
	}
	messages, err := message.DecodeBatch(op.req.Body)
	if err != nil {
		return &unreadable{"batch: " + err.Error()}
	}
	for i := range messages {
		b := &messages[i]
		b.Topic, b.QueueID, b.SysFlag, b.BornTimestamp, b.BornHost = m.Topic, m.QueueID, m.SysFlag, m.BornTimestamp, m.BornHost
		b.ReconsumeTimes = m.ReconsumeTimes
	}
	op.send.Messages = messages
	return nil
}

// namesTopic tells whether the field of the topic is there: clients may leave it empty.
func (op *sendOp) namesTopic() bool {
	_, short := op.req.Fields.Get("b")
	_, long := op.req.Fields.Get("topic")
	return short || long
}

// readFields goes through the header once: looking a dozen keys up one by one would cost more.
func (op *sendOp) readFields(m *message.Message) (err error) {
	r := &op.send
	seen := 0
	for i := range op.req.Fields {
		f := &op.req.Fields[i]
		if f.Value == "" {
			continue
		}
		switch f.Key {
		case "a", "producerGroup":
			r.ProducerGroup = f.Value
		case "b", "topic":
			r.Topic = f.Value
		case "c", "defaultTopic":
			r.DefaultTopic = f.Value
		case "d", "defaultTopicQueueNums":
			r.DefaultQueues, err = wire.ParseInt32("defaultTopicQueueNums", f.Value)
		case "e", "queueId":
			seen |= 1
			r.QueueID, err = wire.ParseInt32("queueId", f.Value)
		case "f", "sysFlag":
			m.SysFlag, err = wire.ParseInt32("sysFlag", f.Value)
		case "g", "bornTimestamp":
			seen |= 2
			m.BornTimestamp, err = wire.ParseInt64("bornTimestamp", f.Value)
		case "h", "flag":
			m.Flag, err = wire.ParseInt32("flag", f.Value)
		case "i", "properties":
			op.props = append(op.props[:0], f.Value...)
		case "j", "reconsumeTimes":
			m.ReconsumeTimes, err = wire.ParseInt32("reconsumeTimes", f.Value)
		case "k", "unitMode":
			r.Unit, err = wire.ParseBool("unitMode", f.Value)
		case "l", "maxReconsumeTimes":
			r.MaxReconsume, err = wire.ParseInt32("maxReconsumeTimes", f.Value)
		case "m", "batch":
			var batch bool
			batch, err = wire.ParseBool("batch", f.Value)
			op.batch = op.batch || batch
		}
		if err != nil {
			return err
		}
	}
	if seen&1 == 0 {
		return &wire.FieldError{Field: "queueId", Missing: true}
	}
	if seen&2 == 0 {
		return &wire.FieldError{Field: "bornTimestamp", Missing: true}
	}
	return nil
}

// answer is the broker's callback. It does not block.
func (op *sendOp) answer(results []broker.SendResult, err error) {
	req, conn := op.req, op.s.conn
	var resp *wire.Command
	switch {
	case err != nil:
		resp = op.d.errorReply(req, err)
	case req.IsOneWay():
		resp = req.Reply(wire.Success, "")
	default:
		resp = req.Reply(wire.Success, "")
		first := &results[0]
		id := op.d.broker.OffsetID(first.Position)
		if len(results) > 1 {
			id = op.d.joinOffsetIDs(id, results[1:])
		} else {
			resp.Fields.Add("transactionId", first.UniqueID)
		}
		resp.Fields.Add("msgId", id)
		resp.Fields.AddInt("queueId", int64(first.QueueID))
		resp.Fields.AddInt("queueOffset", queueOffset(first))
		if first.RecallHandle != "" {
			resp.Fields.Add("recallHandle", first.RecallHandle)
		}
	}
	if !isUnreadable(err) {
		addTraceFields(resp)
	}
	op.release()
	conn.Respond(req, resp)
}

// addTraceFields adds what every answer to a send that could be read has.
func addTraceFields(resp *wire.Command) {
	resp.Fields.Add("MSG_REGION", regionID)
	resp.Fields.Add("TRACE_ON", "true")
}

// queueOffset is 0 for a message that is not in its queue yet. Producers give that of a half message back with the end of its
// transaction, where the position in msgId is what counts.
func queueOffset(r *broker.SendResult) int64 {
	if r.TransactionID != "" || r.RecallHandle != "" {
		return 0
	}
	return r.QueueOffset
}

func (d *Door) joinOffsetIDs(first string, others []broker.SendResult) string {
	var b strings.Builder
	b.Grow((1 + len(others)) * (len(first) + 1))
	b.WriteString(first)
	for i := range others {
		b.WriteByte(',')
		b.WriteString(d.broker.OffsetID(others[i].Position))
	}
	return b.String()
}

func (op *sendOp) release() {
	if op.users.Add(-1) > 0 {
		return
	}
	op.d, op.s, op.req = nil, nil, nil
	op.send = broker.SendRequest{}
	op.one[0] = message.Message{}
	op.props = op.props[:0]
	sendOps.Put(op)
}
