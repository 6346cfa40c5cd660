package remoting

import (
	"context"
	"encoding/base64"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/pop"
)

func popRequest(group, topic, pollTime string) *wire.Command {
	return request(wire.PopMessage, "consumerGroup", group, "topic", topic, "queueId", "-1", "maxMsgNums", "32",
		"invisibleTime", "60000", "pollTime", pollTime, "bornTime", "1795000000000", "initMode", "0", "expType", "TAG", "exp", "*",
		"order", "false")
}

func notifyRequest(group, topic, pollTime string) *wire.Command {
	return request(wire.Notification, "consumerGroup", group, "topic", topic, "queueId", "-1", "pollTime", pollTime, "bornTime", "0")
}

// answered is what came of a call.
type answered struct {
	resp *wire.Command
	err  error
}

func later(t testing.TB, c *wire.Client, req *wire.Command) chan answered {
	t.Helper()
	ch := make(chan answered, 1)
	if err := c.InvokeAsync(req, func(resp *wire.Command, err error) { ch <- answered{resp, err} }); err != nil {
		t.Fatal(err)
	}
	return ch
}

// polling asks how many pops of the group wait.
func polling(t testing.TB, c *wire.Client, group, topic string) string {
	t.Helper()
	resp := invoke(t, c, request(wire.PollingInfo, "consumerGroup", group, "topic", topic, "queueId", "-1"))
	if resp.Code != wire.Success {
		t.Fatal(resp.Code, resp.Remark)
	}
	return resp.Fields.Text("pollingNum")
}

