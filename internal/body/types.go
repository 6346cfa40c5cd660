package body

import "encoding/json"

// Permissions and names as in RocketMQ's MixAll and PermName.

// QueueData is one broker's queues of a topic (org.apache.rocketmq.remoting.protocol.route.QueueData).
type QueueData struct {
	BrokerName     string `json:"brokerName"`
	Perm           int32  `json:"perm"`
	ReadQueueNums  int32  `json:"readQueueNums"`
	TopicSysFlag   int32  `json:"topicSysFlag"`
	WriteQueueNums int32  `json:"writeQueueNums"`
}

// BrokerData is one broker's addresses by broker id; id 0 is the master.
type BrokerData struct {
	BrokerAddrs        map[int64]string `json:"brokerAddrs"`
	BrokerName         string           `json:"brokerName"`
	Cluster            string           `json:"cluster"`
	EnableActingMaster bool             `json:"enableActingMaster"`
	ZoneName           string           `json:"zoneName,omitempty"`
}

// TopicRoute is TopicRouteData. StaticMapping is passed on as external brokers registered it.
type TopicRoute struct {
	BrokerDatas       []BrokerData               `json:"brokerDatas"`
	FilterServerTable map[string][]string        `json:"filterServerTable"`
	OrderTopicConf    string                     `json:"orderTopicConf,omitempty"`
	QueueDatas        []QueueData                `json:"queueDatas"`
	StaticMapping     map[string]json.RawMessage `json:"topicQueueMappingByBroker,omitempty"`
}

// ClusterInfo answers GET_BROKER_CLUSTER_INFO.
type ClusterInfo struct {
	BrokerAddrTable  map[string]BrokerData `json:"brokerAddrTable"`
	ClusterAddrTable map[string][]string   `json:"clusterAddrTable"`
}

// TopicList answers the topic list codes.
type TopicList struct {
	BrokerAddr string   `json:"brokerAddr,omitempty"`
	TopicList  []string `json:"topicList"`
}

// GroupList answers QUERY_TOPIC_CONSUME_BY_WHO.
type GroupList struct {
	GroupList []string `json:"groupList"`
}

// KVTable answers runtime info and KV lists.
type KVTable struct {
	Table map[string]string `json:"table"`
}

// DataVersion orders the versions of a broker's configuration.
type DataVersion struct {
	Counter      int64 `json:"counter"`
	StateVersion int64 `json:"stateVersion"`
	Timestamp    int64 `json:"timestamp"`
}

// TopicConfig is a topic's configuration.
type TopicConfig struct {
	Attributes      map[string]string `json:"attributes,omitempty"`
	Order           bool              `json:"order"`
	Perm            int32             `json:"perm"`
	ReadQueueNums   int32             `json:"readQueueNums"`
	TopicFilterType string            `json:"topicFilterType"`
	TopicName       string            `json:"topicName"`
	TopicSysFlag    int32             `json:"topicSysFlag"`
	WriteQueueNums  int32             `json:"writeQueueNums"`
}

// TopicConfigTable is TopicConfigAndMappingSerializeWrapper, without static topics' details.
type TopicConfigTable struct {
	DataVersion      DataVersion                `json:"dataVersion"`
	TopicConfigTable map[string]TopicConfig     `json:"topicConfigTable"`
	MappingVersion   DataVersion                `json:"mappingDataVersion"`
	MappingDetails   map[string]json.RawMessage `json:"topicQueueMappingDetailMap"`
	MappingInfo      map[string]json.RawMessage `json:"topicQueueMappingInfoMap"`
}

// RegisterBroker is RegisterBrokerBody in its JSON form; see RegisterBroker's other form in register.go.
type RegisterBroker struct {
	FilterServerList []string         `json:"filterServerList"`
	Topics           TopicConfigTable `json:"topicConfigSerializeWrapper"`
}

// TopicOffset is one queue in TopicStatsTable.
type TopicOffset struct {
	LastUpdateTimestamp int64 `json:"lastUpdateTimestamp"`
	MaxOffset           int64 `json:"maxOffset"`
	MinOffset           int64 `json:"minOffset"`
}

// TopicStats is TopicStatsTable.
type TopicStats struct {
	OffsetTable QueueMap[TopicOffset] `json:"offsetTable"`
	TopicPutTPS float64               `json:"topicPutTps"`
}

// OffsetWrapper is one queue in ConsumeStats.
type OffsetWrapper struct {
	BrokerOffset   int64 `json:"brokerOffset"`
	ConsumerOffset int64 `json:"consumerOffset"`
	LastTimestamp  int64 `json:"lastTimestamp"`
	PullOffset     int64 `json:"pullOffset"`
}

// ConsumeStats answers GET_CONSUME_STATS.
type ConsumeStats struct {
	ConsumeTPS  float64                 `json:"consumeTps"`
	OffsetTable QueueMap[OffsetWrapper] `json:"offsetTable"`
	// Progress is Cairn's own, for who asks for it with the field progress.
	Progress *GroupProgress `json:"progress,omitempty"`
}

// GroupProgress is what a group has before it in each of its topics, and its dead letters.
type GroupProgress struct {
	Topics     []TopicProgress `json:"topics"`
	Dead       int64           `json:"dead"`
	OldestDead int64           `json:"oldestDead"` // ms: when the first of them died; 0 when there are none
}

// TopicProgress counts messages that a group has not settled, each once.
type TopicProgress struct {
	Topic     string `json:"topic"`
	Ready     int64  `json:"ready"`
	InFlight  int64  `json:"inFlight"`
	Delayed   int64  `json:"delayed"`
	Parked    int64  `json:"parked"`
	OldestAge int64  `json:"oldestAge"` // ms since the oldest of them was stored, by the broker's clock; 0 when there are none
	// Dead are the group's dead letters that were first in the topic; not there when there are too many to look at each.
	Dead *int64 `json:"dead,omitempty"`
}

// Connection is one connected client.
type Connection struct {
	ClientAddr string `json:"clientAddr"`
	ClientID   string `json:"clientId"`
	Language   string `json:"language"`
	Version    int32  `json:"version"`
}

// Subscription is SubscriptionData.
type Subscription struct {
	ClassFilterMode bool     `json:"classFilterMode"`
	CodeSet         []int32  `json:"codeSet"`
	ExpressionType  string   `json:"expressionType"`
	SubString       string   `json:"subString"`
	SubVersion      int64    `json:"subVersion"`
	TagsSet         []string `json:"tagsSet"`
	Topic           string   `json:"topic"`
}

// ConsumerConnection answers GET_CONSUMER_CONNECTION_LIST.
type ConsumerConnection struct {
	ConnectionSet     []Connection            `json:"connectionSet"`
	ConsumeFromWhere  string                  `json:"consumeFromWhere"`
	ConsumeType       string                  `json:"consumeType"`
	MessageModel      string                  `json:"messageModel"`
	SubscriptionTable map[string]Subscription `json:"subscriptionTable"`
}

// ProducerConnection answers GET_PRODUCER_CONNECTION_LIST.
type ProducerConnection struct {
	ConnectionSet []Connection `json:"connectionSet"`
}

// ResetOffset is ResetOffsetBody.
type ResetOffset struct {
	OffsetTable QueueMap[int64] `json:"offsetTable"`
}

// BrokerMemberGroup answers GET_BROKER_MEMBER_GROUP.
type BrokerMemberGroup struct {
	BrokerMemberGroup struct {
		BrokerAddrs map[int64]string `json:"brokerAddrs"`
		BrokerName  string           `json:"brokerName"`
		Cluster     string           `json:"cluster"`
	} `json:"brokerMemberGroup"`
}
