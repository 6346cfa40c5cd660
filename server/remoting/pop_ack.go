package remoting

import (
	"cmp"
	"context"
	"encoding/base64"
	"math/bits"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/pop"
)

func init() {
	serveInline(wire.AckMessage, "ACK_MESSAGE", TierClient, ackMessage)
	servePooled(wire.BatchAckMessage, "BATCH_ACK_MESSAGE", TierClient, batchAck)
	servePooled(wire.ChangeInvisibleTime, "CHANGE_MESSAGE_INVISIBLETIME", TierClient, changeInvisible)
}

// settling is what names a popped message in a request.
type settling struct {
	group  *catalog.Group
	topic  *catalog.Topic
	handle pop.Handle
}

// settlingOf reads whose message a request settles. What cannot name one is answered as the reference does it: 17 for a topic
// that is not there, 13 for a queue, 208 for an offset that was not given yet.
func settlingOf(d *Door, req *wire.Command) (st settling, err error) {
	group, topic, queue, err := groupQueueOf(req)
	if err != nil {
		return st, err
	}
	if req.Fields.Text("liteTopic") != "" {
		return st, refuse(wire.RequestCodeNotSupported, "lite topics are not supported")
	}
	extra, err := req.Fields.Need("extraInfo")
	if err != nil {
		return st, err
	}
	offset, err := req.Fields.Int64("offset")
	if err != nil {
		return st, err
	}
	if st.topic, st.group, err = d.receiptFor(topic, group, queue); err != nil {
		return st, err
	}
	low, high, err := d.broker.Bounds(st.topic, queue)
	if err != nil {
		return st, err
	}
	if offset < 0 || offset >= high {
		return st, refuse(wire.NoMessage, "offset is illegal, key:%s@%d, commit:%d, store:%d~%d", topic, queue, offset, low, high)
	}
	r, err := parseReceipt(extra)
	if err != nil {
		return st, err
	}
	ok := false
	if st.handle, ok = r.handle(st.group.ID, st.topic.ID, queue, offset); !ok {
		err = refuse(wire.MessageIllegal, "extraInfo names no message: %q", extra)
	}
	return st, err
}

// receiptFor looks up what a receipt is for.
func (d *Door) receiptFor(topic, group string, queue int32) (*catalog.Topic, *catalog.Group, error) {
	t, err := d.broker.Topic(topic)
	if err != nil {
		return nil, nil, err
	}
	if queue < 0 || queue >= t.Queues() {
		return nil, nil, refuse(wire.MessageIllegal, "queueId[%d] is illegal, topic:[%s] readQueueNums:[%d] consumer:[%s]",
			queue, topic, t.ReadQueues, group)
	}
	g, err := d.broker.Group(group)
	return t, g, err
}

// ackMessage serves code 200051. A receipt that is spent or late is 13; the Java client takes every code but 0 for NO_EXIST.
func ackMessage(d *Door, s *session, req *wire.Command) {
	st, err := settlingOf(d, req)
	if err != nil {
		s.conn.Respond(req, d.errorReply(req, err))
		return
	}
	d.broker.AckRead(st.group, st.topic, &st.handle, func(errs []error) {
		if errs[0] != nil {
			s.conn.Respond(req, d.errorReply(req, errs[0]))
			return
		}
		s.conn.Respond(req, req.Reply(wire.Success, ""))
	})
}

// changeInvisible serves code 200053. Consumers ask for it when they have failed; one that suspends did not try to consume the message.
func changeInvisible(ctx context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	st, err := settlingOf(d, req)
	if err != nil {
		return changeRefused(d, req, resp, err)
	}
	ms, err := req.Fields.Int64("invisibleTime")
	if err != nil {
		return err
	}
	suspend, err := req.Fields.BoolOr("suspend", false)
	if err != nil {
		return err
	}
	verb := d.broker.Postpone
	if suspend {
		verb = d.broker.GiveBack
	}
	text, err := verb(ctx, st.group.Name, st.topic.Name, string(st.handle.AppendTo(nil)), millis(ms))
	if err != nil {
		return changeRefused(d, req, resp, err)
	}
	h, err := pop.ParseHandle(text)
	if err != nil {
		return err
	}
	receiptOf(&h).addTo(&resp.Fields)
	return nil
}

