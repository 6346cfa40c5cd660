package remoting

import (
	"cmp"
	"context"
	"math"
	"time"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/filter"
	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/message"
)

func init() {
	serveInline(wire.PopMessage, "POP_MESSAGE", TierClient, popMessage)
	serveInline(wire.Notification, "NOTIFICATION", TierClient, notification)
	servePooled(wire.PeekMessage, "PEEK_MESSAGE", TierAdmin, peekMessage)
	servePooled(wire.PollingInfo, "POLLING_INFO", TierAdmin, pollingInfo)
}

// initMin is the initMode of a consumer that wants to begin with the oldest message (ConsumeInitMode.MIN).
const initMin = 0

// maxMillis is the longest time in ms that a time.Duration can hold, 292 years.
const maxMillis = int64(math.MaxInt64 / time.Millisecond)

// millis is a number of ms from the wire; all that is below 0 is −1 ms.
func millis(n int64) time.Duration {
	return time.Duration(max(-1, min(n, maxMillis))) * time.Millisecond
}

// maxBeingAnswered is how many bytes of popped messages may be on their way to clients; above that nothing is popped.
const maxBeingAnswered = 256 << 20

// heldPop is a pop or a notification whose answer may have to wait.
type heldPop struct {
	s    *session
	d    *Door
	req  *wire.Command
	pop  broker.PopRequest
	held held
}

// popMessage serves code 200050.
func popMessage(d *Door, s *session, req *wire.Command) {
	h := &heldPop{s: s, d: d, req: req}
	err := h.read()
	if err == nil && d.answering.Load() > maxBeingAnswered {
		err = refuse(wire.PollingFull, "clients are slow to take what they have asked for")
	}
	if err != nil {
		s.conn.Respond(req, h.refused(err))
		return
	}
	s.hold(&h.held, d.broker.PopAsync(&h.pop, h.answerPop))
}

// read makes the broker's request of the header of a pop. bornTime, by which the reference turns away what was long under way,
// is not looked at: it is the client's clock, and how long the client has been waiting it knows best itself.
func (h *heldPop) read() error {
	if err := h.readPlace(); err != nil {
		return err
	}
	f, p := h.req.Fields, &h.pop
	most, err := f.Int32("maxMsgNums")
	if err != nil {
		return err
	}
	invisible, err := f.Int64("invisibleTime")
	if err != nil {
		return err
	}
	mode, err := f.Int32Or("initMode", initMin)
	if err != nil {
		return err
	}
	p.Max, p.FromMin, p.ShortNonce = int(most), mode == initMin, true
	p.Invisible = millis(invisible)
	p.AttemptID = f.Text("attemptId")
	return nil
}

// readPlace reads what pops and notifications have in common.
func (h *heldPop) readPlace() (err error) {
	f, p := h.req.Fields, &h.pop
	if p.Group, p.Topic, p.Queue, err = groupQueueOf(h.req); err != nil {
		return err
	}
	wait, err := f.Int64Or("pollTime", 0)
	if err != nil {
		return err
	}
	if wait > 0 && !h.d.closing.Load() {
		p.Wait = min(millis(wait), maxSuspend)
	}
	if p.QueueOrder, err = f.BoolOr("order", false); err != nil {
		return err
	}
	p.Filter, err = h.filter()
	return err
}

// groupQueueOf reads whose queue a request is about.
func groupQueueOf(req *wire.Command) (group, topic string, queue int32, err error) {
	if topic, queue, err = queueOf(req); err == nil {
		group, err = req.Fields.Need("consumerGroup")
	}
	return group, topic, queue, err
}

func (h *heldPop) filter() (*filter.Expr, error) {
	f, err := h.s.parse(expression{h.req.Fields.Text("expType"), h.req.Fields.Text("exp")})
	if err != nil {
		return nil, refuse(wire.SubscriptionParseFailed, "parse the consumer's subscription failed: %v", err)
	}
	return f, nil
}

// answerPop is the broker's callback.
func (h *heldPop) answerPop(res *broker.PopResult, err error) {
	h.s.unhold(&h.held)
	h.req.Waited = err == nil && res.Waited
	if err != nil {
		h.s.conn.Respond(h.req, h.refused(err))
		return
	}
	if len(res.Ends) == 0 {
		resp := h.req.Reply(wire.PollingTimeout, "NO_MESSAGE_IN_QUEUE")
		h.addNothing(resp, h.pop.Invisible)
		h.s.conn.Respond(h.req, resp)
		return
	}
	p, err := poppedOf(res)
	if err != nil || h.s.hasEnded() {
		res.Buffer.Release()
		h.giveBack(res.Receipts())
		h.s.conn.Respond(h.req, h.d.errorReply(h.req, cmp.Or(err, context.Canceled)))
		return
	}
	resp := h.req.Reply(wire.Success, "FOUND")
	p.addTo(&resp.Fields)
	resp.Fields.AddInt("restNum", h.rest(&p))
	start, all := p.offsets()
	resp.Fields.Add("startOffsetInfo", start)
	resp.Fields.Add("msgOffsetInfo", all)
	respondMessages(resp, res)
	h.d.countAnswer(resp)
	h.s.conn.Respond(h.req, resp)
}

// countAnswer counts popped messages as being on their way until their answer is sent.
func (d *Door) countAnswer(resp *wire.Command) {
	size, done := int64(len(resp.Body)), resp.BodyDone
	if done == nil {
		return
	}
	d.answering.Add(size)
	resp.BodyDone = func() {
		d.answering.Add(-size)
		done()
	}
}

