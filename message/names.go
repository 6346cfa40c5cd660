package message

import "strings"

// Names of the properties that the protocol gives a meaning. Where a value has a unit it is said; numbers are decimal.
const (
	PropKeys        = "KEYS" // the message's index keys, separated by blanks
	PropTags        = "TAGS" // its tag: one, despite the name
	PropWait        = "WAIT" // "false": the sender does not wait for the sync
	PropUniqueKey   = "UNIQ_KEY"
	PropShardingKey = "__SHARDINGKEY" // the message group of FIFO messages
	PropLiteTopic   = "__LITE_TOPIC"
	PropPriority    = "_SYS_MSG_PRIORITY_" // ≥ 0
	PropBuyerID     = "BUYER_ID"
	PropInstanceID  = "INSTANCE_ID"
	PropDupInfo     = "DUP_INFO"
	PropExtendUniq  = "EXTEND_UNIQ_INFO"

	// Delay and timers.
	PropDelayLevel      = "DELAY" // 1…18
	PropTimerDeliver    = "TIMER_DELIVER_MS"
	PropTimerDelayMs    = "TIMER_DELAY_MS"
	PropTimerDelaySec   = "TIMER_DELAY_SEC"
	PropTimerOut        = "TIMER_OUT_MS"
	PropTimerEnqueue    = "TIMER_ENQUEUE_MS"
	PropTimerDequeue    = "TIMER_DEQUEUE_MS"
	PropTimerRollTimes  = "TIMER_ROLL_TIMES"
	PropTimerRollLabel  = "TIMER_ROLL_LABEL"
	PropTimerDelUniqKey = "TIMER_DEL_UNIQKEY"
	PropTimerDelayLevel = "TIMER_DELAY_LEVEL"

	// Redirection, retry and dead letters.
	PropRealTopic    = "REAL_TOPIC"
	PropRealQueueID  = "REAL_QID"
	PropRetryTopic   = "RETRY_TOPIC"
	PropOriginID     = "ORIGIN_MESSAGE_ID"
	PropOriginGroup  = "ORIGIN_GROUP"
	PropReconsume    = "RECONSUME_TIME"
	PropMaxReconsume = "MAX_RECONSUME_TIMES"
	PropDLQTopic     = "DLQ_ORIGIN_TOPIC"
	PropDLQMessageID = "DLQ_ORIGIN_MESSAGE_ID"
	PropFirstPopTime = "1ST_POP_TIME" // ms since 1970
	PropPopCK        = "POP_CK"
	PropPopCKOffset  = "POP_CK_OFFSET"

	// Transactions.
	PropTranMsg         = "TRAN_MSG" // "true": a half message
	PropProducerGroup   = "PGROUP"
	PropTransactionID   = "__transactionId__"
	PropTranOffset      = "TRANS_OFFSET"
	PropTranQueueOffset = "TRAN_PREPARED_QUEUE_OFFSET"
	PropTranChecks      = "TRANSACTION_CHECK_TIMES"
	PropTranImmunity    = "CHECK_IMMUNITY_TIME_IN_SECONDS"

	// Request and reply.
	PropCorrelationID = "CORRELATION_ID"
	PropReplyToClient = "REPLY_TO_CLIENT"
	PropTTL           = "TTL" // ms
	PropArriveTime    = "ARRIVE_TIME"
	PropPushReplyTime = "PUSH_REPLY_TIME"
	PropMessageType   = "MSG_TYPE"

	// What brokers and proxies note.
	PropRegion           = "MSG_REGION"
	PropTraceOn          = "TRACE_ON"
	PropTraceContext     = "TRACE_CONTEXT"
	PropCluster          = "CLUSTER"
	PropBornHost         = "__BORNHOST"
	PropBornTimestamp    = "BORN_TIMESTAMP" // ms since 1970
	PropMinOffset        = "MIN_OFFSET"
	PropMaxOffset        = "MAX_OFFSET"
	PropConsumeStart     = "CONSUME_START_TIME"
	PropInnerNum         = "INNER_NUM"
	PropInnerBase        = "INNER_BASE"
	PropMultiDispatch    = "INNER_MULTI_DISPATCH"     // queue names, separated by commas
	PropMultiQueueOffset = "INNER_MULTI_QUEUE_OFFSET" // their offsets, likewise
	PropForwardQueueID   = "PROPERTY_FORWARD_QUEUE_ID"
	PropRedirect         = "REDIRECT"
	PropTransferFlag     = "TRANSFER_FLAG"
	PropCorrectionFlag   = "CORRECTION_FLAG"
	PropMQ2Flag          = "MQ2_FLAG"
	PropCRC32            = "__CRC32#"

	// Set by clients on what they have received; never stored.
	PropTransientPrefix      = "__RMQ.TRANSIENT."
	PropTransientTopicConfig = PropTransientPrefix + "TOPIC_SYS_FLAG"
	PropTransientGroupConfig = PropTransientPrefix + "GROUP_SYS_FLAG"
)

// reserved is the set that the official clients refuse as names of user properties.
var reserved = map[string]struct{}{
	PropTraceOn: {}, PropRegion: {}, PropKeys: {}, PropTags: {}, PropWait: {}, PropDelayLevel: {}, PropRetryTopic: {},
	PropOriginGroup: {}, PropRealTopic: {}, PropRealQueueID: {}, PropTranMsg: {}, PropProducerGroup: {}, PropMinOffset: {},
	PropMaxOffset: {}, PropBuyerID: {}, PropOriginID: {}, PropTransferFlag: {}, PropCorrectionFlag: {}, PropMQ2Flag: {},
	PropReconsume: {}, PropUniqueKey: {}, PropMaxReconsume: {}, PropConsumeStart: {}, PropPopCK: {}, PropPopCKOffset: {},
	PropFirstPopTime: {}, PropTranQueueOffset: {}, PropDupInfo: {}, PropExtendUniq: {}, PropInstanceID: {},
	PropCorrelationID: {}, PropReplyToClient: {}, PropTTL: {}, PropArriveTime: {}, PropPushReplyTime: {}, PropCluster: {},
	PropMessageType: {}, PropMultiQueueOffset: {}, PropTimerDelayMs: {}, PropTimerDelaySec: {}, PropTimerDeliver: {},
	PropTimerEnqueue: {}, PropTimerDequeue: {}, PropTimerRollTimes: {}, PropTimerOut: {}, PropTimerDelUniqKey: {},
	PropTimerDelayLevel: {}, PropBornHost: {}, PropBornTimestamp: {}, PropDLQTopic: {}, PropDLQMessageID: {}, PropCRC32: {},
	PropPriority: {}, PropLiteTopic: {},
}

// IsReserved tells whether the official clients refuse name for a user's property.
func IsReserved(name string) bool {
	_, ok := reserved[name]
	return ok
}

// IsTransient tells whether a property is a client's own note that is never stored.
func IsTransient(name string) bool { return strings.HasPrefix(name, PropTransientPrefix) }
