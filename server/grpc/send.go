package grpc

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/server/grpc/transport"
)

// SendMessage stores one or more messages of one topic, all or none. They go to one queue, which the broker chooses. A message
// that is delayed or a transaction comes alone, gets its queue offset later and is answered with what names it until then.
func (d *Door) SendMessage(ctx context.Context, req *pb.SendMessageRequest) (*pb.SendMessageResponse, error) {
	s := &sending{late: d.later(ctx, rpcSend), req: req}
	if s.mustMake() { // for which it waits
		transport.Aside(ctx, func() {
			s.guarded(func() {
				if s.check(ctx) {
					d.broker.SendAsync(&s.out, s.sent)
				}
			})
		})
		return nil, transport.ErrLater
	}
	if !s.check(ctx) {
		return nil, transport.ErrLater
	}
	slot := transport.PutOff(ctx)
	g, is := (*slot).(*sends)
	if !is {
		flush(slot)
		g = &sends{}
		*slot = g
	}
	if g.parts = append(g.parts, s); len(g.parts) == maxSends {
		flush(slot)
	}
	return nil, transport.ErrLater
}

// maxSends that came together are proposed before more of them are looked at.
const maxSends = 32

// sends are those of a connection that came together. They are proposed in one go, so that the log has them in few batches.
type sends struct{ parts []*sending }

// Flush proposes them.
func (g *sends) Flush() {
	for _, s := range g.parts {
		s.guarded(s.propose)
	}
}

// flush does what is put off, if anything is.
func flush(slot *transport.Flusher) {
	if f := *slot; f != nil {
		*slot = nil
		f.Flush()
	}
}

// sending is one send under way.
type sending struct {
	late
	req     *pb.SendMessageRequest
	topic   *catalog.Topic // if it is there
	out     broker.SendRequest
	one     [1]message.Message // of out, mostly
	results []broker.SendResult
	err     error
}

// mustMake looks for the topic. It says that it is not there, and is made when somebody asks for it.
func (s *sending) mustMake() bool {
	if len(s.req.GetMessages()) == 0 {
		return false
	}
	name := nameOf(s.req.Messages[0].GetTopic())
	t, err := s.d.broker.Topic(name)
	if err == nil {
		s.topic = t
	}
	return err != nil && s.d.makes(name)
}

// check makes what is to be sent. It answers with the refusal when it is false.
func (s *sending) check(ctx context.Context) bool {
	id, err := clientOf(ctx)
	if err == nil {
		s.out.Messages = s.one[:0]
		err = s.d.toStore(ctx, id, s.req, s.topic, &s.out)
	}
	if err != nil {
		s.sent(nil, err)
	}
	return err == nil
}

func (s *sending) propose() { s.d.broker.SendAsync(&s.out, s.sent) }

func (s *sending) sent(results []broker.SendResult, err error) {
	s.results, s.err = results, err
	s.answer(s)
}

// Build is the answer.
func (s *sending) Build() (resp any, err error) {
	defer s.d.recovered(s.rpc, &err)
	return s.d.sent(s.req, s.results, s.err), nil
}

// guarded does what no interceptor is around.
func (s *sending) guarded(do func()) {
	var failed error
	defer func() {
		if failed != nil {
			s.sent(nil, failed)
		}
	}()
	defer s.d.recovered(rpcSend, &failed)
	do()
}

func (d *Door) sent(req *pb.SendMessageRequest, results []broker.SendResult, err error) *pb.SendMessageResponse {
	if err != nil {
		return &pb.SendMessageResponse{Status: d.statusOf(rpcSend, err)}
	}
	answer := &sendAnswer{}
	entries := answer.one[:]
	if len(results) > 1 {
		entries = make([]pb.SendResultEntry, len(results))
	}
	resp := &answer.resp
	resp.Status, resp.Entries = statusOK, answer.list[:0]
	for i := range results {
		r, e, id := &results[i], &entries[i], req.Messages[i].GetSystemProperties().GetMessageId()
		e.Status, e.MessageId, e.Offset = statusOK, id, r.QueueOffset
		e.TransactionId = cmp.Or(r.TransactionID, id) // as in the reference, which has one for every message
		e.RecallHandle = r.RecallHandle
		resp.Entries = append(resp.Entries, e)
	}
	return resp
}

