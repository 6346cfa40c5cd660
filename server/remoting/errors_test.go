package remoting

import (
	"errors"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/wire"
)

// What refusals become, with the beginnings of their remarks that users of the reference know.
func TestErrorReplies(t *testing.T) {
	refusal := func(code broker.Code) error { return &broker.Error{Code: code, Message: "why"} }
	attribute := &catalog.NameError{What: "attribute", Name: "a", Reason: "unknown"}
	for _, c := range []struct {
		request int
		err     error
		code    int
		remark  string
		logged  bool
	}{
		{wire.SendMessageV2, refusal(broker.CodeTopicNotFound), wire.TopicNotExist, "topic[t] not exist, apply first please!\nSee ", false},
		{wire.PopMessage, refusal(broker.CodeTopicNotFound), wire.TopicNotExist, "topic[t] not exist, apply first please! \nSee ", false},
		{wire.UpdateConsumerOffset, refusal(broker.CodeTopicNotFound), wire.TopicNotExist, "Topic t not exist!", false},
		{wire.GetTopicConfig, refusal(broker.CodeTopicNotFound), wire.TopicNotExist, "No topic in this broker. topic: t", false},
		{wire.InvokeBrokerToReset, refusal(broker.CodeTopicNotFound), wire.TopicNotExist, "Topic t does not exist", false},
		{wire.GetTopicStats, refusal(broker.CodeTopicNotFound), wire.TopicNotExist, "topic[t] not exist", false},
		{wire.PullMessage, refusal(broker.CodeGroupNotFound), wire.SubscriptionGroupNotExist, "subscription group [g] does not exist, \nSee ", false},
		{wire.PullMessage, refusal(broker.CodeGroupIllegal), wire.SubscriptionGroupNotExist, "subscription group [g] does not exist, \nSee ", false},
		{wire.UpdateConsumerOffset, refusal(broker.CodeGroupNotFound), wire.SubscriptionGroupNotExist, "Group g not exist!", false},
		{wire.UpdateAndCreateGroup, refusal(broker.CodeGroupIllegal), wire.InvalidParameter, "why", false},
		{wire.SendMessageV2, refusal(broker.CodeReadOnly), wire.ServiceNotAvailable, "service not available now. ", false},
		{wire.SendMessageV2, refusal(broker.CodeClosing), wire.ServiceNotAvailable, "service not available now. ", false},
		{wire.UpdateAndCreateTopic, &broker.Error{Code: broker.CodeParameter, Message: "why", Err: attribute}, wire.SystemError, "why", false},
		{wire.SendMessage, &unreadable{"no body"}, wire.SystemError, "no body", false},
		{wire.SendMessage, errors.New("broken"), wire.SystemError, "broken", true},
	} {
		var log strings.Builder
		d := &Door{log: zerolog.New(&log)}
		req := wire.NewRequest(c.request)
		req.Fields.Add("topic", "t")
		req.Fields.Add("consumerGroup", "g")
		resp := d.errorReply(req, c.err)
		if resp.Code != c.code || !strings.HasPrefix(resp.Remark, c.remark) || c.logged != (log.Len() > 0) {
			t.Errorf("%d, %v: %d %q, logged %q", c.request, c.err, resp.Code, resp.Remark, log.String())
		}
		resp.Release()
		req.Release()
	}
}
