package grpc

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"google.golang.org/protobuf/proto"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/filter"
	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/server/grpc/adminpb"
	"github.com/cairnmq/cairn/store"
)

const (
	// askTimeout is how long a client may take to answer what a tool asks it, when the call itself has no sooner end.
	askTimeout = 10 * time.Second
	// maxQuestions bounds the calls that wait for clients at the same time.
	maxQuestions = 64
)

// questions are the commands to clients whose answers are waited for. Each is known by a number that only its client was told.
type questions struct {
	slots chan struct{}
	mu    struct {
		sync.Mutex
		open map[string]openQuestion
	}
}

type openQuestion struct {
	to     *session
	answer chan *pb.TelemetryCommand
}

func newQuestions() *questions {
	q := &questions{slots: make(chan struct{}, maxQuestions)}
	q.mu.open = map[string]openQuestion{}
	return q
}

// nonceOf is the number of the question that a command answers, "" when it answers none.
func nonceOf(cmd *pb.TelemetryCommand) string {
	return cmp.Or(cmd.GetThreadStackTrace().GetNonce(), cmd.GetVerifyMessageResult().GetNonce())
}

// answered hands a client's answer to who waits for it; false when nobody does.
func (q *questions) answered(from *session, cmd *pb.TelemetryCommand) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	one, open := q.mu.open[nonceOf(cmd)]
	if !open || one.to != from {
		return false
	}
	delete(q.mu.open, nonceOf(cmd))
	one.answer <- cmd // has room for one
	return true
}

// ask sends a command, which gets a number, to a client and waits for the answer.
func (q *questions) ask(ctx context.Context, c *session, command func(nonce string) *pb.TelemetryCommand) (*pb.TelemetryCommand, error) {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails
	nonce := hex.EncodeToString(raw[:])
	data, err := proto.Marshal(command(nonce))
	if err != nil {
		return nil, err
	}
	answer := make(chan *pb.TelemetryCommand, 1)
	q.mu.Lock()
	q.mu.open[nonce] = openQuestion{c, answer}
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		delete(q.mu.open, nonce)
		q.mu.Unlock()
	}()
	if !c.command(data) {
		return nil, refuse(pb.Code_TOO_MANY_REQUESTS, "client %s has no open stream, or is slow to read it", c.id)
	}
	select {
	case cmd := <-answer:
		return cmd, nil
	case <-ctx.Done():
		return nil, refuse(pb.Code_REQUEST_TIMEOUT, "client %s did not answer in time", c.id)
	}
}

// asked is a consumer that a call wants to ask; exactly one of the two is set.
type asked struct {
	client   *broker.Client
	session  *session
	remoting *wire.Conn
}

// withConsumer calls f with a consumer of a group that is online, with a context that ends when the wait does.
func (d *Door) withConsumer(ctx context.Context, group, id string, f func(context.Context, asked) error) error {
	clients, _, _ := d.broker.Clients().Consumers(group)
	i := slices.IndexFunc(clients, func(cl *broker.Client) bool { return cl.ID == id })
	if i < 0 {
		return notFound("consumer %q of group %s is not online", id, group)
	}
	a := asked{client: clients[i]}
	switch conn := a.client.Conn.(type) {
	case *session:
		a.session = conn
	case *wire.Conn:
		a.remoting = conn
	default:
		return refuse(pb.Code_UNSUPPORTED, "consumer %s is a %s client, which cannot be asked", id, a.client.Protocol)
	}
	select {
	case d.questions.slots <- struct{}{}:
	default:
		return refuse(pb.Code_TOO_MANY_REQUESTS, "too many calls wait for clients")
	}
	defer func() { <-d.questions.slots }()
	ctx, cancel := d.untilClosing(ctx)
	defer cancel()
	ctx, stop := context.WithTimeout(ctx, askTimeout)
	defer stop()
	return f(ctx, a)
}