// changeRefused answers a refusal with the fields of a success: the Java client reads them before it looks at the code. As in the
// reference a request that cannot be read gets none.
func changeRefused(d *Door, req, resp *wire.Command, err error) error {
	if isUnreadable(err) {
		return err
	}
	refused := d.errorReply(req, err)
	resp.Code, resp.Remark = refused.Code, refused.Remark
	refused.Release()
	receipt{}.addTo(&resp.Fields)
	return nil
}

// ackedBatch is BatchAck: messages of one queue and one pop. Java writes the short names, and reads both.
type ackedBatch struct {
	Group         string `json:"c"`
	LongGroup     string `json:"consumerGroup"`
	Topic         string `json:"t"`
	LongTopic     string `json:"topic"`
	Start         int64  `json:"so"`
	LongStart     int64  `json:"startOffset"`
	Queue         int32  `json:"q"`
	LongQueue     int32  `json:"queueId"`
	Nonce         int64  `json:"rq"`
	LongNonce     int64  `json:"reviveQueueId"`
	PoppedAt      int64  `json:"pt"`
	LongPoppedAt  int64  `json:"popTime"`
	Invisible     int64  `json:"it"`
	LongInvisible int64  `json:"invisibleTime"`
	Offsets       string `json:"b"` // base64 of a set of bits, the lowest of the first byte first: offsets from Start
	LongOffsets   string `json:"bitSet"`
}

// maxBatchAck bounds the messages of one batch of acknowledgements, over all of its queues.
const maxBatchAck = 16384

// batchAck serves code 200151. It is a success whatever becomes of the single messages, as in the reference: there is one code
// for all of them, and who sends many at once does not ask.
func batchAck(ctx context.Context, d *Door, _ *session, req, _ *wire.Command) error {
	var b struct {
		Acks []ackedBatch `json:"acks"`
	}
	if len(req.Body) > 0 {
		if err := readBody(req, &b); err != nil {
			return err
		}
	}
	if len(b.Acks) == 0 {
		return refuse(wire.NoMessage, "nothing to acknowledge")
	}
	type consumer struct{ group, topic string }
	handles := map[consumer][]string{}
	total := 0
	for i := range b.Acks {
		a := &b.Acks[i]
		c := consumer{cmp.Or(a.Group, a.LongGroup), cmp.Or(a.Topic, a.LongTopic)}
		some, err := a.handles(d, c.group, c.topic, maxBatchAck-total)
		if err != nil {
			return err
		}
		total += len(some)
		handles[c] = append(handles[c], some...)
	}
	for c, some := range handles {
		for _, err := range d.broker.Ack(ctx, c.group, c.topic, some) {
			if err != nil && broker.CodeOf(err) != broker.CodeInvalidHandle {
				return err
			}
		}
	}
	return nil
}

// handles are those of the messages that it acknowledges. What cannot be one is left out.
func (a *ackedBatch) handles(d *Door, group, topic string, most int) (handles []string, err error) {
	set, err := base64.StdEncoding.DecodeString(cmp.Or(a.Offsets, a.LongOffsets))
	if err != nil {
		return nil, refuse(wire.MessageIllegal, "a set of offsets is no base64: %v", err)
	}
	queue := cmp.Or(a.Queue, a.LongQueue)
	t, g, err := d.receiptFor(topic, group, queue)
	if err != nil {
		return nil, nil //nolint:nilerr // the reference passes over what is not there
	}
	r := receipt{cmp.Or(a.PoppedAt, a.LongPoppedAt), cmp.Or(a.Invisible, a.LongInvisible), cmp.Or(a.Nonce, a.LongNonce)}
	for i, b := range set {
		for ; b != 0; b &= b - 1 {
			if len(handles) == most {
				return nil, refuse(wire.InvalidParameter, "more than %d messages acknowledged at once", maxBatchAck)
			}
			offset := cmp.Or(a.Start, a.LongStart) + int64(8*i+bits.TrailingZeros8(b))
			if h, ok := r.handle(g.ID, t.ID, queue, offset); ok {
				handles = append(handles, string(h.AppendTo(nil)))
			}
		}
	}
	return handles, nil
}
