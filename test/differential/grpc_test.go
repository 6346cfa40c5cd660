package differential

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"github.com/cockroachdb/datadriven"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/cairnmq/cairn/server/grpc/adminpb"
)

// rpcs finds a method of either service, and the path that it is called at.
func rpcs(t *testing.T, name string) (m protoreflect.MethodDescriptor, path string) {
	t.Helper()
	for service, file := range map[string]protoreflect.FileDescriptor{
		"apache.rocketmq.v2.MessagingService": pb.File_apache_rocketmq_v2_service_proto,
		"apache.rocketmq.v2.Admin":            adminpb.File_server_grpc_adminpb_admin_proto,
	} {
		if m = file.Services().Get(0).Methods().ByName(protoreflect.Name(name)); m != nil {
			return m, "/" + service + "/" + name
		}
	}
	t.Fatalf("no rpc %s", name)
	return nil, ""
}

// grpcClient is a file's connection to the proxy, with the streams that its clients have opened.
type grpcClient struct {
	*grpc.ClientConn
	telemetry map[string]grpc.ClientStream
}

func dialGRPC(t *testing.T, addr string) *grpcClient {
	t.Helper()
	c, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return &grpcClient{ClientConn: c, telemetry: map[string]grpc.ClientStream{}}
}

// rpc makes a gRPC call. A client's Telemetry stream stays open until the file ends.
func (s *session) rpc(t *testing.T, d *datadriven.TestData, in input) answer {
	t.Helper()
	var method, name string
	d.ScanArgs(t, "method", &method)
	d.MaybeScanArgs(t, "client", &name)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	if name != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "x-mq-client-id", name, "x-mq-language", "JAVA", "x-mq-client-version", "5.2.0", "x-mq-protocol", "v2")
	}
	var answers []proto.Message
	var err error
	if method == "Telemetry" {
		t.Cleanup(cancel)
		answers, err = s.telemetry(t, ctx, name, in)
	} else {
		defer cancel()
		answers, err = s.grpc.ask(t, ctx, method, in)
	}
	a := answer{}
	for i, m := range answers {
		path := ""
		if len(answers) > 1 {
			path = fmt.Sprintf("[%d]", i)
		}
		describeProto(t, a, path, m)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		st := status.Convert(err)
		a["grpc"] = st.Code().String()
		a["remark"] = st.Message()
	}
	return a
}

// ask makes a call, and takes all responses that come.
func (c *grpcClient) ask(t *testing.T, ctx context.Context, method string, in input) (answers []proto.Message, err error) {
	t.Helper()
	m, path := rpcs(t, method)
	req := fill(t, m.Input(), in)
	if !m.IsStreamingServer() {
		resp := create(t, m.Output())
		if err := c.Invoke(ctx, path, req, resp); err != nil {
			return nil, err
		}
		return []proto.Message{resp}, nil
	}
	stream, err := c.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, path)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(stream.SendMsg(req), stream.CloseSend()); err != nil {
		return nil, err
	}
	for {
		resp := create(t, m.Output())
		if err := stream.RecvMsg(resp); err != nil {
			return answers, err
		}
		answers = append(answers, resp)
	}
}

// telemetry sends a command over the stream of a client, and takes the next one that comes.
func (s *session) telemetry(t *testing.T, ctx context.Context, name string, in input) ([]proto.Message, error) {
	t.Helper()
	m, path := rpcs(t, "Telemetry")
	stream := s.grpc.telemetry[name]
	if stream == nil {
		var err error
		stream, err = s.grpc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, path)
		if err != nil {
			return nil, err
		}
		s.grpc.telemetry[name] = stream
	}
	if err := stream.SendMsg(fill(t, m.Input(), in)); err != nil {
		return nil, err
	}
	resp := create(t, m.Output())
	if err := stream.RecvMsg(resp); err != nil {
		delete(s.grpc.telemetry, name)
		return nil, err
	}
	return []proto.Message{resp}, nil
}

func create(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	kind, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return kind.New().Interface()
}

func fill(t *testing.T, d protoreflect.MessageDescriptor, in input) proto.Message {
	t.Helper()
	m := create(t, d)
	text := strings.Join(in.lines, "\n")
	if text == "" {
		text = "{}"
	}
	if err := protojson.Unmarshal([]byte(text), m); err != nil {
		t.Fatalf("%s: %v in\n%s", d.FullName(), err, text)
	}
	return m
}

func describeProto(t *testing.T, a answer, path string, m proto.Message) {
	t.Helper()
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	if path == "" {
		for key, value := range v.(map[string]any) {
			flatten(a, key, value)
		}
		return
	}
	flatten(a, path, v)
}
