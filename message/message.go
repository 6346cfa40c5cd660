// Package message is what a RocketMQ message is: its stored layout, properties, flags, ids and batch bodies.
package message

import "net/netip"

// Message is the decoded form of a stored record. Body and Properties alias the buffer that it was decoded from.
type Message struct {
	Topic          string
	QueueID        int32
	Flag           int32
	SysFlag        int32
	QueueOffset    int64
	PhysicalOffset int64
	BodyCRC        uint32
	BornTimestamp  int64 // ms
	BornHost       netip.AddrPort
	StoreTimestamp int64 // ms
	StoreHost      netip.AddrPort
	ReconsumeTimes int32
	PreparedOffset int64
	Body           []byte
	Properties     []byte // key 0x01 value 0x02 …
}

// EncodedSize is the length of the stored layout.
func (m *Message) EncodedSize() int { panic("unbuilt") }

// AppendEncode appends the stored layout (V2 magic when the topic is longer than 127 bytes) and returns the extended slice;
// BodyCRC is computed; IPv6 flags are set from the hosts.
func (m *Message) AppendEncode(dst []byte) ([]byte, error) { panic("unbuilt") }

// Decode reads one record from the front of b and says how long it is.
func Decode(b []byte) (m Message, n int, err error) { panic("unbuilt") }

// Patches of the fixed-width fields of an encoded record, in place.
func PatchQueueOffset(rec []byte, offset int64)      { panic("unbuilt") }
func PatchPhysicalOffset(rec []byte, position int64) { panic("unbuilt") }
func PatchStoreTimestamp(rec []byte, ms int64)       { panic("unbuilt") }
func PatchQueueID(rec []byte, queue int32)           { panic("unbuilt") }

// Fields of an encoded record without decoding it. They alias rec.
func TopicOf(rec []byte) []byte         { panic("unbuilt") }
func QueueIDOf(rec []byte) int32        { panic("unbuilt") }
func PropertiesOf(rec []byte) []byte    { panic("unbuilt") }
func StoreTimestampOf(rec []byte) int64 { panic("unbuilt") }

// Property finds one property; ok is false when it is absent. It does not allocate; the value aliases props.
func Property(props []byte, key string) (value []byte, ok bool) { panic("unbuilt") }

// AppendProperty appends key and value; the caller has made sure that key is not there (see SetProperty, DropProperty).
func AppendProperty(props []byte, key, value string) []byte { panic("unbuilt") }

// SetProperty replaces or adds, DropProperty removes; both return a new or the same slice and never write into props.
func SetProperty(props []byte, key, value string) []byte { panic("unbuilt") }
func DropProperty(props []byte, key string) []byte       { panic("unbuilt") }

// EachProperty calls f for each pair until it returns false.
func EachProperty(props []byte, f func(key, value []byte) bool) { panic("unbuilt") }

// EncodeProperties sorts by key; DecodeProperties is its inverse (a later duplicate wins).
func EncodeProperties(m map[string]string) []byte     { panic("unbuilt") }
func DecodeProperties(props []byte) map[string]string { panic("unbuilt") }

// TagHash is Java's String.hashCode of the tag as a long; 0 for the empty tag.
func TagHash(tag string) int64 { panic("unbuilt") }

// DecodeBatch splits the body of a SEND_BATCH_MESSAGE request into messages (Flag, Body, Properties set).
func DecodeBatch(body []byte) ([]Message, error) { panic("unbuilt") }

// AppendBatchItem appends one message in that form.
func AppendBatchItem(dst []byte, m *Message) []byte { panic("unbuilt") }

// OffsetID is the offset message id: 32 upper-case hex digits for IPv4, 56 for IPv6.
func OffsetID(storeHost netip.AddrPort, position int64) string { panic("unbuilt") }
func ParseOffsetID(id string) (netip.AddrPort, int64, error)   { panic("unbuilt") }

// NewUniqueID makes a 32-digit unique id as the Java client does.
func NewUniqueID() string { panic("unbuilt") }

// Compression of bodies by sysFlag.
func Decompress(sysFlag int32, body []byte) ([]byte, error) { panic("unbuilt") }
func Compress(kind CompressionType, body []byte) (out []byte, sysFlag int32, err error) {
	panic("unbuilt")
}

// CompressionType is the value of sysFlag bits 8-10.
type CompressionType int32

// Types. The plus-and-minus of CompressionLegacy: bits 0 mean zlib from clients before 5.0.
const (
	CompressionLegacy CompressionType = 0
	CompressionLZ4    CompressionType = 1
	CompressionZstd   CompressionType = 2
	CompressionZlib   CompressionType = 3
)

// sysFlag bits.
const (
	FlagCompressed      int32 = 1
	FlagMultiTags       int32 = 2
	FlagTransactionMask int32 = 12
	FlagPrepared        int32 = 4
	FlagCommit          int32 = 8
	FlagRollback        int32 = 12
	FlagBornHostV6      int32 = 16
	FlagStoreHostV6     int32 = 32
	FlagNeedUnwrap      int32 = 64
	FlagInnerBatch      int32 = 128
)

// Property names (more in properties.go).
const (
	PropKeys          = "KEYS"
	PropTags          = "TAGS"
	PropWait          = "WAIT"
	PropDelayLevel    = "DELAY"
	PropUniqueKey     = "UNIQ_KEY"
	PropRetryTopic    = "RETRY_TOPIC"
	PropRealTopic     = "REAL_TOPIC"
	PropRealQueueID   = "REAL_QID"
	PropOriginID      = "ORIGIN_MESSAGE_ID"
	PropShardingKey   = "__SHARDINGKEY"
	PropTranMsg       = "TRAN_MSG"
	PropProducerGroup = "PGROUP"
	PropRegion        = "MSG_REGION"
	PropTraceOn       = "TRACE_ON"
	PropCluster       = "CLUSTER"
	PropReconsume     = "RECONSUME_TIME"
	PropMaxReconsume  = "MAX_RECONSUME_TIMES"
	PropTimerDeliver  = "TIMER_DELIVER_MS"
	PropTimerDelayMs  = "TIMER_DELAY_MS"
	PropTimerDelaySec = "TIMER_DELAY_SEC"
)
