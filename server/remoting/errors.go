package remoting

import (
	"context"
	"errors"
	"fmt"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/internal/wire"
)

// refusal is a response other than success that a handler decides on itself.
type refusal struct {
	code   int
	remark string
}

func (r *refusal) Error() string { return r.remark }

// refuse makes an error that is answered with this code and remark.
func refuse(code int, format string, args ...any) error {
	return &refusal{code: code, remark: fmt.Sprintf(format, args...)}
}

// errorReply is the response that an error becomes. What is nobody's doing but ours is logged here, once.
func (d *Door) errorReply(req *wire.Command, err error) *wire.Command {
	var r *refusal
	var field *wire.FieldError
	var refused *broker.Error
	switch {
	case errors.As(err, &r):
		return req.Reply(r.code, r.remark)
	case errors.As(err, &field):
		return req.Reply(wire.SystemError, field.Error())
	case errors.As(err, &refused) && refused.Code != broker.CodeInternal:
		return req.Reply(responseCode(refused.Code), refused.Message)
	case errors.Is(err, context.DeadlineExceeded):
		return req.Reply(wire.SystemBusy, "[TIMEOUT_CLEAN_QUEUE]broker busy: the request took too long")
	case errors.Is(err, context.Canceled):
		return req.Reply(wire.ServiceNotAvailable, "the broker is shutting down")
	}
	d.log.Error().Err(err).Int("code", req.Code).Msg("request failed")
	return req.Reply(wire.SystemError, err.Error())
}

// responseCode is the protocol's code for a refusal. Where the reference answers differently at different places, it is
// what clients do with the code that decided.
func responseCode(c broker.Code) int {
	switch c {
	case broker.CodeBusy:
		return wire.SystemBusy
	case broker.CodeReadOnly, broker.CodeClosing:
		return wire.ServiceNotAvailable
	case broker.CodeTopicNotFound:
		return wire.TopicNotExist
	case broker.CodeGroupNotFound:
		return wire.SubscriptionGroupNotExist
	case broker.CodeTopicIllegal, broker.CodeGroupIllegal, broker.CodeParameter:
		return wire.InvalidParameter
	case broker.CodeNoPermission:
		return wire.NoPermission
	case broker.CodeMessageIllegal, broker.CodeBodyTooLarge, broker.CodePropertiesTooLarge, broker.CodeInvalidHandle,
		broker.CodeDelayTooLong:
		return wire.MessageIllegal
	case broker.CodeDelivered, broker.CodeConflict:
		return wire.IllegalOperation
	case broker.CodeUnsupported:
		return wire.RequestCodeNotSupported
	case broker.CodeOffsetNotFound, broker.CodeNotFound:
		return wire.QueryNotFound
	case broker.CodeInternal:
		return wire.SystemError
	}
	return wire.SystemError
}

// notFoundAs says what was not found in the words that tools look for; clients of the reference expect SYSTEM_ERROR there.
func notFoundAs(err error, remark string) error {
	if broker.CodeOf(err) == broker.CodeNotFound {
		return refuse(wire.SystemError, "%s", remark)
	}
	return err
}
