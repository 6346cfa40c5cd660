package grpc

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/filter"
	"github.com/cairnmq/cairn/server/grpc/adminpb"
)

// maxAdminRows bounds what one answer lists: the protocol has no pages there, and clients take 4 MiB.
const maxAdminRows = 10_000

func tooMany(what string) error {
	return refuse(pb.Code_BAD_REQUEST, "more than %d %s: name the topic and the group", maxAdminRows, what)
}

// wanted are a topic and groups that a request names; the topic is "" when it names a group only.
type wanted struct {
	topic  string
	groups []string
	names  naming
}

// naming writes names as a request does: without the namespace, which stands beside them.
type naming struct{ namespace string }

func namingOf(r ...*pb.Resource) naming {
	for _, one := range r {
		if ns := one.GetResourceNamespace(); ns != "" {
			return naming{ns}
		}
	}
	return naming{}
}

func (n naming) resource(name string) *pb.Resource {
	if n.namespace == "" {
		return &pb.Resource{Name: name}
	}
	for _, prefix := range []string{"", catalog.RetryPrefix, catalog.DLQPrefix} {
		if rest, cut := strings.CutPrefix(name, prefix+n.namespace+"%"); cut {
			return &pb.Resource{ResourceNamespace: n.namespace, Name: prefix + rest}
		}
	}
	return &pb.Resource{Name: name}
}

// wantedOf checks what a request about subscriptions names: the group, or all groups of the topic.
func (d *Door) wantedOf(topic, group *pb.Resource) (w wanted, err error) {
	w.names = namingOf(topic, group)
	if topic == nil && group == nil {
		return w, refuse(pb.Code_BAD_REQUEST, "neither a topic nor a group is named")
	}
	if topic != nil {
		t, err := d.anyTopic(topic)
		if err != nil {
			return w, err
		}
		w.topic = t.Name
	}
	if group == nil {
		w.groups, err = d.broker.GroupsOfTopic(w.topic)
		return w, err
	}
	name, err := d.groupThere(group)
	w.groups = []string{name}
	return w, err
}

// groupThere is the name of a group that is there.
func (d *Door) groupThere(r *pb.Resource) (string, error) {
	name, err := groupOf(r)
	if err != nil {
		return "", err
	}
	_, err = d.broker.Group(name)
	return name, err
}

var messageModels = map[string]adminpb.MessageModel{
	"CLUSTERING": adminpb.MessageModel_CLUSTERING, "BROADCASTING": adminpb.MessageModel_BROADCASTING,
}

// subscriptionInfo tells of what a consumer subscribes to.
func (n naming) subscriptionInfo(group string, s *broker.Subscription, model string) *adminpb.SubscriptionInfo {
	expression := &pb.FilterExpression{Type: pb.FilterType_TAG, Expression: s.Expression}
	if !filter.IsTag(s.ExpressionType) {
		expression.Type = pb.FilterType_SQL
	}
	return &adminpb.SubscriptionInfo{
		Group: n.resource(group), Topic: n.resource(s.Topic), Expression: expression, Online: true,
		LastUpdateTimestamp: atMilli(s.Version), MessageModel: messageModels[model], SubscriptionConsistency: true,
	}
}

// listSubscription answers what the consumers subscribe to, and besides where their groups have a place without anybody there who
// subscribes; with which expression they did is known of consumers only.
func (d *Door) listSubscription(_ context.Context, req *adminpb.ListSubscriptionRequest, resp *adminpb.ListSubscriptionResponse) error {
	w, err := d.wantedOf(req.Topic, req.Group)
	if err != nil {
		return err
	}
	for _, group := range w.groups {
		found := d.onlineSubscriptions(group, w.names)
		topics := []string{w.topic}
		if w.topic == "" || req.Group != nil {
			if topics, err = d.broker.GroupTopics(group); err != nil {
				return err
			}
		}
		for _, topic := range topics {
			if found[topic] == nil && !strings.HasPrefix(topic, catalog.RetryPrefix) {
				found[topic] = &adminpb.SubscriptionInfo{Group: w.names.resource(group), Topic: w.names.resource(topic), SubscriptionConsistency: true}
			}
		}
		for topic, s := range found {
			if w.topic == "" || topic == w.topic {
				resp.SubscriptionInfo = append(resp.SubscriptionInfo, s)
			}
		}
		if len(resp.SubscriptionInfo) > maxAdminRows {
			return tooMany("subscriptions")
		}
	}
	slices.SortFunc(resp.SubscriptionInfo, func(a, b *adminpb.SubscriptionInfo) int {
		return cmp.Or(cmp.Compare(nameOf(a.Group), nameOf(b.Group)), cmp.Compare(nameOf(a.Topic), nameOf(b.Topic)))
	})
	return nil
}