// invoke sends a Remoting request to the client and reads the body of its answer into v.
func (a *asked) invoke(ctx context.Context, cmd *wire.Command, v any) error {
	resp, err := a.remoting.Invoke(ctx, cmd)
	cmd.Release()
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return refuse(pb.Code_REQUEST_TIMEOUT, "client %s did not answer in time", a.client.ID)
	case err != nil:
		return refuse(pb.Code_NOT_FOUND, "client %s: %s", a.client.ID, err)
	}
	defer resp.Release()
	if resp.Code != wire.Success {
		return refuse(pb.Code_INTERNAL_ERROR, "client %s answered code %d: %s", a.client.ID, resp.Code, resp.Remark)
	}
	if err := body.Unmarshal(resp.Body, v); err != nil {
		return refuse(pb.Code_INTERNAL_ERROR, "the answer of client %s: %s", a.client.ID, err)
	}
	return nil
}

// runningInfo is ConsumerRunningInfo of the Remoting protocol.
type runningInfo struct {
	Properties    map[string]string              `json:"properties"`
	Subscriptions []body.Subscription            `json:"subscriptionSet"`
	Queues        body.QueueMap[processQueue]    `json:"mqTable"`
	Status        map[string]remoteConsumeStatus `json:"statusTable"`
	Stack         string                         `json:"jstack"`
}

type processQueue struct {
	CommitOffset            int64 `json:"commitOffset"`
	CachedMsgMinOffset      int64 `json:"cachedMsgMinOffset"`
	CachedMsgMaxOffset      int64 `json:"cachedMsgMaxOffset"`
	CachedMsgCount          int32 `json:"cachedMsgCount"`
	CachedMsgSizeInMiB      int32 `json:"cachedMsgSizeInMiB"`
	TransactionMsgMinOffset int64 `json:"transactionMsgMinOffset"`
	TransactionMsgMaxOffset int64 `json:"transactionMsgMaxOffset"`
	TransactionMsgCount     int32 `json:"transactionMsgCount"`
	Locked                  bool  `json:"locked"`
	TryUnlockTimes          int64 `json:"tryUnlockTimes"`
	LastLockTimestamp       int64 `json:"lastLockTimestamp"`
	Dropped                 bool  `json:"droped"` // so it is written
	LastPullTimestamp       int64 `json:"lastPullTimestamp"`
	LastConsumeTimestamp    int64 `json:"lastConsumeTimestamp"`
}

type remoteConsumeStatus struct {
	PullRT            float64 `json:"pullRT"`
	PullTPS           float64 `json:"pullTPS"`
	ConsumeRT         float64 `json:"consumeRT"`
	ConsumeOKTPS      float64 `json:"consumeOKTPS"`
	ConsumeFailedTPS  float64 `json:"consumeFailedTPS"`
	ConsumeFailedMsgs int64   `json:"consumeFailedMsgs"`
}

// runningInfo asks a Remoting consumer (307).
func (a *asked) runningInfo(ctx context.Context, group string, stack bool) (info runningInfo, err error) {
	cmd := wire.NewRequest(wire.GetConsumerRunningInfo)
	cmd.Fields.Add("consumerGroup", group)
	cmd.Fields.Add("clientId", a.client.ID)
	cmd.Fields.Add("jstackEnable", strconv.FormatBool(stack))
	err = a.invoke(ctx, cmd, &info)
	return info, err
}

// printThreadStackTrace has a consumer tell what its threads do: over its telemetry stream, or a Remoting client by request 307.
func (d *Door) printThreadStackTrace(ctx context.Context, req *adminpb.PrintThreadStackTraceRequest, resp *adminpb.PrintThreadStackTraceResponse) error {
	group, err := d.groupThere(req.GetGroup())
	if err != nil {
		return err
	}
	return d.withConsumer(ctx, group, req.GetClientId(), func(ctx context.Context, a asked) error {
		if a.remoting != nil {
			info, err := a.runningInfo(ctx, group, true)
			if err == nil {
				resp.ThreadStackTrace = &info.Stack
			}
			return err
		}
		answer, err := d.questions.ask(ctx, a.session, func(nonce string) *pb.TelemetryCommand {
			return &pb.TelemetryCommand{Command: &pb.TelemetryCommand_PrintThreadStackTraceCommand{
				PrintThreadStackTraceCommand: &pb.PrintThreadStackTraceCommand{Nonce: nonce},
			}}
		})
		if err != nil {
			return err
		}
		resp.ThreadStackTrace = answer.GetThreadStackTrace().ThreadStackTrace
		return saidBy(a.client.ID, answer)
	})
}

