package grpc

import (
	"slices"
	"testing"
	"time"

	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// TestReflection does what grpcurl does: it asks for the declaration of a service, and puts it together.
func TestReflection(t *testing.T) {
	r := newRig(t)
	s := r.stub("tool")
	stream, err := reflectionv1.NewServerReflectionClient(s.conn).ServerReflectionInfo(s.ctx(20 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	set := &descriptorpb.FileDescriptorSet{} // a stream brings each file once
	for service, wanted := range map[string][]string{
		"apache.rocketmq.v2.Admin":            {"ChangeLogLevel", "QueryMessage", "GetProxyRuntimeStats"},
		"apache.rocketmq.v2.MessagingService": {"SendMessage", "Telemetry"},
	} {
		err := stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: service}})
		if err != nil {
			t.Fatal(err)
		}
		resp, err := stream.Recv()
		if err != nil || resp.GetFileDescriptorResponse() == nil {
			t.Fatalf("%s: %v, %v", service, resp, err)
		}
		for _, raw := range resp.GetFileDescriptorResponse().GetFileDescriptorProto() {
			f := &descriptorpb.FileDescriptorProto{}
			if err := proto.Unmarshal(raw, f); err != nil {
				t.Fatal(err)
			}
			set.File = append(set.File, f)
		}
		files, err := protodesc.NewFiles(set) // fails when a name is there twice, or not at all
		if err != nil {
			t.Fatalf("%s: %v", service, err)
		}
		d, err := files.FindDescriptorByName(protoreflect.FullName(service))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			m := methods.Get(i)
			got = append(got, string(m.Name()))
			if in := m.Input().FullName().Parent(); in != "apache.rocketmq.v2" {
				t.Errorf("%s takes a message of %s", m.Name(), in)
			}
		}
		for _, name := range wanted {
			if !slices.Contains(got, name) {
				t.Errorf("%s has %q", service, got)
			}
		}
	}
}