// onlineSubscriptions are those of a group's consumers by topic, the newest where they differ.
func (d *Door) onlineSubscriptions(group string, names naming) map[string]*adminpb.SubscriptionInfo {
	members, info := d.broker.Clients().Members(group)
	found := map[string]*adminpb.SubscriptionInfo{}
	holders := map[string]int{}
	for i := range members {
		for j := range members[i].Subscriptions {
			s := &members[i].Subscriptions[j]
			one := names.subscriptionInfo(group, s, info.MessageModel)
			holders[s.Topic]++
			old := found[s.Topic]
			if old == nil {
				found[s.Topic] = one
				continue
			}
			same := old.SubscriptionConsistency && old.Expression.GetType() == one.Expression.GetType() &&
				old.Expression.GetExpression() == one.Expression.GetExpression()
			if old.LastUpdateTimestamp.AsTime().Before(one.LastUpdateTimestamp.AsTime()) {
				found[s.Topic], old = one, one
			}
			old.SubscriptionConsistency = same
		}
	}
	for topic, s := range found {
		s.SubscriptionConsistency = s.SubscriptionConsistency && holders[topic] == len(members)
	}
	return found
}

func (d *Door) describeSubscription(_ context.Context, req *adminpb.DescribeSubscriptionRequest, resp *adminpb.DescribeSubscriptionResponse) error {
	w, err := d.wantedOf(req.Topic, req.Group)
	if err != nil {
		return err
	}
	for _, group := range w.groups {
		all := d.onlineSubscriptions(group, w.names)
		members, info := d.broker.Clients().Members(group)
		for i := range members {
			m := &members[i]
			for j := range m.Subscriptions {
				s := &m.Subscriptions[j]
				if w.topic != "" && s.Topic != w.topic {
					continue
				}
				one := w.names.subscriptionInfo(group, s, info.MessageModel)
				one.SubscriptionConsistency = all[s.Topic].GetSubscriptionConsistency()
				resp.ClientSubscriptionInfo = append(resp.ClientSubscriptionInfo, &adminpb.DescribeSubscriptionResponse_ClientSubscriptionInfo{
					ClientInfo: clientInfo(m.Client, info.MessageModel), SubscriptionInfo: one,
				})
			}
		}
		if len(resp.ClientSubscriptionInfo) > maxAdminRows {
			return tooMany("subscriptions")
		}
	}
	return nil
}

// clientInfo tells of a client what it said of itself. Remoting clients do not tell the name of their host.
func clientInfo(cl *broker.Client, model string) *adminpb.ClientInfo {
	info := &adminpb.ClientInfo{
		ClientId: cl.ID, Version: releaseOf(cl.Version), Language: strings.ToUpper(cl.Language), EgressIp: cl.Address.Addr().String(),
		MessageModel: messageModels[model],
	}
	if c, ours := cl.Conn.(*session); ours {
		info.Version = ""
		if s := c.settings(); s != nil {
			info.Version, info.Hostname = s.agent.GetVersion(), s.agent.GetHostname()
		}
	}
	return info
}

// firstRegular is the ordinal of 4.0.0 in the reference's list of releases. From there on each patch release has two, the second
// one its own, and the next minor one begins after ten.
const firstRegular = 213

// releaseOf is the release that a Remoting client's version stands for.
func releaseOf(ordinal int32) string {
	if ordinal < firstRegular {
		return fmt.Sprint("ordinal ", ordinal)
	}
	n := (ordinal - firstRegular + 1) / 2
	release := fmt.Sprintf("%d.%d.%d", 4+n/100, n/10%10, n%10)
	if ordinal%2 == 0 {
		release += "-SNAPSHOT"
	}
	return release
}

func (d *Door) listConsumerConnection(_ context.Context, req *adminpb.ListConsumerConnectionRequest, resp *adminpb.ListConsumerConnectionResponse) error {
	if req.LiteTopic != nil {
		return refuse(pb.Code_UNSUPPORTED, "%s", notImplemented[rpcSyncLite])
	}
	group, err := d.groupThere(req.GetGroup())
	if err != nil {
		return err
	}
	topic := ""
	if req.Topic != nil {
		t, err := d.anyTopic(req.GetTopic())
		if err != nil {
			return err
		}
		topic = t.Name
	}
	members, info := d.broker.Clients().Members(group)
	if len(members) > maxAdminRows {
		return refuse(pb.Code_BAD_REQUEST, "the group has %d consumers, %d can be listed", len(members), maxAdminRows)
	}
	for i := range members {
		if topic == "" || slices.ContainsFunc(members[i].Subscriptions, func(s broker.Subscription) bool { return s.Topic == topic }) {
			resp.ClientInfo = append(resp.ClientInfo, clientInfo(members[i].Client, info.MessageModel))
		}
	}
	return nil
}

// describeGroupAccumulation tells how a group stands on all its topics, and on each that is named. What is delayed or waits for its
// message group is part of the sum alone.
func (d *Door) describeGroupAccumulation(
	_ context.Context, req *adminpb.DescribeGroupAccumulationRequest, resp *adminpb.DescribeGroupAccumulationResponse,
) error {
	group, err := groupOf(req.GetGroup())
	if err != nil {
		return err
	}
	if req.LiteTopic != nil {
		return refuse(pb.Code_UNSUPPORTED, "%s", notImplemented[rpcSyncLite])
	}
	if len(req.GetTopics()) > maxAdminRows {
		return tooMany("topics")
	}
	every, err := d.broker.GroupProgress(group, "")
	if err != nil {
		return err
	}
	resp.Accumulation = accumulationOf(every)
	resp.TopicAccumulation = make(map[string]*adminpb.DescribeGroupAccumulationResponse_GroupAccumulation, len(req.GetTopics()))
	for _, t := range req.GetTopics() {
		one, err := d.broker.GroupProgress(group, nameOf(t))
		if err != nil {
			return err
		}
		resp.TopicAccumulation[t.GetName()] = accumulationOf(one)
	}
	return nil
}

