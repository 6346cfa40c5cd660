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

	_ "github.com/apache/rocketmq-clients/golang/v5/protocol/v2" // registers the messages
	"github.com/cockroachdb/datadriven"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// service is the path of the methods of ordinary clients.
const service = "/apache.rocketmq.v2.MessagingService/"

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
		req := fill(t, method+"Request", in)
		stream := method == "ReceiveMessage" || method == "PullMessage"
		answers, err = s.grpc.unary(t, ctx, method, req, stream)
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

func (c *grpcClient) unary(t *testing.T, ctx context.Context, method string, req proto.Message, streamed bool) (answers []proto.Message, err error) {
	t.Helper()
	if !streamed {
		resp := create(t, method+"Response")
		if err := c.Invoke(ctx, service+method, req, resp); err != nil {
			return nil, err
		}
		return []proto.Message{resp}, nil
	}
	stream, err := c.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, service+method)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(stream.SendMsg(req), stream.CloseSend()); err != nil {
		return nil, err
	}
	for {
		resp := create(t, method+"Response")
		if err := stream.RecvMsg(resp); err != nil {
			return answers, err
		}
		answers = append(answers, resp)
	}
}

// telemetry sends a command over the stream of a client, and takes the next one that comes.
func (s *session) telemetry(t *testing.T, ctx context.Context, name string, in input) ([]proto.Message, error) {
	t.Helper()
	stream := s.grpc.telemetry[name]
	if stream == nil {
		var err error
		stream, err = s.grpc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, service+"Telemetry")
		if err != nil {
			return nil, err
		}
		s.grpc.telemetry[name] = stream
	}
	if err := stream.SendMsg(fill(t, "TelemetryCommand", in)); err != nil {
		return nil, err
	}
	resp := create(t, "TelemetryCommand")
	if err := stream.RecvMsg(resp); err != nil {
		delete(s.grpc.telemetry, name)
		return nil, err
	}
	return []proto.Message{resp}, nil
}

func create(t *testing.T, name string) proto.Message {
	t.Helper()
	kind, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName("apache.rocketmq.v2." + name))
	if err != nil {
		t.Fatal(err)
	}
	return kind.New().Interface()
}

func fill(t *testing.T, name string, in input) proto.Message {
	t.Helper()
	m := create(t, name)
	text := strings.Join(in.lines, "\n")
	if text == "" {
		text = "{}"
	}
	if err := protojson.Unmarshal([]byte(text), m); err != nil {
		t.Fatalf("%s: %v in\n%s", name, err, text)
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
