package grpc

import (
	"context"
	"errors"
	"fmt"

	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"

	"github.com/cairnmq/cairn/broker"
)

// refusal is why a call is answered with another status than OK. It is an error, so that checks can return it as one.
type refusal struct {
	code pb.Code
	text string
}

func (r *refusal) Error() string { return r.text }

func refuse(code pb.Code, format string, args ...any) *refusal {
	return &refusal{code, fmt.Sprintf(format, args...)}
}

// statusOK is shared: answers are only read after they were made.
var statusOK = &pb.Status{Code: pb.Code_OK, Message: "OK"}

// codes is the status for each reason that a verb has to refuse.
var codes = map[broker.Code]pb.Code{
	broker.CodeInternal:           pb.Code_INTERNAL_SERVER_ERROR,
	broker.CodeBusy:               pb.Code_TOO_MANY_REQUESTS,
	broker.CodeReadOnly:           pb.Code_INTERNAL_SERVER_ERROR, // the protocol knows no "disk full"; clients try elsewhere
	broker.CodeTopicNotFound:      pb.Code_TOPIC_NOT_FOUND,
	broker.CodeGroupNotFound:      pb.Code_CONSUMER_GROUP_NOT_FOUND,
	broker.CodeTopicIllegal:       pb.Code_ILLEGAL_TOPIC,
	broker.CodeGroupIllegal:       pb.Code_ILLEGAL_CONSUMER_GROUP,
	broker.CodeNoPermission:       pb.Code_FORBIDDEN,
	broker.CodeMessageIllegal:     pb.Code_BAD_REQUEST,
	broker.CodeBodyTooLarge:       pb.Code_MESSAGE_BODY_TOO_LARGE,
	broker.CodePropertiesTooLarge: pb.Code_MESSAGE_PROPERTIES_TOO_LARGE,
	broker.CodeParameter:          pb.Code_BAD_REQUEST,
	broker.CodeUnsupported:        pb.Code_UNSUPPORTED,
	broker.CodeInvalidHandle:      pb.Code_INVALID_RECEIPT_HANDLE,
	broker.CodeOffsetNotFound:     pb.Code_OFFSET_NOT_FOUND,
	broker.CodeNotFound:           pb.Code_MESSAGE_NOT_FOUND,
	broker.CodeClosing:            pb.Code_INTERNAL_SERVER_ERROR, // and not a client's fault: it must try again
	broker.CodeDelayTooLong:       pb.Code_ILLEGAL_DELIVERY_TIME,
	broker.CodeDelivered:          pb.Code_NOT_FOUND, // none is left to recall; MESSAGE_NOT_FOUND: there never was one
	broker.CodeConflict:           pb.Code_INVALID_TRANSACTION_ID,
}

// statusOf is OK for nil.
func (d *Door) statusOf(rpc string, err error) *pb.Status {
	if err == nil {
		return statusOK
	}
	var r *refusal
	if errors.As(err, &r) {
		return &pb.Status{Code: r.code, Message: r.text}
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return &pb.Status{Code: pb.Code_PROXY_TIMEOUT, Message: "the time of the call was over before the broker was done"}
	}
	code := broker.CodeOf(err)
	if code == broker.CodeInternal {
		d.trouble.Error().Err(err).Str("rpc", rpc).Msg("call failed")
	}
	return &pb.Status{Code: codes[code], Message: err.Error()}
}
