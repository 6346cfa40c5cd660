package grpc

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/txn"
)

var transaction = kind(pb.MessageType_TRANSACTION)

// end ends a transaction, and answers the status.
func (s *stub) end(topic *pb.Resource, id string, r pb.TransactionResolution) *pb.Status {
	s.Helper()
	resp, err := s.EndTransaction(s.ctx(10*time.Second), &pb.EndTransactionRequest{Topic: topic, TransactionId: id, Resolution: r})
	if err != nil {
		s.Fatal(err)
	}
	return resp.GetStatus()
}

// question is the next command on a stream, which must be one for the end of a transaction.
func question(t *testing.T, stream pb.MessagingService_TelemetryClient) *pb.RecoverOrphanedTransactionCommand {
	t.Helper()
	cmd, err := stream.Recv()
	if err != nil || cmd.GetRecoverOrphanedTransactionCommand() == nil {
		t.Fatalf("%v, %v, want a question for the end of a transaction", cmd, err)
	}
	return cmd.GetRecoverOrphanedTransactionCommand()
}

const (
	commit   = pb.TransactionResolution_COMMIT
	rollback = pb.TransactionResolution_ROLLBACK
	unknown  = pb.TransactionResolution_TRANSACTION_RESOLUTION_UNSPECIFIED
)

// TestTransactions: what is committed comes, and nothing else; the end that came first is the one.
func TestTransactions(t *testing.T) {
	r, c := fakeRig(t)
	r.topic("pay", "TRANSACTION")
	s := r.stub("p1")
	pay := resource("pay")
	sent := map[string]string{}
	for _, body := range []string{"committed", "rolled back", "open"} {
		e := s.sendOne("pay", body, transaction, user("colour", "red"))
		if e.GetTransactionId() == "" || e.GetRecallHandle() != "" || e.GetMessageId() != "id-"+body {
			t.Fatalf("sent: %v", e)
		}
		sent[body] = e.GetTransactionId()
	}
	for _, x := range []struct {
		body string
		r    pb.TransactionResolution
		want pb.Code
	}{
		{"committed", unknown, pb.Code_OK},
		{"committed", commit, pb.Code_OK},
		{"committed", commit, pb.Code_OK},
		{"committed", rollback, pb.Code_INVALID_TRANSACTION_ID},
		{"rolled back", rollback, pb.Code_OK},
		{"rolled back", rollback, pb.Code_OK},
		{"rolled back", commit, pb.Code_INVALID_TRANSACTION_ID},
		{"open", unknown, pb.Code_OK},
		{"open", 9, pb.Code_BAD_REQUEST},
	} {
		if got := s.end(pay, sent[x.body], x.r); got.GetCode() != x.want || got.GetMessage() == "" {
			t.Errorf("%s, %v: %v, want %v", x.body, x.r, got, x.want)
		}
	}
	m := s.take(receiveRequest("pay", "g", 10*time.Hour), 1)[0]
	if p := m.GetSystemProperties(); string(m.GetBody()) != "committed" || p.GetMessageType() != pb.MessageType_TRANSACTION || p.DeliveryTimestamp != nil {
		t.Errorf("received %v", m)
	}
	if u := m.GetUserProperties(); len(u) != 1 || u["colour"] != "red" {
		t.Errorf("the user's properties: %v", u)
	}
	s.nothing(c, receiveRequest("pay", "g", 10*time.Second))
}

// TestEndOfNoTransaction: a transaction id that names none says so.
func TestEndOfNoTransaction(t *testing.T) {
	r, _ := fakeRig(t)
	r.topic("pay", "TRANSACTION")
	s := r.stub("p1")
	open := s.sendOne("pay", "open", transaction).GetTransactionId()
	s.send("T", "plain")
	at, _, err := txn.ParseID(open)
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		topic, id string
		want      pb.Code
	}{
		"none":               {"pay", "", pb.Code_INVALID_TRANSACTION_ID},
		"no id":              {"pay", "x", pb.Code_INVALID_TRANSACTION_ID},
		"of another topic":   {"T", open, pb.Code_INVALID_TRANSACTION_ID},
		"of another message": {"pay", txn.ID(at, "id-other"), pb.Code_INVALID_TRANSACTION_ID},
		"within a message":   {"pay", txn.ID(at+7, "id-open"), pb.Code_INVALID_TRANSACTION_ID},
		"beyond the log":     {"pay", txn.ID(1<<50, "id-open"), pb.Code_INVALID_TRANSACTION_ID},
		"illegal topic":      {"a b", open, pb.Code_ILLEGAL_TOPIC},
	} {
		if got := s.end(resource(x.topic), x.id, commit); got.GetCode() != x.want {
			t.Errorf("%s: %v, want %v", name, got, x.want)
		}
	}
	if got := r.stub("").end(resource("pay"), open, commit); got.GetCode() != pb.Code_CLIENT_ID_REQUIRED {
		t.Errorf("no client id: %v", got)
	}
	if got := s.end(resource("pay"), open, commit); got.GetCode() != pb.Code_OK {
		t.Errorf("the true one, in the end: %v", got)
	}
}

