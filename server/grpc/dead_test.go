package grpc

import (
	"context"
	"testing"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"google.golang.org/protobuf/proto"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/catalog"
)

// retries lets a group have so many deliveries after the first.
func (r *rig) retries(group string, n int32) {
	r.Helper()
	g := catalog.DefaultGroup(group)
	g.RetryMaxTimes = n
	if err := r.broker.PutGroup(context.Background(), g, ""); err != nil {
		r.Fatal(err)
	}
}

func (s *stub) forward(req *pb.ForwardMessageToDeadLetterQueueRequest) *pb.Status {
	s.Helper()
	resp, err := s.ForwardMessageToDeadLetterQueue(s.ctx(10*time.Second), req)
	if err != nil {
		s.Fatal(err)
	}
	return resp.GetStatus()
}

// dead lists a group's dead letters.
func (r *rig) dead(group string) []broker.DeadLetter {
	r.Helper()
	found, _, _, err := r.broker.DeadMessages(context.Background(), broker.DeadQuery{Group: group})
	if err != nil && broker.CodeOf(err) != broker.CodeGroupNotFound {
		r.Fatal(err)
	}
	return found
}

func TestForwardToDeadLetters(t *testing.T) {
	r, c := fakeRig(t)
	s := r.stub("c1")
	s.send("T", "a")
	got := s.take(receiveRequest("T", "g", 10*time.Second), 1)[0]
	req := &pb.ForwardMessageToDeadLetterQueueRequest{
		Group: resource("g"), Topic: resource("T"), ReceiptHandle: handle(got), MessageId: "id-a", DeliveryAttempt: 3, MaxDeliveryAttempts: 3,
	}
	for i := range 2 { // a client that has not heard the answer asks until it is OK
		if st := s.forward(req); st.GetCode() != pb.Code_OK {
			t.Fatalf("forwarded %d times: %v", i+1, st)
		}
	}
	found := r.dead("g")
	if len(found) != 1 || found[0].Reason != broker.DeadForwarded || found[0].Attempts != 3 || found[0].Topic != "T" || found[0].UniqueID != "id-a" {
		t.Fatalf("%+v", found)
	}
	if resp := s.ack("T", "g", handle(got)); resp.GetStatus().GetCode() != pb.Code_INVALID_RECEIPT_HANDLE {
		t.Errorf("ack of what was forwarded: %v", resp.GetStatus())
	}
	c.Advance(time.Minute)
	s.nothing(c, receiveRequest("T", "g", 10*time.Second))

	// Consumers of the dead-letter topic are told where the message was.
	letter := s.take(receiveRequest("%DLQ%g", "undertaker", 10*time.Second), 1)[0]
	if q := letter.GetSystemProperties().GetDeadLetterQueue(); string(letter.GetBody()) != "a" || q.GetTopic() != "T" || q.GetMessageId() != "id-a" {
		t.Errorf("%v", letter)
	}
	if p := letter.GetUserProperties(); p["CAIRN_DLQ_REASON"] != broker.DeadForwarded || p["CAIRN_DLQ_ATTEMPTS"] != "3" {
		t.Errorf("%v", p)
	}
}

func TestForwardRefusals(t *testing.T) {
	r, _ := fakeRig(t)
	s := r.stub("c1")
	s.send("T", "a")
	got := s.take(receiveRequest("T", "g", 10*time.Second), 1)[0]
	good := func() *pb.ForwardMessageToDeadLetterQueueRequest {
		return &pb.ForwardMessageToDeadLetterQueueRequest{Group: resource("g"), Topic: resource("T"), ReceiptHandle: handle(got)}
	}
	if err := r.broker.PutGroup(context.Background(), catalog.DefaultGroup("other"), ""); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*pb.ForwardMessageToDeadLetterQueueRequest)
		want   pb.Code
	}{
		"no handle":     {func(q *pb.ForwardMessageToDeadLetterQueueRequest) { q.ReceiptHandle = "x" }, pb.Code_INVALID_RECEIPT_HANDLE},
		"other group":   {func(q *pb.ForwardMessageToDeadLetterQueueRequest) { q.Group = resource("other") }, pb.Code_INVALID_RECEIPT_HANDLE},
		"no such group": {func(q *pb.ForwardMessageToDeadLetterQueueRequest) { q.Group = resource("none") }, pb.Code_CONSUMER_GROUP_NOT_FOUND},
		"no such topic": {func(q *pb.ForwardMessageToDeadLetterQueueRequest) { q.Topic = resource("none") }, pb.Code_TOPIC_NOT_FOUND},
		"bad group":     {func(q *pb.ForwardMessageToDeadLetterQueueRequest) { q.Group = resource("a b") }, pb.Code_ILLEGAL_CONSUMER_GROUP},
		"bad topic":     {func(q *pb.ForwardMessageToDeadLetterQueueRequest) { q.Topic = resource("a b") }, pb.Code_ILLEGAL_TOPIC},
		"lite topic":    {func(q *pb.ForwardMessageToDeadLetterQueueRequest) { q.LiteTopic = proto.String("l") }, pb.Code_UNSUPPORTED},
	} {
		req := good()
		c.change(req)
		if st := s.forward(req); st.GetCode() != c.want {
			t.Errorf("%s: %v, want %v", name, st, c.want)
		}
	}
	if st := r.stub("").forward(good()); st.GetCode() != pb.Code_CLIENT_ID_REQUIRED {
		t.Errorf("no client id: %v", st)
	}
	if st := s.forward(good()); st.GetCode() != pb.Code_OK {
		t.Errorf("after all these: %v", st)
	}
}