// giveBack lets others have at once what the client will not get. What that fails for comes when its time is over.
func (h *heldPop) giveBack(receipts []string) {
	ctx, cancel := context.WithTimeout(h.d.ctx, h.d.opts.Timeout)
	defer cancel()
	for _, handle := range receipts {
		if _, err := h.d.broker.GiveBack(ctx, h.pop.Group, h.pop.Topic, handle, 0); err != nil {
			h.d.log.Debug().Err(err).Str("group", h.pop.Group).Str("topic", h.pop.Topic).Msg("cannot give back what nobody takes")
			return
		}
	}
}

// refused is the answer to a pop that was refused: clients that find too many waiting ask again by and by.
func (h *heldPop) refused(err error) *wire.Command {
	resp := h.d.errorReply(h.req, err)
	if broker.CodeOf(err) == broker.CodeBusy {
		resp.Code = wire.PollingFull
	}
	if broker.CodeOf(err) == broker.CodeNoPermission {
		if g, err := h.d.broker.Group(h.pop.Group); err == nil && !g.ConsumeEnable {
			resp.Remark = "subscription group no permission, " + h.pop.Group
		}
	}
	if !isUnreadable(err) {
		h.addNothing(resp, 0)
	}
	return resp
}

// addNothing adds the fields of an answer that has no messages.
func (h *heldPop) addNothing(resp *wire.Command, invisible time.Duration) {
	receipt{poppedAt: h.d.broker.Options().Clock.Now().UnixMilli(), invisible: invisible.Milliseconds()}.addTo(&resp.Fields)
	resp.Fields.AddInt("restNum", 0)
}

// rest is how many messages the queues that gave some have left. The others are not looked at, so that an answer does not cost
// more the more queues a topic has: clients make no use of the number.
func (h *heldPop) rest(p *popped) (n int64) {
	queue := int32(-1)
	for _, at := range p.places {
		if at.queue == queue {
			continue
		}
		queue = at.queue
		if left, err := h.d.broker.Unpopped(h.pop.Group, h.pop.Topic, queue); err == nil {
			n += left
		}
	}
	return n
}

// respondMessages makes popped messages the body of a response. The number of times that a message was delivered before stands in
// its header, as that of earlier rounds does when it went through a retry topic.
func respondMessages(resp *wire.Command, res *broker.PopResult) {
	begin := 0
	for i, end := range res.Ends {
		if layout := res.Buffer.B[begin:end]; res.Attempts[i] > 1 {
			message.PatchReconsumeTimes(layout, message.ReconsumeTimesOf(layout)+res.Attempts[i]-1)
		}
		begin = end
	}
	resp.Body, resp.BodyDone = res.Buffer.B, res.Buffer.Release
}

// notification serves code 200054: it waits until there is something to pop.
func notification(d *Door, s *session, req *wire.Command) {
	h := &heldPop{s: s, d: d, req: req}
	err := h.readPlace()
	if lite, lerr := req.Fields.BoolOr("isLiteConsumer", false); err == nil && (lite || lerr != nil) {
		err = refuse(wire.RequestCodeNotSupported, "lite topics are not supported")
	}
	if err != nil {
		s.conn.Respond(req, h.notNotified(err))
		return
	}
	p := &h.pop
	s.hold(&h.held, d.broker.NotifyAsync(&broker.NotifyRequest{
		Group: p.Group, Topic: p.Topic, Queue: p.Queue, Wait: p.Wait, Filter: p.Filter, QueueOrder: p.QueueOrder,
	}, h.answerNotification))
}

func (h *heldPop) answerNotification(something bool, err error) {
	h.s.unhold(&h.held)
	h.req.Waited = h.pop.Wait > 0
	full := broker.CodeOf(err) == broker.CodeBusy
	if err != nil && !full {
		h.s.conn.Respond(h.req, h.notNotified(err))
		return
	}
	resp := h.req.Reply(wire.Success, "")
	resp.Fields.AddBool("hasMsg", something)
	resp.Fields.AddBool("pollingFull", full)
	h.s.conn.Respond(h.req, resp)
}

// notNotified is the answer to a notification that was refused.
func (h *heldPop) notNotified(err error) *wire.Command {
	resp := h.d.errorReply(h.req, err)
	if !isUnreadable(err) {
		resp.Fields.AddBool("hasMsg", false)
		resp.Fields.AddBool("pollingFull", false)
	}
	return resp
}

// peekMessage serves code 200052: what a pop would find.
func peekMessage(_ context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	group, topic, queue, err := groupQueueOf(req)
	if err != nil {
		return err
	}
	most, err := req.Fields.Int32("maxMsgNums")
	if err != nil {
		return err
	}
	res, err := d.broker.Peek(&broker.PeekRequest{Group: group, Topic: topic, Queue: queue, Max: int(most)})
	if err != nil {
		return err
	}
	resp.Remark = "FOUND"
	receipt{poppedAt: res.PoppedAt}.addTo(&resp.Fields)
	resp.Fields.AddInt("restNum", 0)
	if len(res.Ends) == 0 {
		resp.Code, resp.Remark = wire.PullNotFound, "NO_MESSAGE_IN_QUEUE"
		return nil
	}
	respondMessages(resp, res)
	return nil
}

// pollingInfo serves code 200055: how many pops wait for a queue.
func pollingInfo(_ context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	group, topic, queue, err := groupQueueOf(req)
	if err != nil {
		return err
	}
	n, err := d.broker.Polling(group, topic, queue)
	if err != nil {
		refused := d.errorReply(req, err)
		resp.Code, resp.Remark, n = refused.Code, refused.Remark, 0
		refused.Release()
	}
	resp.Fields.AddInt("pollingNum", int64(n))
	return nil
}