// TestEndAfterRestart: a transaction id is good for any client, also when the broker was started again.
func TestEndAfterRestart(t *testing.T) {
	r, _ := fakeRig(t)
	r.topic("pay", "TRANSACTION")
	id := r.stub("p1").sendOne("pay", "a", transaction).GetTransactionId()
	r.close()
	r.open()
	s := r.stub("p2")
	if got := s.end(resource("pay"), id, commit); got.GetCode() != pb.Code_OK {
		t.Errorf("commit: %v", got)
	}
	s.take(receiveRequest("pay", "g", time.Minute), 1)
}

// TestDelayedTransaction: the message comes at its time when it was committed before; else when it is committed.
func TestDelayedTransaction(t *testing.T) {
	r, c := fakeRig(t)
	r.topic("mixed", "MIXED")
	s := r.stub("p1")
	due, req := noon.Add(2*time.Hour), receiveRequest("mixed", "g", 10*time.Hour)
	delayed := func(m *pb.Message) {
		deliverAt(due)(m)
		transaction(m)
	}
	early, late := s.sendOne("mixed", "early", delayed), s.sendOne("mixed", "late", delayed)
	if got := s.end(resource("mixed"), early.GetTransactionId(), commit); got.GetCode() != pb.Code_OK {
		t.Fatalf("commit: %v", got)
	}
	s.nothing(c, req)
	until(c, due)
	m := s.take(req, 1)[0]
	if p := m.GetSystemProperties(); string(m.GetBody()) != "early" || p.GetMessageType() != pb.MessageType_TRANSACTION || !p.GetDeliveryTimestamp().AsTime().Equal(due) {
		t.Errorf("received %v", m)
	}
	if got := s.end(resource("mixed"), late.GetTransactionId(), commit); got.GetCode() != pb.Code_OK {
		t.Fatalf("commit: %v", got)
	}
	if m := s.take(req, 1)[0]; string(m.GetBody()) != "late" {
		t.Errorf("received %v", m)
	}
}

// TestCheckBack: a producer that has not ended its transaction is asked, each message after the time that it asks for.
func TestCheckBack(t *testing.T) {
	r, c := fakeRig(t)
	r.topic("pay", "TRANSACTION")
	s := r.stub("p1")
	stream, _, err := s.telemetry(producerSettings("pay"))
	if err != nil {
		t.Fatal(err)
	}
	patient := s.sendOne("pay", "patient", transaction, system(func(s *pb.SystemProperties) {
		s.OrphanedTransactionRecoveryDuration = durationpb.New(59500 * time.Millisecond)
	}))
	usual := s.sendOne("pay", "usual", transaction, user("colour", "red"))
	until(c, noon.Add(6*time.Second))
	q := question(t, stream)
	m := q.GetMessage()
	if p := m.GetSystemProperties(); q.GetTransactionId() != usual.GetTransactionId() || string(m.GetBody()) != "usual" || p.GetMessageId() != "id-usual" ||
		p.GetMessageType() != pb.MessageType_TRANSACTION || m.GetTopic().GetName() != "pay" || len(m.GetUserProperties()) != 1 {
		t.Errorf("asked for %v", q)
	}
	resp, err := s.EndTransaction(s.ctx(10*time.Second), &pb.EndTransactionRequest{
		Topic: m.GetTopic(), TransactionId: q.GetTransactionId(), MessageId: m.GetSystemProperties().GetMessageId(),
		Resolution: commit, Source: pb.TransactionSource_SOURCE_SERVER_CHECK,
	})
	if err != nil || resp.GetStatus().GetCode() != pb.Code_OK {
		t.Fatalf("commit: %v, %v", resp, err)
	}
	if m := s.take(receiveRequest("pay", "g", time.Hour), 1)[0]; string(m.GetBody()) != "usual" {
		t.Errorf("received %v", m)
	}
	until(c, noon.Add(time.Minute))
	if q := question(t, stream); q.GetTransactionId() != patient.GetTransactionId() {
		t.Errorf("asked for %v", q)
	}
	until(c, noon.Add(90*time.Second))
	if q := question(t, stream); q.GetTransactionId() != patient.GetTransactionId() { // it is asked until it answers
		t.Errorf("asked for %v", q)
	}
}

