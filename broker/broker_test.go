package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOpenRefusesWhatCannotBe(t *testing.T) {
	for what, opts := range map[string]Options{
		"cluster name": {ClusterName: "a b"},
		"broker name":  {BrokerName: "a\x01"},
		"queues":       {DefaultQueues: -1},
	} {
		if b, err := Open(context.Background(), store.Options{FS: vfs.NewMem(), Dir: "data"}, opts); err == nil {
			t.Errorf("%s: opened", what)
			_ = b.Close()
		}
	}
}

func TestEverythingIsThereAfterARestart(t *testing.T) {
	b := openBroker(t)
	b.group(t, "g")
	for i := range 20 {
		b.send(t, fmt.Sprint("t", i%3), -1, plain(fmt.Sprint(i)))
	}
	before := map[string][]QueueStats{}
	for i := range 3 {
		before[fmt.Sprint("t", i)], _ = b.TopicStats(fmt.Sprint("t", i))
	}
	b.restart(t)
	for topic, want := range before {
		got, err := b.TopicStats(topic)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, %v, want %v", topic, got, err, want)
		}
	}
	if _, err := b.Group("g"); err != nil {
		t.Error(err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	_, err := b.Send(context.Background(), &SendRequest{Topic: "t0", Messages: []message.Message{plain("late")}})
	wantCode(t, "send after close", err, CodeClosing)
	if err := b.Close(); err != nil {
		t.Errorf("the second close: %v", err)
	}
	b.open(t)
}

// Every verb that reads or writes answers CodeClosing once the broker is closed, instead of reading a closed store.
func TestVerbsAfterClose(t *testing.T) {
	b := openBroker(t)
	b.topicOf(t, "t", 2)
	b.group(t, "g")
	at := b.sendBodies(t, "t", 0, 3)[0].Position
	closed := b.Broker
	b.close(t)
	ctx, buf := context.Background(), store.NewBuffer()
	defer buf.Release()
	second := func(_ any, err error) error { return err }
	for what, err := range map[string]error{
		"send":      second(closed.Send(ctx, &SendRequest{Topic: "t", Messages: []message.Message{plain("x")}})),
		"send back": closed.SendBack(ctx, &SendBackRequest{Group: "g", Position: at}),
		"pull":      second(closed.Pull(ctx, &PullRequest{Group: "g", Topic: "t", Suspend: time.Hour, CommitOffset: 1})),
		"min":       second(closed.MinOffset("t", 0)),
		"max":       second(closed.MaxOffset("t", 0)),
		"by time":   second(closed.OffsetByTime("t", 0, 0, store.Lower)),
		"earliest":  second(closed.EarliestStoreTime("t", 0)),
		"committed": second(closed.CommittedOffset("g", "t", 0, true)),
		"commit":    closed.CommitOffsets(ctx, "g", []OffsetCommit{{"t", 0, 1}}),
		"one-way":   closed.CommitOffsetAsync("g", OffsetCommit{"t", 0, 1}),
		"reset":     second(closed.ResetOffsets(ctx, "g", "t", 0, 1, 0, true)),
		"forget":    second(closed.ForgetPlace(ctx, "g", "t")),
		"topics":    second(closed.GroupTopics("g")),
		"progress":  second(closed.GroupProgress("g", "")),
		"groups":    second(closed.GroupsOfTopic("t")),
		"key":       second(closed.QueryByKey("t", "k", 0, 1, 1, buf)),
		"id":        second(closed.QueryByUniqueID("t", "k", 0, 1, 1, buf)),
		"position":  second(closed.MessageByPosition("t", at, buf)),
		"stats":     second(closed.TopicStats("t")),
		"topic":     second(closed.Topic("t")),
		"group":     second(closed.Group("g")),
		"ensure t":  second(closed.EnsureTopic(ctx, "t", 1)),
		"ensure g":  second(closed.EnsureGroup(ctx, "g")),
		"put t":     closed.PutTopic(ctx, catalog.Topic{Name: "t"}, ""),
		"delete t":  closed.DeleteTopic(ctx, "t"),
		"put g":     closed.PutGroup(ctx, catalog.DefaultGroup("g"), ""),
		"delete g":  closed.DeleteGroup(ctx, "g", true),
		"put kv":    closed.PutKV(ctx, "n", "k", "v"),
		"delete kv": closed.DeleteKV(ctx, "n", "k"),
	} {
		wantCode(t, what, err, CodeClosing)
	}
	b.open(t)
}

// Sends that are under way when the broker closes are each answered once; what was acknowledged is there afterwards.
func TestCloseUnderLoad(t *testing.T) {
	b := openBroker(t)
	b.topicOf(t, "t", 1)
	var acknowledged sync.Map
	var all sync.WaitGroup
	started := make(chan struct{}, 8)
	for range 8 {
		all.Go(func() {
			for i := 0; ; i++ {
				res, err := b.Broker.Send(context.Background(), &SendRequest{Topic: "t", Messages: []message.Message{plain("x")}})
				if err != nil {
					if CodeOf(err) != CodeClosing {
						t.Error(err)
					}
					return
				}
				if i == 10 {
					started <- struct{}{}
				}
				acknowledged.Store(res[0].QueueOffset, res[0].UniqueID)
			}
		})
	}
	for range 4 {
		all.Go(func() {
			for {
				res, err := b.Broker.Pull(context.Background(), &PullRequest{Group: "g", Topic: "t", Suspend: time.Hour, CommitOffset: 1})
				if err == nil {
					_, err = b.Broker.TopicStats("t")
				}
				if res != nil {
					res.Buffer.Release()
				}
				if err != nil {
					if CodeOf(err) != CodeClosing {
						t.Error(err)
					}
					return
				}
			}
		})
	}
	for range 8 {
		receive(t, started)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	all.Wait()
	b.open(t)
	ids := map[int64]string{}
	for offset := int64(0); ; {
		res := b.pull(t, "g", "t", 0, offset)
		if res.Status != PullFound {
			break
		}
		for _, m := range decodeAll(t, res.Buffer.B, res.Ends) {
			id, _ := message.Property(m.Properties, message.PropUniqueKey)
			ids[m.QueueOffset] = string(id)
		}
		offset = res.NextOffset
		res.Buffer.Release()
	}
	acknowledged.Range(func(offset, id any) bool {
		if ids[offset.(int64)] != id.(string) {
			t.Errorf("offset %d was acknowledged as %s and is %q", offset, id, ids[offset.(int64)])
		}
		return true
	})
}

func TestErrorsOfTheFloorsBelowGetACode(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Code
	}{
		{commitlog.ErrBusy, CodeBusy},
		{commitlog.ErrDiskFull, CodeReadOnly},
		{commitlog.ErrFailed, CodeReadOnly},
		{commitlog.ErrClosed, CodeClosing},
		{commitlog.ErrTooLarge, CodeBodyTooLarge},
		{commitlog.ErrGone, CodeNotFound},
		{store.ErrNotFound, CodeNotFound},
		{catalog.ErrTopicNotFound, CodeTopicNotFound},
		{catalog.ErrGroupNotFound, CodeGroupNotFound},
		{&catalog.NameError{What: "topic"}, CodeTopicIllegal},
		{&catalog.NameError{What: "group"}, CodeGroupIllegal},
		{&catalog.NameError{What: "attribute"}, CodeParameter},
		{refuse(CodeUnsupported, "x"), CodeUnsupported},
		{errors.New("something"), CodeInternal},
		{context.Canceled, CodeInternal},
	} {
		err := verbError(fmt.Errorf("wrapped: %w", c.err), "do it")
		if CodeOf(err) != c.want || !errors.Is(err, c.err) {
			t.Errorf("%v became %v with code %d, want %d", c.err, err, CodeOf(err), c.want)
		}
	}
	if err := verbError(nil, "do it"); err != nil {
		t.Errorf("nil became %v", err)
	}
}

func TestUpkeepExpiresClientsLocksAndMessages(t *testing.T) {
	c := clock.NewFake(epoch)
	b := openBroker(t, withClock(c))
	b.clients.RegisterProducer("p", &Client{ID: "1"})
	b.LockQueues("g", "1", []QueueRef{{"t", 0}})
	b.send(t, "t", 0, plain("x"))
	for range 80 {
		c.Advance(time.Hour)
		settle(t, b.due)
	}
	if got := b.clients.ProducerGroups(); len(got) != 0 {
		t.Errorf("producers %q after hours", got)
	}
	if n := len(b.locks.mu.owners); n != 0 {
		t.Errorf("%d locks after hours", n)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		if low, _ := b.MinOffset("t", 0); low == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the message outlived its retention")
		}
		c.Advance(expireEvery)
		settle(t, b.due)
	}
}
