package remoting

import (
	"context"
	"strings"
	"time"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/wire"
)

const (
	consumeTimeSpan  = 303
	correctionOffset = 308
	cloneGroupOffset = 314
	allConsumeStats  = 317
)

func init() {
	servePooled(wire.GetConsumeStats, "GET_CONSUME_STATS", TierAdmin, consumeStats)
	servePooled(wire.InvokeBrokerToReset, "INVOKE_BROKER_TO_RESET_OFFSET", TierAdmin, resetOffsets)
	servePooled(consumeTimeSpan, "QUERY_CONSUME_TIME_SPAN", TierAdmin, consumeTimeSpans)
	servePooled(correctionOffset, "QUERY_CORRECTION_OFFSET", TierAdmin, correctionOffsets)
	servePooled(cloneGroupOffset, "CLONE_GROUP_OFFSET", TierAdmin, cloneOffsets)
	servePooled(allConsumeStats, "GET_BROKER_CONSUME_STATS", TierAdmin, brokerConsumeStats)
}

// consumeStats serves code 208: of the topics that are named, or of all that the group has a place in. Of these the ones are
// left out that a group which is online does not subscribe to any more. A topic that is not there has no queues. With the field
// progress, which only Cairn knows, it also tells what the group has before it of which kind.
func consumeStats(ctx context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	group, err := req.Fields.Need("consumerGroup")
	if err != nil {
		return err
	}
	detailed, err := req.Fields.BoolOr("progress", false)
	if err != nil {
		return err
	}
	topics := []string{}
	if t := req.Fields.Text("topic"); t != "" {
		topics = append(topics, t)
	}
	for t := range strings.SplitSeq(req.Fields.Text("topicList"), ";") {
		if t != "" {
			topics = append(topics, t)
		}
	}
	all := len(topics) == 0
	if all {
		topics = append(topics, "")
	}
	out := body.ConsumeStats{OffsetTable: body.QueueMap[body.OffsetWrapper]{}}
	if detailed {
		out.Progress = &body.GroupProgress{Topics: []body.TopicProgress{}}
	}
	for _, t := range topics {
		found, err := d.broker.GroupProgress(group, t)
		if gone(err, broker.CodeTopicNotFound) != nil {
			return err
		}
		for i := range found {
			if !all || d.consumes(group, found[i].Topic) {
				d.addConsumeStats(&out, group, &found[i])
			}
		}
	}
	if detailed {
		if err := d.addDead(ctx, &out, group); err != nil {
			return err
		}
	}
	return adminBody(resp, out)
}

// addDead adds a group's dead letters to its progress.
func (d *Door) addDead(ctx context.Context, out *body.ConsumeStats, group string) error {
	dead, err := d.broker.DeadGroup(group)
	if err != nil {
		return err
	}
	out.Progress.Dead, out.Progress.OldestDead = dead.Count, dead.Oldest
	counts, ok, err := d.broker.DeadByTopic(ctx, group)
	if err != nil || !ok {
		return err
	}
	for i := range out.Progress.Topics {
		t := &out.Progress.Topics[i]
		n := counts[t.Topic]
		t.Dead = &n
	}
	return nil
}

// consumes is false for a group that is online without subscribing to the topic.
func (d *Door) consumes(group, topic string) bool {
	if len(d.broker.Clients().ConsumerIDs(group)) == 0 {
		return true
	}
	_, ok := d.broker.Clients().Subscription(group, topic)
	return ok
}

// addConsumeStats adds the queues of one topic. In the reference the consumer offset of a group that pops is the first that is not
// acknowledged, so what was acknowledged behind it counts as not consumed. Here it is as far behind the next one to be popped as
// there are messages popped or parked and not acknowledged: the differences that tools show are exact. For a group that pulls it is
// the committed offset; where that is outside the queue it is the nearest one within.
func (d *Door) addConsumeStats(out *body.ConsumeStats, group string, p *broker.TopicProgress) {
	for i := range p.Queues {
		q := &p.Queues[i]
		out.OffsetTable[d.queueBody(p.Topic, q.Queue)] = body.OffsetWrapper{
			BrokerOffset: q.High, ConsumerOffset: q.High - q.Lag(), LastTimestamp: q.Consumed, PullOffset: q.Next,
		}
	}
	if traffic, ok := d.broker.GroupTraffic(group, p.Topic); ok {
		out.ConsumeTPS += traffic.Minute.TPS()
	}
	if out.Progress != nil {
		row := body.TopicProgress{Topic: p.Topic, Ready: p.Ready, InFlight: p.InFlight, Delayed: p.Delayed, Parked: p.Parked}
		if p.Oldest > 0 {
			row.OldestAge = max(p.At-p.Oldest, 1)
		}
		out.Progress.Topics = append(out.Progress.Topics, row)
	}
}

// maxStatsRows is how many queues one answer tells of at most.
const maxStatsRows = 80_000

