package bench

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/message"
)

// remotingPopper pops as the Java push consumer in POP mode does: POP_MESSAGE of all queues, receipts put together here,
// ACK_MESSAGE for each message or BATCH_ACK_MESSAGE for those of one pop.
type remotingPopper struct {
	t    *remotingTarget
	conn *wire.Client
}

func (t *remotingTarget) popper(_ context.Context, worker int) (popper, error) {
	return &remotingPopper{t: t, conn: t.conns[worker%len(t.conns)]}, nil
}

func (p *remotingPopper) pop(ctx context.Context, at place, f func([]byte, popped)) (time.Time, error) {
	o := p.t.o
	req := wire.NewRequest(wire.PopMessage)
	h := &req.Fields
	h.Add("consumerGroup", at.group)
	h.Add("topic", at.topic)
	h.AddInt("queueId", -1)
	h.AddInt("maxMsgNums", int64(o.Batch))
	h.AddInt("invisibleTime", o.Pop.Invisible.Milliseconds())
	h.AddInt("pollTime", o.Pop.Hold.Milliseconds())
	h.AddInt("bornTime", time.Now().UnixMilli())
	h.AddInt("initMode", 0) // from the oldest message
	kind, expression := o.Pop.Filter.expression()
	h.Add("expType", kind)
	h.Add("exp", expression)
	h.AddBool("order", false)
	ctx, cancel := context.WithTimeout(ctx, o.Pop.Hold+callTimeout)
	defer cancel()
	resp, err := p.conn.Invoke(ctx, req)
	if err != nil {
		return time.Time{}, err
	}
	defer resp.Release()
	switch resp.Code {
	case wire.Success:
		return p.answer(resp, f)
	case wire.PollingFull:
		return time.Time{}, errBusy
	case wire.PollingTimeout, wire.PullNotFound, wire.PullRetryImmediately:
		return time.Time{}, nil
	}
	return time.Time{}, fmt.Errorf("code %d: %s", resp.Code, resp.Remark)
}

// expression is the filter as Remoting names it.
func (f Filter) expression() (kind, expression string) {
	switch f {
	case FilterTag:
		return "TAG", tagHit
	case FilterSQL:
		return "SQL92", propKind + " = '" + tagHit + "'"
	}
	return "TAG", "*"
}

func (p *remotingPopper) answer(resp *wire.Command, f func([]byte, popped)) (time.Time, error) {
	poppedAt, err := resp.Fields.Int64("popTime")
	if err != nil {
		return time.Time{}, err
	}
	common := fmt.Sprintf("%d %s %s", poppedAt, resp.Fields.Text("invisibleTime"), resp.Fields.Text("reviveQid"))
	starts := startsOf(resp.Fields.Text("startOffsetInfo"))
	for rest := resp.Body; len(rest) > 0; {
		m, size, err := message.Decode(rest)
		if err != nil {
			return time.Time{}, err
		}
		rest = rest[size:]
		handle := ""
		if ck, ok := message.Property(m.Properties, message.PropPopCK); ok {
			handle = string(ck) // messages that come again have it in the Java broker
		} else {
			retry := retryOf(m.Topic)
			start, ok := starts[retry+" "+strconv.Itoa(int(m.QueueID))]
			if !ok {
				start = strconv.FormatInt(m.QueueOffset, 10)
			}
			handle = fmt.Sprintf("%s %s %s %s %d %d", start, common, retry, p.t.name, m.QueueID, m.QueueOffset)
		}
		f(m.Body, popped{handle: handle})
	}
	return time.UnixMilli(poppedAt), nil
}

// startsOf reads startOffsetInfo, "0 3 17;0 4 5": the first offset, by kind of topic and queue.
func startsOf(info string) map[string]string {
	out := map[string]string{}
	for part := range strings.SplitSeq(info, ";") {
		if at := strings.LastIndexByte(part, ' '); at > 0 {
			out[part[:at]] = part[at+1:]
		}
	}
	return out
}

// Kinds of topics in receipts (ExtraInfoUtil of the Java client).
const (
	retryNone = "0"
	retryV1   = "1" // %RETRY%group_topic
	retryV2   = "2" // %RETRY%group+topic
)

const retryPrefix = "%RETRY%"

func retryOf(topic string) string {
	switch {
	case !strings.HasPrefix(topic, retryPrefix):
		return retryNone
	case strings.Contains(topic, "+"):
		return retryV2
	}
	return retryV1
}

