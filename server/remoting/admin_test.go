package remoting

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/message"
)

// TestAdmin plays testdata/admin/*. Beside the calls of TestTranscripts there are
//
//	answer client=NAME code=N [response=N]  how a client answers such requests from now on: with these fields, this body and code
//	asked [wait]                            what clients were asked since the last time; wait: something must be, in time
//	advance 10s                             moves the clock
//
// The tool itself is the client without a name. $id is the newest offset id that was answered, $at the position that it names,
// $handle the newest recall handle.
func TestAdmin(t *testing.T) {
	datadriven.Walk(t, "testdata/admin", func(t *testing.T, path string) {
		c := clock.NewFake(time.UnixMilli(1_780_000_000_000))
		a := &adminRig{
			rig:     newRig(t, commitlog.ModeOS, Options{}, func(o *broker.Options) { o.Clock = c }),
			clients: map[string]*wire.Client{}, answers: map[string]*wire.Command{},
		}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			d.Input = strings.NewReplacer("$id", a.id, "$at", a.at(), "$handle", a.handle).Replace(d.Input)
			switch d.Cmd {
			case "call":
				name := ""
				d.MaybeScanArgs(t, "client", &name)
				req := readRequest(t, d)
				if d.HasArg("oneway") {
					if err := a.client(name).OneWay(req); err != nil {
						d.Fatalf(t, "%v", err)
					}
					return "no answer"
				}
				resp := invoke(t, a.client(name), req)
				if id := resp.Fields.Text("msgId"); id != "" && resp.Fields.Text("queueId") != "" {
					a.id, a.handle = id, resp.Fields.Text("recallHandle")
				}
				return mask(strings.NewReplacer("at "+a.at()+" ", "at $at ", "position "+a.at()+" ", "position $at ").Replace(describe(resp)))
			case "answer":
				var name string
				d.ScanArgs(t, "client", &name)
				resp := readRequest(t, d)
				a.mu.Lock()
				a.answers[fmt.Sprint(name, resp.Code)] = resp
				a.mu.Unlock()
				code := 0
				d.MaybeScanArgs(t, "response", &code)
				resp.Code = code
				return ""
			case "asked":
				if d.HasArg("wait") {
					eventually(t, "a client was asked", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return len(a.asked) > 0 })
				}
				a.mu.Lock()
				defer a.mu.Unlock()
				asked := strings.Join(a.asked, "")
				a.asked = nil
				return mask(strings.NewReplacer("sgId="+a.id+"\n", "sgId=$id\n", "ffset="+a.at()+"\n", "ffset=$at\n").Replace(asked))
			case "advance":
				by, err := time.ParseDuration(d.CmdArgs[0].Key)
				if err != nil {
					d.Fatalf(t, "%v", err)
				}
				c.Advance(by)
				return ""
			}
			d.Fatalf(t, "unknown command %s", d.Cmd)
			return ""
		})
	})
}

type adminRig struct {
	*rig
	clients map[string]*wire.Client
	id      string // the newest offset id
	handle  string // and the recall handle with it

	mu      sync.Mutex
	answers map[string]*wire.Command // by client and code
	asked   []string
}

func (a *adminRig) at() string {
	_, at, err := message.ParseOffsetID(a.id)
	if err != nil {
		return "none"
	}
	return strconv.FormatInt(at, 10)
}

func (a *adminRig) client(name string) *wire.Client {
	if a.clients[name] == nil {
		a.clients[name] = a.dial(wire.ClientOptions{Serve: func(c *wire.Conn, cmd *wire.Command) { a.serve(name, c, cmd) }})
	}
	return a.clients[name]
}

// serve answers a request of the broker as the script says; one without an answer is left waiting.
func (a *adminRig) serve(name string, c *wire.Conn, cmd *wire.Command) {
	if cmd.Code == wire.NotifyConsumerIDsChanged {
		cmd.Release()
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "%s was asked %d\n", name, cmd.Code)
	for _, f := range cmd.Fields {
		fmt.Fprintf(&b, "%s=%s\n", f.Key, f.Value)
	}
	describeBody(&b, cmd.Body)
	a.asked = append(a.asked, b.String())
	if answer := a.answers[fmt.Sprint(name, cmd.Code)]; answer != nil {
		resp := cmd.Reply(answer.Code, answer.Fields.Text("remark"))
		resp.Body = append([]byte(nil), answer.Body...)
		c.Respond(cmd, resp)
	} else if cmd.IsOneWay() {
		cmd.Release()
	}
}

