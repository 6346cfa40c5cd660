package wire

import "strconv"

// Request codes that more than one package names. Every door registers the ones that it serves with number and name.
const (
	SendMessage              = 10
	PullMessage              = 11
	QueryMessage             = 12
	QueryConsumerOffset      = 14
	UpdateConsumerOffset     = 15
	UpdateAndCreateTopic     = 17
	UpdateAndCreateTopicList = 18
	GetAllTopicConfig        = 21
	UpdateBrokerConfig       = 25
	GetBrokerConfig          = 26
	GetBrokerRuntimeInfo     = 28
	SearchOffsetByTimestamp  = 29
	GetMaxOffset             = 30
	GetMinOffset             = 31
	GetEarliestStoreTime     = 32
	ViewMessageByID          = 33
	HeartBeat                = 34
	UnregisterClient         = 35
	ConsumerSendMessageBack  = 36
	EndTransaction           = 37
	GetConsumerListByGroup   = 38
	CheckTransactionState    = 39 // broker to client
	NotifyConsumerIDsChanged = 40 // broker to client
	LockBatch                = 41
	UnlockBatch              = 42
	GetAllDelayOffset        = 45
	CheckClientConfig        = 46
	GetTimerMetrics          = 61
	PutKVConfig              = 100
	GetKVConfig              = 101
	DeleteKVConfig           = 102
	RegisterBroker           = 103
	UnregisterBroker         = 104
	GetRouteInfoByTopic      = 105
	GetBrokerClusterInfo     = 106
	UpdateAndCreateGroup     = 200
	GetAllGroupConfig        = 201
	GetTopicStats            = 202
	GetConsumerConnections   = 203
	GetProducerConnections   = 204
	WipeWritePerm            = 205
	GetAllTopicList          = 206
	DeleteGroup              = 207
	GetConsumeStats          = 208
	DeleteTopicInBroker      = 215
	DeleteTopicInNameServer  = 216
	GetKVListByNamespace     = 219
	ResetConsumerOffset      = 220 // broker to client
	GetConsumerStatus        = 221 // broker to client
	InvokeBrokerToReset      = 222
	GetTopicsByCluster       = 224
	QueryTopicConsumeByWho   = 300
	GetConsumerRunningInfo   = 307
	ConsumeMessageDirectly   = 309
	SendMessageV2            = 310
	SendBatchMessage         = 320
	QueryDataVersion         = 322
	ResumeCheckHalfMessage   = 323
	SendReplyMessage         = 324
	SendReplyMessageV2       = 325
	PushReplyMessage         = 326 // broker to client
	AddWritePerm             = 327
	GetTopicConfig           = 351
	GetGroupConfig           = 352
	LitePullMessage          = 361
	RecallMessage            = 370
	QueryAssignment          = 400
	SetMessageRequestMode    = 401
	BrokerHeartbeat          = 904
	PopMessage               = 200050
	AckMessage               = 200051
	PeekMessage              = 200052
	ChangeInvisibleTime      = 200053
	Notification             = 200054
	PollingInfo              = 200055
	BatchAckMessage          = 200151
)

// ResponseName is the name of a response code in small letters, as RocketMQ's metrics have it, or its number.
func ResponseName(code int) string {
	if name, ok := responseNames[code]; ok {
		return name
	}
	return strconv.Itoa(code)
}

var responseNames = map[int]string{
	Success: "success", SystemError: "system_error", SystemBusy: "system_busy", RequestCodeNotSupported: "request_code_not_supported",
	FlushDiskTimeout: "flush_disk_timeout", MessageIllegal: "message_illegal", ServiceNotAvailable: "service_not_available",
	VersionNotSupported: "version_not_supported", NoPermission: "no_permission", TopicNotExist: "topic_not_exist",
	PullNotFound: "pull_not_found", PullRetryImmediately: "pull_retry_immediately", PullOffsetMoved: "pull_offset_moved",
	QueryNotFound: "query_not_found", SubscriptionParseFailed: "subscription_parse_failed", SubscriptionNotExist: "subscription_not_exist",
	SubscriptionNotLatest: "subscription_not_latest", SubscriptionGroupNotExist: "subscription_group_not_exist",
	InvalidParameter: "invalid_parameter", ConsumerNotOnline: "consumer_not_online", ConsumeMessageTimeout: "consume_msg_timeout",
	NoMessage: "no_message", PollingFull: "polling_full", PollingTimeout: "polling_timeout", IllegalOperation: "illegal_operation",
	GoAway: "go_away",
}

// Response codes.
const (
	Success                   = 0
	SystemError               = 1
	SystemBusy                = 2
	RequestCodeNotSupported   = 3
	FlushDiskTimeout          = 10
	MessageIllegal            = 13
	ServiceNotAvailable       = 14
	VersionNotSupported       = 15
	NoPermission              = 16
	TopicNotExist             = 17
	PullNotFound              = 19
	PullRetryImmediately      = 20
	PullOffsetMoved           = 21
	QueryNotFound             = 22
	SubscriptionParseFailed   = 23
	SubscriptionNotExist      = 24
	SubscriptionNotLatest     = 25
	SubscriptionGroupNotExist = 26
	InvalidParameter          = 29
	ConsumerNotOnline         = 206
	ConsumeMessageTimeout     = 207
	NoMessage                 = 208
	PollingFull               = 209
	PollingTimeout            = 210
	IllegalOperation          = 604
	GoAway                    = 1500
)
