package broker

import (
	"context"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/txn"
)

// txnRig is a broker on a clock that is moved by hand, with a topic t of one queue and a group g that consumes it.
type txnRig struct {
	*testBroker
	t     testing.TB
	clock *clock.Fake
}

func openTxnRig(t testing.TB, change ...func(*Options)) *txnRig {
	t.Helper()
	c := clock.NewFake(epoch)
	r := &txnRig{testBroker: openBroker(t, append([]func(*Options){withClock(c)}, change...)...), t: t, clock: c}
	r.topicOf(t, "t", 1)
	r.group(t, "g")
	return r
}

// half sends a half message of the producer group p to topic t.
func (r *txnRig) half(body string, properties ...string) SendResult {
	r.t.Helper()
	return r.halfOf("p", "t", body, properties...)
}

func (r *txnRig) halfOf(group, topic, body string, properties ...string) SendResult {
	r.t.Helper()
	return r.send(r.t, topic, 0, plain(body, append(properties, message.PropTranMsg, "true", message.PropProducerGroup, group)...))[0]
}

func (r *txnRig) end(at record.Position, how Resolution) error {
	return r.EndTransaction(context.Background(), &EndTransactionRequest{Position: at, Resolution: how})
}

func (r *txnRig) mustEnd(at record.Position, how Resolution) {
	r.t.Helper()
	if err := r.end(at, how); err != nil {
		r.t.Fatalf("end the transaction at %d: %v", at, err)
	}
}

// wait moves the clock and returns when the checker has done what is due then.
func (r *txnRig) wait(d time.Duration) {
	r.t.Helper()
	r.clock.Advance(d)
	r.settle()
}

func (r *txnRig) settle() {
	r.t.Helper()
	// The look that is under way, if any, may have begun too early.
	deadline := time.Now().Add(10 * time.Second)
	for enough := r.checker.looks.Load() + 2; r.checker.looks.Load() < enough; runtime.Gosched() {
		r.checker.nudge()
		if time.Now().After(deadline) {
			r.t.Fatal("the checker does not come to its end")
		}
	}
}

// inQueue are the messages that consumers can see.
func (r *txnRig) inQueue() []message.Message {
	r.t.Helper()
	res := r.pull(r.t, "g", "t", 0, 0)
	if res.Buffer == nil {
		return nil
	}
	defer res.Buffer.Release()
	out := decodeAll(r.t, res.Buffer.B, res.Ends)
	for i := range out {
		out[i].Body, out[i].Properties = slices.Clone(out[i].Body), slices.Clone(out[i].Properties)
	}
	return out
}

func (r *txnRig) wantInQueue(want ...string) {
	r.t.Helper()
	var got []string
	for _, m := range r.inQueue() {
		got = append(got, string(m.Body))
	}
	if !slices.Equal(got, want) {
		r.t.Errorf("in the queue are %q, want %q", got, want)
	}
}

func (r *txnRig) wantCount(want txn.Count) {
	r.t.Helper()
	if got, err := r.store.Txn.Count(mustTopicID(r.t, r.testBroker, "t")); err != nil || got != want {
		r.t.Errorf("half messages %+v, want %+v (%v)", got, want, err)
	}
}

// asked is a check that a producer got.
type asked struct {
	TransactionCheck
	producer string
	message  message.Message
}

// producer is one that remembers what it was asked.
type producer struct {
	mu     sync.Mutex
	checks []asked
	deaf   bool // cannot be asked
}

// join registers a producer with a group.
func (r *txnRig) join(group, id string, deaf bool) *producer {
	p := &producer{deaf: deaf}
	r.clients.RegisterProducer(group, &Client{ID: id, Check: p.check(r, id)})
	return p
}

// check is how its client is asked.
func (p *producer) check(r *txnRig, id string) func(*TransactionCheck) bool {
	return func(c *TransactionCheck) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.deaf {
			return false
		}
		got := asked{TransactionCheck: *c, producer: id}
		got.Layout = slices.Clone(c.Layout)
		var err error
		if got.message, _, err = message.Decode(got.Layout); err != nil {
			r.t.Errorf("decode a check: %v", err)
		}
		p.checks = append(p.checks, got)
		return true
	}
}

