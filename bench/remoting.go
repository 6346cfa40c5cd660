package bench

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/message"
)

// remotingTarget sends and pulls as the Java client does: SEND_MESSAGE_V2 and PULL_MESSAGE with JSON headers.
type remotingTarget struct {
	o      *Options
	broker string
	name   string // of the broker
	read   int32  // queues
	write  int32
	conns  []*wire.Client
}

func newRemoting(o *Options) *remotingTarget { return &remotingTarget{o: o} }

func (t *remotingTarget) close() {
	for _, c := range t.conns {
		c.Close()
	}
}

func (t *remotingTarget) ackLatency() *hdrhistogram.Histogram { return nil }

const (
	benchQueues   = 8
	callTimeout   = 15 * time.Second
	pollSuspend   = 5 * time.Second
	sysFlagPull   = 2 | 4 // may be held; carries its subscription
	maxPullOffset = math.MaxInt64
)

// prepare finds the topic's broker by its route, making the topic when it is not there.
func (t *remotingTarget) prepare(ctx context.Context) error {
	ns, err := wire.Dial(ctx, t.o.Endpoint, wire.ClientOptions{})
	if err != nil {
		return fmt.Errorf("name server: %w", err)
	}
	defer ns.Close()
	deadline := time.Now().Add(40 * time.Second) // a broker may register a new topic only with its next heartbeat
	for made := false; ; {
		route, err := t.route(ctx, ns, t.o.Topic)
		if err == nil && len(route.BrokerDatas) > 0 && len(route.QueueDatas) > 0 {
			t.broker, t.name = route.BrokerDatas[0].BrokerAddrs[0], route.BrokerDatas[0].BrokerName
			t.read, t.write = route.QueueDatas[0].ReadQueueNums, route.QueueDatas[0].WriteQueueNums
			break
		}
		if !made {
			if err := t.create(ctx, ns); err != nil {
				return err
			}
			made = true
		}
		if time.Now().After(deadline) || !waitUntil(ctx, time.Now().Add(100*time.Millisecond)) {
			return fmt.Errorf("no route for topic %s: %w", t.o.Topic, err)
		}
	}
	for range t.o.Conns {
		c, err := wire.Dial(ctx, t.broker, wire.ClientOptions{})
		if err != nil {
			return err
		}
		t.conns = append(t.conns, c)
	}
	return nil
}

func call(ctx context.Context, c *wire.Client, req *wire.Command) (*wire.Command, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	defer req.Release()
	resp, err := c.Invoke(ctx, req)
	if err != nil {
		return nil, err
	}
	if err := succeeded(resp); err != nil {
		resp.Release()
		return nil, err
	}
	return resp, nil
}

func succeeded(resp *wire.Command) error {
	if resp.Code != wire.Success {
		return fmt.Errorf("code %d: %s", resp.Code, resp.Remark)
	}
	return nil
}

func (t *remotingTarget) route(ctx context.Context, ns *wire.Client, topic string) (r body.TopicRoute, err error) {
	req := wire.NewRequest(wire.GetRouteInfoByTopic)
	req.Fields.Add("topic", topic)
	resp, err := call(ctx, ns, req)
	if err != nil {
		return r, err
	}
	defer resp.Release()
	return r, body.Unmarshal(resp.Body, &r)
}

// create makes the topic on the first broker of the cluster.
func (t *remotingTarget) create(ctx context.Context, ns *wire.Client) error {
	resp, err := call(ctx, ns, wire.NewRequest(wire.GetBrokerClusterInfo))
	if err != nil {
		return err
	}
	var info body.ClusterInfo
	err = body.Unmarshal(resp.Body, &info)
	resp.Release()
	if err != nil {
		return err
	}
	for _, b := range info.BrokerAddrTable {
		c, err := wire.Dial(ctx, b.BrokerAddrs[0], wire.ClientOptions{})
		if err != nil {
			return err
		}
		defer c.Close()
		req := wire.NewRequest(wire.UpdateAndCreateTopic)
		req.Fields.Add("topic", t.o.Topic)
		req.Fields.Add("defaultTopic", "TBW102")
		req.Fields.AddInt("readQueueNums", benchQueues)
		req.Fields.AddInt("writeQueueNums", benchQueues)
		req.Fields.AddInt("perm", 6)
		req.Fields.Add("topicFilterType", "SINGLE_TAG")
		req.Fields.AddInt("topicSysFlag", 0)
		req.Fields.AddBool("order", false)
		if t.o.kind != normal {
			req.Fields.Add("attributes", "+message.type="+string(t.o.kind))
		}
		resp, err := call(ctx, c, req)
		if err != nil {
			return fmt.Errorf("create topic %s: %w", t.o.Topic, err)
		}
		resp.Release()
		return nil
	}
	return fmt.Errorf("the name server at %s knows no broker", t.o.Endpoint)
}

