package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"google.golang.org/protobuf/types/known/durationpb"
)

// grpcPopper receives and acknowledges as the SimpleConsumer does. All groups are one client's: what is counted is groups, not
// clients.
type grpcPopper struct {
	t      *grpcTarget
	client v2.MessagingServiceClient
	broker *v2.Broker
	crew   *crew // once it acknowledges each by itself
}

func (t *grpcTarget) popper(_ context.Context, worker int) (popper, error) {
	if len(t.queues) == 0 {
		return nil, errors.New("the route has no queue")
	}
	return &grpcPopper{t: t, client: t.clients[worker%len(t.clients)], broker: t.queues[0].GetBroker()}, nil
}

func (p *grpcPopper) pop(ctx context.Context, at place, f func([]byte, popped)) (poppedAt time.Time, err error) {
	o := p.t.o
	filter := &v2.FilterExpression{Type: v2.FilterType_TAG}
	_, filter.Expression = o.Pop.Filter.expression()
	if o.Pop.Filter == FilterSQL {
		filter.Type = v2.FilterType_SQL
	}
	call, cancel := context.WithTimeout(ctx, o.Pop.Hold+callTimeout)
	defer cancel()
	topic := &v2.Resource{Name: at.topic}
	stream, err := p.client.ReceiveMessage(call, &v2.ReceiveMessageRequest{
		Group: &v2.Resource{Name: at.group}, BatchSize: int32(o.Batch), FilterExpression: filter,
		MessageQueue:       &v2.MessageQueue{Topic: topic, Id: -1, Permission: v2.Permission_READ_WRITE, Broker: p.broker},
		InvisibleDuration:  durationpb.New(o.Pop.Invisible),
		LongPollingTimeout: durationpb.New(o.Pop.Hold),
	})
	if err != nil {
		return poppedAt, err
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return poppedAt, nil
		}
		if err != nil {
			return poppedAt, err
		}
		switch c := m.GetContent().(type) {
		case *v2.ReceiveMessageResponse_Status:
			switch c.Status.GetCode() {
			case v2.Code_OK, v2.Code_MESSAGE_NOT_FOUND:
			case v2.Code_TOO_MANY_REQUESTS:
				return poppedAt, errBusy
			default:
				return poppedAt, ok(c.Status)
			}
		case *v2.ReceiveMessageResponse_Message:
			sys := c.Message.GetSystemProperties()
			f(c.Message.GetBody(), popped{id: sys.GetMessageId(), handle: sys.GetReceiptHandle()})
		case *v2.ReceiveMessageResponse_DeliveryTimestamp:
			poppedAt = c.DeliveryTimestamp.AsTime()
		}
	}
}

func (p *grpcPopper) ackEach(ctx context.Context, at place, ms []popped, done func(error)) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if p.crew == nil {
		p.crew = p.t.crew()
	}
	p.crew.each(len(ms), func(i int) { done(p.ack(ctx, at, ms[i:i+1])) })
}

func (p *grpcPopper) ackTogether(ctx context.Context, at place, ms []popped) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return p.ack(ctx, at, ms)
}

func (p *grpcPopper) ack(ctx context.Context, at place, ms []popped) error {
	entries := make([]*v2.AckMessageEntry, len(ms))
	for i, m := range ms {
		entries[i] = &v2.AckMessageEntry{MessageId: m.id, ReceiptHandle: m.handle}
	}
	resp, err := p.client.AckMessage(ctx, &v2.AckMessageRequest{
		Group: &v2.Resource{Name: at.group}, Topic: &v2.Resource{Name: at.topic}, Entries: entries})
	if err == nil {
		err = ok(resp.GetStatus())
	}
	if err != nil {
		return fmt.Errorf("acknowledge: %w", err)
	}
	return nil
}
