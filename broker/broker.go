// Package broker is the verbs that every door calls: send, pull, pop, ack, extend, offsets, query, topics and groups; the
// waiters of long polls; and the due loop, which owns the clock.
package broker

import (
	"context"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/filter"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/store"
)

type Options struct {
	ClusterName      string         // DefaultCluster
	BrokerName       string         // broker-a
	Advertise        netip.AddrPort // Remoting address that clients are told
	AdvertiseGRPC    netip.AddrPort
	AutoCreateTopics bool  // default true
	AutoCreateGroups bool  // default true
	DefaultQueues    int32 // queues of a topic made on demand: 8
	MaxMessageSize   int   // 4 MiB
	Clock            clock.Clock
	Logger           zerolog.Logger
	Registerer       prometheus.Registerer
}

type Broker struct{}

// New takes the store over (Close closes it). store.Options.OnApplied must be b.OnApplied: Open opens both.
func Open(ctx context.Context, storeOpts store.Options, opts Options) (*Broker, error) {
	panic("unbuilt")
}

func (b *Broker) Close() error              { panic("unbuilt") }
func (b *Broker) Options() Options          { panic("unbuilt") }
func (b *Broker) Store() *store.Store       { panic("unbuilt") } // for tools and metrics; doors use verbs
func (b *Broker) Catalog() *catalog.Catalog { panic("unbuilt") }

// Code is why a verb refused, independent of the protocol. Doors map it to their own codes.
type Code int

const (
	CodeInternal Code = iota
	CodeBusy          // bounded resource is full, try again
	CodeReadOnly      // disk full, or failed: not accepting writes
	CodeTopicNotFound
	CodeGroupNotFound
	CodeTopicIllegal // bad name
	CodeGroupIllegal
	CodeNoPermission   // perm bits, system topic, consuming disabled
	CodeMessageIllegal // body, properties, batch
	CodeBodyTooLarge
	CodePropertiesTooLarge
	CodeParameter   // queue id or other parameter out of range
	CodeUnsupported // part of a later stage: delay, transactions, FIFO, SQL filters
	CodeInvalidHandle
	CodeOffsetNotFound
	CodeNotFound // no such message, client …
	CodeClosing
)

// Error is what every verb returns for a refusal; other errors are internal.
type Error struct {
	Code    Code
	Message string
	Err     error // cause, may be nil
}

func (e *Error) Error() string { return e.Message }
func (e *Error) Unwrap() error { return e.Err }

// CodeOf is CodeInternal for errors that are not *Error.
func CodeOf(err error) Code { panic("unbuilt") }

// ---- sending ----

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
	MaxReconsume  int32 // of the consumer that resends to its retry topic; 0 when it said nothing
}

// SendResult of one message.
type SendResult struct {
	OffsetID    string // offset message id
	UniqueID    string
	QueueID     int32
	QueueOffset int64
	Position    record.Position
	StoreTime   int64
}

// SendAsync checks and proposes; done is called exactly once, from the folder goroutine or before SendAsync returns: it must
// not block. The request's byte slices may be reused after SendAsync returns (it copies).
func (b *Broker) SendAsync(req *SendRequest, done func([]SendResult, error)) { panic("unbuilt") }

// Send waits.
func (b *Broker) Send(ctx context.Context, req *SendRequest) ([]SendResult, error) { panic("unbuilt") }

// SendBack is CONSUMER_SEND_MSG_BACK: the message goes to %RETRY%group after the level's delay, or to %DLQ%group.
type SendBackRequest struct {
	Group        string
	OriginTopic  string
	Position     record.Position // physical offset of the message
	OriginID     string
	DelayLevel   int32 // 0 broker decides, <0 dead letter, 1..18
	MaxReconsume int32 // −1: group's
}

func (b *Broker) SendBack(ctx context.Context, req *SendBackRequest) error { panic("unbuilt") }

// ---- pulling ----

type PullStatus int

const (
	PullFound        PullStatus = iota
	PullNoNewMessage            // at the end
	PullNoMatch                 // skipped some, NextOffset moved on
	PullOffsetMoved             // out of range, NextOffset is the correction
)

