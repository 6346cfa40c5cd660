package grpc

import (
	"strings"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"

	"github.com/cairnmq/cairn/message"
)

// Limits on messages, as in the reference.
const (
	maxProperties    = 128      // of the user
	maxPropertyBytes = 16 << 10 // names and values of the user's properties, tag and keys
	maxMessageGroup  = 64       // bytes; 64 is one too many already
	maxRecovery      = time.Hour
)

// checkMessage holds a message against everything that can be said without its topic. Its kind is what its properties make it.
func checkMessage(m *pb.Message, maxBody int) (kind pb.MessageType, err error) {
	switch n := len(m.GetBody()); {
	case n == 0:
		return 0, refuse(pb.Code_MESSAGE_BODY_EMPTY, "the body is empty")
	case n > maxBody:
		return 0, refuse(pb.Code_MESSAGE_BODY_TOO_LARGE, "the body has %d bytes, %d are allowed", n, maxBody)
	}
	s := m.GetSystemProperties()
	if s == nil {
		return 0, refuse(pb.Code_ILLEGAL_MESSAGE_ID, "the message has no system properties, and so no id")
	}
	if err := checkProperties(m.GetUserProperties(), s); err != nil {
		return 0, err
	}
	if strings.TrimSpace(s.GetMessageId()) == "" || controlled(s.GetMessageId()) {
		return 0, refuse(pb.Code_ILLEGAL_MESSAGE_ID, "the message id is blank or has control characters")
	}
	if s.MessageGroup != nil {
		if g := s.GetMessageGroup(); strings.TrimSpace(g) == "" || len(g) >= maxMessageGroup || controlled(g) {
			return 0, refuse(pb.Code_ILLEGAL_MESSAGE_GROUP, "the message group is blank, has control characters or %d bytes or more", maxMessageGroup)
		}
	}
	// Whether it is too far away is the broker's to say.
	if t := s.GetDeliveryTimestamp(); t != nil && !t.IsValid() {
		return 0, refuse(pb.Code_ILLEGAL_DELIVERY_TIME, "the delivery timestamp is none: %s", t.CheckValid())
	}
	if t := s.GetOrphanedTransactionRecoveryDuration(); t != nil && (!t.IsValid() || t.AsDuration() < 0 || t.AsDuration() > maxRecovery) {
		return 0, refuse(pb.Code_BAD_REQUEST, "the recovery duration is not within 0 to %s", maxRecovery)
	}
	if s.Priority != nil && s.GetPriority() < 0 {
		return 0, refuse(pb.Code_BAD_REQUEST, "the priority is negative")
	}
	return kindOf(s)
}

// checkProperties looks at the user's properties, the tag and the keys.
func checkProperties(user map[string]string, s *pb.SystemProperties) error {
	if len(user) > maxProperties {
		return refuse(pb.Code_MESSAGE_PROPERTIES_TOO_LARGE, "%d properties, %d are allowed", len(user), maxProperties)
	}
	size := len(s.GetTag())
	for k, v := range user {
		switch {
		case k == "":
			return refuse(pb.Code_ILLEGAL_MESSAGE_PROPERTY_KEY, "a property has no name")
		case message.IsReserved(k):
			return refuse(pb.Code_ILLEGAL_MESSAGE_PROPERTY_KEY, "the property name %s is the system's own", k)
		case controlled(k) || controlled(v):
			return refuse(pb.Code_ILLEGAL_MESSAGE_PROPERTY_KEY, "property %q has control characters", k)
		}
		size += len(k) + len(v)
	}
	if s.Tag != nil {
		if t := s.GetTag(); t != "" && strings.TrimSpace(t) == "" || strings.Contains(t, "|") || controlled(t) {
			return refuse(pb.Code_ILLEGAL_MESSAGE_TAG, "the tag is blank, has a | or control characters")
		}
	}
	for _, k := range s.GetKeys() {
		if strings.TrimSpace(k) == "" || controlled(k) {
			return refuse(pb.Code_ILLEGAL_MESSAGE_KEY, "a key is blank or has control characters")
		}
		size += len(k)
	}
	// Not set by users, but stored beside what they set.
	if controlled(s.GetTraceContext()) || controlled(s.GetBornHost()) {
		return refuse(pb.Code_ILLEGAL_MESSAGE_PROPERTY_KEY, "the trace context or the born host has control characters")
	}
	size += len(s.GetTraceContext()) + len(s.GetBornHost()) + len(s.GetMessageId())
	if size > maxPropertyBytes {
		return refuse(pb.Code_MESSAGE_PROPERTIES_TOO_LARGE, "properties, tag and keys have %d bytes, %d are allowed", size, maxPropertyBytes)
	}
	return nil
}

// controlled tells whether s has control characters. The separators of stored properties are among them.
func controlled(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return true
		}
	}
	return false
}

// kindOf is what a message's properties make it. A type that is declared must agree. A transaction may have a delivery time: it
// waits for that from its commit on.
func kindOf(s *pb.SystemProperties) (pb.MessageType, error) {
	kind, marks := pb.MessageType_NORMAL, 0
	is := func(k pb.MessageType, set bool) {
		if set {
			kind = k
			marks++
		}
	}
	declared := s.GetMessageType()
	is(pb.MessageType_FIFO, s.MessageGroup != nil)
	is(pb.MessageType_DELAY, s.GetDeliveryTimestamp() != nil && declared != pb.MessageType_TRANSACTION)
	is(pb.MessageType_PRIORITY, s.Priority != nil)
	is(pb.MessageType_LITE, s.GetLiteTopic() != "")
	is(pb.MessageType_TRANSACTION, declared == pb.MessageType_TRANSACTION)
	if marks > 1 || declared != pb.MessageType_MESSAGE_TYPE_UNSPECIFIED && declared != kind {
		return 0, refuse(pb.Code_MESSAGE_PROPERTY_CONFLICT_WITH_TYPE, "the message is declared %s, its properties make it %s", declared, kind)
	}
	return kind, nil
}

// accepts tells whether a topic of a type takes messages of a kind.
func accepts(topicType string, kind pb.MessageType) bool {
	for _, t := range acceptTypes[topicType] {
		if t == kind || t == pb.MessageType_MESSAGE_TYPE_UNSPECIFIED {
			return true
		}
	}
	return false
}
