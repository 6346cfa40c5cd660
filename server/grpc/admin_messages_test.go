package grpc

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/server/grpc/adminpb"
)

// pages asks for all pages of a query and answers the bodies of their messages.
func (s *stub) pages(req *adminpb.ListMessageRequest) (bodies []string, count int) {
	s.Helper()
	for {
		resp := &adminpb.ListMessageResponse{}
		s.refused("QueryMessage", req, resp, pb.Code_OK)
		count++
		for _, m := range resp.GetMessages() {
			bodies = append(bodies, string(m.GetBody()))
		}
		if resp.GetScrollId() == "" {
			return bodies, count
		}
		req.ScrollId = proto.String(resp.GetScrollId())
	}
}

// tagged sends so many messages, each tagged t0, t1 or t2 and all with one key.
func (s *stub) tagged(topic string, n int) (ids []string) {
	s.Helper()
	for i := range n {
		s.sendOne(topic, fmt.Sprintf("%s-%03d", topic, i), func(m *pb.Message) {
			m.SystemProperties.Tag, m.SystemProperties.Keys = proto.String(fmt.Sprint("t", i%3)), []string{"every", fmt.Sprint("key", i)}
		})
		ids = append(ids, fmt.Sprintf("id-%s-%03d", topic, i))
	}
	return ids
}

func (r *rig) oneQueue(topic string) {
	r.Helper()
	t := catalog.Topic{Name: topic, ReadQueues: 1, WriteQueues: 1, Perm: catalog.PermRead | catalog.PermWrite, TopicFilterType: "SINGLE_TAG"}
	if err := r.broker.PutTopic(context.Background(), t, "+message.type=NORMAL"); err != nil {
		r.Fatal(err)
	}
}

func TestQueryMessageByKeyAndID(t *testing.T) {
	r := newRig(t)
	r.topic("t", "NORMAL")
	s := r.stub("c")
	ids := s.tagged("t", 150)
	resp := &adminpb.ListMessageResponse{}
	s.refused("QueryMessage", &adminpb.ListMessageRequest{Topic: resource("t"), SearchKey: &adminpb.ListMessageRequest_MessageId{MessageId: ids[7]}}, resp, pb.Code_OK)
	if len(resp.GetMessages()) != 1 || string(resp.GetMessages()[0].GetBody()) != "t-007" || resp.GetScrollId() != "" {
		t.Fatal(resp)
	}
	if m := resp.GetMessages()[0]; m.GetTopic().GetName() != "t" || m.GetSystemProperties().GetTag() != "t1" || m.GetSystemProperties().GetMessageId() != ids[7] {
		t.Error(m)
	}
	// The offset id is what Remoting clients have.
	results, err := r.broker.Send(context.Background(), &broker.SendRequest{Topic: "t", QueueID: 2, Messages: []message.Message{{Topic: "t", Body: []byte("by offset id")}}})
	if err != nil {
		t.Fatal(err)
	}
	got, _ := s.pages(&adminpb.ListMessageRequest{Topic: resource("t"), SearchKey: &adminpb.ListMessageRequest_MessageId{MessageId: s.broker.OffsetID(results[0].Position)}})
	if !slices.Equal(got, []string{"by offset id"}) {
		t.Errorf("%q", got)
	}
	got, _ = s.pages(&adminpb.ListMessageRequest{Topic: resource("t"), SearchKey: &adminpb.ListMessageRequest_MessageKey{MessageKey: "key8"}})
	if !slices.Equal(got, []string{"t-008"}) {
		t.Errorf("by key: %q", got)
	}
	want := make([]string, 0, 150)
	for i := 149; i >= 0; i-- {
		want = append(want, fmt.Sprintf("t-%03d", i))
	}
	for _, size := range []int32{7, 64, 100} {
		got, pages := s.pages(&adminpb.ListMessageRequest{Topic: resource("t"), PageSize: &size, SearchKey: &adminpb.ListMessageRequest_MessageKey{MessageKey: "every"}})
		if !slices.Equal(got, want) {
			t.Errorf("pages of %d: %q", size, got)
		}
		if least := 150 / int(min(size, 64)); pages < least {
			t.Errorf("pages of %d: %d of them", size, pages)
		}
	}
	for want, req := range map[pb.Code]*adminpb.ListMessageRequest{
		pb.Code_MESSAGE_NOT_FOUND:   {Topic: resource("t"), SearchKey: &adminpb.ListMessageRequest_MessageId{MessageId: "none"}},
		pb.Code_ILLEGAL_MESSAGE_ID:  {Topic: resource("t"), SearchKey: &adminpb.ListMessageRequest_MessageId{}},
		pb.Code_ILLEGAL_MESSAGE_KEY: {Topic: resource("t"), SearchKey: &adminpb.ListMessageRequest_MessageKey{}},
		pb.Code_TOPIC_NOT_FOUND:     {Topic: resource("none"), SearchKey: &adminpb.ListMessageRequest_MessageKey{MessageKey: "every"}},
		pb.Code_UNSUPPORTED:         {Topic: resource("t"), SearchKey: &adminpb.ListMessageRequest_LiteTopic{LiteTopic: "l"}},
		pb.Code_NOT_FOUND:           {Topic: resource("t"), BrokerName: proto.String("broker-b")},
	} {
		s.refused("QueryMessage", req, resp, want)
	}
	for name, req := range map[string]*adminpb.ListMessageRequest{
		"page 0":             {PageNum: proto.Int32(0)},
		"a far page":         {PageNum: proto.Int32(math.MaxInt32), PageSize: proto.Int32(64)},
		"a queue":            {QueueId: proto.Int32(4)},
		"a negative size":    {PageSize: proto.Int32(-1)},
		"a negative number":  {MaxMessageNums: -1},
		"a scroll id":        {ScrollId: proto.String("x")},
		"a foreign one":      {ScrollId: proto.String("9-0")},
		"half a scroll id":   {ScrollId: proto.String("1-")},
		"times":              {BeginTimestamp: timestamppb.New(time.Unix(9, 0)), EndTimestamp: timestamppb.New(time.Unix(8, 0))},
		"a time before 1970": {BeginTimestamp: &timestamppb.Timestamp{Seconds: -1}},
		"no time":            {EndTimestamp: &timestamppb.Timestamp{Nanos: -1}},
	} {
		req.Topic = resource("t")
		s.refused("QueryMessage", req, resp, pb.Code_BAD_REQUEST)
		if t.Failed() {
			t.Fatal(name)
		}
	}
}

