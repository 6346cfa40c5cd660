package remoting

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/message"
)

// virtualRig is consumers of group g on topic t, each with a connection of its own.
type virtualRig struct {
	*rig
	clients   map[string]*wire.Client
	positions map[string]int64 // of messages that somebody got, by body
}

// TestVirtualQueues plays testdata/virtual/*: what consumers of a group with virtual queues are answered. Pulls wait for up to five
// seconds where something is to come, and as briefly as they can where they are told that nothing is.
//
//	topic queues=N [type=FIFO]
//	group virtual=true|false|- [orderly]
//	join NAME [model=BROADCASTING]      a heartbeat
//	list NAME                           who the consumer is told is in the group
//	assigned NAME                       the queues that it is given when it leaves that to the broker
//	send queue=N bodies=(a,b,c)
//	pull NAME queue=N offset=N [most=N] [commit=N] [code=361] [empty] [retry]
//	commit NAME queue=N offset=N [wait]
//	offset NAME queue=N
//	sendback NAME body=a
//	lock NAME
//	leave NAME [unregister]             its connection is closed, or it says that it goes
//	stats                               by queue: what is left to consume, and what of it was popped
func TestVirtualQueues(t *testing.T) {
	datadriven.Walk(t, "testdata/virtual", func(t *testing.T, path string) {
		r := &virtualRig{rig: newRig(t, commitlog.ModeOS, Options{}, nil), clients: map[string]*wire.Client{}, positions: map[string]int64{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var b strings.Builder
			switch d.Cmd {
			case "topic", "group":
				r.configure(t, d, &b)
			case "join":
				r.join(t, d, &b)
			case "send":
				r.send(t, d)
			case "pull":
				r.pull(t, d, &b)
			case "stats":
				r.stats(t, &b)
			default:
				r.other(t, d, &b)
			}
			return b.String()
		})
	})
}

// of is the connection of the consumer that a line names.
func (r *virtualRig) of(d *datadriven.TestData) (name string, c *wire.Client) {
	name = d.CmdArgs[0].Key
	if r.clients[name] == nil {
		r.clients[name] = r.dial(wire.ClientOptions{Serve: func(_ *wire.Conn, cmd *wire.Command) { cmd.Release() }})
	}
	return name, r.clients[name]
}

func number(t *testing.T, d *datadriven.TestData, key, absent string) string {
	t.Helper()
	d.MaybeScanArgs(t, key, &absent)
	return absent
}

func (r *virtualRig) configure(t *testing.T, d *datadriven.TestData, b *strings.Builder) {
	if d.Cmd == "topic" {
		var queues int32
		kind := "NORMAL"
		d.ScanArgs(t, "queues", &queues)
		d.MaybeScanArgs(t, "type", &kind)
		topic := catalog.Topic{Name: "t", ReadQueues: queues, WriteQueues: queues, Perm: catalog.PermRead | catalog.PermWrite}
		if err := r.broker.PutTopic(context.Background(), topic, "+message.type="+kind); err != nil {
			fmt.Fprintln(b, err)
		}
		return
	}
	g := catalog.DefaultGroup("g")
	g.ConsumeMessageOrderly = d.HasArg("orderly")
	g.Attributes = map[string]string{"+" + catalog.AttrVirtualQueues: number(t, d, "virtual", "")}
	if number(t, d, "virtual", "") == "-" {
		g.Attributes = map[string]string{"-" + catalog.AttrVirtualQueues: ""}
	}
	data, err := json.Marshal(g)
	if err != nil {
		t.Fatal(err)
	}
	req := request(wire.UpdateAndCreateGroup)
	req.Body = data
	tool := r.dial(wire.ClientOptions{})
	if resp := invoke(t, tool, req); resp.Code != wire.Success {
		fmt.Fprintln(b, resp.Code, resp.Remark)
	}
}

