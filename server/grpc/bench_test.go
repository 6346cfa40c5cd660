package grpc

import (
	"net/netip"
	"testing"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// usual is a message as the official clients send it.
func usual() *pb.Message {
	return &pb.Message{
		Topic: resource("TopicTest"), Body: make([]byte, 128),
		SystemProperties: &pb.SystemProperties{
			Tag: proto.String("TagA"), Keys: []string{"order-1"}, MessageId: "01ABCDEF0123456789ABCDEF0123456789", MessageType: pb.MessageType_NORMAL,
			BodyEncoding: pb.Encoding_IDENTITY, BornTimestamp: timestamppb.Now(), BornHost: "laptop",
			BodyDigest: &pb.Digest{Type: pb.DigestType_CRC32, Checksum: "1234ABCD"},
		},
	}
}

// BenchmarkSendCodec is what a send costs in the door itself: decoding, checking, laying out, encoding the answer.
func BenchmarkSendCodec(b *testing.B) {
	raw, err := proto.Marshal(&pb.SendMessageRequest{Messages: []*pb.Message{usual()}})
	if err != nil {
		b.Fatal(err)
	}
	from, now := netip.MustParseAddrPort("10.1.2.3:4711"), time.Now()
	run := func(b *testing.B, steps int) {
		b.ReportAllocs()
		for b.Loop() {
			var req pb.SendMessageRequest
			if err := proto.Unmarshal(raw, &req); err != nil {
				b.Fatal(err)
			}
			if steps < 2 {
				continue
			}
			m := req.Messages[0]
			if _, err := topicOf(m.GetTopic()); err != nil {
				b.Fatal(err)
			}
			if _, err := checkMessage(m, 4<<20); err != nil {
				b.Fatal(err)
			}
			if _, err := stored("TopicTest", m, from, now); err != nil {
				b.Fatal(err)
			}
			if steps < 3 {
				continue
			}
			if _, err := (codec{}).Append(nil, &pb.SendMessageResponse{Status: statusOK, Entries: []*pb.SendResultEntry{
				{Status: statusOK, MessageId: m.GetSystemProperties().GetMessageId(), Offset: 12345},
			}}); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("decode", func(b *testing.B) { run(b, 1) })
	b.Run("decode+check+stored", func(b *testing.B) { run(b, 2) })
	b.Run("all", func(b *testing.B) { run(b, 3) })
}
