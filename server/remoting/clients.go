package remoting

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/filter"
	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/wire"
)

func init() {
	serveInline(wire.HeartBeat, "HEART_BEAT", TierClient, heartbeat)
	servePooled(wire.UnregisterClient, "UNREGISTER_CLIENT", TierClient, unregisterClient)
	servePooled(wire.GetConsumerListByGroup, "GET_CONSUMER_LIST_BY_GROUP", TierClient, consumerList)
	servePooled(wire.CheckClientConfig, "CHECK_CLIENT_CONFIG", TierClient, checkClientConfig)
}

// heartbeatData is HeartbeatData: who is at the other end of the connection.
type heartbeatData struct {
	ClientID    string         `json:"clientID"`
	Consumers   []consumerData `json:"consumerDataSet"`
	Producers   []producerData `json:"producerDataSet"`
	Fingerprint int64          `json:"heartbeatFingerprint"` // not 0: the client knows heartbeats of the second version
	WithoutSub  bool           `json:"withoutSub"`           // subscriptions are as in the last whole heartbeat
}

type producerData struct {
	Group string `json:"groupName"`
}

type consumerData struct {
	Group            string             `json:"groupName"`
	ConsumeType      string             `json:"consumeType"`
	MessageModel     string             `json:"messageModel"`
	ConsumeFromWhere string             `json:"consumeFromWhere"`
	Unit             bool               `json:"unitMode"`
	Subscriptions    []subscriptionData `json:"subscriptionDataSet"`
}

// subscriptionData is SubscriptionData. Codes come as numbers or, from the Go client, as text.
type subscriptionData struct {
	Topic          string            `json:"topic"`
	Expression     string            `json:"subString"`
	ExpressionType string            `json:"expressionType"`
	Version        int64             `json:"subVersion"`
	Tags           []string          `json:"tagsSet"`
	Codes          []json.RawMessage `json:"codeSet"`
	ClassFilter    bool              `json:"classFilterMode"`
}

func (s *subscriptionData) subscription() broker.Subscription {
	sub := broker.Subscription{
		Topic: s.Topic, Expression: s.Expression, ExpressionType: s.ExpressionType, Version: s.Version, Tags: s.Tags,
		ClassFilter: s.ClassFilter,
	}
	for _, raw := range s.Codes {
		if n, err := strconv.ParseInt(strings.Trim(string(raw), `"`), 10, 32); err == nil {
			sub.Codes = append(sub.Codes, int32(n))
		}
	}
	return sub
}

func (c *consumerData) info() broker.ConsumerInfo {
	info := broker.ConsumerInfo{ConsumeType: c.ConsumeType, MessageModel: c.MessageModel, FromWhere: c.ConsumeFromWhere}
	for i := range c.Subscriptions {
		info.Subscriptions = append(info.Subscriptions, c.Subscriptions[i].subscription())
	}
	return info
}

// heartbeat serves code 34. It is answered at once: consumers stall on a slow one. Only a group that has to be made first
// takes it to the workers.
func heartbeat(d *Door, s *session, req *wire.Command) {
	var h heartbeatData
	if err := body.Unmarshal(req.Body, &h); err != nil {
		s.conn.Respond(req, d.errorReply(req, refuse(wire.SystemError, "heartbeat: %v", err)))
		return
	}
	if h.ClientID == "" {
		s.conn.Respond(req, d.errorReply(req, &wire.FieldError{Field: "clientID", Missing: true}))
		return
	}
	missing := d.missingGroups(&h)
	if len(missing) == 0 {
		d.register(s, req, &h)
		return
	}
	d.background(s, req, func(ctx context.Context) {
		for _, c := range missing {
			// A group that may not be made is registered all the same; its pulls say that there is no such group.
			if err := d.makeGroup(ctx, c); err != nil && broker.CodeOf(err) == broker.CodeInternal {
				d.log.Warn().Err(err).Str("group", c.Group).Msg("cannot make a consumer group on demand")
			}
		}
		d.register(s, req, &h)
	})
}

// missingGroups are those that are not there, or are not marked as a unit's though their consumer is one.
func (d *Door) missingGroups(h *heartbeatData) (missing []*consumerData) {
	for i := range h.Consumers {
		c := &h.Consumers[i]
		if _, err := d.broker.Group(c.Group); err != nil || c.Unit && !d.broker.InUnit(c.Group) {
			missing = append(missing, c)
		}
	}
	return missing
}

func (d *Door) makeGroup(ctx context.Context, c *consumerData) error {
	if _, err := d.broker.EnsureGroup(ctx, c.Group); err != nil || !c.Unit {
		return err
	}
	return d.broker.MarkInUnit(ctx, c.Group)
}