func (r *virtualRig) join(t *testing.T, d *datadriven.TestData, b *strings.Builder) {
	name, c := r.of(d)
	req := request(wire.HeartBeat)
	sub := `{"topic":"t","subString":"*","subVersion":1,"expressionType":"TAG"}`
	req.Body = fmt.Appendf(nil, `{"clientID":%q,"consumerDataSet":[{"groupName":"g","consumeType":"CONSUME_PASSIVELY",`+
		`"messageModel":%q,"consumeFromWhere":"CONSUME_FROM_FIRST_OFFSET","subscriptionDataSet":[%s]}],"producerDataSet":[]}`,
		name, number(t, d, "model", "CLUSTERING"), sub)
	if resp := invoke(t, c, req); resp.Code != wire.Success {
		fmt.Fprintln(b, resp.Code, resp.Remark)
	}
}

func (r *virtualRig) send(t *testing.T, d *datadriven.TestData) {
	for _, arg := range d.CmdArgs {
		if arg.Key != "bodies" {
			continue
		}
		for _, body := range arg.Vals {
			if resp := invoke(t, r.dial(wire.ClientOptions{}), sendRequest("t", number(t, d, "queue", "0"), body)); resp.Code != wire.Success {
				d.Fatalf(t, "%d %s", resp.Code, resp.Remark)
			}
		}
	}
}

