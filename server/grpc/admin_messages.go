package grpc

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/filter"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/server/grpc/adminpb"
	"github.com/cairnmq/cairn/store"
)

const (
	// defaultPage and maxPage are how many messages one answer has at most: when the request does not say, and when it does.
	defaultPage, maxPage = 32, 64
	// pageBytes is when an answer is full; clients take 4 MiB unless they were told otherwise.
	pageBytes = 3 << 20
	// maxScanned bounds the messages that one call looks at.
	maxScanned = 10_000
	// scanGroup is the group that reads without a place of its own, as the reference's tools do.
	scanGroup = "TOOLS_CONSUMER"
	// forever is after every message, and far from an overflow.
	forever = math.MaxInt64 / 4
)

// search is a QueryMessage under way.
type search struct {
	topic      *catalog.Topic
	begin, end int64 // ms, both inclusive
	queue      int32 // −1: all
	room       int   // messages that still fit
	skip       int   // matches to pass over, before the page that is asked for
	scanned    int
	conv       *converter
	found      []byte // fields `messages` of the response
}

// queryMessage finds messages by id or key, newest first; or reads the topic queue by queue, in the order of the queues and their offsets,
// with a filter by tags or without. A page ends when it has as many messages as were asked for (at most 64), 3 MiB, or
// after 10,000 messages were looked at; the scroll id says where the next one begins, and is empty when there is none.
func (d *Door) queryMessage(ctx context.Context, req *adminpb.ListMessageRequest, resp *adminpb.ListMessageResponse) error {
	s, err := d.newSearch(req)
	if err != nil {
		return err
	}
	if name := req.GetBrokerName(); name != "" && name != d.opts.BrokerName {
		return notFound("this is broker %s, not %s", d.opts.BrokerName, name)
	}
	switch key := req.GetSearchKey().(type) {
	case *adminpb.ListMessageRequest_LiteTopic:
		return refuse(pb.Code_UNSUPPORTED, "%s", notImplemented[rpcSyncLite])
	case *adminpb.ListMessageRequest_MessageId:
		err = d.searchID(s, key.MessageId)
	case *adminpb.ListMessageRequest_MessageKey:
		resp.ScrollId, err = d.searchKey(s, key.MessageKey, req.GetScrollId())
	default:
		resp.ScrollId, err = d.scan(ctx, s, req.GetSubscription(), req.GetScrollId())
	}
	if err != nil {
		return err
	}
	// A field of the response in its wire form is the response with that field.
	return proto.UnmarshalOptions{Merge: true}.Unmarshal(s.found, resp)
}

func (d *Door) newSearch(req *adminpb.ListMessageRequest) (*search, error) {
	t, err := d.anyTopic(req.GetTopic())
	if err != nil {
		return nil, err
	}
	s := &search{topic: t, end: forever, queue: -1, room: defaultPage}
	for _, bound := range []struct {
		at  *timestamppb.Timestamp
		ms  *int64
		ups int64 // a begin between two milliseconds is the later one
	}{{req.GetBeginTimestamp(), &s.begin, 1}, {req.GetEndTimestamp(), &s.end, 0}} {
		if bound.at == nil {
			continue
		}
		if !bound.at.IsValid() || bound.at.GetSeconds() < 0 {
			return nil, refuse(pb.Code_BAD_REQUEST, "a timestamp is none, or before 1970")
		}
		*bound.ms = bound.at.GetSeconds()*1000 + (int64(bound.at.GetNanos())+bound.ups*(int64(time.Millisecond)-1))/int64(time.Millisecond)
	}
	if s.begin > s.end {
		return nil, refuse(pb.Code_BAD_REQUEST, "the time begins after its end")
	}
	if req.QueueId != nil {
		if s.queue = req.GetQueueId(); s.queue < 0 || s.queue >= t.Queues() {
			return nil, refuse(pb.Code_BAD_REQUEST, "queue %d is not within 0 to %d", s.queue, t.Queues()-1)
		}
	}
	for _, most := range []int32{req.GetMaxMessageNums(), req.GetPageSize()} {
		if most < 0 {
			return nil, refuse(pb.Code_BAD_REQUEST, "a number of messages is negative")
		}
	}
	if n := int(req.GetMaxMessageNums()); n > 0 {
		s.room = min(n, maxPage)
	}
	if n := int(req.GetPageSize()); n > 0 {
		s.room = min(n, maxPage)
		if total := int(req.GetMaxMessageNums()); total > 0 {
			s.room = min(s.room, total)
		}
	}
	if req.PageNum != nil && req.GetScrollId() == "" {
		before := int64(req.GetPageNum()-1) * int64(s.room)
		if before < 0 || before > math.MaxInt32 {
			return nil, refuse(pb.Code_BAD_REQUEST, "page %d: pages are numbered from 1, and %d of %d messages are too many", req.GetPageNum(), req.GetPageNum(), s.room)
		}
		s.skip = int(before)
	}
	s.conv, err = newConverter(req.GetTopic(), d.opts.DelayLevels)
	return s, err
}