func accumulationOf(topics []broker.TopicProgress) *adminpb.DescribeGroupAccumulationResponse_GroupAccumulation {
	a := &adminpb.DescribeGroupAccumulationResponse_GroupAccumulation{}
	wait := int64(0)
	for i := range topics {
		p := &topics[i]
		a.InflightMessages += p.InFlight
		a.ReadyMessages += p.Ready
		a.Accumulation += p.InFlight + p.Ready + p.Delayed + p.Parked
		if p.Unseen > 0 {
			wait = max(wait, p.At-p.Unseen)
		}
		for j := range p.Queues {
			a.LastConsumeTimestamp = max(a.LastConsumeTimestamp, p.Queues[j].Consumed)
		}
	}
	a.DeliverDelayTime = durationpb.New(time.Duration(wait) * time.Millisecond)
	return a
}

// queryTimeSpan answers for the topics that are named, or for all where the group has a place.
func (d *Door) queryTimeSpan(_ context.Context, req *adminpb.QueryTimeSpanRequest, resp *adminpb.QueryTimeSpanResponse) error {
	group, err := d.groupThere(req.GetGroup())
	if err != nil {
		return err
	}
	var topics []string
	for _, r := range req.GetTopics() {
		topics = append(topics, nameOf(r))
	}
	if len(topics) == 0 {
		if topics, err = d.broker.GroupTopics(group); err != nil {
			return err
		}
	}
	names, self := namingOf(append(req.GetTopics(), req.GetGroup())...), d.self(nil)
	for _, topic := range topics {
		t, err := d.broker.Topic(topic)
		if err != nil {
			return err
		}
		spans, err := d.broker.ConsumeSpans(group, topic)
		if err != nil {
			return err
		}
		for _, s := range spans {
			resp.QueueTimeSpanList = append(resp.QueueTimeSpanList, &adminpb.QueryTimeSpanResponse_QueueTimeSpan{
				MessageQueue: &pb.MessageQueue{
					Topic: names.resource(topic), Id: s.Queue, Broker: self, Permission: permissionOf(t, s.Queue), AcceptMessageTypes: acceptTypes[t.MessageType()],
				},
				MinTimestamp: s.Oldest, MaxTimestamp: s.Newest, ConsumeTimestamp: s.Consumed, DelayTimeMs: s.Delay.Milliseconds(),
			})
		}
		if len(resp.QueueTimeSpanList) > maxAdminRows {
			return tooMany("queues")
		}
	}
	return nil
}

// resetGroupOffset moves a group in all queues of a topic to the first message that was stored at the time or after it.
func (d *Door) resetGroupOffset(ctx context.Context, req *adminpb.ResetGroupOffsetRequest, _ *adminpb.ResetGroupOffsetResponse) error {
	group, err := d.groupThere(req.GetGroup())
	if err != nil {
		return err
	}
	t, err := d.anyTopic(req.GetTopic())
	if err != nil {
		return err
	}
	at := req.GetResetTimestamp()
	if !at.IsValid() || at.GetSeconds() < 0 { // nil is not valid
		return refuse(pb.Code_BAD_REQUEST, "the reset timestamp is none, or before 1970")
	}
	// A time between two milliseconds is after the first of them.
	ms := at.GetSeconds()*1000 + roundUp(int64(at.GetNanos()), int64(time.Millisecond))
	_, err = d.broker.ResetOffsets(ctx, group, t.Name, -1, -1, ms, true)
	return err
}

// deleteSubscription refuses while a consumer has the subscription: it says so again with its next heartbeat. Of one that nobody has
// nothing is kept but the group's place in the topic, which goes.
func (d *Door) deleteSubscription(ctx context.Context, req *adminpb.DeleteSubscriptionRequest, _ *adminpb.DeleteSubscriptionResponse) error {
	group, err := d.groupThere(req.GetGroup())
	if err != nil {
		return err
	}
	t, err := d.anyTopic(req.GetTopic())
	if err != nil {
		return err
	}
	members, _ := d.broker.Clients().Members(group)
	for i := range members {
		if slices.ContainsFunc(members[i].Subscriptions, func(s broker.Subscription) bool { return s.Topic == t.Name }) {
			return refuse(pb.Code_PRECONDITION_FAILED, "consumer %s of %s subscribes to %s: stop it, or change what it subscribes to", members[i].Client.ID, group, t.Name)
		}
	}
	found, err := d.broker.ForgetPlace(ctx, group, t.Name)
	if err == nil && !found {
		err = notFound("group %s neither subscribes to %s nor has a place in it", group, t.Name)
	}
	return err
}
