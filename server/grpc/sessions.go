package grpc

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"golang.org/x/sync/errgroup"

	"github.com/cairnmq/cairn/broker"
)

const (
	// quiet is how long a client without any open stream may be silent before it counts as gone. Clients send a heartbeat
	// every 10 s, also while they wait to open their stream again.
	quiet      = 20 * time.Second
	sweepEvery = time.Second
	// maxSessions is as many clients as the broker's table of clients remembers.
	maxSessions = 200_000
	// maxLeases bounds what is remembered for one client. What it holds beyond that comes back after the group's consume
	// timeout only.
	maxLeases = 1 << 16
	// giveBackAfter is the invisible time of what a client held when it went: long enough for the answer to an
	// acknowledgement that was on its way.
	giveBackAfter = time.Second
	// giveBackAtOnce bounds the messages that are given back at the same time.
	giveBackAtOnce = 256
	// maxLearned bounds the topics that a producer sends transactions to without having them in its settings.
	maxLearned = 1024
)

// session is what the door knows of one client, for as long as the client lives.
type session struct {
	id      string
	streams atomic.Int32 // telemetry streams and receives under way
	heard   atomic.Int64 // ms, when its last call began or ended

	mu struct {
		sync.Mutex
		settings *settings
		leases   map[string]lease // by receipt handle: what was received with auto_renew and is not settled
		checked  int64            // ms, when leases were last rid of what is over
		gone     bool
		learned  []*pb.Resource // topics of a producer that are not in its settings
		commands []*commands    // of its telemetry streams, the newest last
	}
}

// lease is a message that a push consumer holds.
type lease struct {
	group, topic string
	until        int64 // ms: then it is visible again anyway
	untouched    bool  // the client has never got it: to give it back counts as no attempt
}

// settings are what a client said of itself on its telemetry stream.
type settings struct {
	kind           pb.ClientType
	group          string
	topics         []*pb.Resource // of a producer
	consumer       broker.ConsumerInfo
	requestTimeout time.Duration
	language       string
	agent          *pb.UA // may be nil
}

// sessions is the table of clients. One goroutine looks for those that have gone.
type sessions struct {
	door *Door
	done sync.WaitGroup
	mu   struct {
		sync.RWMutex
		byID map[string]*session
	}
}

func newSessions(d *Door) *sessions {
	s := &sessions{door: d}
	s.mu.byID = map[string]*session{}
	s.done.Go(s.sweep)
	return s
}

func (s *sessions) wait() { s.done.Wait() }

// get is nil for a client that is not known. It counts as hearing from the client.
func (s *sessions) get(id string) *session {
	s.mu.RLock()
	c := s.mu.byID[id]
	s.mu.RUnlock()
	if c != nil {
		c.heard.Store(s.door.clock.Now().UnixMilli())
	}
	return c
}

// open makes the session when it is not there, and counts a stream; the caller calls closed when the stream ends.
func (s *sessions) open(id string) (*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.mu.byID[id]
	if c == nil {
		if len(s.mu.byID) >= maxSessions {
			return nil, refuse(pb.Code_TOO_MANY_REQUESTS, "too many clients")
		}
		c = &session{id: id}
		s.mu.byID[id] = c
	}
	c.streams.Add(1)
	c.heard.Store(s.door.clock.Now().UnixMilli())
	return c, nil
}

func (s *sessions) closed(c *session) {
	c.heard.Store(s.door.clock.Now().UnixMilli())
	c.streams.Add(-1)
}

// sweep ends the sessions of clients that have gone without a word.
func (s *sessions) sweep() {
	t := s.door.clock.NewTimer(sweepEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C():
		case <-s.door.closing.Done():
			return
		}
		for _, c := range s.silent() {
			s.door.log.Debug().Str("client", c.id).Msg("client has gone")
			s.end(c)
		}
		t.Reset(sweepEvery)
	}
}

// silent takes those that have gone out of the table.
func (s *sessions) silent() (gone []*session) {
	limit := s.door.clock.Now().Add(-quiet).UnixMilli()
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, c := range s.mu.byID {
		if c.streams.Load() == 0 && c.heard.Load() < limit {
			delete(s.mu.byID, id)
			gone = append(gone, c)
		}
	}
	return gone
}

// terminate ends the session of a client that says good-bye.
func (s *sessions) terminate(c *session) {
	s.mu.Lock()
	if s.mu.byID[c.id] == c {
		delete(s.mu.byID, c.id)
	}
	s.mu.Unlock()
	s.end(c)
}

