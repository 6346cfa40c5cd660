package broker

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/txn"
)

func TestFirstCheckComesAtItsTime(t *testing.T) {
	r := openTxnRig(t)
	p := r.join("p", "1", false)
	r.half("decided")
	sent := r.half("x", message.PropTags, "a", message.PropTranChecks, "9")
	first, _, err := r.store.Txn.Get(sent.Position)
	if err != nil || first.CheckAt != epoch.UnixMilli()+6000 {
		t.Fatalf("%+v (%v)", first, err)
	}
	found, _, _ := r.HalfMessages(HalfQuery{})
	r.mustEnd(found[0].Position, TransactionCommit)
	r.wait(5999 * time.Millisecond)
	if got := p.take(); len(got) != 0 {
		t.Fatalf("asked too early: %+v", got)
	}
	r.wait(time.Millisecond)
	got := p.take()
	if len(got) != 1 {
		t.Fatalf("asked %d times", len(got))
	}
	c, m, props := got[0], got[0].message, message.DecodeProperties(got[0].message.Properties)
	if c.Group != "p" || c.Topic != "t" || c.UniqueID != sent.UniqueID || c.Half.Position != sent.Position || c.Half.Checks != 1 {
		t.Errorf("asked with %+v", c)
	}
	if m.Topic != "t" || m.QueueID != 0 || m.PhysicalOffset != int64(sent.Position) || m.QueueOffset != 0 || string(m.Body) != "x" ||
		m.SysFlag&message.FlagTransactionMask != message.FlagPrepared || m.StoreTimestamp != epoch.UnixMilli() {
		t.Errorf("asked with message %+v", m)
	}
	for key, want := range map[string]string{
		message.PropTranMsg: "true", message.PropTranChecks: "1", message.PropTransactionID: sent.UniqueID,
		message.PropUniqueKey: sent.UniqueID, message.PropProducerGroup: "p", message.PropTags: "a",
	} {
		if props[key] != want {
			t.Errorf("asked with %s=%q, want %q", key, props[key], want)
		}
	}
	r.mustEnd(sent.Position, TransactionCommit)
	r.wantInQueue("decided", "x")
	if m := r.inQueue()[1]; m.SysFlag&message.FlagTransactionMask != message.FlagCommit {
		t.Errorf("committed as %+v", m)
	}
}

// Nobody wakes the checker here but time and the half message.
func TestCheckerWakesByItself(t *testing.T) {
	r := openTxnRig(t)
	came := make(chan int32, 8)
	r.clients.RegisterProducer("p", &Client{ID: "1", Check: func(c *TransactionCheck) bool {
		came <- c.Half.Checks
		return true
	}})
	r.settle()
	r.half("x")
	r.settle()
	for n := int32(1); n <= 3; n++ {
		r.clock.Advance(map[bool]time.Duration{true: 6 * time.Second, false: 30 * time.Second}[n == 1])
		if got := receive(t, came); got != n {
			t.Fatalf("check %d came as number %d", n, got)
		}
	}
}

func TestCheckerSleepsWithoutHalfMessages(t *testing.T) {
	r := openTxnRig(t)
	sent := r.half("x")
	r.settle()
	r.mustEnd(sent.Position, TransactionRollback)
	r.settle()
	before := r.checker.looks.Load()
	for range 20 {
		r.clock.Advance(checkNap)
		settle(t, r.due)
	}
	if n := r.checker.looks.Load() - before; n > 1 { // settle's last nudge may have come after its last look
		t.Errorf("looked %d times in vain", n)
	}
}

func TestImmunityIsPerMessage(t *testing.T) {
	r := openTxnRig(t)
	p := r.join("p", "1", false)
	r.half("late", message.PropTranImmunity, "20")
	r.half("soon", message.PropTranImmunity, "2")
	r.half("normal")
	for at := time.Second; at <= 21*time.Second; at += time.Second {
		r.wait(time.Second)
		want := map[time.Duration]string{2 * time.Second: "soon", 6 * time.Second: "normal", 20 * time.Second: "late"}[at]
		got := p.take()
		if len(got) != min(len(want), 1) || len(got) == 1 && string(got[0].message.Body) != want {
			t.Errorf("after %v asked %d times, want %q", at, len(got), want)
		}
	}
}

