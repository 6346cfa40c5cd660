// Package adminpb holds the messages of the protocol's Admin service that the published Go package has not got yet.
//
// `go generate` makes it anew from admin.proto. It needs protoc; the generator itself is the one of go.mod.
package adminpb

//go:generate go run generate.go
