package remoting

import (
	"context"
	"slices"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/wire"
)

func init() {
	servePooled(wire.QueryAssignment, "QUERY_ASSIGNMENT", TierClient, queryAssignment)
	servePooled(wire.SetMessageRequestMode, "SET_MESSAGE_REQUEST_MODE", TierAdmin, setRequestMode)
}

// How consumers get their messages, MessageRequestMode.
const (
	modePull = "PULL"
	modePop  = "POP"
)

// modelBroadcasting is the message model of a consumer that wants all messages for itself.
const modelBroadcasting = "BROADCASTING"

// allQueues is the queue of an assignment that lets its consumer pop from all of them.
const allQueues int32 = -1

// assignment is MessageQueueAssignment.
type assignment struct {
	Queue body.MessageQueue `json:"messageQueue"`
	Mode  string            `json:"mode"`
}

// queryAssignment serves code 400: Java consumers of 5.x that leave the balancing to the broker (clientRebalance false) ask
// which queues of a topic are theirs, and whether to pull or to pop them. The queues are those of this broker. Who consumes by
// broadcast always pulls: what one pops, the others do not get.
func queryAssignment(_ context.Context, d *Door, s *session, req, resp *wire.Command) error {
	var q struct {
		ClientID     string `json:"clientId"`
		Group        string `json:"consumerGroup"`
		MessageModel string `json:"messageModel"`
		Strategy     string `json:"strategyName"`
		Topic        string `json:"topic"`
	}
	if err := readBody(req, &q); err != nil {
		return err
	}
	t, err := d.broker.Topic(q.Topic)
	if broker.CodeOf(err) == broker.CodeTopicNotFound {
		return jsonBody(resp, struct{}{}) // nobody has any of its queues
	}
	if err != nil {
		return err
	}
	queues := make([]int32, t.ReadQueues)
	for i := range queues {
		queues[i] = int32(i)
	}
	mode := modePull
	if q.MessageModel != modelBroadcasting {
		m, err := d.broker.RequestMode(q.Group, q.Topic)
		if err != nil {
			return err
		}
		ids := slices.Sorted(slices.Values(d.broker.Clients().ConsumerIDs(q.Group)))
		index := slices.Index(ids, q.ClientID)
		if m.Pop {
			mode = modePop
			queues, err = sharePopped(q.Strategy, queues, index, len(ids), int(m.Share))
		} else if g, gerr := d.broker.Group(q.Group); gerr != nil || !g.VirtualQueues() {
			queues, err = share(q.Strategy, queues, index, len(ids))
		} else {
			d.toldOfAll(s, q.Group)
		}
		if err != nil {
			return err
		}
	}
	answer := struct {
		Assignments []assignment `json:"messageQueueAssignments"`
	}{make([]assignment, 0, len(queues))}
	name := d.broker.Options().BrokerName
	for _, n := range queues {
		mq := body.MessageQueue{BrokerName: name, QueueID: n, Topic: q.Topic}
		answer.Assignments = append(answer.Assignments, assignment{Queue: mq, Mode: mode})
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

// sharePopped picks the queues of a member of a group that pops. Queues may be popped by several at once, so each gets its own
// share and those of the next neighbours in the list; or all queues as one, when it shares with everybody. Where there are more
// members than queues, several have the same one.
func sharePopped(strategy string, queues []int32, index, n, neighbours int) ([]int32, error) {
	switch {
	case neighbours <= 0 || neighbours >= n-1:
		return []int32{allQueues}, nil
	case index < 0 || len(queues) == 0:
		return nil, nil
	case n > len(queues):
		return queues[index%len(queues):][:1], nil
	}
	var mine []int32
	for i := range neighbours + 1 {
		some, err := share(strategy, queues, (index+i)%n, n)
		if err != nil {
			return nil, err
		}
		mine = append(mine, some...)
	}
	return mine, nil
}

// setRequestMode serves code 401: whether the consumers of a group pull or pop a topic. Those that are there are told that
// something has changed, so that they ask again at once and not within 20 s.
func setRequestMode(ctx context.Context, d *Door, _ *session, req, _ *wire.Command) error {
	var m struct {
		Group string `json:"consumerGroup"`
		Topic string `json:"topic"`
		Mode  string `json:"mode"`
		Share int32  `json:"popShareQueueNum"`
	}
	if err := readBody(req, &m); err != nil {
		return err
	}
	if m.Mode != modePull && m.Mode != modePop {
		return refuse(wire.InvalidParameter, "request mode %s is neither %s nor %s", m.Mode, modePull, modePop)
	}
	if m.Group == "" || m.Topic == "" {
		return refuse(wire.InvalidParameter, "topic and consumerGroup must be given")
	}
	mode := broker.RequestMode{Pop: m.Mode == modePop, Share: m.Share}
	err := d.broker.SetRequestMode(ctx, m.Group, m.Topic, mode)
	if broker.CodeOf(err) == broker.CodeTopicNotFound {
		return refuse(wire.TopicNotExist, "%s", missingTopic(req.Code, m.Topic)) // the body names it, no field
	}
	if err != nil {
		return err
	}
	members, _, _ := d.broker.Clients().Consumers(m.Group)
	for _, c := range members {
		if c.Notify != nil {
			c.Notify(m.Group)
		}
	}
	return nil
}