// saidBy is the refusal that a client's answer is, nil when it is none.
func saidBy(id string, answer *pb.TelemetryCommand) error {
	if s := answer.GetStatus(); s != nil && s.GetCode() != pb.Code_OK {
		return refuse(s.GetCode(), "client %s: %s", id, cmp.Or(s.GetMessage(), s.GetCode().String()))
	}
	return nil
}

// verifyMessage has a consumer consume a message, which changes nothing in the group's place.
func (d *Door) verifyMessage(ctx context.Context, req *adminpb.VerifyMessageRequest, _ *adminpb.VerifyMessageResponse) error {
	group, err := d.groupThere(req.GetGroup())
	if err != nil {
		return err
	}
	t, err := d.anyTopic(req.GetTopic())
	if err != nil {
		return err
	}
	buf := store.NewBuffer()
	defer buf.Release()
	layout, err := d.messageByID(t.Name, req.GetMessageId(), 0, forever, buf)
	if err == nil && len(layout) == 0 {
		err = refuse(pb.Code_MESSAGE_NOT_FOUND, "no message %s of topic %s", req.GetMessageId(), t.Name)
	}
	if err != nil {
		return err
	}
	m, n, err := message.Decode(layout)
	if err != nil {
		return err
	}
	return d.withConsumer(ctx, group, req.GetClientId(), func(ctx context.Context, a asked) error {
		if a.remoting != nil {
			return d.verifyRemoting(ctx, a, group, req.GetMessageId(), slices.Clone(layout[:n]), t.SysFlag)
		}
		conv, err := newConverter(req.GetTopic(), d.opts.DelayLevels)
		if err != nil {
			return err
		}
		size := conv.take(&m, &delivery{attempt: m.ReconsumeTimes + 1})
		// The command's field with the message, in its wire form, is the command with the message.
		wireForm := conv.appendMessage(nil, 2, size)
		command := &pb.VerifyMessageCommand{}
		if err := proto.Unmarshal(wireForm, command); err != nil {
			return err
		}
		answer, err := d.questions.ask(ctx, a.session, func(nonce string) *pb.TelemetryCommand {
			command.Nonce = nonce
			return &pb.TelemetryCommand{Command: &pb.TelemetryCommand_VerifyMessageCommand{VerifyMessageCommand: command}}
		})
		if err != nil {
			return err
		}
		return saidBy(a.client.ID, answer)
	})
}

// verifyRemoting sends a Remoting consumer the message (309).
func (d *Door) verifyRemoting(ctx context.Context, a asked, group, id string, layout []byte, topicFlag int32) error {
	groupFlag := int32(0)
	if g, err := d.broker.Group(group); err == nil {
		groupFlag = g.SysFlag
	}
	cmd := wire.NewRequest(wire.ConsumeMessageDirectly)
	for _, f := range [][2]string{
		{"consumerGroup", group}, {"clientId", a.client.ID}, {"msgId", id}, {"brokerName", d.opts.BrokerName},
		{"topicSysFlag", fmt.Sprint(topicFlag)}, {"groupSysFlag", fmt.Sprint(groupFlag)},
	} {
		cmd.Fields.Add(f[0], f[1])
	}
	cmd.Body = layout
	var result struct {
		Result string `json:"consumeResult"`
		Remark string `json:"remark"`
	}
	if err := a.invoke(ctx, cmd, &result); err != nil {
		return err
	}
	if result.Result != "CR_SUCCESS" && result.Result != "CR_COMMIT" {
		return refuse(pb.Code_FAILED_TO_CONSUME_MESSAGE, "client %s: %s %s", a.client.ID, result.Result, result.Remark)
	}
	return nil
}

// getConsumerRunningInfo asks a Remoting client (307). The gRPC protocol has no such command: of its clients the answer is what they
// said of themselves.
func (d *Door) getConsumerRunningInfo(ctx context.Context, req *adminpb.GetConsumerRunningInfoRequest, resp *adminpb.GetConsumerRunningInfoResponse) error {
	group, err := d.groupThere(req.GetGroup())
	if err != nil {
		return err
	}
	names := namingOf(req.GetGroup())
	return d.withConsumer(ctx, group, req.GetClientId(), func(ctx context.Context, a asked) error {
		if a.session != nil {
			resp.ConsumerRunningInfo = d.knownOf(a, group, names)
			return nil
		}
		info, err := a.runningInfo(ctx, group, false)
		if err != nil {
			return err
		}
		resp.ConsumerRunningInfo = info.message(names)
		return nil
	})
}

