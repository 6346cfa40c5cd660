package grpc

import (
	"context"
	"crypto/md5"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/message"
)

var noon = time.UnixMilli(1_700_000_000_000)

// fakeRig is a rig whose time stands still, with a topic T.
func fakeRig(t *testing.T) (*rig, *clock.Fake) {
	t.Helper()
	c := clock.NewFake(noon)
	r := newRig(t, withFakeClock(c))
	r.topic("T", "NORMAL")
	return r, c
}

// take receives until n messages have come, and fails when they do not.
func (s *stub) take(req *pb.ReceiveMessageRequest, n int) (out []*pb.Message) {
	s.Helper()
	for len(out) < n {
		got, err := s.receive(s.ctx(10*time.Second), req)
		if err != nil || got.status.GetCode() != pb.Code_OK {
			s.Fatalf("receive after %d of %d messages: %v, %v", len(out), n, got.status, err)
		}
		out = append(out, got.messages...)
	}
	return out
}

// receiveInTime receives while time goes on, so that a poll ends.
func (s *stub) receiveInTime(c *clock.Fake, req *pb.ReceiveMessageRequest) (got received, err error) {
	s.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		got, err = s.receive(s.ctx(10*time.Second), req)
	}()
	s.eventually("the poll is over", func() bool {
		select {
		case <-done:
			return true
		default:
			c.Advance(250 * time.Millisecond)
			return false
		}
	})
	return got, err
}

// nothing fails when there is something to receive in the next seconds, which pass.
func (s *stub) nothing(c *clock.Fake, req *pb.ReceiveMessageRequest) {
	s.Helper()
	got, err := s.receiveInTime(c, req)
	if err != nil || got.status.GetCode() != pb.Code_MESSAGE_NOT_FOUND || len(got.messages) > 0 {
		s.Fatalf("receive: %v, %v, %v; want nothing", got.status, got.messages, err)
	}
}

func handle(m *pb.Message) string { return m.GetSystemProperties().GetReceiptHandle() }

func TestReceiveAndAck(t *testing.T) {
	r, c := fakeRig(t)
	s := r.stub("c1")
	s.send("T", "a", "b", "c")
	got, err := s.receive(s.ctx(10*time.Second), receiveRequest("T", "g", 30*time.Second))
	if err != nil || got.status.GetCode() != pb.Code_OK || len(got.messages) != 3 {
		t.Fatalf("%v, %v, %v", got.status, got.messages, err)
	}
	if got.at.UnixMilli() != noon.UnixMilli() {
		t.Errorf("handed out at %v", got.at)
	}
	m := got.messages[1]
	p := m.GetSystemProperties()
	if string(m.GetBody()) != "b" || p.GetMessageId() != "id-b" || p.GetDeliveryAttempt() != 1 || p.GetQueueOffset() != 1 ||
		p.GetInvisibleDuration().AsDuration() != 30*time.Second || p.GetBodyDigest().GetChecksum() != fmt.Sprintf("%X", md5.Sum([]byte("b"))) ||
		m.GetTopic().GetName() != "T" || handle(m) == "" {
		t.Errorf("received %v", m)
	}
	var handles []string
	for _, m := range got.messages {
		handles = append(handles, handle(m))
	}
	resp := s.ack("T", "g", handles...)
	if resp.GetStatus().GetCode() != pb.Code_OK || len(resp.GetEntries()) != 3 || resp.GetEntries()[2].GetReceiptHandle() != handles[2] ||
		resp.GetEntries()[2].GetMessageId() != "m2" {
		t.Errorf("ack: %v", resp)
	}
	c.Advance(time.Minute)
	s.nothing(c, receiveRequest("T", "g", 10*time.Second))
}

