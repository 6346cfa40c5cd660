package grpc

import (
	"testing"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"go.uber.org/goleak"
)

// TestNothingIsLeft: when the door and the broker are closed, none of their goroutines is left. It comes before the tests with
// the official client, which leaves its own.
func TestNothingIsLeft(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Run("use", func(t *testing.T) {
		r := newRig(t)
		r.topic("T", "NORMAL")
		r.topic("empty", "NORMAL")
		r.stub("p").send("T", "a", "b")
		s := r.stub("c")
		if _, _, err := s.telemetry(consumerSettings(pb.ClientType_PUSH_CONSUMER, "g", "T")); err != nil {
			t.Fatal(err)
		}
		s.take(pushRequest("T", "g"), 2)
		if _, err := s.NotifyClientTermination(s.ctx(5*time.Second), &pb.NotifyClientTerminationRequest{Group: resource("g")}); err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = s.receive(s.ctx(10*time.Second), receiveRequest("empty", "g", time.Minute)) }()
		r.eventually("a receive waits", func() bool { return r.polling("c") == 1 })
	})
	goleak.VerifyNone(t, before)
}