// sendAnswer is that of one message in one piece of memory.
type sendAnswer struct {
	resp pb.SendMessageResponse
	one  [1]pb.SendResultEntry
	list [1]*pb.SendResultEntry
}

// toStore fills out, whose Messages may have room, with what a client sends; id "" is nobody who could be asked for the end of a
// transaction. The topic t may not have been found.
func (d *Door) toStore(ctx context.Context, id string, req *pb.SendMessageRequest, t *catalog.Topic, out *broker.SendRequest) error {
	if len(req.GetMessages()) == 0 {
		return refuse(pb.Code_MESSAGE_CORRUPTED, "no message to send")
	}
	topic, err := topicOf(req.Messages[0].GetTopic())
	if err != nil {
		return err
	}
	var few [8]pb.MessageType
	kinds := few[:0]
	for i, m := range req.Messages {
		if i > 0 && nameOf(m.GetTopic()) != topic {
			return refuse(pb.Code_MESSAGE_CORRUPTED, "messages of different topics in one request")
		}
		kind, err := checkMessage(m, d.opts.MaxMessageSize)
		if err != nil {
			return err
		}
		kinds = append(kinds, kind)
	}
	if t == nil {
		if t, err = d.topic(ctx, topic); err != nil {
			return err
		}
	}
	for i, kind := range kinds {
		if err := checkKind(t, kind, req.Messages[i].GetSystemProperties()); err != nil {
			return err
		}
	}
	if slices.Contains(kinds, pb.MessageType_TRANSACTION) {
		d.willAsk(ctx, id, req.Messages[0].GetTopic())
	}
	now, from := d.clock.Now(), addressOf(ctx)
	queue, err := queueOf(t, req.Messages)
	if err != nil {
		return err
	}
	out.ProducerGroup, out.Topic, out.QueueID = topic, topic, queue
	for _, m := range req.Messages {
		kept, err := stored(topic, m, from, now)
		if err != nil {
			return err
		}
		out.Messages = append(out.Messages, kept)
	}
	return nil
}

// queueOf is the queue of messages that have a message group, −1 for others. Clients choose one by a hash of their own, and not all of
// them by the same; so that all messages of a group meet in one queue, what they say does not count.
func queueOf(t *catalog.Topic, messages []*pb.Message) (int32, error) {
	group := messages[0].GetSystemProperties().GetMessageGroup()
	for _, m := range messages[1:] {
		if m.GetSystemProperties().GetMessageGroup() != group {
			return 0, refuse(pb.Code_ILLEGAL_MESSAGE_GROUP, "messages of different message groups in one request")
		}
	}
	if group == "" || t.WriteQueues <= 0 {
		return -1, nil
	}
	return bucketOf(kvindex.HashKey(group), t.WriteQueues), nil
}

// bucketOf chooses one of n buckets such that one more bucket takes over its share of keys and leaves all others where they are: jump
// consistent hashing (Lamping and Veach, 2014).
func bucketOf(key uint64, n int32) int32 {
	const multiplier = 2862933555777941757
	bucket, next := int64(-1), int64(0)
	for next < int64(n) {
		bucket = next
		key = key*multiplier + 1
		next = int64(float64(bucket+1) * (float64(1<<31) / float64(key>>33+1)))
	}
	return int32(bucket)
}

// checkKind holds the kind of a message against its topic's, and against what is served.
func checkKind(t *catalog.Topic, kind pb.MessageType, s *pb.SystemProperties) error {
	if !accepts(t.MessageType(), kind) {
		return refuse(pb.Code_MESSAGE_PROPERTY_CONFLICT_WITH_TYPE, "topic %s is for %s messages, not for %s", t.Name, t.MessageType(), kind)
	}
	switch kind {
	case pb.MessageType_NORMAL, pb.MessageType_DELAY, pb.MessageType_FIFO:
		return nil
	case pb.MessageType_TRANSACTION:
		if s.GetDeliveryTimestamp() != nil && !accepts(t.MessageType(), pb.MessageType_DELAY) {
			return refuse(pb.Code_MESSAGE_PROPERTY_CONFLICT_WITH_TYPE, "topic %s is for %s messages, not for delayed transactions", t.Name, t.MessageType())
		}
		return nil
	}
	return refuse(pb.Code_UNSUPPORTED, "%s messages are not supported yet", kind)
}

