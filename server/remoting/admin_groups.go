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
	putGroupList        = 225
	topicsOfConsumer    = 343
	subscriptionOfGroup = 345
	groupForbidden      = 353
	deleteGroupList     = 5003
)

func init() {
	servePooled(putGroupList, "UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST", TierAdmin, putGroups)
	servePooled(wire.GetAllGroupConfig, "GET_ALL_SUBSCRIPTIONGROUP_CONFIG", TierAdmin, allGroupConfig)
	servePooled(wire.GetGroupConfig, "GET_SUBSCRIPTIONGROUP_CONFIG", TierAdmin, groupConfig)
	servePooled(wire.QueryTopicConsumeByWho, "QUERY_TOPIC_CONSUME_BY_WHO", TierAdmin, groupsOfTopic)
	servePooled(topicsOfConsumer, "QUERY_TOPICS_BY_CONSUMER", TierAdmin, topicsOfGroup)
	servePooled(subscriptionOfGroup, "QUERY_SUBSCRIPTION_BY_CONSUMER", TierAdmin, subscriptionOf)
	servePooled(groupForbidden, "UPDATE_AND_GET_GROUP_FORBIDDEN", TierAdmin, forbidden)
	servePooled(deleteGroupList, "DELETE_SUBSCRIPTION_GROUP_LIST", TierAdmin, deleteGroups)
}

// groupConfigBody is SubscriptionGroupConfig as it is answered: with attributes, though there are none.
type groupConfigBody struct {
	*catalog.Group
	Attributes map[string]string `json:"attributes"`
}

func groupBody(g *catalog.Group) groupConfigBody {
	return groupConfigBody{g, someAttributes(g.Attributes)}
}

// readGroup reads a SubscriptionGroupConfig, whose attribute keys have a + or - before them; changes is what they say.
func readGroup(raw []byte) (g catalog.Group, changes string, err error) {
	g = catalog.DefaultGroup("")
	if err := badBody(json.Unmarshal(raw, &g)); err != nil {
		return g, "", err
	}
	changes = attributeChanges(g.Attributes)
	g.Attributes = nil
	return g, changes, nil
}

// putGroups serves code 225. It stops at the first group that is refused; those before it are made.
func putGroups(ctx context.Context, d *Door, _ *session, req, _ *wire.Command) error {
	var list struct {
		Groups []json.RawMessage `json:"groupConfigList"`
	}
	if err := readBody(req, &list); err != nil {
		return err
	}
	for _, raw := range list.Groups {
		g, changes, err := readGroup(raw)
		if err != nil {
			return err
		}
		if err := d.broker.PutGroup(ctx, g, changes); err != nil {
			return err
		}
	}
	return nil
}

// allGroupConfig serves code 201.
func allGroupConfig(_ context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	p, err := d.pageOf(req, "groupSeq", "maxGroupNum")
	if err != nil {
		return err
	}
	_, total := d.broker.Catalog().Counts()
	if p.most == maxWholeList && total > maxWholeList {
		return refuse(wire.SystemError, "%d groups are too many for one answer: ask for them in parts (groupSeq, maxGroupNum)", total)
	}
	out := body.GroupPage[groupConfigBody]{
		DataVersion: d.dataVersion(), Forbidden: map[string]map[string]int32{}, Groups: map[string]groupConfigBody{},
	}
	at := 0
	err = d.broker.Catalog().EachGroup(func(g *catalog.Group) bool {
		if at >= p.first {
			out.Groups[g.Name] = groupBody(g)
		}
		at++
		return len(out.Groups) < p.most
	})
	if err != nil {
		return err
	}
	resp.Fields.AddInt("totalGroupNum", int64(total))
	return adminBody(resp, out)
}

// groupConfig serves code 352. Asking does not make a group.
func groupConfig(_ context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	name, err := req.Fields.Need("group")
	if err != nil {
		return err
	}
	g, err := d.broker.Group(name)
	if err != nil {
		return err
	}
	return adminBody(resp, groupBody(g))
}

// groupsOfTopic serves code 300. A topic that is not there has no groups.
func groupsOfTopic(_ context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	topic, err := req.Fields.Need("topic")
	if err != nil {
		return err
	}
	groups, err := d.broker.GroupsOfTopic(topic)
	if gone(err, broker.CodeTopicNotFound) != nil {
		return err
	}
	if groups == nil {
		groups = []string{}
	}
	return adminBody(resp, body.GroupList{GroupList: groups})
}

// topicsOfGroup serves code 343: the topics that a group has a place in.
func topicsOfGroup(_ context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	group, err := req.Fields.Need("group")
	if err != nil {
		return err
	}
	topics, err := d.broker.GroupTopics(group)
	if gone(err, broker.CodeGroupNotFound) != nil {
		return err
	}
	return adminBody(resp, body.TopicList{BrokerAddr: d.advertised(), TopicList: append([]string{}, topics...)})
}

// subscriptionOf serves code 345.
func subscriptionOf(_ context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	out := body.GroupSubscription{Topic: req.Fields.Text("topic")}
	var err error
	if out.Group, err = req.Fields.Need("group"); err != nil {
		return err
	}
	if s, ok := d.broker.Clients().Subscription(out.Group, out.Topic); ok {
		sub := subscriptionBody(s)
		out.Subscription = &sub
	}
	return adminBody(resp, out)
}

// forbidden serves code 353. A group is disabled as a whole or not at all, so that every group may read every topic.
func forbidden(_ context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	out := body.GroupForbidden{Readable: true}
	var err error
	if out.Group, err = req.Fields.Need("group"); err != nil {
		return err
	}
	if out.Topic, err = req.Fields.Need("topic"); err != nil {
		return err
	}
	readable, err := req.Fields.BoolOr("readable", true)
	if err != nil {
		return err
	}
	if !readable {
		return refuse(wire.NoPermission, "a group cannot be kept from one topic: disable all of group %s (consumeEnable)", out.Group)
	}
	if _, err := d.broker.Group(out.Group); err != nil {
		return err
	}
	return adminBody(resp, out)
}

// deleteGroups serves code 5003. What is not there is passed over.
func deleteGroups(ctx context.Context, d *Door, _ *session, req, _ *wire.Command) error {
	var list struct {
		Groups []string `json:"groupNameList"`
		Clean  bool     `json:"cleanOffset"`
	}
	if err := readBody(req, &list); err != nil {
		return err
	}
	for _, group := range list.Groups {
		if err := gone(d.broker.DeleteGroup(ctx, group, list.Clean), broker.CodeGroupNotFound); err != nil {
			return err
		}
	}
	return nil
}
