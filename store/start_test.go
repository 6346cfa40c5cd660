package store

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"testing"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
)

// TestStartRecordOnDisk: what is on disk stays readable.
func TestStartRecordOnDisk(t *testing.T) {
	const golden = "0000000000000007000000030000000000012345"
	r := StartRecord(7, 3, 0x12345)
	if r.Kind != 22 || hex.EncodeToString(r.Payload) != golden {
		t.Errorf("kind %d, payload %x, want 22 and %s", r.Kind, r.Payload, golden)
	}
	if text, ok := DescribeMessage(r); !ok || text != "topic 7 queue 3 begins at offset 74565" {
		t.Errorf("described as %q, %t", text, ok)
	}
}

func TestStartGivesAQueueItsBeginning(t *testing.T) {
	s := mustOpen(t, testOptions(newPlace(t), clock.NewFake(epoch)))
	topic := putTopic(t, s, "moved")
	first := StartRecord(topic, 1, 500)
	out := mustAppend(t, s, first, note{topic: topic, queue: 1, id: "a", body: "a"}.record(t), StartRecord(topic, 2, 70))
	if out[0].Refused || out[1].Offset != 500 || out[2].Refused {
		t.Fatalf("outcomes %+v", out)
	}
	for queue, want := range map[int32][2]int64{0: {0, 0}, 1: {500, 501}, 2: {70, 70}} {
		if low, high, err := s.Bounds(topic, queue); low != want[0] || high != want[1] || err != nil {
			t.Errorf("queue %d from %d to %d, %v, want %v", queue, low, high, err, want)
		}
	}
	out = mustAppend(t, s, StartRecord(topic, 1, 900), StartRecord(topic, 2, 900), StartRecord(99, 0, 1))
	for i, o := range out {
		if !o.Refused {
			t.Errorf("record %d of queues that have a place and topics that are not there: %+v", i, o)
		}
	}
	if got := bodies(readAll(t, s, topic, 1, 0, 10)); fmt.Sprint(got) != "[a]" {
		t.Errorf("from before the beginning: %v", got)
	}
	if out := mustAppend(t, s, note{topic: topic, queue: 2, body: "b"}.record(t)); out[0].Offset != 70 {
		t.Errorf("the first message of queue 2: %+v", out)
	}
	if err := s.Propose(&commitlog.Proposal{Records: []record.Record{{Kind: record.KindStart, Payload: first.Payload[:19]}}}); err == nil {
		t.Error("a record that is cut short was taken")
	}
	mustVerify(t, s)
	mustClose(t, s)
}

// TestMessagesOfAnotherTime: whatever time gives of a message follows the time of its proposal.
func TestMessagesOfAnotherTime(t *testing.T) {
	s := mustOpen(t, testOptions(newPlace(t), clock.NewFake(epoch)))
	out := make(chan *commitlog.Proposal, 3)
	propose := func(at int64, r record.Record) *commitlog.Proposal {
		t.Helper()
		if err := s.Propose(&commitlog.Proposal{Records: []record.Record{r}, At: at, Done: func(p *commitlog.Proposal) { out <- p }}); err != nil {
			t.Fatal(err)
		}
		return <-out
	}
	day := epoch.AddDate(0, 0, -1).UnixMilli()
	topic := propose(day, s.Catalog.PutTopic(catalog.Topic{Name: "old", ReadQueues: 1, WriteQueues: 1, Perm: 6})).Outcomes[0].Offset
	propose(day+5, note{topic: kvindex.ID(topic), id: "u-1", body: "a"}.record(t))
	propose(day+9, note{topic: kvindex.ID(topic), id: "u-2", body: "b"}.record(t))
	ms := readAll(t, s, kvindex.ID(topic), 0, 0, 10)
	if len(ms) != 2 || ms[0].StoreTimestamp != day+5 || ms[1].StoreTimestamp != day+9 {
		t.Fatalf("messages %+v", ms)
	}
	if offset, err := s.OffsetByTime(kvindex.ID(topic), 0, day+6, Lower); offset != 1 || err != nil {
		t.Errorf("offset by time: %d, %v", offset, err)
	}
	buf := NewBuffer()
	defer buf.Release()
	ends, err := s.Query(kvindex.ID(topic), 'U', "u-2", day+9, day+9, 5, buf)
	if err != nil || len(ends) != 1 || !bytes.Equal(message.BodyOf(buf.B[:ends[0]]), []byte("b")) {
		t.Errorf("query: %v, %v", ends, err)
	}
	if err := s.Expire(context.Background(), epoch.AddDate(0, 0, 3)); err != nil {
		t.Fatal(err)
	}
	if low, high, err := s.Bounds(kvindex.ID(topic), 0); low != 2 || high != 2 || err != nil {
		t.Errorf("after their retention: %d to %d, %v", low, high, err)
	}
	mustVerify(t, s)
	mustClose(t, s)
}
