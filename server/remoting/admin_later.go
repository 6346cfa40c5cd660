package remoting

// The codes of this file are known and not served: what they are about comes with a later release, or does not exist here.

const (
	withLite      = "lite topics come with a later release"
	withAuth      = "users and rights come with a later release"
	withReplicas  = "replication comes with a later release"
	noStatic      = "there are no static topics"
	noTimerEngine = "timers are rows of the index: there is no timer wheel and no engine to choose"
	noCold        = "there is no control of cold reads"
	noFiles       = "state is in the log and its index, not in files or engines of their own"
	noContainer   = "there is no broker container"
)

type laterCode struct {
	name string
	tier Tier
	why  string
}

var laterCodes = map[int]laterCode{
	43:     {"GET_ALL_CONSUMER_OFFSET", TierInternal, withReplicas},
	60:     {"GET_TIMER_CHECK_POINT", TierInternal, noTimerEngine},
	354:    {"CHECK_ROCKSDB_CQ_WRITE_PROGRESS", TierAdmin, noFiles},
	355:    {"EXPORT_ROCKSDB_CONFIG_TO_JSON", TierAdmin, noFiles},
	402:    {"GET_ALL_MESSAGE_REQUEST_MODE", TierInternal, withReplicas},
	513:    {"UPDATE_AND_CREATE_STATIC_TOPIC", TierAdmin, noStatic},
	902:    {"ADD_BROKER", TierInternal, noContainer},
	903:    {"REMOVE_BROKER", TierInternal, noContainer},
	905:    {"NOTIFY_MIN_BROKER_ID_CHANGE", TierInternal, withReplicas},
	906:    {"EXCHANGE_BROKER_HA_INFO", TierInternal, withReplicas},
	907:    {"GET_BROKER_HA_STATUS", TierAdmin, withReplicas},
	908:    {"RESET_MASTER_FLUSH_OFFSET", TierInternal, withReplicas},
	1007:   {"GET_BROKER_EPOCH_CACHE", TierAdmin, withReplicas},
	1008:   {"NOTIFY_BROKER_ROLE_CHANGED", TierInternal, withReplicas},
	2001:   {"UPDATE_COLD_DATA_FLOW_CTR_CONFIG", TierAdmin, noCold},
	2002:   {"REMOVE_COLD_DATA_FLOW_CTR_CONFIG", TierAdmin, noCold},
	2003:   {"GET_COLD_DATA_FLOW_CTR_INFO", TierAdmin, noCold},
	2004:   {"SET_COMMITLOG_READ_MODE", TierAdmin, noCold},
	3001:   {"AUTH_CREATE_USER", TierAdmin, withAuth},
	3002:   {"AUTH_UPDATE_USER", TierAdmin, withAuth},
	3003:   {"AUTH_DELETE_USER", TierAdmin, withAuth},
	3004:   {"AUTH_GET_USER", TierAdmin, withAuth},
	3005:   {"AUTH_LIST_USER", TierAdmin, withAuth},
	3006:   {"AUTH_CREATE_ACL", TierAdmin, withAuth},
	3007:   {"AUTH_UPDATE_ACL", TierAdmin, withAuth},
	3008:   {"AUTH_DELETE_ACL", TierAdmin, withAuth},
	3009:   {"AUTH_GET_ACL", TierAdmin, withAuth},
	3010:   {"AUTH_LIST_ACL", TierAdmin, withAuth},
	5001:   {"SWITCH_TIMER_ENGINE", TierAdmin, noTimerEngine},
	200056: {"POP_ROLLBACK", TierInternal, noFiles},
	200070: {"POP_LITE_MESSAGE", TierClient, withLite},
	200071: {"LITE_SUBSCRIPTION_CTL", TierClient, withLite},
	200074: {"GET_BROKER_LITE_INFO", TierAdmin, withLite},
	200075: {"GET_PARENT_TOPIC_INFO", TierAdmin, withLite},
	200076: {"GET_LITE_TOPIC_INFO", TierAdmin, withLite},
	200077: {"GET_LITE_CLIENT_INFO", TierAdmin, withLite},
	200078: {"GET_LITE_GROUP_INFO", TierAdmin, withLite},
	200079: {"TRIGGER_LITE_DISPATCH", TierAdmin, withLite},
}

func init() {
	for number, c := range laterCodes {
		refuseCode(number, c.name, c.tier, c.why)
	}
}