// gzipFlags are the bits of sysFlag for what the protocol calls GZIP; bits 8 to 10 are the type.
const gzipFlags = message.FlagCompressed | int32(message.CompressionZlib)<<8

// stored is the form in which a message is kept, the one that Remoting clients read.
func stored(topic string, m *pb.Message, from netip.AddrPort, now time.Time) (message.Message, error) {
	s := m.GetSystemProperties()
	out := message.Message{Topic: topic, BornTimestamp: now.UnixMilli(), BornHost: from, Body: m.GetBody()}
	if born := s.GetBornTimestamp(); born.IsValid() && born.GetSeconds() > 0 {
		out.BornTimestamp = born.AsTime().UnixMilli()
	}
	if s.GetBodyEncoding() == pb.Encoding_GZIP {
		out.SysFlag = gzipFlags
		if len(out.Body) > 1 && out.Body[0] == 0x1f && out.Body[1] == 0x8b {
			// True gzip; Remoting clients can read zlib only.
			plain, err := message.Decompress(gzipFlags, out.Body)
			if err != nil {
				return out, refuse(pb.Code_MESSAGE_CORRUPTED, "%s", err)
			}
			if out.Body, out.SysFlag, err = message.Compress(message.CompressionZlib, plain); err != nil {
				return out, err
			}
		}
	}
	out.Properties = properties(topic, m, from, out.BornTimestamp)
	return out, nil
}

func properties(topic string, m *pb.Message, from netip.AddrPort, born int64) []byte {
	s := m.GetSystemProperties()
	p := make([]byte, 0, 256)
	for k, v := range m.GetUserProperties() {
		if v != "" { // what has no value cannot be stored, here as in the reference
			p = message.AppendProperty(p, k, v)
		}
	}
	if s.GetTag() != "" {
		p = message.AppendProperty(p, message.PropTags, s.GetTag())
	}
	if len(s.GetKeys()) > 0 {
		p = message.AppendProperty(p, message.PropKeys, strings.Join(s.GetKeys(), " "))
	}
	if s.GetMessageGroup() != "" {
		p = message.AppendProperty(p, message.PropShardingKey, s.GetMessageGroup())
	}
	p = message.AppendProperty(p, message.PropUniqueKey, s.GetMessageId())
	p = message.AppendProperty(p, message.PropReconsume, strconv.Itoa(int(s.GetDeliveryAttempt())))
	p = message.AppendProperty(p, message.PropProducerGroup, topic)
	if s.GetDeliveryTimestamp() != nil {
		p = message.AppendProperty(p, message.PropTimerDeliver, strconv.FormatInt(deliveryTime(s), 10))
	}
	if s.GetMessageType() == pb.MessageType_TRANSACTION {
		p = message.AppendProperty(p, message.PropTranMsg, "true")
		if wait := s.GetOrphanedTransactionRecoveryDuration().AsDuration(); wait > 0 {
			p = message.AppendProperty(p, message.PropTranImmunity, strconv.FormatInt(roundUp(int64(wait), int64(time.Second)), 10))
		}
	}
	if s.GetTraceContext() != "" {
		p = message.AppendProperty(p, message.PropTraceContext, s.GetTraceContext())
	}
	host := s.GetBornHost()
	if host == "" {
		host = from.Addr().String()
	}
	p = message.AppendProperty(p, message.PropBornHost, host)
	return message.AppendProperty(p, message.PropBornTimestamp, strconv.FormatInt(born, 10))
}

// deliveryTime is the first whole millisecond that is not before the delivery timestamp, and not before 1970.
func deliveryTime(s *pb.SystemProperties) int64 {
	t := s.GetDeliveryTimestamp()
	return max(0, t.GetSeconds()*1000+roundUp(int64(t.GetNanos()), int64(time.Millisecond)))
}

// roundUp divides n, which is not negative.
func roundUp(n, by int64) int64 { return (n + by - 1) / by }