// TestAcksThatComeTogether: calls of one connection are answered each for itself, whatever they are acknowledged with.
func TestAcksThatComeTogether(t *testing.T) {
	r, c := fakeRig(t)
	s := r.stub("c1")
	handles := map[string][]string{}
	for _, topic := range []string{"T", "U"} {
		for i := range 30 {
			s.send(topic, fmt.Sprint(i))
		}
		got, err := s.receive(s.ctx(10*time.Second), receiveRequest(topic, "g", 30*time.Second))
		if err != nil || len(got.messages) != 30 {
			t.Fatalf("%v, %v, %v", got.status, got.messages, err)
		}
		for _, m := range got.messages {
			handles[topic] = append(handles[topic], handle(m))
		}
	}
	acked := func(want pb.Code, topic, group string, handles ...string) {
		resp := s.ack(topic, group, handles...)
		if resp.GetStatus().GetCode() != want || want != pb.Code_ILLEGAL_TOPIC && len(resp.GetEntries()) != len(handles) {
			t.Errorf("ack on %s for %s: %v, want %v", topic, group, resp, want)
		}
		for i, e := range resp.GetEntries() {
			if e.GetReceiptHandle() != handles[i] || e.GetMessageId() != fmt.Sprint("m", i) {
				t.Errorf("entry %d is of another message: %v", i, e)
			}
		}
	}
	var all sync.WaitGroup
	for i := range 30 {
		all.Go(func() { acked(pb.Code_OK, "T", "g", handles["T"][i]) })
		all.Go(func() { acked(pb.Code_INVALID_RECEIPT_HANDLE, "T", "g", handles["U"][i]) })
		all.Go(func() { acked(pb.Code_CONSUMER_GROUP_NOT_FOUND, "T", "nobody", handles["T"][i]) })
		if i%3 == 0 {
			all.Go(func() {
				acked(pb.Code_MULTIPLE_RESULTS, "U", "g", handles["U"][i], "no handle", handles["U"][i+1], handles["U"][i+2])
			})
		}
	}
	all.Wait()
	acked(pb.Code_INVALID_RECEIPT_HANDLE, "T", "g", handles["T"]...)
	c.Advance(time.Minute)
	s.nothing(c, receiveRequest("T", "g", 10*time.Second))
	s.nothing(c, receiveRequest("U", "g", 10*time.Second))
}

// TestRedelivery: what is not settled comes again after its invisible time, and says how often.
func TestRedelivery(t *testing.T) {
	r, c := fakeRig(t)
	s := r.stub("c1")
	s.send("T", "a")
	req := receiveRequest("T", "g", 10*time.Second)
	var handles []string
	for attempt := int32(1); attempt <= 3; attempt++ {
		m := s.take(req, 1)[0]
		if got := m.GetSystemProperties().GetDeliveryAttempt(); got != attempt {
			t.Errorf("attempt %d, want %d", got, attempt)
		}
		handles = append(handles, handle(m))
		if slices.Contains(handles[:attempt-1], handle(m)) {
			t.Error("two deliveries with one handle")
		}
		c.Advance(10 * time.Second)
	}
	resp := s.ack("T", "g", handles...)
	for i, e := range resp.GetEntries() {
		if e.GetStatus().GetCode() != pb.Code_INVALID_RECEIPT_HANDLE {
			t.Errorf("ack of delivery %d after its invisible time: %v", i+1, e)
		}
	}
	if resp.GetStatus().GetCode() != pb.Code_INVALID_RECEIPT_HANDLE {
		t.Errorf("overall %v", resp.GetStatus())
	}
	last := s.take(req, 1)[0]
	resp = s.ack("T", "g", handles[0], handle(last), "nonsense")
	if resp.GetStatus().GetCode() != pb.Code_MULTIPLE_RESULTS || resp.GetEntries()[0].GetStatus().GetCode() != pb.Code_INVALID_RECEIPT_HANDLE ||
		resp.GetEntries()[1].GetStatus().GetCode() != pb.Code_OK || resp.GetEntries()[2].GetStatus().GetCode() != pb.Code_INVALID_RECEIPT_HANDLE {
		t.Errorf("a stale, a good and a broken handle: %v", resp)
	}
	c.Advance(time.Minute)
	s.nothing(c, req)
}

func (s *stub) changeInvisible(topic, group, handle string, d time.Duration) *pb.ChangeInvisibleDurationResponse {
	s.Helper()
	resp, err := s.ChangeInvisibleDuration(s.ctx(10*time.Second), &pb.ChangeInvisibleDurationRequest{
		Topic: resource(topic), Group: resource(group), ReceiptHandle: handle, InvisibleDuration: durationpb.New(d),
	})
	if err != nil {
		s.Fatal(err)
	}
	return resp
}

