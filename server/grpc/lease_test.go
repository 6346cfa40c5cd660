package grpc

import (
	"context"
	"fmt"
	"testing"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/clock"
)

// pushConsumer is a stub with its telemetry stream open, and what it has received.
func (r *rig) pushConsumer(id string, n int) (*stub, pb.MessagingService_TelemetryClient, []*pb.Message) {
	r.Helper()
	s := r.stub(id)
	stream, _, err := s.telemetry(consumerSettings(pb.ClientType_PUSH_CONSUMER, "g", "T"))
	if err != nil {
		r.Fatal(err)
	}
	return s, stream, s.take(pushRequest("T", "g"), n)
}

func (r *rig) held(id string) int {
	s := r.door.sessions
	s.mu.RLock()
	c := s.mu.byID[id]
	s.mu.RUnlock()
	if c == nil {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.mu.leases)
}

// TestPushConsumerKeepsItsMessage: a listener that takes its time gets a message once, and its handle stays good.
func TestPushConsumerKeepsItsMessage(t *testing.T) {
	r, c := fakeRig(t)
	r.stub("p").send("T", "a")
	s, _, got := r.pushConsumer("c1", 1)
	if d := got[0].GetSystemProperties().GetInvisibleDuration().AsDuration(); d != 15*time.Minute {
		t.Errorf("invisible for %v", d)
	}
	for range 13 {
		c.Advance(65 * time.Second)
	}
	s.nothing(c, pushRequest("T", "g"))
	if resp := s.ack("T", "g", handle(got[0])); resp.GetStatus().GetCode() != pb.Code_OK {
		t.Errorf("ack after 14 minutes: %v", resp)
	}
	if n := r.held("c1"); n != 0 {
		t.Errorf("%d messages are still held", n)
	}
}

// TestConsumeTimeout: the group says how long a listener may take.
func TestConsumeTimeout(t *testing.T) {
	r, c := fakeRig(t)
	g := catalog.DefaultGroup("g")
	g.ConsumeTimeoutMinute = 2
	if err := r.broker.PutGroup(context.Background(), g, ""); err != nil {
		t.Fatal(err)
	}
	r.stub("p").send("T", "a")
	s, _, _ := r.pushConsumer("c1", 1)
	c.Advance(2 * time.Minute)
	if again := s.take(pushRequest("T", "g"), 1)[0]; again.GetSystemProperties().GetDeliveryAttempt() != 2 {
		t.Errorf("%v", again)
	}
}

// backAgain is what another client of the group gets in the next seconds, which pass.
func (r *rig) backAgain(c *clock.Fake, n int) []*pb.Message {
	r.Helper()
	other := r.stub("other")
	var out []*pb.Message
	r.eventually("the messages come back", func() bool {
		got, err := other.receiveInTime(c, receiveRequest("T", "g", 12*time.Hour))
		if err == nil {
			out = append(out, got.messages...)
		}
		return len(out) >= n
	})
	return out
}

// TestTerminationGivesBack: who says good-bye leaves what it held to the others at once.
func TestTerminationGivesBack(t *testing.T) {
	r, c := fakeRig(t)
	r.stub("p").send("T", "a", "b", "c")
	s, _, got := r.pushConsumer("c1", 3)
	s.ack("T", "g", handle(got[1]))
	began := c.Now()
	resp, err := s.NotifyClientTermination(s.ctx(5*time.Second), &pb.NotifyClientTerminationRequest{Group: resource("g")})
	if err != nil || resp.GetStatus().GetCode() != pb.Code_OK {
		t.Fatal(resp, err)
	}
	back := r.backAgain(c, 2)
	for _, m := range back {
		if b := string(m.GetBody()); b == "b" || m.GetSystemProperties().GetDeliveryAttempt() != 2 {
			t.Errorf("came back: %v", m)
		}
	}
	if took := c.Now().Sub(began); len(back) != 2 || took > time.Minute {
		t.Errorf("%d messages after %v", len(back), took)
	}
	if resp := s.ack("T", "g", handle(got[0])); resp.GetStatus().GetCode() != pb.Code_INVALID_RECEIPT_HANDLE {
		t.Errorf("a late ack: %v", resp)
	}
}

