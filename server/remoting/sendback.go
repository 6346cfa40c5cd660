package remoting

import (
	"context"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/internal/wire"
)

func init() {
	servePooled(wire.ConsumerSendMessageBack, "CONSUMER_SEND_MSG_BACK", TierClient, sendBack)
}

// sendBack serves code 36: a consumer could not process a message and wants it again later.
func sendBack(ctx context.Context, d *Door, s *session, req, _ *wire.Command) error {
	f := req.Fields
	at, err := f.Int64("offset")
	if err != nil {
		return err
	}
	r := broker.SendBackRequest{Position: record.Position(at), OriginTopic: f.Text("originTopic"), OriginID: f.Text("originMsgId")}
	if r.Group, err = f.Need("group"); err != nil {
		return err
	}
	if r.DelayLevel, err = f.Int32("delayLevel"); err != nil {
		return err
	}
	if r.MaxReconsume, err = f.Int32Or("maxReconsumeTimes", -1); err != nil {
		return err
	}
	if err := d.broker.SendBack(ctx, &r); err != nil {
		return err
	}
	if v := s.virtualOf(r.Group); v != nil {
		v.SentBack(r.Position)
	}
	return nil
}