// TestLastDelivery: a group that allows two retries gets a message three times, and then it is a dead letter.
func TestLastDelivery(t *testing.T) {
	r, c := fakeRig(t)
	r.retries("g", 2)
	s := r.stub("c1")
	s.send("T", "a")
	for attempt := range int32(3) {
		got := s.take(receiveRequest("T", "g", 10*time.Second), 1)[0]
		if got.GetSystemProperties().GetDeliveryAttempt() != attempt+1 || len(r.dead("g")) > 0 {
			t.Fatalf("attempt %d: %v", attempt+1, got)
		}
		c.Advance(10 * time.Second)
	}
	s.nothing(c, receiveRequest("T", "g", 10*time.Second))
	found := r.dead("g")
	if len(found) != 1 || found[0].Reason != broker.DeadAttempts || found[0].Attempts != 3 || found[0].First != noon.UnixMilli() ||
		found[0].Last != noon.Add(20*time.Second).UnixMilli() {
		t.Errorf("%+v", found)
	}
}

// TestNackWithoutATime: the group's retry policy says when the message comes again.
func TestNackWithoutATime(t *testing.T) {
	r, c := fakeRig(t)
	g := catalog.DefaultGroup("g")
	g.RetryPolicy = &catalog.RetryPolicy{Type: catalog.RetryExponential, Exponential: &catalog.ExponentialBackoff{Initial: 60_000, Max: 600_000, Multiplier: 2}}
	if err := r.broker.PutGroup(context.Background(), g, ""); err != nil {
		t.Fatal(err)
	}
	s := r.stub("c1")
	s.send("T", "a")
	for _, wait := range []time.Duration{time.Minute, 2 * time.Minute} {
		got := s.take(receiveRequest("T", "g", 10*time.Second), 1)[0]
		resp, err := s.ChangeInvisibleDuration(s.ctx(10*time.Second), &pb.ChangeInvisibleDurationRequest{
			Group: resource("g"), Topic: resource("T"), ReceiptHandle: handle(got),
		})
		if err != nil || resp.GetStatus().GetCode() != pb.Code_OK {
			t.Fatalf("%v, %v", resp, err)
		}
		c.Advance(wait - time.Millisecond)
		if n, err := r.broker.GroupCounters("g", "T"); err != nil || n != (broker.GroupCounters{Delayed: 1}) {
			t.Errorf("before %s are over: %+v, %v", wait, n, err)
		}
		c.Advance(time.Millisecond)
		if n, err := r.broker.GroupCounters("g", "T"); err != nil || n.Ready != 1 {
			t.Errorf("after %s: %+v, %v", wait, n, err)
		}
	}
}

// What a push consumer has failed on is delayed, since it keeps nothing; a simple consumer that changes the invisible time has the message
// for longer.
func TestWhoKeepsWhatIsChanged(t *testing.T) {
	for kind, want := range map[pb.ClientType]broker.GroupCounters{
		pb.ClientType_PUSH_CONSUMER: {Delayed: 1}, pb.ClientType_SIMPLE_CONSUMER: {InFlight: 1},
	} {
		t.Run(kind.String(), func(t *testing.T) {
			r, _ := fakeRig(t)
			s := r.stub("c1")
			s.send("T", "a")
			if _, _, err := s.telemetry(consumerSettings(kind, "g", "T")); err != nil {
				t.Fatal(err)
			}
			got := s.take(receiveRequest("T", "g", 10*time.Second), 1)[0]
			if code := s.changeInvisible("T", "g", handle(got), time.Minute).GetStatus().GetCode(); code != pb.Code_OK {
				t.Fatal(code)
			}
			if n, err := r.broker.GroupCounters("g", "T"); err != nil || n != want {
				t.Errorf("%+v, %v; want %+v", n, err, want)
			}
		})
	}
}
