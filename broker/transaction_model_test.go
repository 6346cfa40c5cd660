package broker

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/txn"
)

// modelHalf is what a half message has to be.
type modelHalf struct {
	sent    SendResult
	body    string
	delay   time.Duration
	checks  int32
	checkAt time.Time
	reason  txn.Reason
	ended   Resolution // TransactionUnknown: not yet
	due     time.Time  // when committed
}

// txnRun is one random run over a real broker.
type txnRun struct {
	*txnRig
	halves   []*modelHalf
	producer *producer // nil: none there
	asks     int
}

const modelMaxChecks = 3

func (r *txnRun) sendHalf(t *rapid.T) {
	h := &modelHalf{body: strconv.Itoa(len(r.halves)), checkAt: r.clock.Now().Add(6 * time.Second)}
	var props []string
	if sec := rapid.IntRange(0, 20).Draw(t, "immunity"); sec > 0 {
		h.checkAt = r.clock.Now().Add(time.Duration(sec) * time.Second)
		props = append(props, message.PropTranImmunity, strconv.Itoa(sec))
	}
	if rapid.IntRange(0, 2).Draw(t, "delayed") == 0 {
		h.delay = time.Duration(rapid.IntRange(1, 20).Draw(t, "delay")) * time.Second
		props = append(props, message.PropTimerDelaySec, strconv.Itoa(int(h.delay.Seconds())))
	}
	h.sent = r.half(h.body, props...)
	r.halves = append(r.halves, h)
}

func (r *txnRun) endHalf(t *rapid.T) {
	if len(r.halves) == 0 {
		t.Skip()
	}
	h := rapid.SampledFrom(r.halves).Draw(t, "half")
	how := rapid.SampledFrom([]Resolution{TransactionUnknown, TransactionCommit, TransactionRollback}).Draw(t, "how")
	err := r.EndTransaction(context.Background(), &EndTransactionRequest{
		Topic: "t", Group: "p", UniqueID: h.sent.UniqueID, Position: h.sent.Position, Resolution: how,
	})
	conflict := how != TransactionUnknown && h.ended != TransactionUnknown && h.ended != how
	if conflict != (err != nil) || err != nil && CodeOf(err) != CodeConflict {
		t.Fatalf("resolution %d of what was resolved as %d: %v", how, h.ended, err)
	}
	if how != TransactionUnknown && h.ended == TransactionUnknown {
		h.ended, h.due = how, r.clock.Now().Add(h.delay)
	}
}

// advance moves the clock; the model does what the checker has to do.
func (r *txnRun) advance(t *rapid.T) {
	r.heartbeat()
	r.wait(time.Duration(rapid.IntRange(1, 20_000).Draw(t, "ms")) * time.Millisecond)
	now := r.clock.Now()
	for _, h := range r.halves {
		switch {
		case h.ended != TransactionUnknown || h.reason != txn.NotParked || h.checkAt.After(now):
		case h.checks < modelMaxChecks:
			h.checks++
			h.checkAt = now.Add(r.opts.CheckInterval)
			if r.producer != nil {
				r.asks++
			}
		case r.producer != nil:
			h.reason = txn.NoAnswer
		default:
			h.reason = txn.NoProducer
		}
	}
}

func (r *txnRun) heartbeat() {
	r.clients.UnregisterProducer("p", "1")
	if r.producer != nil {
		r.clients.RegisterProducer("p", &Client{ID: "1", Check: r.producer.check(r.txnRig, "1")})
	}
}

func (r *txnRun) comeOrGo(*rapid.T) {
	if r.producer != nil {
		r.producer = nil
	} else {
		r.producer, r.asks = &producer{}, 0
	}
	r.heartbeat()
}

// compare looks at every half message and at what consumers see.
func (r *txnRun) compare(t *rapid.T) {
	var count txn.Count
	want := map[string]bool{}
	for _, h := range r.halves {
		got, there, err := r.store.Txn.Get(h.sent.Position)
		if err != nil || there != (h.ended == TransactionUnknown) {
			t.Fatalf("%s, resolved as %d, is a half message: %v (%v)", h.body, h.ended, there, err)
		}
		switch {
		case !there:
			if h.ended == TransactionCommit && !h.due.After(r.clock.Now()) {
				want[h.body] = true
			}
			continue
		case h.reason != txn.NotParked:
			count.Parked++
		default:
			count.Open++
			if got.CheckAt != h.checkAt.UnixMilli() {
				t.Fatalf("%s is checked at %d, want %v", h.body, got.CheckAt, h.checkAt)
			}
		}
		if got.Checks != h.checks || got.Reason != h.reason {
			t.Fatalf("%s is %+v, want %+v", h.body, got, *h)
		}
	}
	r.wantCount(count)
	r.waitInQueue(len(want))
	for _, m := range r.inQueue() {
		if !want[string(m.Body)] {
			t.Fatalf("%s is in the queue and should not be, or twice", m.Body)
		}
		delete(want, string(m.Body))
	}
	if len(want) > 0 {
		t.Fatalf("%q are not in the queue", slices.Sorted(maps.Keys(want)))
	}
	if r.producer != nil {
		r.asks -= len(r.producer.take())
		if r.asks != 0 {
			t.Fatalf("%d checks did not come", r.asks)
		}
	}
}

func TestTransactionsAgreeWithTheModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := &txnRun{txnRig: openTxnRig(t, func(o *Options) { o.MaxChecks, o.CheckInterval = modelMaxChecks, 9*time.Second })}
		defer r.close(t)
		rt.Repeat(map[string]func(*rapid.T){
			"send": r.sendHalf, "send again": r.sendHalf, "end": r.endHalf, "end again": r.endHalf,
			"advance": r.advance, "advance again": r.advance, "producer": r.comeOrGo,
			"restart": func(t *rapid.T) {
				if rapid.IntRange(0, 3).Draw(t, "seldom") > 0 {
					t.Skip()
				}
				r.restart(r.t)
				r.heartbeat()
			},
			"": r.compare,
		})
	})
}
