package remoting

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/message"
)

const replyTopic = "DefaultCluster_REPLY_TOPIC"

// replyRequest is a reply to the client, or to nobody.
func replyRequest(code int, client string) *wire.Command {
	cmd := sendRequest(replyTopic, "0", "the answer")
	props := "CORRELATION_ID\x01c-1\x02MSG_TYPE\x01reply\x02"
	if client != "" {
		props += "REPLY_TO_CLIENT\x01" + client + "\x02"
	}
	cmd.Fields.Set("i", props)
	cmd.Fields.Set("f", "1")
	if code == wire.SendReplyMessage {
		long := wire.NewRequest(code)
		names := map[string]string{"a": "producerGroup", "b": "topic", "c": "defaultTopic", "d": "defaultTopicQueueNums", "e": "queueId",
			"f": "sysFlag", "g": "bornTimestamp", "h": "flag", "i": "properties", "j": "reconsumeTimes", "k": "unitMode", "m": "batch"}
		for _, f := range cmd.Fields {
			long.Fields.Add(names[f.Key], f.Value)
		}
		long.Body = cmd.Body
		return long
	}
	cmd.Code = code
	return cmd
}

// requester produces with this client id and answers what is pushed to it with a code, or with nothing when that is negative.
func requester(t *testing.T, r *rig, id string, code int) (c *wire.Client, pushed chan map[string]string) {
	t.Helper()
	pushed = make(chan map[string]string, maxPushes)
	c = r.dial(wire.ClientOptions{Serve: func(conn *wire.Conn, cmd *wire.Command) {
		got := map[string]string{"": string(cmd.Body), "code": strconv.Itoa(cmd.Code)}
		for _, f := range cmd.Fields {
			got[f.Key] = f.Value
		}
		pushed <- got
		if code < 0 {
			cmd.Release()
			return
		}
		conn.Respond(cmd, cmd.Reply(code, "says the client"))
	}})
	beat := request(wire.HeartBeat)
	beat.Body = []byte(`{"clientID":"` + id + `","producerDataSet":[{"groupName":"one"},{"groupName":"two"}]}`)
	if resp := invoke(t, c, beat); resp.Code != wire.Success {
		t.Fatal(resp.Code, resp.Remark)
	}
	return c, pushed
}