func TestQueryMessageScans(t *testing.T) {
	r := newRig(t)
	r.oneQueue("one")
	r.topic("t", "NORMAL")
	s := r.stub("c")
	s.tagged("one", 50)
	half := time.Now().UnixMilli()
	r.eventually("the next millisecond comes", func() bool { return time.Now().UnixMilli() > half+1 })
	middle := timestamppb.New(time.UnixMilli(half + 1))
	for i := range 50 {
		s.sendOne("one", fmt.Sprintf("one-%03d", 50+i), func(m *pb.Message) { m.SystemProperties.Tag = proto.String(fmt.Sprint("t", (50+i)%3)) })
	}
	body := func(keep func(i int) bool) (out []string) {
		for i := range 100 {
			if keep(i) {
				out = append(out, fmt.Sprintf("one-%03d", i))
			}
		}
		return out
	}
	byTag := func(tags string) *adminpb.ListMessageRequest_Subscription {
		return &adminpb.ListMessageRequest_Subscription{Subscription: tags}
	}
	for name, c := range map[string]struct {
		req  *adminpb.ListMessageRequest
		want []string
	}{
		"all":        {&adminpb.ListMessageRequest{}, body(func(int) bool { return true })},
		"seven":      {&adminpb.ListMessageRequest{PageSize: proto.Int32(7)}, body(func(int) bool { return true })},
		"by tag":     {&adminpb.ListMessageRequest{SearchKey: byTag("t1"), PageSize: proto.Int32(10)}, body(func(i int) bool { return i%3 == 1 })},
		"by tags":    {&adminpb.ListMessageRequest{SearchKey: byTag("t1 || t2"), MaxMessageNums: 5}, body(func(i int) bool { return i%3 > 0 })},
		"from":       {&adminpb.ListMessageRequest{BeginTimestamp: middle}, body(func(i int) bool { return i >= 50 })},
		"until":      {&adminpb.ListMessageRequest{EndTimestamp: middle}, body(func(i int) bool { return i < 50 })},
		"third page": {&adminpb.ListMessageRequest{PageNum: proto.Int32(3), PageSize: proto.Int32(30)}, body(func(i int) bool { return i >= 60 })},
		"third page by tag": {&adminpb.ListMessageRequest{SearchKey: byTag("t0"), PageNum: proto.Int32(3), PageSize: proto.Int32(10)},
			body(func(i int) bool { return i%3 == 0 && i >= 60 })},
		"behind the last page": {&adminpb.ListMessageRequest{PageNum: proto.Int32(30), PageSize: proto.Int32(30)}, nil},
	} {
		c.req.Topic = resource("one")
		if got, _ := s.pages(c.req); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	s.tagged("t", 60)
	got, _ := s.pages(&adminpb.ListMessageRequest{Topic: resource("t"), PageSize: proto.Int32(11), SearchKey: byTag("*")})
	slices.Sort(got)
	if len(slices.Compact(got)) != 60 {
		t.Errorf("%d of 60 in four queues: %q", len(got), got)
	}
	sum := 0
	for q := range int32(4) {
		got, _ := s.pages(&adminpb.ListMessageRequest{Topic: resource("t"), QueueId: &q})
		sum += len(got)
	}
	if sum != 60 {
		t.Errorf("%d of 60, queue by queue", sum)
	}
}

// TestQueryMessageIsBounded: an answer stays below what clients take, and a page that no call can reach is refused.
func TestQueryMessageIsBounded(t *testing.T) {
	r := newRig(t)
	r.oneQueue("big")
	s := r.stub("c")
	for i := range 6 {
		s.sendOne("big", string(slices.Repeat([]byte{byte('a' + i)}, 1<<20)), func(m *pb.Message) { m.SystemProperties.MessageId = fmt.Sprint("big", i) })
	}
	resp := &adminpb.ListMessageResponse{}
	s.refused("QueryMessage", &adminpb.ListMessageRequest{Topic: resource("big")}, resp, pb.Code_OK)
	if size := proto.Size(resp); size > 4<<20 || len(resp.GetMessages()) != 2 || resp.GetScrollId() == "" {
		t.Errorf("%d messages in %d bytes", len(resp.GetMessages()), size)
	}
	if got, pages := s.pages(&adminpb.ListMessageRequest{Topic: resource("big")}); len(got) != 6 || pages != 3 {
		t.Errorf("%d messages on %d pages", len(got), pages)
	}
}

func FuzzParseScroll(f *testing.F) {
	f.Add("3-17")
	f.Add("-1")
	f.Add("1-2-3")
	f.Fuzz(func(t *testing.T, s string) {
		a, b, err := parseScroll(s)
		if err == nil && (a < 0 || b < 0) {
			t.Errorf("%q: %d, %d", s, a, b)
		}
	})
}
