package remoting

import (
	"context"
	"encoding/json"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/wire"
)

const (
	systemTopicList = 305
	deleteTopicList = 5002
)

func init() {
	servePooled(wire.UpdateAndCreateTopicList, "UPDATE_AND_CREATE_TOPIC_LIST", TierAdmin, putTopics)
	servePooled(wire.GetAllTopicConfig, "GET_ALL_TOPIC_CONFIG", TierAdmin, allTopicConfig)
	servePooled(wire.GetTopicConfig, "GET_TOPIC_CONFIG", TierAdmin, topicConfig)
	servePooled(wire.GetTopicStats, "GET_TOPIC_STATS_INFO", TierAdmin, topicStats)
	servePooled(systemTopicList, "GET_SYSTEM_TOPIC_LIST_FROM_BROKER", TierAdmin, systemTopics)
	servePooled(deleteTopicList, "DELETE_TOPIC_IN_BROKER_LIST", TierAdmin, deleteTopics)
}

// putTopics serves code 18. It stops at the first topic that is refused; those before it are made.
func putTopics(ctx context.Context, d *Door, _ *session, req, _ *wire.Command) error {
	var list struct {
		Topics []json.RawMessage `json:"topicConfigList"`
	}
	if err := readBody(req, &list); err != nil {
		return err
	}
	for _, raw := range list.Topics {
		t := catalog.Topic{ReadQueues: 16, WriteQueues: 16, Perm: catalog.PermRead | catalog.PermWrite}
		if err := badBody(json.Unmarshal(raw, &t)); err != nil {
			return err
		}
		changes := attributeChanges(t.Attributes)
		t.Attributes = nil
		if err := d.broker.PutTopic(ctx, t, changes); err != nil {
			return err
		}
	}
	return nil
}

// topicConfigBody is TopicConfig as it is answered: with attributes, though there are none.
type topicConfigBody struct {
	*catalog.Topic
	Attributes map[string]string `json:"attributes"`
}

func topicBody(t *catalog.Topic) topicConfigBody {
	return topicConfigBody{t, someAttributes(t.Attributes)}
}

// allTopicConfig serves code 21.
func allTopicConfig(_ context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	p, err := d.pageOf(req, "topicSeq", "maxTopicNum")
	if err != nil {
		return err
	}
	total, _ := d.broker.Catalog().Counts()
	if p.most == maxWholeList && total > maxWholeList {
		return refuse(wire.SystemError, "%d topics are too many for one answer: ask for them in parts (topicSeq, maxTopicNum)", total)
	}
	out := body.TopicPage[topicConfigBody]{
		DataVersion: d.dataVersion(), Topics: map[string]topicConfigBody{},
		MappingDetails: map[string]struct{}{}, MappingInfo: map[string]struct{}{},
	}
	at := 0
	err = d.broker.Catalog().EachTopic(func(t *catalog.Topic) bool {
		if at >= p.first {
			out.Topics[t.Name] = topicBody(t)
		}
		at++
		return len(out.Topics) < p.most
	})
	if err != nil {
		return err
	}
	resp.Fields.AddInt("totalTopicNum", int64(total))
	return adminBody(resp, out)
}

// topicConfig serves code 351. There are no static topics, so that what it says of mappings is nothing.
func topicConfig(_ context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	name, err := req.Fields.Need("topic")
	if err != nil {
		return err
	}
	t, err := d.broker.Topic(name)
	if err != nil {
		return err
	}
	return adminBody(resp, topicBody(t))
}

// topicStats serves code 202.
func topicStats(_ context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	topic, err := req.Fields.Need("topic")
	if err != nil {
		return err
	}
	queues, err := d.queueStats(topic)
	if err != nil {
		return err
	}
	out := body.TopicStats{OffsetTable: make(body.QueueMap[body.TopicOffset], len(queues))}
	for _, q := range queues {
		out.OffsetTable[d.queueBody(topic, q.Queue)] = body.TopicOffset{
			LastUpdateTimestamp: q.LastStoreTime, MaxOffset: q.Max, MinOffset: q.Min,
		}
	}
	if traffic, ok := d.broker.TopicTraffic(topic); ok {
		out.TopicPutTPS = traffic.Minute.TPS()
	}
	return adminBody(resp, out)
}

// queueStats are the bounds of a topic's queues. Those of the topics that the reference keeps waiting messages in show the
// counters of what waits here.
func (d *Door) queueStats(topic string) ([]broker.QueueStats, error) {
	if queues, ok, err := d.broker.WaitingQueues(topic); ok || err != nil {
		return queues, err
	}
	return d.broker.TopicStats(topic)
}

// systemTopics serves code 305.
func systemTopics(_ context.Context, d *Door, _ *session, _, resp *wire.Command) error {
	out := body.TopicList{TopicList: []string{}}
	err := d.broker.Catalog().EachTopic(func(t *catalog.Topic) bool {
		if d.broker.IsSystemTopic(t.Name) {
			out.TopicList = append(out.TopicList, t.Name)
		}
		return true
	})
	if err != nil {
		return err
	}
	return adminBody(resp, out)
}

// deleteTopics serves code 5002. What is not there is passed over; it stops at the first topic that is refused.
func deleteTopics(ctx context.Context, d *Door, _ *session, req, _ *wire.Command) error {
	var list struct {
		Topics []string `json:"topicList"`
	}
	if err := readBody(req, &list); err != nil {
		return err
	}
	for _, topic := range list.Topics {
		if err := gone(d.broker.DeleteTopic(ctx, topic), broker.CodeTopicNotFound); err != nil {
			return err
		}
	}
	return nil
}
