package remoting

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/alloctest"
	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/pop"
)

// jsonCost is how many bytes may be allocated for one of a JSON body: a list of the largest structure, given as {} only.
const jsonCost = 1000

func FuzzHeartbeat(f *testing.F) {
	for _, s := range []string{
		`{"clientID":"c@1","consumerDataSet":[{"consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","consumeType":"CONSUME_PASSIVELY","groupName":"g",` +
			`"messageModel":"CLUSTERING","subscriptionDataSet":[{"classFilterMode":false,"codeSet":[2598919],"expressionType":"TAG","subString":"TagA",` +
			`"subVersion":1795000000000,"tagsSet":["TagA"],"topic":"t"}],"unitMode":false}],"heartbeatFingerprint":-1,"producerDataSet":[{"groupName":"p"}],` +
			`"withoutSub":false}`,
		`{"clientID":"go","consumerDataSet":[{"groupName":"g","subscriptionDataSet":[{"codeSet":["12",null,"x",1e3],"topic":"t"}]}],"producerDataSet":null}`,
		`{"clientID":"c","consumerDataSet":[{},{}],"heartbeatFingerprint":7,"withoutSub":true}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var h heartbeatData
		var infos []broker.ConsumerInfo
		var err error
		read := func(data []byte) {
			h, infos = heartbeatData{}, nil
			if err = body.Unmarshal(data, &h); err != nil {
				return
			}
			for i := range h.Consumers {
				infos = append(infos, h.Consumers[i].info())
			}
		}
		alloctest.AtMost(t, jsonCost*len(data), func() { read(data) })
		if err != nil {
			return
		}
		before := fmt.Sprintf("%+v", infos)
		again, err := body.Marshal(&h)
		if err != nil {
			t.Fatal(err)
		}
		if read(again); err != nil || fmt.Sprintf("%+v", infos) != before {
			t.Fatalf("%s became %+v, %v", before, infos, err)
		}
	})
}

// What is taken of a receipt makes a handle that says the same, or none.
func FuzzReceipt(f *testing.F) {
	f.Add("12 1795000000000 30000 77 0 broker-a 3 12", int32(3), int64(12))
	f.Add("0 0 0 0 0  0 0", int32(0), int64(0))
	f.Add("x", int32(-1), int64(-1))
	f.Add("0 9223372036854775807 9223372036854775807 2147483648 0 b 0 0", int32(0), int64(0))
	f.Fuzz(func(t *testing.T, extraInfo string, queue int32, offset int64) {
		var r receipt
		var err error
		alloctest.AtMost(t, 40*len(extraInfo), func() { r, err = parseReceipt(extraInfo) })
		if err != nil {
			if !isUnreadable(err) {
				t.Fatalf("%q: %v", extraInfo, err)
			}
			return
		}
		made, ok := r.handle(1, 2, queue, offset)
		if !ok {
			return
		}
		h, err := pop.ParseHandle(string(made.AppendTo(nil)))
		if err != nil || h.Queue != queue || h.Offset != offset || receiptOf(&h) != r {
			t.Fatalf("%q is %+v, its handle %+v, %v", extraInfo, r, h, err)
		}
	})
}

// A set of acknowledged offsets names as many messages as it has bits, and no more than are taken.
func FuzzBatchAck(f *testing.F) {
	r := newRig(f, commitlog.ModeOS, Options{}, nil)
	if err := r.broker.PutTopic(f.Context(), catalog.Topic{Name: "t", ReadQueues: 4, WriteQueues: 4, Perm: 6}, ""); err != nil {
		f.Fatal(err)
	}
	if err := r.broker.PutGroup(f.Context(), catalog.DefaultGroup("g"), ""); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"acks":[{"c":"g","t":"t","so":12,"q":1,"rq":77,"pt":1795000000000,"it":30000,"b":"AwE="}]}`))
	f.Add([]byte(`{"acks":[{"consumerGroup":"g","topic":"t","startOffset":9223372036854775807,"bitSet":"/////w=="},{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var b struct {
			Acks []ackedBatch `json:"acks"`
		}
		var err error
		alloctest.AtMost(t, jsonCost*len(data), func() { err = body.Unmarshal(data, &b) })
		if err != nil {
			return
		}
		const most = 100
		for i := range b.Acks {
			a := &b.Acks[i]
			handles, err := a.handles(r.door, "g", "t", most)
			set, _ := base64.StdEncoding.DecodeString(cmp.Or(a.Offsets, a.LongOffsets))
			ones := 0
			for _, x := range set {
				ones += bits.OnesCount8(x)
			}
			if len(handles) > min(ones, most) || err != nil && len(handles) > 0 {
				t.Fatalf("%d handles of %d bits: %v", len(handles), ones, err)
			}
			for _, text := range handles {
				if _, err := pop.ParseHandle(text); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

func FuzzLocks(f *testing.F) {
	f.Add([]byte(`{"clientId":"c","consumerGroup":"g","mqSet":[{"brokerName":"b","queueId":1,"topic":"t"}],"onlyThisBroker":false}`))
	f.Add([]byte(`{"clientId":"c","consumerGroup":"g","mqSet":[null,{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var l *lockRequest
		var refs []broker.QueueRef
		var err error
		alloctest.AtMost(t, jsonCost*len(data), func() { l, refs, err = readLockRequest(&wire.Command{Body: data}) })
		if err != nil {
			return
		}
		again, err := body.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		_, same, err := readLockRequest(&wire.Command{Body: again})
		if err != nil || !slices.Equal(same, refs) {
			t.Fatalf("%v became %v, %v", refs, same, err)
		}
	})
}

// Configurations of topics and groups as tools send them: what is read is written as what is read as the same.
func FuzzConfigs(f *testing.F) {
	f.Add([]byte(`{"attributes":{"+message.type":"FIFO","-x":null},"order":true,"perm":6,"readQueueNums":8,"topicFilterType":"SINGLE_TAG","topicName":"t",` +
		`"topicSysFlag":0,"writeQueueNums":8}`))
	f.Add([]byte(`{"attributes":{},"brokerId":0,"consumeBroadcastEnable":true,"consumeEnable":true,"consumeMessageOrderly":false,"groupName":"g",` +
		`"groupRetryPolicy":{"type":"EXPONENTIAL","exponentialRetryPolicy":{"initial":5000,"max":7200000,"multiplier":2}},"retryMaxTimes":16,"retryQueueNums":1}`))
	f.Add([]byte(`{"groupRetryPolicy":{"customizedRetryPolicy":{"next":[1000,5000]},"type":"CUSTOMIZED"},"subscriptionDataSet":[{"topic":"t"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, fresh := range []func() any{func() any { return &catalog.Topic{} }, func() any { return &catalog.Group{} }} {
			v, back := fresh(), fresh()
			var err error
			alloctest.AtMost(t, jsonCost*len(data), func() { err = badBody(json.Unmarshal(data, v)) })
			if err != nil {
				continue
			}
			text, err := json.Marshal(v)
			if err != nil {
				t.Fatalf("%+v: %v", v, err)
			}
			if err := json.Unmarshal(text, back); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			if again, err := json.Marshal(back); err != nil || !bytes.Equal(again, text) {
				t.Fatalf("%s became %s, %v", text, again, err)
			}
		}
		if g, changes, err := readGroup(data); err == nil && (g.Attributes != nil || strings.Count(changes, "=") > len(data)) {
			t.Fatalf("%+v, %q", g, changes)
		}
	})
}

// failures is where the door's log says that a handler panicked.
type failures struct{ found chan string }

func (l failures) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte("panicked")) {
		select {
		case l.found <- string(line):
		default:
		}
	}
	return len(line), nil
}

// FuzzRequests gives a whole door requests of every code, with any fields and bodies: each is answered, and none makes a handler
// panic. Fields come as properties do: key, 1, value, 2.
func FuzzRequests(f *testing.F) {
	log := failures{make(chan string, 1)}
	r := newRig(f, commitlog.ModeOS, Options{Logger: zerolog.New(log)}, nil)
	codes := slices.DeleteFunc(slices.Sorted(maps.Keys(table)), func(code int) bool { return code >= 1<<20 }) // those of other tests
	for i, code := range codes {
		f.Add(uint16(i), "topic\x01t\x02consumerGroup\x01g\x02queueId\x010\x02group\x01g\x02brokerName\x01broker-a\x02", []byte("{}"))
		if code == wire.SendMessageV2 {
			f.Add(uint16(i), "a\x01p\x02b\x01t\x02c\x01TBW102\x02d\x014\x02e\x010\x02f\x010\x02g\x011\x02h\x010\x02i\x01TAGS\x01a\x02", []byte("body"))
		}
		if code == wire.PullMessage {
			f.Add(uint16(i), "consumerGroup\x01g\x02topic\x01t\x02queueId\x010\x02queueOffset\x010\x02maxMsgNums\x0132\x02sysFlag\x016\x02commitOffset\x010\x02"+
				"suspendTimeoutMillis\x010\x02subscription\x01*\x02subVersion\x010\x02", []byte{})
		}
	}
	c := r.dial(wire.ClientOptions{})
	f.Fuzz(func(t *testing.T, which uint16, fields string, content []byte) {
		req := wire.NewRequest(codes[int(which)%len(codes)])
		for pair := range strings.SplitSeq(fields, "\x02") {
			if key, value, ok := strings.Cut(pair, "\x01"); ok {
				req.Fields.Set(key, strings.ReplaceAll(value, "\x03", "\x01"))
			}
		}
		for _, wait := range []string{"suspendTimeoutMillis", "pollTime", "timeoutMillis"} {
			if _, ok := req.Fields.Get(wait); ok {
				req.Fields.Set(wait, "0")
			}
		}
		req.Body = content
		code := req.Code
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		resp, err := c.Invoke(ctx, req)
		select {
		case line := <-log.found:
			t.Fatalf("code %d: %s", code, line)
		default:
		}
		if err != nil {
			t.Fatalf("code %d is not answered: %v", code, err)
		}
		resp.Release()
	})
}
