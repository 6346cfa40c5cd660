package remoting

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/wire"
)

const allProducers = 328

func init() {
	servePooled(wire.GetConsumerConnections, "GET_CONSUMER_CONNECTION_LIST", TierAdmin, consumerConnections)
	servePooled(wire.GetProducerConnections, "GET_PRODUCER_CONNECTION_LIST", TierAdmin, producerConnections)
	servePooled(allProducers, "GET_ALL_PRODUCER_INFO", TierAdmin, producerInfo)
}

func connectionsOf(clients []*broker.Client) []body.Connection {
	out := make([]body.Connection, 0, len(clients))
	for _, cl := range clients {
		out = append(out, body.Connection{
			ClientAddr: cl.Address.String(), ClientID: cl.ID, Language: languageName(cl.Language), Version: cl.Version,
		})
	}
	return out
}

// languageName is the name that Java's tools have for a language; gRPC clients have others for some.
func languageName(s string) string {
	s = strings.ToUpper(s)
	switch s {
	case "GOLANG":
		return "GO"
	case "DOT_NET":
		return "DOTNET"
	case "NODEJS":
		return "NODE_JS"
	}
	for l := wire.Java; l <= wire.NodeJS; l++ {
		if l.String() == s {
			return s
		}
	}
	return wire.Other.String()
}

// consumerConnections serves code 203.
func consumerConnections(_ context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	group, err := req.Fields.Need("consumerGroup")
	if err != nil {
		return err
	}
	clients, info, ok := d.broker.Clients().Consumers(group)
	if !ok {
		return refuse(wire.ConsumerNotOnline, "the consumer group[%s] not online", group)
	}
	out := body.ConsumerConnection{
		ConnectionSet: connectionsOf(clients), ConsumeFromWhere: info.FromWhere, ConsumeType: info.ConsumeType,
		MessageModel: info.MessageModel, SubscriptionTable: make(map[string]body.Subscription, len(info.Subscriptions)),
	}
	for _, s := range info.Subscriptions {
		out.SubscriptionTable[s.Topic] = subscriptionBody(s)
	}
	return adminBody(resp, out)
}

// producerConnections serves code 204.
func producerConnections(_ context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	group, err := req.Fields.Need("producerGroup")
	if err != nil {
		return err
	}
	clients := d.broker.Clients().Producers(group)
	if len(clients) == 0 {
		return refuse(wire.SystemError, "the producer group[%s] not exist", group)
	}
	return adminBody(resp, body.ProducerConnection{ConnectionSet: connectionsOf(clients)})
}

// producerInfo serves code 328.
func producerInfo(_ context.Context, d *Door, _ *session, _, resp *wire.Command) error {
	out := body.ProducerTable{Data: map[string][]body.ProducerInfo{}}
	d.broker.Clients().EachProducer(func(group string, cl *broker.Client, seen time.Time) {
		out.Data[group] = append(out.Data[group], body.ProducerInfo{
			ClientID: cl.ID, Language: languageName(cl.Language), LastUpdateTimestamp: seen.UnixMilli(), RemoteIP: cl.Address.String(),
			Version: cl.Version,
		})
	})
	for _, infos := range out.Data {
		slices.SortFunc(infos, func(a, b body.ProducerInfo) int { return strings.Compare(a.ClientID, b.ClientID) })
	}
	return adminBody(resp, out)
}
