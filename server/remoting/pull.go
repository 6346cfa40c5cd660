package remoting

import (
	"time"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/filter"
	"github.com/cairnmq/cairn/internal/wire"
)

func init() {
	serveInline(wire.PullMessage, "PULL_MESSAGE", TierClient, pull)
	serveInline(wire.LitePullMessage, "LITE_PULL_MESSAGE", TierClient, pull)
}

// Bits of a pull's sysFlag.
const (
	pullCommits      = 1 // commitOffset is to be committed
	pullSuspends     = 2 // wait when there is nothing
	pullSubscription = 4 // subscription and expressionType are in the header
)

const maxSuspend = 2 * time.Minute

// heldPull is a pull whose answer may have to wait.
type heldPull struct {
	s    *session
	d    *Door
	req  *wire.Command
	pull broker.PullRequest
	held held
	// virtual is the consumer whose virtual queue is pulled from; nil: the queue itself is.
	virtual *broker.VirtualConsumer
	// forbidden is what the pull is kept from; 0: the broker says.
	forbidden int64
}

// pull serves codes 11 and 361.
func pull(d *Door, s *session, req *wire.Command) {
	h := &heldPull{s: s, d: d, req: req}
	if err := h.read(); err != nil {
		s.conn.Respond(req, h.refused(err))
		return
	}
	verb := d.broker.PullAsync
	if h.virtual != nil {
		verb = h.virtual.PullAsync
	}
	cancel := verb(&h.pull, h.answer)
	if h.pull.Suspend > 0 {
		s.hold(&h.held, cancel)
	}
}

// read makes the broker's request of the header.
func (h *heldPull) read() error {
	f, p := h.req.Fields, &h.pull
	var sysFlag, suspend int64
	var err error
	number := func(key string) (n int64) {
		if err == nil {
			n, err = f.Int64(key)
		}
		return n
	}
	p.QueueID, err = f.Int32("queueId")
	p.Offset = number("queueOffset")
	p.MaxMessages = int(number("maxMsgNums"))
	sysFlag = number("sysFlag")
	p.CommitOffset = number("commitOffset")
	suspend = number("suspendTimeoutMillis")
	if err != nil {
		return err
	}
	if p.Group, err = f.Need("consumerGroup"); err != nil {
		return err
	}
	if p.Topic, err = f.Need("topic"); err != nil {
		return err
	}
	bytes, err := f.Int32Or("maxMsgBytes", 0)
	if err != nil {
		return err
	}
	if f.Text("liteTopic") != "" {
		return refuse(wire.RequestCodeNotSupported, "lite topics are not supported")
	}
	if p.MaxMessages <= 0 {
		return refuse(wire.InvalidParameter, "maxMsgNums is %d", p.MaxMessages)
	}
	if bytes > 0 {
		p.MaxBytes = int(bytes)
	}
	if sysFlag&pullCommits == 0 {
		p.CommitOffset = -1
	}
	if sysFlag&pullSuspends != 0 && suspend > 0 && !h.d.closing.Load() {
		p.Suspend = min(time.Duration(suspend)*time.Millisecond, maxSuspend)
	}
	if p.Filter, err = h.filter(sysFlag&pullSubscription != 0); err != nil {
		return err
	}
	h.virtual, err = h.d.virtualOf(h.s, p.Group)
	if err == nil && h.virtual != nil && h.d.answering.Load() > maxBeingAnswered {
		err = refuse(wire.SystemBusy, "clients are slow to take what they have asked for")
	}
	return err
}

// filter finds what the consumer wants: in the header, or in what its group said in heartbeats.
func (h *heldPull) filter(inHeader bool) (*filter.Expr, error) {
	said := expression{h.req.Fields.Text("expressionType"), h.req.Fields.Text("subscription")}
	if inHeader {
		return h.parse(said)
	}
	sub, ok := h.d.broker.Clients().Subscription(h.pull.Group, h.pull.Topic)
	if !ok {
		if _, _, ok := h.d.broker.Clients().Consumers(h.pull.Group); !ok {
			return nil, refuse(wire.SubscriptionNotExist, "the consumer's group info not exist%s", faq)
		}
		return nil, refuse(wire.SubscriptionNotExist, "the consumer's subscription not exist%s", faq)
	}
	version, err := h.req.Fields.Int64Or("subVersion", 0)
	if err != nil {
		return nil, err
	}
	if err := h.mayBroadcast(); err != nil {
		return nil, err
	}
	if sub.ClassFilter { // there are no filter servers: the client gets everything
		return h.parse(expression{text: "*"})
	}
	if version <= sub.Version {
		return h.parse(expression{sub.ExpressionType, sub.Expression})
	}
	// The heartbeat with the newer subscription is still under way.
	if !filter.IsTag(sub.ExpressionType) || !filter.IsTag(said.kind) {
		return nil, refuse(wire.SubscriptionNotLatest, "the consumer's subscription not latest: the heartbeat with it is not there yet")
	}
	// Clients check tags themselves, so giving them everything is right whatever has changed, and better than having them
	// wait for seconds.
	return h.parse(expression{text: "*"})
}

