package broker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/store"
)

func TestSendStoresWhatWasSent(t *testing.T) {
	b := openBroker(t)
	m := plain("hello", "TAGS", "a", "POP_CK", "stale", "UNIQ_KEY", "ID1", "mine", "1")
	m.Flag, m.ReconsumeTimes, m.SysFlag = 7, 2, message.FlagMultiTags
	res := b.send(t, "t", 3, m)[0]
	if res.QueueID != 3 || res.QueueOffset != 0 || res.UniqueID != "ID1" || res.StoreTime == 0 {
		t.Errorf("result %+v", res)
	}
	if want := message.OffsetID(brokerHost, int64(res.Position)); b.OffsetID(res.Position) != want {
		t.Errorf("offset id %s, want %s", b.OffsetID(res.Position), want)
	}
	buf := store.NewBuffer()
	defer buf.Release()
	layout, err := b.MessageByPosition("t", res.Position, buf)
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := message.Decode(layout)
	if err != nil {
		t.Fatal(err)
	}
	if got.Topic != "t" || got.QueueID != 3 || got.Flag != 7 || got.ReconsumeTimes != 2 || string(got.Body) != "hello" ||
		got.BornTimestamp != 1234 || got.BornHost != clientHost || got.StoreHost != brokerHost ||
		got.StoreTimestamp != res.StoreTime || got.PhysicalOffset != int64(res.Position) || got.SysFlag != message.FlagMultiTags {
		t.Errorf("stored %+v", got)
	}
	want := map[string]string{
		"TAGS": "a", "UNIQ_KEY": "ID1", "mine": "1", "CLUSTER": "DefaultCluster", "MSG_REGION": "DefaultRegion", "TRACE_ON": "true",
	}
	if props := message.DecodeProperties(got.Properties); !maps.Equal(props, want) {
		t.Errorf("properties %v, want %v", props, want)
	}
}

func TestSendMakesUpAnIDAndKeepsWhatIsThere(t *testing.T) {
	b := openBroker(t)
	own := plain("x")
	own.Properties = []byte("CLUSTER\x01c\x02MSG_REGION\x01r\x02TRACE_ON\x01false") // no last separator, as old clients send
	res := b.send(t, "t", 0, plain("no property"), own)
	if len(res[0].UniqueID) != 32 || len(res[1].UniqueID) != 32 || res[0].UniqueID == res[1].UniqueID {
		t.Errorf("ids %q and %q", res[0].UniqueID, res[1].UniqueID)
	}
	got := b.pull(t, "g", "t", 0, 0)
	defer got.Buffer.Release()
	messages := decodeAll(t, got.Buffer.B, got.Ends)
	want := map[string]string{"UNIQ_KEY": res[1].UniqueID, "CLUSTER": "c", "MSG_REGION": "r", "TRACE_ON": "false"}
	if props := message.DecodeProperties(messages[1].Properties); !maps.Equal(props, want) {
		t.Errorf("properties %v, want %v", props, want)
	}
	if props := message.DecodeProperties(messages[0].Properties); props["UNIQ_KEY"] != res[0].UniqueID || len(props) != 4 {
		t.Errorf("properties %v", props)
	}
}

func TestBatchIsConsecutiveInOneQueue(t *testing.T) {
	b := openBroker(t)
	b.topicOf(t, "t", 4)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 20 {
				res, err := b.Send(context.Background(), &SendRequest{Topic: "t", QueueID: -1, Messages: []message.Message{
					plain("a"), plain("b"), plain("c"),
				}})
				if err != nil {
					t.Error(err)
					return
				}
				for i := range res {
					if res[i].QueueID != res[0].QueueID || res[i].QueueOffset != res[0].QueueOffset+int64(i) {
						t.Errorf("batch %+v", res)
					}
				}
			}
		})
	}
	all.Wait()
	total := int64(0)
	for q := range int32(4) {
		high, err := b.MaxOffset("t", q)
		if err != nil || high == 0 {
			t.Errorf("queue %d has %d messages, %v: the batches do not go round", q, high, err)
		}
		total += high
	}
	if total != 480 {
		t.Errorf("%d messages are stored, want 480", total)
	}
}