func TestUndecidedMessageIsParked(t *testing.T) {
	r := openTxnRig(t, func(o *Options) { o.MaxChecks = 3 })
	p := r.join("p", "1", false)
	sent, other := r.half("x"), r.half("y")
	r.wait(6 * time.Second)
	for n := 1; n <= 3; n++ {
		got := p.take()
		if len(got) != 2 || got[0].Half.Checks != int32(n) {
			t.Fatalf("check %d: %+v", n, got)
		}
		r.wait(30*time.Second - time.Millisecond)
		if got := p.take(); len(got) != 0 {
			t.Fatalf("asked before the interval was over: %+v", got)
		}
		r.wait(time.Millisecond)
	}
	if got := p.take(); len(got) != 0 {
		t.Errorf("asked more often than allowed: %+v", got)
	}
	r.wantCount(txn.Count{Parked: 2})
	found, _, err := r.HalfMessages(HalfQuery{Parked: true})
	if err != nil || len(found) != 2 || found[0].Reason != txn.NoAnswer || found[0].Checks != 3 || found[0].CheckAt != 0 {
		t.Fatalf("parked: %+v (%v)", found, err)
	}
	r.wait(time.Hour)
	if got := p.take(); len(got) != 0 {
		t.Errorf("asked for what is parked: %+v", got)
	}
	r.mustEnd(sent.Position, TransactionCommit)
	r.mustEnd(sent.Position, TransactionCommit)
	r.mustEnd(other.Position, TransactionRollback)
	r.wantInQueue("x")
	r.wantCount(txn.Count{})
}

func TestWithoutProducerTheReasonSaysSo(t *testing.T) {
	r := openTxnRig(t, func(o *Options) { o.MaxChecks = 2 })
	r.clients.RegisterProducer("p", &Client{ID: "mute"}) // without Check
	r.join("other", "1", false)
	sent := r.half("x")
	r.wait(6 * time.Second)
	if h, ok, _ := r.store.Txn.Get(sent.Position); !ok || h.Checks != 1 || h.CheckAt != epoch.UnixMilli()+36_000 {
		t.Errorf("after a check without a producer: %+v", h)
	}
	r.wait(30 * time.Second)
	r.wait(30 * time.Second)
	if h, ok, _ := r.store.Txn.Get(sent.Position); !ok || h.Reason != txn.NoProducer {
		t.Errorf("parked as %+v", h)
	}
	if asked, unasked := r.halves.asked.Load(), r.halves.unasked.Load(); asked != 0 || unasked != 2 {
		t.Errorf("%d checks sent and %d not", asked, unasked)
	}
}

func TestProducersAreAskedInTurn(t *testing.T) {
	r := openTxnRig(t, func(o *Options) { o.CheckInterval = 10 * time.Second })
	one, two, deaf := r.join("p", "1", false), r.join("p", "2", false), r.join("p", "3", true)
	r.half("x")
	r.wait(6 * time.Second)
	order := ""
	for range 6 {
		got := append(one.take(), two.take()...)
		if len(got) != 1 {
			t.Fatalf("asked %d times", len(got))
		}
		order += got[0].producer
		r.wait(10 * time.Second)
	}
	// The third one cannot be asked, so that its turn goes to the first.
	if order != "121121" && order != "211211" && order != "112112" || len(deaf.take()) > 0 {
		t.Errorf("asked in the order %s", order)
	}
	one.setDeaf()
	two.setDeaf()
	before := r.halves.unasked.Load()
	r.wait(10 * time.Second)
	if n := r.halves.unasked.Load() - before; n != 1 {
		t.Errorf("%d checks without a producer", n)
	}
}

func TestChecksArePacedPerGroup(t *testing.T) {
	r := openTxnRig(t, func(o *Options) { o.MaxChecksPerSecond = 3 })
	p, q := r.join("p", "1", false), r.join("q", "1", false)
	for i := range 10 {
		r.half(strconv.Itoa(i))
	}
	r.halfOf("q", "t", "q")
	var counts []int
	r.wait(6 * time.Second)
	if n := len(q.take()); n != 1 {
		t.Errorf("the other group was asked %d times", n)
	}
	seen := map[string]bool{}
	for range 6 {
		got := p.take()
		counts = append(counts, len(got))
		for _, c := range got {
			if seen[string(c.message.Body)] || c.Half.Checks != 1 {
				t.Errorf("%s is asked for as number %d", c.message.Body, c.Half.Checks)
			}
			seen[string(c.message.Body)] = true
		}
		r.wait(time.Second)
	}
	for i, want := range []int{3, 3, 3, 1, 0, 0} {
		if counts[i] != want {
			t.Fatalf("asked %v times in each second", counts)
		}
	}
}

