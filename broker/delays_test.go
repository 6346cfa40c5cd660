package broker

import (
	"maps"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/message"
)

func TestDueTimes(t *testing.T) {
	const now, day = int64(1_800_000_000_000), int64(86_400_000)
	opts := Options{MaxDelay: 40 * 24 * time.Hour}
	if err := opts.setDefaults(); err != nil {
		t.Fatal(err)
	}
	b := &Broker{opts: opts}
	for _, c := range []struct {
		props string // key=value, separated by blanks
		after int64  // ms from now
		level int32
		code  Code // 0: none
	}{
		{props: "", after: 0},
		{props: "DELAY=1", after: 1000, level: 1},
		{props: "DELAY=3", after: 10_000, level: 3},
		{props: "DELAY=18", after: 7_200_000, level: 18},
		{props: "DELAY=19", after: 7_200_000, level: 18},
		{props: "DELAY=0", after: 0},
		{props: "DELAY=-4", after: 0},
		{props: "DELAY=many", after: 0},
		{props: "DELAY=2 TIMER_DELAY_SEC=99 TIMER_OUT_MS=5", after: 5000, level: 2},
		{props: "TIMER_DELAY_SEC=7", after: 7000},
		{props: "TIMER_DELAY_MS=7", after: 7},
		{props: "TIMER_DELIVER_MS=1800000000007", after: 7},
		{props: "TIMER_DELIVER_MS=1800000000003 TIMER_DELAY_MS=2 TIMER_DELAY_SEC=1", after: 1000},
		{props: "TIMER_DELIVER_MS=1800000000003 TIMER_DELAY_MS=2", after: 2},
		{props: "TIMER_DELAY_MS=2 TIMER_OUT_MS=1", after: 0},
		{props: "TIMER_DELAY_SEC=0", after: 0},
		{props: "TIMER_DELAY_SEC=-5", after: -5000},
		{props: "TIMER_DELAY_SEC=-9223372036854775808", after: -now},
		{props: "TIMER_DELIVER_MS=-3", after: -now},
		{props: "TIMER_DELAY_MS=3456000000", after: 40 * day},
		{props: "TIMER_DELAY_MS=3456000001", code: CodeDelayTooLong},
		{props: "TIMER_DELAY_SEC=9223372036854775807", code: CodeDelayTooLong},
		{props: "TIMER_DELIVER_MS=9223372036854775807", code: CodeDelayTooLong},
		{props: "TIMER_DELIVER_MS=9223372036854775808", code: CodeMessageIllegal},
		{props: "TIMER_DELAY_MS=1.5", code: CodeMessageIllegal},
	} {
		var props []byte
		for _, pair := range strings.Fields(c.props) {
			key, value, _ := strings.Cut(pair, "=")
			props = message.AppendProperty(props, key, value)
		}
		w := wishOf(props)
		due, level, err := b.dueTime(&w, now)
		if c.code != 0 {
			wantCode(t, c.props, err, c.code)
			continue
		}
		if err != nil || due-now != c.after || level != c.level {
			t.Errorf("%s: due in %d ms with level %d, %v; want %d, %d", c.props, due-now, level, err, c.after, c.level)
		}
		if got := b.dueOf(props, now); got != due {
			t.Errorf("%s: %d when it is let in, %d later", c.props, due, got)
		}
	}
	// What was let in keeps its delay, also under a shorter limit.
	props := message.AppendProperty(nil, message.PropTimerDelaySec, "86400")
	b.opts.MaxDelay = time.Second
	if got := b.dueOf(props, now); got != now+day {
		t.Errorf("due in %d ms", got-now)
	}
	if got, _ := after(math.MaxInt64-5, []byte("7"), 1); got != math.MaxInt64 {
		t.Errorf("%d", got)
	}
}