// TestClientThatVanishes: without stream and calls for 20 s a client has gone.
func TestClientThatVanishes(t *testing.T) {
	r, c := fakeRig(t)
	r.stub("p").send("T", "a", "b")
	s, _, _ := r.pushConsumer("c1", 2)
	s.conn.Close()
	r.eventually("the stream has ended", func() bool { return r.polling("c1") == 0 })
	c.Advance(quiet - time.Second)
	if n := r.held("c1"); n != 2 {
		t.Errorf("after %v %d messages are held", quiet-time.Second, n)
	}
	r.eventually("the client counts as gone", func() bool {
		c.Advance(time.Second)
		return r.held("c1") == 0
	})
	if ids := r.broker.Clients().ConsumerIDs("g"); len(ids) != 0 {
		t.Errorf("still registered: %v", ids)
	}
	if back := r.backAgain(c, 2); len(back) != 2 {
		t.Errorf("%d messages came back", len(back))
	}
}

// TestClientWithoutStreamLives: a heartbeat is a sign of life; the Go client may be without its stream for minutes.
func TestClientWithoutStreamLives(t *testing.T) {
	r, c := fakeRig(t)
	r.stub("p").send("T", "a")
	s, stream, got := r.pushConsumer("c1", 1)
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	r.eventually("the stream has ended", func() bool { return r.polling("c1") == 0 })
	for range 30 {
		c.Advance(10 * time.Second)
		resp, err := s.Heartbeat(s.ctx(5*time.Second), &pb.HeartbeatRequest{ClientType: pb.ClientType_PUSH_CONSUMER, Group: resource("g")})
		if err != nil || resp.GetStatus().GetCode() != pb.Code_OK {
			t.Fatal(resp, err)
		}
	}
	if resp := s.ack("T", "g", handle(got[0])); resp.GetStatus().GetCode() != pb.Code_OK {
		t.Errorf("ack after five minutes: %v", resp)
	}
}

// TestHandleOutlivesTheBroker: after a restart a client settles what it received before.
func TestHandleOutlivesTheBroker(t *testing.T) {
	r, c := fakeRig(t)
	r.stub("p").send("T", "a", "b")
	s, _, got := r.pushConsumer("c1", 2)
	r.close()
	r.open()
	if resp := s.ack("T", "g", handle(got[0])); resp.GetStatus().GetCode() != pb.Code_OK {
		t.Errorf("ack after the restart: %v", resp)
	}
	if resp := s.changeInvisible("T", "g", handle(got[1]), time.Second); resp.GetStatus().GetCode() != pb.Code_OK {
		t.Errorf("change after the restart: %v", resp)
	}
	if back := r.backAgain(c, 1); len(back) != 1 || string(back[0].GetBody()) != string(got[1].GetBody()) {
		t.Errorf("came back: %v", back)
	}
}

// TestChangedMessagesAreTheClients: what a client has given a time itself is not given back before it.
func TestChangedMessagesAreTheClients(t *testing.T) {
	r, c := fakeRig(t)
	r.stub("p").send("T", "a")
	s, _, got := r.pushConsumer("c1", 1)
	if resp := s.changeInvisible("T", "g", handle(got[0]), time.Hour); resp.GetStatus().GetCode() != pb.Code_OK {
		t.Fatal(resp)
	}
	if n := r.held("c1"); n != 0 {
		t.Errorf("%d messages are held", n)
	}
	if _, err := s.NotifyClientTermination(s.ctx(5*time.Second), &pb.NotifyClientTerminationRequest{Group: resource("g")}); err != nil {
		t.Fatal(err)
	}
	c.Advance(10 * time.Minute)
	other := r.stub("other")
	other.nothing(c, pushRequest("T", "g"))
	c.Advance(50 * time.Minute)
	other.take(pushRequest("T", "g"), 1)
}

func TestLeasesAreBounded(t *testing.T) {
	c := &session{}
	handles := make([]string, maxLeases+10)
	for i := range handles {
		handles[i] = fmt.Sprint(i)
	}
	if !c.hold(handles, lease{until: 100}, 50) || len(c.mu.leases) != maxLeases {
		t.Errorf("%d leases", len(c.mu.leases))
	}
	// A minute later those that are over make room.
	if !c.hold([]string{"x"}, lease{until: 200_000}, 100_000) || len(c.mu.leases) != 1 {
		t.Errorf("%d leases", len(c.mu.leases))
	}
}