// TestCheckBackOfAnother: a producer that was started again under another client id is asked for what its predecessor left open.
func TestCheckBackOfAnother(t *testing.T) {
	r, c := fakeRig(t)
	r.topic("pay", "TRANSACTION")
	first := r.stub("p1")
	if _, _, err := first.telemetry(producerSettings("pay")); err != nil {
		t.Fatal(err)
	}
	left := first.sendOne("pay", "a", transaction)
	if _, err := first.NotifyClientTermination(first.ctx(5*time.Second), &pb.NotifyClientTerminationRequest{}); err != nil {
		t.Fatal(err)
	}
	first.conn.Close()
	second := r.stub("p2")
	stream, _, err := second.telemetry(producerSettings("other", "pay"))
	if err != nil {
		t.Fatal(err)
	}
	c.Advance(6 * time.Second)
	q := question(t, stream)
	if q.GetTransactionId() != left.GetTransactionId() {
		t.Errorf("asked for %v", q)
	}
	if got := second.end(q.GetMessage().GetTopic(), q.GetTransactionId(), commit); got.GetCode() != pb.Code_OK {
		t.Errorf("commit: %v", got)
	}
	second.take(receiveRequest("pay", "g", time.Minute), 1)
}

// TestCheckBackWithoutSettings: a producer need not name the topics of its transactions beforehand, and gets them back as it
// wrote them.
func TestCheckBackWithoutSettings(t *testing.T) {
	r, c := fakeRig(t)
	r.topic("ns%pay", "TRANSACTION")
	s := r.stub("p1")
	stream, _, err := s.telemetry(producerSettings())
	if err != nil {
		t.Fatal(err)
	}
	named := &pb.Resource{ResourceNamespace: "ns", Name: "pay"}
	sent := s.sendOne("", "a", transaction, func(m *pb.Message) { m.Topic = named })
	s.sendOne("", "b", transaction, func(m *pb.Message) { m.Topic = named })
	// Its settings come again without the topic.
	if err := stream.Send(&pb.TelemetryCommand{Command: &pb.TelemetryCommand_Settings{Settings: producerSettings("other")}}); err != nil {
		t.Fatal(err)
	}
	if cmd, err := stream.Recv(); err != nil || cmd.GetSettings() == nil {
		t.Fatalf("%v, %v", cmd, err)
	}
	c.Advance(6 * time.Second)
	q := question(t, stream)
	if q.GetTransactionId() != sent.GetTransactionId() || !proto.Equal(q.GetMessage().GetTopic(), named) {
		t.Errorf("asked for %v", q)
	}
	if got := s.end(named, q.GetTransactionId(), rollback); got.GetCode() != pb.Code_OK {
		t.Errorf("rollback: %v", got)
	}
}

// TestCommands: so many wait, or so many bytes, and all are accounted for.
func TestCommands(t *testing.T) {
	sized := func(n int) encoded { return make([]byte, n) }
	var all atomic.Int64
	q := newCommands(&all)
	n := 0
	for q.put(sized(10)) {
		n++
	}
	if n != maxCommands || all.Load() != 10*maxCommands {
		t.Errorf("%d commands, %d bytes wait", n, all.Load())
	}
	failing := errors.New("gone")
	if err := q.write(<-q.queue, func(any) error { return failing }); !errors.Is(err, failing) || all.Load() != 10*(maxCommands-1) {
		t.Errorf("%v, %d bytes wait", err, all.Load())
	}
	q.drop()
	if !q.put(sized(maxCommandBytes)) || !q.put(sized(5)) || q.put(sized(5)) {
		t.Error("the bound on bytes holds too early or too late")
	}
	q.drop()
	if all.Load() != 0 || q.bytes.Load() != 0 {
		t.Errorf("%d bytes wait where nothing waits", all.Load())
	}
	all.Store(maxBeingAnswered + 1)
	if q.put(sized(1)) {
		t.Error("a command was taken while clients are slow to take what they have asked for")
	}
}

// TestClientsThatCannotBeAsked: nothing waits for a client that does not read, and nothing is kept for one that has gone.
func TestClientsThatCannotBeAsked(t *testing.T) {
	r := newRig(t)
	s := r.stub("p1")
	stream, _, err := s.telemetry(producerSettings("T"))
	if err != nil {
		t.Fatal(err)
	}
	layout, err := (&message.Message{Topic: "T", SysFlag: message.FlagPrepared, Body: make([]byte, 1<<20)}).AppendEncode(nil)
	if err != nil {
		t.Fatal(err)
	}
	p := r.broker.Clients().Producers("T")[0]
	ask := func(topic string) bool {
		return p.Check(&broker.TransactionCheck{Group: "T", Topic: topic, UniqueID: "id", Half: txn.Half{Position: 1}, Layout: layout})
	}
	if ask("unknown") {
		t.Error("asked for a message of a topic that the client has not named")
	}
	asked := 0
	for ask("T") {
		if asked++; asked > maxCommands {
			t.Fatal("no end of questions is taken for a client that reads none")
		}
	}
	if n := r.door.answering.Load(); n <= maxCommandBytes || n > maxCommandBytes+3<<20 {
		t.Errorf("after %d questions %d bytes wait", asked, n)
	}
	question(t, stream)
	s.conn.Close()
	// For a moment one that goes may still be asked: in vain, but nothing of it stays.
	r.eventually("it cannot be asked, and nothing is kept", func() bool { return !ask("T") && r.door.answering.Load() == 0 })
}
