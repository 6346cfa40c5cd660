package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/configs"
	"github.com/cairnmq/cairn/javastore"
	"github.com/cairnmq/cairn/message"
)

// live is a whole broker that the commands are tried on.
type live struct {
	*testing.T
	in *instance
}

func startLive(t *testing.T) *live {
	t.Helper()
	cfg := configs.Default()
	cfg.Data, cfg.Durability, cfg.SegmentSize, cfg.Advertise = t.TempDir(), "os", 64<<20, "127.0.0.1"
	cfg.NameServer, cfg.Remoting, cfg.GRPC, cfg.HTTP = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	in, err := start(t.Context(), cfg, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := in.close(); err != nil {
			t.Error(err)
		}
	})
	return &live{t, in}
}

// says runs a command line that must succeed.
func (l *live) says(args ...string) string {
	l.Helper()
	out, err := cairnSays(l.T, append(args, "-n", l.in.addrs.nameserver)...)
	if err != nil {
		l.Fatalf("cairn %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// json runs a command line with -o json and reads what it prints.
func (l *live) json(v any, args ...string) {
	l.Helper()
	out := l.says(append(args, "-o", "json")...)
	reflect.ValueOf(v).Elem().SetZero()
	if err := json.Unmarshal([]byte(out), v); err != nil {
		l.Fatalf("cairn %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// fails runs a command line that must fail with a text.
func (l *live) fails(want string, args ...string) {
	l.Helper()
	out, err := cairnSays(l.T, append(args, "-n", l.in.addrs.nameserver)...)
	if err == nil || !strings.Contains(err.Error(), want) {
		l.Errorf("cairn %s: %v, want %q\n%s", strings.Join(args, " "), err, want, out)
	}
}

// has wants each of the texts in what a command printed.
func (l *live) has(out string, texts ...string) {
	l.Helper()
	for _, text := range texts {
		if !strings.Contains(out, text) {
			l.Errorf("no %q in\n%s", text, out)
		}
	}
}

func (l *live) sent(topic, body string, more ...string) string {
	l.Helper()
	out := l.says(append([]string{"message", "send", topic, body}, more...)...)
	_, rest, ok := strings.Cut(out, ", id ")
	id, _, ok2 := strings.Cut(rest, ",")
	if !ok || !ok2 {
		l.Fatalf("no id in %q", out)
	}
	return id
}

func TestTopicCommands(t *testing.T) {
	l := startLive(t)
	l.says("topic", "create", "orders", "--queues", "4")
	l.has(l.says("topic", "list"), "orders")
	l.has(l.says("topic", "update", "orders", "--queues", "6", "--attribute", "+message.type=FIFO"), "topic orders is changed")
	topic, err := l.in.broker.Topic("orders")
	if err != nil || topic.ReadQueues != 6 || topic.WriteQueues != 6 || topic.Perm != 6 || topic.MessageType() != "FIFO" {
		t.Errorf("%+v, %v", topic, err)
	}
	l.says("topic", "update", "orders", "--perm", "4")
	if topic, err = l.in.broker.Topic("orders"); err != nil || topic.ReadQueues != 6 || topic.Perm != 4 || topic.MessageType() != "FIFO" {
		t.Errorf("%+v, %v", topic, err)
	}
	l.fails("none", "topic", "update", "none", "--queues", "3")
	l.has(l.says("topic", "route", "orders"), "broker-a", l.in.addrs.remoting, "R\n")
	var route struct {
		Queues []struct {
			Read int `json:"readQueueNums"`
			Perm int `json:"perm"`
		} `json:"queueDatas"`
	}
	if l.json(&route, "topic", "route", "orders"); len(route.Queues) != 1 || route.Queues[0].Read != 6 || route.Queues[0].Perm != 4 {
		t.Errorf("%+v", route)
	}
	l.says("topic", "update", "orders", "--perm", "6")
	l.sent("orders", "a")
	l.sent("orders", "b")
	l.says("group", "create", "billing")
	l.says("group", "reset", "billing", "orders", "--to", "earliest")
	var stats []trafficRow
	l.json(&stats, "topic", "stats", "orders")
	if len(stats) != 2 || stats[0].What != "in" || stats[0].Hour != 2 || stats[0].TPS <= 0 || stats[1].What != "billing" || stats[1].Hour != 0 {
		t.Errorf("%+v", stats)
	}
	l.has(l.says("topic", "stats", "orders"), "MESSAGES/S", "billing")
	l.has(l.says("topic", "show", "orders"), "2 messages")
	l.says("topic", "delete", "orders")
	l.fails("orders", "topic", "route", "orders")
}

func TestClusterCommands(t *testing.T) {
	l := startLive(t)
	l.says("topic", "create", "orders")
	l.sent("orders", "a")
	var rates []rateRow
	if l.json(&rates, "cluster", "rates"); len(rates) != 1 || rates[0].Broker != "broker-a" || rates[0].InDay != 1 || rates[0].In <= 0 || rates[0].InBytes <= 0 {
		t.Errorf("%+v", rates)
	}
	l.has(l.says("cluster", "rates"), "broker-a", "IN/S")
	l.has(l.says("cluster", "brokers"), "broker-a", "DefaultCluster", l.in.addrs.remoting)
	l.has(l.says("cluster", "status"), "brokerVersionDesc")
}

func TestGroupCommands(t *testing.T) {
	l := startLive(t)
	l.says("topic", "create", "orders", "--queues", "2")
	l.says("topic", "create", "refunds", "--queues", "1")
	for i := range 10 {
		l.sent("orders", fmt.Sprint(i))
		l.sent("refunds", fmt.Sprint(i))
	}
	l.says("group", "create", "billing", "--retries", "7")
	l.has(l.says("group", "update", "billing", "--orderly", "--consume=false"), "group billing is changed")
	g, err := l.in.broker.Group("billing")
	if err != nil || g.RetryMaxTimes != 7 || !g.ConsumeMessageOrderly || g.ConsumeEnable {
		t.Errorf("%+v, %v", g, err)
	}
	l.says("group", "update", "billing", "--consume", "--orderly=false", "--attributes", "+dlq.redrive.after=1h")
	if g, err = l.in.broker.Group("billing"); err != nil || g.RetryMaxTimes != 7 || g.ConsumeMessageOrderly || !g.ConsumeEnable || g.AutoRedrive().After != time.Hour {
		t.Errorf("%+v, %v", g, err)
	}
	l.fails("no broker has group none", "group", "update", "none", "--retries", "1")
	l.fails("neither", "group", "update", "billing", "--attributes", "x=y")

	committed := func(group, topic string, queue int32) int64 {
		t.Helper()
		at, err := l.in.broker.CommittedOffset(group, topic, queue, false)
		if broker.CodeOf(err) == broker.CodeOffsetNotFound {
			return -1
		} else if err != nil {
			t.Fatal(err)
		}
		return at
	}
	l.says("group", "reset", "billing", "refunds", "--to", "latest")
	if at := committed("billing", "refunds", 0); at != 10 {
		t.Errorf("latest is %d", at)
	}
	l.has(l.says("group", "reset-offset", "billing", "refunds", "--queue", "0", "--offset", "4"), "offset 4 in queue 0")
	if at := committed("billing", "refunds", 0); at != 4 {
		t.Errorf("the offset is %d", at)
	}
	l.fails("offset 11", "group", "reset", "billing", "refunds", "--queue", "0", "--offset", "11")
	for _, args := range [][]string{{}, {"--offset", "1"}, {"--queue", "0"}, {"--queue", "0", "--offset", "1", "--to", "latest"}, {"--to", "soon"}} {
		if _, err := cairnSays(t, append([]string{"group", "reset", "billing", "refunds", "-n", l.in.addrs.nameserver}, args...)...); !isUsage(err) {
			t.Errorf("%q: %v", args, err)
		}
	}
	l.says("group", "reset", "billing", "orders", "--to", "earliest")
	l.says("group", "clone-offsets", "billing", "shadow", "--topic", "refunds")
	if a, b := committed("shadow", "refunds", 0), committed("shadow", "orders", 0); a != 4 || b != -1 {
		t.Errorf("of one topic: %d and %d", a, b)
	}
	l.says("group", "clone-offsets", "billing", "shadow")
	if at := committed("shadow", "orders", 1); at != 0 {
		t.Errorf("of all topics: %d", at)
	}
	l.fails("none", "group", "clone-offsets", "none", "shadow")

	var views []connectionsView
	if l.json(&views, "group", "connections", "billing"); len(views) != 0 {
		t.Errorf("%+v", views)
	}
	l.in.broker.Clients().RegisterConsumer("billing", &broker.Client{ID: "a@b", Address: netip.MustParseAddrPort("192.0.2.1:5"), Language: "JAVA", Version: 513, Protocol: "remoting"},
		broker.ConsumerInfo{ConsumeType: "CONSUME_PASSIVELY", MessageModel: "CLUSTERING", FromWhere: "CONSUME_FROM_LAST_OFFSET",
			Subscriptions: []broker.Subscription{{Topic: "orders", Expression: "paid", ExpressionType: "TAG"}}})
	l.has(l.says("group", "connections", "billing"), "a@b", "192.0.2.1:5", "JAVA", "orders", "paid", "CLUSTERING")
	l.has(l.says("group", "list"), "billing", "shadow")
	l.says("group", "delete", "shadow")
	if _, err := l.in.broker.Group("shadow"); broker.CodeOf(err) != broker.CodeGroupNotFound {
		t.Error(err)
	}
}

func TestMessageCommands(t *testing.T) {
	l := startLive(t)
	l.says("topic", "create", "orders", "--queues", "2")
	l.says("topic", "create", "again", "--queues", "1")
	began := time.Now()
	var ids []string
	for i := range 20 {
		ids = append(ids, l.sent("orders", fmt.Sprintf("body %02d\nand more", i), "--tag", "paid", "--key", fmt.Sprint("k", i)))
	}
	ended := time.Now().Add(time.Millisecond)
	full := l.says("message", "query", "orders", "--id", ids[3], "--full")
	l.has(full, "topic      orders", "id         "+ids[3], "property   TAGS = paid", "property   KEYS = k3", "body 03\nand more")
	l.has(l.says("message", "query", "orders", "--key", "k7"), "body 07 and more", ids[7])

	var rows []messageRow
	at := func(t time.Time) string { return fmt.Sprint(t.UnixMilli()) }
	l.json(&rows, "message", "query", "orders", "--from", at(began), "--to", at(ended))
	if len(rows) != 20 || !slices.IsSortedFunc(rows, func(a, b messageRow) int { return int(a.Stored - b.Stored) }) {
		t.Fatalf("%d messages in the time: %+v", len(rows), rows)
	}
	var some []messageRow
	if l.json(&some, "message", "query", "orders", "--from", at(began), "--limit", "7"); len(some) != 7 || some[6].Stored > rows[7].Stored {
		t.Errorf("%d messages, the last stored at %d", len(some), some[len(some)-1].Stored)
	}
	if l.json(&some, "message", "query", "orders", "--from", "1h"); len(some) != 0 {
		t.Errorf("%+v", some)
	}
	if l.json(&some, "message", "query", "orders", "--to", at(began.Add(-time.Hour))); len(some) != 0 {
		t.Errorf("%+v", some)
	}
	sum := 0
	for q := range 2 {
		l.json(&some, "message", "query", "orders", "--from", at(began), "--queue", fmt.Sprint(q))
		sum += len(some)
	}
	if sum != 20 {
		t.Errorf("%d messages, queue by queue", sum)
	}
	l.json(&some, "message", "peek", "orders", "--queue", fmt.Sprint(rows[0].Queue), "--offset", "1", "--count", "2")
	if len(some) != 2 || some[0].Offset != 1 {
		t.Errorf("%+v", some)
	}
	l.has(l.says("message", "get", rows[0].OffsetID, "--full"), "offset id  "+rows[0].OffsetID, "body 00")
	for _, args := range [][]string{{}, {"--key", "a", "--id", "b"}, {"--key", "a", "--from", "-1h"}, {"--from", "x"}, {"--from", "-1h", "--to", "-2h"}, {"--from", "-1h", "--limit", "0"}} {
		if _, err := cairnSays(t, append([]string{"message", "query", "orders", "-n", l.in.addrs.nameserver}, args...)...); !isUsage(err) {
			t.Errorf("%q: %v", args, err)
		}
	}

	var sent []resent
	l.json(&sent, "message", "resend", "orders", ids[0], rows[5].OffsetID, "--to", "again")
	if len(sent) != 2 || sent[0].Topic != "again" || sent[0].NewID == ids[0] {
		t.Fatalf("%+v", sent)
	}
	l.json(&some, "message", "peek", "again")
	if len(some) != 2 || some[0].Body != "body 00\nand more" || some[0].ID != sent[0].NewID || some[0].Properties[message.PropTags] != "paid" ||
		some[0].Properties[message.PropKeys] != "k0" {
		t.Errorf("%+v", some)
	}
	l.has(l.says("message", "resend", "again", sent[1].NewID), "again")
	l.fails("has no message with the unique id", "message", "resend", "orders", "nonsense")
	l.fails("is of topic orders", "message", "resend", "again", rows[0].OffsetID)

	l.fails("no client has sent a trace", "message", "trace", ids[0], "--trace-topic", "no-traces")
	l.says("topic", "create", "traces", "--queues", "1")
	pub := strings.Join([]string{"Pub", "1700000000000", "DefaultRegion", "shop", "orders", ids[0], "paid", "k0", "192.0.2.1:10911", "8", "3", "0", "offset id", "true"}, "\x01")
	before := strings.Join([]string{"SubBefore", "1700000000500", "DefaultRegion", "billing", "request", ids[0], "0", "k0"}, "\x01")
	after := strings.Join([]string{"SubAfter", "request", ids[0], "12", "false", "k0", "4", "1700000000600", "billing"}, "\x01")
	l.sent("traces", pub+"\x02"+strings.ReplaceAll(pub, ids[0], ids[1])+"\x02", "--key", ids[0])
	l.sent("traces", before+"\x02", "--key", ids[0])
	l.sent("traces", after+"\x02", "--key", ids[0])
	var told []traceRow
	l.json(&told, "message", "trace", ids[0], "--trace-topic", "traces")
	if len(told) != 3 || told[0].What != "Pub" || told[0].Cost != 3 || !told[0].Success || told[0].Host != "192.0.2.1:10911" || told[1].What != "SubBefore" ||
		told[2].What != "SubAfter" || told[2].Success || told[2].Cost != 12 || told[2].Group != "billing" {
		t.Errorf("%+v", told)
	}
	l.has(l.says("message", "trace", ids[0], "--trace-topic", "traces"), "SubAfter", "12ms")
}

// There are more topics and groups than one answer holds.
func TestMetadataInSeveralAnswers(t *testing.T) {
	l := startLive(t)
	const many = configsAtOnce + 100
	var wg errgroup.Group
	wg.SetLimit(64)
	for i := range many {
		wg.Go(func() error {
			name := fmt.Sprintf("many-%05d", i)
			if err := l.in.broker.PutTopic(t.Context(), catalog.Topic{Name: name, ReadQueues: 1, WriteQueues: 1, Perm: 6, TopicFilterType: "SINGLE_TAG"}, ""); err != nil {
				return err
			}
			if _, err := l.in.broker.EnsureGroup(t.Context(), name); err != nil {
				return err
			}
			return l.in.broker.CommitOffsets(t.Context(), name, []broker.OffsetCommit{{Topic: name, Offset: int64(i)}})
		})
	}
	if err := wg.Wait(); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(t.TempDir(), "config")
	l.says("metadata", "export", folder)
	text := func(file string) string {
		data, err := os.ReadFile(filepath.Join(folder, file))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	topics, groups, offsets := text(javastore.TopicsFile), text(javastore.GroupsFile), text(javastore.OffsetsFile)
	for i := range many {
		name := fmt.Sprintf("many-%05d", i)
		if !strings.Contains(topics, `"topicName":"`+name+`"`) || !strings.Contains(groups, `"groupName":"`+name+`"`) ||
			!strings.Contains(offsets, fmt.Sprintf(`"%s@%s":{0:%d}`, name, name, i)) {
			t.Fatalf("%s is not among %d bytes of topics, or %d of groups, or %d of offsets", name, len(topics), len(groups), len(offsets))
		}
	}
}

func TestMetadataCommands(t *testing.T) {
	from, to := startLive(t), startLive(t)
	from.says("topic", "create", "orders", "--queues", "3", "--attribute", "+message.type=FIFO")
	from.says("topic", "create", "refunds", "--queues", "1", "--perm", "4")
	from.says("group", "create", "billing", "--retries", "5", "--attributes", "+dlq.redrive.after=1h")
	commit := []broker.OffsetCommit{{Topic: "orders", Queue: 0, Offset: 17}, {Topic: "orders", Queue: 2, Offset: 0}, {Topic: "refunds", Queue: 0, Offset: 4}}
	if err := from.in.broker.CommitOffsets(t.Context(), "billing", commit); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(t.TempDir(), "config")
	var s metadataSummary
	if from.json(&s, "metadata", "export", folder); s.Topics != 3 || s.Groups != 1 || s.Offsets != 3 { // with the retry topic
		t.Errorf("%+v", s)
	}
	from.fails("is there already", "metadata", "export", folder)
	from.says("metadata", "export", folder, "--force")
	data, err := os.ReadFile(filepath.Join(folder, javastore.OffsetsFile))
	if err != nil {
		t.Fatal(err)
	}
	offsets, err := javastore.ParseOffsets(data)
	want := []javastore.Offset{{Group: "billing", Topic: "orders", Queue: 0, Offset: 17}, {Group: "billing", Topic: "orders", Queue: 2}, {Group: "billing", Topic: "refunds", Offset: 4}}
	if err != nil || !reflect.DeepEqual(offsets, want) {
		t.Errorf("%+v, %v", offsets, err)
	}

	to.has(to.says("metadata", "import", folder, "--dry-run"), "1 groups and 3 offsets would be made from")
	if _, err := to.in.broker.Topic("orders"); broker.CodeOf(err) != broker.CodeTopicNotFound {
		t.Errorf("a dry run made a topic: %v", err)
	}
	to.has(to.says("metadata", "import", folder), "1 groups and 3 offsets made from")
	topic, err := to.in.broker.Topic("orders")
	if err != nil || topic.ReadQueues != 3 || topic.MessageType() != "FIFO" {
		t.Errorf("%+v, %v", topic, err)
	}
	if topic, err = to.in.broker.Topic("refunds"); err != nil || topic.Perm != 4 {
		t.Errorf("%+v, %v", topic, err)
	}
	g, err := to.in.broker.Group("billing")
	if err != nil || g.RetryMaxTimes != 5 || g.AutoRedrive().After != time.Hour {
		t.Errorf("%+v, %v", g, err)
	}
	for _, c := range commit {
		if at, err := to.in.broker.CommittedOffset("billing", c.Topic, c.Queue, false); err != nil || at != c.Offset {
			t.Errorf("%+v is at %d, %v", c, at, err)
		}
	}
	// A file as Java writes it, with what has no place here.
	java := t.TempDir()
	for name, text := range map[string]string{
		javastore.GroupsFile:  `{"dataVersion":{"counter":1,"stateVersion":0,"timestamp":1},"forbiddenTable":{"billing":{"orders":1}},"subscriptionGroupTable":{"late":{"groupName":"late","retryMaxTimes":2},"TOOLS_CONSUMER":{"groupName":"TOOLS_CONSUMER"}}}`,
		javastore.OffsetsFile: `{"dataVersion":{},"offsetTable":{"orders@late":{0:9,7:1},"none@late":{0:1},"orders@nobody":{0:1}}}`,
	} {
		if err := os.WriteFile(filepath.Join(java, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = metadataSummary{}
	if to.json(&s, "metadata", "import", java); s.Topics != 0 || s.Groups != 1 || s.Offsets != 1 || len(s.Skipped) != 4 {
		t.Errorf("%+v", s)
	}
	if at, err := to.in.broker.CommittedOffset("late", "orders", 0, false); err != nil || at != 9 {
		t.Errorf("%d, %v", at, err)
	}
	to.fails("has none of", "metadata", "import", t.TempDir())
	to.fails("there is no broker b", "metadata", "import", folder, "--broker", "b")
	if err := os.WriteFile(filepath.Join(java, javastore.TopicsFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	to.fails(javastore.TopicsFile, "metadata", "import", java)
}

func FuzzTraceOf(f *testing.F) {
	f.Add("Pub\x011\x01r\x01g\x01t\x01id\x02SubAfter\x01x\x01id\x02")
	f.Add("\x02\x01")
	f.Fuzz(func(t *testing.T, data string) {
		if n := len(traceOf(data, "id", "client")); n > strings.Count(data, "\x02")+1 {
			t.Errorf("%d of them", n)
		}
	})
}

// TestLevelOfTheProcess: the logger follows the level of the process, which ChangeLogLevel changes.
func TestLevelOfTheProcess(t *testing.T) {
	before := zerolog.GlobalLevel()
	t.Cleanup(func() { zerolog.SetGlobalLevel(before) })
	out, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close() //nolint:errcheck // only read from
	log := newLogger(out, "warn", "json")
	log.Info().Msg("too low")
	zerolog.SetGlobalLevel(zerolog.DebugLevel)
	log.Debug().Msg("high enough")
	data, err := os.ReadFile(out.Name())
	if err != nil || strings.Contains(string(data), "too low") || !strings.Contains(string(data), "high enough") {
		t.Errorf("%s, %v", data, err)
	}
}
