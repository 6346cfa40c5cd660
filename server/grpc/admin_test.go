package grpc

import (
	"errors"
	"fmt"
	"testing"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"google.golang.org/grpc"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// bytesCodec lets a test write and read messages itself.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// wireFields are the fields of a message: numbers, and bytes, the last of each.
func wireFields(b []byte) (numbers map[protowire.Number]uint64, texts map[protowire.Number][]byte, err error) {
	numbers, texts = map[protowire.Number]uint64{}, map[protowire.Number][]byte{}
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, nil, protowire.ParseError(n)
		}
		b = b[n:]
		switch kind {
		case protowire.VarintType:
			numbers[field], n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			texts[field], n = protowire.ConsumeBytes(b)
		default:
			return nil, nil, errors.New("neither a number nor bytes")
		}
		if n < 0 {
			return nil, nil, protowire.ParseError(n)
		}
		b = b[n:]
	}
	return numbers, texts, nil
}

// accumulated asks for the accumulation of a group, and of a topic when that has a name.
func (s *stub) accumulated(group, topic string, more ...byte) (*pb.Status, map[protowire.Number]uint64, map[protowire.Number]uint64) {
	s.Helper()
	g, err := proto.Marshal(resource(group))
	if err != nil {
		s.Fatal(err)
	}
	req := appendBytes(appendString(nil, 1, "a deployment"), 2, g)
	if topic != "" {
		t, err := proto.Marshal(resource(topic))
		if err != nil {
			s.Fatal(err)
		}
		req = appendBytes(req, 3, t)
	}
	var resp []byte
	err = s.conn.Invoke(s.ctx(10*time.Second), "/apache.rocketmq.v2.Admin/DescribeGroupAccumulation", append(req, more...), &resp, grpc.ForceCodecV2(bytesCodec{}))
	if err != nil {
		s.Fatal(err)
	}
	_, texts, err := wireFields(resp)
	if err != nil {
		s.Fatal(err)
	}
	st := &pb.Status{}
	if err := proto.Unmarshal(texts[1], st); err != nil {
		s.Fatal(err)
	}
	all, _, err := wireFields(texts[2])
	if err != nil {
		s.Fatal(err)
	}
	_, entry, err := wireFields(texts[3])
	if err != nil {
		s.Fatal(err)
	}
	if topic != "" && st.GetCode() == pb.Code_OK && string(entry[1]) != topic {
		s.Fatalf("the entry is for topic %q", entry[1])
	}
	one, _, err := wireFields(entry[2])
	if err != nil {
		s.Fatal(err)
	}
	return st, all, one
}

func TestDescribeGroupAccumulation(t *testing.T) {
	r := newRig(t)
	r.topic("t", "NORMAL")
	r.topic("u", "NORMAL")
	s := r.stub("c")
	pop := func(topic string) []*pb.Message {
		t.Helper()
		got, err := s.receive(s.ctx(10*time.Second), receiveRequest(topic, "g", time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		return got.messages
	}
	s.send("t", "a", "b", "c")
	s.send("u", "d")
	held := pop("t")
	for len(held) < 3 {
		held = append(held, pop("t")...)
	}
	if n := len(pop("u")); n != 1 {
		t.Fatalf("%d messages", n)
	}
	s.ack("t", "g", held[0].GetSystemProperties().GetReceiptHandle())
	s.send("t", "e", "f")
	check := func(what string, got map[protowire.Number]uint64, inFlight, ready uint64) {
		t.Helper()
		if got[1] != inFlight || got[2] != ready || got[3] != inFlight+ready {
			t.Errorf("%s: %v, want %d in flight and %d ready", what, got, inFlight, ready)
		}
	}
	st, all, one := s.accumulated("g", "t")
	if st.GetCode() != pb.Code_OK {
		t.Fatal(st)
	}
	check("all", all, 3, 2)
	check("t", one, 2, 2)
	if now := uint64(time.Now().UnixMilli()); one[5] == 0 || one[5] > now {
		t.Errorf("the last settled message was stored at %d", one[5])
	}
	_, all, one = s.accumulated("g", "")
	check("all", all, 3, 2)
	if len(one) != 0 {
		t.Errorf("a topic that nobody asked for: %v", one)
	}
	for _, c := range []struct {
		group, topic string
		more         []byte
		want         pb.Code
	}{
		{"none", "", nil, pb.Code_CONSUMER_GROUP_NOT_FOUND}, {"", "", nil, pb.Code_ILLEGAL_CONSUMER_GROUP},
		{"g", "none", nil, pb.Code_TOPIC_NOT_FOUND}, {"g", "t", appendString(nil, 4, "lite"), pb.Code_UNSUPPORTED},
	} {
		if st, _, _ := s.accumulated(c.group, c.topic, c.more...); st.GetCode() != c.want {
			t.Errorf("group %q, topic %q: %v, want %v", c.group, c.topic, st, c.want)
		}
	}
	var resp []byte
	err := s.conn.Invoke(s.ctx(10*time.Second), "/apache.rocketmq.v2.Admin/QueryTimeSpan", []byte{}, &resp, grpc.ForceCodecV2(bytesCodec{}))
	if status.Code(err) != grpccodes.Unimplemented {
		t.Errorf("what is not served: %v", err)
	}
	err = s.conn.Invoke(s.ctx(10*time.Second), "/apache.rocketmq.v2.Admin/DescribeGroupAccumulation", []byte{0x12, 0x7f}, &resp, grpc.ForceCodecV2(bytesCodec{}))
	if status.Code(err) != grpccodes.Internal {
		t.Errorf("broken request: %v", err)
	}
}

func FuzzAccumulationRequest(f *testing.F) {
	g, err := proto.Marshal(resource("g"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(appendString(appendBytes(appendBytes(appendString(nil, 1, "d"), 2, g), 3, g), 4, "lite"))
	f.Add([]byte{0x12, 0x7f})
	f.Fuzz(func(t *testing.T, b []byte) {
		var r accumulationRequest
		if err := r.decode(b); err == nil && len(r.topics) > len(b)/2 {
			t.Error(fmt.Sprint(len(r.topics), " topics from ", len(b), " bytes"))
		}
	})
}
