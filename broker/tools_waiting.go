package broker

import (
	"context"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/txn"
)

// The verbs of this file tell tools of what waits, in the reference's terms: there delayed and half messages lie in topics of
// the system, whose queues tools look at. Here these topics have no messages, and their queues show the counters.

const (
	scheduleTopic = "SCHEDULE_TOPIC_XXXX"        // a queue for each delay level
	halfTopic     = "RMQ_SYS_TRANS_HALF_TOPIC"   // open half messages
	parkedTopic   = "TRANS_CHECK_MAX_TIME_TOPIC" // those that are not asked for any more
	// scheduleQueues is what the reference's schedule topic has, however many levels are configured.
	scheduleQueues = 18
)

// WaitingQueues are the queues of a topic in which the reference keeps what waits; ok is false for all other topics. Max is
// how many messages a delay level has got in all, or how many half messages there are; Min is 0.
func (b *Broker) WaitingQueues(topic string) (queues []QueueStats, ok bool, err error) {
	if topic != scheduleTopic && topic != halfTopic && topic != parkedTopic {
		return nil, false, nil
	}
	if topic == scheduleTopic {
		levels, err := b.DelayLevels()
		if err != nil {
			return nil, true, err
		}
		queues = make([]QueueStats, max(len(levels), scheduleQueues))
		for i := range queues {
			queues[i].Queue = int32(i)
			if i < len(levels) {
				queues[i].Max = levels[i].In
			}
		}
		return queues, true, nil
	}
	n, err := b.halfMessages()
	if err != nil {
		return nil, true, err
	}
	if topic == parkedTopic {
		return []QueueStats{{Max: n.Parked}}, true, nil
	}
	return []QueueStats{{Max: n.Open}}, true, nil
}

// DelayLevels tells of each configured delay level what it has got and what of it has been let go, beginning with level 1.
// CodeClosing.
func (b *Broker) DelayLevels() ([]delay.LevelCount, error) {
	if err := b.gate.enter(); err != nil {
		return nil, err
	}
	defer b.gate.leave()
	out := make([]delay.LevelCount, len(b.opts.DelayLevels))
	for i := range out {
		var err error
		if out[i], err = b.store.Delay.Level(int32(i + 1)); err != nil {
			return nil, verbError(err, "read the counters of the delay levels")
		}
	}
	return out, nil
}

// halfMessages counts those of all topics.
func (b *Broker) halfMessages() (sum txn.Count, err error) {
	if err := b.gate.enter(); err != nil {
		return txn.Count{}, err
	}
	defer b.gate.leave()
	err = b.store.Txn.EachCount(func(_ kvindex.ID, n txn.Count) bool {
		sum.Open += n.Open
		sum.Parked += n.Parked
		return true
	})
	return sum, verbError(err, "count half messages")
}

// EachPendingTimers calls f for the topics that have timers, with how many, until it returns false. CodeClosing.
func (b *Broker) EachPendingTimers(f func(topic string, n int64) bool) error {
	if err := b.gate.enter(); err != nil {
		return err
	}
	defer b.gate.leave()
	var failed error
	err := b.store.Delay.EachPending(func(id kvindex.ID, n int64) bool {
		t, err := b.catalog.TopicByID(id)
		if code, _ := codeOfCause(err); err != nil && code == CodeTopicNotFound {
			return true // deleted meanwhile
		}
		if err != nil {
			failed = err
			return false
		}
		return f(t.Name, n)
	})
	if err == nil {
		err = failed
	}
	return verbError(err, "count timers")
}

// ResumeCheck has the producers of an open half message asked now instead of at its next check; that does not count as one.
// The topic is compared when it is given and not one of the system's. CodeNotFound (no half message there, or of another
// topic), CodeConflict (it is parked: an operator has to end it), CodeBusy, CodeReadOnly, CodeClosing.
func (b *Broker) ResumeCheck(ctx context.Context, topic string, at record.Position) error {
	if err := b.gate.enter(); err != nil {
		return err
	}
	defer b.gate.leave()
	none := refuse(CodeNotFound, "there is no half message at position %d", at)
	if at < 0 {
		return none
	}
	h, ok, err := b.store.Txn.Get(at)
	if err != nil {
		return verbError(err, "look up the half message at "+formatPosition(at))
	}
	if !ok {
		return none
	}
	if topic != "" && !catalog.IsSystemTopic(topic) {
		if t, err := b.catalog.TopicByID(h.Topic); err != nil || t.Name != topic {
			return refuse(CodeNotFound, "the half message at position %d is of another topic than %s", at, topic)
		}
	}
	if h.Reason != txn.NotParked {
		return refuse(CodeConflict, "the half message at position %d is parked (%v): commit it or roll it back (cairn txn commit, "+
			"cairn txn rollback)", at, h.Reason)
	}
	outcomes, err := b.append(ctx, "have a transaction checked again", txn.ChecksRecord([]txn.Check{
		{Position: at, Next: b.clock.Now().UnixMilli(), Free: true},
	}))
	if err == nil && outcomes[0].Refused {
		return none // it ended meanwhile
	}
	return err
}