type remotingSender struct {
	t     *remotingTarget
	conn  *wire.Client
	queue int32
	props []byte

	over     chan asked // of the request under way
	answered func(*wire.Command, error)
	late     *time.Timer // ends the connection when no answer comes
}

func (t *remotingTarget) sender(worker int) (sender, error) {
	s := &remotingSender{t: t, conn: t.conns[worker%len(t.conns)], queue: int32(worker) % t.write, over: make(chan asked, 1)}
	s.answered = func(resp *wire.Command, err error) { s.over <- asked{resp, err} }
	s.late = time.AfterFunc(callTimeout, s.conn.Close) // which ends all calls
	s.late.Stop()
	return s, nil
}

// asked is what came of a request.
type asked struct {
	resp *wire.Command
	err  error
}

// ask sends a request and waits for its success. What it waits with is made once for all: with a context for each call the driver
// takes a tenth more of the CPU that it shares with the broker.
func (s *remotingSender) ask(req *wire.Command) (*wire.Command, error) {
	defer req.Release()
	s.late.Reset(callTimeout)
	defer s.late.Stop()
	if err := s.conn.InvokeAsync(req, s.answered); err != nil {
		return nil, err
	}
	a := <-s.over
	if a.err != nil {
		return nil, a.err
	}
	if err := succeeded(a.resp); err != nil {
		a.resp.Release()
		return nil, err
	}
	return a.resp, nil
}

const producerGroup = "cairn-bench"

func (s *remotingSender) send(_ context.Context, m *outgoing) (r receipt, err error) {
	r.id = message.NewUniqueID()
	sysFlag := int32(0)
	s.props = message.AppendProperty(s.props[:0], message.PropUniqueKey, r.id)
	s.props = message.AppendProperty(s.props, message.PropWait, "true")
	if m.tag != "" {
		s.props = message.AppendProperty(s.props, message.PropTags, m.tag)
		s.props = message.AppendProperty(s.props, propKind, m.tag)
	}
	switch s.t.o.kind {
	case delayed:
		s.props = message.AppendProperty(s.props, message.PropTimerDeliver, strconv.FormatInt(m.due.UnixMilli(), 10))
	case transactional:
		s.props = message.AppendProperty(s.props, message.PropTranMsg, "true")
		s.props = message.AppendProperty(s.props, message.PropProducerGroup, producerGroup)
		sysFlag = message.FlagPrepared
	}
	s.queue = (s.queue + 1) % s.t.write
	req := wire.NewRequest(wire.SendMessageV2)
	f := &req.Fields
	f.Add("a", producerGroup)
	f.Add("b", cmp.Or(m.topic, s.t.o.Topic))
	f.Add("c", "TBW102")
	f.AddInt("d", 4)
	f.AddInt("e", int64(s.queue))
	f.AddInt("f", int64(sysFlag))
	f.AddInt("g", time.Now().UnixMilli())
	f.AddInt("h", 0)
	f.Add("i", string(s.props))
	f.AddInt("j", 0)
	f.AddBool("k", false)
	f.AddBool("m", false)
	f.Add("n", s.t.name)
	req.Body = m.body // the sender waits for the answer before it touches the body again
	resp, err := s.ask(req)
	if err != nil {
		return r, err
	}
	defer resp.Release()
	switch s.t.o.kind {
	case delayed:
		r.handle = resp.Fields.Text("recallHandle")
	case transactional:
		r.transaction = resp.Fields.Text("transactionId")
		if _, r.position, err = message.ParseOffsetID(resp.Fields.Text("msgId")); err != nil {
			return r, err
		}
		r.offset, err = resp.Fields.Int64("queueOffset")
	}
	return r, err
}

func (s *remotingSender) recall(_ context.Context, r *receipt) error {
	req := wire.NewRequest(wire.RecallMessage)
	req.Fields.Add("producerGroup", producerGroup)
	req.Fields.Add("topic", s.t.o.Topic)
	req.Fields.Add("recallHandle", r.handle)
	req.Fields.Add("bname", s.t.name)
	return s.settle(req)
}

