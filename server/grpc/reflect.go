package grpc

import (
	"slices"
	"strings"
	"sync"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"google.golang.org/grpc/reflection"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/cairnmq/cairn/server/grpc/adminpb"
	"github.com/cairnmq/cairn/server/grpc/transport"
)

// registerReflection lets grpcurl and its like find both services. They see the Admin service as the protocol declares it, while the
// linked-in packages have an old declaration of it and messages under names of our own.
func registerReflection(s *transport.Server) {
	opts := reflection.ServerOptions{Services: s, DescriptorResolver: adminDeclared()}
	reflectionv1.RegisterServerReflectionServer(s, reflection.NewServerV1(opts))
	reflectionv1alpha.RegisterServerReflectionServer(s, reflection.NewServer(opts))
}

// declarations are the linked-in ones, except for those of one file.
type declarations struct{ instead *protoregistry.Files }

func (d declarations) FindFileByPath(path string) (protoreflect.FileDescriptor, error) {
	if f, err := d.instead.FindFileByPath(path); err == nil {
		return f, nil
	}
	return protoregistry.GlobalFiles.FindFileByPath(path)
}

func (d declarations) FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error) {
	if found, err := d.instead.FindDescriptorByName(name); err == nil {
		return found, nil
	}
	return protoregistry.GlobalFiles.FindDescriptorByName(name)
}

// adminDeclared makes the protocol's admin.proto out of ours. It panics when they do not fit together, which is the same for every
// start of a build.
var adminDeclared = sync.OnceValue(func() declarations {
	old := pb.File_apache_rocketmq_v2_admin_proto
	f := protodesc.ToFileDescriptorProto(adminpb.File_server_grpc_adminpb_admin_proto)
	ours, theirs := "."+f.GetPackage()+".", "."+string(old.Package())+"."
	rename := func(s *string) *string {
		if rest, ok := strings.CutPrefix(*s, ours); ok {
			return proto.String(theirs + rest)
		}
		return s
	}
	var walk func(messages []*descriptorpb.DescriptorProto)
	walk = func(messages []*descriptorpb.DescriptorProto) {
		for _, m := range messages {
			for _, field := range m.Field {
				if field.TypeName != nil {
					field.TypeName = rename(field.TypeName)
				}
			}
			walk(m.NestedType)
		}
	}
	walk(f.MessageType)
	for _, s := range f.Service {
		for _, m := range s.Method {
			m.InputType, m.OutputType = rename(m.InputType), rename(m.OutputType)
		}
	}
	f.Name, f.Package = proto.String(old.Path()), proto.String(string(old.Package()))
	f.Dependency = slices.DeleteFunc(f.Dependency, func(path string) bool { return path == old.Path() })
	for i := range old.Messages().Len() {
		f.MessageType = append(f.MessageType, protodesc.ToDescriptorProto(old.Messages().Get(i)))
	}
	file, err := protodesc.NewFile(f, protoregistry.GlobalFiles)
	if err != nil {
		panic("the declaration of the Admin service: " + err.Error())
	}
	instead := &protoregistry.Files{}
	if err := instead.RegisterFile(file); err != nil {
		panic("the declaration of the Admin service: " + err.Error())
	}
	return declarations{instead}
})