func TestChangeInvisible(t *testing.T) {
	r, c := fakeRig(t)
	s := r.stub("c1")
	s.send("T", "a")
	req := receiveRequest("T", "g", 10*time.Second)
	m := s.take(req, 1)[0]
	longer := s.changeInvisible("T", "g", handle(m), time.Minute)
	if longer.GetStatus().GetCode() != pb.Code_OK || longer.GetReceiptHandle() == "" {
		t.Fatalf("%v", longer)
	}
	c.Advance(30 * time.Second)
	s.nothing(c, req)
	if got := s.changeInvisible("T", "g", handle(m), time.Minute); got.GetStatus().GetCode() != pb.Code_INVALID_RECEIPT_HANDLE {
		t.Errorf("the old handle: %v", got)
	}
	shorter := s.changeInvisible("T", "g", longer.GetReceiptHandle(), time.Second)
	if shorter.GetStatus().GetCode() != pb.Code_OK {
		t.Fatalf("%v", shorter)
	}
	c.Advance(time.Second)
	again := s.take(req, 1)[0]
	if again.GetSystemProperties().GetDeliveryAttempt() != 2 {
		t.Errorf("attempt %d", again.GetSystemProperties().GetDeliveryAttempt())
	}
	changed := s.changeInvisible("T", "g", handle(again), time.Minute)
	if resp := s.ack("T", "g", changed.GetReceiptHandle()); resp.GetStatus().GetCode() != pb.Code_OK {
		t.Errorf("ack with the changed handle: %v", resp)
	}
	c.Advance(time.Hour)
	s.nothing(c, req)
}

// TestSuspend: a consumer that cannot take a message now hands it back without its counting as an attempt.
func TestSuspend(t *testing.T) {
	r, c := fakeRig(t)
	s := r.stub("c1")
	s.send("T", "a")
	req := receiveRequest("T", "g", 10*time.Second)
	for range 2 {
		m := s.take(req, 1)[0]
		if m.GetSystemProperties().GetDeliveryAttempt() != 1 {
			t.Errorf("attempt %d", m.GetSystemProperties().GetDeliveryAttempt())
		}
		resp, err := s.ChangeInvisibleDuration(s.ctx(5*time.Second), &pb.ChangeInvisibleDurationRequest{
			Topic: resource("T"), Group: resource("g"), ReceiptHandle: handle(m), InvisibleDuration: durationpb.New(time.Second), Suspend: proto.Bool(true),
		})
		if err != nil || resp.GetStatus().GetCode() != pb.Code_OK || resp.GetReceiptHandle() == "" {
			t.Fatal(resp, err)
		}
		c.Advance(time.Second)
	}
	s.take(req, 1)
}

func TestChangeInvisibleRefusals(t *testing.T) {
	r, _ := fakeRig(t)
	s := r.stub("c1")
	for name, c := range map[string]struct {
		req  *pb.ChangeInvisibleDurationRequest
		want pb.Code
	}{
		"negative":      {&pb.ChangeInvisibleDurationRequest{Topic: resource("T"), Group: resource("g"), InvisibleDuration: durationpb.New(-1)}, pb.Code_ILLEGAL_INVISIBLE_TIME},
		"13 hours":      {&pb.ChangeInvisibleDurationRequest{Topic: resource("T"), Group: resource("g"), InvisibleDuration: durationpb.New(13 * time.Hour)}, pb.Code_ILLEGAL_INVISIBLE_TIME},
		"lite":          {&pb.ChangeInvisibleDurationRequest{Topic: resource("T"), Group: resource("g"), LiteTopic: proto.String("l")}, pb.Code_UNSUPPORTED},
		"illegal topic": {&pb.ChangeInvisibleDurationRequest{Topic: resource("a b"), Group: resource("g")}, pb.Code_ILLEGAL_TOPIC},
		"illegal group": {&pb.ChangeInvisibleDurationRequest{Topic: resource("T"), Group: resource("a b")}, pb.Code_ILLEGAL_CONSUMER_GROUP},
		"broken handle": {&pb.ChangeInvisibleDurationRequest{Topic: resource("T"), Group: resource("g"), ReceiptHandle: "x"}, pb.Code_INVALID_RECEIPT_HANDLE},
	} {
		if name == "broken handle" {
			if _, err := r.broker.EnsureGroup(context.Background(), "g"); err != nil {
				t.Fatal(err)
			}
		}
		resp, err := s.ChangeInvisibleDuration(s.ctx(5*time.Second), c.req)
		if err != nil || resp.GetStatus().GetCode() != c.want {
			t.Errorf("%s: %v, %v, want %v", name, resp, err, c.want)
		}
	}
}