// setDeaf lets nobody ask it any more.
func (p *producer) setDeaf() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deaf = true
}

// take is what it was asked since the last call.
func (p *producer) take() []asked {
	p.mu.Lock()
	defer p.mu.Unlock()
	got := p.checks
	p.checks = nil
	return got
}

func TestCommittedMessageComesToItsQueue(t *testing.T) {
	r := openTxnRig(t)
	sent := r.half("x", message.PropTags, "a", "mine", "1")
	r.wantInQueue()
	r.wantCount(txn.Count{Open: 1})
	if sent.TransactionID != txn.ID(sent.Position, sent.UniqueID) || sent.QueueOffset != 0 {
		t.Errorf("send result %+v", sent)
	}
	r.send(t, "t", 0, plain("between"))
	r.clock.Advance(time.Second)
	for range 2 { // the second time is no error
		err := r.EndTransaction(context.Background(), &EndTransactionRequest{
			Topic: "t", Group: "p", UniqueID: sent.UniqueID, Position: sent.Position, Resolution: TransactionCommit,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	r.wantInQueue("between", "x")
	r.wantCount(txn.Count{})
	m := r.inQueue()[1]
	props := message.DecodeProperties(m.Properties)
	if m.QueueOffset != 1 || m.PreparedOffset != int64(sent.Position) || m.SysFlag&message.FlagTransactionMask != message.FlagCommit {
		t.Errorf("committed as %+v", m)
	}
	if props[message.PropTranMsg] != "" || props["mine"] != "1" || props[message.PropProducerGroup] != "p" {
		t.Errorf("committed with %v", props)
	}
	wantCode(t, "rollback after commit", r.end(sent.Position, TransactionRollback), CodeConflict)
	r.wantInQueue("between", "x")
}

func TestRolledBackMessageNeverComes(t *testing.T) {
	r := openTxnRig(t)
	sent := r.half("x")
	r.mustEnd(sent.Position, TransactionRollback)
	r.mustEnd(sent.Position, TransactionRollback)
	r.wantCount(txn.Count{})
	wantCode(t, "commit after rollback", r.end(sent.Position, TransactionCommit), CodeConflict)
	r.restart(t)
	wantCode(t, "commit after rollback and restart", r.end(sent.Position, TransactionCommit), CodeConflict)
	r.wantInQueue()
}

func TestUnknownChangesNothing(t *testing.T) {
	r := openTxnRig(t)
	sent := r.half("x")
	before, _, _ := r.store.Txn.Get(sent.Position)
	r.mustEnd(sent.Position, TransactionUnknown)
	if after, ok, err := r.store.Txn.Get(sent.Position); !ok || err != nil || after != before {
		t.Errorf("%+v became %+v (%v)", before, after, err)
	}
	r.wantInQueue()
	r.mustEnd(sent.Position, TransactionCommit)
	r.wantInQueue("x")
}

func TestCommitAfterExpiryIsAConflict(t *testing.T) {
	r := openTxnRig(t)
	sent := r.half("x")
	if _, err := r.append(context.Background(), "expire", txn.End{Position: sent.Position, Action: txn.Expire}.Record()); err != nil {
		t.Fatal(err)
	}
	for _, how := range []Resolution{TransactionCommit, TransactionRollback} {
		wantCode(t, "end after expiry", r.end(sent.Position, how), CodeConflict)
	}
	r.wantInQueue()
}

func TestEndOfAnotherMessageIsRefused(t *testing.T) {
	r := openTxnRig(t)
	open, ended := r.half("open"), r.half("ended")
	r.mustEnd(ended.Position, TransactionCommit)
	plainAt := r.send(t, "t", 0, plain("plain"))[0].Position
	for _, c := range []struct {
		what string
		req  EndTransactionRequest
		want Code
	}{
		{"open, other topic", EndTransactionRequest{Position: open.Position, Topic: "u"}, CodeParameter},
		{"open, other group", EndTransactionRequest{Position: open.Position, Group: "q"}, CodeParameter},
		{"open, other id", EndTransactionRequest{Position: open.Position, UniqueID: ended.UniqueID}, CodeParameter},
		{"ended, other topic", EndTransactionRequest{Position: ended.Position, Topic: "u"}, CodeParameter},
		{"ended, other group", EndTransactionRequest{Position: ended.Position, Group: "q"}, CodeParameter},
		{"ended, other id", EndTransactionRequest{Position: ended.Position, UniqueID: open.UniqueID}, CodeParameter},
		{"no half message", EndTransactionRequest{Position: plainAt}, CodeNotFound},
		{"no message", EndTransactionRequest{Position: open.Position + 1}, CodeNotFound},
		{"behind the log", EndTransactionRequest{Position: 1 << 40}, CodeNotFound},
		{"before the log", EndTransactionRequest{Position: -1}, CodeNotFound},
	} {
		for _, how := range []Resolution{TransactionCommit, TransactionRollback} {
			c.req.Resolution = how
			wantCode(t, c.what, r.EndTransaction(context.Background(), &c.req), c.want)
		}
	}
	wantCode(t, "resolution", r.end(open.Position, 7), CodeParameter)
	r.wantCount(txn.Count{Open: 1})
}

func TestEndsThatRaceHaveOneWinner(t *testing.T) {
	r := openTxnRig(t)
	for i := range 20 {
		sent := r.half(strconv.Itoa(i))
		var errs [4]error
		var wg sync.WaitGroup
		for j := range errs {
			wg.Go(func() { errs[j] = r.end(sent.Position, []Resolution{TransactionCommit, TransactionRollback}[j%2]) })
		}
		wg.Wait()
		committed := errs[0] == nil
		for j, err := range errs {
			if (err == nil) != (committed == (j%2 == 0)) || err != nil && CodeOf(err) != CodeConflict {
				t.Fatalf("ends that alternate between commit and rollback: %v", errs)
			}
		}
		if m := r.inQueue(); slices.ContainsFunc(m, func(m message.Message) bool { return string(m.Body) == strconv.Itoa(i) }) != committed {
			t.Fatalf("committed %v, in the queue %d messages", committed, len(m))
		}
	}
}

func TestDelayBeginsWithTheCommit(t *testing.T) {
	r := openTxnRig(t)
	level := r.half("level", message.PropDelayLevel, "2")
	ms := r.half("ms", message.PropTimerDelayMs, "7000")
	deliver := r.half("deliver", message.PropTimerDeliver, strconv.FormatInt(epoch.UnixMilli()+3500, 10))
	r.wait(4 * time.Second)
	for _, sent := range []SendResult{level, ms, deliver} {
		r.mustEnd(sent.Position, TransactionCommit)
		r.mustEnd(sent.Position, TransactionCommit)
		wantCode(t, "rollback of what waits", r.end(sent.Position, TransactionRollback), CodeConflict)
	}
	r.wantInQueue("deliver") // its time has passed
	for _, step := range []struct {
		by   time.Duration
		want []string
	}{
		{4999 * time.Millisecond, []string{"deliver"}}, {time.Millisecond, []string{"deliver", "level"}},
		{1999 * time.Millisecond, []string{"deliver", "level"}}, {time.Millisecond, []string{"deliver", "level", "ms"}},
	} {
		r.wait(step.by)
		r.waitInQueue(len(step.want))
		r.wantInQueue(step.want...)
	}
	m := r.inQueue()[1]
	props := message.DecodeProperties(m.Properties)
	if props[message.PropDelayLevel] != "2" || m.PreparedOffset != int64(level.Position) {
		t.Errorf("delivered with %v, prepared offset %d", props, m.PreparedOffset)
	}
	wantCode(t, "rollback after delivery", r.end(ms.Position, TransactionRollback), CodeConflict)
}

// waitInQueue waits for so many messages; timers fire by a goroutine of their own.
func (r *txnRig) waitInQueue(n int) {
	r.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for ; ; runtime.Gosched() {
		if high, err := r.MaxOffset("t", 0); err != nil || high >= int64(n) {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%d messages do not come", n)
		}
	}
}

func TestHalfMessagesOfADeletedTopicAreGone(t *testing.T) {
	r := openTxnRig(t)
	sent := r.half("x")
	parked := r.half("y")
	if _, err := r.append(context.Background(), "park",
		txn.ChecksRecord([]txn.Check{{Position: parked.Position, Park: txn.ParkedByOps}})); err != nil {
		t.Fatal(err)
	}
	p := r.join("p", "1", false)
	if err := r.DeleteTopic(context.Background(), "t"); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "list of a deleted topic", func() error {
		_, _, err := r.HalfMessages(HalfQuery{Topic: "t"})
		return err
	}(), CodeTopicNotFound)
	r.topicOf(t, "t", 1)
	for _, at := range []record.Position{sent.Position, parked.Position} {
		for _, how := range []Resolution{TransactionCommit, TransactionRollback} {
			wantCode(t, "end in a deleted topic", r.end(at, how), CodeNotFound)
		}
	}
	r.wait(time.Minute)
	if got := p.take(); len(got) > 0 {
		t.Errorf("asked for %d transactions of a deleted topic", len(got))
	}
	for _, parked := range []bool{false, true} {
		if found, next, err := r.HalfMessages(HalfQuery{Parked: parked}); err != nil || len(found) > 0 || next != -1 {
			t.Errorf("listed %v, next %d (%v)", found, next, err)
		}
	}
	if _, ok, err := r.store.Txn.NextCheck(); ok || err != nil {
		t.Errorf("there are still checks to make (%v)", err)
	}
	r.wantInQueue()
}

func TestHalfMessagesAreListed(t *testing.T) {
	r := openTxnRig(t)
	r.topicOf(t, "u", 1)
	var sent []SendResult
	for i := range 5 {
		sent = append(sent, r.halfOf([]string{"p", "q"}[i%2], []string{"t", "u"}[i%2], strconv.Itoa(i), message.PropKeys, "k"+strconv.Itoa(i)))
	}
	r.mustEnd(sent[2].Position, TransactionRollback)
	if _, err := r.append(context.Background(), "park",
		txn.ChecksRecord([]txn.Check{{Position: sent[4].Position, Park: txn.ParkedByOps}})); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		q    HalfQuery
		want []int
		next record.Position
	}{
		{HalfQuery{}, []int{0, 1, 3}, -1},
		{HalfQuery{Most: 2}, []int{0, 1}, sent[3].Position},
		{HalfQuery{From: sent[1].Position}, []int{1, 3}, -1},
		{HalfQuery{From: sent[1].Position + 1}, []int{3}, -1},
		{HalfQuery{Topic: "u"}, []int{1, 3}, -1},
		{HalfQuery{Group: "p"}, []int{0}, -1},
		{HalfQuery{Group: "p", Topic: "u"}, nil, -1},
		{HalfQuery{Parked: true}, []int{4}, -1},
		{HalfQuery{Parked: true, Group: "q"}, nil, -1},
	} {
		found, next, err := r.HalfMessages(c.q)
		if err != nil || next != c.next || len(found) != len(c.want) {
			t.Errorf("%+v: %d found, next %d (%v), want %v and %d", c.q, len(found), next, err, c.want, c.next)
			continue
		}
		for i, h := range found {
			n := c.want[i]
			if h.Position != sent[n].Position || h.UniqueID != sent[n].UniqueID || h.Keys != "k"+strconv.Itoa(n) || h.BodySize != 1 ||
				h.Topic != []string{"t", "u"}[n%2] || h.Group != []string{"p", "q"}[n%2] || (h.Reason != txn.NotParked) != c.q.Parked {
				t.Errorf("%+v: message %d is listed as %+v", c.q, n, h)
			}
		}
	}
	_, _, err := r.HalfMessages(HalfQuery{Topic: "none"})
	wantCode(t, "list of an unknown topic", err, CodeTopicNotFound)
}

func TestTransactionsEndWithTheBroker(t *testing.T) {
	r := openTxnRig(t)
	sent := r.half("x")
	b := r.Broker
	r.restart(t)
	wantCode(t, "end on a closed broker", b.EndTransaction(context.Background(),
		&EndTransactionRequest{Position: sent.Position, Resolution: TransactionCommit}), CodeClosing)
	_, _, err := b.HalfMessages(HalfQuery{})
	wantCode(t, "list on a closed broker", err, CodeClosing)
	r.mustEnd(sent.Position, TransactionCommit)
	r.wantInQueue("x")
}
