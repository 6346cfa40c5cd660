package remoting

import (
	"reflect"
	"testing"
	"time"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/wire"
)

// TestConsumeStatsOfAGroupThatPops: the differences that tools show of a group that pops are what it has not acknowledged, also where a
// later message is acknowledged before an earlier one.
func TestConsumeStatsOfAGroupThatPops(t *testing.T) {
	now := clock.NewFake(time.UnixMilli(1_780_000_000_000))
	r := newRig(t, commitlog.ModeOS, Options{}, func(o *broker.Options) { o.Clock = now })
	c := r.dial(wire.ClientOptions{})
	call := func(req *wire.Command) *wire.Command {
		t.Helper()
		resp := invoke(t, c, req)
		if resp.Code != wire.Success {
			t.Fatal(resp.Code, resp.Remark)
		}
		return resp
	}
	send := func(bodies ...string) {
		t.Helper()
		for _, text := range bodies {
			call(sendRequest("pops", "0", text))
			now.Advance(time.Second)
		}
	}
	send("a", "b", "c", "d")
	rs := receipts{}
	if err := rs.popped(call(popRequest("g", "pops", "0"))); err != nil || len(rs) != 4 {
		t.Fatal(rs, err)
	}
	of := func(text, offset string) []string {
		return []string{"consumerGroup", "g", "topic", "pops", "queueId", "0", "offset", offset, "extraInfo", rs[text]}
	}
	call(request(wire.AckMessage, of("a", "0")...))
	call(request(wire.AckMessage, of("c", "2")...))
	// As the push consumers of the Java client do it when they fail.
	call(request(wire.ChangeInvisibleTime, append(of("b", "1"), "invisibleTime", "120000")...))
	send("e", "f")

	at := body.MessageQueue{Topic: "pops", BrokerName: "broker-a", QueueID: 0}
	want := body.OffsetWrapper{BrokerOffset: 6, PullOffset: 4, ConsumerOffset: 2, LastTimestamp: 1_780_000_000_000}
	stats := func(fields ...string) (out body.ConsumeStats) {
		t.Helper()
		resp := call(request(wire.GetConsumeStats, append(fields, "consumerGroup", "g")...))
		if err := body.Unmarshal(resp.Body, &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, fields := range [][]string{nil, {"topic", "pops"}} {
		if got := stats(fields...); got.OffsetTable[at] != want || got.Progress != nil {
			t.Errorf("%v: %+v, want %+v", fields, got, want)
		}
	}
	none := int64(0)
	progress := &body.GroupProgress{Topics: []body.TopicProgress{{Topic: "pops", Ready: 2, InFlight: 1, Delayed: 1, OldestAge: 5000, Dead: &none}}}
	if got := stats("progress", "true"); got.OffsetTable[at] != want || !reflect.DeepEqual(got.Progress, progress) {
		t.Errorf("%+v, %+v, want %+v", got, got.Progress, progress)
	}
	now.Advance(time.Minute)
	progress.Topics[0].Ready, progress.Topics[0].InFlight, progress.Topics[0].OldestAge = 3, 0, 65_000
	if got := stats("progress", "true"); got.OffsetTable[at] != want || !reflect.DeepEqual(got.Progress, progress) {
		t.Errorf("%+v, want %+v", got.Progress, progress)
	}
	resp := call(request(allConsumeStats, "isOrder", "false"))
	var all body.ConsumeStatsList
	if err := body.Unmarshal(resp.Body, &all); err != nil || all.TotalDiff != 4 || all.TotalInflightDiff != 2 {
		t.Errorf("%+v, %v", all, err)
	}
}
