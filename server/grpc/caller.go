package grpc

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"strings"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/server/grpc/transport"
)

// Request headers.
const (
	headerClientID = "x-mq-client-id"
	headerLanguage = "x-mq-language"
	headerVersion  = "x-mq-client-version"
)

const maxClientID = 255

// clientOf is the id that every call must carry.
func clientOf(ctx context.Context) (string, error) {
	id := transport.Header(ctx, headerClientID)
	switch {
	case strings.TrimSpace(id) == "":
		return "", refuse(pb.Code_CLIENT_ID_REQUIRED, "the header %s is missing", headerClientID)
	case len(id) > maxClientID:
		return "", refuse(pb.Code_BAD_REQUEST, "the header %s is longer than %d bytes", headerClientID, maxClientID)
	}
	return id, nil
}

// addressOf is the zero AddrPort for a transport without IP addresses.
func addressOf(ctx context.Context) netip.AddrPort {
	if a, tcp := transport.Peer(ctx).(*net.TCPAddr); tcp {
		ap := a.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// version is what a client says of itself, "5.0.7" or "5.0.7-rc1".
type version [3]int

func parseVersion(s string) (v version, ok bool) {
	s = strings.TrimPrefix(s, "v")
	if i := strings.IndexFunc(s, func(r rune) bool { return r != '.' && (r < '0' || r > '9') }); i >= 0 {
		s = s[:i]
	}
	parts := strings.SplitN(s, ".", 4)
	if len(parts) < 3 {
		return v, false
	}
	for i := range v {
		n, err := strconv.Atoi(parts[i])
		if err != nil {
			return v, false
		}
		v[i] = n
	}
	return v, true
}

func (v version) atLeast(w version) bool {
	for i := range v {
		if v[i] != w[i] {
			return v[i] > w[i]
		}
	}
	return true
}

// remotingVersion is RocketMQ's ordinal of the newest release that the tools know, V5_5_0. gRPC clients number their
// releases otherwise, so the reference shows its own version for them too.
const remotingVersion = 513

// nameOf joins namespace and name as Remoting clients do; a group's retry and dead-letter topics keep their prefix in front.
func nameOf(r *pb.Resource) string {
	name, ns := r.GetName(), r.GetResourceNamespace()
	if ns == "" {
		return name
	}
	for _, prefix := range []string{catalog.RetryPrefix, catalog.DLQPrefix} {
		if rest, cut := strings.CutPrefix(name, prefix); cut {
			return prefix + ns + "%" + rest
		}
	}
	return ns + "%" + name
}

// topicOf checks the name of a topic that clients may use.
func topicOf(r *pb.Resource) (string, error) {
	name := nameOf(r)
	if err := catalog.ValidateTopicName(name); err != nil {
		return "", refuse(pb.Code_ILLEGAL_TOPIC, "%s", err)
	}
	if catalog.IsSystemTopic(name) {
		return "", refuse(pb.Code_ILLEGAL_TOPIC, "topic %s is the system's own", name)
	}
	return name, nil
}

// groupOf checks the name of a group that clients may use.
func groupOf(r *pb.Resource) (string, error) {
	name := nameOf(r)
	if err := catalog.ValidateGroupName(name); err != nil {
		return "", refuse(pb.Code_ILLEGAL_CONSUMER_GROUP, "%s", err)
	}
	if strings.HasPrefix(name, "CID_RMQ_SYS_") {
		return "", refuse(pb.Code_ILLEGAL_CONSUMER_GROUP, "group %s is the system's own", name)
	}
	return name, nil
}

// topic looks a topic up, and makes it, for which it waits, when it is one that is made when somebody asks for it.
func (d *Door) topic(ctx context.Context, name string) (*catalog.Topic, error) {
	t, err := d.broker.Topic(name)
	if err != nil && d.makes(name) {
		return d.broker.EnsureTopic(ctx, name, 0)
	}
	return t, err
}

// makes says that a topic that is not there is made when somebody asks for it.
func (d *Door) makes(name string) bool {
	return d.opts.AutoCreateTopics && !strings.HasPrefix(name, catalog.RetryPrefix) && !strings.HasPrefix(name, catalog.DLQPrefix)
}