// commit asks for an answer, which official producers do not, so that it is known when the transaction has ended.
func (s *remotingSender) commit(_ context.Context, r *receipt) error {
	req := wire.NewRequest(wire.EndTransaction)
	f := &req.Fields
	f.Add("topic", s.t.o.Topic)
	f.Add("producerGroup", producerGroup)
	f.AddInt("tranStateTableOffset", r.offset)
	f.AddInt("commitLogOffset", r.position)
	f.AddInt("commitOrRollback", int64(message.FlagCommit))
	f.AddBool("fromTransactionCheck", false)
	f.Add("msgId", r.id)
	f.Add("transactionId", r.transaction)
	f.Add("bname", s.t.name)
	return s.settle(req)
}

func (s *remotingSender) settle(req *wire.Command) error {
	resp, err := s.ask(req)
	if err != nil {
		return err
	}
	resp.Release()
	return nil
}

// remotingReceiver pulls the queues n, n+step, n+2·step …, one after the other.
type remotingReceiver struct {
	t       *remotingTarget
	conn    *wire.Client
	queues  []int32
	offsets map[int32]int64
}

var pullVersion atomic.Int64

func (t *remotingTarget) receivers(ctx context.Context, n int) ([]receiver, error) {
	var out []receiver
	for i := range min(n, int(t.read)) {
		r := &remotingReceiver{t: t, conn: t.conns[i%len(t.conns)], offsets: map[int32]int64{}}
		for q := int32(i); q < t.read; q += int32(min(n, int(t.read))) {
			off, err := r.start(ctx, q)
			if err != nil {
				return nil, err
			}
			r.queues, r.offsets[q] = append(r.queues, q), off
		}
		out = append(out, r)
	}
	return out, nil
}

// start is where a queue begins; where the run sends as well, it is the end: what earlier runs left is not its business.
func (r *remotingReceiver) start(ctx context.Context, queue int32) (int64, error) {
	req := wire.NewRequest(wire.GetMinOffset)
	if r.t.o.fromEnd {
		req.Code = wire.GetMaxOffset
	}
	req.Fields.Add("topic", r.t.o.Topic)
	req.Fields.AddInt("queueId", int64(queue))
	resp, err := call(ctx, r.conn, req)
	if err != nil {
		return 0, fmt.Errorf("where queue %d starts: %w", queue, err)
	}
	defer resp.Release()
	return resp.Fields.Int64("offset")
}

func (r *remotingReceiver) receive(ctx context.Context, f func(int32, []byte)) error {
	for ctx.Err() == nil {
		got := 0
		for _, q := range r.queues {
			n, err := r.pull(ctx, q, f)
			if err != nil && ctx.Err() == nil {
				return fmt.Errorf("pull queue %d: %w", q, err)
			}
			got += n
		}
		if got == 0 && len(r.queues) > 1 {
			waitUntil(ctx, time.Now().Add(time.Millisecond))
		}
	}
	return nil
}

// pull takes one batch; only a receiver of a single queue lets the broker hold the request.
func (r *remotingReceiver) pull(ctx context.Context, queue int32, f func(int32, []byte)) (int, error) {
	req := wire.NewRequest(wire.PullMessage)
	h := &req.Fields
	flags, suspend := int64(4), int64(0)
	if len(r.queues) == 1 {
		flags, suspend = sysFlagPull, pollSuspend.Milliseconds()
	}
	h.Add("consumerGroup", r.t.o.Group)
	h.Add("topic", r.t.o.Topic)
	h.AddInt("queueId", int64(queue))
	h.AddInt("queueOffset", r.offsets[queue])
	h.AddInt("maxMsgNums", int64(r.t.o.Batch))
	h.AddInt("sysFlag", flags)
	h.AddInt("commitOffset", 0)
	h.AddInt("suspendTimeoutMillis", suspend)
	h.Add("subscription", "*")
	h.AddInt("subVersion", pullVersion.Load())
	h.Add("expressionType", "TAG")
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := r.conn.Invoke(ctx, req)
	req.Release()
	if err != nil {
		return 0, err
	}
	defer resp.Release()
	switch resp.Code {
	case wire.Success:
	case wire.PullNotFound, wire.PullRetryImmediately, wire.PullOffsetMoved:
		if next, err := resp.Fields.Int64("nextBeginOffset"); err == nil && resp.Code != wire.PullNotFound && next < maxPullOffset {
			r.offsets[queue] = next
		}
		return 0, nil
	default:
		return 0, fmt.Errorf("code %d: %s", resp.Code, resp.Remark)
	}
	n := 0
	for rest := resp.Body; len(rest) > 0; n++ {
		m, size, err := message.Decode(rest)
		if err != nil {
			return n, err
		}
		f(queue, m.Body)
		rest = rest[size:]
	}
	next, err := resp.Fields.Int64("nextBeginOffset")
	r.offsets[queue] = next
	return n, err
}
