package system

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	client "github.com/apache/rocketmq-clients/golang/v5"
	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// shown is what `cairn group show -o json` prints.
type shown struct {
	Topics []struct {
		Topic    string `json:"topic"`
		Lag      int64  `json:"lag"`
		Ready    int64  `json:"ready"`
		InFlight int64  `json:"in_flight"`
		Delayed  int64  `json:"delayed"`
		Parked   int64  `json:"parked"`
		Oldest   int64  `json:"oldest_age_ms"`
		Dead     int64  `json:"dead"`
	} `json:"topics"`
	Dead struct {
		Count  int64 `json:"count"`
		Oldest int64 `json:"oldest_died_ms"`
	} `json:"dead"`
	Queues []struct {
		Lag    int64 `json:"lag"`    // what tools make of GET_CONSUME_STATS: Diff
		Popped int64 `json:"popped"` // and Inflight
	} `json:"queues"`
	Lag int64 `json:"lag"`
}

// TestOneSituationInAllViews: what a group has before it is the same on the command line, in the metrics and in what mqadmin computes,
// before and after the broker was killed.
func TestOneSituationInAllViews(t *testing.T) {
	cairnOnly(t, "it kills the broker, and looks at its metrics")
	client.EnableSsl = false
	c := startCairn(t, "--segment-size", "64MiB")
	run(t, "topic", "create", "counted", "-n", c.fixed.NameServer, "--queues", "1", "--attribute", "+message.type=FIFO")
	p := startProducer(t, c.place(), "counted")
	send := func(groups ...string) {
		t.Helper()
		for i, group := range groups {
			m := &client.Message{Topic: "counted", Body: []byte(fmt.Sprint(group, i))}
			m.SetMessageGroup(group)
			if _, err := p.Send(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := startSimple(t, c.place(), "counters", "counted", "*")
	began := time.Now()
	send("acked", "held", "failed", "dead")
	byGroup := map[string]*client.MessageView{}
	for len(byGroup) < 4 {
		for _, m := range receive(t, s, 10*time.Minute) {
			byGroup[*m.GetMessageGroup()] = m
		}
	}
	if err := s.Ack(t.Context(), byGroup["acked"]); err != nil {
		t.Fatal(err)
	}
	send("held", "held", "failed", "dead") // all wait for the first ones
	if more := receive(t, s, 10*time.Minute); len(more) > 0 {
		t.Fatalf("%d messages came before their turn", len(more))
	}
	c.giveUp(byGroup["failed"], byGroup["dead"])
	send("unseen", "unseen")

	check := func() {
		t.Helper()
		var v shown
		if err := json.Unmarshal([]byte(run(t, "group", "show", "counters", "-n", c.fixed.NameServer, "-o", "json")), &v); err != nil {
			t.Fatal(err)
		}
		if len(v.Topics) != 1 || len(v.Queues) != 1 {
			t.Fatalf("%+v", v)
		}
		got := v.Topics[0]
		// What waited for the dead letter is ready, and so is what nobody has looked at.
		if got.Ready != 3 || got.InFlight != 1 || got.Delayed != 1 || got.Parked != 3 || got.Lag != 8 || got.Dead != 1 || v.Dead.Count != 1 {
			t.Errorf("group show: %+v", v)
		}
		if v.Lag != 8 || v.Queues[0].Lag != 8 || v.Queues[0].Popped != 6 {
			t.Errorf("GET_CONSUME_STATS: %+v", v)
		}
		if most := time.Since(began).Milliseconds(); got.Oldest <= 0 || got.Oldest > most || v.Dead.Oldest < began.UnixMilli() {
			t.Errorf("the oldest is there for %d ms of %d; the first died at %d", got.Oldest, most, v.Dead.Oldest)
		}
		m := c.metrics()
		const cluster, node = `{cluster="DefaultCluster",`, `node_id="broker-a",node_type="broker"`
		const labels = cluster + `consumer_group="counters",is_retry="false",is_system="false",` + node + `,topic="counted"}`
		for name, want := range map[string]int64{
			"rocketmq_consumer_lag_messages" + labels: got.Lag, "rocketmq_consumer_ready_messages" + labels: got.Ready,
			"rocketmq_consumer_inflight_messages" + labels: got.InFlight, "cairn_consumer_delayed_messages" + labels: got.Delayed,
			"cairn_consumer_parked_messages" + labels: got.Parked, "cairn_dead_letters" + cluster + `consumer_group="counters",` + node + "}": v.Dead.Count,
		} {
			if value, ok := m[name]; !ok || int64(value) != want {
				t.Errorf("metric %s: %v (there: %v), want %d", name, value, ok, want)
			}
		}
		if latency := m["rocketmq_consumer_lag_latency"+labels]; int64(latency) < got.Oldest {
			t.Errorf("the lag latency is %v, and the oldest was there for %d before", latency, got.Oldest)
		}
	}
	check()
	text := run(t, "group", "show", "counters", "-n", c.fixed.NameServer)
	if row := strings.Fields(strings.Split(text, "\n")[1]); len(row) != 8 || row[7] != "1" || !slices.Equal(row[:6], []string{"counted", "8", "3", "1", "1", "3"}) ||
		!strings.Contains(text, "dead letters: 1, ") {
		t.Errorf("group show:\n%s", text)
	}
	t.Log(text)
	c.kill()
	c.start()
	check()
}

// giveUp has a consumer fail on one message, without saying when it wants it again, and give up the other.
func (c *cairn) giveUp(failed, dead *client.MessageView) {
	c.t.Helper()
	conn, err := grpc.NewClient(c.fixed.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	stub := v2.NewMessagingServiceClient(conn)
	ctx := metadata.AppendToOutgoingContext(context.Background(), "x-mq-client-id", "raw")
	group, topic := &v2.Resource{Name: "counters"}, &v2.Resource{Name: "counted"}
	changed, err := stub.ChangeInvisibleDuration(ctx, &v2.ChangeInvisibleDurationRequest{
		Group: group, Topic: topic, ReceiptHandle: failed.GetReceiptHandle(), MessageId: failed.GetMessageId(),
	})
	if err != nil || changed.GetStatus().GetCode() != v2.Code_OK {
		c.t.Fatal(changed, err)
	}
	forwarded, err := stub.ForwardMessageToDeadLetterQueue(ctx, &v2.ForwardMessageToDeadLetterQueueRequest{
		Group: group, Topic: topic, ReceiptHandle: dead.GetReceiptHandle(), MessageId: dead.GetMessageId(), DeliveryAttempt: 1, MaxDeliveryAttempts: 1,
	})
	if err != nil || forwarded.GetStatus().GetCode() != v2.Code_OK {
		c.t.Fatal(forwarded, err)
	}
}