type PullRequest struct {
	Group, Topic string
	QueueID      int32
	Offset       int64
	MaxMessages  int
	MaxBytes     int // 0: 256 KiB
	Filter       *filter.Expr
	// Suspend > 0 holds the request that long when there is nothing new.
	Suspend time.Duration
	// CommitOffset ≥ 0 is committed for the group along the way.
	CommitOffset int64
}

// PullResult: Buffer holds the stored layouts (Ends: end of each); the receiver releases it. Nil unless PullFound.
type PullResult struct {
	Status               PullStatus
	NextOffset, Min, Max int64
	Buffer               *store.Buffer
	Ends                 []int
	LastStoreTime        int64
}

// PullAsync calls done exactly once: at once, or from another goroutine when the wait ends. cancel ends the wait early
// (done is then called with PullNoNewMessage unless it already was).
func (b *Broker) PullAsync(req *PullRequest, done func(*PullResult, error)) (cancel func()) {
	panic("unbuilt")
}
func (b *Broker) Pull(ctx context.Context, req *PullRequest) (*PullResult, error) { panic("unbuilt") }

// ---- offsets ----

func (b *Broker) MinOffset(topic string, queue int32) (int64, error) { panic("unbuilt") }
func (b *Broker) MaxOffset(topic string, queue int32) (int64, error) { panic("unbuilt") }
func (b *Broker) OffsetByTime(topic string, queue int32, ms int64, boundary store.Boundary) (int64, error) {
	panic("unbuilt")
}
func (b *Broker) EarliestStoreTime(topic string, queue int32) (int64, error) { panic("unbuilt") }

// CommittedOffset: CodeOffsetNotFound when the group has none and the queue no longer begins at 0; 0 for a young queue
// (setZero false always says not found).
func (b *Broker) CommittedOffset(group, topic string, queue int32, zeroIfYoung bool) (int64, error) {
	panic("unbuilt")
}

// CommitOffsets is durable when it returns; CommitOffsetAsync (one-way commits) gathers and commits within a second.
type OffsetCommit struct {
	Topic  string
	Queue  int32
	Offset int64
}

func (b *Broker) CommitOffsets(ctx context.Context, group string, commits []OffsetCommit) error {
	panic("unbuilt")
}
func (b *Broker) CommitOffsetAsync(group string, c OffsetCommit) error { panic("unbuilt") }

// ResetOffsets moves a group (offset ≥ 0: there; else by time in ms, −1 = to the end) and answers the new offsets by queue.
// queue −1 = all. Connected Remoting consumers get it with their next pull.
func (b *Broker) ResetOffsets(ctx context.Context, group, topic string, queue int32, offset, ms int64, force bool) (map[int32]int64, error) {
	panic("unbuilt")
}

// GroupOffset is where a group stands in one queue.
type GroupOffset struct {
	Topic           string
	Queue           int32
	BrokerOffset    int64 // max
	Committed, Next int64
	LastStoreTime   int64 // of the last consumed message
}

func (b *Broker) GroupOffsets(group, topic string) ([]GroupOffset, error) { panic("unbuilt") } // topic "" = all
func (b *Broker) GroupsOfTopic(topic string) ([]string, error)            { panic("unbuilt") }

// ---- queries ----

func (b *Broker) QueryByKey(topic, key string, begin, end int64, max int, buf *store.Buffer) ([]int, error) {
	panic("unbuilt")
}
func (b *Broker) QueryByUniqueID(topic, id string, begin, end int64, max int, buf *store.Buffer) ([]int, error) {
	panic("unbuilt")
}
func (b *Broker) MessageByPosition(topic string, pos record.Position, buf *store.Buffer) ([]byte, error) {
	panic("unbuilt")
}

type QueueStats struct {
	Queue                   int32
	Min, Max, LastStoreTime int64
}

func (b *Broker) TopicStats(topic string) ([]QueueStats, error) { panic("unbuilt") } // one per queue of max(read, write)

// ---- topics, groups, KV ----

