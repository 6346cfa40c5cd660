package main

import (
	"context"
	"strings"
	"testing"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/server/grpc/adminpb"
)

// TestAdminAsksRemotingClients: the Admin service of one protocol asks a client of the other one.
func TestAdminAsksRemotingClients(t *testing.T) {
	l := startLive(t)
	l.says("topic", "create", "orders", "--queues", "1")
	id := l.sent("orders", "hello")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	const info = `{"jstack":"at main","mqTable":{{"brokerName":"broker-a","queueId":3,"topic":"orders"}:{"cachedMsgCount":2,"commitOffset":7,"droped":true}},` +
		`"properties":{"PROP_CLIENT_VERSION":"V5_5_0"},"statusTable":{"orders":{"consumeRT":1.5,"consumeFailedMsgs":4}},` +
		`"subscriptionSet":[{"expressionType":"TAG","subString":"paid","topic":"orders"}]}`
	asked := make(chan string, 4)
	c, err := wire.Dial(ctx, l.in.addrs.remoting, wire.ClientOptions{Serve: func(conn *wire.Conn, req *wire.Command) {
		resp := req.Reply(wire.Success, "")
		switch req.Code {
		case wire.GetConsumerRunningInfo:
			resp.Body = []byte(info)
		case wire.ConsumeMessageDirectly:
			m, _, err := message.Decode(req.Body)
			if err != nil {
				resp.Code = wire.SystemError
				break
			}
			asked <- string(m.Body)
			if asks := len(asked); asks == 1 {
				resp.Body = []byte(`{"autoCommit":true,"consumeResult":"CR_SUCCESS","order":false,"spentTimeMills":2}`)
			} else {
				resp.Body = []byte(`{"consumeResult":"CR_THROW_EXCEPTION","remark":"no"}`)
			}
		}
		conn.Respond(req, resp)
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	beat := wire.NewRequest(wire.HeartBeat)
	beat.Body = []byte(`{"clientID":"a@b","producerDataSet":[],"consumerDataSet":[{"groupName":"billing","consumeType":"CONSUME_PASSIVELY","messageModel":"CLUSTERING",` +
		`"consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","subscriptionDataSet":[{"topic":"orders","subString":"*","expressionType":"TAG","subVersion":1}]}]}`)
	if resp, err := c.Invoke(ctx, beat); err != nil || resp.Code != wire.Success {
		t.Fatalf("%v, %v", resp, err)
	}
	cc, err := grpc.NewClient(l.in.addrs.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close() //nolint:errcheck // nothing is under way
	call := func(name string, req, resp proto.Message) {
		t.Helper()
		if err := cc.Invoke(ctx, "/apache.rocketmq.v2.Admin/"+name, req, resp); err != nil {
			t.Fatal(err)
		}
	}
	group := &pb.Resource{Name: "billing"}
	stack := &adminpb.PrintThreadStackTraceResponse{}
	if call("PrintThreadStackTrace", &adminpb.PrintThreadStackTraceRequest{Group: group, ClientId: "a@b"}, stack); stack.GetThreadStackTrace() != "at main" {
		t.Error(stack)
	}
	running := &adminpb.GetConsumerRunningInfoResponse{}
	call("GetConsumerRunningInfo", &adminpb.GetConsumerRunningInfoRequest{Group: group, ClientId: "a@b"}, running)
	got := running.GetConsumerRunningInfo()
	if got.GetProperties()["PROP_CLIENT_VERSION"] != "V5_5_0" || got.GetSubscriptions()["orders"].GetExpression() != "paid" ||
		got.GetConsumeStatusTable()["orders"].GetConsumeFailedMsgs() != 4 || len(got.GetMessageQueueTable()) != 1 {
		t.Fatal(running)
	}
	if q := got.GetMessageQueueTable()[0]; q.GetMessageQueue().GetId() != 3 || q.GetProcessQueueInfo().GetCommitOffset() != 7 || !q.GetProcessQueueInfo().GetDropped() {
		t.Error(q)
	}
	for _, want := range []pb.Code{pb.Code_OK, pb.Code_FAILED_TO_CONSUME_MESSAGE} {
		verified := &adminpb.VerifyMessageResponse{}
		call("VerifyMessage", &adminpb.VerifyMessageRequest{Group: group, ClientId: "a@b", Topic: &pb.Resource{Name: "orders"}, MessageId: id}, verified)
		if verified.GetStatus().GetCode() != want {
			t.Errorf("%v, want %v", verified, want)
		}
	}
	if body := <-asked; body != "hello" {
		t.Errorf("the client was given %q", body)
	}
	list := &adminpb.ListConsumerConnectionResponse{}
	call("ListConsumerConnection", &adminpb.ListConsumerConnectionRequest{Group: group}, list)
	if infos := list.GetClientInfo(); len(infos) != 1 || infos[0].GetVersion() != "5.5.0" || !strings.HasPrefix(infos[0].GetEgressIp(), "127.") ||
		infos[0].GetMessageModel() != adminpb.MessageModel_CLUSTERING {
		t.Error(list)
	}
}
