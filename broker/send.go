package broker

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/message"
)

// SendRequest is one or more messages for one topic and one queue. Topic, Flag, SysFlag, BornTimestamp, BornHost,
// ReconsumeTimes, Body and Properties are the sender's; the broker adds UNIQ_KEY, CLUSTER, MSG_REGION, TRACE_ON when absent.
type SendRequest struct {
	ProducerGroup string
	Topic         string
	QueueID       int32 // −1: the broker chooses
	Messages      []message.Message
	// Template for creating the topic on demand (Remoting): the default topic's name and wanted queues; empty refuses.
	DefaultTopic  string
	DefaultQueues int32
	Unit          bool  // a topic that is made on demand belongs to a unit
	MaxReconsume  int32 // of the consumer that resends to its retry topic; 0 when it said nothing
}

// SendResult of one message.
type SendResult struct {
	UniqueID    string
	QueueID     int32
	QueueOffset int64
	Position    record.Position
	StoreTime   int64
	// RecallHandle of a delayed message, TransactionID (of package txn) of a half message; neither has a queue offset yet.
	RecallHandle, TransactionID string
}

// OffsetID is the offset message id of what this broker keeps at a position.
func (b *Broker) OffsetID(at record.Position) string {
	return message.OffsetID(b.opts.Advertise, int64(at))
}

// SendAsync checks and proposes; done is called exactly once, from the folder goroutine or before SendAsync returns: it must
// not block. The results are in the order of the messages, whose queue offsets follow each other; they belong to done. The
// request's byte slices may be reused after SendAsync returns (it copies).
//
// A topic that is not there is made first when the request's template allows it. A message to a group's retry topic that was
// consumed more often than the group allows goes to the group's dead-letter topic instead.
//
// A message whose properties ask for a delay becomes visible when that is over, one that is part of a transaction when its
// producer commits it; a delay begins then. Neither may come with others in one request.
//
// Refusals: CodeTopicNotFound, CodeGroupNotFound (retry topics), CodeTopicIllegal, CodeNoPermission (topics of the system),
// CodeParameter (queue), CodeMessageIllegal, CodeBodyTooLarge, CodePropertiesTooLarge, CodeDelayTooLong, CodeBusy, CodeReadOnly,
// CodeClosing.
func (b *Broker) SendAsync(req *SendRequest, done func([]SendResult, error)) {
	if err := b.gate.enter(); err != nil {
		done(nil, err)
		return
	}
	defer b.gate.leave()
	b.sendAsync(req, done)
}

func (b *Broker) sendAsync(req *SendRequest, done func([]SendResult, error)) {
	t, queue, err := b.sendTarget(req)
	if err == nil {
		err = b.sendTo(t, queue, req.ProducerGroup, req.Messages, done)
	}
	switch {
	case err == nil:
	case CodeOf(err) == CodeTopicNotFound || CodeOf(err) == CodeGroupNotFound:
		b.sendAfterMaking(req, err, done)
	default:
		done(nil, err)
	}
}

// CheckSend answers the refusal of SendAsync that concerns the topic and the queue alone, and makes no topic.
func (b *Broker) CheckSend(req *SendRequest) error {
	if err := b.gate.enter(); err != nil {
		return err
	}
	defer b.gate.leave()
	_, _, err := b.sendTarget(req)
	return err
}

// Send waits. When ctx ends before, the messages may still be stored.
func (b *Broker) Send(ctx context.Context, req *SendRequest) ([]SendResult, error) {
	return await(ctx, func(done func([]SendResult, error)) { b.SendAsync(req, done) })
}