func (b *Broker) PutTopic(ctx context.Context, t catalog.Topic, attributes string) error {
	panic("unbuilt")
}                                                                    // attributes `+k=v,-k`; "" keeps
func (b *Broker) DeleteTopic(ctx context.Context, name string) error { panic("unbuilt") }
func (b *Broker) Topic(name string) (*catalog.Topic, error)          { panic("unbuilt") }
func (b *Broker) EnsureTopic(ctx context.Context, name string, queues int32) (*catalog.Topic, error) {
	panic("unbuilt")
} // made on demand when allowed
func (b *Broker) PutGroup(ctx context.Context, g catalog.Group, attributes string) error {
	panic("unbuilt")
}
func (b *Broker) DeleteGroup(ctx context.Context, name string, cleanOffsets bool) error {
	panic("unbuilt")
}
func (b *Broker) Group(name string) (*catalog.Group, error) { panic("unbuilt") }
func (b *Broker) EnsureGroup(ctx context.Context, name string) (*catalog.Group, error) {
	panic("unbuilt")
}                                                                               // made on demand when allowed
func (b *Broker) PutKV(ctx context.Context, namespace, key, value string) error { panic("unbuilt") }
func (b *Broker) DeleteKV(ctx context.Context, namespace, key string) error     { panic("unbuilt") }

// OnTopicsChanged registers f, called (not blocking) after topics or groups changed; for registering at name servers.
func (b *Broker) OnTopicsChanged(f func()) { panic("unbuilt") }

// ---- clients: who is connected, for both doors ----

// Client is a connected producer or consumer. The door owns the connection.
type Client struct {
	ID       string
	Address  netip.AddrPort
	Language string
	Version  int32
	// Notify tells a consumer that the members of its group changed; must not block. May be nil.
	Notify func(group string)
	// Conn is the door's own handle for commands to the client.
	Conn any
}

type Subscription struct {
	Topic, Expression, ExpressionType string
	Version                           int64
	Tags                              []string
	Codes                             []int32
}

type ConsumerInfo struct {
	ConsumeType, MessageModel, FromWhere string
	Subscriptions                        []Subscription
}

// Clients is the table of producers and consumers. Safe for concurrent use. Entries expire after 120 s without a heartbeat.
type Clients struct{}

func (b *Broker) Clients() *Clients { panic("unbuilt") }

func (c *Clients) RegisterProducer(group string, cl *Client) { panic("unbuilt") }
func (c *Clients) RegisterConsumer(group string, cl *Client, info ConsumerInfo) (changed bool) {
	panic("unbuilt")
}
func (c *Clients) UnregisterProducer(group, clientID string) { panic("unbuilt") }
func (c *Clients) UnregisterConsumer(group, clientID string) { panic("unbuilt") }
func (c *Clients) CloseConn(conn any)                        { panic("unbuilt") } // forget all clients of a connection
func (c *Clients) ConsumerIDs(group string) []string         { panic("unbuilt") }
func (c *Clients) Consumers(group string) (clients []*Client, info ConsumerInfo, ok bool) {
	panic("unbuilt")
}
func (c *Clients) Producers(group string) []*Client                      { panic("unbuilt") }
func (c *Clients) ProducerGroups() []string                              { panic("unbuilt") }
func (c *Clients) ConsumerGroups() []string                              { panic("unbuilt") }
func (c *Clients) Subscription(group, topic string) (Subscription, bool) { panic("unbuilt") }

// Locks of queues for orderly Remoting consumers (LOCK_BATCH_MQ): owner per group+topic+queue, expires after 60 s.
type QueueRef struct {
	Topic string
	Queue int32
}

func (b *Broker) LockQueues(group, clientID string, queues []QueueRef) (locked []QueueRef) {
	panic("unbuilt")
}
func (b *Broker) UnlockQueues(group, clientID string, queues []QueueRef) { panic("unbuilt") }

// Rates for the runtime info and stats codes.
type Rates struct {
	PutTPS, GetTPS     [3]float64 // 10 s, 1 min, 10 min
	PutTotal, GetTotal int64
	PutBytes, GetBytes int64
	PutMaxLatency      time.Duration
	Boot               time.Time
}

func (b *Broker) Rates() Rates { panic("unbuilt") }

var _ = kvindex.ID(0)
