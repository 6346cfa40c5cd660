package body

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/klauspost/compress/zlib"

	"github.com/cairnmq/cairn/internal/alloctest"
)

func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte(`{"offsetTable":{{"brokerName":"b","queueId":0,"topic":"t"}:{"maxOffset":3}}}`))
	f.Add([]byte(`{0:"a",1:{2:[true,null,-1.5e3]}}`))
	f.Add([]byte(strings.Repeat("{", 40) + `"a":1` + strings.Repeat("}:1", 39) + "}")) // each level would double the text
	f.Add([]byte(`{{"<":"<<<<"}:"<"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var v any
		var err error
		alloctest.AtMost(t, 400*len(data), func() { err = Unmarshal(data, &v) }) // a map of any for each {}
		if err != nil {
			return
		}
		again, err := Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var w any
		if err := Unmarshal(again, &w); err != nil || !reflect.DeepEqual(v, w) {
			t.Fatalf("%v became %v (%v)", v, w, err)
		}
	})
}

// Every body that a request may have is written again as what is read as the same, in either dialect.
func FuzzBodies(f *testing.F) {
	for _, s := range []string{
		`{"brokerDatas":[{"brokerAddrs":{0:"10.0.0.1:10911"},"brokerName":"b","cluster":"c","enableActingMaster":false}],"filterServerTable":{},` +
			`"queueDatas":[{"brokerName":"b","perm":6,"readQueueNums":8,"topicSysFlag":0,"writeQueueNums":8}]}`,
		`{"filterServerList":[],"topicConfigSerializeWrapper":{"dataVersion":{"counter":1,"stateVersion":0,"timestamp":2},"topicConfigTable":` +
			`{"t":{"attributes":{},"order":false,"perm":6,"readQueueNums":1,"topicFilterType":"SINGLE_TAG","topicName":"t","writeQueueNums":1}}}}`,
		`{"offsetTable":{{"brokerName":"b","queueId":0,"topic":"t"}:7}}`,
		`{"messageQueueTable":{{"brokerName":"b","queueId":0,"topic":"t"}:7},"consumerTable":{"c":{{"topic":"t"}:1}}}`,
		`{"offsetTable":{{"brokerName":"b","queueId":3,"topic":"t"}:{"brokerOffset":9,"consumerOffset":8,"lastTimestamp":7,"pullOffset":9}}}`,
		`{"connectionSet":[{"clientAddr":"a","clientId":"i","language":"JAVA","version":513}],"subscriptionTable":{"t":{"codeSet":[1],"tagsSet":["a"]}}}`,
		`{"brokerAddrTable":{"b":{"brokerAddrs":{0:"a"}}},"clusterAddrTable":{"c":["b"]}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, v := range []any{
			&TopicRoute{}, &RegisterBroker{}, &DataVersion{}, &ResetOffset{}, &ConsumerStatus{}, &ConsumeStats{}, &ConsumerConnection{},
			&ClusterInfo{}, &BrokerMemberGroup{}, &TopicStats{}, &MessageQueue{},
		} {
			fresh := func() any { return reflect.New(reflect.TypeOf(v).Elem()).Interface() }
			var err error
			alloctest.AtMost(t, 1000*len(data), func() { err = Unmarshal(data, v) }) // a list of the largest type out of "{},"
			if err != nil {
				continue
			}
			for _, write := range []func(any) ([]byte, error){Marshal, MarshalLegacy} {
				text, err := write(v)
				if err != nil {
					t.Fatalf("%T: %v", v, err)
				}
				back := fresh()
				if err := Unmarshal(text, back); err != nil {
					t.Fatalf("%T was written as %s: %v", v, text, err)
				}
				if again, err := write(back); err != nil || !bytes.Equal(again, text) {
					t.Fatalf("%T: %s became %s, %v", v, text, again, err)
				}
			}
		}
	})
}

func FuzzDecodeCompressed(f *testing.F) {
	for _, r := range []*RegisterBroker{
		{Topics: TopicConfigTable{TopicConfigTable: map[string]TopicConfig{"a": {TopicName: "a"}}}},
		{
			FilterServerList: []string{"f"}, Topics: TopicConfigTable{
				DataVersion:      DataVersion{Counter: 1, StateVersion: 2, Timestamp: 3},
				TopicConfigTable: map[string]TopicConfig{"b": {TopicName: "b", ReadQueueNums: 1, TopicFilterType: "SINGLE_TAG", Attributes: map[string]string{"k": "v"}}},
			},
		},
	} {
		b, err := EncodeCompressed(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add(deflated(f, bytes.Repeat([]byte{0}, 1<<16)))
	f.Fuzz(func(t *testing.T, data []byte) {
		unpacked := int64(0)
		if zr, err := zlib.NewReader(bytes.NewReader(data)); err == nil {
			if unpacked, _ = io.Copy(io.Discard, io.LimitReader(zr, maxRegistration)); unpacked > 1<<20 {
				return // it is bounded all the same, but takes long
			}
		}
		var r *RegisterBroker
		var err error
		alloctest.AtMost(t, 200*int(unpacked)+100*len(data), func() { r, err = DecodeCompressed(data) })
		if err != nil {
			return
		}
		text, err := EncodeCompressed(r)
		if err != nil {
			t.Fatal(err)
		}
		back, err := DecodeCompressed(text)
		if err != nil {
			t.Fatalf("%+v: %v", r, err)
		}
		if a, b := plainJSON(t, r), plainJSON(t, back); !bytes.Equal(a, b) {
			t.Fatalf("%s became %s", a, b)
		}
	})
}

// plainJSON tells registrations apart but for lists and maps that are there and empty.
func plainJSON(t *testing.T, r *RegisterBroker) []byte {
	t.Helper()
	c := *r
	if len(c.FilterServerList) == 0 {
		c.FilterServerList = nil
	}
	b, err := json.Marshal(&c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FuzzRegistrationText is FuzzDecodeCompressed without the compression, behind which the fuzzer does not see.
func FuzzRegistrationText(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02{}\x00\x00\x00\x01\x00\x00\x00\x14a 1 2 6 SINGLE_TAG {}\x00\x00\x00\x02[]\x00\x00\x00\x00"))
	f.Add([]byte("\x00\x00\x00\x02{}\x03\xff\xff\xff\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, plain []byte) {
		if len(plain) > math.MaxUint16 {
			return
		}
		data := deflated(t, plain)
		var r *RegisterBroker
		var err error
		alloctest.AtMost(t, 200*len(plain), func() { r, err = DecodeCompressed(data) })
		if err == nil && len(r.Topics.TopicConfigTable) > len(plain)/4 {
			t.Fatalf("%d topics in %d bytes", len(r.Topics.TopicConfigTable), len(plain))
		}
	})
}

func deflated(t testing.TB, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
