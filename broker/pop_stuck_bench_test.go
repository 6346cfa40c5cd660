package broker

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/cairnmq/cairn/message"
)

// BenchmarkBesideAStuckGroup is what 32 messages cost to be sent, popped and acknowledged while another group has popped so many and
// acknowledged none; and what a pop of that group itself costs, with something new and without. In memory.
func BenchmarkBesideAStuckGroup(b *testing.B) {
	for _, stuck := range []int{0, 200_000} {
		b.Run(fmt.Sprintf("stuck=%d", stuck), func(b *testing.B) { benchStuck(b, stuck) })
	}
}

func benchStuck(b *testing.B, stuck int) {
	const some, queues = 32, 8
	ctx := context.Background()
	br := openInMemory(b)
	if _, err := br.EnsureTopic(ctx, "t", queues); err != nil {
		b.Fatal(err)
	}
	sent := 0
	send := func() {
		var messages []message.Message
		for range some {
			messages = append(messages, clientMessage(128))
		}
		if _, err := br.Send(ctx, &SendRequest{Topic: "t", QueueID: int32(sent / some % queues), Messages: messages}); err != nil {
			b.Fatal(err)
		}
		sent += some
	}
	pop := func(group string, want int, invisible time.Duration) []string {
		res, err := br.Pop(ctx, &PopRequest{Group: group, Topic: "t", Queue: -1, Max: some, Invisible: invisible})
		if err != nil || len(res.Ends) != want {
			b.Fatalf("%s got %d of %d: %v", group, len(res.Ends), want, err)
		}
		if res.Buffer != nil {
			res.Buffer.Release()
		}
		return res.Receipts()
	}
	settle := func() {
		for _, err := range br.Ack(ctx, "other", "t", pop("other", some, time.Hour)) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	for sent < stuck {
		send()
		settle()
		pop("stuck", some, time.Hour)
	}
	b.Run("another", func(b *testing.B) {
		for b.Loop() {
			send()
			settle()
			b.StopTimer()
			pop("stuck", some, time.Hour)
			b.StartTimer()
		}
	})
	b.Run("own", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			send()
			settle()
			b.StartTimer()
			pop("stuck", some, time.Hour)
		}
	})
	b.Run("nothing", func(b *testing.B) {
		for b.Loop() {
			pop("stuck", 0, time.Hour)
		}
	})
}
