package remoting

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/wire"
)

const (
	cleanExpiredQueues   = 306
	cleanUnusedTopics    = 316
	deleteExpiredLog     = 329
	traceTopic           = "RMQ_SYS_TRACE_TOPIC"
	configurationIsFixed = "the configuration is read at start (cairn.yaml, CAIRN_… variables, flags) and cannot be changed from here"
)

func init() {
	servePooled(wire.UpdateBrokerConfig, "UPDATE_BROKER_CONFIG", TierAdmin, updateConfig)
	servePooled(wire.GetBrokerConfig, "GET_BROKER_CONFIG", TierAdmin, brokerConfig)
	servePooled(cleanExpiredQueues, "CLEAN_EXPIRED_CONSUMEQUEUE", TierAdmin, nothingToClean)
	servePooled(cleanUnusedTopics, "CLEAN_UNUSED_TOPIC", TierAdmin, nothingToClean)
	servePooled(deleteExpiredLog, "DELETE_EXPIRED_COMMITLOG", TierAdmin, expireNow)
}

// updateConfig serves code 25: it refuses.
func updateConfig(context.Context, *Door, *session, *wire.Command, *wire.Command) error {
	return refuse(wire.NoPermission, configurationIsFixed)
}

// brokerConfig serves code 26: those of the reference's properties that tools print or that have a meaning here.
func brokerConfig(_ context.Context, d *Door, _ *session, _, resp *wire.Command) error {
	_, storage, err := d.broker.StorageStats()
	if err != nil {
		return err
	}
	version, err := json.Marshal(d.dataVersion())
	if err != nil {
		return err
	}
	o := d.broker.Options()
	flush := "ASYNC_FLUSH"
	if d.broker.Durability() == commitlog.ModeSync {
		flush = "SYNC_FLUSH"
	}
	dir := storage.Dir
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	var b strings.Builder
	for _, p := range []struct {
		key   string
		value any
	}{
		{"autoCreateSubscriptionGroup", o.AutoCreateGroups},
		{"autoCreateTopicEnable", o.AutoCreateTopics},
		{"brokerClusterName", o.ClusterName},
		{"brokerIP1", o.Advertise.Addr()},
		{"brokerId", 0},
		{"brokerName", o.BrokerName},
		{"brokerPermission", 6},
		{"brokerRole", "ASYNC_MASTER"},
		{"clientCallbackExecutorThreads", runtime.GOMAXPROCS(0)},
		{"defaultTopicQueueNums", o.DefaultQueues},
		{"fileReservedTime", int64(storage.Retention / time.Hour)},
		{"filterServerNums", 0},
		{"flushDiskType", flush},
		{"flushIntervalCommitLog", storage.Interval.Milliseconds()},
		{"listenPort", o.Advertise.Port()},
		{"mappedFileSizeCommitLog", storage.SegmentSize},
		{"maxMessageSize", o.MaxMessageSize},
		{"messageDelayLevel", levelsText(o.DelayLevels)},
		{"msgTraceTopicName", traceTopic},
		{"recallMessageEnable", true},
		{"regionId", "DefaultRegion"},
		{"slaveReadEnable", false},
		{"storePathCommitLog", filepath.Join(dir, "log")},
		{"storePathRootDir", dir},
		{"storeType", storage.Engine},
		{"timerMaxDelaySec", int64(o.MaxDelay / time.Second)},
		{"timerPrecisionMs", 1},
		{"timerWheelEnable", true},
		{"traceOn", true},
		{"traceTopicEnable", true},
		{"transactionCheckInterval", o.CheckInterval.Milliseconds()},
		{"transactionCheckMax", o.MaxChecks},
		{"transactionTimeOut", o.TransactionTimeout.Milliseconds()},
		{"useTLS", d.opts.Wire.TLS != nil},
	} {
		fmt.Fprintf(&b, "%s=%s\n", p.key, escapeProperty(fmt.Sprint(p.value)))
	}
	resp.Fields.Add("version", string(version))
	resp.Body = []byte(b.String())
	return nil
}

// levelsText writes delay levels as the reference's configuration has them, each in the largest unit that it is whole in.
func levelsText(levels delay.Levels) string {
	words := make([]string, len(levels))
	for i, l := range levels {
		n, unit := int64(l/time.Second), "s"
		for _, larger := range []struct {
			times int64
			unit  string
		}{{60, "m"}, {60, "h"}, {24, "d"}} {
			if n%larger.times != 0 {
				break
			}
			n, unit = n/larger.times, larger.unit
		}
		words[i] = strconv.FormatInt(n, 10) + unit
	}
	return strings.Join(words, " ")
}

// escapeProperty writes a value so that java.util.Properties reads it back.
func escapeProperty(s string) string {
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == '\\', i == 0 && r == ' ':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// nothingToClean serves codes 306 and 316: queues are trimmed and topics deleted together with what they hold.
func nothingToClean(context.Context, *Door, *session, *wire.Command, *wire.Command) error { return nil }

// expireNow serves code 329.
func expireNow(ctx context.Context, d *Door, _ *session, _, _ *wire.Command) error {
	return d.broker.Expire(ctx)
}

// sizeText writes a number of bytes as the reference does: 1.5 GiB.
func sizeText(n int64) string {
	if n < 1024 {
		return strconv.FormatInt(n, 10) + " B"
	}
	v, unit := float64(n)/1024, 0
	for v >= 1024 && unit < len("KMGTPE")-1 {
		v /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTPE"[unit])
}
