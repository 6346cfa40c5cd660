package remoting

import (
	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/internal/wire"
)

// virtualOf is the consumer that a pull of the group is for when the group has virtual queues, or had some on this connection; nil
// when the queue itself is pulled from. So it is for who consumes by broadcast: it wants all messages for itself.
func (d *Door) virtualOf(s *session, group string) (*broker.VirtualConsumer, error) {
	g, err := d.broker.Group(group)
	if err != nil || !g.VirtualQueues() {
		return s.virtualOf(group), nil // a missing group is the pull's to refuse or to make
	}
	model, known := d.modelOf(s, group)
	switch {
	case !known:
		return nil, refuse(wire.SubscriptionNotExist, "no heartbeat of group %s was here, which has virtual queues", group)
	case model == modelBroadcasting:
		return nil, nil
	}
	return s.openVirtual(d.broker, group), nil
}

// toldOfAll is called when a consumer of a group with virtual queues is told to take every queue. From now on it is one whose pulls are
// watched over, also when they begin after virtual queues were turned off.
func (d *Door) toldOfAll(s *session, group string) {
	if ids, _ := d.broker.Clients().ConsumersAt(s.conn, group); len(ids) > 0 {
		_, _ = d.virtualOf(s, group) // what is wrong is its pull's to refuse
	}
}

// modelOf is the message model of a connection's consumer. A client that has connected anew pulls before its next heartbeat; then it
// is that of its group.
func (d *Door) modelOf(s *session, group string) (model string, known bool) {
	clients := d.broker.Clients()
	if ids, model := clients.ConsumersAt(s.conn, group); len(ids) > 0 {
		return model, true
	}
	_, info, ok := clients.Consumers(group)
	return info.MessageModel, ok
}

// commitsVirtually commits an offset of a consumer with virtual queues. A commit of who consumes nothing, such as a tool, is for the
// group, and false.
func (d *Door) commitsVirtually(s *session, group string, c broker.OffsetCommit) bool {
	if v := s.virtualOf(group); v != nil {
		return v.Commit(c)
	}
	g, err := d.broker.Group(group)
	if err != nil || !g.VirtualQueues() {
		return false
	}
	// Its consumer has not pulled yet, and tells of what it got before.
	ids, _ := d.broker.Clients().ConsumersAt(s.conn, group)
	return len(ids) > 0
}

// virtualOf is the connection's consumer of a group with virtual queues, or nil.
func (s *session) virtualOf(group string) *broker.VirtualConsumer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.virtual[group]
}

// openVirtual is virtualOf that makes the consumer.
func (s *session) openVirtual(b *broker.Broker, group string) *broker.VirtualConsumer {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.mu.virtual[group]
	if v == nil {
		v = b.OpenVirtual(group)
		if s.mu.ended {
			v.Close() // it finds nothing
			return v
		}
		if s.mu.virtual == nil {
			s.mu.virtual = map[string]*broker.VirtualConsumer{}
		}
		s.mu.virtual[group] = v
	}
	return v
}

// closeVirtual gives back what the connection's consumer of a group holds: the consumer has gone.
func (s *session) closeVirtual(group string) {
	s.mu.Lock()
	v := s.mu.virtual[group]
	delete(s.mu.virtual, group)
	s.mu.Unlock()
	if v != nil {
		v.Close()
	}
}
