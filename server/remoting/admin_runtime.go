package remoting

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/store"
)

func init() {
	servePooled(wire.GetBrokerRuntimeInfo, "GET_BROKER_RUNTIME_INFO", TierAdmin, runtimeInfo)
}

// putTimeLabels name the classes of broker.Rates.PutTimes.
var putTimeLabels = [len(broker.Rates{}.PutTimes)]string{
	"<=0ms", "0~10ms", "10~50ms", "50~100ms", "100~200ms", "200~500ms", "500ms~1s", "1~2s", "2~3s", "3~4s", "4~5s", "5~10s", "10s~",
}

// runtimeInfo serves code 28. The exporter drops a broker that leaves out one of the keys or writes it otherwise. What exists
// in the reference only (a page cache lock, buffers, pools for each kind of request) shows as idle.
func runtimeInfo(_ context.Context, d *Door, _ *session, _, resp *wire.Command) error {
	stats, _, err := d.broker.StorageStats()
	if err != nil {
		return err
	}
	rates := d.broker.Rates()
	table := map[string]string{
		"brokerActive":                    strconv.FormatBool(d.broker.Store().Health() == nil),
		"brokerVersion":                   strconv.Itoa(wire.Version),
		"brokerVersionDesc":               "V5_5_0",
		"bootTimestamp":                   strconv.FormatInt(rates.Boot.UnixMilli(), 10),
		"runtime":                         durationText(d.broker.Options().Clock.Now().Sub(rates.Boot)),
		"pageCacheLockTimeMills":          "0",
		"dispatchMaxBuffer":               "0",
		"remainTransientStoreBufferNumbs": strconv.Itoa(math.MaxInt32), // what the reference says without such buffers
		"startAcceptSendRequestTimeStamp": "0",
	}
	addStorage(table, &stats)
	addRates(table, &rates)
	d.addQueues(table)
	for _, key := range []string{"timerReadBehind", "timerOffsetBehind", "timerCongestNum"} {
		table[key] = "0"
	}
	table["timerEnqueueTps"], table["timerDequeueTps"] = "0.0", "0.0"
	levels, err := d.broker.DelayLevels()
	if err != nil {
		return err
	}
	for i, l := range levels {
		if l.In > 0 { // the reference has no key for a level that was never used
			table["scheduleMessageOffset_"+strconv.Itoa(i+1)] = fmt.Sprintf("%d,%d", l.Out, l.In)
		}
	}
	return adminBody(resp, body.KVTable{Table: table})
}

func addStorage(table map[string]string, s *store.Stats) {
	used := 0.0
	if s.DiskTotal > 0 {
		used = float64(s.DiskTotal-s.DiskFree) / float64(s.DiskTotal)
	}
	earliest := int64(-1)
	if s.OldestStoreTime > 0 {
		earliest = s.OldestStoreTime
	}
	table["commitLogMinOffset"] = strconv.FormatInt(int64(s.LogFirst), 10)
	table["commitLogMaxOffset"] = strconv.FormatInt(int64(s.LogCommitted), 10)
	table["commitLogDiskRatio"] = strconv.FormatFloat(used, 'f', 2, 64)
	table["consumeQueueDiskRatio"] = table["commitLogDiskRatio"]
	table["commitLogDirCapacity"] = "Total : " + sizeText(int64(s.DiskTotal)) + ", Free : " + sizeText(int64(s.DiskFree)) + "."
	table["earliestMessageTimeStamp"] = strconv.FormatInt(earliest, 10)
	table["dispatchBehindBytes"] = strconv.FormatInt(max(int64(s.LogCommitted-s.Applied), 0), 10)
	table["remainHowManyDataToFlush"] = sizeText(max(int64(s.LogCommitted-s.LogDurable), 0))
}

func addRates(table map[string]string, r *broker.Rates) {
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	average := 0.0
	if r.PutTotal > 0 {
		average = float64(r.PutBytes) / float64(r.PutTotal)
	}
	var total [3]float64
	for i := range total {
		total[i] = r.FoundTPS[i] + r.MissTPS[i]
	}
	table["putTps"] = tpsText(r.PutTPS)
	table["getFoundTps"] = tpsText(r.FoundTPS)
	table["getMissTps"] = tpsText(r.MissTPS)
	table["getTotalTps"] = tpsText(total)
	table["getTransferredTps"] = tpsText(r.GetTPS)
	table["getTransferedTps"] = table["getTransferredTps"] // the name that tools before 5.0 know
	table["putMessageTimesTotal"] = number(r.PutTotal)
	table["putMessageSizeTotal"] = number(r.PutBytes)
	table["putMessageAverageSize"] = javaDouble(average)
	table["putMessageFailedTimes"] = number(r.PutFailed)
	table["putMessageEntireTimeMax"] = number(r.PutMaxLatency.Milliseconds())
	table["getMessageEntireTimeMax"] = number(r.GetMaxLatency.Milliseconds())
	table["putMessageDistributeTime"] = putTimesText(r)
	table["msgPutTotalTodayNow"] = number(r.PutTotal)
	table["msgPutTotalTodayMorning"] = number(r.PutToday)
	table["msgPutTotalYesterdayMorning"] = number(r.PutYesterday)
	table["msgGetTotalTodayNow"] = number(r.GetTotal)
	table["msgGetTotalTodayMorning"] = number(r.GetToday)
	table["msgGetTotalYesterdayMorning"] = number(r.GetYesterday)
}

// addQueues tells of the requests that wait for workers. Sends, pulls and acknowledgements never do: their queues are empty.
func (d *Door) addQueues(table map[string]string) {
	capacity := strconv.Itoa(cap(d.work))
	for _, kind := range []string{"send", "pull", "litePull", "ack", "query"} {
		table[kind+"ThreadPoolQueueSize"] = "0"
		table[kind+"ThreadPoolQueueCapacity"] = capacity
		table[kind+"ThreadPoolQueueHeadWaitTimeMills"] = "0"
	}
	table["queryThreadPoolQueueSize"] = strconv.Itoa(len(d.work))
	table["EndTransactionQueueSize"], table["EndTransactionThreadPoolQueueCapacity"] = "0", capacity
}

func putTimesText(r *broker.Rates) string {
	var b strings.Builder
	for i, n := range r.PutTimes {
		fmt.Fprintf(&b, "[%s]:%d ", putTimeLabels[i], min(n, math.MaxInt32)) // read as int
	}
	return b.String()
}

// tpsText writes the rates over the last 10 s, minute and 10 minutes.
func tpsText(tps [3]float64) string {
	return javaDouble(tps[0]) + " " + javaDouble(tps[1]) + " " + javaDouble(tps[2])
}

// javaDouble writes a number with at least one digit behind the point, as Java does.
func javaDouble(v float64) string {
	s := strconv.FormatFloat(v, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

func durationText(t time.Duration) string {
	s := int64(t / time.Second)
	return fmt.Sprintf("[ %d days, %d hours, %d minutes, %d seconds ]", s/86400, s/3600%24, s/60%60, s%60)
}
