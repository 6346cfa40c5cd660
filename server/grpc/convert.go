package grpc

import (
	"bytes"
	"crypto/md5"
	"net/netip"
	"strconv"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/message"
)

// converter writes stored messages as the protocol's Message, straight from the stored layout: a receive of 32 messages would
// else make some 700 small objects to be encoded and thrown away. What it writes is read back by the generated code in the
// tests. The zero value is not ready; see newConverter. Not safe for concurrent use.
type converter struct {
	topic  []byte // field 1 of Message
	user   []byte // fields 2 of the message at hand
	system []byte // the content of its field 3
	body   []byte // the content of its field 4
	out    encoded
	levels delay.Levels
}

// delivery is what a message gets with being handed out.
type delivery struct {
	handle    string // "" for pulled messages
	attempt   int32
	invisible time.Duration
}

// Field numbers of Message.
const (
	fieldTopic  = 1
	fieldUser   = 2
	fieldSystem = 3
	fieldBody   = 4
)

// Field numbers of SystemProperties.
const (
	fieldTag           = 1
	fieldKeys          = 2
	fieldMessageID     = 3
	fieldDigest        = 4
	fieldEncoding      = 5
	fieldType          = 6
	fieldBornTime      = 7
	fieldBornHost      = 8
	fieldStoreTime     = 9
	fieldStoreHost     = 10
	fieldDeliveryTime  = 11
	fieldReceiptHandle = 12
	fieldQueueID       = 13
	fieldQueueOffset   = 14
	fieldInvisible     = 15
	fieldAttempt       = 16
	fieldMessageGroup  = 17
	fieldTraceContext  = 18
	fieldDeadLetter    = 20
	fieldLiteTopic     = 21
	fieldPriority      = 22
)

// newConverter makes messages of the topic as the client named it. levels tell when a message with a delay level was due.
func newConverter(topic *pb.Resource, levels delay.Levels) (*converter, error) {
	b, err := proto.Marshal(topic)
	if err != nil {
		return nil, err
	}
	return &converter{topic: appendBytes(nil, fieldTopic, b), levels: levels}, nil
}

// responseMessage is the field of ReceiveMessageResponse, and of PullMessageResponse, that holds a message.
const responseMessage = 2

// Fields that hold a half message: of TelemetryCommand, and of the RecoverOrphanedTransactionCommand in it.
const (
	commandRecover     = 5
	recoverMessage     = 1
	recoverTransaction = 2
)

// convert encodes one stored message as a whole response, which the next one overwrites.
func (c *converter) convert(m *message.Message, d *delivery) *encoded {
	size := c.take(m, d)
	c.out = c.appendMessage(c.out[:0], responseMessage, size)
	return &c.out
}

// command encodes a half message as the command that asks its producer for the end of the transaction.
func (c *converter) command(m *message.Message, transaction string) encoded {
	size := c.take(m, &delivery{attempt: 1})
	inner := sizeBytes(recoverMessage, size) + sizeBytes(recoverTransaction, len(transaction))
	b := appendTag(make([]byte, 0, sizeBytes(commandRecover, inner)), commandRecover, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(inner))
	b = c.appendMessage(b, recoverMessage, size)
	return appendString(b, recoverTransaction, transaction)
}

// take makes m the message at hand, and returns the size of its encoding.
//
// A body that was compressed comes out as the sender had it. The protocol's only encoding besides none, GZIP, stands for
// different formats in different clients, and none of them reads LZ4 or Zstandard.
func (c *converter) take(m *message.Message, d *delivery) int {
	body, encoding := m.Body, pb.Encoding_IDENTITY
	if m.SysFlag&message.FlagCompressed != 0 {
		if plain, err := message.Decompress(m.SysFlag, body); err == nil {
			body = plain
		} else {
			encoding = pb.Encoding_GZIP // damaged by its sender: whoever knows better may try
		}
	}
	c.body = body
	c.properties(m, d, body, encoding)
	return len(c.topic) + len(c.user) + sizeBytes(fieldSystem, len(c.system)) + sizeBytes(fieldBody, len(body))
}

