package remoting

import (
	"context"

	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/wire"
)

func init() {
	servePooled(wire.GetAllDelayOffset, "GET_ALL_DELAY_OFFSET", TierInternal, allDelayOffsets)
	servePooled(wire.GetTimerMetrics, "GET_TIMER_METRICS", TierInternal, timerMetrics)
}

// allDelayOffsets serves code 45: of each delay level how many of its messages have been let go.
func allDelayOffsets(_ context.Context, d *Door, _ *session, _, resp *wire.Command) error {
	levels, err := d.broker.DelayLevels()
	if err != nil {
		return err
	}
	out := body.DelayOffsets{DataVersion: d.dataVersion(), OffsetTable: make(map[int32]int64, len(levels))}
	for i, l := range levels {
		out.OffsetTable[int32(i+1)] = l.Out
	}
	return adminBody(resp, out)
}

// timerMetrics serves code 61: the pending timers of each topic, those of delay levels included.
func timerMetrics(_ context.Context, d *Door, _ *session, _, resp *wire.Command) error {
	now := d.broker.Options().Clock.Now().UnixMilli()
	out := body.TimerMetrics{DataVersion: d.dataVersion(), TimingCount: map[string]body.TimerCount{}}
	err := d.broker.EachPendingTimers(func(topic string, n int64) bool {
		out.TimingCount[topic] = body.TimerCount{Count: n, TimeStamp: now}
		return len(out.TimingCount) <= maxWholeList
	})
	if err != nil {
		return err
	}
	if len(out.TimingCount) > maxWholeList {
		return refuse(wire.SystemError, "more than %d topics have timers, which is too many for one answer: see the metrics", maxWholeList)
	}
	return adminBody(resp, out)
}