// add takes a message into the page; full is true when it does not fit any more.
func (s *search) add(m *message.Message) (full bool) {
	if s.queue >= 0 && m.QueueID != s.queue {
		return false
	}
	if s.skip > 0 {
		s.skip--
		return false
	}
	size := s.conv.take(m, &delivery{attempt: m.ReconsumeTimes + 1})
	if s.room <= 0 || len(s.found) > 0 && len(s.found)+size > pageBytes {
		s.room = 0
		return true
	}
	s.found = s.conv.appendMessage(s.found, responseMessage, size)
	s.room--
	return false
}

// searchID finds a message by its unique id, or by the offset id that Remoting clients get.
func (d *Door) searchID(s *search, id string) error {
	buf := store.NewBuffer()
	defer buf.Release()
	layouts, err := d.messageByID(s.topic.Name, id, s.begin, s.end, buf)
	if err != nil {
		return err
	}
	for len(layouts) > 0 {
		m, n, err := message.Decode(layouts)
		if err != nil {
			return err
		}
		s.add(&m)
		layouts = layouts[n:]
	}
	if len(s.found) == 0 {
		return refuse(pb.Code_MESSAGE_NOT_FOUND, "no message %s of topic %s", id, s.topic.Name)
	}
	return nil
}

// messageByID reads the messages of an id, one after the other; they are in buf.
func (d *Door) messageByID(topic, id string, begin, end int64, buf *store.Buffer) ([]byte, error) {
	if id == "" {
		return nil, refuse(pb.Code_ILLEGAL_MESSAGE_ID, "the message id is empty")
	}
	ends, err := d.broker.QueryByUniqueID(topic, id, begin, end, 0, buf)
	if err != nil {
		return nil, err
	}
	if len(ends) > 0 {
		return buf.B[:ends[len(ends)-1]], nil
	}
	_, position, err := message.ParseOffsetID(id)
	if err != nil { // a unique id then, and of no message
		return nil, nil
	}
	layout, err := d.broker.MessageByPosition(topic, record.Position(position), buf)
	if broker.CodeOf(err) == broker.CodeNotFound {
		return nil, nil
	}
	return layout, err
}

// searchKey finds messages by a key. The scroll id is the store time and the place in the log of the last one that was answered.
func (d *Door) searchKey(s *search, key, scroll string) (next string, err error) {
	if key == "" {
		return "", refuse(pb.Code_ILLEGAL_MESSAGE_KEY, "the key is empty")
	}
	last := int64(math.MaxInt64)
	if scroll != "" {
		var until int64
		if until, last, err = parseScroll(scroll); err != nil {
			return "", err
		}
		s.end = min(s.end, until)
	}
	for {
		buf := store.NewBuffer()
		more, until, err := d.searchKeyOnce(s, key, &last, buf)
		buf.Release()
		switch {
		case err != nil || !more:
			return "", err
		case s.room <= 0:
			return formatScroll(until, last), nil
		}
		s.end = until
	}
}

// searchKeyOnce takes what one look at the index finds before the place last, which it moves; more is true when there may be others,
// stored at the time until or before.
func (d *Door) searchKeyOnce(s *search, key string, last *int64, buf *store.Buffer) (more bool, until int64, err error) {
	ends, err := d.broker.QueryByKey(s.topic.Name, key, s.begin, s.end, 0, buf)
	if err != nil {
		return false, 0, err
	}
	begin, moved := 0, false
	until = s.end
	for _, end := range ends {
		m, _, err := message.Decode(buf.B[begin:end])
		if err != nil {
			return false, 0, err
		}
		begin = end
		if m.PhysicalOffset >= *last {
			continue
		}
		if s.add(&m) {
			return true, until, nil
		}
		*last, until, moved = m.PhysicalOffset, m.StoreTimestamp, true
	}
	if len(ends) < maxPage {
		return false, until, nil
	}
	if !moved {
		return false, 0, refuse(pb.Code_BAD_REQUEST, "more than %d messages have the key %s in one millisecond", maxPage, key)
	}
	return true, until, nil
}