func (h *heldPull) parse(e expression) (*filter.Expr, error) {
	f, err := h.s.parse(e)
	if err != nil {
		return nil, refuse(wire.SubscriptionParseFailed, "parse the consumer's subscription failed: %v", err)
	}
	return f, nil
}

// mayBroadcast refuses broadcasting where the group does not allow it.
func (h *heldPull) mayBroadcast() error {
	g, err := h.d.broker.Group(h.pull.Group)
	if err != nil || g.ConsumeBroadcastEnable {
		return nil // a missing group is PullAsync's to refuse
	}
	if _, info, ok := h.d.broker.Clients().Consumers(h.pull.Group); ok && info.MessageModel == modelBroadcasting {
		h.forbidden = broadcastIsForbidden
		return refuse(wire.NoPermission, "the consumer group[%s] can not consume by broadcast way", h.pull.Group)
	}
	return nil
}

// answer is the broker's callback.
func (h *heldPull) answer(res *broker.PullResult, err error) {
	if h.pull.Suspend > 0 {
		h.req.Waited = h.s.unhold(&h.held)
	}
	if err != nil {
		h.s.conn.Respond(h.req, h.refused(err))
		return
	}
	if res.Status == broker.PullNoNewMessage {
		h.d.broker.HandOver(h.pull.Group, h.pull.Topic)
	}
	resp := h.req.Reply(pullCode(res, h.pull.Offset))
	resp.Fields.Add("suggestWhichBrokerId", "0")
	resp.Fields.AddInt("nextBeginOffset", res.NextOffset)
	resp.Fields.AddInt("minOffset", res.Min)
	resp.Fields.AddInt("maxOffset", res.Max)
	if t, err := h.d.broker.Topic(h.pull.Topic); err == nil {
		resp.Fields.AddInt("topicSysFlag", int64(t.SysFlag))
	}
	if g, err := h.d.broker.Group(h.pull.Group); err == nil {
		resp.Fields.AddInt("groupSysFlag", int64(g.SysFlag))
	}
	if res.Buffer != nil {
		resp.Body, resp.BodyDone = res.Buffer.B, res.Buffer.Release
	}
	if h.virtual != nil {
		h.d.countAnswer(resp)
	}
	h.s.conn.Respond(h.req, resp)
}

// What a pull without permission was kept from, ForbiddenType.
const (
	groupIsForbidden     = 2
	topicIsForbidden     = 3
	broadcastIsForbidden = 4
)

// refused is the answer to a pull that was refused. Which permission is missing stands in a field, too.
func (h *heldPull) refused(err error) *wire.Command {
	resp := h.d.errorReply(h.req, err)
	if broker.CodeOf(err) == broker.CodeNoPermission {
		if g, err := h.d.broker.Group(h.pull.Group); err == nil && !g.ConsumeEnable {
			h.forbidden, resp.Remark = groupIsForbidden, "subscription group no permission, "+h.pull.Group
		} else if t, err := h.d.broker.Topic(h.pull.Topic); err == nil && t.Perm&catalog.PermRead == 0 {
			h.forbidden, resp.Remark = topicIsForbidden, "the topic["+h.pull.Topic+"] pulling message is forbidden"
		}
	}
	if h.forbidden != 0 {
		resp.Fields.AddInt("forbiddenType", h.forbidden)
	}
	return resp
}

// pullCode is the response code of a pull and its remark, the name of the reference's status.
func pullCode(res *broker.PullResult, offset int64) (code int, remark string) {
	switch res.Status {
	case broker.PullFound:
		return wire.Success, "FOUND"
	case broker.PullNoMatch:
		return wire.PullRetryImmediately, "NO_MATCHED_MESSAGE"
	case broker.PullOffsetMoved:
		if offset > res.Max {
			return wire.PullOffsetMoved, "OFFSET_OVERFLOW_BADLY"
		}
		return wire.PullOffsetMoved, "OFFSET_TOO_SMALL"
	case broker.PullNoNewMessage:
		if res.Max == 0 {
			return wire.PullNotFound, "NO_MESSAGE_IN_QUEUE"
		}
		return wire.PullNotFound, "OFFSET_OVERFLOW_ONE"
	}
	return wire.SystemError, "unknown status"
}
