package grpc

import (
	"testing"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"

	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/clock"
)

// until lets time go on to t.
func until(c *clock.Fake, t time.Time) { c.Advance(t.Sub(c.Now())) }

func (s *stub) recall(topic, handle string) *pb.RecallMessageResponse {
	s.Helper()
	resp, err := s.RecallMessage(s.ctx(10*time.Second), &pb.RecallMessageRequest{Topic: resource(topic), RecallHandle: handle})
	if err != nil {
		s.Fatal(err)
	}
	return resp
}

// TestDelayed: a message comes at its time, not before, and says that it waited.
func TestDelayed(t *testing.T) {
	r, c := fakeRig(t)
	r.topic("later", "DELAY")
	s := r.stub("c1")
	req, due := receiveRequest("later", "g", time.Minute), noon.Add(time.Hour+123*time.Millisecond)
	sent := s.sendOne("later", "a", deliverAt(due), user("colour", "red"))
	if sent.GetRecallHandle() == "" || sent.GetTransactionId() != "id-a" || sent.GetMessageId() != "id-a" {
		t.Errorf("sent: %v", sent)
	}
	s.nothing(c, req)
	until(c, due.Add(-time.Millisecond))
	if n, err := r.broker.GroupCounters("g", "later"); err != nil || n.Ready != 0 {
		t.Errorf("a millisecond before its time: %+v, %v", n, err)
	}
	until(c, due)
	m := s.take(req, 1)[0]
	p := m.GetSystemProperties()
	if p.GetMessageType() != pb.MessageType_DELAY || !p.GetDeliveryTimestamp().AsTime().Equal(due) || p.GetMessageId() != "id-a" || p.GetDeliveryAttempt() != 1 {
		t.Errorf("received %v", m)
	}
	if u := m.GetUserProperties(); len(u) != 1 || u["colour"] != "red" {
		t.Errorf("the user's properties: %v", u)
	}
	if resp := s.ack("later", "g", handle(m)); resp.GetStatus().GetCode() != pb.Code_OK {
		t.Errorf("ack: %v", resp)
	}
}

// TestDeliveryTimeInThePast: such a message is there at once, and cannot be recalled.
func TestDeliveryTimeInThePast(t *testing.T) {
	r, _ := fakeRig(t)
	r.topic("later", "DELAY")
	s := r.stub("c1")
	for body, at := range map[string]time.Time{"a": noon, "b": noon.Add(-time.Hour), "c": time.Unix(-5, 0)} {
		if sent := s.sendOne("later", body, deliverAt(at)); sent.GetRecallHandle() != "" {
			t.Errorf("%s: %v", body, sent)
		}
	}
	for _, m := range s.take(receiveRequest("later", "g", time.Minute), 3) {
		if m.GetSystemProperties().GetMessageType() != pb.MessageType_DELAY {
			t.Errorf("received %v", m)
		}
	}
}

func TestRecall(t *testing.T) {
	r, c := fakeRig(t)
	r.topic("later", "DELAY")
	s := r.stub("c1")
	due := noon.Add(time.Hour)
	recalled := s.sendOne("later", "recalled", deliverAt(due)).GetRecallHandle()
	kept := s.sendOne("later", "kept", deliverAt(due)).GetRecallHandle()
	for range 2 {
		if got := s.recall("later", recalled); got.GetStatus().GetCode() != pb.Code_OK || got.GetMessageId() != "id-recalled" {
			t.Errorf("recall: %v", got)
		}
	}
	until(c, due)
	if m := s.take(receiveRequest("later", "g", time.Minute), 1)[0]; string(m.GetBody()) != "kept" {
		t.Errorf("received %v", m)
	}
	unknown := delay.Handle{Topic: "later", Broker: "broker-a", Due: due.UnixMilli(), UniqueID: "id-unknown", Origin: -1}
	elsewhere := unknown
	elsewhere.Broker = "broker-b"
	for name, x := range map[string]struct {
		topic, handle string
		want          pb.Code
	}{
		"again, after its time":  {"later", recalled, pb.Code_OK},
		"delivered":              {"later", kept, pb.Code_NOT_FOUND},
		"unknown":                {"later", unknown.String(), pb.Code_MESSAGE_NOT_FOUND},
		"of another topic":       {"T", kept, pb.Code_BAD_REQUEST},
		"of another broker":      {"later", elsewhere.String(), pb.Code_BAD_REQUEST},
		"broken":                 {"later", "no handle", pb.Code_BAD_REQUEST},
		"none":                   {"later", "", pb.Code_BAD_REQUEST},
		"of an illegal topic":    {"a b", kept, pb.Code_ILLEGAL_TOPIC},
		"of the system's topics": {"SCHEDULE_TOPIC_XXXX", kept, pb.Code_ILLEGAL_TOPIC},
	} {
		got := s.recall(x.topic, x.handle)
		if got.GetStatus().GetCode() != x.want || got.GetStatus().GetMessage() == "" || x.want != pb.Code_OK && got.GetMessageId() != "" {
			t.Errorf("%s: %v, want %v", name, got, x.want)
		}
	}
	if got := r.stub("").recall("later", recalled); got.GetStatus().GetCode() != pb.Code_CLIENT_ID_REQUIRED {
		t.Errorf("no client id: %v", got)
	}
}