// knownOf is what the door knows of a client of its own.
func (d *Door) knownOf(a asked, group string, names naming) *adminpb.ConsumerRunningInfo {
	out := &adminpb.ConsumerRunningInfo{Properties: map[string]string{}, Subscriptions: map[string]*pb.FilterExpression{}}
	if s := a.session.settings(); s != nil {
		for name, value := range map[string]string{
			"clientType": s.kind.String(), "requestTimeout": s.requestTimeout.String(), "language": s.agent.GetLanguage().String(),
			"version": s.agent.GetVersion(), "platform": s.agent.GetPlatform(), "hostname": s.agent.GetHostname(),
			"consumeType": s.consumer.ConsumeType, "messageModel": s.consumer.MessageModel, "address": a.client.Address.String(),
		} {
			if value != "" {
				out.Properties[name] = value
			}
		}
		for i := range s.consumer.Subscriptions {
			one := names.subscriptionInfo(group, &s.consumer.Subscriptions[i], s.consumer.MessageModel)
			out.Subscriptions[one.GetTopic().GetName()] = one.GetExpression()
		}
	}
	a.session.mu.Lock()
	out.Properties["heldMessages"] = strconv.Itoa(len(a.session.mu.leases))
	a.session.mu.Unlock()
	return out
}

// message is the info as the gRPC protocol has it.
func (r *runningInfo) message(names naming) *adminpb.ConsumerRunningInfo {
	out := &adminpb.ConsumerRunningInfo{
		Properties: r.Properties, Subscriptions: map[string]*pb.FilterExpression{}, ConsumeStatusTable: map[string]*adminpb.ConsumeStatus{},
	}
	for _, s := range r.Subscriptions {
		e := &pb.FilterExpression{Type: pb.FilterType_TAG, Expression: s.SubString}
		if !filter.IsTag(s.ExpressionType) {
			e.Type = pb.FilterType_SQL
		}
		out.Subscriptions[names.resource(s.Topic).GetName()] = e
	}
	for _, q := range r.Queues.Keys() {
		p := r.Queues[q]
		out.MessageQueueTable = append(out.MessageQueueTable, &adminpb.MessageQueueItem{
			MessageQueue: &pb.MessageQueue{Topic: names.resource(q.Topic), Id: q.QueueID, Broker: &pb.Broker{Name: q.BrokerName}},
			ProcessQueueInfo: &adminpb.ProcessQueueInfo{
				CommitOffset: p.CommitOffset, CachedMsgMinOffset: p.CachedMsgMinOffset, CachedMsgMaxOffset: p.CachedMsgMaxOffset,
				CachedMsgCount: p.CachedMsgCount, CachedMsgSizeInMib: p.CachedMsgSizeInMiB,
				TransactionMsgMinOffset: p.TransactionMsgMinOffset, TransactionMsgMaxOffset: p.TransactionMsgMaxOffset,
				TransactionMsgCount: p.TransactionMsgCount, Locked: p.Locked, TryUnlockTimes: p.TryUnlockTimes, LastLockTimestamp: p.LastLockTimestamp,
				Dropped: p.Dropped, LastPullTimestamp: p.LastPullTimestamp, LastConsumeTimestamp: p.LastConsumeTimestamp,
			},
		})
	}
	for _, topic := range slices.Sorted(maps.Keys(r.Status)) {
		s := r.Status[topic]
		out.ConsumeStatusTable[names.resource(topic).GetName()] = &adminpb.ConsumeStatus{
			ReceiveRt: s.PullRT, ReceiveTps: s.PullTPS, ConsumeRt: s.ConsumeRT, ConsumeOkTps: s.ConsumeOKTPS,
			ConsumeFailedTps: s.ConsumeFailedTPS, ConsumeFailedMsgs: s.ConsumeFailedMsgs,
		}
	}
	return out
}
