package remoting

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/catalog"
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
	var refused *broker.Error
	switch {
	case errors.As(err, &r):
		return req.Reply(r.code, r.remark)
	case isUnreadable(err), isAttributeError(err):
		return req.Reply(wire.SystemError, err.Error())
	case errors.As(err, &refused) && refused.Code == broker.CodeGroupIllegal && isPull(req.Code):
		missing := &broker.Error{Code: broker.CodeGroupNotFound} // since there can be none of that name
		return req.Reply(wire.SubscriptionGroupNotExist, remarkOf(req, missing))
	case errors.As(err, &refused) && refused.Code != broker.CodeInternal:
		return req.Reply(responseCode(refused.Code), remarkOf(req, refused))
	case errors.Is(err, context.DeadlineExceeded):
		return req.Reply(wire.SystemBusy, "[TIMEOUT_CLEAN_QUEUE]broker busy: the request took too long")
	case errors.Is(err, context.Canceled):
		return req.Reply(wire.ServiceNotAvailable, "the broker is shutting down")
	}
	d.log.Error().Err(err).Int("code", req.Code).Msg("request failed")
	return req.Reply(wire.SystemError, err.Error())
}

// unreadable is a body that is none of its kind. The reference fails with an exception there, 1.
type unreadable struct{ reason string }

func (u *unreadable) Error() string { return u.reason }

// isUnreadable tells whether a request has a field too few, one that is none of its type, or no such body. Where the reference
// answers refusals with the fields of a success, it does not do so then.
func isUnreadable(err error) bool {
	var field *wire.FieldError
	var content *unreadable
	return errors.As(err, &field) || errors.As(err, &content)
}

// isAttributeError tells whether attributes of a topic or a group were refused: other than a name that is 1.
func isAttributeError(err error) bool {
	var name *catalog.NameError
	return errors.As(err, &name) && name.What == "attribute"
}

// faq is what the reference adds to the remarks that users see most.
const faq = "\nSee https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details."

// remarkOf is what a refusal says. That a topic or a group is not there, or that nothing can be stored, is said in the words of the
// reference, which tools show and people search for; they depend on the request.
func remarkOf(req *wire.Command, refused *broker.Error) string {
	group := req.Fields.Text("consumerGroup")
	switch topic := cmp.Or(req.Fields.Text("topic"), req.Fields.Text("b")); {
	case refused.Code == broker.CodeTopicNotFound && topic != "":
		return missingTopic(req.Code, topic)
	case refused.Code == broker.CodeGroupNotFound && isPull(req.Code):
		return "subscription group [" + group + "] does not exist, " + faq
	case refused.Code == broker.CodeGroupNotFound && req.Code == wire.UpdateConsumerOffset:
		return "Group " + group + " not exist!"
	case refused.Code == broker.CodeReadOnly, refused.Code == broker.CodeClosing:
		return "service not available now. " + refused.Message
	}
	return refused.Message
}

// isPull tells whether a request is one of a consumer for messages.
func isPull(code int) bool {
	switch code {
	case wire.PullMessage, wire.LitePullMessage, wire.PopMessage, wire.PeekMessage, wire.Notification, wire.PollingInfo:
		return true
	}
	return false
}

func missingTopic(code int, topic string) string {
	if isPull(code) || code == wire.AckMessage || code == wire.ChangeInvisibleTime {
		return "topic[" + topic + "] not exist, apply first please! " + faq
	}
	switch code {
	case wire.SendMessage, wire.SendMessageV2, wire.SendBatchMessage, wire.SendReplyMessage, wire.SendReplyMessageV2:
		return "topic[" + topic + "] not exist, apply first please!" + faq
	case wire.UpdateConsumerOffset:
		return "Topic " + topic + " not exist!"
	case wire.InvokeBrokerToReset:
		return "Topic " + topic + " does not exist"
	case wire.GetTopicConfig:
		return "No topic in this broker. topic: " + topic
	}
	return "topic[" + topic + "] not exist"
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
