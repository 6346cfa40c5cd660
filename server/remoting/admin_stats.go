package remoting

import (
	"context"
	"strings"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/wire"
)

const viewBrokerStats = 315

func init() {
	servePooled(viewBrokerStats, "VIEW_BROKER_STATS_DATA", TierAdmin, brokerStats)
}

// stat is one of the statistics that can be asked for by name.
type stat struct {
	find  func(d *Door, key string) (broker.Traffic, bool)
	bytes bool // count bytes, not messages
}

var stats = map[string]stat{
	"TOPIC_PUT_NUMS":   {find: ofTopic},
	"TOPIC_PUT_SIZE":   {find: ofTopic, bytes: true},
	"GROUP_GET_NUMS":   {find: ofPlace((*broker.Broker).GroupTraffic)},
	"GROUP_GET_SIZE":   {find: ofPlace((*broker.Broker).GroupTraffic), bytes: true},
	"SNDBCK_PUT_NUMS":  {find: ofPlace((*broker.Broker).SentBack)},
	"DLQ_PUT_NUMS":     {find: ofPlace((*broker.Broker).DeadLetters)},
	"BROKER_PUT_NUMS":  {find: ofBroker(func(in, _ broker.Traffic) broker.Traffic { return in })},
	"BROKER_GET_NUMS":  {find: ofBroker(func(_, out broker.Traffic) broker.Traffic { return out })},
	"BROKER_PUT_BYTES": {find: ofBroker(func(in, _ broker.Traffic) broker.Traffic { return in }), bytes: true},
	"BROKER_GET_BYTES": {find: ofBroker(func(_, out broker.Traffic) broker.Traffic { return out }), bytes: true},
}

func ofTopic(d *Door, key string) (broker.Traffic, bool) { return d.broker.TopicTraffic(key) }

// ofPlace is for keys topic@group.
func ofPlace(find func(b *broker.Broker, group, topic string) (broker.Traffic, bool)) func(*Door, string) (broker.Traffic, bool) {
	return func(d *Door, key string) (broker.Traffic, bool) {
		topic, group, ok := strings.Cut(key, "@")
		if !ok {
			return broker.Traffic{}, false
		}
		return find(d.broker, group, topic)
	}
}

// ofBroker is for the key that is the cluster's name.
func ofBroker(which func(in, out broker.Traffic) broker.Traffic) func(*Door, string) (broker.Traffic, bool) {
	return func(d *Door, key string) (broker.Traffic, bool) {
		return which(d.broker.Traffic()), key == d.broker.Options().ClusterName
	}
}

// brokerStats serves code 315.
func brokerStats(_ context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	name, err := req.Fields.Need("statsName")
	if err != nil {
		return err
	}
	key, err := req.Fields.Need("statsKey")
	if err != nil {
		return err
	}
	s, known := stats[name]
	if known {
		if traffic, ok := s.find(d, key); ok {
			return adminBody(resp, body.StatsData{
				StatsMinute: s.item(traffic.Minute), StatsHour: s.item(traffic.Hour), StatsDay: s.item(traffic.Day),
			})
		}
	}
	return refuse(wire.SystemError, "The stats <%s> <%s> not exist", name, key)
}

// item is what was counted: messages with their average number per request, or bytes with their average number per message.
func (s stat) item(w broker.Window) body.StatsItem {
	sum, times := w.Messages, w.Requests
	if s.bytes {
		sum, times = w.Bytes, w.Messages
	}
	out := body.StatsItem{Sum: sum}
	if times > 0 {
		out.AvgPT = float64(sum) / float64(times)
	}
	if w.Span > 0 {
		out.TPS = float64(sum) / w.Span.Seconds()
	}
	return out
}
