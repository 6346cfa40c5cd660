package body

// The bodies of this file answer tools: mqadmin, the dashboard, the exporter. Facts: RocketMQ 5.5 remoting.

// TopicPage is TopicConfigAndMappingSerializeWrapper as brokers answer it, all of their topics or some; T marshals to a
// TopicConfig. The maps must not be nil.
type TopicPage[T any] struct {
	DataVersion    DataVersion         `json:"dataVersion"`
	MappingVersion DataVersion         `json:"mappingDataVersion"`
	Topics         map[string]T        `json:"topicConfigTable"`
	MappingDetails map[string]struct{} `json:"topicQueueMappingDetailMap"`
	MappingInfo    map[string]struct{} `json:"topicQueueMappingInfoMap"`
}

// GroupPage is SubscriptionGroupWrapper; T marshals to a SubscriptionGroupConfig. The maps must not be nil.
type GroupPage[T any] struct {
	DataVersion DataVersion                 `json:"dataVersion"`
	Forbidden   map[string]map[string]int32 `json:"forbiddenTable"`
	Groups      map[string]T                `json:"subscriptionGroupTable"`
}

// GroupForbidden says whether a group may read a topic.
type GroupForbidden struct {
	Group    string `json:"group"`
	Readable bool   `json:"readable"`
	Topic    string `json:"topic"`
}

// ProducerInfo is one producer in ProducerTable.
type ProducerInfo struct {
	ClientID            string `json:"clientId"`
	Language            string `json:"language"`
	LastUpdateTimestamp int64  `json:"lastUpdateTimestamp"`
	RemoteIP            string `json:"remoteIP"`
	Version             int32  `json:"version"`
}

// ProducerTable is ProducerTableInfo: the producers by group.
type ProducerTable struct {
	Data map[string][]ProducerInfo `json:"data"`
}

// GroupSubscription is QuerySubscriptionResponseBody.
type GroupSubscription struct {
	Group        string        `json:"group"`
	Subscription *Subscription `json:"subscriptionData,omitempty"`
	Topic        string        `json:"topic"`
}

// ConsumerStatus is GetConsumerStatusBody: a client answers its own offsets, a broker those of all clients by their id.
type ConsumerStatus struct {
	ConsumerTable     map[string]QueueMap[int64] `json:"consumerTable"`
	MessageQueueTable QueueMap[int64]            `json:"messageQueueTable"`
}

// QueueTimeSpan is how far in time a group is in one queue. Times are in ms, beside them in words.
type QueueTimeSpan struct {
	ConsumeTimeStamp    int64        `json:"consumeTimeStamp"`
	ConsumeTimeStampStr string       `json:"consumeTimeStampStr"`
	DelayTime           int64        `json:"delayTime"`
	MaxTimeStamp        int64        `json:"maxTimeStamp"`
	MaxTimeStampStr     string       `json:"maxTimeStampStr"`
	MessageQueue        MessageQueue `json:"messageQueue"`
	MinTimeStamp        int64        `json:"minTimeStamp"`
	MinTimeStampStr     string       `json:"minTimeStampStr"`
}

// ConsumeTimeSpan is QueryConsumeTimeSpanBody.
type ConsumeTimeSpan struct {
	Spans []QueueTimeSpan `json:"consumeTimeSpanSet"`
}

// CorrectionOffsets is QueryCorrectionOffsetBody: offsets by queue number.
type CorrectionOffsets struct {
	CorrectionOffsets map[int32]int64 `json:"correctionOffsets"`
}

// ConsumeStatsList is the lag of many groups: for each group one ConsumeStats per topic.
type ConsumeStatsList struct {
	BrokerAddr        string                      `json:"brokerAddr"`
	ConsumeStatsList  []map[string][]ConsumeStats `json:"consumeStatsList"`
	TotalDiff         int64                       `json:"totalDiff"`
	TotalInflightDiff int64                       `json:"totalInflightDiff"`
}

// StatsItem is BrokerStatsItem: a sum, a rate per second, and how much each time on average.
type StatsItem struct {
	AvgPT float64 `json:"avgpt"`
	Sum   int64   `json:"sum"`
	TPS   float64 `json:"tps"`
}

// StatsData is BrokerStatsData.
type StatsData struct {
	StatsDay    StatsItem `json:"statsDay"`
	StatsHour   StatsItem `json:"statsHour"`
	StatsMinute StatsItem `json:"statsMinute"`
}

// QueueEntry is ConsumeQueueData: one entry of a queue, and whether a group's filter lets it through.
type QueueEntry struct {
	Eval         bool   `json:"eval"`
	Message      string `json:"msg,omitempty"`
	PhysicOffset int64  `json:"physicOffset"`
	PhysicSize   int32  `json:"physicSize"`
	TagsCode     int64  `json:"tagsCode"`
}

// QueueEntries is QueryConsumeQueueResponseBody.
type QueueEntries struct {
	FilterData    string        `json:"filterData,omitempty"`
	MaxQueueIndex int64         `json:"maxQueueIndex"`
	MinQueueIndex int64         `json:"minQueueIndex"`
	QueueData     []QueueEntry  `json:"queueData"`
	Subscription  *Subscription `json:"subscriptionData,omitempty"`
}

// DelayOffsets answers GET_ALL_DELAY_OFFSET: how far each delay level has been let go.
type DelayOffsets struct {
	DataVersion DataVersion     `json:"dataVersion"`
	OffsetTable map[int32]int64 `json:"offsetTable"`
}

// TimerMetrics answers GET_TIMER_METRICS: pending timers by topic.
type TimerMetrics struct {
	DataVersion DataVersion           `json:"dataVersion"`
	TimingCount map[string]TimerCount `json:"timingCount"`
}

// TimerCount is the pending timers of one topic, and when (ms) they were counted.
type TimerCount struct {
	Count     int64 `json:"count"`
	TimeStamp int64 `json:"timeStamp"`
}