// popCheck is a receipt taken apart: the property POP_CK.
type popCheck struct {
	start, poppedAt, invisible, revive int64
	retry                              string
	queue                              int32
	offset                             int64
}

const popCheckFields = 8

func parsePopCheck(handle string) (c popCheck, err error) {
	f := strings.Split(handle, " ")
	if len(f) != popCheckFields {
		return c, fmt.Errorf("receipt %q has %d fields, not %d", handle, len(f), popCheckFields)
	}
	numbers := [6]int64{}
	for i, at := range [6]int{0, 1, 2, 3, 6, 7} {
		if numbers[i], err = strconv.ParseInt(f[at], 10, 64); err != nil {
			return c, fmt.Errorf("receipt %q: %w", handle, err)
		}
	}
	return popCheck{start: numbers[0], poppedAt: numbers[1], invisible: numbers[2], revive: numbers[3], retry: f[4],
		queue: int32(numbers[4]), offset: numbers[5]}, nil
}

// topic is where the message lies.
func (c *popCheck) topic(at place) string {
	switch c.retry {
	case retryV1:
		return retryPrefix + at.group + "_" + at.topic
	case retryV2:
		return retryPrefix + at.group + "+" + at.topic
	}
	return at.topic
}

func (p *remotingPopper) ack(ctx context.Context, at place, ms []popped) error {
	if len(ms) > 1 || p.t.o.Pop.Ack == AckBatch {
		return p.ackBatch(ctx, at, ms)
	}
	c, err := parsePopCheck(ms[0].handle)
	if err != nil {
		return err
	}
	req := wire.NewRequest(wire.AckMessage)
	req.Fields.Add("consumerGroup", at.group)
	req.Fields.Add("topic", c.topic(at))
	req.Fields.AddInt("queueId", int64(c.queue))
	req.Fields.Add("extraInfo", ms[0].handle)
	req.Fields.AddInt("offset", c.offset)
	return p.settle(ctx, req)
}

func (p *remotingPopper) settle(ctx context.Context, req *wire.Command) error {
	resp, err := call(ctx, p.conn, req)
	if err != nil {
		return err
	}
	resp.Release()
	return nil
}

func (p *remotingPopper) ackBatch(ctx context.Context, at place, ms []popped) error {
	acks, err := batchAcks(at, ms)
	if err != nil {
		return err
	}
	req := wire.NewRequest(wire.BatchAckMessage)
	if req.Body, err = json.Marshal(map[string]any{"brokerName": p.t.name, "acks": acks}); err != nil {
		return err
	}
	return p.settle(ctx, req)
}

// ackOfMany is BatchAck: messages of one queue and one pop.
type ackOfMany struct {
	Group     string `json:"c"`
	Topic     string `json:"t"`
	Retry     string `json:"r"`
	Start     int64  `json:"so"`
	Queue     int32  `json:"q"`
	Revive    int64  `json:"rq"`
	PoppedAt  int64  `json:"pt"`
	Invisible int64  `json:"it"`
	Offsets   string `json:"b"` // base64 of a set of bits, the lowest of the first byte first: offsets from Start
	set       []byte
}

// maxOffsetSpan bounds how far an offset is from its start, so that no receipt makes a huge set.
const maxOffsetSpan = 1 << 20

func batchAcks(at place, ms []popped) (out []*ackOfMany, err error) {
	by := map[popCheck]*ackOfMany{}
	for _, m := range ms {
		c, err := parsePopCheck(m.handle)
		if err != nil {
			return nil, err
		}
		span := c.offset - c.start
		if span < 0 || span > maxOffsetSpan {
			return nil, fmt.Errorf("receipt %q: the offset is not behind its start", m.handle)
		}
		c.offset = 0
		a := by[c]
		if a == nil {
			a = &ackOfMany{Group: at.group, Topic: at.topic, Retry: c.retry, Start: c.start, Queue: c.queue, Revive: c.revive,
				PoppedAt: c.poppedAt, Invisible: c.invisible}
			by[c] = a
			out = append(out, a)
		}
		for int64(len(a.set)) <= span/8 {
			a.set = append(a.set, 0)
		}
		a.set[span/8] |= 1 << (span % 8)
	}
	for _, a := range out {
		a.Offsets = base64.StdEncoding.EncodeToString(a.set)
	}
	return out, nil
}