// What a message that waited looks like to its consumers.
func TestDelayedMessagesLookLikeTheReferences(t *testing.T) {
	c := clock.NewFake(epoch)
	b := openBroker(t, withClock(c))
	b.topicOf(t, "t", 4)
	for _, s := range []struct {
		sent, want map[string]string
		after      time.Duration
	}{
		{sent: map[string]string{"DELAY": "1", "TAGS": "a"}, after: time.Second,
			want: map[string]string{"DELAY": "1", "TAGS": "a", "REAL_TOPIC": "t", "REAL_QID": "2"}},
		{sent: map[string]string{"DELAY": "40", "REAL_TOPIC": "old", "REAL_QID": "7", "TIMER_DELAY_MS": "1"}, after: 2 * time.Hour,
			want: map[string]string{"DELAY": "18", "REAL_TOPIC": "t", "REAL_QID": "2"}},
		{sent: map[string]string{"TIMER_DELAY_SEC": "5", "POP_CK": "x"}, after: 5 * time.Second,
			want: map[string]string{"TIMER_DELAY_SEC": "5"}},
		{sent: map[string]string{"TIMER_DELIVER_MS": "1"}, want: map[string]string{"TIMER_DELIVER_MS": "1"}},
	} {
		began, sent := c.Now(), plain("x")
		sent.Properties = message.EncodeProperties(s.sent)
		res := b.send(t, "t", 2, sent)[0]
		if delayed := s.after > 0; (res.RecallHandle != "") != delayed || delayed && res.QueueOffset != 0 {
			t.Errorf("%v: result %+v", s.sent, res)
		}
		c.Advance(s.after)
		b.fired(t)
		high, _ := b.MaxOffset("t", 2)
		got := b.pull(t, "g", "t", 2, high-1)
		m := decodeAll(t, got.Buffer.B, got.Ends)[0]
		props := message.DecodeProperties(m.Properties)
		if m.PhysicalOffset != int64(res.Position) || m.QueueOffset != high-1 || m.QueueID != 2 || m.Topic != "t" ||
			m.StoreTimestamp != began.Add(s.after).UnixMilli() {
			t.Errorf("%v: %+v", s.sent, m)
		}
		if s.want["TIMER_DELAY_SEC"] != "" {
			s.want["TIMER_OUT_MS"] = timeString(began.Add(s.after))
		}
		for key, value := range map[string]string{
			"UNIQ_KEY": res.UniqueID, "CLUSTER": "DefaultCluster", "MSG_REGION": "DefaultRegion", "TRACE_ON": "true",
		} {
			s.want[key] = value
		}
		if !maps.Equal(props, s.want) {
			t.Errorf("properties %v, want %v", props, s.want)
		}
		got.Buffer.Release()
	}
}

func TestHalfMessagesAreStoredAsTheyWillBe(t *testing.T) {
	b := openBroker(t, withClock(clock.NewFake(epoch)))
	b.topicOf(t, "t", 1)
	half := plain("x", "TRAN_MSG", "true", "UNIQ_KEY", "ID1", "__transactionId__", "old", "DELAY", "2")
	half.SysFlag = message.FlagPrepared | message.FlagMultiTags
	res, err := b.Send(t.Context(), &SendRequest{Topic: "t", ProducerGroup: "p", Messages: []message.Message{half}})
	if err != nil {
		t.Fatal(err)
	}
	if res[0].QueueOffset != 0 || res[0].RecallHandle != "" || !strings.HasSuffix(res[0].TransactionID, "ID1") {
		t.Errorf("result %+v", res[0])
	}
	h, ok, err := b.store.Txn.Get(res[0].Position)
	if err != nil || !ok || h.Group != "p" || !h.Delayed || h.CheckAt != epoch.UnixMilli()+6000 {
		t.Fatalf("half message %+v, %v, %v", h, ok, err)
	}
	layout := b.stored(t, h.Position, h.Size)
	if layout.SysFlag != message.FlagCommit|message.FlagMultiTags || layout.PreparedOffset != int64(h.Position) {
		t.Errorf("stored %+v", layout)
	}
	want := map[string]string{
		"UNIQ_KEY": "ID1", "__transactionId__": "ID1", "PGROUP": "p", "DELAY": "2", "REAL_TOPIC": "t", "REAL_QID": "0",
		"CLUSTER": "DefaultCluster", "MSG_REGION": "DefaultRegion", "TRACE_ON": "true",
	}
	if props := message.DecodeProperties(layout.Properties); !maps.Equal(props, want) {
		t.Errorf("properties %v, want %v", props, want)
	}
	for value, want := range map[string]int64{"20": 20_000, "0": 6000, "never": 6000} {
		res := b.send(t, "t", 0, plain("x", "TRAN_MSG", "true", "PGROUP", "q", "CHECK_IMMUNITY_TIME_IN_SECONDS", value))[0]
		h, _, err := b.store.Txn.Get(res.Position)
		if err != nil || h.Group != "q" || h.CheckAt != epoch.UnixMilli()+want {
			t.Errorf("immunity %s: %+v, %v", value, h, err)
		}
	}
}
