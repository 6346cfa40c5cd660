package catalog

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

func TestNames(t *testing.T) {
	long := strings.Repeat("x", 255)
	for _, c := range []struct {
		what     string
		validate func(string) error
		name     string
		ok       bool
	}{
		{"topic", ValidateTopicName, "order-events_1", true},
		{"topic", ValidateTopicName, "%RETRY%g|1", true},
		{"topic", ValidateTopicName, long[:127], true},
		{"topic", ValidateTopicName, long[:128], false},
		{"topic", ValidateTopicName, RetryPrefix + long[:255-len(RetryPrefix)], true},
		{"topic", ValidateTopicName, RetryPrefix + long[:256-len(RetryPrefix)], false},
		{"topic", ValidateTopicName, DLQPrefix + long[:200], true},
		{"topic", ValidateTopicName, "", false},
		{"topic", ValidateTopicName, " \t", false},
		{"topic", ValidateTopicName, "a b", false},
		{"topic", ValidateTopicName, "a/b", false},
		{"topic", ValidateTopicName, "α", false},
		{"topic", ValidateTopicName, "a\x00", false},
		{"group", ValidateGroupName, long[:120], true},
		{"group", ValidateGroupName, long[:121], false},
		{"group", ValidateGroupName, "GID_1", true},
		{"group", ValidateGroupName, "g.1", false},
	} {
		err := c.validate(c.name)
		var ne *NameError
		if (err == nil) != c.ok || err != nil && (!errors.As(err, &ne) || ne.What != c.what || ne.Name != c.name) {
			t.Errorf("%s %q: %v", c.what, c.name, err)
		}
	}
	if msg := ValidateTopicName(strings.Repeat("\n", 9) + strings.Repeat("x", 1<<20)).Error(); len(msg) > 1000 {
		t.Errorf("a hostile name makes an error of %d bytes", len(msg))
	}
}

func TestSystemNames(t *testing.T) {
	for name, want := range map[string][2]bool{ // system, clients may send
		"orders":                   {false, true},
		"TBW102":                   {true, true},
		"SCHEDULE_TOPIC_XXXX":      {true, false},
		"RMQ_SYS_TRANS_HALF_TOPIC": {true, false},
		"rmq_sys_wheel_timer":      {true, true},
		"SELF_TEST_TOPIC":          {true, false},
		"%RETRY%g":                 {false, true},
	} {
		if got := [2]bool{IsSystemTopic(name), ClientsMaySend(name)}; got != want {
			t.Errorf("%s: system, sendable = %v, want %v", name, got, want)
		}
	}
	for name, want := range map[string]bool{"CID_RMQ_SYS_TRANS": true, "TOOLS_CONSUMER": true, "g": false} {
		if got := IsSystemGroup(name); got != want {
			t.Errorf("%s: system = %v", name, got)
		}
	}
}

func TestApplyAttributes(t *testing.T) {
	fifo := map[string]string{AttrMessageType: "FIFO"}
	for _, c := range []struct {
		attrs  map[string]string
		change string
		create bool
		want   map[string]string // nil with bad: refused
		bad    string            // part of the error
	}{
		{nil, "", true, nil, ""},
		{nil, "+message.type=FIFO", true, fifo, ""},
		{nil, "+message.type=FIFO,+queue.type=BatchCQ", true,
			map[string]string{AttrMessageType: "FIFO", "queue.type": "BatchCQ"}, ""},
		{fifo, "+message.type=DELAY", false, map[string]string{AttrMessageType: "DELAY"}, ""},
		{fifo, "-message.type", false, nil, ""},
		{fifo, "", false, fifo, ""},
		{fifo, "+lite.topic.expiration=-1", false,
			map[string]string{AttrMessageType: "FIFO", "lite.topic.expiration": "-1"}, ""},
		{nil, "+lite.topic.expiration=43201", true, nil, "whole number"},
		{nil, "+message.type=NONSENSE", true, nil, "not one of"},
		{nil, "+colour=red", true, nil, "unknown"},
		{nil, "-message.type", true, nil, "while creating"},
		{nil, "-message.type", false, nil, "not set"},
		{fifo, "+queue.type=BatchCQ", false, nil, "cannot change"},
		{fifo, "+message.type=DELAY,-message.type", false, nil, "twice"},
		{nil, "message.type=FIFO", true, nil, "neither"},
		{nil, "+message.type", true, nil, "value is missing"},
		{nil, "+=x", true, nil, "key is empty"},
	} {
		got, err := ApplyAttributes(c.attrs, c.change, c.create)
		if c.bad != "" {
			var ne *NameError
			if !errors.As(err, &ne) || !strings.Contains(err.Error(), c.bad) {
				t.Errorf("%q: error %v, want one that says %q", c.change, err, c.bad)
			}
			continue
		}
		if err != nil || len(got) != len(c.want) {
			t.Errorf("%q: %v, %v", c.change, got, err)
		}
		for k, v := range c.want {
			if got[k] != v {
				t.Errorf("%q: %s is %q, want %q", c.change, k, got[k], v)
			}
		}
	}
	if fifo[AttrMessageType] != "FIFO" || len(fifo) != 1 {
		t.Error("the old map was changed")
	}
	if _, err := ApplyGroupAttributes(nil, "+priority.factor=101", true); err == nil {
		t.Error("a priority factor of 101 was accepted")
	}
}

func TestRetryWaits(t *testing.T) {
	exponential := &RetryPolicy{Type: RetryExponential}
	steep := &RetryPolicy{Type: RetryExponential, Exponential: &ExponentialBackoff{Initial: 1, Max: 1 << 62, Multiplier: 1 << 40}}
	flat := &RetryPolicy{Type: RetryExponential, Exponential: &ExponentialBackoff{Initial: 7, Max: 9, Multiplier: 1}}
	own := &RetryPolicy{Type: RetryCustomized, Customized: &CustomizedBackoff{Next: []int64{10, 20}}}
	for _, c := range []struct {
		policy *RetryPolicy
		failed int32
		want   time.Duration
	}{
		{nil, 1, time.Second}, {nil, 0, time.Second}, {nil, 3, 10 * time.Second}, {nil, 18, 2 * time.Hour},
		{nil, 1 << 30, 2 * time.Hour},
		{exponential, 1, 5 * time.Second}, {exponential, 2, 10 * time.Second}, {exponential, 1 << 30, 2 * time.Hour},
		{steep, 2, 1 << 40 * time.Millisecond}, {steep, 9, math.MaxInt64 / time.Millisecond * time.Millisecond},
		{flat, 1 << 30, 7 * time.Millisecond},
		{own, 1, 10 * time.Millisecond}, {own, 9, 20 * time.Millisecond},
	} {
		if got := c.policy.Wait(c.failed); got != c.want {
			t.Errorf("%+v after %d failures: %v, want %v", c.policy, c.failed, got, c.want)
		}
	}
}
