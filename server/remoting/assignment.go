package remoting

import (
	"context"
	"fmt"
	"slices"

	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/wire"
)

func init() {
	servePooled(wire.QueryAssignment, "QUERY_ASSIGNMENT", TierClient, queryAssignment)
	servePooled(wire.SetMessageRequestMode, "SET_MESSAGE_REQUEST_MODE", TierAdmin, setRequestMode)
}

// modePull is how Remoting consumers get their messages here.
const modePull = "PULL"

// assignment is MessageQueueAssignment.
type assignment struct {
	Queue body.MessageQueue `json:"messageQueue"`
	Mode  string            `json:"mode"`
}

// queryAssignment serves code 400: Java consumers of 5.x that leave the balancing to the broker (clientRebalance false) ask
// which queues of a topic are theirs. The queues are those of this broker.
func queryAssignment(_ context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	var q struct {
		ClientID     string `json:"clientId"`
		Group        string `json:"consumerGroup"`
		MessageModel string `json:"messageModel"`
		Strategy     string `json:"strategyName"`
		Topic        string `json:"topic"`
	}
	if err := body.Unmarshal(req.Body, &q); err != nil {
		return fmt.Errorf("request body: %w", err)
	}
	t, err := d.broker.Topic(q.Topic)
	if err != nil {
		return err
	}
	queues := make([]int32, t.ReadQueues)
	for i := range queues {
		queues[i] = int32(i)
	}
	if q.MessageModel != "BROADCASTING" {
		ids := slices.Sorted(slices.Values(d.broker.Clients().ConsumerIDs(q.Group)))
		if queues, err = share(q.Strategy, queues, slices.Index(ids, q.ClientID), len(ids)); err != nil {
			return err
		}
	}
	answer := struct {
		Assignments []assignment `json:"messageQueueAssignments"`
	}{make([]assignment, 0, len(queues))}
	name := d.broker.Options().BrokerName
	for _, n := range queues {
		mq := body.MessageQueue{BrokerName: name, QueueID: n, Topic: q.Topic}
		answer.Assignments = append(answer.Assignments, assignment{Queue: mq, Mode: modePull})
	}
	return jsonBody(resp, answer)
}

// share picks the queues of the member at index of a group of n, as clients that balance themselves do: every member
// computes the same split. Somebody who is not a member (index −1) gets nothing.
func share(strategy string, queues []int32, index, n int) ([]int32, error) {
	switch {
	case strategy != "" && strategy != "AVG" && strategy != "AVG_BY_CIRCLE":
		return nil, refuse(wire.InvalidParameter, "strategy %s is not one of AVG, AVG_BY_CIRCLE", strategy)
	case index < 0:
		return nil, nil
	case strategy == "AVG_BY_CIRCLE":
		var mine []int32
		for i := index; i < len(queues); i += n {
			mine = append(mine, queues[i])
		}
		return mine, nil
	}
	// The first ones get one more while there is a remainder.
	size, rest := len(queues)/n, len(queues)%n
	from := index*size + min(index, rest)
	if index < rest {
		size++
	}
	return queues[from : from+size], nil
}

// setRequestMode serves code 401: pulling is the one mode there is.
func setRequestMode(_ context.Context, _ *Door, _ *session, req, _ *wire.Command) error {
	var m struct {
		Mode string `json:"mode"`
	}
	if err := body.Unmarshal(req.Body, &m); err != nil {
		return fmt.Errorf("request body: %w", err)
	}
	if m.Mode != modePull {
		return refuse(wire.RequestCodeNotSupported, "request mode %s is not supported: %s", m.Mode, whyNoPop)
	}
	return nil
}
