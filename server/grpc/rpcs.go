package grpc

import (
	pb "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
)

// RPC is a line of the table of what is served.
type RPC struct {
	Name string
	// Served is false for an rpc that is answered with NOT_IMPLEMENTED (50100).
	Served bool
	// Note says what is missing or special.
	Note string
}

// notImplemented are the rpcs that are answered with NOT_IMPLEMENTED, and the answer's text. The handlers take it from
// here, so that the table cannot say otherwise.
var notImplemented = map[string]string{
	rpcSyncLite: "lite topics are not implemented yet",
}

// notes on rpcs that are served. What they say of refusals is held true by tests.
var notes = map[string]string{
	rpcQueryRoute:     "with auto-create-topics makes a topic that is not there",
	rpcSend:           "delivery times and transactions, each message alone; messages of one message group go to one queue; priorities and lite topics: UNSUPPORTED",
	rpcReceive:        "of all queues, whichever is named; FIFO groups and topics: in the order of message groups, again for the same attempt id",
	rpcAssignment:     "one assignment of all queues; FIFO groups and topics: one for each queue; lite topics: UNSUPPORTED",
	rpcForward:        "of a message that is settled or was handed out again: OK, nothing happens; lite topics: UNSUPPORTED",
	rpcChange:         "without a time the group's retry policy says when; lite topics: UNSUPPORTED",
	rpcPull:           "not implemented in the reference",
	rpcUpdate:         "not implemented in the reference",
	rpcGet:            "not implemented in the reference",
	rpcQueryOffset:    "not implemented in the reference",
	rpcEndTransaction: "a transaction that is not there or was ended otherwise: INVALID_TRANSACTION_ID",
	rpcRecall:         "no recall handle: BAD_REQUEST; no such delayed message: MESSAGE_NOT_FOUND; delivered: NOT_FOUND",
	rpcTelemetry:      "settings; commands to clients: the end of a transaction, and what the Admin service asks; lite consumers are refused",
	rpcHeartbeat:      "lite consumers: UNSUPPORTED",
}

// Names of the rpcs.
const (
	rpcQueryRoute     = "QueryRoute"
	rpcHeartbeat      = "Heartbeat"
	rpcSend           = "SendMessage"
	rpcAssignment     = "QueryAssignment"
	rpcReceive        = "ReceiveMessage"
	rpcAck            = "AckMessage"
	rpcForward        = "ForwardMessageToDeadLetterQueue"
	rpcPull           = "PullMessage"
	rpcUpdate         = "UpdateOffset"
	rpcGet            = "GetOffset"
	rpcQueryOffset    = "QueryOffset"
	rpcEndTransaction = "EndTransaction"
	rpcTelemetry      = "Telemetry"
	rpcTermination    = "NotifyClientTermination"
	rpcChange         = "ChangeInvisibleDuration"
	rpcRecall         = "RecallMessage"
	rpcSyncLite       = "SyncLiteSubscription"
)

// Rpcs lists the rpcs of the service as the protocol declares them, with their state.
func Rpcs() []RPC {
	var names []string
	for _, m := range pb.MessagingService_ServiceDesc.Methods {
		names = append(names, m.MethodName)
	}
	for _, s := range pb.MessagingService_ServiceDesc.Streams {
		names = append(names, s.StreamName)
	}
	out := make([]RPC, 0, len(names))
	for _, name := range names {
		if text, missing := notImplemented[name]; missing {
			out = append(out, RPC{Name: name, Note: text})
			continue
		}
		out = append(out, RPC{Name: name, Served: true, Note: notes[name]})
	}
	return out
}

func refuseRPC(name string) error {
	return refuse(pb.Code_NOT_IMPLEMENTED, "%s", notImplemented[name])
}

// adminNotes on rpcs of the Admin service. The reference serves none of them.
var adminNotes = map[string]string{
	"ChangeLogLevel":            "of the whole process, until it ends",
	"DescribeTopicStatus":       "the tags are the topic's attributes; the type of a MIXED topic is UNSPECIFIED",
	"ListSubscription":          "also where a group has a place without anybody who subscribes (online is false, no expression)",
	"DescribeSubscription":      "of the consumers that are online",
	"DeleteSubscription":        "of a consumer that is online: PRECONDITION_FAILED; otherwise the place of the group in the topic goes, with what it has in flight there",
	"DescribeGroupAccumulation": "the accumulation is all that is not settled, also what is delayed or waits for its message group; lite topics: UNSUPPORTED",
	"ListConsumerConnection":    "over both protocols; lite topics: UNSUPPORTED",
	"ResetGroupOffset":          "all queues of the topic, at once",
	"QueryMessage":              "by unique or offset id, by key (newest first), or a scan with a filter by tags (subscription); at most 64 messages or 3 MiB a page; lite topics: UNSUPPORTED",
	"PrintThreadStackTrace":     "asks the client over its telemetry stream, or by request 307",
	"VerifyMessage":             "asks the client over its telemetry stream, or by request 309; the official Go client answers NOT_IMPLEMENTED",
	"AdminSendMessage":          "not transactions: UNSUPPORTED",
	"GetConsumerRunningInfo":    "asks a Remoting client (307); of a gRPC client what it said of itself, since that protocol has no such command",
	"GetTopicRoute":             "of this broker, with the address for the protocol that is named",
	"QueryTimeSpan":             "of all topics of the group unless some are named",
	"GetProxyRuntimeStats":      "rates of the last minute; connections are those of gRPC",
}

// AdminRpcs lists the rpcs of the protocol's Admin service.
func AdminRpcs() []RPC {
	var out []RPC
	for _, m := range adminService.Methods {
		out = append(out, RPC{Name: m.MethodName, Served: true, Note: adminNotes[m.MethodName]})
	}
	return out
}