func TestSendersOfANewTopicMakeItOnce(t *testing.T) {
	b := openBroker(t)
	changed := 0
	b.OnTopicsChanged(func() { changed++ }) // from the folder goroutine only
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			_, err := b.Send(context.Background(), &SendRequest{
				Topic: "new", QueueID: -1, Messages: []message.Message{plain(fmt.Sprint(i))}, DefaultTopic: "TBW102", DefaultQueues: 4,
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	topic, err := b.Topic("new")
	if err != nil || topic.ReadQueues != 4 || topic.WriteQueues != 4 || topic.Perm != 6 {
		t.Fatalf("topic %+v, %v", topic, err)
	}
	if changed != 1 {
		t.Errorf("the topic was put %d times", changed)
	}
	stats, err := b.TopicStats("new")
	if err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	for _, s := range stats {
		total += s.Max
	}
	if total != 50 {
		t.Errorf("%d messages, want 50", total)
	}
}

func TestTheSenderMayReuseItsBytes(t *testing.T) {
	b := openBroker(t)
	for _, topic := range []string{"new", "new", "new"} { // the first has to be made, its send is kept meanwhile
		m := plain("original", "KEYS", "original")
		over := make(chan error, 1)
		b.SendAsync(&SendRequest{Topic: topic, Messages: []message.Message{m}, DefaultTopic: "TBW102"},
			func(_ []SendResult, err error) { over <- err })
		copy(m.Body, "scribble")
		copy(m.Properties, "SCRIBBLE")
		if err := receive(t, over); err != nil {
			t.Fatal(err)
		}
	}
	res := b.pull(t, "g", "new", 0, 0)
	defer res.Buffer.Release()
	for _, m := range decodeAll(t, res.Buffer.B, res.Ends) {
		if keys, _ := message.Property(m.Properties, "KEYS"); string(m.Body) != "original" || string(keys) != "original" {
			t.Errorf("stored %q with keys %q", m.Body, keys)
		}
	}
	if len(res.Ends) != 3 {
		t.Errorf("%d messages, want 3", len(res.Ends))
	}
}

func TestSendRefusals(t *testing.T) {
	b := openBroker(t, func(o *Options) { o.MaxMessageSize = 1000 })
	b.topicOf(t, "t", 2)
	b.group(t, "g")
	long := strings.Repeat("x", 1001)
	prepared := plain("x")
	prepared.SysFlag = message.FlagPrepared
	rolledBack := plain("x")
	rolledBack.SysFlag = message.FlagRollback
	one := func(m message.Message) []message.Message { return []message.Message{m} }
	for _, c := range []struct {
		what string
		req  SendRequest
		want Code
	}{
		{"no message", SendRequest{Topic: "t"}, CodeMessageIllegal},
		{"no topic, no template", SendRequest{Topic: "none", Messages: one(plain("x"))}, CodeTopicNotFound},
		{"another template", SendRequest{Topic: "none", Messages: one(plain("x")), DefaultTopic: "t"}, CodeTopicNotFound},
		{"bad name", SendRequest{Topic: "a b", Messages: one(plain("x")), DefaultTopic: "TBW102"}, CodeTopicIllegal},
		{"long name", SendRequest{Topic: strings.Repeat("a", 128), Messages: one(plain("x")), DefaultTopic: "TBW102"}, CodeTopicIllegal},
		{"system topic", SendRequest{Topic: "SCHEDULE_TOPIC_XXXX", Messages: one(plain("x"))}, CodeNoPermission},
		{"queue past the last", SendRequest{Topic: "t", QueueID: 2, Messages: one(plain("x"))}, CodeParameter},
		{"queue -2", SendRequest{Topic: "t", QueueID: -2, Messages: one(plain("x"))}, CodeParameter},
		{"body", SendRequest{Topic: "t", Messages: one(plain(long))}, CodeBodyTooLarge},
		{"bodies", SendRequest{Topic: "t", Messages: []message.Message{plain(long[:600]), plain(long[:600])}}, CodeBodyTooLarge},
		{"properties", SendRequest{Topic: "t", Messages: one(plain("x", "k", strings.Repeat("v", 32_767)))}, CodePropertiesTooLarge},
		{"batch with a level", SendRequest{Topic: "t", Messages: []message.Message{plain("x"), plain("x", "DELAY", "3")}}, CodeMessageIllegal},
		{"batch with a timer", SendRequest{Topic: "t", Messages: []message.Message{plain("x"), plain("x", "TIMER_DELAY_MS", "1")}},
			CodeMessageIllegal},
		{"batch with a half message", SendRequest{Topic: "t", Messages: []message.Message{plain("x"), plain("x", "TRAN_MSG", "true", "PGROUP", "p")}},
			CodeMessageIllegal},
		{"no time", SendRequest{Topic: "t", Messages: one(plain("x", "TIMER_DELIVER_MS", "soon"))}, CodeMessageIllegal},
		{"late", SendRequest{Topic: "t", Messages: one(plain("x", "TIMER_DELAY_SEC", "31536001"))}, CodeDelayTooLong},
		{"half and late", SendRequest{Topic: "t", Messages: one(plain("x", "TIMER_DELAY_SEC", "31536001", "TRAN_MSG", "true", "PGROUP", "p"))},
			CodeDelayTooLong},
		{"nobody's transaction", SendRequest{Topic: "t", Messages: one(plain("x", "TRAN_MSG", "true"))}, CodeMessageIllegal},
		{"nobody's prepared message", SendRequest{Topic: "t", Messages: one(prepared)}, CodeMessageIllegal},
		{"rolled back", SendRequest{Topic: "t", Messages: one(rolledBack)}, CodeMessageIllegal},
		{"retry batch", SendRequest{Topic: "%RETRY%g", Messages: []message.Message{plain("x"), plain("y")}}, CodeMessageIllegal},
		{"retry of a bad group", SendRequest{Topic: "%RETRY%a b", Messages: one(plain("x"))}, CodeGroupIllegal},
	} {
		res, err := b.Send(context.Background(), &c.req)
		wantCode(t, c.what, err, c.want)
		if res != nil {
			t.Errorf("%s: results %v beside the error", c.what, res)
		}
	}
	for _, fine := range []message.Message{plain(""), plain(long[:1000]), plain("x", "DELAY", "0"), plain("x", "TRAN_MSG", "false")} {
		b.send(t, "t", 1, fine)
	}
	if high, _ := b.MaxOffset("t", 1); high != 4 {
		t.Errorf("%d of 4 legal messages are stored", high)
	}
	if high, _ := b.MaxOffset("t", 0); high != 0 {
		t.Errorf("%d messages that were refused are stored", high)
	}
}

func TestTopicsAreNotMadeWhenThatIsOff(t *testing.T) {
	b := openBroker(t, func(o *Options) { o.AutoCreateTopics, o.AutoCreateGroups = false, false })
	_, err := b.Send(context.Background(), &SendRequest{
		Topic: "none", Messages: []message.Message{plain("x")}, DefaultTopic: "TBW102",
	})
	wantCode(t, "send", err, CodeTopicNotFound)
	_, err = b.EnsureTopic(context.Background(), "none", 4)
	wantCode(t, "ensure topic", err, CodeTopicNotFound)
	_, err = b.EnsureGroup(context.Background(), "none")
	wantCode(t, "ensure group", err, CodeGroupNotFound)
	_, err = b.Send(context.Background(), &SendRequest{Topic: "%RETRY%none", Messages: []message.Message{plain("x")}})
	wantCode(t, "retry", err, CodeGroupNotFound)
	_, err = b.Pull(context.Background(), &PullRequest{Group: "none", Topic: "none", CommitOffset: -1})
	wantCode(t, "pull", err, CodeGroupNotFound)
	if _, err := b.EnsureGroup(context.Background(), "CID_RMQ_SYS_x"); err != nil {
		t.Errorf("a system group was not made: %v", err)
	}
	if _, err := b.Topic("TBW102"); CodeOf(err) != CodeTopicNotFound {
		t.Errorf("the template is there: %v", err)
	}
}

func TestRetriesGoToTheDeadLetterTopicInTheEnd(t *testing.T) {
	b := openBroker(t)
	send := func(group string, reconsumed, limit int32) {
		t.Helper()
		m := plain("x", "RETRY_TOPIC", "t")
		m.ReconsumeTimes = reconsumed
		_, err := b.Send(context.Background(), &SendRequest{
			Topic: "%RETRY%" + group, Messages: []message.Message{m}, MaxReconsume: limit,
		})
		if err != nil {
			t.Fatalf("%d of %d: %v", reconsumed, limit, err)
		}
	}
	counts := func() (got [2]int64) {
		for i, topic := range []string{"%RETRY%g", "%DLQ%g"} {
			got[i], _ = b.MaxOffset(topic, 0)
		}
		return got
	}
	send("g", 16, 0) // makes the group
	if _, err := b.Group("g"); err != nil {
		t.Errorf("the group was not made: %v", err)
	}
	if got := counts(); got != [2]int64{1, 0} {
		t.Errorf("retry and dead letters: %v", got)
	}
	send("g", 17, 0)
	send("g", 3, 2)
	send("g", 3, 3)
	if got := counts(); got != [2]int64{2, 2} {
		t.Errorf("retry and dead letters: %v, want 2 and 2", got)
	}
	dead, err := b.Topic("%DLQ%g")
	if err != nil || dead.ReadQueues != 1 || dead.Perm != 6 {
		t.Errorf("dead-letter topic %+v, %v", dead, err)
	}
	g, _ := b.Group("g")
	_ = b.DeleteTopic(context.Background(), "%RETRY%g")
	send("g", 1, 0) // made again
	if topic, err := b.Topic("%RETRY%g"); err != nil || topic.WriteQueues != g.RetryQueueNums {
		t.Errorf("retry topic %+v, %v", topic, err)
	}
}

func TestRotationUsesAllQueues(t *testing.T) {
	r := newRotation()
	for _, queues := range []int32{1, 3, 8} {
		topic := &catalog.Topic{ID: 5, ReadQueues: 16, WriteQueues: queues}
		for _, c := range []struct {
			what       string
			n          int
			messagesMs int // that come in one millisecond
		}{{"one after the other", 24, 1}, {"some at once", 24 * 5, 5}, {"all at once", 24 * turnMessages, 1 << 20}} {
			seen := map[int32]int{}
			turns, last := 0, int32(-1)
			for i := range c.n {
				q := r.next(topic, int64(1_000_000*int(queues)+i/c.messagesMs))
				if seen[q]++; q != last {
					turns, last = turns+1, q
				}
			}
			for q := range queues {
				if n := seen[q]; n != c.n/int(queues) {
					t.Errorf("%s: queue %d of %d was chosen %d times of %d", c.what, q, queues, n, c.n)
				}
			}
			if want := 24; queues > 1 && turns != want {
				t.Errorf("%s: %d turns, want %d", c.what, turns, want)
			}
		}
	}
}

func TestScanProperties(t *testing.T) {
	for _, c := range []struct {
		props string
		want  seenProperties
	}{
		{"", seenProperties{}},
		{"DELAY\x010\x02", seenProperties{}},
		{"DELAY\x01x\x02", seenProperties{}},
		{"DELAY\x01-1\x02", seenProperties{}},
		{"DELAY\x011\x02", seenProperties{wish: delayWish{level: 1}}},
		{"TIMER_DELAY_SEC\x011\x02TIMER_DELIVER_MS\x017", seenProperties{wish: delayWish{sec: []byte("1"), deliver: []byte("7")}}},
		{"TIMER_DELAY_MS\x011\x02TIMER_OUT_MS\x012", seenProperties{wish: delayWish{ms: []byte("1"), done: true}}},
		{"PGROUP\x01p\x02CHECK_IMMUNITY_TIME_IN_SECONDS\x019", seenProperties{group: []byte("p"), immunity: []byte("9")}},
		{"TRAN_MSG\x01true\x02", seenProperties{transaction: true}},
		{"TRAN_MSG\x01TRUE\x02", seenProperties{}},
		{"__SHARDINGKEY\x01k\x02_SYS_MSG_PRIORITY_\x013\x02", seenProperties{kind: kindFIFO}},
		{"__LITE_TOPIC\x01k\x02", seenProperties{kind: kindLite}},
		{"CLUSTER\x01c\x02TRACE_ON\x01t\x02MSG_REGION\x01r\x02POP_CK\x01p\x02",
			seenProperties{cluster: true, traceOn: true, region: true, popCheck: true}},
	} {
		got := scanProperties([]byte(c.props))
		if got.uniqueID != nil || fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%q: %+v, want %+v", c.props, got, c.want)
		}
	}
	if got := scanProperties([]byte("UNIQ_KEY\x01a\x02")); !slices.Equal(got.uniqueID, []byte("a")) {
		t.Errorf("unique id %q", got.uniqueID)
	}
}
