package broker

import (
	"context"
	"testing"
	"time"
)

func TestForgetPlace(t *testing.T) {
	b := openBroker(t)
	ctx := context.Background()
	b.topicOf(t, "t", 2)
	b.topicOf(t, "other", 1)
	b.group(t, "g")
	b.sendBodies(t, "t", 0, 3)
	b.sendBodies(t, "other", 0, 3)
	pop := func(topic string) int {
		t.Helper()
		res, err := b.Pop(ctx, &PopRequest{Group: "g", Topic: topic, Queue: -1, Max: 32, Invisible: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		res.Buffer.Release()
		return len(res.Handles)
	}
	forget := func(want bool) {
		t.Helper()
		if found, err := b.ForgetPlace(ctx, "g", "t"); err != nil || found != want {
			t.Fatalf("found %v, %v; want %v", found, err, want)
		}
	}
	forget(false)
	if pop("t") != 3 || pop("other") != 3 {
		t.Fatal("not all were popped")
	}
	forget(true)
	forget(false)
	if topics, err := b.GroupTopics("g"); err != nil || len(topics) != 1 || topics[0] != "other" {
		t.Errorf("a place in %v, %v; want only one in other", topics, err)
	}
	if p, err := b.GroupProgress("g", "t"); err != nil || p[0].InFlight != 0 || p[0].Ready != 3 {
		t.Errorf("%+v, %v", p, err)
	}
	if n := pop("t"); n != 3 {
		t.Errorf("popped %d from the beginning, want 3", n)
	}
	if n := pop("other"); n != 0 {
		t.Errorf("popped %d of another topic once more", n)
	}

	// An offset that only waits to be written is a place too, and does not come back.
	forget(true)
	if err := b.CommitOffsetAsync("g", OffsetCommit{"t", 1, 0}); err != nil {
		t.Fatal(err)
	}
	forget(true)
	if err := b.CommitOffsets(ctx, "g", []OffsetCommit{{"other", 0, 3}}); err != nil {
		t.Fatal(err)
	}
	forget(false)

	for code, names := range map[Code][2]string{
		CodeGroupNotFound: {"none", "t"}, CodeTopicNotFound: {"g", "none"}, CodeParameter: {"CID_RMQ_SYS_DLQ", "t"},
	} {
		if _, err := b.ForgetPlace(ctx, names[0], names[1]); CodeOf(err) != code {
			t.Errorf("%v: %v, want code %v", names, err, code)
		}
	}
}