var (
	loopback = regexp.MustCompile(`127\.0\.0\.1:\d{5}`)
	times    = regexp.MustCompile(`\d{4}-\d\d-\d\d#\d\d:\d\d:\d\d:\d{3}`)
)

// mask hides what differs from run to run: ports and time zones.
func mask(s string) string {
	s = loopback.ReplaceAllStringFunc(s, func(addr string) string {
		if addr == "127.0.0.1:10911" {
			return addr
		}
		return "127.0.0.1:port"
	})
	return times.ReplaceAllStringFunc(s, func(text string) string {
		at, err := time.ParseInLocation("2006-01-02#15:04:05.000", text[:19]+"."+text[20:], time.Local)
		if err != nil {
			return err.Error()
		}
		return "text of " + strconv.FormatInt(at.UnixMilli(), 10)
	})
}

// exporterKeys are those that the exporter reads of a broker's runtime information; without one of them it drops the broker.
const exporterKeys = `putTps getTotalTps getMissTps getFoundTps getTransferredTps getTransferedTps putMessageTimesTotal
	putMessageSizeTotal putMessageAverageSize putMessageEntireTimeMax putMessageDistributeTime getMessageEntireTimeMax
	msgPutTotalTodayNow msgPutTotalTodayMorning msgPutTotalYesterdayMorning msgGetTotalTodayNow msgGetTotalTodayMorning
	msgGetTotalYesterdayMorning sendThreadPoolQueueSize sendThreadPoolQueueCapacity sendThreadPoolQueueHeadWaitTimeMills
	pullThreadPoolQueueSize pullThreadPoolQueueCapacity pullThreadPoolQueueHeadWaitTimeMills queryThreadPoolQueueSize
	queryThreadPoolQueueCapacity queryThreadPoolQueueHeadWaitTimeMills pageCacheLockTimeMills dispatchBehindBytes
	dispatchMaxBuffer remainHowManyDataToFlush remainTransientStoreBufferNumbs commitLogMinOffset commitLogMaxOffset
	commitLogDiskRatio consumeQueueDiskRatio commitLogDirCapacity earliestMessageTimeStamp startAcceptSendRequestTimeStamp
	bootTimestamp runtime brokerVersion brokerVersionDesc`

// The runtime information is read the way the exporter and clusterList read it.
func TestRuntimeInfo(t *testing.T) {
	c := clock.NewFake(time.UnixMilli(1_780_000_000_000))
	r := newRig(t, commitlog.ModeOS, Options{}, func(o *broker.Options) { o.Clock = c })
	cl := r.dial(wire.ClientOptions{})
	for range 3 {
		invoke(t, cl, sendRequest("t", "0", "hello"))
	}
	if resp := invoke(t, cl, pullRequest("g", "t", "0", "0")); resp.Code != wire.Success {
		t.Fatal(resp.Code, resp.Remark)
	}
	c.Advance(4 * time.Second)
	resp := invoke(t, cl, request(wire.GetBrokerRuntimeInfo))
	var kv body.KVTable
	if err := body.Unmarshal(resp.Body, &kv); err != nil {
		t.Fatal(err)
	}
	for key := range strings.FieldsSeq(exporterKeys) {
		if kv.Table[key] == "" {
			t.Errorf("%s is missing", key)
		}
	}
	number := func(key string) float64 {
		t.Helper()
		v, err := strconv.ParseFloat(kv.Table[key], 64)
		if err != nil {
			t.Errorf("%s: %v", key, err)
		}
		return v
	}
	if n := number("putMessageTimesTotal"); n != 3 || number("msgPutTotalTodayNow") != 3 || number("msgGetTotalTodayNow") != 3 {
		t.Error("totals", kv.Table)
	}
	if size := number("putMessageAverageSize"); size*3 != number("putMessageSizeTotal") || size < 91 {
		t.Error("sizes", kv.Table)
	}
	if kv.Table["putTps"] != "0.75 0.75 0.75" || kv.Table["getTransferredTps"] != "0.75 0.75 0.75" || kv.Table["getFoundTps"] != "0.25 0.25 0.25" {
		t.Error("rates", kv.Table)
	}
	if number("commitLogMaxOffset") <= number("commitLogMinOffset") || number("earliestMessageTimeStamp") != 1_780_000_000_000 {
		t.Error("log", kv.Table)
	}
	if ratio := number("commitLogDiskRatio"); ratio <= 0 || ratio > 1 {
		t.Error("disk", ratio)
	}
	sends := 0
	for pair := range strings.FieldsSeq(kv.Table["putMessageDistributeTime"]) {
		class, count, ok := strings.Cut(pair, ":")
		n, err := strconv.Atoi(count)
		if !ok || err != nil || class[0] != '[' || class[len(class)-1] != ']' {
			t.Errorf("%q: %v", pair, err)
		}
		sends += n
	}
	if sends != 3 {
		t.Error(kv.Table["putMessageDistributeTime"])
	}
	words := strings.Split(kv.Table["commitLogDirCapacity"], " ")
	if len(words) != 8 || !strings.HasSuffix(words[3], "iB,") || !strings.HasSuffix(words[7], "iB.") {
		t.Errorf("%q", words)
	}
	if flush := strings.Split(kv.Table["remainHowManyDataToFlush"], " "); len(flush) != 2 || !strings.HasSuffix(flush[1], "B") {
		t.Errorf("%q", flush)
	}
	if s := kv.Table["runtime"]; s != "[ 0 days, 0 hours, 0 minutes, 4 seconds ]" {
		t.Error(s)
	}
	delayed := sendRequest("t", "0", "later")
	delayed.Fields.Set("i", "DELAY\x013\x02")
	invoke(t, cl, delayed)
	if err := body.Unmarshal(invoke(t, cl, request(wire.GetBrokerRuntimeInfo)).Body, &kv); err != nil {
		t.Fatal(err)
	}
	if s := kv.Table["scheduleMessageOffset_3"]; s != "0,1" {
		t.Error(s)
	}
}

