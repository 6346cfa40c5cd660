package remoting

import (
	"sync"
	"sync/atomic"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/filter"
	"github.com/cairnmq/cairn/internal/wire"
)

// session is what the door knows of one connection.
type session struct {
	conn    *wire.Conn
	filters map[expression]*filter.Expr // parsed ones; only the reader goroutine uses it
	texts   int                         // bytes of their texts
	pushes  atomic.Int32                // replies that wait for this client to take them

	mu struct {
		sync.Mutex
		ended bool
		held  map[*held]struct{}
		infos map[consumerKey]broker.ConsumerInfo // what the last whole heartbeats said
		// virtual are the connection's consumers of groups with virtual queues, by group.
		virtual map[string]*broker.VirtualConsumer
	}
}

type consumerKey struct{ clientID, group string }

// expression is what a consumer sends of a filter.
type expression struct{ kind, text string }

const (
	maxFilters     = 256 // parsed expressions that a session keeps
	maxFilterTexts = 256 << 10
	maxInfos       = 4096
)

func newSession(_ *Door, c *wire.Conn) *session {
	s := &session{conn: c, filters: map[expression]*filter.Expr{}}
	s.mu.held = map[*held]struct{}{}
	s.mu.infos = map[consumerKey]broker.ConsumerInfo{}
	return s
}

// parse answers the parsed form of an expression.
func (s *session) parse(e expression) (*filter.Expr, error) {
	if f, ok := s.filters[e]; ok {
		return f, nil
	}
	f, err := filter.Parse(e.kind, e.text)
	if err != nil {
		return nil, err
	}
	if len(s.filters) >= maxFilters || s.texts+len(e.text) > maxFilterTexts {
		clear(s.filters)
		s.texts = 0
	}
	s.filters[e] = f
	s.texts += len(e.text)
	return f, nil
}

// held is a request whose answer may have to wait. Its fields are guarded by the session's lock.
type held struct {
	cancel   func()
	answered bool
}

// hold notes a request that may wait, so that the end of the connection calls it off.
func (s *session) hold(h *held, cancel func()) {
	s.mu.Lock()
	h.cancel = cancel
	ended := s.mu.ended
	if !h.answered && !ended {
		s.mu.held[h] = struct{}{}
	}
	s.mu.Unlock()
	if ended {
		cancel()
	}
}

// unhold is called when the request has been answered, which may be before hold.
func (s *session) unhold(h *held) (wasHeld bool) {
	s.mu.Lock()
	_, wasHeld = s.mu.held[h]
	h.answered = true
	delete(s.mu.held, h)
	s.mu.Unlock()
	return wasHeld
}

// letGo ends the waiting of all held requests.
func (s *session) letGo() {
	s.mu.Lock()
	cancels := make([]func(), 0, len(s.mu.held))
	for h := range s.mu.held {
		cancels = append(cancels, h.cancel)
	}
	s.mu.Unlock()
	for _, cancel := range cancels {
		cancel()
	}
}

func (s *session) hasEnded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.ended
}

func (s *session) end() {
	s.mu.Lock()
	s.mu.ended = true
	virtual := s.mu.virtual
	s.mu.virtual = nil
	s.mu.Unlock()
	for _, v := range virtual {
		v.Close()
	}
	s.letGo()
}

// remember keeps what a consumer said in a whole heartbeat, for the short ones that follow.
func (s *session) remember(k consumerKey, info broker.ConsumerInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.mu.infos[k]; ok || len(s.mu.infos) < maxInfos {
		s.mu.infos[k] = info
	}
}

func (s *session) remembered(k consumerKey) (broker.ConsumerInfo, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	info, ok := s.mu.infos[k]
	return info, ok
}

func (s *session) forget(k consumerKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mu.infos, k)
}