// brokerConsumeStats serves code 317: the lag of all groups that have a place somewhere.
func brokerConsumeStats(ctx context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	ordered, err := req.Fields.BoolOr("isOrder", false)
	if err != nil {
		return err
	}
	if _, groups := d.broker.Catalog().Counts(); groups > maxWholeList {
		return refuse(wire.SystemError, "%d groups are too many for one answer: ask group by group (208)", groups)
	}
	var groups []string
	err = d.broker.Catalog().EachGroup(func(g *catalog.Group) bool {
		groups = append(groups, g.Name)
		return true
	})
	if err != nil {
		return err
	}
	out := body.ConsumeStatsList{BrokerAddr: d.advertised(), ConsumeStatsList: []map[string][]body.ConsumeStats{}}
	rows := 0
	for _, group := range groups {
		if err := ctx.Err(); err != nil {
			return err
		}
		topics, err := d.broker.GroupProgress(group, "")
		if gone(err, broker.CodeGroupNotFound) != nil {
			return err
		}
		for i := range topics {
			rows += len(topics[i].Queues)
		}
		if rows > maxStatsRows {
			return refuse(wire.SystemError, "the groups stand in more than %d queues: ask group by group (208)", maxStatsRows)
		}
		d.addGroupStats(&out, group, topics, ordered)
	}
	return adminBody(resp, out)
}

// addGroupStats adds a group when there is something to tell of it; ordered: of its ordered topics only.
func (d *Door) addGroupStats(out *body.ConsumeStatsList, group string, topics []broker.TopicProgress, ordered bool) {
	var stats []body.ConsumeStats
	for i := range topics {
		p := &topics[i]
		if t, err := d.broker.Topic(p.Topic); err != nil || ordered && !t.Order || !d.consumes(group, p.Topic) {
			continue
		}
		s := body.ConsumeStats{OffsetTable: make(body.QueueMap[body.OffsetWrapper], len(p.Queues))}
		d.addConsumeStats(&s, group, p)
		stats = append(stats, s)
		for _, o := range s.OffsetTable {
			out.TotalDiff += o.BrokerOffset - o.ConsumerOffset
			out.TotalInflightDiff += o.PullOffset - o.ConsumerOffset
		}
	}
	if len(stats) > 0 {
		out.ConsumeStatsList = append(out.ConsumeStatsList, map[string][]body.ConsumeStats{group: stats})
	}
}

// resetOffsets serves code 222. An offset counts only together with a queue. A group that is not there is made where that is
// allowed: its first consumer begins where the reset put it.
func resetOffsets(ctx context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	f := req.Fields
	group, err := f.Need("group")
	if err != nil {
		return err
	}
	topic, err := f.Need("topic")
	if err != nil {
		return err
	}
	queue, err := f.Int32Or("queueId", -1)
	if err != nil {
		return err
	}
	offset, err := f.Int64Or("offset", -1)
	if err != nil {
		return err
	}
	ms, err := f.Int64("timestamp")
	if err != nil {
		return err
	}
	force, err := f.BoolOr("isForce", false)
	if err != nil {
		return err
	}
	if queue < 0 {
		offset = -1
	}
	if _, err := d.broker.Topic(topic); err != nil {
		return err
	}
	if _, err := d.broker.EnsureGroup(ctx, group); err != nil {
		return err
	}
	moved, err := d.broker.ResetOffsets(ctx, group, topic, queue, offset, ms, force)
	if err != nil {
		return err
	}
	out := body.ResetOffset{OffsetTable: make(body.QueueMap[int64], len(moved))}
	for q, at := range moved {
		out.OffsetTable[d.queueBody(topic, q)] = at
	}
	return adminBody(resp, out)
}

// groupAndTopic reads the two fields that codes about a group's places have.
func groupAndTopic(req *wire.Command, groupField string) (group, topic string, err error) {
	if group, err = req.Fields.Need(groupField); err != nil {
		return "", "", err
	}
	topic, err = req.Fields.Need("topic")
	return group, topic, err
}

// consumeTimeSpans serves code 303.
func consumeTimeSpans(_ context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	group, topic, err := groupAndTopic(req, "group")
	if err != nil {
		return err
	}
	spans, err := d.broker.ConsumeSpans(group, topic)
	if err != nil {
		return err
	}
	out := body.ConsumeTimeSpan{Spans: make([]body.QueueTimeSpan, 0, len(spans))}
	for _, s := range spans {
		out.Spans = append(out.Spans, body.QueueTimeSpan{
			MessageQueue: d.queueBody(topic, s.Queue), DelayTime: s.Delay.Milliseconds(),
			MinTimeStamp: s.Oldest, MinTimeStampStr: timeText(s.Oldest), MaxTimeStamp: s.Newest, MaxTimeStampStr: timeText(s.Newest),
			ConsumeTimeStamp: s.Consumed, ConsumeTimeStampStr: timeText(s.Consumed),
		})
	}
	return adminBody(resp, out)
}

// timeText writes a time in ms as tools do, by the machine's time zone.
func timeText(ms int64) string {
	return strings.Replace(time.UnixMilli(ms).Format("2006-01-02#15:04:05.000"), ".", ":", 1)
}

// correctionOffsets serves code 308.
func correctionOffsets(_ context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	group, topic, err := groupAndTopic(req, "compareGroup")
	if err != nil {
		return err
	}
	var leaveOut []string
	if s := req.Fields.Text("filterGroups"); s != "" {
		leaveOut = strings.Split(s, ",")
	}
	least, err := d.broker.LeastOffsets(group, topic, leaveOut)
	if err != nil {
		return err
	}
	resp.Body, err = body.MarshalLegacy(body.CorrectionOffsets{CorrectionOffsets: least})
	return err
}

// cloneOffsets serves code 314. It makes no difference whether the tool says that the groups are offline.
func cloneOffsets(ctx context.Context, d *Door, _ *session, req, _ *wire.Command) error {
	from, err := req.Fields.Need("srcGroup")
	if err != nil {
		return err
	}
	to, err := req.Fields.Need("destGroup")
	if err != nil {
		return err
	}
	return d.broker.CloneOffsets(ctx, from, to, req.Fields.Text("topic"))
}
