package bench

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/message"
)

// remotingPopper pops as the Java push consumer in POP mode does: POP_MESSAGE of all queues, receipts put together here,
// ACK_MESSAGE for each message, or BATCH_ACK_MESSAGE for those of one pop.
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
	req.Release()
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
	var pop popCheck // what all receipts of the pop have in common
	var err error
	for key, at := range map[string]*int64{"popTime": &pop.poppedAt, "invisibleTime": &pop.invisible, "reviveQid": &pop.revive} {
		if *at, err = resp.Fields.Int64(key); err != nil {
			return time.Time{}, err
		}
	}
	starts := startsOf(resp.Fields.Text("startOffsetInfo"))
	for rest := resp.Body; len(rest) > 0; {
		m, size, err := message.Decode(rest)
		if err != nil {
			return time.Time{}, err
		}
		rest = rest[size:]
		c, handle := pop, ""
		if ck, ok := message.Property(m.Properties, message.PropPopCK); ok {
			handle = string(ck) // messages that come again have it in the Java broker
			if c, err = parsePopCheck(handle); err != nil {
				return time.Time{}, err
			}
		} else {
			c.retry, c.queue, c.offset, c.start = retryOf(m.Topic), m.QueueID, m.QueueOffset, m.QueueOffset
			if start, ok := starts[c.retry+" "+strconv.Itoa(int(m.QueueID))]; ok {
				c.start = start
			}
			handle = c.handle(p.t.name)
		}
		f(m.Body, popped{handle: handle, check: c})
	}
	return time.UnixMilli(pop.poppedAt), nil
}

// startsOf reads startOffsetInfo, "0 3 17;0 4 5": the first offset, by kind of topic and queue.
func startsOf(info string) map[string]int64 {
	out := map[string]int64{}
	for part := range strings.SplitSeq(info, ";") {
		if at := strings.LastIndexByte(part, ' '); at > 0 {
			if start, err := strconv.ParseInt(part[at+1:], 10, 64); err == nil {
				out[part[:at]] = start
			}
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

// handle is the receipt as the client sends it, for messages of the broker of that name.
func (c *popCheck) handle(broker string) string {
	b := make([]byte, 0, 96)
	for _, n := range [4]int64{c.start, c.poppedAt, c.invisible, c.revive} {
		b = append(strconv.AppendInt(b, n, 10), ' ')
	}
	b = append(append(b, c.retry...), ' ')
	b = append(append(b, broker...), ' ')
	b = append(strconv.AppendInt(b, int64(c.queue), 10), ' ')
	return string(strconv.AppendInt(b, c.offset, 10))
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

func (p *remotingPopper) ackEach(_ context.Context, at place, ms []popped, done func(error)) {
	var all sync.WaitGroup
	all.Add(len(ms))
	answered := func(resp *wire.Command, err error) {
		defer all.Done()
		if err == nil {
			err = succeeded(resp)
			resp.Release()
		}
		done(err)
	}
	late := time.AfterFunc(callTimeout, p.conn.Close) // ends all calls
	defer late.Stop()
	for i := range ms {
		m := &ms[i]
		req := wire.NewRequest(wire.AckMessage)
		req.Fields.Add("consumerGroup", at.group)
		req.Fields.Add("topic", m.check.topic(at))
		req.Fields.AddInt("queueId", int64(m.check.queue))
		req.Fields.Add("extraInfo", m.handle)
		req.Fields.AddInt("offset", m.check.offset)
		if err := p.conn.InvokeAsync(req, answered); err != nil {
			all.Done()
			done(err)
		}
		req.Release()
	}
	all.Wait()
}

func (p *remotingPopper) ackTogether(ctx context.Context, at place, ms []popped) error {
	acks, err := batchAcks(at, ms)
	if err != nil {
		return err
	}
	req := wire.NewRequest(wire.BatchAckMessage)
	if req.Body, err = json.Marshal(map[string]any{"brokerName": p.t.name, "acks": acks}); err != nil {
		return err
	}
	resp, err := call(ctx, p.conn, req)
	if err != nil {
		return err
	}
	resp.Release()
	return nil
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
		c := m.check
		span := c.offset - c.start
		if span < 0 || span > maxOffsetSpan {
			return nil, fmt.Errorf("receipt %q: the offset is before its start", m.handle)
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
