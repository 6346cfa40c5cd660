package broker

import (
	"context"
	"maps"
	"strconv"
	"testing"
	"time"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/store"
)

// last reads the newest message of a topic's only queue.
func (tb *testBroker) last(t testing.TB, topic string) message.Message {
	t.Helper()
	high, err := tb.MaxOffset(topic, 0)
	if err != nil || high == 0 {
		t.Fatalf("%s ends at %d, %v", topic, high, err)
	}
	res := tb.pull(t, "reader", topic, 0, high-1)
	t.Cleanup(res.Buffer.Release)
	return decodeAll(t, res.Buffer.B, res.Ends)[0]
}

func TestSendBackUntilTheDeadLetterTopic(t *testing.T) {
	c := clock.NewFake(epoch)
	b := openBroker(t, withClock(c))
	ctx := context.Background()
	put := catalog.DefaultGroup("g")
	put.RetryMaxTimes = 2
	if err := b.PutGroup(ctx, put, ""); err != nil {
		t.Fatal(err)
	}
	sent := plain("body", "TAGS", "a", "KEYS", "k", "UNIQ_KEY", "ID1")
	sent.Flag = 9
	origin := b.send(t, "t", 2, sent)[0]
	position := origin.Position
	for round := range int32(3) {
		topic := "%RETRY%g"
		if round == 2 {
			topic = "%DLQ%g"
		}
		if err := b.SendBack(ctx, &SendBackRequest{Group: "g", OriginTopic: "t", Position: position, MaxReconsume: -1}); err != nil {
			t.Fatal(err)
		}
		if round < 2 {
			wait := []time.Duration{10 * time.Second, 30 * time.Second}[round] // levels 3 and 4
			c.Advance(wait - time.Millisecond)
			b.fired(t)
			if high, _ := b.MaxOffset(topic, 0); high != int64(round) {
				t.Errorf("round %d: %d retries before the time", round, high)
			}
			c.Advance(time.Millisecond)
			b.fired(t)
		}
		got := b.last(t, topic)
		if got.Topic != topic || string(got.Body) != "body" || got.ReconsumeTimes != round+1 || got.Flag != 9 ||
			got.BornTimestamp != 1234 || got.BornHost != clientHost {
			t.Errorf("round %d: %+v", round, got)
		}
		want := map[string]string{
			"TAGS": "a", "KEYS": "k", "UNIQ_KEY": "ID1", "RETRY_TOPIC": "t", "ORIGIN_MESSAGE_ID": b.OffsetID(origin.Position), "WAIT": "false",
			"CLUSTER": "DefaultCluster", "MSG_REGION": "DefaultRegion", "TRACE_ON": "true",
			"REAL_TOPIC": "%RETRY%g", "REAL_QID": "0", "DELAY": strconv.Itoa(int(min(3+round, 4))),
		}
		if round == 2 {
			want[propDeadReason], want[propDeadAttempts] = DeadAttempts, "3"
		}
		if props := message.DecodeProperties(got.Properties); !maps.Equal(props, want) {
			t.Errorf("round %d: properties %v, want %v", round, props, want)
		}
		buf := store.NewBuffer()
		if _, err := b.MessageByPosition(topic, b.positionOf(t, topic, got.QueueOffset), buf); err != nil {
			t.Error(err)
		}
		buf.Release()
		position = b.positionOf(t, topic, got.QueueOffset)
	}
}

func (tb *testBroker) positionOf(t testing.TB, topic string, offset int64) (at recordPosition) {
	t.Helper()
	entries, err := tb.store.Entries(mustTopicID(t, tb, topic), 0, offset, 1, nil)
	if err != nil || len(entries) != 1 {
		t.Fatalf("entry %d of %s: %v, %v", offset, topic, entries, err)
	}
	return entries[0].Position
}

func TestSendBackDeadAtOnceAndRefusals(t *testing.T) {
	b := openBroker(t)
	ctx := context.Background()
	b.group(t, "g")
	at := b.send(t, "t", 0, plain("x"))[0].Position
	if err := b.SendBack(ctx, &SendBackRequest{Group: "g", Position: at, DelayLevel: -1, MaxReconsume: -1}); err != nil {
		t.Fatal(err)
	}
	if err := b.SendBack(ctx, &SendBackRequest{Group: "g", Position: at, MaxReconsume: 0}); err != nil {
		t.Fatal(err)
	}
	if high, _ := b.MaxOffset("%DLQ%g", 0); high != 2 {
		t.Errorf("%d dead letters, want 2", high)
	}
	wantCode(t, "group", b.SendBack(ctx, &SendBackRequest{Group: "none", Position: at}), CodeGroupNotFound)
	wantCode(t, "position", b.SendBack(ctx, &SendBackRequest{Group: "g", Position: at + 3}), CodeNotFound)
	waits := b.send(t, "t", 0, plain("x", "DELAY", "18"))[0].Position
	wantCode(t, "waits", b.SendBack(ctx, &SendBackRequest{Group: "g", Position: waits, MaxReconsume: -1}), CodeNotFound)

	mute := catalog.DefaultGroup("mute")
	mute.RetryQueueNums = 0
	if err := b.PutGroup(ctx, mute, ""); err != nil {
		t.Fatal(err)
	}
	if err := b.SendBack(ctx, &SendBackRequest{Group: "mute", Position: at, MaxReconsume: -1}); err != nil {
		t.Errorf("a group without retry queues: %v", err)
	}
	if high, _ := b.MaxOffset("%RETRY%mute", 0); high != 0 {
		t.Errorf("%d retries of a group without retry queues", high)
	}
}

// The delay of a retry is that of the level which the consumer asks for, the last one at most, whatever its message asked for.
func TestSendBackDelays(t *testing.T) {
	c := clock.NewFake(epoch)
	b := openBroker(t, withClock(c))
	b.group(t, "g")
	at := b.send(t, "t", 0, plain("x", "TIMER_DELAY_SEC", "0"))[0].Position
	for level, want := range map[int32]time.Duration{0: 10 * time.Second, 1: time.Second, 5: time.Minute, 18: 2 * time.Hour, 19: 2 * time.Hour} {
		err := b.SendBack(context.Background(), &SendBackRequest{Group: "g", Position: at, DelayLevel: level, MaxReconsume: -1})
		if err != nil {
			t.Fatal(err)
		}
		found, _, err := b.Timers(TimerQuery{From: epoch.Add(want).UnixMilli(), To: epoch.Add(want).UnixMilli()})
		if err != nil || len(found) == 0 || found[0].Topic != "%RETRY%g" || found[0].Level != map[int32]int32{0: 3, 19: 18}[level]+level%19 {
			t.Errorf("level %d: timers %+v, %v", level, found, err)
		}
	}
	if pending, _ := b.store.Delay.Pending(mustTopicID(t, b, "%RETRY%g")); pending != 5 {
		t.Errorf("%d timers, want 5", pending)
	}
}
