package broker

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/store"
)

// firstRetryLevel is the delay level of a message's first retry, when its consumer leaves that to the broker.
const firstRetryLevel = 3

func isRetry(topic string) bool { return strings.HasPrefix(topic, catalog.RetryPrefix) }
func isDLQ(topic string) bool   { return strings.HasPrefix(topic, catalog.DLQPrefix) }

// SendBackRequest is CONSUMER_SEND_MSG_BACK: a Remoting consumer could not consume a message and wants it again.
type SendBackRequest struct {
	Group        string
	OriginTopic  string
	Position     record.Position // physical offset of the message
	OriginID     string
	DelayLevel   int32 // 0: level 3 and one more for each time that it was consumed before; <0: dead letter
	MaxReconsume int32 // −1: group's
}

// SendBack stores the message once more, to be consumed from %RETRY%group when the delay of its level is over, or in %DLQ%group
// when it was consumed as often as the group allows or DelayLevel is negative. Body and properties stay as they are, but for
// those that tell of a delay; RETRY_TOPIC names the topic that it came from at first, ORIGIN_MESSAGE_ID the message that it was
// there, and its reconsume times rise by one. A level beyond the last counts as the last. A group without retry queues forgets
// the message.
//
// Refusals: CodeGroupNotFound, CodeNotFound (no message at the position), those of SendAsync.
func (b *Broker) SendBack(ctx context.Context, req *SendBackRequest) error {
	if err := b.gate.enter(); err != nil {
		return err
	}
	defer b.gate.leave()
	g, err := b.group(req.Group)
	if err != nil {
		return err
	}
	if g.RetryQueueNums <= 0 {
		return nil
	}
	buf := store.NewBuffer()
	defer buf.Release()
	m, err := b.messageAt(req.Position, buf)
	if err != nil {
		return err
	}
	limit := g.RetryMaxTimes
	if req.MaxReconsume >= 0 {
		limit = req.MaxReconsume
	}
	wanted := b.groupTopic(catalog.RetryPrefix+g.Name, g.RetryQueueNums)
	dead := req.DelayLevel < 0 || m.ReconsumeTimes >= limit
	if dead {
		wanted = b.groupTopic(catalog.DLQPrefix+g.Name, 1)
	}
	t, err := b.catalog.Topic(wanted.Name)
	if err != nil {
		t, err = await(ctx, func(done func(*catalog.Topic, error)) { b.ensureTopic(wanted, 0, done) })
	}
	if err != nil {
		return err
	}
	again := resent(m, req.Position)
	if dead {
		again.Properties = noteDeath(again.Properties, again.ReconsumeTimes, req.DelayLevel < 0)
	} else {
		level := req.DelayLevel
		if level == 0 {
			level = firstRetryLevel + min(m.ReconsumeTimes, int32(len(b.opts.DelayLevels))) // any beyond the last is the last
		}
		again.Properties = message.SetProperty(again.Properties, message.PropDelayLevel, strconv.Itoa(int(level)))
	}
	_, err = await(ctx, func(done func([]SendResult, error)) {
		queue := rand.Int32N(max(t.WriteQueues, 1))
		if err := b.sendTo(t, queue, "", []message.Message{again}, done); err != nil {
			done(nil, err)
		}
	})
	if err == nil {
		b.meters.countBack(g.Name, originOf(m))
		if dead {
			b.meters.countDead(g.Name, originOf(m))
		}
	}
	return err
}

// messageAt decodes the message of a queue whose record is at a position; it aliases buf.
func (b *Broker) messageAt(pos record.Position, buf *store.Buffer) (*message.Message, error) {
	layout, err := b.store.ReadByPosition(pos, buf)
	if err != nil {
		return nil, verbError(err, "read the message at position "+formatPosition(pos))
	}
	m, _, err := message.Decode(layout)
	if err != nil {
		return nil, verbError(err, "decode the message at position "+formatPosition(pos))
	}
	if state, waits := message.Property(m.Properties, store.PropState); waits {
		return nil, refuse(CodeNotFound, "the message at position %d is in no queue: %s", pos, state)
	}
	return &m, nil
}

// resent is the message as it goes to the retry or dead-letter topic.
func resent(m *message.Message, pos record.Position) message.Message {
	out := *m
	out.ReconsumeTimes++
	props := slices.Clone(m.Properties)
	if _, ok := message.Property(props, message.PropRetryTopic); !ok {
		props = message.AppendProperty(props, message.PropRetryTopic, m.Topic)
	}
	if _, ok := message.Property(props, message.PropOriginID); !ok {
		props = message.AppendProperty(props, message.PropOriginID, message.OffsetID(m.StoreHost, int64(pos)))
	}
	out.Properties = message.SetProperty(props, message.PropWait, "false")
	return out
}

// originOf is the topic that a message was first consumed from.
func originOf(m *message.Message) string {
	if topic, ok := message.Property(m.Properties, message.PropRetryTopic); ok {
		return string(topic)
	}
	return m.Topic
}