func TestAckRefusals(t *testing.T) {
	r, _ := fakeRig(t)
	s := r.stub("c1")
	entry := []*pb.AckMessageEntry{{ReceiptHandle: "x"}}
	for name, c := range map[string]struct {
		req  *pb.AckMessageRequest
		want pb.Code
	}{
		"nothing":       {&pb.AckMessageRequest{Topic: resource("T"), Group: resource("g")}, pb.Code_BAD_REQUEST},
		"illegal topic": {&pb.AckMessageRequest{Topic: resource(""), Group: resource("g"), Entries: entry}, pb.Code_ILLEGAL_TOPIC},
		"illegal group": {&pb.AckMessageRequest{Topic: resource("T"), Group: resource(""), Entries: entry}, pb.Code_ILLEGAL_CONSUMER_GROUP},
		"lite": {&pb.AckMessageRequest{Topic: resource("T"), Group: resource("g"), Entries: []*pb.AckMessageEntry{
			{ReceiptHandle: "x", LiteTopic: proto.String("l")},
		}}, pb.Code_UNSUPPORTED},
	} {
		resp, err := s.AckMessage(s.ctx(5*time.Second), c.req)
		if err != nil || resp.GetStatus().GetCode() != c.want {
			t.Errorf("%s: %v, %v, want %v", name, resp, err, c.want)
		}
	}
	nobody := r.stub("")
	if resp := nobody.ack("T", "g", "x"); resp.GetStatus().GetCode() != pb.Code_CLIENT_ID_REQUIRED {
		t.Errorf("no client id: %v", resp)
	}
}

func TestReceiveRefusals(t *testing.T) {
	r, _ := fakeRig(t)
	r.topic("lite", "LITE")
	filter := func(kind pb.FilterType, e string) func(*pb.ReceiveMessageRequest) {
		return func(r *pb.ReceiveMessageRequest) {
			r.FilterExpression = &pb.FilterExpression{Type: kind, Expression: e}
		}
	}
	invisible := func(d time.Duration) func(*pb.ReceiveMessageRequest) {
		return func(r *pb.ReceiveMessageRequest) { r.InvisibleDuration = durationpb.New(d) }
	}
	from := func(topic, group string) func(*pb.ReceiveMessageRequest) {
		return func(r *pb.ReceiveMessageRequest) {
			r.MessageQueue, r.Group = &pb.MessageQueue{Topic: resource(topic)}, resource(group)
		}
	}
	for name, c := range map[string]struct {
		id, version string
		timeout     time.Duration
		change      func(*pb.ReceiveMessageRequest)
		want        pb.Code
	}{
		"no client id":            {"", "5.1.4", 10 * time.Second, invisible(30 * time.Second), pb.Code_CLIENT_ID_REQUIRED},
		"9.9 s":                   {"c", "5.1.4", 10 * time.Second, invisible(9900 * time.Millisecond), pb.Code_ILLEGAL_INVISIBLE_TIME},
		"13 h":                    {"c", "5.1.4", 10 * time.Second, invisible(13 * time.Hour), pb.Code_ILLEGAL_INVISIBLE_TIME},
		"no invisible time":       {"c", "5.1.4", 10 * time.Second, func(r *pb.ReceiveMessageRequest) { r.InvisibleDuration = nil }, pb.Code_ILLEGAL_INVISIBLE_TIME},
		"no SQL":                  {"c", "5.1.4", 10 * time.Second, filter(pb.FilterType_SQL, "a > 1 AND"), pb.Code_ILLEGAL_FILTER_EXPRESSION},
		"empty SQL":               {"c", "5.1.4", 10 * time.Second, filter(pb.FilterType_SQL, ""), pb.Code_ILLEGAL_FILTER_EXPRESSION},
		"empty filter":            {"c", "5.1.4", 10 * time.Second, filter(pb.FilterType_TAG, "|| ||"), pb.Code_ILLEGAL_FILTER_EXPRESSION},
		"illegal topic":           {"c", "5.1.4", 10 * time.Second, from("a b", "g"), pb.Code_ILLEGAL_TOPIC},
		"illegal group":           {"c", "5.1.4", 10 * time.Second, from("T", "a b"), pb.Code_ILLEGAL_CONSUMER_GROUP},
		"unknown topic":           {"c", "5.1.4", 10 * time.Second, from("unknown", "g"), pb.Code_TOPIC_NOT_FOUND},
		"lite topic":              {"c", "5.1.4", 10 * time.Second, from("lite", "g"), pb.Code_UNSUPPORTED},
		"4 s left":                {"c", "5.0.3", 4 * time.Second, invisible(30 * time.Second), pb.Code_ILLEGAL_POLLING_TIME},
		"4 s left, old client":    {"c", "5.0.2", 4 * time.Second, invisible(30 * time.Second), pb.Code_BAD_REQUEST},
		"4 s left, silent client": {"c", "", 4 * time.Second, invisible(30 * time.Second), pb.Code_BAD_REQUEST},
	} {
		s := r.stub(c.id)
		s.version = c.version
		req := receiveRequest("T", "g", 30*time.Second)
		c.change(req)
		got, err := s.receive(s.ctx(c.timeout), req)
		if err != nil || got.status.GetCode() != c.want || len(got.messages) > 0 {
			t.Errorf("%s: %v, %v, want %v", name, got.status, err, c.want)
		}
	}
}

