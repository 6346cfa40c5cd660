package remoting

import (
	"sync"
	"testing"
	"time"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/txn"
)

func producerBeat(t *testing.T, c *wire.Client, id string) {
	t.Helper()
	beat := request(wire.HeartBeat)
	beat.Body = []byte(`{"clientID":"` + id + `","producerDataSet":[{"groupName":"pg"}]}`)
	if resp := invoke(t, c, beat); resp.Code != wire.Success {
		t.Fatal(resp.Code, resp.Remark)
	}
}

func halfRequest(topic, text string) *wire.Command {
	cmd := sendRequest(topic, "0", text)
	cmd.Fields.Set("i", "TRAN_MSG\x01true\x02PGROUP\x01pg\x02")
	return cmd
}

// A producer that does not read what it is sent is passed over before much waits for it; once it reads again it is asked
// again, and when it has gone it is not.
func TestSlowProducersAreNotAsked(t *testing.T) {
	r := newRig(t, commitlog.ModeOS, Options{}, nil)
	hold := make(chan struct{})
	free := sync.OnceFunc(func() { close(hold) })
	defer free()
	c := r.dial(wire.ClientOptions{Serve: func(_ *wire.Conn, cmd *wire.Command) {
		<-hold // keeps the client from reading on
		cmd.Release()
	}})
	producerBeat(t, c, "one")
	producers := r.broker.Clients().Producers("pg")
	if len(producers) != 1 {
		t.Fatal(producers)
	}
	p := producers[0]
	check := &broker.TransactionCheck{Group: "pg", Topic: "t", UniqueID: "id", Half: txn.Half{Position: 77}, Layout: make([]byte, 1<<20)}
	asked := 0
	for p.Check(check) {
		if asked++; asked > 1000 {
			t.Fatal("a producer that does not read is asked on and on")
		}
	}
	if queued := p.Conn.(*wire.Conn).Queued(); queued > maxCheckBacklog+2<<20 {
		t.Errorf("%d bytes wait for the producer", queued)
	}
	free()
	eventually(t, "asked again", func() bool { return p.Check(check) })
	producerBeat(t, c, "one") // the connection is as it was
	c.Close()
	eventually(t, "gone", func() bool { return !p.Check(check) })
}

// What nobody decides is parked: tools see it there, it is not asked for any more, and can still be ended. Another producer
// of the group, which was not there when it was sent, is asked and ends it.
func TestParkedAndTakenOver(t *testing.T) {
	c := clock.NewFake(time.UnixMilli(1_780_000_000_000))
	r := newRig(t, commitlog.ModeOS, Options{}, func(o *broker.Options) { o.Clock, o.MaxChecks = c, 2 })
	asked := make(chan *wire.Command, 10)
	first := r.dial(wire.ClientOptions{})
	producerBeat(t, first, "first")
	half := invoke(t, first, halfRequest("t", "taken over"))
	if half.Code != wire.Success {
		t.Fatal(half.Code, half.Remark)
	}
	first.Close()
	second := r.dial(wire.ClientOptions{Serve: func(_ *wire.Conn, cmd *wire.Command) { asked <- cmd }})
	eventually(t, "the first has gone", func() bool { return len(r.broker.Clients().Producers("pg")) == 0 })
	producerBeat(t, second, "second")
	c.Advance(6 * time.Second)
	check := <-asked
	_, at, err := message.ParseOffsetID(half.Fields.Text("msgId"))
	if position, bad := check.Fields.Int64("commitLogOffset"); err != nil || bad != nil || position != at || !check.IsOneWay() {
		t.Fatalf("%v %v: %+v", err, bad, check.Fields)
	}
	m, _, err := message.Decode(check.Body)
	if err != nil || m.SysFlag&message.FlagTransactionMask != message.FlagPrepared || string(m.Body) != "taken over" {
		t.Fatalf("%v: %+v", err, m)
	}
	end := func(flag string) *wire.Command {
		return invoke(t, second, request(wire.EndTransaction, "producerGroup", "pg", "commitLogOffset", check.Fields.Text("commitLogOffset"),
			"commitOrRollback", flag, "transactionId", check.Fields.Text("transactionId"), "msgId", check.Fields.Text("msgId"),
			"fromTransactionCheck", "true", "tranStateTableOffset", check.Fields.Text("tranStateTableOffset")))
	}
	if resp := end("8"); resp.Code != wire.Success {
		t.Fatal(resp.Code, resp.Remark)
	}

	half = invoke(t, second, halfRequest("t", "nobody decides"))
	for range 2 {
		c.Advance(30 * time.Second)
		check = <-asked
	}
	eventually(t, "parked", func() bool {
		c.Advance(30 * time.Second)
		queues, _, err := r.broker.WaitingQueues("TRANS_CHECK_MAX_TIME_TOPIC")
		return err == nil && queues[0].Max == 1
	})
	resume := request(wire.ResumeCheckHalfMessage, "topic", "TRANS_CHECK_MAX_TIME_TOPIC", "msgId", half.Fields.Text("msgId"))
	if resp := invoke(t, second, resume); resp.Code != wire.IllegalOperation {
		t.Fatal(resp.Code, resp.Remark)
	}
	if resp := end("12"); resp.Code != wire.Success {
		t.Fatal(resp.Code, resp.Remark)
	}
	if resp := end("8"); resp.Code != wire.IllegalOperation {
		t.Fatal(resp.Code, resp.Remark)
	}
	if len(asked) != 0 {
		t.Error("asked for a parked half message")
	}
}

// Ids that a client sends are compared when they can tell half messages apart.
func TestUniqueIDOfAnEnd(t *testing.T) {
	const unique = "7F0000010A0B0C0D0E0F101112131415"
	at := record.Position(4711)
	offsetID := message.OffsetID(broker.Options{}.Advertise, int64(at))
	for _, c := range []struct{ transactionID, msgID, want string }{
		{unique, unique, unique},
		{unique, offsetID, unique},
		{"", unique, unique},
		{"", offsetID, ""},
		{offsetID, unique, unique},
		{"", "", ""},
	} {
		req := request(wire.EndTransaction, "producerGroup", "g", "commitLogOffset", "4711", "commitOrRollback", "8",
			"transactionId", c.transactionID, "msgId", c.msgID)
		r, err := endOf(req)
		if err != nil || r.UniqueID != c.want || r.Position != at || r.Resolution != broker.TransactionCommit || r.Topic != "" {
			t.Errorf("%+v: %v %+v", c, err, r)
		}
	}
}