// appendMessage adds the message at hand, which has so many bytes, as a field.
func (c *converter) appendMessage(b []byte, field protowire.Number, size int) []byte {
	b = appendTag(b, field, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	b = append(b, c.topic...)
	b = append(b, c.user...)
	b = appendBytes(b, fieldSystem, c.system)
	return appendBytes(b, fieldBody, c.body)
}

// properties fills user and system.
func (c *converter) properties(m *message.Message, d *delivery, body []byte, encoding pb.Encoding) {
	c.user, c.system = c.user[:0], c.system[:0]
	p := systemProperties{transaction: m.SysFlag&message.FlagTransactionMask != 0}
	message.EachProperty(m.Properties, func(key, value []byte) bool {
		if !p.take(key, value) {
			c.user = appendTag(c.user, fieldUser, protowire.BytesType)
			c.user = protowire.AppendVarint(c.user, uint64(sizeBytes(1, len(key))+sizeBytes(2, len(value))))
			c.user = appendBytes(c.user, 1, key)
			c.user = appendBytes(c.user, 2, value)
		}
		return true
	})
	b := c.system
	b = appendIfAny(b, fieldTag, p.tag)
	for rest := p.keys; len(rest) > 0; {
		var key []byte
		key, rest, _ = bytes.Cut(rest, []byte{' '})
		b = appendIfAny(b, fieldKeys, key)
	}
	b = appendIfAny(b, fieldMessageID, p.id)
	b = appendDigest(b, body)
	b = appendVarint(b, fieldEncoding, uint64(encoding))
	b = appendVarint(b, fieldType, uint64(p.kind()))
	b = appendTime(b, fieldBornTime, m.BornTimestamp)
	if len(p.bornHost) > 0 {
		b = appendBytes(b, fieldBornHost, p.bornHost)
	} else {
		b = appendAddress(b, fieldBornHost, m.BornHost.Addr())
	}
	b = appendTime(b, fieldStoreTime, m.StoreTimestamp)
	if m.StoreHost.IsValid() {
		b = appendString(b, fieldStoreHost, m.StoreHost.String())
	}
	if ms, ok := p.due(m, c.levels); ok {
		b = appendTime(b, fieldDeliveryTime, ms)
	}
	if d.handle != "" {
		b = appendString(b, fieldReceiptHandle, d.handle)
	}
	b = appendVarint(b, fieldQueueID, uint64(uint32(m.QueueID)))
	b = appendVarint(b, fieldQueueOffset, uint64(m.QueueOffset))
	if d.invisible > 0 {
		b = appendSpan(b, fieldInvisible, int64(d.invisible/time.Second), int64(d.invisible%time.Second))
	}
	b = appendVarint(b, fieldAttempt, uint64(uint32(d.attempt)))
	b = appendIfAny(b, fieldMessageGroup, p.group)
	b = appendIfAny(b, fieldTraceContext, p.trace)
	if len(p.deadTopic) > 0 || len(p.deadID) > 0 {
		b = appendTag(b, fieldDeadLetter, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(sizeBytes(1, len(p.deadTopic))+sizeBytes(2, len(p.deadID))))
		b = appendBytes(b, 1, p.deadTopic)
		b = appendBytes(b, 2, p.deadID)
	}
	b = appendIfAny(b, fieldLiteTopic, p.lite)
	if n, ok := number(p.priority, 32); ok && n >= 0 {
		b = appendVarint(b, fieldPriority, uint64(n))
	}
	c.system = b
}

// systemProperties are the stored properties that have fields of their own. They alias the stored message.
type systemProperties struct {
	tag, keys, id, bornHost, group, trace, deadTopic, deadID, lite, priority []byte
	deliverAt, timerOut, level                                               []byte
	transaction                                                              bool // by its flags
	half, delayed                                                            bool
}

// take keeps a property that is the system's, and tells whether it is.
func (p *systemProperties) take(key, value []byte) bool {
	switch string(key) {
	case message.PropTags:
		p.tag = value
	case message.PropKeys:
		p.keys = value
	case message.PropUniqueKey:
		p.id = value
	case message.PropBornHost:
		p.bornHost = value
	case message.PropTimerDeliver:
		p.deliverAt, p.delayed = value, true
	case message.PropTimerOut:
		p.timerOut, p.delayed = value, true
	case message.PropDelayLevel:
		p.level, p.delayed = value, true
	case message.PropTimerDelayMs, message.PropTimerDelaySec:
		p.delayed = true
	case message.PropShardingKey:
		p.group = value
	case message.PropTraceContext:
		p.trace = value
	case message.PropDLQTopic:
		p.deadTopic = value
	case message.PropDLQMessageID:
		p.deadID = value
	case message.PropLiteTopic:
		p.lite = value
	case message.PropPriority:
		p.priority = value
	case message.PropTranMsg:
		p.half = string(value) == "true"
	case message.PropTransactionID, message.PropTranImmunity, message.PropTranChecks:
		// Users may have properties of these names, so they are not reserved; only a transaction's are the system's.
		return p.transaction
	default:
		return message.IsReserved(string(key))
	}
	return true
}

// due is when a message was to be delivered, in ms; not known for a transaction with a delay of its own, which began when it was
// committed.
func (p *systemProperties) due(m *message.Message, levels delay.Levels) (ms int64, ok bool) {
	at := p.timerOut
	if len(at) == 0 {
		at = p.deliverAt
	}
	if ms, ok := number(at, 64); ok {
		return ms, true
	}
	level, ok := number(p.level, 32)
	if !ok || level < 1 || p.transaction || p.half || len(levels) == 0 {
		return 0, false
	}
	after, _ := levels.Delay(int32(level))
	return m.StoreTimestamp + after.Milliseconds(), true
}

// number reads a property that is a number of so many bits. Most messages have none, and an error would cost them an allocation.
func number(text []byte, bits int) (n int64, ok bool) {
	if len(text) == 0 {
		return 0, false
	}
	n, err := strconv.ParseInt(string(text), 10, bits)
	return n, err == nil
}

func (p *systemProperties) kind() pb.MessageType {
	switch {
	case p.transaction || p.half:
		return pb.MessageType_TRANSACTION
	case p.delayed:
		return pb.MessageType_DELAY
	case len(p.group) > 0:
		return pb.MessageType_FIFO
	case len(p.priority) > 0:
		return pb.MessageType_PRIORITY
	case len(p.lite) > 0:
		return pb.MessageType_LITE
	}
	return pb.MessageType_NORMAL
}

// appendDigest adds the MD5 of the body as it is sent, in upper-case hex.
func appendDigest(b, body []byte) []byte {
	const hex = "0123456789ABCDEF"
	const size = 2 + 2 + 2*md5.Size // type, and checksum with tag and length
	sum := md5.Sum(body)
	b = appendTag(b, fieldDigest, protowire.BytesType)
	b = append(b, size, 1<<3, byte(pb.DigestType_MD5), 2<<3|byte(protowire.BytesType), 2*md5.Size)
	for _, x := range sum {
		b = append(b, hex[x>>4], hex[x&15])
	}
	return b
}

// appendTime adds a Timestamp.
func appendTime(b []byte, field protowire.Number, ms int64) []byte {
	seconds := ms / 1000
	if ms%1000 < 0 {
		seconds--
	}
	return appendSpan(b, field, seconds, (ms-seconds*1000)*int64(time.Millisecond))
}

// appendSpan adds a Timestamp or Duration: both have seconds and nanoseconds.
func appendSpan(b []byte, field protowire.Number, seconds, nanos int64) []byte {
	size := 2 + protowire.SizeVarint(uint64(seconds)) + protowire.SizeVarint(uint64(nanos))
	b = append(appendTag(b, field, protowire.BytesType), byte(size))
	b = appendVarint(b, 1, uint64(seconds))
	return appendVarint(b, 2, uint64(nanos))
}

func appendAddress(b []byte, field protowire.Number, a netip.Addr) []byte {
	if !a.IsValid() {
		return b
	}
	var room [64]byte
	return appendBytes(b, field, a.AppendTo(room[:0]))
}

func appendIfAny(b []byte, field protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	return appendBytes(b, field, v)
}

func appendTag(b []byte, field protowire.Number, t protowire.Type) []byte {
	return protowire.AppendTag(b, field, t)
}

func appendVarint(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(appendTag(b, field, protowire.VarintType), v)
}

func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	b = protowire.AppendVarint(appendTag(b, field, protowire.BytesType), uint64(len(v)))
	return append(b, v...)
}

func appendString(b []byte, field protowire.Number, v string) []byte {
	b = protowire.AppendVarint(appendTag(b, field, protowire.BytesType), uint64(len(v)))
	return append(b, v...)
}

// sizeBytes is the size of a field with n bytes of content.
func sizeBytes(field protowire.Number, n int) int {
	return protowire.SizeTag(field) + protowire.SizeBytes(n)
}