// A held pop is answered by the next message, and so is a notification; both end with their connection, and with their time; Close
// lets them go empty-handed.
func TestHeldPops(t *testing.T) {
	r := newRig(t, commitlog.ModeOS, Options{}, nil)
	producer, consumer := r.dial(wire.ClientOptions{}), r.dial(wire.ClientOptions{})
	if resp := invoke(t, producer, sendRequest("held", "0", "one")); resp.Code != 0 {
		t.Fatal(resp.Code, resp.Remark)
	}
	a := <-later(t, consumer, popRequest("g", "held", "60000"))
	if a.err != nil || a.resp.Code != wire.Success || a.resp.Remark != "FOUND" {
		t.Fatalf("%+v", a)
	}

	popped := later(t, consumer, popRequest("g", "held", "60000"))
	eventually(t, "held", func() bool { return r.held() == 1 && polling(t, producer, "g", "held") == "1" })
	if resp := invoke(t, producer, sendRequest("held", "0", "two")); resp.Code != 0 {
		t.Fatal(resp.Code, resp.Remark)
	}
	if a := <-popped; a.err != nil || a.resp.Code != wire.Success || len(a.resp.Body) == 0 || a.resp.Fields.Text("restNum") != "0" {
		t.Fatalf("%+v", a)
	}
	notified := later(t, consumer, notifyRequest("g", "held", "60000"))
	eventually(t, "held", func() bool { return r.held() == 1 && polling(t, producer, "g", "held") == "1" })
	if resp := invoke(t, producer, sendRequest("held", "0", "three")); resp.Code != 0 {
		t.Fatal(resp.Code, resp.Remark)
	}
	if a := <-notified; a.err != nil || a.resp.Code != wire.Success || a.resp.Fields.Text("hasMsg") != "true" ||
		a.resp.Fields.Text("pollingFull") != "false" {
		t.Fatalf("%+v", a)
	}
	if resp := invoke(t, consumer, popRequest("g", "held", "0")); resp.Code != wire.Success {
		t.Fatal(resp.Code, resp.Remark)
	}
	if a := <-later(t, consumer, popRequest("g", "held", "1")); a.err != nil || a.resp.Code != wire.PollingTimeout {
		t.Fatalf("%+v", a)
	}
	if n := r.held(); n != 0 {
		t.Fatalf("%d held", n)
	}

	popped = later(t, consumer, popRequest("g", "held", "60000"))
	notified = later(t, consumer, notifyRequest("g", "held", "60000"))
	eventually(t, "held", func() bool { return polling(t, producer, "g", "held") == "2" })
	consumer.Close()
	for _, ch := range []chan answered{popped, notified} {
		if a := <-ch; a.err == nil {
			t.Fatal("answered over a closed connection")
		}
	}
	eventually(t, "called off", func() bool {
		return len(r.door.sessions()) == 1 && r.held() == 0 && polling(t, producer, "g", "held") == "0"
	})

	popped = later(t, producer, popRequest("g", "held", "60000"))
	notified = later(t, producer, notifyRequest("g", "held", "60000"))
	eventually(t, "held", func() bool { return r.held() == 2 })
	go func() {
		if err := r.door.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	if a := <-popped; a.err != nil || a.resp.Code != wire.PollingTimeout || a.resp.Fields.Text("popTime") == "" {
		t.Fatalf("%+v", a)
	}
	if a := <-notified; a.err != nil || a.resp.Code != wire.Success || a.resp.Fields.Text("hasMsg") != "false" {
		t.Fatalf("%+v", a)
	}
	<-producer.Done()
}

// Many are acknowledged in one body, whichever names it uses, and what it names wrongly does not keep the others from it.
func TestBatchAck(t *testing.T) {
	r := newRig(t, commitlog.ModeOS, Options{}, nil)
	c := r.dial(wire.ClientOptions{})
	for i := range 12 {
		if resp := invoke(t, c, sendRequest("batch", "0", strconv.Itoa(i))); resp.Code != 0 {
			t.Fatal(resp.Code, resp.Remark)
		}
	}
	popped := invoke(t, c, popRequest("g", "batch", "0"))
	f := popped.Fields
	if popped.Code != wire.Success || f.Text("msgOffsetInfo") != "0 0 0,1,2,3,4,5,6,7,8,9,10,11" || f.Text("startOffsetInfo") != "0 0 0" {
		t.Fatal(popped.Code, f)
	}
	inFlight := func(want int64) {
		t.Helper()
		if n, err := r.broker.GroupCounters("g", "batch"); err != nil || n.InFlight != want || n.Ready != 0 {
			t.Errorf("%+v, %v; want %d in flight", n, err, want)
		}
	}
	ack := func(body string) {
		t.Helper()
		cmd := request(wire.BatchAckMessage)
		cmd.Body = []byte(body)
		if resp := invoke(t, c, cmd); resp.Code != wire.Success {
			t.Errorf("%d %s", resp.Code, resp.Remark)
		}
	}
	set := func(bits ...byte) string { return base64.StdEncoding.EncodeToString(bits) }
	at := fmt.Sprintf(`"pt":%s,"it":%s,"rq":%s`, f.Text("popTime"), f.Text("invisibleTime"), f.Text("reviveQid"))
	inFlight(12)
	ack(`{"acks":[{"c":"g","t":"batch","r":"0","so":0,"q":0,` + at + `,"b":"` + set(0b101, 0b1) + `"}],"brokerName":"broker-a"}`)
	inFlight(9) // 0, 2 and 8 are done
	long := fmt.Sprintf(`"popTime":%s,"invisibleTime":%s,"reviveQueueId":%s`, f.Text("popTime"), f.Text("invisibleTime"), f.Text("reviveQid"))
	ack(`{"acks":[{"c":"g","t":"none","so":0,"q":0,` + at + `,"b":"` + set(1) + `"},` +
		`{"consumerGroup":"g","topic":"batch","retry":"0","startOffset":1,"queueId":0,` + long + `,"bitSet":"` + set(0b11, 0b1000_0000) + `"}]}`)
	inFlight(8) // 1; 2 was before, 16 never
	ack(`{"acks":[{"c":"other","t":"batch","so":0,"q":0,` + at + `,"b":"` + set(0xFF) + `"}]}`)
	inFlight(8)
	ack(`{"acks":[{"c":"g","t":"batch","so":-9223372036854775808,"q":0,` + at + `,"b":"` + set(0xFF) + `"}]}`)
	inFlight(8)

	cmd := request(wire.BatchAckMessage)
	cmd.Body = []byte(`{"acks":[{"c":"g","t":"batch","so":0,"q":0,` + at + `,"b":"` +
		base64.StdEncoding.EncodeToString([]byte(strings.Repeat("\xff", maxBatchAck/8+1))) + `"}]}`)
	if resp := invoke(t, c, cmd); resp.Code != wire.InvalidParameter {
		t.Errorf("%d %s", resp.Code, resp.Remark)
	}
	inFlight(8)
}

// A receipt names the checkpoint that it was made for, whatever the numbers, and no receipt makes a handle that is none.
func TestReceipts(t *testing.T) {
	number := rapid.Int64Range(0, math.MaxInt64/2)
	rapid.Check(t, func(t *rapid.T) {
		h := pop.Handle{
			Group: 7, Topic: 9, Queue: rapid.Int32Range(0, math.MaxInt32).Draw(t, "queue"), Offset: number.Draw(t, "offset"),
			PoppedAt: number.Draw(t, "popped at"), Nonce: rapid.Uint64Range(0, maxNonce).Draw(t, "nonce"),
		}
		h.VisibleAt = h.PoppedAt + number.Draw(t, "invisible")
		r := receiptOf(&h)
		text := fmt.Sprintf("%d %d %d %d 0 broker-a %d %d", h.Offset, r.poppedAt, r.invisible, r.nonce, h.Queue, h.Offset)
		back, err := parseReceipt(text)
		if err != nil || back != r {
			t.Fatalf("%+v, %v; want %+v", back, err, r)
		}
		got, ok := back.handle(7, 9, h.Queue, h.Offset)
		if !ok || got.Ref() != h.Ref() || got.Group != h.Group || got.Topic != h.Topic {
			t.Fatalf("%+v, %v; want %+v", got, ok, h)
		}
	})
	whole := rapid.Int64()
	rapid.Check(t, func(t *rapid.T) {
		r := receipt{whole.Draw(t, "popped at"), whole.Draw(t, "invisible"), whole.Draw(t, "nonce")}
		if h, ok := r.handle(7, 9, rapid.Int32().Draw(t, "queue"), whole.Draw(t, "offset")); ok {
			if got, err := pop.ParseHandle(string(h.AppendTo(nil))); err != nil || got != h {
				t.Fatalf("%+v makes %+v: %+v, %v", r, h, got, err)
			}
		}
	})
	for _, text := range []string{"", "1 2 3 4 0 b", "0 1 2 x 0 broker-a 0 0", "0 1  3 0 broker-a 0 0", "0 99999999999999999999 2 3 0 b 0 0"} {
		if _, err := parseReceipt(text); err == nil {
			t.Errorf("%q is a receipt", text)
		}
	}
}

// Handles that cannot share a receipt are not answered as if they could.
func TestAnswersThatMakeNoReceipts(t *testing.T) {
	handle := func(nonce uint64, visible int64) pop.Handle {
		return pop.Handle{Group: 1, Topic: 2, PoppedAt: 5, VisibleAt: visible, Nonce: nonce}
	}
	for what, handles := range map[string][]pop.Handle{
		"a long nonce": {handle(maxNonce+1, 9)},
		"two nonces":   {handle(1, 9), handle(2, 9)},
		"two times":    {handle(1, 9), handle(1, 10)},
	} {
		if _, err := poppedOf(&broker.PopResult{Handles: handles}); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	p, err := poppedOf(&broker.PopResult{Handles: []pop.Handle{handle(maxNonce, 9), handle(maxNonce, 9)}})
	if err != nil || p.nonce != maxNonce || p.poppedAt != 5 || p.invisible != 4 {
		t.Errorf("%+v, %v", p, err)
	}
}

// The places of an answer are told by queue, in the order of their offsets.
func TestOffsetsOfAnAnswer(t *testing.T) {
	var res broker.PopResult
	for _, at := range []popPlace{{1, 9}, {0, 4}, {1, 3}, {1, 5}, {12, 0}} {
		h := pop.Handle{Queue: at.queue, Offset: at.offset, PoppedAt: 1, VisibleAt: 2}
		res.Handles = append(res.Handles, h)
	}
	p, err := poppedOf(&res)
	if err != nil {
		t.Fatal(err)
	}
	if start, all := p.offsets(); start != "0 0 4;0 1 3;0 12 0" || all != "0 0 4;0 1 3,5,9;0 12 0" {
		t.Errorf("%q, %q", start, all)
	}
}

// What is handed out again says how often it was before, on top of what its own header says.
func TestReconsumeTimes(t *testing.T) {
	r := newRig(t, commitlog.ModeOS, Options{}, nil)
	c := r.dial(wire.ClientOptions{})
	if resp := invoke(t, c, sendRequest("again", "0", "x")); resp.Code != 0 {
		t.Fatal(resp.Code, resp.Remark)
	}
	rs := receipts{}
	for want := range int32(3) {
		resp := invoke(t, c, popRequest("g", "again", "0"))
		if resp.Code != wire.Success {
			t.Fatal(resp.Code, resp.Remark)
		}
		m, _, err := message.Decode(resp.Body)
		if err != nil || m.ReconsumeTimes != want {
			t.Fatalf("%+v, %v; want %d times before", m, err, want)
		}
		if err := rs.popped(resp); err != nil {
			t.Fatal(err)
		}
		change := request(wire.ChangeInvisibleTime, "consumerGroup", "g", "topic", "again", "queueId", "0", "offset", "0",
			"extraInfo", rs["x"], "invisibleTime", "0")
		if resp := invoke(t, c, change); resp.Code != wire.Success {
			t.Fatal(resp.Code, resp.Remark)
		}
	}
}

// What was popped for a connection that has ended meanwhile is there for others at once, and was no attempt.
func TestWhatNobodyTakesIsGivenBack(t *testing.T) {
	r := newRig(t, commitlog.ModeOS, Options{}, nil)
	c := r.dial(wire.ClientOptions{})
	if resp := invoke(t, c, sendRequest("gone", "0", "x")); resp.Code != 0 {
		t.Fatal(resp.Code, resp.Remark)
	}
	s := r.door.sessions()[0]
	h := &heldPop{s: s, d: r.door, req: popRequest("g", "gone", "0"), pop: broker.PopRequest{
		Group: "g", Topic: "gone", Queue: -1, Max: 1, Invisible: time.Minute, ShortNonce: true,
	}}
	res, err := r.broker.Pop(t.Context(), &h.pop)
	if err != nil || len(res.Ends) != 1 {
		t.Fatalf("%+v, %v", res, err)
	}
	c.Close()
	eventually(t, "the connection to end", s.hasEnded)
	h.answerPop(res, nil)
	res, err = r.broker.Pop(t.Context(), &h.pop)
	if err != nil || len(res.Ends) != 1 || res.Attempts[0] != 1 {
		t.Fatalf("%+v, %v", res, err)
	}
	res.Buffer.Release()
}

// While too much is on its way to clients nothing is popped, and what has reached them counts no more.
func TestSlowClientsDoNotPop(t *testing.T) {
	r := newRig(t, commitlog.ModeOS, Options{}, nil)
	c := r.dial(wire.ClientOptions{})
	if resp := invoke(t, c, sendRequest("slow", "0", "x")); resp.Code != 0 {
		t.Fatal(resp.Code, resp.Remark)
	}
	r.door.answering.Add(maxBeingAnswered + 1)
	if resp := invoke(t, c, popRequest("g", "slow", "0")); resp.Code != wire.PollingFull {
		t.Error(resp.Code, resp.Remark)
	}
	r.door.answering.Add(-maxBeingAnswered - 1)
	if resp := invoke(t, c, popRequest("g", "slow", "0")); resp.Code != wire.Success {
		t.Error(resp.Code, resp.Remark)
	}
	eventually(t, "answered", func() bool { return r.door.answering.Load() == 0 })
}