// register enters the clients of a heartbeat and answers it.
func (d *Door) register(s *session, req *wire.Command, h *heartbeatData) {
	clients := d.broker.Clients()
	cl := &broker.Client{
		ID: h.ClientID, Address: s.conn.Remote(), Language: req.Language.String(), Version: int32(req.Version), Protocol: "remoting",
		Conn: s.conn, Notify: func(group string) { d.notifyIDsChanged(s, group) }, Left: s.closeVirtual,
	}
	if len(h.Producers) > 0 {
		cl.Check = func(c *broker.TransactionCheck) bool { return d.checkTransaction(s, c) }
	}
	for _, p := range h.Producers {
		clients.RegisterProducer(p.Group, cl)
	}
	whole := true
	var changed []*consumerData
	for i := range h.Consumers {
		c := &h.Consumers[i]
		key := consumerKey{h.ClientID, c.Group}
		info := c.info()
		if h.WithoutSub {
			known := false
			if info, known = s.remembered(key); !known {
				whole = false // have it sent whole
				continue
			}
		} else if h.Fingerprint != 0 {
			s.remember(key, info)
		}
		if clients.RegisterConsumer(c.Group, cl, info) {
			changed = append(changed, c)
		}
	}
	// A heartbeat may have been on its way when its connection ended: then nobody else forgets its clients.
	if s.hasEnded() {
		clients.CloseConn(s.conn)
	}
	resp := req.Reply(wire.Success, "")
	resp.Fields.Add("IS_SUPPORT_HEART_BEAT_V2", "true")
	resp.Fields.AddBool("IS_SUB_CHANGE", h.Fingerprint == 0 || !whole)
	s.conn.Respond(req, resp)
	// The other members have been told. The one that joined is told too: a Java client balances at its start, before or
	// after this heartbeat as it happens, and in the former case would find itself in no group and try again 20 s later.
	for _, c := range changed {
		if g, err := d.broker.Group(c.Group); err == nil && g.NotifyIDsChanged && c.MessageModel != modelBroadcasting {
			d.notifyIDsChanged(s, c.Group)
		}
	}
}

// notifyIDsChanged tells a consumer that somebody joined or left its group.
func (d *Door) notifyIDsChanged(s *session, group string) {
	cmd := wire.NewRequest(wire.NotifyConsumerIDsChanged)
	cmd.Fields.Add("consumerGroup", group)
	if err := s.conn.OneWay(cmd); err != nil {
		d.log.Debug().Err(err).Stringer("peer", s.conn.Remote()).Str("group", group).Msg("cannot notify a consumer")
	}
	cmd.Release()
}

// unregisterClient serves code 35.
func unregisterClient(_ context.Context, d *Door, s *session, req, _ *wire.Command) error {
	id, err := req.Fields.Need("clientID")
	if err != nil {
		return err
	}
	if g := req.Fields.Text("producerGroup"); g != "" {
		d.broker.Clients().UnregisterProducer(g, id)
	}
	if g := req.Fields.Text("consumerGroup"); g != "" {
		s.forget(consumerKey{id, g})
		clients := d.broker.Clients()
		clients.UnregisterConsumer(g, id)
		if ids, _ := clients.ConsumersAt(s.conn, g); len(ids) == 0 {
			s.closeVirtual(g)
		}
	}
	return nil
}

// consumerList serves code 38. Of a group with virtual queues each consumer is told only of itself, so that it takes all queues.
func consumerList(_ context.Context, d *Door, s *session, req, resp *wire.Command) (err error) {
	group, err := req.Fields.Need("consumerGroup")
	if err != nil {
		return err
	}
	ids := d.broker.Clients().ConsumerIDs(group)
	if g, err := d.broker.Group(group); err == nil && g.VirtualQueues() {
		ids, _ = d.broker.Clients().ConsumersAt(s.conn, group)
		d.toldOfAll(s, group)
	}
	if len(ids) == 0 {
		return refuse(wire.SystemError, "no consumer for this group, %s", group)
	}
	return jsonBody(resp, struct {
		IDs []string `json:"consumerIdList"`
	}{ids})
}

// checkClientConfig serves code 46: clients ask it before they start with an expression that is not a tag.
func checkClientConfig(_ context.Context, _ *Door, s *session, req, _ *wire.Command) error {
	var check struct {
		Group        string           `json:"group"`
		Subscription subscriptionData `json:"subscriptionData"`
	}
	if err := readBody(req, &check); err != nil {
		return err
	}
	sub := &check.Subscription
	if filter.IsTag(sub.ExpressionType) {
		return nil
	}
	if _, err := filter.Parse(sub.ExpressionType, sub.Expression); err != nil {
		return refuse(wire.SubscriptionParseFailed, "%v", err)
	}
	return nil
}
