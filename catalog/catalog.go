// Package catalog is what exists: topics, consumer groups and the name server's KV configuration.
//
// Order of reading: this file (what a topic and a group are), validate.go and attributes.go (what may be asked for),
// rows.go (records and rows, drawn), fold.go (how records become rows), read.go (lookups through a bounded cache).
//
// Rules of the package:
//   - A name is interned once. Deleting a topic and making it anew gives a new id, so that no row of the old one is ever
//     read again. A group that is deleted with its offsets kept is the one exception, because keeping them is what was
//     asked for: its id stays bound to the name.
//   - A record says what to write, not how to decide it: names, attributes and limits are checked before the record is
//     made, and the fold writes what it is given.
package catalog

import (
	"errors"
	"math"
	"strconv"
	"time"

	"github.com/cairnmq/cairn/kvindex"
)

// Perm bits of a topic.
const (
	PermInherit = 1
	PermWrite   = 2
	PermRead    = 4
)

// Bits of Topic.SysFlag, by which tools list topics where a deployment is divided into units.
const (
	TopicOfUnit     = 1 // its messages belong to a unit
	TopicHasUnitSub = 2 // a consumer of a unit subscribes to it
)

// Errors of lookups.
var (
	ErrTopicNotFound = errors.New("topic not found")
	ErrGroupNotFound = errors.New("consumer group not found")
)

// Topic is a topic's configuration. The JSON names are those of RocketMQ's TopicConfig.
type Topic struct {
	ID              kvindex.ID        `json:"-"`
	Name            string            `json:"topicName"`
	ReadQueues      int32             `json:"readQueueNums"`
	WriteQueues     int32             `json:"writeQueueNums"`
	Perm            int32             `json:"perm"`
	TopicFilterType string            `json:"topicFilterType"` // SINGLE_TAG
	SysFlag         int32             `json:"topicSysFlag"`
	Order           bool              `json:"order"`
	Attributes      map[string]string `json:"attributes,omitempty"`
	Created         int64             `json:"-"` // ms, time of the record that created it
}

// MessageType is the attribute message.type, NORMAL when absent.
func (t *Topic) MessageType() string {
	if v := t.Attributes[AttrMessageType]; v != "" {
		return v
	}
	return "NORMAL"
}

// TierRetention is how long the tier keeps the topic's messages: the attribute reserve.time, or what the broker does with topics that
// have none. 0: the tier does not have them.
func (t *Topic) TierRetention(broker time.Duration) time.Duration {
	hours, err := strconv.ParseInt(t.Attributes[AttrReserveTime], 10, 64)
	if err != nil || hours < 0 {
		return broker
	}
	return time.Duration(min(hours, int64(math.MaxInt64/time.Hour))) * time.Hour
}

// Queues is the number of queues that a client may name: the larger of the read and the write queues.
func (t *Topic) Queues() int32 { return max(t.ReadQueues, t.WriteQueues) }

// Group is a consumer group's configuration. The JSON names are those of SubscriptionGroupConfig.
type Group struct {
	ID                     kvindex.ID        `json:"-"`
	Name                   string            `json:"groupName"`
	ConsumeEnable          bool              `json:"consumeEnable"`
	ConsumeFromMinEnable   bool              `json:"consumeFromMinEnable"`
	ConsumeBroadcastEnable bool              `json:"consumeBroadcastEnable"`
	ConsumeMessageOrderly  bool              `json:"consumeMessageOrderly"`
	RetryQueueNums         int32             `json:"retryQueueNums"`
	RetryMaxTimes          int32             `json:"retryMaxTimes"`
	RetryPolicy            *RetryPolicy      `json:"groupRetryPolicy,omitempty"`
	BrokerID               int64             `json:"brokerId"`
	WhichBrokerSlowly      int64             `json:"whichBrokerWhenConsumeSlowly"`
	NotifyIDsChanged       bool              `json:"notifyConsumerIdsChangedEnable"`
	SysFlag                int32             `json:"groupSysFlag"`
	ConsumeTimeoutMinute   int32             `json:"consumeTimeoutMinute"`
	Attributes             map[string]string `json:"attributes,omitempty"`
	Created                int64             `json:"-"`
}

// MaxAttempts is how often a message is delivered before it is a dead letter: once, and RetryMaxTimes again. In the reference −1
// means the same as 0: one delivery.
func (g *Group) MaxAttempts() int32 {
	return min(max(g.RetryMaxTimes, 0), math.MaxInt32-1) + 1
}

// AutoRedrive is what a group's attributes say of dead letters that go back by themselves.
type AutoRedrive struct {
	After time.Duration // since a message became a dead letter; 0: they do not go back
	Most  int32         // times that one message does
}

