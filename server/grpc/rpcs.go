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
	rpcTelemetry:      "settings; the only command to clients is the question for the end of a transaction; lite consumers are refused",
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

// AdminRpcs lists the rpcs of the protocol's Admin service with their state. What is not served is answered with UNIMPLEMENTED.
func AdminRpcs() []RPC {
	var out []RPC
	for _, name := range []string{
		"ChangeLogLevel", "DescribeTopicStatus", "ListSubscription", "DescribeSubscription", "DeleteSubscription", rpcAccumulation,
		"ListConsumerConnection", "ResetGroupOffset", "QueryMessage", "PrintThreadStackTrace", "VerifyMessage", "AdminSendMessage",
		"GetConsumerRunningInfo", "GetTopicRoute", "QueryTimeSpan", "GetProxyRuntimeStats",
	} {
		r := RPC{Name: name, Note: "gRPC status UNIMPLEMENTED, as in the reference"}
		for _, m := range adminService.Methods {
			if m.MethodName == name {
				r = RPC{Name: name, Served: true}
			}
		}
		if name == rpcAccumulation {
			r.Note = "the accumulation is all that is not settled, also what is delayed or waits for its message group; lite topics: UNSUPPORTED"
		}
		out = append(out, r)
	}
	return out
}