func (r *virtualRig) pull(t *testing.T, d *datadriven.TestData, b *strings.Builder) {
	_, c := r.of(d)
	code, suspend, topic := wire.PullMessage, "5000", "t"
	d.MaybeScanArgs(t, "code", &code)
	if d.HasArg("empty") {
		suspend = "1"
	}
	if d.HasArg("retry") {
		topic = catalog.RetryPrefix + "g"
	}
	req := request(code, "consumerGroup", "g", "topic", topic, "queueId", number(t, d, "queue", "0"), "queueOffset", number(t, d, "offset", "0"),
		"maxMsgNums", number(t, d, "most", "32"), "commitOffset", number(t, d, "commit", "0"), "suspendTimeoutMillis", suspend,
		"subscription", "*", "subVersion", "0", "expressionType", "TAG")
	flag := pullSuspends | pullSubscription
	if d.HasArg("commit") {
		flag |= pullCommits
	}
	req.Fields.Add("sysFlag", strconv.Itoa(flag))
	resp := invoke(t, c, req)
	if resp.Code != wire.Success && resp.Code != wire.PullNotFound {
		fmt.Fprintln(b, resp.Code, resp.Remark)
		return
	}
	for data := resp.Body; len(data) > 0; {
		m, n, err := message.Decode(data)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		data = data[n:]
		r.positions[string(m.Body)] = m.PhysicalOffset
		fmt.Fprintf(b, "%s at %d", m.Body, m.QueueOffset)
		if m.ReconsumeTimes > 0 {
			fmt.Fprintf(b, ", consumed %d times before", m.ReconsumeTimes)
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(b, "next %s\n", resp.Fields.Text("nextBeginOffset"))
}

func (r *virtualRig) stats(t *testing.T, b *strings.Builder) {
	resp := invoke(t, r.dial(wire.ClientOptions{}), sendRequest("barrier", "0", "everything before is applied"))
	if resp.Code != wire.Success {
		t.Fatal(resp.Code, resp.Remark)
	}
	all, err := r.broker.GroupProgress("g", "t")
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range all[0].Queues {
		fmt.Fprintf(b, "queue %d: %d of %d left, %d of them popped\n", q.Queue, q.Lag(), q.High, q.Lag()-(q.High-q.Next))
	}
}

func (r *virtualRig) other(t *testing.T, d *datadriven.TestData, b *strings.Builder) {
	name, c := r.of(d)
	var req *wire.Command
	switch d.Cmd {
	case "list":
		req = request(wire.GetConsumerListByGroup, "consumerGroup", "g")
	case "assigned":
		req = request(wire.QueryAssignment)
		req.Body = fmt.Appendf(nil, `{"clientId":%q,"consumerGroup":"g","messageModel":"CLUSTERING","strategyName":"AVG","topic":"t"}`, name)
	case "commit":
		req = request(wire.UpdateConsumerOffset, "consumerGroup", "g", "topic", "t", "queueId", number(t, d, "queue", "0"), "commitOffset",
			number(t, d, "offset", "0"))
		if !d.HasArg("wait") {
			if err := c.OneWay(req); err != nil {
				d.Fatalf(t, "%v", err)
			}
			// The next request on the connection is served after it.
			req = request(wire.GetMaxOffset, "topic", "t", "queueId", "0")
			invoke(t, c, req)
			return
		}
	case "offset":
		req = request(wire.QueryConsumerOffset, "consumerGroup", "g", "topic", "t", "queueId", number(t, d, "queue", "0"))
	case "sendback":
		var body string
		d.ScanArgs(t, "body", &body)
		req = request(wire.ConsumerSendMessageBack, "group", "g", "originTopic", "t", "offset", fmt.Sprint(r.positions[body]), "delayLevel", "1",
			"maxReconsumeTimes", "16", "unitMode", "false")
	case "lock":
		req = request(wire.LockBatch)
		req.Body = fmt.Appendf(nil, `{"consumerGroup":"g","clientId":%q,"mqSet":[{"topic":"t","brokerName":"broker-a","queueId":0}]}`, name)
	case "leave":
		if !d.HasArg("unregister") {
			c.Close()
			delete(r.clients, name)
			eventually(t, name+" is gone", func() bool { return !slices.Contains(r.broker.Clients().ConsumerIDs("g"), name) })
			return
		}
		req = request(wire.UnregisterClient, "clientID", name, "consumerGroup", "g")
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
	resp := invoke(t, c, req)
	if resp.Code != wire.Success {
		fmt.Fprintln(b, resp.Code, resp.Remark)
		return
	}
	r.describe(t, d.Cmd, resp, b)
}

func (r *virtualRig) describe(t *testing.T, cmd string, resp *wire.Command, b *strings.Builder) {
	switch cmd {
	case "offset":
		fmt.Fprintln(b, resp.Fields.Text("offset"))
	case "assigned":
		var a struct {
			Assignments []assignment `json:"messageQueueAssignments"`
		}
		if err := json.Unmarshal(resp.Body, &a); err != nil {
			t.Fatal(err)
		}
		queues := map[string]bool{}
		for _, q := range a.Assignments {
			queues[fmt.Sprint(q.Mode, " ", q.Queue.QueueID)] = true
		}
		fmt.Fprintln(b, strings.Join(slices.Sorted(maps.Keys(queues)), ", "))
	case "list", "lock":
		fmt.Fprintf(b, "%s\n", resp.Body)
	}
}

// beatOfG is a heartbeat of a consumer of group g on topic t.
func beatOfG(t *testing.T, cl *wire.Client, id string) {
	t.Helper()
	req := request(wire.HeartBeat)
	req.Body = fmt.Appendf(nil, `{"clientID":%q,"consumerDataSet":[{"groupName":"g","consumeType":"CONSUME_PASSIVELY",`+
		`"messageModel":"CLUSTERING","subscriptionDataSet":[{"topic":"t","subString":"*","subVersion":1}]}],"producerDataSet":[]}`, id)
	if resp := invoke(t, cl, req); resp.Code != wire.Success {
		t.Fatal(resp.Code, resp.Remark)
	}
}

// Who was told to take all queues gets nothing of them when virtual queues are turned off before its first pull, until it can know
// which ones it keeps.
func TestVirtualQueuesTurnedOffBeforeTheFirstPull(t *testing.T) {
	list := request(wire.GetConsumerListByGroup, "consumerGroup", "g")
	assigned := request(wire.QueryAssignment)
	assigned.Body = []byte(`{"clientId":"c","consumerGroup":"g","messageModel":"CLUSTERING","strategyName":"AVG","topic":"t"}`)
	for name, told := range map[string]*wire.Command{"list": list, "assignment": assigned} {
		t.Run(name, func(t *testing.T) {
			c := clock.NewFake(time.UnixMilli(1795000000000))
			r := newRig(t, commitlog.ModeOS, Options{}, func(o *broker.Options) { o.Clock = c })
			switchTo := func(on bool) {
				t.Helper()
				if err := r.broker.PutGroup(t.Context(), catalog.DefaultGroup("g"), fmt.Sprint("+queues.virtual=", on)); err != nil {
					t.Fatal(err)
				}
			}
			switchTo(true)
			cl := r.dial(wire.ClientOptions{Serve: func(_ *wire.Conn, cmd *wire.Command) { cmd.Release() }})
			if resp := invoke(t, cl, sendRequest("t", "0", "m")); resp.Code != wire.Success {
				t.Fatal(resp.Code, resp.Remark)
			}
			beatOfG(t, cl, "c")
			if resp := invoke(t, cl, told); resp.Code != wire.Success {
				t.Fatal(resp.Code, resp.Remark)
			}
			switchTo(false)
			pulled := later(t, cl, pullRequest("g", "t", "0", "10000"))
			eventually(t, "the pull waits or is answered", func() bool { return r.held() == 1 || len(pulled) == 1 })
			if len(pulled) == 1 {
				t.Fatalf("a consumer that may not keep the queue is answered: %d", (<-pulled).resp.Code)
			}
			c.Advance(3 * time.Second)
			if a := <-pulled; a.err != nil || a.resp.Code != wire.PullRetryImmediately {
				t.Fatalf("%+v, %v", a.resp, a.err)
			}
			if resp := invoke(t, cl, pullRequest("g", "t", "0", "0")); resp.Code != wire.Success || len(resp.Body) == 0 {
				t.Fatal(resp.Code, resp.Remark)
			}
		})
	}
}

// What a consumer holds that is not heard of any more goes to another when its time is over, though its connection is there still.
func TestVirtualQueuesOfAConsumerThatIsSilent(t *testing.T) {
	c := clock.NewFake(time.UnixMilli(1795000000000))
	r := newRig(t, commitlog.ModeOS, Options{}, func(o *broker.Options) { o.Clock = c })
	g := catalog.DefaultGroup("g")
	if err := r.broker.PutGroup(t.Context(), g, "+queues.virtual=true"); err != nil {
		t.Fatal(err)
	}
	beat := func(cl *wire.Client, id string) {
		t.Helper()
		beatOfG(t, cl, id)
	}
	quiet := wire.ClientOptions{Serve: func(_ *wire.Conn, cmd *wire.Command) { cmd.Release() }}
	silent, other := r.dial(quiet), r.dial(quiet)
	beat(silent, "silent")
	beat(other, "other")
	if resp := invoke(t, other, sendRequest("t", "0", "m")); resp.Code != wire.Success {
		t.Fatal(resp.Code, resp.Remark)
	}
	if resp := invoke(t, silent, pullRequest("g", "t", "0", "0")); resp.Code != wire.Success || len(resp.Body) == 0 {
		t.Fatal(resp.Code, resp.Remark)
	}
	pulled := later(t, other, pullRequest("g", "t", "0", "120000"))
	eventually(t, "a pull waits", func() bool { return r.held() == 1 })
	if resp := invoke(t, other, sendRequest("barrier", "1", "m")); resp.Code != wire.Success {
		t.Fatal(resp.Code, resp.Remark)
	}
	pass := func() { // nine seconds, and all that is due in them
		t.Helper()
		over := later(t, other, pullRequest("timekeepers", "barrier", "0", "8999"))
		eventually(t, "the barrier is held", func() bool { return r.held()+len(pulled) == 2 }) // the other pull may be over
		c.Advance(9 * time.Second)
		<-over
		beat(other, "other")
	}
	for range 13 { // less than two minutes after the last heartbeat, and more than a lease: it is renewed
		pass()
	}
	select {
	case a := <-pulled:
		t.Fatalf("a consumer that lives has lost what it has: %+v", a)
	default:
	}
	pass()
	pass()
	if slices.Contains(r.broker.Clients().ConsumerIDs("g"), "silent") {
		t.Fatal("who is silent for more than two minutes is a member")
	}
	resp := (<-pulled).resp
	if resp == nil || resp.Code != wire.Success && resp.Code != wire.PullNotFound {
		t.Fatalf("%+v", resp)
	}
	if resp.Code == wire.PullNotFound { // its wait was over just then
		resp = (<-later(t, other, pullRequest("g", "t", resp.Fields.Text("nextBeginOffset"), "120000"))).resp
	}
	m, _, err := message.Decode(resp.Body)
	if err != nil || string(m.Body) != "m" || m.ReconsumeTimes != 0 {
		t.Fatalf("%+v, %v", m, err)
	}
}