// await turns a verb that calls back into one that waits.
func await[T any](ctx context.Context, start func(done func(T, error))) (T, error) {
	type answer struct {
		v   T
		err error
	}
	over := make(chan answer, 1)
	start(func(v T, err error) { over <- answer{v, err} })
	select {
	case a := <-over:
		return a.v, a.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// sendTarget finds the topic and the queue (−1: any) that a request goes to.
func (b *Broker) sendTarget(req *SendRequest) (*catalog.Topic, int32, error) {
	if len(req.Messages) == 0 {
		return nil, 0, refuse(CodeMessageIllegal, "send to %s: no message", req.Topic)
	}
	if !catalog.ClientsMaySend(req.Topic) {
		return nil, 0, refuse(CodeNoPermission, "sending to the system's topic %s is not allowed", req.Topic)
	}
	name, queue := req.Topic, req.QueueID
	if group, ok := strings.CutPrefix(name, catalog.RetryPrefix); ok {
		dead, err := b.isDead(group, req)
		if err != nil {
			return nil, 0, err
		}
		if dead {
			name, queue = catalog.DLQPrefix+group, 0
		}
	}
	t, err := b.topic(name)
	if err != nil {
		return nil, 0, err
	}
	if queue < -1 || queue >= max(t.ReadQueues, t.WriteQueues) {
		return nil, 0, refuse(CodeParameter, "queue %d of topic %s is not within 0 to %d", queue, name,
			max(t.ReadQueues, t.WriteQueues)-1)
	}
	return t, queue, nil
}

// isDead says whether a message that a consumer sends to its group's retry topic has used up its retries.
func (b *Broker) isDead(group string, req *SendRequest) (bool, error) {
	g, err := b.group(group)
	if err != nil {
		return false, err
	}
	if len(req.Messages) > 1 {
		return false, refuse(CodeMessageIllegal, "batches to the retry topic %s are not allowed", req.Topic)
	}
	limit := g.RetryMaxTimes
	if req.MaxReconsume > 0 {
		limit = req.MaxReconsume
	}
	return req.Messages[0].ReconsumeTimes > limit, nil
}

// sendAfterMaking makes what was missing and sends again. Until then it keeps a copy of the request.
func (b *Broker) sendAfterMaking(req *SendRequest, missing error, done func([]SendResult, error)) {
	name := req.Topic
	if group, ok := strings.CutPrefix(name, catalog.RetryPrefix); ok {
		b.sendAfterMakingGroupTopic(group, req, missing, done)
		return
	}
	if err := checkTopicName(name); err != nil {
		done(nil, err)
		return
	}
	wanted, ok := b.fromTemplate(req)
	if !ok {
		done(nil, missing)
		return
	}
	again, size := copyRequest(req)
	b.ensureTopic(wanted, size, func(_ *catalog.Topic, err error) { b.sendAgain(again, err, done) })
}

// fromTemplate is the topic that a send makes on demand, after the template that it names: a topic whose permission is
// inherited, which is how clients choose between the default and, say, one named as the cluster.
func (b *Broker) fromTemplate(req *SendRequest) (catalog.Topic, bool) {
	template, err := b.catalog.Topic(req.DefaultTopic)
	if err != nil || template.Perm&catalog.PermInherit == 0 {
		return catalog.Topic{}, false
	}
	if template.Name == templateTopic { // as it was at the first start
		if !b.opts.AutoCreateTopics {
			return catalog.Topic{}, false
		}
		now := newTopic(templateTopic, b.opts.DefaultQueues, template.Perm)
		template = &now
	}
	queues := template.WriteQueues
	if req.DefaultQueues > 0 {
		queues = min(queues, req.DefaultQueues)
	}
	t := newTopic(req.Topic, queues, template.Perm&^catalog.PermInherit)
	t.TopicFilterType = template.TopicFilterType
	if req.Unit {
		t.SysFlag = catalog.TopicOfUnit
	}
	return t, true
}

// sendAfterMakingGroupTopic does it for a retry topic: what is missing is the group, which comes with its retry topic, or
// one of the topics of a group that is there.
func (b *Broker) sendAfterMakingGroupTopic(group string, req *SendRequest, missing error, done func([]SendResult, error)) {
	if CodeOf(missing) == CodeGroupNotFound {
		if err := b.mayMakeGroup(group); err != nil {
			done(nil, err)
			return
		}
		again, size := copyRequest(req)
		b.ensureGroup(group, size, func(_ *catalog.Group, err error) {
			if err != nil {
				done(nil, err)
				return
			}
			b.sendAsync(again, done) // now the group is there, and its dead-letter topic may be what is missing
		})
		return
	}
	g, err := b.group(group)
	if err != nil {
		done(nil, err)
		return
	}
	wanted := b.groupTopic(req.Topic, g.RetryQueueNums)
	if dead, err := b.isDead(group, req); err == nil && dead {
		wanted = b.groupTopic(catalog.DLQPrefix+group, 1)
	}
	again, size := copyRequest(req)
	b.ensureTopic(wanted, size, func(_ *catalog.Topic, err error) { b.sendAgain(again, err, done) })
}

// sendAgain is the second and last try, after the topic was made.
func (b *Broker) sendAgain(req *SendRequest, err error, done func([]SendResult, error)) {
	if err != nil {
		done(nil, err)
		return
	}
	t, queue, err := b.sendTarget(req)
	if err == nil {
		err = b.sendTo(t, queue, req.ProducerGroup, req.Messages, done)
	}
	if err != nil {
		done(nil, err)
	}
}

// copyRequest copies what the sender may reuse, and says how many bytes it holds.
func copyRequest(req *SendRequest) (*SendRequest, int64) {
	again := *req
	again.Messages = slices.Clone(req.Messages)
	var size int64
	for i := range again.Messages {
		m := &again.Messages[i]
		m.Body, m.Properties = slices.Clone(m.Body), slices.Clone(m.Properties)
		size += int64(len(m.Body) + len(m.Properties))
	}
	return &again, size
}

// rotation spreads messages over the queues of their topic. What comes within the same millisecond goes to one queue: it is mostly
// one batch of the log, whose entries are then one row of one queue instead of a row each. Topics share places by their id, so that
// it needs no memory for each of them.
//
//	┌────────────────┬──────────┬───────────┐
//	│ turn 32 bits   │ ms 24    │ used 8    │ whose turn it is, since when, and for how many messages
//	└────────────────┴──────────┴───────────┘
type rotation [256]atomic.Uint64

// turnMessages is how many messages a queue gets at most before it is the next one's turn.
const turnMessages = 32

func newRotation() *rotation {
	r := &rotation{}
	for i := range r {
		r[i].Store(uint64(rand.Uint32()) << 32)
	}
	return r
}

// next is the queue of a message that comes at a time (ms).
func (r *rotation) next(t *catalog.Topic, ms int64) int32 {
	queues := t.WriteQueues
	if queues <= 0 {
		queues = t.ReadQueues
	}
	place, now := &r[uint64(t.ID)%uint64(len(r))], uint64(ms)&(1<<24-1)
	for {
		old := place.Load()
		state := old + 1
		if used := old & 0xFF; used == 0 || used >= turnMessages || old>>8&(1<<24-1) != now {
			state = (old>>32+1)<<32 | now<<8 | 1
		}
		if place.CompareAndSwap(old, state) {
			return int32(state >> 32 % uint64(max(queues, 1)))
		}
	}
}