func TestTexts(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 252 << 30: "252.0 GiB", 1<<63 - 1: "8.0 EiB",
	} {
		if got := sizeText(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
	for v, want := range map[float64]string{0: "0.0", 5: "5.0", 0.25: "0.25", 1e9: "1000000000.0"} {
		if got := javaDouble(v); got != want {
			t.Errorf("%v: %s", v, got)
		}
	}
	if got := durationText(49*time.Hour + 62*time.Second); got != "[ 2 days, 1 hours, 1 minutes, 2 seconds ]" {
		t.Error(got)
	}
	if got := escapeProperty(" a\\b\nc"); got != `\ a\\b\nc` {
		t.Error(got)
	}
	for text, want := range map[string]string{
		delay.DefaultLevels: delay.DefaultLevels, "60s 90s 120m 25h 48h 7d": "1m 90s 2h 25h 2d 7d",
	} {
		if levels, err := delay.ParseLevels(text); err != nil || levelsText(levels) != want {
			t.Errorf("%s: %s (%v)", text, levelsText(levels), err)
		}
	}
	for s, want := range map[string]string{"JAVA": "JAVA", "GOLANG": "GO", "go": "GO", "DOT_NET": "DOTNET", "": "OTHER", "COBOL": "OTHER"} {
		if got := languageName(s); got != want {
			t.Errorf("%q: %s", s, got)
		}
	}
}

// The configuration says where a tool can look: every line is key=value, once.
func TestBrokerConfig(t *testing.T) {
	r := newRig(t, commitlog.ModeSync, Options{}, nil)
	resp := invoke(t, r.dial(wire.ClientOptions{}), request(wire.GetBrokerConfig))
	seen := map[string]string{}
	for line := range strings.Lines(string(resp.Body)) {
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if _, twice := seen[key]; !ok || twice {
			t.Errorf("%q", line)
		}
		seen[key] = value
	}
	for key, want := range map[string]string{
		"brokerName": "broker-a", "brokerClusterName": "DefaultCluster", "brokerId": "0", "listenPort": "10911", "brokerIP1": "127.0.0.1",
		"flushDiskType": "SYNC_FLUSH", "autoCreateTopicEnable": "true", "fileReservedTime": "72", "maxMessageSize": "4194304",
		"messageDelayLevel": delay.DefaultLevels, "transactionTimeOut": "6000", "timerMaxDelaySec": "31536000",
		"storePathRootDir": r.broker.Store().Options().Dir, "mappedFileSizeCommitLog": "67108864",
	} {
		if seen[key] != want {
			t.Errorf("%s is %q, want %q", key, seen[key], want)
		}
	}
	var version body.DataVersion
	if err := body.Unmarshal([]byte(resp.Fields.Text("version")), &version); err != nil || version.Counter == 0 {
		t.Error(version, err)
	}
	if resp := invoke(t, r.dial(wire.ClientOptions{}), request(wire.UpdateBrokerConfig)); resp.Code != wire.NoPermission {
		t.Error(resp.Code, resp.Remark)
	}
}

// Parts of a list are told in the order of names; whoever asks for a part of an older list begins again.
func TestPages(t *testing.T) {
	r := newRig(t, commitlog.ModeOS, Options{}, nil)
	cl := r.dial(wire.ClientOptions{})
	for i := range 7 {
		if _, err := r.broker.EnsureGroup(t.Context(), fmt.Sprint("g", i)); err != nil {
			t.Fatal(err)
		}
	}
	read := func(version body.DataVersion, seq int) (names []string, page body.GroupPage[map[string]any]) {
		t.Helper()
		raw, err := body.Marshal(version)
		if err != nil {
			t.Fatal(err)
		}
		resp := invoke(t, cl, request(wire.GetAllGroupConfig, "groupSeq", fmt.Sprint(seq), "maxGroupNum", "3", "dataVersion", string(raw)))
		if err := body.Unmarshal(resp.Body, &page); err != nil || resp.Fields.Text("totalGroupNum") != "7" {
			t.Fatal(err, resp.Fields)
		}
		for name := range page.Groups {
			names = append(names, name)
		}
		return names, page
	}
	var version body.DataVersion
	all := map[string]bool{}
	for seq := 0; seq < 7; {
		names, page := read(version, seq)
		if len(names) != min(3, 7-seq) {
			t.Fatalf("from %d: %v", seq, names)
		}
		for _, name := range names {
			all[name] = true
		}
		version = page.DataVersion
		seq += len(names)
	}
	if len(all) != 7 {
		t.Fatal(all)
	}
	if names, _ := read(version, 7); len(names) != 0 {
		t.Error("behind the end:", names)
	}
	if err := r.broker.DeleteGroup(t.Context(), "g0", true); err != nil {
		t.Fatal(err)
	}
	if _, err := r.broker.EnsureGroup(t.Context(), "g9"); err != nil {
		t.Fatal(err)
	}
	if names, _ := read(version, 3); len(names) != 3 || !strings.Contains(strings.Join(names, " "), "g1") {
		t.Error("after a change:", names)
	}
}

// A client that does not answer costs its own request only, and the door does not wait for it when it closes.
func TestRelaysEnd(t *testing.T) {
	r := newRig(t, commitlog.ModeOS, Options{Workers: 1, Waiting: 1}, nil)
	tool := r.dial(wire.ClientOptions{})
	asked := make(chan struct{}, 2*maxRelays)
	mute := r.dial(wire.ClientOptions{Serve: func(_ *wire.Conn, cmd *wire.Command) {
		if !cmd.IsOneWay() {
			asked <- struct{}{}
		}
		cmd.Release()
	}})
	beat := request(wire.HeartBeat)
	beat.Body = []byte(`{"clientID":"mute","consumerDataSet":[{"groupName":"g","messageModel":"CLUSTERING","subscriptionDataSet":[]}]}`)
	invoke(t, mute, beat)
	codes := make(chan int, maxRelays)
	ask := func() {
		t.Helper()
		err := tool.InvokeAsync(request(wire.GetConsumerRunningInfo, "consumerGroup", "g", "clientId", "mute"), func(resp *wire.Command, err error) {
			if err != nil {
				codes <- -1
				return
			}
			codes <- resp.Code
			resp.Release()
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for range maxRelays {
		ask()
	}
	for range maxRelays {
		<-asked
	}
	if resp := invoke(t, tool, request(wire.GetConsumerRunningInfo, "consumerGroup", "g", "clientId", "mute")); resp.Code != wire.SystemBusy {
		t.Error("one too many:", resp.Code, resp.Remark)
	}
	if resp := invoke(t, tool, request(wire.GetBrokerConfig)); resp.Code != wire.Success {
		t.Error("the worker is not free:", resp.Code, resp.Remark)
	}
	mute.Close()
	for range maxRelays {
		if code := <-codes; code != wire.SystemError {
			t.Fatal("asked of a client that went:", code)
		}
	}

	late := r.dial(wire.ClientOptions{Serve: func(_ *wire.Conn, cmd *wire.Command) {
		if !cmd.IsOneWay() {
			asked <- struct{}{}
		}
		cmd.Release()
	}})
	beat = request(wire.HeartBeat)
	beat.Body = []byte(`{"clientID":"mute","consumerDataSet":[{"groupName":"g","messageModel":"CLUSTERING","subscriptionDataSet":[]}]}`)
	invoke(t, late, beat)
	ask()
	<-asked
	began := time.Now()
	if err := r.door.Close(context.Background()); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > relayTimeout/2 {
		t.Errorf("closing took %v", took)
	}
	if code := <-codes; code != wire.ServiceNotAvailable && code != -1 {
		t.Error("asked while closing:", code)
	}
}

func TestAskedInTime(t *testing.T) {
	r := newRig(t, commitlog.ModeOS, Options{}, nil)
	mute := r.dial(wire.ClientOptions{Serve: func(_ *wire.Conn, cmd *wire.Command) { cmd.Release() }})
	beat := request(wire.HeartBeat)
	beat.Body = []byte(`{"clientID":"mute","consumerDataSet":[{"groupName":"g","messageModel":"CLUSTERING","subscriptionDataSet":[]}]}`)
	invoke(t, mute, beat)
	a, err := r.door.asker("g", "mute")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err = a.ask(ctx, wire.NewRequest(wire.GetConsumerRunningInfo))
	if resp := r.door.errorReply(request(1), err); resp.Code != wire.ConsumeMessageTimeout {
		t.Error(resp.Code, resp.Remark)
	}
	r.broker.Clients().RegisterConsumer("g", &broker.Client{ID: "other", Protocol: "grpc", Conn: new(int)}, broker.ConsumerInfo{})
	if _, err := r.door.asker("g", "other"); err == nil {
		t.Error("a gRPC client can be asked")
	}
	if all, err := r.door.askers("g", ""); err != nil || len(all) != 1 {
		t.Error(all, err)
	}
	if _, err := r.door.askers("g", "other"); err == nil {
		t.Error("a gRPC client can be asked")
	}
}

// Every code of the reference's broker is in the table, and none that is not served is silent about why.
func TestEveryCodeIsKnown(t *testing.T) {
	for field := range strings.FieldsSeq(`10 310 320 36 37 370 324 325 11 361 200050 200051 200151 200052 200053 200054 200055 200056 200070
		200071 400 401 402 34 35 46 38 14 15 41 42 29 30 31 32 12 33 17 18 215 5002 21 351 513 200 225 201 352 207 5003 353 25 26 28 202
		203 204 328 208 317 43 45 60 61 222 223 300 343 345 303 305 306 316 329 307 308 309 314 315 321 323 354 355 5001 2001 2002 2003
		2004 200074 200075 200076 200077 200078 200079 3001 3002 3003 3004 3005 3006 3007 3008 3009 3010 905 906 907 908 1007 1008 902 903`) {
		n, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		e := table[n]
		if e == nil {
			t.Errorf("code %d is not known", n)
			continue
		}
		later, listed := laterCodes[n]
		if listed && (e.Served || later.why == "") {
			t.Errorf("code %d: %+v", n, e.Code)
		}
	}
	r := newRig(t, commitlog.ModeOS, Options{}, nil)
	resp := invoke(t, r.dial(wire.ClientOptions{}), request(3005))
	if resp.Code != wire.RequestCodeNotSupported || !strings.Contains(resp.Remark, "AUTH_LIST_USER") || !strings.Contains(resp.Remark, withAuth) {
		t.Error(resp.Code, resp.Remark)
	}
}

// What a message id names is what a consumer gets.
func TestMessageIDs(t *testing.T) {
	r := newRig(t, commitlog.ModeOS, Options{}, nil)
	sent := invoke(t, r.dial(wire.ClientOptions{}), sendRequest("t", "0", "hello"))
	cmd, err := r.door.directly("g", wire.Fields{{Key: "msgId", Value: sent.Fields.Text("msgId")}})
	if err != nil {
		t.Fatal(err)
	}
	defer cmd.Release()
	m, _, err := message.Decode(cmd.Body)
	if err != nil || string(m.Body) != "hello" {
		t.Error(m, err)
	}
}