// defaultRedrives is how often a message is redriven by itself when its group does not say.
const defaultRedrives = 3

// AutoRedrive reads the attributes dlq.redrive.after and dlq.redrive.max. What cannot be read counts as not set: attributes are
// checked before they are kept.
func (g *Group) AutoRedrive() AutoRedrive {
	after, err := time.ParseDuration(g.Attributes[AttrRedriveAfter])
	if err != nil || after <= 0 {
		return AutoRedrive{}
	}
	most, err := strconv.ParseInt(g.Attributes[AttrRedriveMax], 10, 32)
	if err != nil {
		most = defaultRedrives
	}
	return AutoRedrive{After: after, Most: int32(most)}
}

// VirtualQueues says whether what the group's Remoting consumers pull is popped for them (AttrVirtualQueues).
func (g *Group) VirtualQueues() bool { return g.Attributes[AttrVirtualQueues] == "true" }

// Kinds of RetryPolicy.
const (
	RetryCustomized  = "CUSTOMIZED"
	RetryExponential = "EXPONENTIAL"
)

// RetryPolicy is a group's redelivery back-off; times in ms.
type RetryPolicy struct {
	Type        string              `json:"type"` // CUSTOMIZED, EXPONENTIAL
	Exponential *ExponentialBackoff `json:"exponentialRetryPolicy,omitempty"`
	Customized  *CustomizedBackoff  `json:"customizedRetryPolicy,omitempty"`
}

// ExponentialBackoff waits Initial·Multiplierⁿ ms before the attempt after n failed redeliveries, Max at most.
type ExponentialBackoff struct {
	Initial    int64 `json:"initial"`
	Max        int64 `json:"max"`
	Multiplier int64 `json:"multiplier"`
}

// CustomizedBackoff lists the waits in ms; the last one repeats.
type CustomizedBackoff struct {
	Next []int64 `json:"next"`
}

var (
	defaultWaits = []int64{
		1_000, 5_000, 10_000, 30_000, 60_000, 120_000, 180_000, 240_000, 300_000, 360_000, 420_000, 480_000, 540_000,
		600_000, 1_200_000, 1_800_000, 3_600_000, 7_200_000,
	}
	// longestWait is what fits a time.Duration; longer ones mean the same.
	longestWait        = int64(math.MaxInt64 / time.Millisecond)
	defaultExponential = ExponentialBackoff{Initial: 5_000, Max: 7_200_000, Multiplier: 2}
)

// Waits lists the redelivery waits in ms that a customized policy stands for; RocketMQ's own table when it names none.
// The slice is shared and must not be changed.
func (p *RetryPolicy) Waits() []int64 {
	if p == nil || p.Customized == nil || len(p.Customized.Next) == 0 {
		return defaultWaits
	}
	return p.Customized.Next
}

// Backoff is the exponential policy with RocketMQ's values for what is not set.
func (p *RetryPolicy) Backoff() ExponentialBackoff {
	e := defaultExponential
	if p == nil || p.Exponential == nil {
		return e
	}
	if p.Exponential.Initial > 0 {
		e.Initial = p.Exponential.Initial
	}
	if p.Exponential.Max > 0 {
		e.Max = min(p.Exponential.Max, longestWait)
	}
	if p.Exponential.Multiplier > 0 {
		e.Multiplier = p.Exponential.Multiplier
	}
	return e
}

// Wait is how long to hold a message back after it has failed `failed` times; 1 is the first failure.
func (p *RetryPolicy) Wait(failed int32) time.Duration {
	failed = max(failed, 1)
	if p != nil && p.Type == RetryExponential {
		e := p.Backoff()
		wait := e.Initial
		for i := int32(1); i < failed && wait < e.Max && e.Multiplier > 1; i++ {
			if wait > e.Max/e.Multiplier {
				wait = e.Max
				break
			}
			wait *= e.Multiplier
		}
		return time.Duration(min(wait, e.Max)) * time.Millisecond
	}
	waits := p.Waits()
	return time.Duration(min(max(waits[min(int(failed), len(waits))-1], 0), longestWait)) * time.Millisecond
}

// DefaultGroup is what RocketMQ gives a group made on demand.
func DefaultGroup(name string) Group {
	return Group{
		Name:                   name,
		ConsumeEnable:          true,
		ConsumeFromMinEnable:   true,
		ConsumeBroadcastEnable: true,
		RetryQueueNums:         1,
		RetryMaxTimes:          16,
		RetryPolicy:            &RetryPolicy{Type: RetryCustomized},
		WhichBrokerSlowly:      1,
		NotifyIDsChanged:       true,
		ConsumeTimeoutMinute:   15,
	}
}
