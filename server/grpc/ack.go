package grpc

import (
	"context"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/pop"
	"github.com/cairnmq/cairn/server/grpc/transport"
)

// AckMessage settles messages for good. Each entry has a status of its own.
func (d *Door) AckMessage(ctx context.Context, req *pb.AckMessageRequest) (*pb.AckMessageResponse, error) {
	a, err := d.ackOf(ctx, req)
	if err != nil {
		return &pb.AckMessageResponse{Status: d.statusOf(rpcAck, err)}, nil
	}
	slot := transport.PutOff(ctx)
	g, is := (*slot).(*acks)
	if !is || !g.fits(&a) {
		flush(slot)
		g = &acks{d: d, client: a.client, group: a.group, topic: a.topic}
		*slot = g
	}
	g.handles = append(g.handles, a.handles...)
	g.parts = append(g.parts, &ackPart{late: d.later(ctx, rpcAck), req: req})
	return nil, transport.ErrLater
}

// acks are acknowledgements of a client that came together. They cost one proposal.
type acks struct {
	d                    *Door
	client, group, topic string
	handles              []string
	parts                []*ackPart
}

// ackPart is one of their calls.
type ackPart struct {
	late
	req  *pb.AckMessageRequest
	errs []error // one for each entry
}

func (g *acks) fits(a *ack) bool {
	return g.group == a.group && g.topic == a.topic && g.client == a.client && len(g.handles)+len(a.handles) <= pop.MaxItems
}

// Flush acknowledges them.
func (g *acks) Flush() {
	d := g.d
	var failed error
	defer func() {
		if failed != nil {
			errs := make([]error, len(g.handles))
			for i := range errs {
				errs[i] = failed
			}
			g.applied(errs)
		}
	}()
	defer d.recovered(pb.MessagingService_AckMessage_FullMethodName, &failed)
	d.broker.AckAsync(g.group, g.topic, g.handles, g.applied)
}

func (g *acks) applied(errs []error) {
	d := g.d
	if c := d.sessions.get(g.client); c != nil {
		for i, err := range errs {
			if err == nil {
				c.settle(g.handles[i])
			}
		}
	}
	from := 0
	for _, p := range g.parts {
		p.errs = errs[from : from+len(p.req.GetEntries())]
		from += len(p.errs)
		p.answer(p)
	}
}

// Build is the answer of one call.
func (p *ackPart) Build() (resp any, err error) {
	defer p.d.recovered(p.rpc, &err)
	entries := make([]*pb.AckMessageResultEntry, len(p.errs))
	for i, e := range p.req.GetEntries() {
		entries[i] = &pb.AckMessageResultEntry{MessageId: e.GetMessageId(), ReceiptHandle: e.GetReceiptHandle(), Status: p.d.statusOf(p.rpc, p.errs[i])}
	}
	return &pb.AckMessageResponse{Status: overall(entries), Entries: entries}, nil
}

// ack is what an AckMessage asks for.
type ack struct {
	client, group, topic string
	handles              []string
}

func (d *Door) ackOf(ctx context.Context, req *pb.AckMessageRequest) (a ack, err error) {
	if a.client, err = clientOf(ctx); err != nil {
		return a, err
	}
	if a.topic, err = topicOf(req.GetTopic()); err != nil {
		return a, err
	}
	if a.group, err = groupOf(req.GetGroup()); err != nil {
		return a, err
	}
	if len(req.GetEntries()) == 0 {
		return a, refuse(pb.Code_BAD_REQUEST, "nothing to acknowledge")
	}
	a.handles = make([]string, len(req.GetEntries()))
	for i, e := range req.GetEntries() {
		if e.GetLiteTopic() != "" {
			return a, refuse(pb.Code_UNSUPPORTED, "%s", notImplemented[rpcSyncLite])
		}
		a.handles[i] = e.GetReceiptHandle()
	}
	return a, nil
}

// overall is the status that all entries have, or MULTIPLE_RESULTS.
func overall(entries []*pb.AckMessageResultEntry) *pb.Status {
	first := entries[0].GetStatus()
	for _, e := range entries[1:] {
		if e.GetStatus().GetCode() != first.GetCode() {
			return &pb.Status{Code: pb.Code_MULTIPLE_RESULTS, Message: "the entries have different results"}
		}
	}
	return first
}