func TestPaceSpreadsOverTheSecondsToCome(t *testing.T) {
	p, now := &pace{}, int64(10_500)
	var got []int64
	for range 8 {
		got = append(got, p.take(now, 2))
	}
	for i, want := range []int64{now, now, 11_000, 11_000, 12_000, 12_000, 13_000, 13_000} {
		if got[i] != want {
			t.Fatalf("%v", got)
		}
	}
	// Those that were put off have their place; what comes besides goes behind all.
	for _, want := range []int64{11_000, 11_000, 14_000, 14_000, 15_000} {
		if at := p.take(11_000, 2); at != want {
			t.Fatalf("put off to %d, want %d", at, want)
		}
	}
	if at := p.take(20_000, 2); at != 20_000 {
		t.Fatalf("put off to %d after a pause", at)
	}
}

func TestChecksGoOnAfterARestart(t *testing.T) {
	r := openTxnRig(t, func(o *Options) { o.MaxChecks = 2 })
	p := r.join("p", "1", false)
	sent := r.half("x")
	r.wait(6 * time.Second)
	if n := len(p.take()); n != 1 {
		t.Fatalf("asked %d times", n)
	}
	r.restart(t)
	p = r.join("p", "another id", false)
	r.wait(30*time.Second - time.Millisecond)
	if n := len(p.take()); n != 0 {
		t.Fatalf("asked %d times before the interval was over", n)
	}
	r.wait(time.Millisecond)
	if got := p.take(); len(got) != 1 || got[0].Half.Checks != 2 {
		t.Fatalf("asked %+v", got)
	}
	r.restart(t)
	r.wait(30 * time.Second)
	r.restart(t)
	if h, ok, _ := r.store.Txn.Get(sent.Position); !ok || h.Reason != txn.NoProducer {
		t.Errorf("after the restarts: %+v", h)
	}
	r.mustEnd(sent.Position, TransactionCommit)
	r.wantInQueue("x")
}

func TestAnswersInsideACheck(t *testing.T) {
	r := openTxnRig(t)
	answered := make(chan error, 1)
	r.clients.RegisterProducer("p", &Client{ID: "1", Check: func(c *TransactionCheck) bool {
		r.EndTransactionAsync(&EndTransactionRequest{
			Topic: c.Topic, Group: c.Group, UniqueID: c.UniqueID, Position: c.Half.Position, Resolution: TransactionCommit, FromCheck: true,
		}, func(err error) { answered <- err })
		return true
	}})
	r.half("x")
	r.wait(6 * time.Second)
	if err := receive(t, answered); err != nil {
		t.Fatal(err)
	}
	r.wantInQueue("x")
	r.wait(time.Minute)
	r.wantCount(txn.Count{})
}

func TestTransactionMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	r := openTxnRig(t, func(o *Options) { o.Registerer, o.MaxChecks = reg, 1 })
	r.join("p", "1", false)
	commit, rollback := r.half("a"), r.half("b")
	r.wait(7 * time.Second)
	r.mustEnd(commit.Position, TransactionCommit)
	r.mustEnd(commit.Position, TransactionCommit) // counts once
	r.mustEnd(rollback.Position, TransactionRollback)
	r.half("c")
	r.wait(6 * time.Second)
	r.wait(30 * time.Second)
	r.halfOf("nobody", "t", "d", message.PropTranImmunity, "1")
	r.wait(time.Second)
	got := gather(t, reg)
	for line, want := range map[string]float64{
		"rocketmq_half_messages topic=t":                      1,
		"cairn_parked_half_messages topic=t":                  1,
		"rocketmq_commit_messages_total topic=t":              1,
		"rocketmq_rollback_messages_total topic=t":            1,
		"rocketmq_finish_message_latency topic=t":             1,
		"cairn_transaction_checks_total result=sent":          3,
		"cairn_transaction_checks_total result=no-producer":   1,
		"cairn_half_messages_parked_total reason=no-answer":   1,
		"cairn_half_messages_parked_total reason=no-producer": 0,
	} {
		if v, ok := got[line]; !ok || v != want {
			t.Errorf("%s: %v (there: %v), want %v", line, v, ok, want)
		}
	}
	if err := r.DeleteTopic(context.Background(), "t"); err != nil {
		t.Fatal(err)
	}
	for line := range gather(t, reg) {
		if line == "rocketmq_half_messages topic=t" || line == "rocketmq_commit_messages_total topic=t" {
			t.Errorf("%s after the topic was deleted", line)
		}
	}
}
