// Package catalog is what exists: topics, groups and the name server's KV configuration.
package catalog

import (
	"errors"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// Perm bits of a topic.
const (
	PermInherit = 1
	PermWrite   = 2
	PermRead    = 4
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
func (t *Topic) MessageType() string { panic("unbuilt") }

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

// RetryPolicy is a group's redelivery back-off; times in ms.
type RetryPolicy struct {
	Type        string              `json:"type"` // CUSTOMIZED, EXPONENTIAL
	Exponential *ExponentialBackoff `json:"exponentialRetryPolicy,omitempty"`
	Customized  *CustomizedBackoff  `json:"customizedRetryPolicy,omitempty"`
}

type ExponentialBackoff struct {
	Initial    int64 `json:"initial"`
	Max        int64 `json:"max"`
	Multiplier int64 `json:"multiplier"`
}

type CustomizedBackoff struct {
	Next []int64 `json:"next"`
}

// DefaultGroup is what RocketMQ gives a group made on demand.
func DefaultGroup(name string) Group { panic("unbuilt") }

var (
	ErrTopicNotFound = errors.New("topic not found")
	ErrGroupNotFound = errors.New("consumer group not found")
)

// Catalog answers from a bounded cache over the index. Safe for concurrent use; it is also the Fold of its record kinds.
// Returned pointers are shared and must not be changed.
type Catalog struct{}

func New(e kvindex.Engine) *Catalog { panic("unbuilt") }

func (c *Catalog) Topic(name string) (*Topic, error)                  { panic("unbuilt") } // ErrTopicNotFound
func (c *Catalog) TopicByID(id kvindex.ID) (*Topic, error)            { panic("unbuilt") }
func (c *Catalog) Group(name string) (*Group, error)                  { panic("unbuilt") } // ErrGroupNotFound
func (c *Catalog) GroupByID(id kvindex.ID) (*Group, error)            { panic("unbuilt") }
func (c *Catalog) EachTopic(f func(*Topic) bool) error                { panic("unbuilt") } // in name order
func (c *Catalog) EachGroup(f func(*Group) bool) error                { panic("unbuilt") }
func (c *Catalog) Counts() (topics, groups int)                       { panic("unbuilt") }
func (c *Catalog) KV(namespace, key string) (string, bool, error)     { panic("unbuilt") }
func (c *Catalog) KVList(namespace string) (map[string]string, error) { panic("unbuilt") }

// Version counts the changes of topics and groups: the DataVersion that is registered at name servers.
func (c *Catalog) Version() (counter int64, timestamp int64) { panic("unbuilt") }

// Records. The caller validates names and attributes first (Validate…); a record is applied as it is.
func (c *Catalog) PutTopic(t Topic) record.Record                        { panic("unbuilt") }
func (c *Catalog) DeleteTopic(t *Topic) (record.Record, error)           { panic("unbuilt") } // lists the groups with cursors
func (c *Catalog) PutGroup(g Group) record.Record                        { panic("unbuilt") }
func (c *Catalog) DeleteGroup(g *Group, cleanOffsets bool) record.Record { panic("unbuilt") }
func (c *Catalog) PutKV(namespace, key, value string) record.Record      { panic("unbuilt") }
func (c *Catalog) DeleteKV(namespace, key string) record.Record          { panic("unbuilt") }

// NameError says what is wrong with a topic or group name, or with an attribute.
type NameError struct{ What, Name, Reason string }

func (e *NameError) Error() string { return e.What + " " + e.Name + ": " + e.Reason }

func ValidateTopicName(name string) error { panic("unbuilt") } // *NameError; 1..127 of [%|A-Za-z0-9_-]; %RETRY%, %DLQ% up to 255
func ValidateGroupName(name string) error { panic("unbuilt") } // 1..120
// ApplyAttributes merges `+k=v,-k` into attrs; *NameError for unknown keys, bad values and changes of immutable ones.
func ApplyAttributes(attrs map[string]string, change string, create bool) (map[string]string, error) {
	panic("unbuilt")
}

// IsSystemTopic and IsSystemGroup follow RocketMQ's lists and prefixes.
func IsSystemTopic(name string) bool { panic("unbuilt") }
func IsSystemGroup(name string) bool { panic("unbuilt") }

func (c *Catalog) Kinds() []record.Kind { panic("unbuilt") }
func (c *Catalog) Apply(b *kvindex.Batch, at record.Position, r record.Record) (record.Outcome, error) {
	panic("unbuilt")
}
func (c *Catalog) Finish(b *kvindex.Batch) error { panic("unbuilt") }
