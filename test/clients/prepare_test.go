package clients

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/test/place"
)

// topics are what the scenarios need, by the kind of their messages; each has a group of the same name.
var topics = map[string][]string{
	"NORMAL":      {"normal", "async", "tags", "sql", "redelivery", "expired", "push", "refused", "empty"},
	"FIFO":        {"fifo", "push-fifo", "refused-fifo"},
	"DELAY":       {"delay", "recall", "delay-far"},
	"TRANSACTION": {"transaction"},
}

// prepare makes the topics and groups of a client, and waits until they have routes.
func prepare(t *testing.T, at place.Place, prefix string) {
	t.Helper()
	broker, ns := dial(t, at.Remoting), dial(t, at.NameServer)
	for kind, scenarios := range topics {
		for _, s := range scenarios {
			name := prefix + "-" + s
			call(t, broker, wire.UpdateAndCreateTopic, nil, "topic", name, "defaultTopic", "TBW102", "readQueueNums", "4", "writeQueueNums", "4",
				"perm", "6", "topicFilterType", "SINGLE_TAG", "topicSysFlag", "0", "order", "false", "attributes", "+message.type="+kind)
			putGroup(t, broker, name, kind == "FIFO")
		}
	}
	putGroup(t, broker, prefix+"-empty-sql", false)
	for _, scenarios := range topics {
		for _, s := range scenarios {
			awaitRoute(t, ns, prefix+"-"+s)
		}
	}
}

func putGroup(t *testing.T, broker *wire.Client, name string, ordered bool) {
	t.Helper()
	body, err := json.Marshal(map[string]any{
		"groupName": name, "consumeEnable": true, "consumeFromMinEnable": true, "consumeBroadcastEnable": true, "consumeMessageOrderly": ordered,
		"retryQueueNums": 1, "retryMaxTimes": 16, "brokerId": 0, "whichBrokerWhenConsumeSlowly": 1, "notifyConsumerIdsChangedEnable": true,
		"groupSysFlag": 0, "consumeTimeoutMinute": 15,
	})
	must(t, "group", err)
	call(t, broker, wire.UpdateAndCreateGroup, body)
}

func dial(t *testing.T, addr string) *wire.Client {
	t.Helper()
	c, err := wire.Dial(t.Context(), addr, wire.ClientOptions{})
	must(t, "dial", err)
	t.Cleanup(c.Close)
	return c
}

func invoke(t *testing.T, c *wire.Client, code int, body []byte, pairs ...string) *wire.Command {
	t.Helper()
	req := wire.NewRequest(code)
	req.Version = wire.Version5_5_0
	req.Body = body
	for i := 0; i < len(pairs); i += 2 {
		req.Fields.Add(pairs[i], pairs[i+1])
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	resp, err := c.Invoke(ctx, req)
	must(t, fmt.Sprintf("request code %d", code), err)
	return resp
}

func call(t *testing.T, c *wire.Client, code int, body []byte, pairs ...string) {
	t.Helper()
	if resp := invoke(t, c, code, body, pairs...); resp.Code != wire.Success {
		t.Fatalf("request code %d %v: %d %s", code, pairs, resp.Code, resp.Remark)
	}
}

func awaitRoute(t *testing.T, ns *wire.Client, topic string) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); ; <-tick.C {
		resp := invoke(t, ns, wire.GetRouteInfoByTopic, nil, "topic", topic, "acceptStandardJsonOnly", "true")
		if resp.Code == wire.Success {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("no route of %s: %d %s", topic, resp.Code, resp.Remark)
		}
	}
}
