package grpc

import (
	"fmt"

	"google.golang.org/protobuf/proto"
)

// codec is protobuf's; answers that are encoded already go out as they are.
type codec struct{}

// encoded is a message in its wire form.
type encoded []byte

func (codec) Append(dst []byte, m any) ([]byte, error) {
	switch m := m.(type) {
	case *encoded:
		return append(dst, *m...), nil
	case proto.Message:
		out, err := proto.MarshalOptions{}.MarshalAppend(dst, m)
		if err != nil {
			return nil, fmt.Errorf("encode %T: %w", m, err)
		}
		return out, nil
	}
	return nil, fmt.Errorf("%T is no message of the protocol", m)
}

func (codec) Unmarshal(data []byte, m any) error {
	p, is := m.(proto.Message)
	if !is {
		return fmt.Errorf("%T is no message of the protocol", m)
	}
	if err := proto.Unmarshal(data, p); err != nil {
		return fmt.Errorf("decode %T: %w", m, err)
	}
	return nil
}
