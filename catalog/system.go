package catalog

import "strings"

// systemTopics are RocketMQ's own; the value says whether clients may send to them.
var systemTopics = map[string]bool{
	"TBW102":                              true,
	"BenchmarkTest":                       true,
	"RMQ_SYS_TRACE_TOPIC":                 true,
	"SELF_TEST_TOPIC":                     false,
	"OFFSET_MOVED_EVENT":                  false,
	"SCHEDULE_TOPIC_XXXX":                 false,
	"RMQ_SYS_TRANS_HALF_TOPIC":            false,
	"RMQ_SYS_TRANS_OP_HALF_TOPIC":         false,
	"RMQ_SYS_ROCKSDB_TRANS_HALF_TOPIC":    false,
	"RMQ_SYS_ROCKSDB_TRANS_OP_HALF_TOPIC": false,
	"TRANS_CHECK_MAX_TIME_TOPIC":          false,
}

const (
	systemTopicPrefix = "rmq_sys_"
	systemGroupPrefix = "CID_RMQ_SYS_"
)

var systemGroups = map[string]bool{
	"DEFAULT_CONSUMER": true, "TOOLS_CONSUMER": true, "SCHEDULE_CONSUMER": true, "FILTERSRV_CONSUMER": true,
	"__MONITOR_CONSUMER": true, "SELF_TEST_C_GROUP": true, "CID_ONS-HTTP-PROXY": true, "CID_ONSAPI_PERMISSION": true,
	"CID_ONSAPI_OWNER": true, "CID_ONSAPI_PULL": true,
}

// IsSystemTopic follows RocketMQ's list and the prefix rmq_sys_. The topics named after the cluster and the broker are
// system topics too, but only the broker knows these names.
func IsSystemTopic(name string) bool {
	_, listed := systemTopics[name]
	return listed || strings.HasPrefix(name, systemTopicPrefix)
}

// ClientsMaySend is false for the system topics that only the broker itself writes.
func ClientsMaySend(topic string) bool {
	may, listed := systemTopics[topic]
	return may || !listed
}

// IsSystemGroup follows RocketMQ's list and the prefix CID_RMQ_SYS_.
func IsSystemGroup(name string) bool {
	return systemGroups[name] || strings.HasPrefix(name, systemGroupPrefix)
}