// scan reads the queues one after the other. The scroll id is the queue and the offset where the next page begins.
func (d *Door) scan(ctx context.Context, s *search, subscription, scroll string) (next string, err error) {
	var f *filter.Expr
	if subscription != "" {
		if f, err = filterOf(&pb.FilterExpression{Type: pb.FilterType_TAG, Expression: subscription}); err != nil {
			return "", err
		}
	}
	first, last := int32(0), s.topic.Queues()
	if s.queue >= 0 {
		first, last = s.queue, s.queue+1
	}
	from := int64(0)
	if scroll != "" {
		queue, offset, err := parseScroll(scroll)
		if err != nil {
			return "", err
		}
		if queue < int64(first) || queue >= int64(last) {
			return "", refuse(pb.Code_BAD_REQUEST, "the scroll id %s is of another query", scroll)
		}
		first, from = int32(queue), offset
	}
	for q := first; q < last; q++ {
		at, over, err := d.scanQueue(ctx, s, q, from, f)
		if err != nil {
			return "", err
		}
		if !over {
			return formatScroll(int64(q), at), nil
		}
		from = 0
	}
	if s.skip > 0 && len(s.found) == 0 && scroll == "" && s.scanned >= maxScanned {
		return "", errFarPage
	}
	return "", nil
}

var errFarPage = refuse(pb.Code_BAD_REQUEST, "the page lies behind more than %d messages: go on with the scroll id of the page before", maxScanned)

// scanQueue reads a queue from an offset on; over is false when the page ended before the queue did, and at is where it goes on.
func (d *Door) scanQueue(ctx context.Context, s *search, queue int32, from int64, f *filter.Expr) (at int64, over bool, err error) {
	low, err := d.broker.OffsetByTime(s.topic.Name, queue, s.begin, store.Lower)
	if err != nil {
		return 0, false, err
	}
	high, err := d.broker.MaxOffset(s.topic.Name, queue)
	if err == nil && s.end < forever {
		high, err = d.broker.OffsetByTime(s.topic.Name, queue, s.end+1, store.Lower)
	}
	if err != nil {
		return 0, false, err
	}
	at = max(low, from)
	if f.All() && s.skip > 0 { // nothing is passed over: whole stretches need not be read
		pass := min(int64(s.skip), max(high-at, 0))
		s.skip -= int(pass)
		at += pass
	}
	for at < high {
		if s.room <= 0 {
			return at, false, nil
		}
		if s.scanned >= maxScanned {
			if s.skip > 0 {
				return 0, false, errFarPage
			}
			return at, false, nil
		}
		if at, err = d.scanSome(ctx, s, queue, at, high, f); err != nil {
			return 0, false, err
		}
	}
	return at, true, nil
}

// scanSome takes what one pull finds, and answers where to go on.
func (d *Door) scanSome(ctx context.Context, s *search, queue int32, from, high int64, f *filter.Expr) (next int64, err error) {
	res, err := d.broker.Pull(ctx, &broker.PullRequest{
		Group: scanGroup, Topic: s.topic.Name, QueueID: queue, Offset: from, MaxMessages: int(min(defaultPage, high-from)), Filter: f, CommitOffset: -1,
	})
	if err != nil {
		return 0, err
	}
	defer res.Buffer.Release()
	if res.NextOffset <= from {
		return high, nil // it has been trimmed meanwhile, or nothing is behind
	}
	s.scanned += int(res.NextOffset - from)
	begin := 0
	for _, end := range res.Ends {
		m, _, err := message.Decode(res.Buffer.B[begin:end])
		if err != nil {
			return 0, err
		}
		begin = end
		if m.QueueOffset >= high {
			return high, nil
		}
		if f.Match(m.Properties) && s.add(&m) {
			return m.QueueOffset, nil
		}
	}
	return res.NextOffset, nil
}

func formatScroll(a, b int64) string { return fmt.Sprintf("%d-%d", a, b) }

func parseScroll(s string) (a, b int64, err error) {
	first, second, _ := strings.Cut(s, "-")
	a, err = strconv.ParseInt(first, 10, 64)
	b, err2 := strconv.ParseInt(second, 10, 64)
	if errors.Join(err, err2) != nil || a < 0 || b < 0 {
		return 0, 0, refuse(pb.Code_BAD_REQUEST, "the scroll id %q is not one that was answered", s)
	}
	return a, b, nil
}