// end forgets a client and gives back, in the background, what it held.
func (s *sessions) end(c *session) {
	c.mu.Lock()
	held := c.mu.leases
	c.mu.leases, c.mu.gone = nil, true
	c.mu.Unlock()
	s.door.broker.Clients().CloseConn(c)
	s.giveBack(held)
}

// giveBack makes messages visible again. It does not wait. When the door closes meanwhile, they come back after their lease.
func (s *sessions) giveBack(held map[string]lease) {
	if len(held) == 0 {
		return
	}
	s.done.Go(func() {
		var g errgroup.Group
		g.SetLimit(giveBackAtOnce)
		for handle, l := range held {
			if s.door.closing.Err() != nil {
				break
			}
			g.Go(func() error {
				var err error
				if l.untouched {
					_, err = s.door.broker.GiveBack(s.door.closing, l.group, l.topic, handle, 0)
				} else {
					_, err = s.door.broker.Postpone(s.door.closing, l.group, l.topic, handle, giveBackAfter)
				}
				// What was settled in the meantime has an invalid handle: nothing is left to do.
				if err != nil && broker.CodeOf(err) != broker.CodeInvalidHandle && s.door.closing.Err() == nil {
					s.door.trouble.Warn().Err(err).Str("group", l.group).Str("topic", l.topic).Msg("give back a message of a client that has gone")
				}
				return nil
			})
		}
		_ = g.Wait() // the functions above return no error
	})
}

// hold remembers what a push consumer is about to be given; false when the client has gone meanwhile.
func (c *session) hold(handles []string, l lease, now int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.gone {
		return false
	}
	if c.mu.leases == nil {
		c.mu.leases = make(map[string]lease, len(handles))
	}
	c.forgetOverLocked(now)
	for _, h := range handles {
		if len(c.mu.leases) >= maxLeases {
			break
		}
		c.mu.leases[h] = l
	}
	return true
}

// forgetOverLocked drops leases that are over, once a minute.
func (c *session) forgetOverLocked(now int64) {
	if now-c.mu.checked < time.Minute.Milliseconds() {
		return
	}
	c.mu.checked = now
	for h, l := range c.mu.leases {
		if l.until < now {
			delete(c.mu.leases, h)
		}
	}
}

// settle forgets a message that was acknowledged or whose invisible time the client has set itself.
func (c *session) settle(handle string) {
	c.mu.Lock()
	delete(c.mu.leases, handle)
	c.mu.Unlock()
}

func (c *session) settings() *settings {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.settings
}

func (c *session) set(s *settings) {
	c.mu.Lock()
	c.mu.settings = s
	c.mu.Unlock()
}

// learn remembers a topic that a producer sends transactions to; false when it is known already. Like produces and produced it
// is for clients whose settings have come.
func (c *session) learn(topic *pb.Resource) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.mu.learned) >= maxLearned || c.producedLocked(nameOf(topic)) != nil {
		return false
	}
	c.mu.learned = append(c.mu.learned, topic)
	return true
}

// produces lists the topics of a producer, as it names them.
func (c *session) produces() []*pb.Resource {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Concat(c.mu.settings.topics, c.mu.learned)
}

// produced is how a producer names one of its topics; nil when it is none of them.
func (c *session) produced(name string) *pb.Resource {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.producedLocked(name)
}

func (c *session) producedLocked(name string) *pb.Resource {
	for _, topics := range [][]*pb.Resource{c.mu.settings.topics, c.mu.learned} {
		for _, topic := range topics {
			if nameOf(topic) == name {
				return topic
			}
		}
	}
	return nil
}

// listen takes commands for one telemetry stream until unlisten.
func (c *session) listen(q *commands) {
	c.mu.Lock()
	c.mu.commands = append(c.mu.commands, q)
	c.mu.Unlock()
}

func (c *session) unlisten(q *commands) {
	c.mu.Lock()
	c.mu.commands = slices.DeleteFunc(c.mu.commands, func(other *commands) bool { return other == q })
	c.mu.Unlock()
	q.drop()
}

// command leaves a command for the client's newest stream that takes it; false when there is none.
func (c *session) command(cmd encoded) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, q := range slices.Backward(c.mu.commands) {
		if q.put(cmd) {
			return true
		}
	}
	return false
}

// undo makes visible again what was popped for a call whose client has gone.
func (d *Door) undo(l lease, handles []string) {
	held := make(map[string]lease, len(handles))
	for _, h := range handles {
		held[h] = l
	}
	d.sessions.giveBack(held)
}

// untilClosing is ctx that also ends when the door begins to close. The caller calls cancel.
func (d *Door) untilClosing(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(d.closing, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}
