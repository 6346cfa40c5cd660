package remoting

import (
	"context"
	"encoding/json"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/wire"
)

func init() {
	servePooled(wire.UpdateAndCreateTopic, "UPDATE_AND_CREATE_TOPIC", TierClient, putTopic)
	servePooled(wire.DeleteTopicInBroker, "DELETE_TOPIC_IN_BROKER", TierAdmin, deleteTopic)
	servePooled(wire.UpdateAndCreateGroup, "UPDATE_AND_CREATE_SUBSCRIPTIONGROUP", TierAdmin, putGroup)
	servePooled(wire.DeleteGroup, "DELETE_SUBSCRIPTIONGROUP", TierAdmin, deleteGroup)
}

// putTopic serves code 17.
func putTopic(ctx context.Context, d *Door, _ *session, req, _ *wire.Command) error {
	f := req.Fields
	t := catalog.Topic{TopicFilterType: f.Text("topicFilterType")}
	var err error
	if t.Name, err = f.Need("topic"); err != nil {
		return err
	}
	number := func(key string, def int32) (n int32) {
		if err == nil {
			n, err = f.Int32Or(key, def)
		}
		return n
	}
	t.ReadQueues = number("readQueueNums", 0)
	t.WriteQueues = number("writeQueueNums", 0)
	t.Perm = number("perm", catalog.PermRead|catalog.PermWrite)
	t.SysFlag = number("topicSysFlag", 0)
	if err != nil {
		return err
	}
	if t.Order, err = f.BoolOr("order", false); err != nil {
		return err
	}
	if t.TopicFilterType == "" {
		t.TopicFilterType = "SINGLE_TAG"
	}
	return d.broker.PutTopic(ctx, t, f.Text("attributes"))
}

// deleteTopic serves code 215.
func deleteTopic(ctx context.Context, d *Door, _ *session, req, _ *wire.Command) error {
	topic := req.Fields.Text("topic")
	if topic == "" {
		return refuse(wire.InvalidParameter, "The specified topic is blank.")
	}
	return gone(d.broker.DeleteTopic(ctx, topic), broker.CodeTopicNotFound)
}

// putGroup serves code 200. The body is a SubscriptionGroupConfig whose attribute keys have a + or - before them.
func putGroup(ctx context.Context, d *Door, _ *session, req, _ *wire.Command) error {
	var raw json.RawMessage
	if err := readBody(req, &raw); err != nil {
		return err
	}
	g, changes, err := readGroup(raw)
	if err != nil {
		return err
	}
	return d.broker.PutGroup(ctx, g, changes)
}

// deleteGroup serves code 207.
func deleteGroup(ctx context.Context, d *Door, _ *session, req, _ *wire.Command) error {
	group, err := req.Fields.Need("groupName")
	if err != nil {
		return err
	}
	clean, err := req.Fields.BoolOr("cleanOffset", false)
	if err != nil {
		return err
	}
	return gone(d.broker.DeleteGroup(ctx, group, clean), broker.CodeGroupNotFound)
}

// gone makes deleting what is not there a success, as tools that delete on every broker expect.
func gone(err error, missing broker.Code) error {
	if err != nil && broker.CodeOf(err) == missing {
		return nil
	}
	return err
}

// jsonBody sets the body of a response to v in standard JSON.
func jsonBody(resp *wire.Command, v any) (err error) {
	resp.Body, err = json.Marshal(v)
	return err
}
