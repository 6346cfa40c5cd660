package broker


import (
	"context"
	"time"

	"github.com/cairnmq/cairn/filter"
	"github.com/cairnmq/cairn/store"
)

type PopRequest struct {
	Group, Topic string
	Queue        int32 // −1: all readable queues of the topic
	Max          int   // 1..32
	Invisible    time.Duration
	Wait         time.Duration // long poll; 0 answers at once
	Filter       *filter.Expr
	AttemptID    string
}

// PopResult: Buffer holds stored layouts (Ends: end of each), Handles and Attempts (1 for the first delivery) align with
// them; the receiver releases it. No messages: Buffer is nil.
type PopResult struct {
	Buffer    *store.Buffer
	Ends      []int
	Handles   []string
	Attempts  []int32
	PoppedAt  int64 // ms
	Invisible int64 // ms
}

// Pop hands out messages, expired ones before new ones, and waits up to req.Wait for some. Nothing found is not an error.
func (b *Broker) Pop(ctx context.Context, req *PopRequest) (*PopResult, error) { panic("unbuilt") }

// Ack acknowledges handles; the errors align with them (nil: done; CodeInvalidHandle: expired, stale or foreign).
// AckAsync calls done exactly once without blocking the folder.
func (b *Broker) Ack(ctx context.Context, group, topic string, handles []string) []error {
	panic("unbuilt")
}

// ChangeInvisible moves a message's visible-at to now+invisible and answers the new handle.
func (b *Broker) ChangeInvisible(ctx context.Context, group, topic, handle string, invisible time.Duration) (string, error) {
	panic("unbuilt")
}

// GroupCounters are exact: ready = not yet handed out plus expired, in flight = invisible now.
type GroupCounters struct{ Ready, InFlight int64 }

func (b *Broker) GroupCounters(group, topic string) (GroupCounters, error) { panic("unbuilt") }
