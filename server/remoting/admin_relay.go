package remoting

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/store"
)

const askConsumerStatus = 223

func init() {
	serveInline(wire.GetConsumerRunningInfo, "GET_CONSUMER_RUNNING_INFO", TierAdmin, consumerRunningInfo)
	serveInline(wire.ConsumeMessageDirectly, "CONSUME_MESSAGE_DIRECTLY", TierAdmin, consumeDirectly)
	serveInline(askConsumerStatus, "INVOKE_BROKER_TO_GET_CONSUMER_STATUS", TierAdmin, consumerStatus)
}

const (
	// relayTimeout is how long a client may take to answer what a tool asks it, statusTimeout where many are asked at once.
	relayTimeout  = 10 * time.Second
	statusTimeout = 5 * time.Second
	// maxRelays bounds the requests that wait for clients, maxAsked the clients that one of them asks.
	maxRelays = 64
	maxAsked  = 256
)

// relays are requests that wait for clients. They are not the workers' business: a client that does not answer must not keep
// one from others.
type relays struct {
	ctx    context.Context // ends when the door closes
	cancel context.CancelFunc
	slots  chan struct{}
	under  sync.WaitGroup
}

func newRelays(limit int) *relays {
	r := &relays{slots: make(chan struct{}, limit)}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// run calls f from a goroutine of its own; false when too many are under way.
func (r *relays) run(timeout time.Duration, f func(context.Context)) bool {
	select {
	case r.slots <- struct{}{}:
	default:
		return false
	}
	r.under.Go(func() {
		defer func() { <-r.slots }()
		ctx, cancel := context.WithTimeout(r.ctx, timeout)
		defer cancel()
		f(ctx)
	})
	return true
}

// wait is called when no more requests come.
func (r *relays) wait() { r.under.Wait() }

// relay runs f, which is to fill in the response, and answers; an error becomes the response as that of a pooled handler does.
func (d *Door) relay(s *session, req *wire.Command, timeout time.Duration, f func(ctx context.Context, resp *wire.Command) error) {
	started := d.relays.run(timeout, func(ctx context.Context) {
		d.runPooled(ctx, s, req, func(ctx context.Context, _ *Door, _ *session, _, resp *wire.Command) error { return f(ctx, resp) })
	})
	if !started {
		s.conn.Respond(req, req.Reply(wire.SystemBusy, "too many requests wait for clients"))
	}
}

// asker is where to ask a consumer.
type asker struct {
	group, id string
	conn      *wire.Conn
}

// asker finds the consumer of a group.
func (d *Door) asker(group, id string) (asker, error) {
	clients, _, _ := d.broker.Clients().Consumers(group)
	for _, cl := range clients {
		if cl.ID == id {
			return askerOf(group, cl)
		}
	}
	return asker{}, refuse(wire.SystemError, "The Consumer <%s> <%s> not online", group, id)
}

func askerOf(group string, cl *broker.Client) (asker, error) {
	conn, ok := cl.Conn.(*wire.Conn)
	if !ok {
		return asker{}, refuse(wire.SystemError, "The Consumer <%s> <%s> is a %s client, which cannot be asked", group, cl.ID, cl.Protocol)
	}
	return asker{group, cl.ID, conn}, nil
}

// ask sends a request and waits for the response, which the caller releases.
func (a *asker) ask(ctx context.Context, cmd *wire.Command) (*wire.Command, error) {
	resp, err := a.conn.Invoke(ctx, cmd)
	cmd.Release()
	switch {
	case err == nil:
		return resp, nil
	case errors.Is(err, context.DeadlineExceeded):
		return nil, refuse(wire.ConsumeMessageTimeout, "consumer <%s> <%s> Timeout: no answer in time", a.group, a.id)
	case errors.Is(err, context.Canceled):
		return nil, err
	}
	return nil, refuse(wire.SystemError, "consumer <%s> <%s>: %v", a.group, a.id, err)
}

// passOn makes a client's response the response to a tool.
func passOn(resp, answer *wire.Command) {
	resp.Code, resp.Remark = answer.Code, answer.Remark
	resp.Body, resp.BodyDone = answer.Body, answer.Release
}

// consumerRunningInfo serves code 307.
func consumerRunningInfo(d *Door, s *session, req *wire.Command) {
	d.relay(s, req, relayTimeout, func(ctx context.Context, resp *wire.Command) error {
		group, err := req.Fields.Need("consumerGroup")
		if err != nil {
			return err
		}
		a, err := d.asker(group, req.Fields.Text("clientId"))
		if err != nil {
			return err
		}
		answer, err := a.ask(ctx, copyFields(wire.GetConsumerRunningInfo, req.Fields))
		if err != nil {
			return err
		}
		passOn(resp, answer)
		return nil
	})
}

func copyFields(code int, fields wire.Fields) *wire.Command {
	cmd := wire.NewRequest(code)
	cmd.Fields = append(cmd.Fields, fields...)
	return cmd
}

// consumeDirectly serves code 309: a consumer gets a message, named by its offset id, and says how it went.
func consumeDirectly(d *Door, s *session, req *wire.Command) {
	d.relay(s, req, relayTimeout, func(ctx context.Context, resp *wire.Command) error {
		group, err := req.Fields.Need("consumerGroup")
		if err != nil {
			return err
		}
		a, err := d.asker(group, req.Fields.Text("clientId"))
		if err != nil {
			return err
		}
		cmd, err := d.directly(group, req.Fields)
		if err != nil {
			return err
		}
		answer, err := a.ask(ctx, cmd)
		if err != nil {
			return err
		}
		passOn(resp, answer)
		return nil
	})
}

// directly makes the request with the message as its body.
func (d *Door) directly(group string, f wire.Fields) (*wire.Command, error) {
	_, at, err := message.ParseOffsetID(f.Text("msgId"))
	if err != nil {
		return nil, refuse(wire.InvalidParameter, "%v", err)
	}
	buf := store.NewBuffer()
	layout, err := d.broker.MessageByPosition("", record.Position(at), buf)
	if err != nil {
		buf.Release()
		return nil, notFoundAs(err, "can not find message "+f.Text("msgId"))
	}
	cmd := copyFields(wire.ConsumeMessageDirectly, f)
	cmd.Fields.Set("brokerName", d.broker.Options().BrokerName)
	var topicFlag, groupFlag int32
	if t, err := d.broker.Topic(string(message.TopicOf(layout))); err == nil {
		topicFlag = t.SysFlag
	}
	if g, err := d.broker.Group(group); err == nil {
		groupFlag = g.SysFlag
	}
	cmd.Fields.Set("topicSysFlag", fmt.Sprint(topicFlag))
	cmd.Fields.Set("groupSysFlag", fmt.Sprint(groupFlag))
	cmd.Body, cmd.BodyDone = layout, buf.Release
	return cmd, nil
}

// consumerStatus serves code 223: the offsets that the consumers of a group, or the one whose id is given, have in memory.
func consumerStatus(d *Door, s *session, req *wire.Command) {
	d.relay(s, req, statusTimeout, func(ctx context.Context, resp *wire.Command) error {
		group, topic, err := groupAndTopic(req, "group")
		if err != nil {
			return err
		}
		askers, err := d.askers(group, req.Fields.Text("clientAddr"))
		if err != nil {
			return err
		}
		out := body.ConsumerStatus{ConsumerTable: map[string]body.QueueMap[int64]{}}
		var mu sync.Mutex
		var asked sync.WaitGroup
		for _, a := range askers {
			asked.Go(func() {
				offsets, err := a.status(ctx, topic)
				if err != nil {
					d.log.Debug().Err(err).Str("group", group).Str("client", a.id).Msg("a consumer did not tell its offsets")
					return
				}
				mu.Lock()
				defer mu.Unlock()
				out.ConsumerTable[a.id] = offsets
			})
		}
		asked.Wait()
		return adminBody(resp, out)
	})
}

// askers are the consumers of a group that can be asked, or the one that is named.
func (d *Door) askers(group, only string) (out []asker, err error) {
	clients, _, ok := d.broker.Clients().Consumers(group)
	if !ok {
		return nil, refuse(wire.ConsumerNotOnline, "the consumer group[%s] not online", group)
	}
	for _, cl := range clients {
		if only != "" && cl.ID != only {
			continue
		}
		a, err := askerOf(group, cl)
		if err != nil && only != "" {
			return nil, err
		} else if err == nil {
			out = append(out, a)
		}
	}
	if len(out) > maxAsked {
		return nil, refuse(wire.SystemError, "the group has %d consumers: name one of them (clientAddr)", len(out))
	}
	return out, nil
}

// status asks a consumer for its offsets in a topic.
func (a *asker) status(ctx context.Context, topic string) (body.QueueMap[int64], error) {
	cmd := wire.NewRequest(wire.GetConsumerStatus)
	cmd.Fields.Add("topic", topic)
	cmd.Fields.Add("group", a.group)
	answer, err := a.ask(ctx, cmd)
	if err != nil {
		return nil, err
	}
	defer answer.Release()
	if answer.Code != wire.Success {
		return nil, refuse(answer.Code, "%s", answer.Remark)
	}
	var status body.ConsumerStatus
	if len(answer.Body) == 0 {
		return body.QueueMap[int64]{}, nil
	}
	if err := body.Unmarshal(answer.Body, &status); err != nil {
		return nil, err
	}
	return status.MessageQueueTable, nil
}
