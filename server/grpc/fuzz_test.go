package grpc

import (
	"bytes"
	"context"
	"net/netip"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/internal/alloctest"
	"github.com/cairnmq/cairn/message"
)

// A message that is taken comes back to a consumer with what it was sent with.
func FuzzMessage(f *testing.F) {
	for _, m := range []*pb.Message{
		good(), good(tag("t"), keys("a", "b"), user("k", "v")), good(messageGroup("g")), good(deliverIn(time.Hour)), good(delayedTransaction(time.Hour)),
		good(func(m *pb.Message) {
			m.Body = gzipped(f, []byte("body"))
			m.SystemProperties.BodyEncoding = pb.Encoding_GZIP
		}),
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	from, now := netip.MustParseAddrPort("10.0.0.1:4711"), time.UnixMilli(1_795_000_000_000)
	f.Fuzz(func(t *testing.T, data []byte) {
		var m pb.Message
		var kept message.Message
		var err error
		alloctest.AtMost(t, 200*len(data), func() {
			if err = proto.Unmarshal(data, &m); err == nil {
				_, err = checkMessage(&m, 1<<16)
			}
		})
		if err != nil {
			return
		}
		if kept, err = stored("t", &m, from, now); err != nil {
			return // compressed, and no gzip
		}
		want, got := m.GetSystemProperties(), converted(t, &pb.Resource{Name: "t"}, &kept, &delivery{attempt: 1}).GetSystemProperties()
		if got.GetTag() != want.GetTag() || !slices.Equal(got.GetKeys(), words(want.GetKeys())) || got.GetMessageId() != want.GetMessageId() ||
			got.GetMessageGroup() != want.GetMessageGroup() || got.GetTraceContext() != want.GetTraceContext() {
			t.Fatalf("%v became %v", want, got)
		}
		for k, v := range m.GetUserProperties() {
			if kept, ok := message.Property(kept.Properties, k); v != "" && (!ok || string(kept) != v) {
				t.Fatalf("property %q=%q became %q", k, v, kept)
			}
		}
		if want.GetBodyEncoding() == pb.Encoding_IDENTITY && !bytes.Equal(kept.Body, m.GetBody()) {
			t.Fatalf("the body %q became %q", m.GetBody(), kept.Body)
		}
	})
}

// words are keys as they are told apart when they were stored: by blanks.
func words(keys []string) []string { return strings.Fields(strings.Join(keys, " ")) }

// FuzzRequests gives every unary rpc of both services any bytes: each is answered, with a code of the protocol or one of gRPC that says that the
// bytes are no message, and the door goes on.
func FuzzRequests(f *testing.F) {
	r := newRig(f, func(o *broker.Options) { o.Logger = zerolog.Nop() })
	r.topic("t", "NORMAL")
	s := r.stub("c")
	all := s.ctx(24 * time.Hour)
	var methods []string // by their full names
	for _, service := range []*grpc.ServiceDesc{&pb.MessagingService_ServiceDesc, &adminService} {
		for i := range service.Methods {
			methods = append(methods, "/"+service.ServiceName+"/"+service.Methods[i].MethodName)
		}
	}
	topic, group := resource("t"), resource("g")
	seeds := map[string]proto.Message{
		rpcQueryRoute:     &pb.QueryRouteRequest{Topic: topic, Endpoints: &pb.Endpoints{Scheme: pb.AddressScheme_IPv4, Addresses: []*pb.Address{{Host: "h", Port: 1}}}},
		rpcHeartbeat:      &pb.HeartbeatRequest{Group: group, ClientType: pb.ClientType_PUSH_CONSUMER},
		rpcSend:           &pb.SendMessageRequest{Messages: []*pb.Message{good(func(m *pb.Message) { m.Topic = topic })}},
		rpcAssignment:     &pb.QueryAssignmentRequest{Topic: topic, Group: group},
		rpcAck:            &pb.AckMessageRequest{Group: group, Topic: topic, Entries: []*pb.AckMessageEntry{{MessageId: "m", ReceiptHandle: "h"}}},
		rpcForward:        &pb.ForwardMessageToDeadLetterQueueRequest{Group: group, Topic: topic, ReceiptHandle: "h", MessageId: "m", DeliveryAttempt: 1},
		rpcEndTransaction: &pb.EndTransactionRequest{Topic: topic, MessageId: "m", TransactionId: "t", Resolution: pb.TransactionResolution_COMMIT},
		rpcTermination:    &pb.NotifyClientTerminationRequest{Group: group},
		rpcChange:         &pb.ChangeInvisibleDurationRequest{Group: group, Topic: topic, ReceiptHandle: "h", InvisibleDuration: durationpb.New(time.Second), MessageId: "m"},
		rpcRecall:         &pb.RecallMessageRequest{Topic: topic, RecallHandle: "djEgdCBiIDEgdQ=="},
		rpcGet:            &pb.GetOffsetRequest{Group: group, MessageQueue: &pb.MessageQueue{Topic: topic}},
		rpcUpdate:         &pb.UpdateOffsetRequest{Group: group, MessageQueue: &pb.MessageQueue{Topic: topic}, Offset: 1},
		rpcQueryOffset:    &pb.QueryOffsetRequest{MessageQueue: &pb.MessageQueue{Topic: topic}},
	}
	// Requests of the Admin service name a deployment, and then what they are about.
	named := appendString(appendString(appendBytes(appendBytes(appendString(nil, 1, "d"), 2, []byte("\x12\x01g")), 3, []byte("\x12\x01t")), 4, "t"), 5, "t")
	for i := range methods {
		f.Add(uint8(i), []byte{})
		f.Add(uint8(i), named)
		if m := seeds[path.Base(methods[i])]; m != nil {
			b, err := proto.Marshal(m)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(uint8(i), b)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		name := methods[int(which)%len(methods)]
		ctx, cancel := context.WithTimeout(all, 20*time.Second)
		defer cancel()
		var answer []byte
		err := s.conn.Invoke(ctx, name, data, &answer, grpc.ForceCodecV2(bytesCodec{}))
		switch code := status.Code(err); code {
		case grpccodes.OK:
			if _, texts, err := wireFields(answer); err == nil && len(texts[1]) == 0 && path.Base(name) != rpcTermination {
				t.Fatalf("%s is answered without a status: %x", name, answer)
			}
		case grpccodes.Internal, grpccodes.InvalidArgument: // the bytes are no such message
			if proto.Unmarshal(data, &pb.Resource{}) == nil && len(data) == 0 {
				t.Fatalf("%s of nothing: %v", name, err)
			}
		default:
			t.Fatalf("%s: %v", name, err)
		}
	})
}
