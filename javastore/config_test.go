package javastore

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/cairnmq/cairn/catalog"
)

func TestTopicsAsJavaWritesThem(t *testing.T) {
	topics, err := ParseTopics([]byte(`{
	"dataVersion":{"counter":3,"stateVersion":0,"timestamp":1795299235314},
	"topicConfigTable":{
		"orders":{"attributes":{"message.type":"FIFO"},"order":true,"perm":4,"readQueueNums":18,"topicFilterType":"MULTI_TAG","topicName":"orders","topicSysFlag":2,"writeQueueNums":17},
		"bare":{"topicName":"bare"}
	}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []catalog.Topic{
		{Name: "bare", ReadQueues: 16, WriteQueues: 16, Perm: 6, TopicFilterType: "SINGLE_TAG"},
		{
			Name: "orders", ReadQueues: 18, WriteQueues: 17, Perm: 4, TopicFilterType: "MULTI_TAG", SysFlag: 2, Order: true,
			Attributes: map[string]string{"message.type": "FIFO"},
		},
	}
	if !reflect.DeepEqual(topics, want) {
		t.Errorf("got %+v, want %+v", topics, want)
	}
	written, err := MarshalTopics(topics, Version{Counter: 7, Timestamp: 9})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(written), `"bare":{"topicName":"bare","readQueueNums":16,"writeQueueNums":16,"perm":6,"topicFilterType":"SINGLE_TAG","topicSysFlag":0,"order":false,"attributes":{}}`) {
		t.Errorf("written %s", written)
	}
	again, err := ParseTopics(written)
	if err != nil {
		t.Fatal(err)
	}
	want[0].Attributes = map[string]string{}
	if !reflect.DeepEqual(again, want) {
		t.Errorf("read again %+v, want %+v", again, want)
	}
}

func TestGroupsAsJavaWritesThem(t *testing.T) {
	groups, err := ParseGroups([]byte(`{"dataVersion":{"counter":1},"forbiddenTable":{"g":{"orders":1}},"subscriptionGroupTable":{
		"g":{"attributes":{},"brokerId":0,"consumeEnable":false,"consumeMessageOrderly":true,"consumeTimeoutMinute":30,"groupName":"g",
			"groupRetryPolicy":{"type":"EXPONENTIAL","exponentialRetryPolicy":{"initial":1000,"max":9000,"multiplier":3}},"retryMaxTimes":3,
			"subscriptionDataSet":[{"topic":"orders","version":0}]},
		"old":{"groupName":"old","retryMaxTimes":-1}
	}}`))
	if err != nil {
		t.Fatal(err)
	}
	g := catalog.DefaultGroup("g")
	g.ConsumeEnable, g.ConsumeMessageOrderly, g.ConsumeTimeoutMinute, g.RetryMaxTimes, g.Attributes = false, true, 30, 3, map[string]string{}
	g.RetryPolicy = &catalog.RetryPolicy{Type: catalog.RetryExponential, Exponential: &catalog.ExponentialBackoff{Initial: 1000, Max: 9000, Multiplier: 3}}
	old := catalog.DefaultGroup("old")
	old.RetryMaxTimes = -1
	want := Groups{Groups: []catalog.Group{g, old}, Forbidden: map[string]map[string]int32{"g": {"orders": 1}}}
	if !reflect.DeepEqual(groups, want) {
		t.Errorf("got %+v, want %+v", groups, want)
	}
	written, err := MarshalGroups(groups, Version{})
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseGroups(written)
	if err != nil {
		t.Fatal(err)
	}
	want.Groups[1].Attributes = map[string]string{}
	if !reflect.DeepEqual(again, want) {
		t.Errorf("read again %+v, want %+v", again, want)
	}
}

func TestOffsetsAsJavaWritesThem(t *testing.T) {
	offsets, err := ParseOffsets([]byte(`{"dataVersion":{"counter":1},"groupTopicMap":{},"offsetTable":{
		"orders@g":{0:12,3:7},"%RETRY%g@g":{0:1}},"pullOffsetTable":{"orders@g":{0:99}}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []Offset{
		{Group: "g", Topic: "%RETRY%g", Offset: 1}, {Group: "g", Topic: "orders", Offset: 12},
		{Group: "g", Topic: "orders", Queue: 3, Offset: 7},
	}
	if !reflect.DeepEqual(offsets, want) {
		t.Errorf("got %+v, want %+v", offsets, want)
	}
	written, err := MarshalOffsets(offsets, Version{Counter: 2, State: 1, Timestamp: 3})
	if err != nil {
		t.Fatal(err)
	}
	const text = `{"dataVersion":{"counter":2,"stateVersion":1,"timestamp":3},"groupTopicMap":{},` +
		`"offsetTable":{"%RETRY%g@g":{0:1},"orders@g":{0:12,3:7}},"pullOffsetTable":{}}`
	if string(written) != text {
		t.Errorf("written %s, want %s", written, text)
	}
	if n, err := LiteOffsets([]byte(`{"lmqOffsetTable":{"%LMQ%a@g":4},"offsetTable":{}}`)); n != 1 || err != nil {
		t.Errorf("lite offsets: %d, %v", n, err)
	}
}

func TestDelayOffsets(t *testing.T) {
	got, err := ParseDelayOffsets([]byte(`{"dataVersion":{"counter":0},"offsetTable":{1:5,18:2}}`))
	if err != nil || !reflect.DeepEqual(got, map[int32]int64{1: 5, 18: 2}) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestWhatIsNoConfiguration(t *testing.T) {
	for name, parse := range map[string]func([]byte) error{
		"topics":  func(b []byte) error { _, err := ParseTopics(b); return err },
		"groups":  func(b []byte) error { _, err := ParseGroups(b); return err },
		"offsets": func(b []byte) error { _, err := ParseOffsets(b); return err },
		"delays":  func(b []byte) error { _, err := ParseDelayOffsets(b); return err },
	} {
		for _, text := range []string{``, `{`, `[]`, `{"topicConfigTable":{"a":7},"subscriptionGroupTable":{"a":7},"offsetTable":{"no-at-sign":{"x":1}}}`} {
			if err := parse([]byte(text)); !errors.Is(err, ErrConfig) {
				t.Errorf("%s of %q: %v", name, text, err)
			}
		}
	}
}