func TestReceiveWithoutAutoCreate(t *testing.T) {
	r := newRig(t, noAutoCreate)
	s := r.stub("c1")
	got, err := s.receive(s.ctx(10*time.Second), receiveRequest("unknown", "g", 30*time.Second))
	if err != nil || got.status.GetCode() != pb.Code_TOPIC_NOT_FOUND {
		t.Errorf("unknown topic: %v, %v", got.status, err)
	}
	r.topic("T", "NORMAL")
	got, err = s.receive(s.ctx(10*time.Second), receiveRequest("T", "unknown", 30*time.Second))
	if err != nil || got.status.GetCode() != pb.Code_CONSUMER_GROUP_NOT_FOUND {
		t.Errorf("unknown group: %v, %v", got.status, err)
	}
}

func TestPollingTime(t *testing.T) {
	long := func(d time.Duration) *durationpb.Duration { return durationpb.New(d) }
	slow := &session{}
	slow.set(&settings{requestTimeout: 6 * time.Second})
	for name, c := range map[string]struct {
		asked    *durationpb.Duration
		deadline time.Duration // 0: none
		client   *session
		want     time.Duration
	}{
		"asked":                              {long(12 * time.Second), 60 * time.Second, &session{}, 12 * time.Second},
		"asked too little":                   {long(time.Second), 60 * time.Second, &session{}, 5 * time.Second},
		"asked too much":                     {long(time.Hour), 90 * time.Second, &session{}, time.Minute},
		"asked more than is left":            {long(15 * time.Second), 10 * time.Second, &session{}, 9500 * time.Millisecond},
		"what is left, less half a request":  {nil, 13 * time.Second, &session{}, 11500 * time.Millisecond},
		"less half a request that may take":  {nil, 13 * time.Second, slow, 10 * time.Second},
		"little is left":                     {nil, 6 * time.Second, &session{}, 5 * time.Second},
		"no deadline":                        {nil, 0, &session{}, time.Minute},
		"no deadline, but asked":             {long(7 * time.Second), 0, &session{}, 7 * time.Second},
		"just enough, but no margin for all": {long(5 * time.Second), 5200 * time.Millisecond, &session{}, 4700 * time.Millisecond},
	} {
		ctx := context.Background()
		if c.deadline > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, c.deadline)
			defer cancel()
		}
		got, err := pollingTime(ctx, &pb.ReceiveMessageRequest{LongPollingTimeout: c.asked}, c.client)
		if err != nil || got > c.want || got < c.want-100*time.Millisecond {
			t.Errorf("%s: %v, %v, want %v", name, got, err, c.want)
		}
	}
}