func kept(t *testing.T, r *rig) int64 {
	t.Helper()
	n, err := r.broker.MaxOffset(replyTopic, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A reply goes to the client that it names, as it came and with where and when it passed, and is kept.
func TestReply(t *testing.T) {
	for _, code := range []int{wire.SendReplyMessage, wire.SendReplyMessageV2} {
		r := newRig(t, commitlog.ModeOS, Options{}, nil)
		_, pushed := requester(t, r, "asks", wire.Success)
		replier := r.dial(wire.ClientOptions{})
		resp := invoke(t, replier, replyRequest(code, "asks"))
		if resp.Code != wire.Success || resp.Remark != "" || resp.Fields.Text("queueOffset") != "0" || resp.Fields.Text("queueId") != "0" ||
			resp.Fields.Text("MSG_REGION") != regionID || resp.Fields.Text("TRACE_ON") != "true" {
			t.Fatalf("code %d: %d %s %v", code, resp.Code, resp.Remark, resp.Fields)
		}
		if _, _, err := message.ParseOffsetID(resp.Fields.Text("msgId")); err != nil || kept(t, r) != 1 {
			t.Fatal(err, kept(t, r))
		}
		got := <-pushed
		props := message.DecodeProperties([]byte(got["properties"]))
		pushedAt, err := strconv.ParseInt(props[message.PropPushReplyTime], 10, 64)
		if err != nil || time.Since(time.UnixMilli(pushedAt)) > time.Minute || props["CORRELATION_ID"] != "c-1" {
			t.Fatal(err, props)
		}
		delete(got, "properties")
		storeTime, err := strconv.ParseInt(got["storeTimestamp"], 10, 64)
		if err != nil || storeTime != pushedAt {
			t.Fatal(err, got["storeTimestamp"], pushedAt)
		}
		delete(got, "storeTimestamp")
		if !strings.HasPrefix(got["bornHost"], "127.0.0.1:") {
			t.Fatal(got["bornHost"])
		}
		delete(got, "bornHost")
		want := map[string]string{"": "the answer", "code": "326", "producerGroup": "producers", "topic": replyTopic, "defaultTopic": "TBW102",
			"defaultTopicQueueNums": "4", "queueId": "0", "sysFlag": "1", "bornTimestamp": "1795000000000", "flag": "0", "reconsumeTimes": "0",
			"unitMode": "false", "storeHost": "127.0.0.1:10911"}
		if len(got) != len(want) {
			t.Errorf("pushed %v", got)
		}
		for k, v := range want {
			if got[k] != v {
				t.Errorf("%q is %q, want %q", k, got[k], v)
			}
		}
	}
}

// A reply that nobody takes is refused, and kept all the same; one that goes nowhere is not.
func TestReplyThatNobodyTakes(t *testing.T) {
	r := newRig(t, commitlog.ModeOS, Options{}, nil)
	requester(t, r, "refuses", wire.SystemError)
	leaves, pushed := requester(t, r, "leaves", -1)
	go func() {
		<-pushed
		leaves.Close()
	}()
	replier := r.dial(wire.ClientOptions{})
	for i, c := range []struct{ client, remark string }{
		{"", "reply message properties[REPLY_TO_CLIENT] is null"},
		{"nobody", "push reply message fail, channel of <nobody> not found."},
		{"refuses", "push reply message to refusesfail."},
		{"leaves", "push reply message to leavesfail."},
	} {
		resp := invoke(t, replier, replyRequest(wire.SendReplyMessageV2, c.client))
		if resp.Code != wire.SystemError || resp.Remark != c.remark || resp.Fields.Text("queueOffset") != strconv.Itoa(i) {
			t.Errorf("%q: %d %q %v", c.client, resp.Code, resp.Remark, resp.Fields)
		}
	}
	for field, bad := range map[string]struct {
		value string
		code  int
		trace string
	}{"b": {"none", wire.TopicNotExist, "true"}, "e": {"7", wire.InvalidParameter, "true"}, "m": {"true", wire.SystemError, ""}} {
		cmd := replyRequest(wire.SendReplyMessageV2, "nobody")
		cmd.Fields.Set(field, bad.value)
		if resp := invoke(t, replier, cmd); resp.Code != bad.code || resp.Fields.Text("TRACE_ON") != bad.trace {
			t.Errorf("field %s = %s: %d %s", field, bad.value, resp.Code, resp.Remark)
		}
	}
	if n := kept(t, r); n != 4 {
		t.Errorf("%d replies are kept, want 4", n)
	}
}

// A client that produces in several groups is found until it has left the last of them.
func TestRequesterInSeveralGroups(t *testing.T) {
	r := newRig(t, commitlog.ModeOS, Options{}, nil)
	c, _ := requester(t, r, "asks", wire.Success)
	replier := r.dial(wire.ClientOptions{})
	for _, step := range []struct {
		leave string
		code  int
	}{{"two", wire.Success}, {"one", wire.SystemError}} {
		if resp := invoke(t, c, request(wire.UnregisterClient, "clientID", "asks", "producerGroup", step.leave)); resp.Code != wire.Success {
			t.Fatal(resp.Code, resp.Remark)
		}
		if resp := invoke(t, replier, replyRequest(wire.SendReplyMessageV2, "asks")); resp.Code != step.code {
			t.Errorf("after leaving %s: %d %s", step.leave, resp.Code, resp.Remark)
		}
	}
}

// One requester that takes nothing does not keep others from their replies.
func TestRequesterThatHangs(t *testing.T) {
	r := newRig(t, commitlog.ModeOS, Options{}, nil)
	hangs, pushed := requester(t, r, "hangs", -1)
	requester(t, r, "takes", wire.Success)
	replier := r.dial(wire.ClientOptions{})
	refused := make(chan string, maxPushes)
	for range maxPushes {
		err := replier.InvokeAsync(replyRequest(wire.SendReplyMessageV2, "hangs"), func(resp *wire.Command, err error) {
			if err != nil {
				refused <- err.Error()
				return
			}
			refused <- resp.Remark
			resp.Release()
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for range maxPushes {
		<-pushed
	}
	for client, code := range map[string]int{"hangs": wire.SystemError, "takes": wire.Success} {
		if resp := invoke(t, replier, replyRequest(wire.SendReplyMessageV2, client)); resp.Code != code {
			t.Errorf("%s: %d %s", client, resp.Code, resp.Remark)
		}
	}
	if len(pushed) != 0 || len(refused) != 0 {
		t.Errorf("%d were pushed beyond the limit, %d answered before their time", len(pushed), len(refused))
	}
	hangs.Close()
	for range maxPushes {
		if remark := <-refused; remark != "push reply message to hangsfail." {
			t.Fatal(remark)
		}
	}
}