// ChangeInvisibleDuration sets anew, from now on, how long a message stays invisible. The old handle is invalid afterwards.
func (d *Door) ChangeInvisibleDuration(ctx context.Context, req *pb.ChangeInvisibleDurationRequest) (*pb.ChangeInvisibleDurationResponse, error) {
	handle, err := d.changeInvisible(ctx, req)
	return &pb.ChangeInvisibleDurationResponse{Status: d.statusOf(rpcChange, err), ReceiptHandle: handle}, nil
}

func (d *Door) changeInvisible(ctx context.Context, req *pb.ChangeInvisibleDurationRequest) (string, error) {
	id, err := clientOf(ctx)
	if err != nil {
		return "", err
	}
	topic, err := topicOf(req.GetTopic())
	if err != nil {
		return "", err
	}
	group, err := groupOf(req.GetGroup())
	if err != nil {
		return "", err
	}
	invisible := req.GetInvisibleDuration().AsDuration()
	if err := checkInvisible(invisible, 0); err != nil {
		return "", err
	}
	if req.GetLiteTopic() != "" {
		return "", refuse(pb.Code_UNSUPPORTED, "%s", notImplemented[rpcSyncLite])
	}
	c := d.sessions.get(id)
	verb := d.broker.ChangeInvisible
	switch {
	case req.GetSuspend(): // the delivery is not to count as an attempt
		verb = d.broker.GiveBack
	case c != nil && c.settings() != nil && c.settings().kind == pb.ClientType_PUSH_CONSUMER: // only what it has failed on
		verb = d.broker.Postpone
	}
	var handle string
	if req.GetInvisibleDuration() == nil && !req.GetSuspend() {
		handle, err = d.broker.Nack(ctx, group, topic, req.GetReceiptHandle()) // the group's retry policy says when it comes back
	} else {
		handle, err = verb(ctx, group, topic, req.GetReceiptHandle(), invisible)
	}
	if err != nil {
		return "", err
	}
	if c != nil {
		c.settle(req.GetReceiptHandle()) // from here on the client itself decides when the message comes back
	}
	return handle, nil
}

// ForwardMessageToDeadLetterQueue gives a message up: it is settled, and is in the group's dead-letter topic from now on.
func (d *Door) ForwardMessageToDeadLetterQueue(ctx context.Context, req *pb.ForwardMessageToDeadLetterQueueRequest) (*pb.ForwardMessageToDeadLetterQueueResponse, error) {
	return &pb.ForwardMessageToDeadLetterQueueResponse{Status: d.statusOf(rpcForward, d.forward(ctx, req))}, nil
}

func (d *Door) forward(ctx context.Context, req *pb.ForwardMessageToDeadLetterQueueRequest) error {
	id, err := clientOf(ctx)
	if err != nil {
		return err
	}
	topic, err := topicOf(req.GetTopic())
	if err != nil {
		return err
	}
	group, err := groupOf(req.GetGroup())
	if err != nil {
		return err
	}
	if req.GetLiteTopic() != "" {
		return refuse(pb.Code_UNSUPPORTED, "%s", notImplemented[rpcSyncLite])
	}
	err = d.broker.Forward(ctx, &broker.ForwardRequest{
		Group: group, Topic: topic, Handle: req.GetReceiptHandle(), Attempts: req.GetDeliveryAttempt(),
	})
	if c := d.sessions.get(id); c != nil && err == nil {
		c.settle(req.GetReceiptHandle())
	}
	return err
}

// SyncLiteSubscription is answered with NOT_IMPLEMENTED.
func (d *Door) SyncLiteSubscription(ctx context.Context, req *pb.SyncLiteSubscriptionRequest) (*pb.SyncLiteSubscriptionResponse, error) {
	err := d.checked(ctx, rpcSyncLite, func() error { return d.names(req.GetTopic(), req.GetGroup()) })
	return &pb.SyncLiteSubscriptionResponse{Status: d.statusOf(rpcSyncLite, err)}, nil
}

// checked refuses an rpc that is not implemented, after the checks that it shares with the others.
func (d *Door) checked(ctx context.Context, rpc string, check func() error) error {
	if _, err := clientOf(ctx); err != nil {
		return err
	}
	if err := check(); err != nil {
		return err
	}
	return refuseRPC(rpc)
}

func (d *Door) names(topic, group *pb.Resource) error {
	if _, err := topicOf(topic); err != nil {
		return err
	}
	_, err := groupOf(group)
	return err
}
