package remoting

import (
	"context"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/wire"
)

func init() {
	servePooled(wire.LockBatch, "LOCK_BATCH_MQ", TierClient, lockBatch)
	servePooled(wire.UnlockBatch, "UNLOCK_BATCH_MQ", TierClient, unlockBatch)
}

// lockRequest is LockBatchRequestBody and UnlockBatchRequestBody.
type lockRequest struct {
	Group    string              `json:"consumerGroup"`
	ClientID string              `json:"clientId"`
	Queues   []body.MessageQueue `json:"mqSet"`
}

func readLockRequest(req *wire.Command) (*lockRequest, []broker.QueueRef, error) {
	var l lockRequest
	if err := readBody(req, &l); err != nil {
		return nil, nil, err
	}
	if l.Group == "" || l.ClientID == "" {
		return nil, nil, refuse(wire.InvalidParameter, "consumerGroup and clientId must be given")
	}
	refs := make([]broker.QueueRef, len(l.Queues))
	for i, q := range l.Queues {
		refs[i] = broker.QueueRef{Topic: q.Topic, Queue: q.QueueID}
	}
	return &l, refs, nil
}

// lockBatch serves code 41: of the queues asked for it answers those that the client now holds.
func lockBatch(_ context.Context, d *Door, _ *session, req, resp *wire.Command) error {
	l, refs, err := readLockRequest(req)
	if err != nil {
		return err
	}
	if g, err := d.broker.Group(l.Group); err == nil && g.VirtualQueues() {
		return refuse(wire.NoPermission, "consumer group %s has virtual queues, which are shared: nobody gets one for itself, to consume in order", l.Group)
	}
	locked := map[broker.QueueRef]bool{}
	for _, q := range d.broker.LockQueues(l.Group, l.ClientID, refs) {
		locked[q] = true
	}
	ok := make([]body.MessageQueue, 0, len(locked))
	for i, q := range l.Queues {
		if locked[refs[i]] {
			ok = append(ok, q)
		}
	}
	return jsonBody(resp, struct {
		Locked []body.MessageQueue `json:"lockOKMQSet"`
	}{ok})
}

// unlockBatch serves code 42.
func unlockBatch(_ context.Context, d *Door, _ *session, req, _ *wire.Command) error {
	l, refs, err := readLockRequest(req)
	if err != nil {
		return err
	}
	d.broker.UnlockQueues(l.Group, l.ClientID, refs)
	return nil
}