func TestTags(t *testing.T) {
	r, c := fakeRig(t)
	s := r.stub("c1")
	for _, v := range []string{"red", "blue", "green", "red"} {
		m := good(tag(v), func(m *pb.Message) { m.Topic, m.Body = resource("T"), []byte(v) })
		if resp, err := s.SendMessage(s.ctx(5*time.Second), &pb.SendMessageRequest{Messages: []*pb.Message{m}}); err != nil || resp.GetStatus().GetCode() != pb.Code_OK {
			t.Fatal(resp, err)
		}
	}
	req := receiveRequest("T", "g", 30*time.Second)
	req.FilterExpression.Expression = "red || green"
	var got []string
	for _, m := range s.take(req, 3) {
		got = append(got, string(m.GetBody()))
		s.ack("T", "g", handle(m))
	}
	slices.Sort(got)
	if fmt.Sprint(got) != "[green red red]" {
		t.Errorf("received %v", got)
	}
	s.nothing(c, req)
}

// TestNamespace: the prefix is the broker's business; clients see the names that they use.
func TestSQL(t *testing.T) {
	r, c := fakeRig(t)
	s := r.stub("c1")
	for i := range 100 {
		s.sendOne("T", fmt.Sprint(i), func(m *pb.Message) {
			m.UserProperties = map[string]string{"n": fmt.Sprint(i), "kind": []string{"odd", "even"}[(i+1)%2]}
		})
	}
	req := receiveRequest("T", "g", 30*time.Second)
	req.FilterExpression = &pb.FilterExpression{Type: pb.FilterType_SQL, Expression: "kind = 'even' AND n BETWEEN 90 AND 99 -- some"}
	var got []string
	for _, m := range s.take(req, 5) {
		got = append(got, string(m.GetBody()))
	}
	slices.Sort(got)
	if want := []string{"90", "92", "94", "96", "98"}; !slices.Equal(got, want) {
		t.Errorf("received %v, want %v", got, want)
	}
	s.nothing(c, req)
}

func TestNamespace(t *testing.T) {
	r, _ := fakeRig(t)
	s := r.stub("c1")
	topic := &pb.Resource{ResourceNamespace: "ns", Name: "T"}
	m := good(func(m *pb.Message) { m.Topic = topic })
	if resp, err := s.SendMessage(s.ctx(5*time.Second), &pb.SendMessageRequest{Messages: []*pb.Message{m}}); err != nil || resp.GetStatus().GetCode() != pb.Code_OK {
		t.Fatal(resp, err)
	}
	if _, err := r.broker.Topic("ns%T"); err != nil {
		t.Error(err)
	}
	req := receiveRequest("T", "g", 30*time.Second)
	req.MessageQueue.Topic = topic
	if got := s.take(req, 1)[0].GetTopic(); !proto.Equal(got, topic) {
		t.Errorf("topic %v", got)
	}
}

