package grpc

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"google.golang.org/protobuf/proto"

	"github.com/cairnmq/cairn/catalog"
)

// bodies of what was received, in order.
func bodies(got received) string {
	var out []string
	for _, m := range got.messages {
		out = append(out, string(m.GetBody()))
	}
	return strings.Join(out, " ")
}

func TestReceiveInOrder(t *testing.T) {
	r := newRig(t)
	r.topic("fifo", "FIFO")
	s := r.stub("c1")
	for _, body := range []string{"a1", "a2", "b1", "a3", "b2"} {
		s.sendOne("fifo", body, messageGroup(body[:1]))
	}
	take := func(n int32) received {
		t.Helper()
		req := receiveRequest("fifo", "g", 30*time.Second)
		req.BatchSize = n
		got, err := s.receive(s.ctx(5600*time.Millisecond), req)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	// Take one; then all that may go besides: of the same message group nothing, of the other one both.
	first := take(1)
	m := first.messages[0]
	group, rest := m.GetSystemProperties().GetMessageGroup(), "b1 b2"
	if group == "b" {
		rest = "a1 a2 a3"
	}
	others := take(32)
	if got := bodies(others); bodies(first) != group+"1" || got != rest {
		t.Fatalf("received %s, then %s", bodies(first), got)
	}
	queues := map[string]int32{group: m.GetSystemProperties().GetQueueId()}
	for _, m := range others.messages {
		sys := m.GetSystemProperties()
		if q, ok := queues[sys.GetMessageGroup()]; ok && q != sys.GetQueueId() {
			t.Errorf("message group %s is in queues %d and %d", sys.GetMessageGroup(), q, sys.GetQueueId())
		}
		queues[sys.GetMessageGroup()] = sys.GetQueueId()
	}
	if resp := s.ack("fifo", "g", m.GetSystemProperties().GetReceiptHandle()); resp.GetStatus().GetCode() != pb.Code_OK {
		t.Fatal(resp)
	}
	left := strings.TrimPrefix("a1 a2 a3", "a1 ")
	if group == "b" {
		left = "b2"
	}
	if got := bodies(take(32)); got != left {
		t.Fatalf("after the acknowledgement %s came, want %s", got, left)
	}
}

// TestReceiveAgain: a receive whose answer was lost gets the same messages under the same attempt id.
func TestReceiveAgain(t *testing.T) {
	r := newRig(t)
	r.topic("T", "MIXED")
	g := catalog.DefaultGroup("ordered")
	g.ConsumeMessageOrderly = true
	if err := r.broker.PutGroup(context.Background(), g, ""); err != nil {
		t.Fatal(err)
	}
	s := r.stub("c1")
	for i := range 3 {
		s.sendOne("T", fmt.Sprint("a", i), messageGroup("a"))
	}
	ask := func() received {
		t.Helper()
		req := receiveRequest("T", "ordered", 30*time.Second)
		req.AttemptId, req.BatchSize = proto.String("lost"), 2
		got, err := s.receive(s.ctx(6*time.Second), req)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	lost, again := ask(), ask()
	if bodies(lost) != "a0 a1" || bodies(again) != "a0 a1" {
		t.Fatalf("received %s, then %s", bodies(lost), bodies(again))
	}
	var handles []string
	for i, m := range again.messages {
		sys := m.GetSystemProperties()
		if sys.GetDeliveryAttempt() != 1 || sys.GetInvisibleDuration().AsDuration() != 30*time.Second {
			t.Errorf("message %d: attempt %d for %v", i, sys.GetDeliveryAttempt(), sys.GetInvisibleDuration())
		}
		handles = append(handles, sys.GetReceiptHandle())
	}
	if resp := s.ack("T", "ordered", handles...); resp.GetStatus().GetCode() != pb.Code_OK {
		t.Fatal(resp)
	}
	if got := bodies(ask()); got != "a2" {
		t.Fatalf("after the acknowledgement %s came", got)
	}
}

func TestFIFOSettingsAndAssignment(t *testing.T) {
	r := newRig(t)
	r.topic("fifo", "FIFO")
	r.topic("T", "NORMAL")
	ordered := catalog.DefaultGroup("ordered")
	ordered.ConsumeMessageOrderly = true
	if err := r.broker.PutGroup(context.Background(), ordered, ""); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		topic, group string
		fifo         bool
	}{{"fifo", "g", true}, {"T", "ordered", true}, {"T", "g", false}} {
		s := r.stub(c.topic + c.group)
		_, got, err := s.telemetry(consumerSettings(pb.ClientType_PUSH_CONSUMER, c.group, c.topic))
		if err != nil || got.GetSubscription().GetFifo() != c.fifo {
			t.Errorf("%s of %s: %v, %v", c.topic, c.group, got, err)
		}
		resp, err := s.QueryAssignment(s.ctx(5*time.Second), &pb.QueryAssignmentRequest{Topic: resource(c.topic), Group: resource(c.group)})
		if err != nil {
			t.Fatal(err)
		}
		var ids []int32
		for _, a := range resp.GetAssignments() {
			ids = append(ids, a.GetMessageQueue().GetId())
		}
		want := []int32{-1}
		if c.fifo {
			want = []int32{0, 1, 2, 3}
		}
		if !slices.Equal(ids, want) {
			t.Errorf("%s of %s: assigned %v, want %v", c.topic, c.group, ids, want)
		}
	}
}

func TestBucketOf(t *testing.T) {
	moved, used := 0, map[int32]int{}
	for key := range uint64(10_000) {
		key *= 0x9e3779b97f4a7c15
		a, b := bucketOf(key, 8), bucketOf(key, 9)
		used[a]++
		if a != b {
			moved++
			if b != 8 {
				t.Fatalf("key %x moved from %d to %d, which was there before", key, a, b)
			}
		}
	}
	if len(used) != 8 || moved < 900 || moved > 1350 {
		t.Errorf("%d moved to the ninth bucket; %v", moved, used)
	}
	if bucketOf(12345, 1) != 0 {
		t.Error("there is one bucket")
	}
}
