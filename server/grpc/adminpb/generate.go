//go:build ignore

// Generate runs protoc on admin.proto. What that imports comes from the Go packages that are linked in, so that no second copy
// of the protocol's definitions is needed.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func main() {
	if err := generate(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func generate() error {
	dir, err := os.MkdirTemp("", "adminpb")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	set := &descriptorpb.FileDescriptorSet{}
	seen := map[string]bool{}
	for _, f := range []protoreflect.FileDescriptor{
		pb.File_apache_rocketmq_v2_admin_proto, pb.File_apache_rocketmq_v2_definition_proto,
		durationpb.File_google_protobuf_duration_proto, timestamppb.File_google_protobuf_timestamp_proto,
	} {
		collect(f, set, seen)
	}
	data, err := proto.Marshal(set)
	if err != nil {
		return err
	}
	imports, plugin := filepath.Join(dir, "imports"), filepath.Join(dir, "protoc-gen-go")
	if err := os.WriteFile(imports, data, 0o600); err != nil {
		return err
	}
	if err := run("go", "build", "-o", plugin, "google.golang.org/protobuf/cmd/protoc-gen-go"); err != nil {
		return err
	}
	const root = "../../.."
	return run("protoc", "-I", root, "--descriptor_set_in="+imports, "--plugin="+plugin, "--go_out="+root, "--go_opt=paths=source_relative",
		"--go_opt=Mapache/rocketmq/v2/admin.proto=github.com/apache/rocketmq-clients/golang/v5/protocol/v2",
		"--go_opt=Mapache/rocketmq/v2/definition.proto=github.com/apache/rocketmq-clients/golang/v5/protocol/v2",
		"server/grpc/adminpb/admin.proto")
}

// collect adds a file after those that it imports.
func collect(f protoreflect.FileDescriptor, set *descriptorpb.FileDescriptorSet, seen map[string]bool) {
	if seen[f.Path()] {
		return
	}
	seen[f.Path()] = true
	for i := range f.Imports().Len() {
		collect(f.Imports().Get(i).FileDescriptor, set, seen)
	}
	set.File = append(set.File, protodesc.ToFileDescriptorProto(f))
}

func run(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
