package grpc

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/server/grpc/adminpb"
)

// consumer opens the stream of a push consumer that subscribes to a topic with an expression.
func (r *rig) consumer(id, group, topic, expression string) (*stub, pb.MessagingService_TelemetryClient) {
	r.Helper()
	s := r.stub(id)
	settings := consumerSettings(pb.ClientType_PUSH_CONSUMER, group, topic)
	settings.GetSubscription().Subscriptions[0].Expression.Expression = expression
	settings.UserAgent = &pb.UA{Language: pb.Language_GOLANG, Version: "5.1.4", Platform: "linux", Hostname: "host-of-" + id}
	stream, _, err := s.telemetry(settings)
	if err != nil {
		r.Fatal(err)
	}
	return s, stream
}

func described(infos []*adminpb.SubscriptionInfo) (out []string) {
	for _, i := range infos {
		out = append(out, fmt.Sprintf("%s %s %s online=%v same=%v %v", i.GetGroup().GetName(), i.GetTopic().GetName(),
			i.GetExpression().GetExpression(), i.GetOnline(), i.GetSubscriptionConsistency(), i.GetMessageModel()))
	}
	return out
}

func TestSubscriptions(t *testing.T) {
	r := newRig(t)
	r.topic("t", "NORMAL")
	r.topic("u", "NORMAL")
	began := time.Now().Add(-time.Second)
	s, _ := r.consumer("c1", "g", "t", "a||b")
	r.consumer("c2", "g", "t", "a||b")
	r.consumer("d1", "differs", "t", "a")
	r.consumer("d2", "differs", "t", "b")
	// Somebody was there once.
	if _, err := r.broker.EnsureGroup(context.Background(), "left"); err != nil {
		t.Fatal(err)
	}
	if err := r.broker.CommitOffsets(context.Background(), "left", []broker.OffsetCommit{{Topic: "u", Queue: 1, Offset: 0}}); err != nil {
		t.Fatal(err)
	}
	list := func(topic, group string) []string {
		t.Helper()
		req, resp := &adminpb.ListSubscriptionRequest{}, &adminpb.ListSubscriptionResponse{}
		if topic != "" {
			req.Topic = resource(topic)
		}
		if group != "" {
			req.Group = resource(group)
		}
		s.refused("ListSubscription", req, resp, pb.Code_OK)
		for _, i := range resp.GetSubscriptionInfo() {
			if at := i.GetLastUpdateTimestamp(); i.GetOnline() && (at.AsTime().Before(began) || at.AsTime().After(time.Now())) {
				t.Errorf("%v was told at %v", i, at.AsTime())
			}
		}
		return described(resp.GetSubscriptionInfo())
	}
	same := "g t a||b online=true same=true CLUSTERING"
	for _, c := range []struct {
		topic, group string
		want         []string
	}{
		{"t", "g", []string{same}},
		{"", "g", []string{same}},
		{"u", "left", []string{"left u  online=false same=true MESSAGE_MODEL_UNSPECIFIED"}},
		{"u", "", []string{"left u  online=false same=true MESSAGE_MODEL_UNSPECIFIED"}},
	} {
		if got := list(c.topic, c.group); !reflect.DeepEqual(got, c.want) {
			t.Errorf("topic %q, group %q: %q, want %q", c.topic, c.group, got, c.want)
		}
	}
	if got := list("t", ""); len(got) != 2 || !strings.HasSuffix(got[0], "same=false CLUSTERING") || got[1] != same {
		t.Errorf("of a topic: %q", got)
	}
	resp := &adminpb.DescribeSubscriptionResponse{}
	s.refused("DescribeSubscription", &adminpb.DescribeSubscriptionRequest{Group: resource("differs")}, resp, pb.Code_OK)
	var got []string
	for _, c := range resp.GetClientSubscriptionInfo() {
		i := c.GetClientInfo()
		got = append(got, fmt.Sprint(i.GetClientId(), " ", i.GetHostname(), " ", i.GetVersion(), " ", i.GetLanguage(), " ", i.GetEgressIp(), " ",
			c.GetSubscriptionInfo().GetExpression().GetExpression(), " ", c.GetSubscriptionInfo().GetSubscriptionConsistency()))
	}
	if want := []string{"d1 host-of-d1 5.1.4 GO 127.0.0.1 a false", "d2 host-of-d2 5.1.4 GO 127.0.0.1 b false"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for want, req := range map[pb.Code]*adminpb.ListSubscriptionRequest{
		pb.Code_BAD_REQUEST: {}, pb.Code_TOPIC_NOT_FOUND: {Topic: resource("none")}, pb.Code_CONSUMER_GROUP_NOT_FOUND: {Group: resource("none")},
	} {
		s.refused("ListSubscription", req, &adminpb.ListSubscriptionResponse{}, want)
		s.refused("DescribeSubscription", &adminpb.DescribeSubscriptionRequest{Topic: req.Topic, Group: req.Group}, resp, want)
	}
	gone := &adminpb.DeleteSubscriptionResponse{}
	for _, c := range []struct {
		group, topic string
		want         pb.Code
	}{{"g", "t", pb.Code_PRECONDITION_FAILED}, {"left", "u", pb.Code_OK}, {"left", "u", pb.Code_NOT_FOUND}, {"left", "t", pb.Code_NOT_FOUND}, {"none", "t", pb.Code_CONSUMER_GROUP_NOT_FOUND}} {
		s.refused("DeleteSubscription", &adminpb.DeleteSubscriptionRequest{Group: resource(c.group), Topic: resource(c.topic)}, gone, c.want)
	}
	if got := list("u", ""); len(got) > 0 {
		t.Errorf("after the place was deleted: %q", got)
	}
}

func TestNamesInANamespace(t *testing.T) {
	r := newRig(t)
	r.topic("ns%t", "NORMAL")
	s, in := r.stub("c"), func(name string) *pb.Resource { return &pb.Resource{ResourceNamespace: "ns", Name: name} }
	settings := consumerSettings(pb.ClientType_PUSH_CONSUMER, "g", "t")
	settings.GetSubscription().Group = in("g")
	settings.GetSubscription().Subscriptions[0].Topic = in("t")
	if _, _, err := s.telemetry(settings); err != nil {
		t.Fatal(err)
	}
	resp := &adminpb.ListSubscriptionResponse{}
	s.refused("ListSubscription", &adminpb.ListSubscriptionRequest{Group: in("g")}, resp, pb.Code_OK)
	if len(resp.GetSubscriptionInfo()) != 1 {
		t.Fatal(resp)
	}
	i := resp.GetSubscriptionInfo()[0]
	if !proto.Equal(i.GetTopic(), in("t")) || !proto.Equal(i.GetGroup(), in("g")) {
		t.Error(i)
	}
	if got := (naming{"ns"}).resource("%RETRY%ns%g"); !proto.Equal(got, in("%RETRY%g")) {
		t.Error(got)
	}
	if got := (naming{"ns"}).resource("other"); !proto.Equal(got, resource("other")) {
		t.Error(got)
	}
}

func TestListConsumerConnection(t *testing.T) {
	r := newRig(t)
	r.topic("t", "NORMAL")
	r.topic("u", "NORMAL")
	s, _ := r.consumer("c1", "g", "t", "*")
	r.consumer("c2", "g", "u", "*")
	list := func(topic *pb.Resource) (ids []string) {
		t.Helper()
		resp := &adminpb.ListConsumerConnectionResponse{}
		s.refused("ListConsumerConnection", &adminpb.ListConsumerConnectionRequest{Group: resource("g"), Topic: topic}, resp, pb.Code_OK)
		for _, i := range resp.GetClientInfo() {
			ids = append(ids, i.GetClientId())
		}
		return ids
	}
	if got := list(nil); !slices.Equal(got, []string{"c1", "c2"}) {
		t.Errorf("%q", got)
	}
	if got := list(resource("u")); !slices.Equal(got, []string{"c2"}) {
		t.Errorf("of a topic: %q", got)
	}
	if _, err := r.broker.EnsureGroup(context.Background(), "empty"); err != nil {
		t.Fatal(err)
	}
	resp := &adminpb.ListConsumerConnectionResponse{}
	s.refused("ListConsumerConnection", &adminpb.ListConsumerConnectionRequest{Group: resource("empty")}, resp, pb.Code_OK)
	s.refused("ListConsumerConnection", &adminpb.ListConsumerConnectionRequest{Group: resource("none")}, resp, pb.Code_CONSUMER_GROUP_NOT_FOUND)
	s.refused("ListConsumerConnection", &adminpb.ListConsumerConnectionRequest{Group: resource("g"), Topic: resource("none")}, resp, pb.Code_TOPIC_NOT_FOUND)
	s.refused("ListConsumerConnection", &adminpb.ListConsumerConnectionRequest{Group: resource("g"), LiteTopic: proto.String("l")}, resp, pb.Code_UNSUPPORTED)
}

func TestResetAndTimeSpan(t *testing.T) {
	r := newRig(t)
	r.topic("t", "NORMAL")
	s := r.stub("c")
	s.send("t", "a")
	first := time.Now().UnixMilli()
	r.eventually("the next millisecond comes", func() bool { return time.Now().UnixMilli() > first+1 })
	between := time.UnixMilli(first + 1)
	s.send("t", "b")
	received := func() (bodies []string) {
		t.Helper()
		r.eventually("all that is left is received", func() bool {
			got, err := s.receive(s.ctx(10*time.Second), receiveRequest("t", "g", time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range got.messages {
				bodies = append(bodies, string(m.GetBody()))
				s.ack("t", "g", m.GetSystemProperties().GetReceiptHandle())
			}
			p, err := r.broker.GroupProgress("g", "t")
			return err == nil && p[0].Lag() == 0
		})
		slices.Sort(bodies)
		return bodies
	}
	if got := received(); !slices.Equal(got, []string{"a", "b"}) {
		t.Fatalf("%q", got)
	}
	spans := &adminpb.QueryTimeSpanResponse{}
	s.refused("QueryTimeSpan", &adminpb.QueryTimeSpanRequest{Group: resource("g")}, spans, pb.Code_OK)
	if n := len(spans.GetQueueTimeSpanList()); n != 4 {
		t.Fatalf("%d queues", n)
	}
	newest := int64(0)
	for i, q := range spans.GetQueueTimeSpanList() {
		if q.GetMessageQueue().GetId() != int32(i) || q.GetMessageQueue().GetTopic().GetName() != "t" || q.GetDelayTimeMs() != 0 || q.GetConsumeTimestamp() != q.GetMaxTimestamp() {
			t.Error(q)
		}
		newest = max(newest, q.GetMaxTimestamp())
	}
	if newest < first || newest > time.Now().UnixMilli() {
		t.Errorf("the newest message was stored at %d", newest)
	}
	s.refused("QueryTimeSpan", &adminpb.QueryTimeSpanRequest{Group: resource("g"), Topics: []*pb.Resource{resource("none")}}, spans, pb.Code_TOPIC_NOT_FOUND)
	s.refused("QueryTimeSpan", &adminpb.QueryTimeSpanRequest{Group: resource("none")}, spans, pb.Code_CONSUMER_GROUP_NOT_FOUND)

	resp := &adminpb.ResetGroupOffsetResponse{}
	reset := func(at *timestamppb.Timestamp, want pb.Code) {
		t.Helper()
		s.refused("ResetGroupOffset", &adminpb.ResetGroupOffsetRequest{Group: resource("g"), Topic: resource("t"), ResetTimestamp: at}, resp, want)
	}
	reset(timestamppb.New(between), pb.Code_OK)
	if got := received(); !slices.Equal(got, []string{"b"}) {
		t.Errorf("after a reset to between the two: %q", got)
	}
	reset(&timestamppb.Timestamp{}, pb.Code_OK)
	if got := received(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("after a reset to the beginning: %q", got)
	}
	reset(nil, pb.Code_BAD_REQUEST)
	reset(&timestamppb.Timestamp{Seconds: -5}, pb.Code_BAD_REQUEST)
	s.refused("ResetGroupOffset", &adminpb.ResetGroupOffsetRequest{Group: resource("g"), Topic: resource("none"), ResetTimestamp: timestamppb.Now()}, resp, pb.Code_TOPIC_NOT_FOUND)
	s.refused("ResetGroupOffset", &adminpb.ResetGroupOffsetRequest{Group: resource("none"), Topic: resource("t"), ResetTimestamp: timestamppb.Now()}, resp, pb.Code_CONSUMER_GROUP_NOT_FOUND)
}

// answering lets a client answer the commands that come on its stream, until the stream ends.
func answering(stream pb.MessagingService_TelemetryClient, answer func(*pb.TelemetryCommand) *pb.TelemetryCommand) {
	go func() {
		for {
			cmd, err := stream.Recv()
			if err != nil {
				return
			}
			if a := answer(cmd); a != nil {
				_ = stream.Send(a) // the call that waits says so when it does not come
			}
		}
	}()
}

func TestAskingClients(t *testing.T) {
	r := newRig(t)
	r.topic("t", "NORMAL")
	s, stream := r.consumer("c1", "g", "t", "*")
	sent := s.send("t", "hello")
	var fail error
	answering(stream, func(cmd *pb.TelemetryCommand) *pb.TelemetryCommand {
		switch c := cmd.GetCommand().(type) {
		case *pb.TelemetryCommand_PrintThreadStackTraceCommand:
			return &pb.TelemetryCommand{Status: statusOK, Command: &pb.TelemetryCommand_ThreadStackTrace{ThreadStackTrace: &pb.ThreadStackTrace{
				Nonce: c.PrintThreadStackTraceCommand.GetNonce(), ThreadStackTrace: proto.String("at main"),
			}}}
		case *pb.TelemetryCommand_VerifyMessageCommand:
			st := statusOK
			if m := c.VerifyMessageCommand.GetMessage(); string(m.GetBody()) != "hello" || m.GetTopic().GetName() != "t" {
				fail = errors.New(m.String())
			}
			if c.VerifyMessageCommand.GetMessage().GetSystemProperties().GetDeliveryAttempt() != 1 {
				st = &pb.Status{Code: pb.Code_FAILED_TO_CONSUME_MESSAGE}
			}
			return &pb.TelemetryCommand{Status: st, Command: &pb.TelemetryCommand_VerifyMessageResult{VerifyMessageResult: &pb.VerifyMessageResult{
				Nonce: c.VerifyMessageCommand.GetNonce(),
			}}}
		}
		return nil
	})
	// This one answers what it is not asked, and that it does not like what it is asked.
	_, other := r.consumer("c2", "g", "t", "*")
	answering(other, func(cmd *pb.TelemetryCommand) *pb.TelemetryCommand {
		nonce := cmd.GetVerifyMessageCommand().GetNonce()
		return &pb.TelemetryCommand{Status: &pb.Status{Code: pb.Code_NOT_IMPLEMENTED, Message: "not here"}, Command: &pb.TelemetryCommand_VerifyMessageResult{
			VerifyMessageResult: &pb.VerifyMessageResult{Nonce: nonce},
		}}
	})
	stack := &adminpb.PrintThreadStackTraceResponse{}
	s.refused("PrintThreadStackTrace", &adminpb.PrintThreadStackTraceRequest{Group: resource("g"), ClientId: "c1"}, stack, pb.Code_OK)
	if stack.GetThreadStackTrace() != "at main" {
		t.Error(stack)
	}
	verified := &adminpb.VerifyMessageResponse{}
	verify := func(client, id string, want pb.Code) {
		t.Helper()
		s.refused("VerifyMessage", &adminpb.VerifyMessageRequest{Group: resource("g"), Topic: resource("t"), ClientId: client, MessageId: id}, verified, want)
	}
	id := sent[0].GetMessageId()
	verify("c1", id, pb.Code_OK)
	if fail != nil {
		t.Error(fail)
	}
	verify("c2", id, pb.Code_NOT_IMPLEMENTED)
	if !strings.Contains(verified.GetStatus().GetMessage(), "not here") {
		t.Error(verified)
	}
	verify("c1", "no such id", pb.Code_MESSAGE_NOT_FOUND)
	verify("c1", "", pb.Code_ILLEGAL_MESSAGE_ID)
	verify("nobody", id, pb.Code_NOT_FOUND)
	s.refused("PrintThreadStackTrace", &adminpb.PrintThreadStackTraceRequest{Group: resource("none"), ClientId: "c1"}, stack, pb.Code_CONSUMER_GROUP_NOT_FOUND)

	info := &adminpb.GetConsumerRunningInfoResponse{}
	s.refused("GetConsumerRunningInfo", &adminpb.GetConsumerRunningInfoRequest{Group: resource("g"), ClientId: "c1"}, info, pb.Code_OK)
	got := info.GetConsumerRunningInfo()
	if p := got.GetProperties(); p["clientType"] != "PUSH_CONSUMER" || p["version"] != "5.1.4" || p["hostname"] != "host-of-c1" || p["heldMessages"] != "0" ||
		got.GetSubscriptions()["t"].GetExpression() != "*" {
		t.Error(got)
	}
	s.refused("GetConsumerRunningInfo", &adminpb.GetConsumerRunningInfoRequest{Group: resource("g"), ClientId: "nobody"}, info, pb.Code_NOT_FOUND)
}

// TestQuestionsAreForOneClient: who guesses the number of a question to another client answers nothing, and a client that does not
// answer holds up nobody for longer than the call.
func TestQuestionsAreForOneClient(t *testing.T) {
	q := newQuestions()
	mine, other := &session{id: "mine"}, &session{id: "other"}
	mine.listen(newCommands(new(atomic.Int64)))
	ctx, cancel := context.WithCancel(t.Context())
	var nonce string
	asked, done := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := q.ask(ctx, mine, func(n string) *pb.TelemetryCommand {
			nonce = n
			close(asked)
			return &pb.TelemetryCommand{}
		})
		done <- err
	}()
	<-asked
	answer := &pb.TelemetryCommand{Command: &pb.TelemetryCommand_VerifyMessageResult{VerifyMessageResult: &pb.VerifyMessageResult{Nonce: nonce}}}
	if q.answered(other, answer) {
		t.Error("another client answered")
	}
	cancel()
	var r *refusal
	if err := <-done; !errors.As(err, &r) || r.code != pb.Code_REQUEST_TIMEOUT {
		t.Errorf("%v", err)
	}
	if q.answered(mine, answer) || len(q.mu.open) != 0 {
		t.Error("an answer that comes too late finds somebody")
	}
	if _, err := q.ask(t.Context(), other, func(string) *pb.TelemetryCommand { return &pb.TelemetryCommand{} }); !errors.As(err, &r) || r.code != pb.Code_TOO_MANY_REQUESTS {
		t.Errorf("a client without a stream: %v", err)
	}
}
