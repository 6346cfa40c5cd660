package grpc

import (
	"context"
	"fmt"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/cairnmq/cairn/broker"
)

// adminService is the protocol's Admin as far as it is served. The published Go package has not got its messages yet (rocketmq-apis
// #113, #116), so that they are read and written here; what is not served is UNIMPLEMENTED, as everything is in the reference.
var adminService = grpc.ServiceDesc{
	ServiceName: "apache.rocketmq.v2.Admin",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: rpcAccumulation, Handler: func(srv any, ctx context.Context, read func(any) error,
		_ grpc.UnaryServerInterceptor,
	) (any, error) {
		var req accumulationRequest
		if err := read(&req); err != nil {
			return nil, err
		}
		return srv.(*Door).describeGroupAccumulation(ctx, &req)
	}}},
}

const rpcAccumulation = "DescribeGroupAccumulation"

// accumulationRequest is DescribeGroupAccumulationRequest. The field deployment_name is passed over: here is one only.
type accumulationRequest struct {
	group  *pb.Resource   // 2
	topics []*pb.Resource // 3
	lite   bool           // 4 is there
}

func (r *accumulationRequest) decode(b []byte) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("a field of %s: %w", rpcAccumulation, protowire.ParseError(n))
		}
		b = b[n:]
		if number != 2 && number != 3 || kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
				return fmt.Errorf("field %d of %s: %w", number, rpcAccumulation, protowire.ParseError(n))
			}
			r.lite = r.lite || number == 4
			b = b[n:]
			continue
		}
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return fmt.Errorf("field %d of %s: %w", number, rpcAccumulation, protowire.ParseError(n))
		}
		b = b[n:]
		res := &pb.Resource{}
		if err := proto.Unmarshal(v, res); err != nil {
			return fmt.Errorf("field %d of %s: %w", number, rpcAccumulation, err)
		}
		if number == 2 {
			r.group = res
		} else {
			r.topics = append(r.topics, res)
		}
	}
	return nil
}

// describeGroupAccumulation tells how a group stands on all its topics, and on each that is named.
func (d *Door) describeGroupAccumulation(_ context.Context, req *accumulationRequest) (encoded, error) {
	var all accumulation
	var topics []byte
	err := func() error {
		group, err := groupOf(req.group)
		if err != nil {
			return err
		}
		if req.lite {
			return refuse(pb.Code_UNSUPPORTED, "lite topics are not supported yet")
		}
		every, err := d.broker.GroupProgress(group, "")
		if err != nil {
			return err
		}
		for i := range every {
			all.add(&every[i])
		}
		for _, t := range req.topics {
			one, err := d.broker.GroupProgress(group, nameOf(t))
			if err != nil {
				return err
			}
			var a accumulation
			a.add(&one[0])
			entry := appendBytes(appendString(nil, 1, t.GetName()), 2, a.append(nil))
			topics = appendBytes(topics, 3, entry)
		}
		return nil
	}()
	status, merr := proto.Marshal(d.statusOf(rpcAccumulation, err))
	if merr != nil {
		return encoded{}, merr
	}
	b := appendBytes(nil, 1, status)
	if err == nil {
		b = append(appendBytes(b, 2, all.append(nil)), topics...)
	}
	return encoded{&b}, nil
}

// accumulation is GroupAccumulation. What is delayed or waits for its message group is part of the sum alone.
//
//	1 in flight   2 ready   3 sum   4 how long the first that nobody was handed has been there   5 when the last settled one was stored, ms
type accumulation struct {
	inFlight, ready, sum int64
	wait, settled        int64 // ms
}

func (a *accumulation) add(p *broker.TopicProgress) {
	a.inFlight += p.InFlight
	a.ready += p.Ready
	a.sum += p.InFlight + p.Ready + p.Delayed + p.Parked
	if p.Unseen > 0 {
		a.wait = max(a.wait, p.At-p.Unseen)
	}
	for i := range p.Queues {
		a.settled = max(a.settled, p.Queues[i].Consumed)
	}
}

func (a *accumulation) append(b []byte) []byte {
	b = appendVarint(b, 1, uint64(a.inFlight))
	b = appendVarint(b, 2, uint64(a.ready))
	b = appendVarint(b, 3, uint64(a.sum))
	b = appendSpan(b, 4, a.wait/1000, a.wait%1000*1e6)
	return appendVarint(b, 5, uint64(a.settled))
}
