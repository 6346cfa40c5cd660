package body

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestQueueMapIsWrittenWithObjectKeys(t *testing.T) {
	s := TopicStats{OffsetTable: QueueMap[TopicOffset]{
		{BrokerName: "b", QueueID: 1, Topic: "t"}: {MaxOffset: 5},
		{BrokerName: "b", QueueID: 0, Topic: "t"}: {MaxOffset: 3, MinOffset: 1},
	}}
	got, err := Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"offsetTable":{{"brokerName":"b","queueId":0,"topic":"t"}:{"lastUpdateTimestamp":0,"maxOffset":3,"minOffset":1},` +
		`{"brokerName":"b","queueId":1,"topic":"t"}:{"lastUpdateTimestamp":0,"maxOffset":5,"minOffset":0}},"topicPutTps":0}`
	if string(got) != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
	var back TopicStats
	if err := Unmarshal(got, &back); err != nil || !reflect.DeepEqual(back, s) {
		t.Fatalf("%+v, %v", back, err)
	}
}

func TestBothDialectsOfRoutes(t *testing.T) {
	r := TopicRoute{BrokerDatas: []BrokerData{{BrokerAddrs: map[int64]string{0: "1.2.3.4:10911", 2: "12:3"}, BrokerName: "7", Cluster: "c"}},
		FilterServerTable: map[string][]string{}, QueueDatas: []QueueData{{BrokerName: "7", Perm: 6}}}
	std, err := Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(std) || !strings.Contains(string(std), `{"0":"1.2.3.4:10911","2":"12:3"}`) {
		t.Fatalf("standard: %s", std)
	}
	old, err := MarshalLegacy(r)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(old), `{0:"1.2.3.4:10911",2:"12:3"}`) || !strings.Contains(string(old), `"brokerName":"7"`) {
		t.Fatalf("legacy: %s", old)
	}
	for _, b := range [][]byte{std, old} {
		var back TopicRoute
		if err := Unmarshal(b, &back); err != nil || !reflect.DeepEqual(back, r) {
			t.Fatalf("%+v, %v", back, err)
		}
	}
}

func TestRegistrationRoundTrip(t *testing.T) {
	r := &RegisterBroker{FilterServerList: []string{}, Topics: TopicConfigTable{
		DataVersion: DataVersion{Counter: 3, Timestamp: 9},
		TopicConfigTable: map[string]TopicConfig{
			"a": {TopicName: "a", ReadQueueNums: 4, WriteQueueNums: 4, Perm: 6, TopicFilterType: "SINGLE_TAG"},
			"b": {TopicName: "b", ReadQueueNums: 1, WriteQueueNums: 2, Perm: 4, TopicFilterType: "SINGLE_TAG", Attributes: map[string]string{"message.type": "FIFO"}},
		}}}
	b, err := EncodeCompressed(r)
	if err != nil {
		t.Fatal(err)
	}
	back, err := DecodeCompressed(b)
	if err != nil || !reflect.DeepEqual(back, r) {
		t.Fatalf("%+v, %v", back, err)
	}
}

func TestUnmarshalRefusesNonsense(t *testing.T) {
	for _, s := range []string{"", "{", `{"a"}`, `{"a":1,}x`, `["`, `{1:}`, strings.Repeat("[", 100), `{{{"a":1}:2}:3}`, `{{1:2}:3}`} {
		var v any
		if err := Unmarshal([]byte(s), &v); err == nil {
			t.Errorf("%q was read as %v", s, v)
		}
	}
}
