//go:build !race

// The official client races with itself (its settings and meters); the door's own tests run with the race detector.

package grpc

import (
	"strings"
	"testing"

	client "github.com/apache/rocketmq-clients/golang/v5"
	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"

	"github.com/cairnmq/cairn/server/grpc/adminpb"
)

// TestOfficialClientIsAsked: the official client tells what its goroutines do, and that it verifies nothing.
func TestOfficialClientIsAsked(t *testing.T) {
	before := client.EnableSsl
	client.EnableSsl = false
	defer func() { client.EnableSsl = before }()
	r := newRig(t)
	r.topic("orders", "NORMAL")
	r.simpleConsumer("readers", "orders", client.SUB_ALL)
	s := r.stub("tool")
	sent := s.send("orders", "hello")
	list := &adminpb.ListConsumerConnectionResponse{}
	s.refused("ListConsumerConnection", &adminpb.ListConsumerConnectionRequest{Group: resource("readers")}, list, pb.Code_OK)
	if len(list.GetClientInfo()) != 1 || list.GetClientInfo()[0].GetLanguage() == "" || list.GetClientInfo()[0].GetVersion() == "" {
		t.Fatal(list)
	}
	id := list.GetClientInfo()[0].GetClientId()
	stack := &adminpb.PrintThreadStackTraceResponse{}
	s.refused("PrintThreadStackTrace", &adminpb.PrintThreadStackTraceRequest{Group: resource("readers"), ClientId: id}, stack, pb.Code_OK)
	if !strings.Contains(stack.GetThreadStackTrace(), "goroutine") {
		t.Errorf("%.200s", stack.GetThreadStackTrace())
	}
	s.refused("VerifyMessage", &adminpb.VerifyMessageRequest{
		Group: resource("readers"), Topic: resource("orders"), ClientId: id, MessageId: sent[0].GetMessageId(),
	}, &adminpb.VerifyMessageResponse{}, pb.Code_NOT_IMPLEMENTED)
}
