package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/wire"
)

// putGroupList is the code that makes many consumer groups at once.
const putGroupList = 225

// placesOfACall bounds the topics or groups that one administrative call makes.
const placesOfACall = 1000

// administrator makes topics and groups by the thousand, over Remoting: a call for each of them would cost the Java broker the
// writing of all of its topics each time.
type administrator struct{ names, broker *wire.Client }

// newAdministrator connects to the first broker that the name server knows.
func newAdministrator(ctx context.Context, nameServer string) (a *administrator, err error) {
	a = &administrator{}
	if a.names, err = wire.Dial(ctx, nameServer, wire.ClientOptions{}); err != nil {
		return nil, fmt.Errorf("name server: %w", err)
	}
	resp, err := call(ctx, a.names, wire.NewRequest(wire.GetBrokerClusterInfo))
	if err != nil {
		a.close()
		return nil, err
	}
	var info body.ClusterInfo
	err = body.Unmarshal(resp.Body, &info)
	resp.Release()
	if err == nil {
		err = fmt.Errorf("the name server at %s knows no broker", nameServer)
		for _, b := range info.BrokerAddrTable {
			a.broker, err = wire.Dial(ctx, b.BrokerAddrs[0], wire.ClientOptions{})
			break
		}
	}
	if err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

func (a *administrator) close() {
	for _, c := range []*wire.Client{a.names, a.broker} {
		if c != nil {
			c.Close()
		}
	}
}

// topics makes topics of so many queues, and waits until the name server knows the last one.
func (a *administrator) topics(ctx context.Context, names []string, queues int) error {
	for at := 0; at < len(names); at += placesOfACall {
		list := make([]body.TopicConfig, 0, placesOfACall)
		for _, name := range names[at:min(at+placesOfACall, len(names))] {
			list = append(list, body.TopicConfig{TopicName: name, ReadQueueNums: int32(queues), WriteQueueNums: int32(queues), Perm: 6,
				TopicFilterType: "SINGLE_TAG", Attributes: map[string]string{"+message.type": "NORMAL"}})
		}
		if err := a.put(ctx, wire.UpdateAndCreateTopicList, map[string]any{"topicConfigList": list}); err != nil {
			return fmt.Errorf("make topics: %w", err)
		}
	}
	deadline := time.Now().Add(time.Minute) // a broker may register new topics only with its next heartbeat
	for {
		req := wire.NewRequest(wire.GetRouteInfoByTopic)
		req.Fields.Add("topic", names[len(names)-1])
		resp, err := call(ctx, a.names, req)
		if err == nil {
			resp.Release()
			return nil
		}
		if time.Now().After(deadline) || !waitUntil(ctx, time.Now().Add(100*time.Millisecond)) {
			return fmt.Errorf("no route for topic %s: %w", names[len(names)-1], err)
		}
	}
}

// groups makes consumer groups.
func (a *administrator) groups(ctx context.Context, names []string) error {
	for at := 0; at < len(names); at += placesOfACall {
		list := make([]map[string]any, 0, placesOfACall)
		for _, name := range names[at:min(at+placesOfACall, len(names))] {
			list = append(list, map[string]any{"groupName": name, "consumeEnable": true, "consumeFromMinEnable": true,
				"consumeBroadcastEnable": true, "retryQueueNums": 1, "retryMaxTimes": 16})
		}
		if err := a.put(ctx, putGroupList, map[string]any{"groupConfigList": list}); err != nil {
			return fmt.Errorf("make groups: %w", err)
		}
	}
	return nil
}

// adminTimeout bounds one call: the Java broker may write a file for each topic of it.
const adminTimeout = 5 * time.Minute

func (a *administrator) put(ctx context.Context, code int, list any) (err error) {
	req := wire.NewRequest(code)
	if req.Body, err = json.Marshal(list); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	resp, err := a.broker.Invoke(ctx, req)
	if err != nil {
		return err
	}
	defer resp.Release()
	if resp.Code != wire.Success {
		return fmt.Errorf("code %d: %s", resp.Code, resp.Remark)
	}
	return nil
}

// layout says which groups there are and which topic each of them reads. Group g reads the topic g modulo their number.
type layout struct {
	topics, groups []string
	each           int64 // messages of a topic, so each group's
}

var errUneven = errors.New("give a number of groups, and a number of messages that is a multiple of it")

// newLayout makes names that no earlier run has used, or takes what is there.
func newLayout(o *Options) (l layout, err error) {
	p := &o.Pop
	if p.Groups < 1 || o.Count < int64(p.Groups) || o.Count%int64(p.Groups) != 0 {
		return l, errUneven
	}
	l.each = o.Count / int64(p.Groups)
	run := time.Now().UnixMilli()
	if p.There {
		l.topics = []string{o.Topic}
	} else {
		n := p.Topics
		if n < 1 || n > p.Groups {
			n = p.Groups
		}
		for i := range n {
			l.topics = append(l.topics, fmt.Sprintf("%s-%d-%d", o.Topic, run, i))
		}
	}
	if o.Group != "" && p.Groups == 1 {
		l.groups = []string{o.Group}
		return l, nil
	}
	for i := range p.Groups {
		l.groups = append(l.groups, fmt.Sprintf("cairn-bench-%d-%d", run, i))
	}
	return l, nil
}

func (l *layout) topic(group int) int { return group % len(l.topics) }

// make creates topics and groups.
func (l *layout) make(ctx context.Context, o *Options) error {
	a, err := newAdministrator(ctx, o.nameServer())
	if err != nil {
		return err
	}
	defer a.close()
	if !o.Pop.There {
		if err := a.topics(ctx, l.topics, max(1, o.Pop.Queues)); err != nil {
			return err
		}
	}
	return a.groups(ctx, l.groups)
}

// announce has each group pop its empty topic once, over Remoting from the oldest message on. A group that is new over gRPC may
// begin behind the oldest ones in the Java broker.
func (l *layout) announce(ctx context.Context, o Options) error {
	o.Endpoint, o.Protocol, o.Topic, o.Pop.Hold = o.nameServer(), Remoting, l.topics[0], 0
	t, err := o.prepared(ctx)
	if err != nil {
		return err
	}
	defer t.close()
	var next atomic.Int64
	errs := make(chan error, fillers)
	for w := range fillers {
		p, err := t.popper(ctx, w)
		if err != nil {
			return err
		}
		go func() {
			for {
				g := int(next.Add(1) - 1)
				if g >= len(l.groups) {
					errs <- nil
					return
				}
				if _, err := p.pop(ctx, place{l.groups[g], l.topics[l.topic(g)]}, func([]byte, popped) {}); err != nil {
					errs <- fmt.Errorf("pop for %s: %w", l.groups[g], err)
					return
				}
			}
		}()
	}
	for range fillers {
		err = errors.Join(err, <-errs)
	}
	return err
}

// fill sends each topic its messages over Remoting, one topic's after the other's in number and all at once in time. A
// message's number is that of its topic times each, and its number within.
func (l *layout) fill(ctx context.Context, o Options) error {
	passEvery := o.Pop.PassEvery
	if o.Pop.Filter == FilterNone {
		passEvery = 0
	}
	o.Endpoint, o.Protocol, o.Topic, o.Group = o.nameServer(), Remoting, l.topics[0], ""
	o.Workers, o.Conns, o.Rate, o.Duration = max(o.Workers, fillers), max(o.Conns, 4), 0, 0
	o.Progress, o.PID = nil, 0
	o.Count = l.each * int64(len(l.topics))
	t, err := o.prepared(ctx)
	if err != nil {
		return err
	}
	defer t.close()
	p := newProducing(o)
	p.run = filled
	p.do = func(ctx context.Context, s sender, i int64, m *outgoing) error {
		m.topic, m.tag = l.topics[i/l.each], ""
		if passEvery > 0 {
			m.tag = tagOf(i%l.each, passEvery)
		}
		for tries := 1; ; tries++ {
			err := sendOnly(ctx, s, i, m)
			if err == nil || tries == fillTries || !waitUntil(ctx, time.Now().Add(100*time.Millisecond)) {
				return err
			}
		}
	}
	if err := p.all(ctx, t); err != nil {
		return err
	}
	if p.failed.Load() > 0 {
		return fmt.Errorf("%d messages could not be sent: %s", p.failed.Load(), *p.firstError.Load())
	}
	return nil
}

const (
	fillers   = 32
	fillTries = 5 // a broker under flow control turns sends down
	filled    = 1 // the number of all runs that fill: topics are new each time
)
