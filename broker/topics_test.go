package broker

import (
	"context"
	"maps"
	"sync"
	"testing"

	"github.com/cairnmq/cairn/catalog"
)

func TestPutTopicKeepsAndChangesAttributes(t *testing.T) {
	b := openBroker(t)
	ctx := context.Background()
	topic := catalog.Topic{Name: "t", ReadQueues: 4, WriteQueues: 4, Perm: 6}
	put := func(change string) (map[string]string, error) {
		err := b.PutTopic(ctx, topic, change)
		made, _ := b.Topic("t")
		if made == nil {
			return nil, err
		}
		return made.Attributes, err
	}
	if got, err := put("+message.type=FIFO"); err != nil || !maps.Equal(got, map[string]string{"message.type": "FIFO"}) {
		t.Errorf("created with %v, %v", got, err)
	}
	id := mustTopic(t, b, "t").ID
	topic.ReadQueues, topic.Perm = 8, 4
	if got, err := put(""); err != nil || !maps.Equal(got, map[string]string{"message.type": "FIFO"}) {
		t.Errorf("no change left %v, %v", got, err)
	}
	if made := mustTopic(t, b, "t"); made.ReadQueues != 8 || made.Perm != 4 || made.ID != id {
		t.Errorf("replaced by %+v", made)
	}
	if got, err := put("-message.type"); err != nil || len(got) != 0 {
		t.Errorf("removal left %v, %v", got, err)
	}
	_, err := put("+message.type=NONSENSE")
	wantCode(t, "bad value", err, CodeParameter)
	_, err = put("+unknown=1")
	wantCode(t, "unknown attribute", err, CodeParameter)
}

func mustTopic(t *testing.T, b *testBroker, name string) *catalog.Topic {
	t.Helper()
	topic, err := b.Topic(name)
	if err != nil {
		t.Fatal(err)
	}
	return topic
}

func TestPutTopicRefusals(t *testing.T) {
	b := openBroker(t)
	fine := catalog.Topic{Name: "t", ReadQueues: 4, WriteQueues: 4, Perm: 6}
	for what, c := range map[string]struct {
		change func(*catalog.Topic)
		want   Code
	}{
		"name":         {func(t *catalog.Topic) { t.Name = "a b" }, CodeTopicIllegal},
		"system":       {func(t *catalog.Topic) { t.Name = "TBW102" }, CodeTopicIllegal},
		"cluster":      {func(t *catalog.Topic) { t.Name = "DefaultCluster" }, CodeTopicIllegal},
		"no queue":     {func(t *catalog.Topic) { t.WriteQueues = 0 }, CodeParameter},
		"many queues":  {func(t *catalog.Topic) { t.ReadQueues = maxQueues + 1 }, CodeParameter},
		"permission":   {func(t *catalog.Topic) { t.Perm = 8 }, CodeParameter},
		"filter type":  {func(t *catalog.Topic) { t.TopicFilterType = "x" }, CodeParameter},
		"less than no": {func(t *catalog.Topic) { t.Perm = -1 }, CodeParameter},
	} {
		topic := fine
		c.change(&topic)
		wantCode(t, what, b.PutTopic(context.Background(), topic, ""), c.want)
	}
	wantCode(t, "delete a system topic", b.DeleteTopic(context.Background(), "TBW102"), CodeTopicIllegal)
	wantCode(t, "delete what is not there", b.DeleteTopic(context.Background(), "none"), CodeTopicNotFound)
}

func TestTopicsOfTheSystemAreThere(t *testing.T) {
	b := openBroker(t)
	for name, queues := range map[string]int32{
		"TBW102": 8, "DefaultCluster": 16, "broker-a": 1, "DefaultCluster_REPLY_TOPIC": 1, "SELF_TEST_TOPIC": 1,
		"OFFSET_MOVED_EVENT": 1, "RMQ_SYS_TRACE_TOPIC": 1, "BenchmarkTest": 16, "SCHEDULE_TOPIC_XXXX": 18, "RMQ_SYS_TRANS_HALF_TOPIC": 1, "TRANS_CHECK_MAX_TIME_TOPIC": 1,
	} {
		if topic := mustTopic(t, b, name); topic.ReadQueues != queues || !b.isSystemTopic(name) {
			t.Errorf("%s: %+v", name, topic)
		}
	}
	version, _ := b.catalog.Version()
	b.restart(t)
	if again, _ := b.catalog.Version(); again != version {
		t.Errorf("a restart changed the topics: version %d, was %d", again, version)
	}
	b.send(t, "RMQ_SYS_TRACE_TOPIC", -1, plain("trace"))
}