// TestRemotingMessages: what a Remoting client has compressed arrives whole.
func TestRemotingMessages(t *testing.T) {
	r, _ := fakeRig(t)
	s := r.stub("c1")
	plain := strings.Repeat("not all those who wander are lost ", 100)
	packed, flags, err := message.Compress(message.CompressionLZ4, []byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	props := message.EncodeProperties(map[string]string{"TAGS": "t", "WAIT": "true", "color": "blue"})
	_, err = r.broker.Send(context.Background(), &broker.SendRequest{Topic: "T", QueueID: 2, Messages: []message.Message{
		{Body: packed, SysFlag: flags, Properties: props, BornTimestamp: 1234, BornHost: r.opts.Advertise},
	}})
	if err != nil {
		t.Fatal(err)
	}
	m := s.take(receiveRequest("T", "g", 30*time.Second), 1)[0]
	p := m.GetSystemProperties()
	if string(m.GetBody()) != plain || p.GetBodyEncoding() != pb.Encoding_IDENTITY || p.GetTag() != "t" || p.GetQueueId() != 2 ||
		fmt.Sprint(m.GetUserProperties()) != "map[color:blue]" || p.GetBornHost() != "127.0.0.1" || p.GetMessageId() == "" {
		t.Errorf("received %v", m)
	}
}

// TestLongPolling: a message reaches a receive that waits at once.
func TestLongPolling(t *testing.T) {
	r := newRig(t)
	r.topic("T", "NORMAL")
	s := r.stub("c1")
	const rounds = 20
	waits := make([]time.Duration, 0, rounds)
	for i := range rounds {
		type result struct {
			got received
			at  time.Time
			err error
		}
		done := make(chan result, 1)
		go func() {
			got, err := s.receive(s.ctx(10*time.Second), receiveRequest("T", "g", 30*time.Second))
			done <- result{got, time.Now(), err}
		}()
		r.eventually("the receive waits", func() bool { return r.polling("c1") == 1 })
		sent := time.Now()
		s.send("T", fmt.Sprint(i))
		res := <-done
		if res.err != nil || len(res.got.messages) != 1 || string(res.got.messages[0].GetBody()) != fmt.Sprint(i) {
			t.Fatalf("round %d: %v, %v, %v", i, res.got.status, res.got.messages, res.err)
		}
		waits = append(waits, res.at.Sub(sent))
		s.ack("T", "g", handle(res.got.messages[0]))
		r.eventually("the receive has ended", func() bool { return r.polling("c1") == 0 })
	}
	slices.Sort(waits)
	t.Logf("from sending to receiving: median %v, longest %v", waits[rounds/2], waits[rounds-1])
	if waits[rounds/2] > 100*time.Millisecond {
		t.Errorf("a message takes %v to reach a receive that waits", waits[rounds/2])
	}
}

// polling counts the streams of a client.
func (r *rig) polling(id string) int {
	s := r.door.sessions
	s.mu.RLock()
	defer s.mu.RUnlock()
	if c := s.mu.byID[id]; c != nil {
		return int(c.streams.Load())
	}
	return 0
}

// TestPollThatGoesAway: a client that has stopped waiting takes no message with it; one that stops while it is being
// answered may, and then the message comes again after its invisible time.
func TestPollThatGoesAway(t *testing.T) {
	r, c := fakeRig(t)
	s, s2 := r.stub("c1"), r.stub("c2")
	for i := range 20 {
		before := i%2 == 0
		invisible := 30 * time.Second
		if before {
			invisible = 12 * time.Hour
		}
		ctx, cancel := context.WithCancel(s.ctx(10 * time.Second))
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = s.receive(ctx, receiveRequest("T", "g", invisible))
		}()
		r.eventually("the receive waits", func() bool { return r.polling("c1") == 1 })
		if before {
			cancel()
			r.eventually("the receive has ended", func() bool { return r.polling("c1") == 0 })
			s.send("T", fmt.Sprint(i))
		} else {
			go cancel()
			s.send("T", fmt.Sprint(i))
			r.eventually("the receive has ended", func() bool { return r.polling("c1") == 0 })
		}
		<-done
		cancel()
		r.eventually("another client gets the message", func() bool {
			got, err := s2.receiveInTime(c, receiveRequest("T", "g", 12*time.Hour))
			if err != nil || len(got.messages) == 0 {
				return false
			}
			return s2.ack("T", "g", handle(got.messages[0])).GetStatus().GetCode() == pb.Code_OK
		})
	}
}

// TestCloseEndsPolls: closing the door does not wait for polls and telemetry streams.
func TestCloseEndsPolls(t *testing.T) {
	r, _ := fakeRig(t)
	s := r.stub("c1")
	stream, _, err := s.telemetry(consumerSettings(pb.ClientType_SIMPLE_CONSUMER, "g", "T"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan received, 1)
	go func() {
		got, err := s.receive(s.ctx(30*time.Second), receiveRequest("T", "g", 30*time.Second))
		if err != nil {
			t.Error(err)
		}
		done <- got
	}()
	r.eventually("the receive waits", func() bool { return r.polling("c1") == 2 })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := r.door.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
	if got := <-done; got.status.GetCode() != pb.Code_MESSAGE_NOT_FOUND {
		t.Errorf("the poll was answered with %v", got.status)
	}
	if _, err := stream.Recv(); err == nil {
		t.Error("the telemetry stream goes on")
	}
}
