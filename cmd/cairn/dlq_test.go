package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/message"
	doorhttp "github.com/cairnmq/cairn/server/http"
	"github.com/cairnmq/cairn/store"
)

func (f *fakeVerbs) DeadGroups(string, int) ([]broker.DeadGroup, bool, error) { return nil, false, nil }

func (f *fakeVerbs) DeadGroup(name string) (broker.DeadGroup, error) {
	return broker.DeadGroup{Group: name}, nil
}

func (f *fakeVerbs) DeadMessages(context.Context, broker.DeadQuery) ([]broker.DeadLetter, broker.DeadPoint, bool, error) {
	return nil, broker.DeadPoint{}, false, nil
}

func (f *fakeVerbs) Redrive(context.Context, *broker.RedriveRequest) (*broker.RedriveResult, error) {
	return &broker.RedriveResult{End: true}, nil
}

// mortuary is a real broker whose group billing has n dead letters of the topic orders, every other one with the tag red, and the
// address of its HTTP door.
func mortuary(t *testing.T, n int) (*broker.Broker, string) {
	t.Helper()
	ctx := context.Background()
	now := clock.NewFake(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	b, err := broker.Open(ctx, store.Options{FS: vfs.NewMem(), Dir: "data", SegmentSize: 8 << 20, Logger: zerolog.Nop()},
		broker.Options{Advertise: netip.MustParseAddrPort("127.0.0.1:10911"), AutoCreateGroups: true, Clock: now, Logger: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	topic := catalog.Topic{Name: "orders", ReadQueues: 1, WriteQueues: 1, Perm: catalog.PermRead | catalog.PermWrite}
	if err := b.PutTopic(ctx, topic, ""); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		m := message.Message{Body: fmt.Append(nil, i), BornTimestamp: 1, BornHost: netip.MustParseAddrPort("127.0.0.1:1")}
		m.Properties = message.AppendProperty(nil, message.PropUniqueKey, fmt.Sprint("id", i))
		m.Properties = message.AppendProperty(m.Properties, message.PropTags, []string{"red", "blue"}[i%2])
		if _, err := b.Send(ctx, &broker.SendRequest{Topic: "orders", Messages: []message.Message{m}}); err != nil {
			t.Fatal(err)
		}
	}
	for got := 0; got < n; {
		res, err := b.Pop(ctx, &broker.PopRequest{Group: "billing", Topic: "orders", Queue: -1, Max: 32, Invisible: time.Minute})
		if err != nil || len(res.Ends) == 0 {
			t.Fatalf("after %d: %v", got, err)
		}
		for _, h := range res.Receipts() {
			if err := b.Forward(ctx, &broker.ForwardRequest{Group: "billing", Topic: "orders", Handle: h}); err != nil {
				t.Fatal(err)
			}
		}
		got += len(res.Ends)
		res.Buffer.Release()
	}
	return b, openDoor(t, b)
}

func TestDLQListAndShow(t *testing.T) {
	_, addr := mortuary(t, 3)
	var groups []doorhttp.DeadGroup
	out, err := cairnSays(t, "dlq", "list", "--http", addr, "-o", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &groups)
	}
	if err != nil || len(groups) != 1 || groups[0].Group != "billing" || groups[0].Count != 3 {
		t.Fatalf("%s %v", out, err)
	}
	out, err = cairnSays(t, "dlq", "list", "--http", addr)
	if err != nil || !strings.Contains(out, "billing") || !strings.Contains(out, "2026-01-02") {
		t.Errorf("%s %v", out, err)
	}
	out, err = cairnSays(t, "dlq", "show", "billing", "--http", addr, "--tag", "red", "--reason", "forwarded")
	if err != nil || strings.Count(out, "forwarded") != 2 || !strings.Contains(out, "id2") || !strings.Contains(out, "0:2") || strings.Contains(out, "id1") {
		t.Errorf("%s %v", out, err)
	}
	out, err = cairnSays(t, "dlq", "show", "billing", "--http", addr, "--limit", "1")
	if err != nil || !strings.Contains(out, "id0") || strings.Contains(out, "id1") || !strings.Contains(out, "and more") {
		t.Errorf("%s %v", out, err)
	}
	out, err = cairnSays(t, "dlq", "show", "billing", "--http", addr, "--since", "2026-01-02T04:00:00Z", "-o", "json")
	if err != nil || strings.TrimSpace(out) != "[]" {
		t.Errorf("%s %v", out, err)
	}
	if _, err = cairnSays(t, "dlq", "show", "nobody", "--http", addr); err == nil || !strings.Contains(err.Error(), "has no dead letters") {
		t.Errorf("%v", err)
	}
}

// TestDLQRedrive: in parts no larger than the rate allows, with a filter, and once.
func TestDLQRedrive(t *testing.T) {
	b, addr := mortuary(t, 40)
	out, err := cairnSays(t, "dlq", "redrive", "billing", "--http", addr, "--tag", "red", "--rate", "200")
	if err != nil || !strings.Contains(out, "20 dead letters of group billing redriven, 20 others stay") || !strings.Contains(out, "redriving: ") {
		t.Fatalf("%s %v", out, err)
	}
	if n, err := b.MaxOffset("orders", 0); err != nil || n != 60 {
		t.Errorf("%d messages, %v", n, err)
	}
	out, err = cairnSays(t, "dlq", "redrive", "billing", "--http", addr, "--rate", "0")
	if err != nil || !strings.Contains(out, "20 dead letters of group billing redriven, 0 others stay") {
		t.Errorf("%s %v", out, err)
	}
	out, err = cairnSays(t, "dlq", "redrive", "billing", "--http", addr)
	if err != nil || !strings.Contains(out, "has no dead letters") {
		t.Errorf("%s %v", out, err)
	}
	if n, err := b.MaxOffset("orders", 0); err != nil || n != 80 {
		t.Errorf("%d messages, %v", n, err)
	}
}

func TestDLQRedriveElsewhere(t *testing.T) {
	b, addr := mortuary(t, 2)
	if _, err := cairnSays(t, "dlq", "redrive", "billing", "--http", addr, "--to", "nowhere"); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("%v", err)
	}
	if err := b.DeleteTopic(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	if _, err := cairnSays(t, "dlq", "redrive", "billing", "--http", addr); err == nil || !strings.Contains(err.Error(), "2 failed and stay") ||
		!strings.Contains(err.Error(), "topic orders does not exist") {
		t.Errorf("%v", err)
	}
	repair := catalog.Topic{Name: "repair", ReadQueues: 1, WriteQueues: 1, Perm: catalog.PermRead | catalog.PermWrite}
	if err := b.PutTopic(t.Context(), repair, ""); err != nil {
		t.Fatal(err)
	}
	if out, err := cairnSays(t, "dlq", "redrive", "billing", "--http", addr, "--to", "repair"); err != nil || !strings.Contains(out, "2 dead letters of group billing redriven") {
		t.Errorf("%s %v", out, err)
	}
}

func TestDLQPurge(t *testing.T) {
	b, addr := mortuary(t, 4)
	if _, err := cairnSays(t, "dlq", "purge", "billing", "--http", addr); !isUsage(err) || !strings.Contains(err.Error(), "4 dead letters") {
		t.Errorf("%v", err)
	}
	if out, err := cairnSays(t, "dlq", "purge", "billing", "--http", addr, "--id", "id3", "--yes"); err != nil || !strings.Contains(out, "1 dead letters of group billing purged, 3 others stay") {
		t.Errorf("%s %v", out, err)
	}
	if out, err := cairnSays(t, "dlq", "purge", "billing", "--http", addr, "--yes"); err != nil || !strings.Contains(out, "3 dead letters of group billing purged") {
		t.Errorf("%s %v", out, err)
	}
	if d, err := b.DeadGroup("billing"); err != nil || d.Count != 0 {
		t.Errorf("%+v, %v", d, err)
	}
	if n, err := b.MaxOffset("orders", 0); err != nil || n != 4 {
		t.Errorf("%d messages, %v", n, err)
	}
}

func TestDLQUsage(t *testing.T) {
	for _, args := range [][]string{
		{"redrive", "g", "--rate", "-1"}, {"redrive", "g", "--since", "yesterday"}, {"show", "g", "--limit", "0"}, {"show", "g", "--until", "later"},
	} {
		if _, err := cairnSays(t, append(append([]string{"dlq"}, args...), "--http", "127.0.0.1:1")...); !isUsage(err) {
			t.Errorf("%v: %v", args, err)
		}
	}
}
