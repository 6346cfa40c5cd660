package grpc

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that ours is built on
	"google.golang.org/grpc/mem"
)

// codec is gRPC's own for protocol messages; answers that are encoded already go out as they are.
type codec struct{}

// encoded is a message in its wire form. It belongs to gRPC once it was sent.
type encoded struct{ buf *[]byte }

var (
	protoCodec = encoding.GetCodecV2("proto")
	bufferPool = mem.DefaultBufferPool()
)

// newEncoded returns room for a message of so many bytes.
func newEncoded(size int) encoded {
	if mem.IsBelowBufferPoolingThreshold(size) { // such a buffer would not come back to the pool
		b := make([]byte, size)
		return encoded{&b}
	}
	return encoded{bufferPool.Get(size)}
}

func (codec) Name() string { return "proto" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	if e, ok := v.(encoded); ok {
		return mem.BufferSlice{mem.NewBuffer(e.buf, bufferPool)}, nil
	}
	b, err := protoCodec.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return b, nil
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	if err := protoCodec.Unmarshal(data, v); err != nil {
		return fmt.Errorf("decode %T: %w", v, err)
	}
	return nil
}