func TestDeletedTopicBeginsAnew(t *testing.T) {
	b := openBroker(t)
	ctx := context.Background()
	b.topicOf(t, "t", 1)
	b.group(t, "g")
	b.sendBodies(t, "t", 0, 5)
	if err := b.CommitOffsets(ctx, "g", []OffsetCommit{{"t", 0, 3}}); err != nil {
		t.Fatal(err)
	}
	if err := b.CommitOffsetAsync("g", OffsetCommit{"t", 0, 4}); err != nil {
		t.Fatal(err)
	}
	if err := b.DeleteTopic(ctx, "t"); err != nil {
		t.Fatal(err)
	}
	b.offsets.flush(nil) // the one-way commit for the topic that is gone
	wantCode(t, "deleted", b.DeleteTopic(ctx, "t"), CodeTopicNotFound)
	b.topicOf(t, "t", 1)
	if res := b.sendBodies(t, "t", 0, 2); res[0].QueueOffset != 0 {
		t.Errorf("the new topic begins at %d", res[0].QueueOffset)
	}
	if got := b.committed(t, "g", "t", 0); got != -1 {
		t.Errorf("the group is at %d of a topic that it never consumed", got)
	}
}

func TestGroupsComeWithTheirRetryTopic(t *testing.T) {
	b := openBroker(t)
	ctx := context.Background()
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if g, err := b.EnsureGroup(ctx, "g"); err != nil || g.Name != "g" {
				t.Errorf("%+v, %v", g, err)
			}
		})
	}
	all.Wait()
	if topic := mustTopic(t, b, "%RETRY%g"); topic.ReadQueues != 1 || topic.Perm != 6 {
		t.Errorf("retry topic %+v", topic)
	}
	put := catalog.DefaultGroup("h")
	put.RetryQueueNums, put.RetryMaxTimes = 3, 5
	if err := b.PutGroup(ctx, put, "+priority.factor=50"); err != nil {
		t.Fatal(err)
	}
	if topic := mustTopic(t, b, "%RETRY%h"); topic.WriteQueues != 3 {
		t.Errorf("retry topic %+v", topic)
	}
	put.RetryMaxTimes = 7
	if err := b.PutGroup(ctx, put, ""); err != nil {
		t.Fatal(err)
	}
	if h, err := b.Group("h"); err != nil || h.RetryMaxTimes != 7 || h.Attributes["priority.factor"] != "50" {
		t.Errorf("group %+v, %v", h, err)
	}
	wantCode(t, "bad name", b.PutGroup(ctx, catalog.DefaultGroup("a b"), ""), CodeGroupIllegal)
	wantCode(t, "bad attribute", b.PutGroup(ctx, put, "+message.type=FIFO"), CodeParameter)
	put.RetryQueueNums = -1
	wantCode(t, "bad queues", b.PutGroup(ctx, put, ""), CodeParameter)
	if _, err := b.EnsureGroup(ctx, "a b"); CodeOf(err) != CodeGroupIllegal {
		t.Errorf("bad name: %v", err)
	}
	b.topicOf(t, "t", 1)
	if err := b.CommitOffsets(ctx, "h", []OffsetCommit{{"t", 0, 3}}); err != nil {
		t.Fatal(err)
	}
	if err := b.DeleteGroup(ctx, "h", true); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "deleted", b.DeleteGroup(ctx, "h", true), CodeGroupNotFound)
	b.group(t, "h")
	if got := b.committed(t, "h", "t", 0); got != -1 {
		t.Errorf("the new group is at %d", got)
	}
}

// Changes of one topic from many sides do not lose each other's attributes.
func TestChangesOfOneTopicDoNotLoseEachOther(t *testing.T) {
	b := openBroker(t)
	ctx := context.Background()
	topic := catalog.Topic{Name: "t", ReadQueues: 4, WriteQueues: 4, Perm: 6}
	if err := b.PutTopic(ctx, topic, ""); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for _, change := range []string{"+message.type=FIFO", "+lite.topic.expiration=30", "+reserve.time=5"} {
		all.Go(func() {
			if err := b.PutTopic(ctx, topic, change); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := mustTopic(t, b, "t").Attributes; len(got) != 3 {
		t.Errorf("attributes %v", got)
	}
}

func TestConfigurationOfTheNameServer(t *testing.T) {
	b := openBroker(t)
	ctx := context.Background()
	if err := b.PutKV(ctx, "ns", "k", "v"); err != nil {
		t.Fatal(err)
	}
	if v, ok, err := b.catalog.KV("ns", "k"); v != "v" || !ok || err != nil {
		t.Errorf("%q %v %v", v, ok, err)
	}
	for range 2 {
		if err := b.DeleteKV(ctx, "ns", "k"); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok, err := b.catalog.KV("ns", "k"); ok || err != nil {
		t.Errorf("%v %v", ok, err)
	}
	wantCode(t, "no key", b.PutKV(ctx, "ns", "", "v"), CodeParameter)
}
