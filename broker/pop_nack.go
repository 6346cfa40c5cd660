package broker

import (
	"context"

	"github.com/cairnmq/cairn/pop"
)

// Nack is Postpone for a message whose consumer has failed and does not say when it wants it again: after the wait of its group's
// retry policy for so many failed deliveries. One that has failed for the last time is a dead letter when that is over.
func (b *Broker) Nack(ctx context.Context, group, topic, handle string) (string, error) {
	g, err := b.Group(group)
	if err != nil {
		return "", err
	}
	h, err := pop.ParseHandle(handle)
	if err != nil {
		return "", errHandleUnreadable
	}
	return b.Postpone(ctx, group, topic, handle, g.RetryPolicy.Wait(h.Attempts))
}
