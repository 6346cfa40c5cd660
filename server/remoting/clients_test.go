package remoting

import (
	"testing"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/wire"
)

// What is made for a unit is marked as that, also the retry topic of a group that was there before.
func TestUnits(t *testing.T) {
	r := newRig(t, commitlog.ModeOS, Options{}, nil)
	c := r.dial(wire.ClientOptions{})
	flags := func(topic string) int32 {
		t.Helper()
		conf, err := r.broker.Topic(topic)
		if err != nil {
			t.Fatal(err)
		}
		return conf.SysFlag
	}
	for unit, want := range map[string]int32{"true": catalog.TopicOfUnit, "false": 0} {
		cmd := sendRequest("unit-"+unit, "0", "x")
		cmd.Fields.Set("k", unit)
		if resp := invoke(t, c, cmd); resp.Code != wire.Success {
			t.Fatal(resp.Code, resp.Remark)
		}
		if got := flags("unit-" + unit); got != want {
			t.Errorf("unit %s: flags %d, want %d", unit, got, want)
		}
	}
	for _, unit := range []string{"false", "true", "false"} { // the mark stays
		cmd := request(wire.HeartBeat)
		cmd.Body = []byte(`{"clientID":"c","consumerDataSet":[{"groupName":"g","unitMode":` + unit + `,"subscriptionDataSet":[]}]}`)
		if resp := invoke(t, c, cmd); resp.Code != wire.Success {
			t.Fatal(resp.Code, resp.Remark)
		}
		if unit == "true" && flags("%RETRY%g") != catalog.TopicHasUnitSub {
			t.Error(flags("%RETRY%g"))
		}
	}
	if got := flags("%RETRY%g"); got != catalog.TopicHasUnitSub {
		t.Error(got)
	}
}

// Topics are made after the template that the sender names, if that is inherited.
func TestTopicsOnDemand(t *testing.T) {
	r := newRig(t, commitlog.ModeOS, Options{}, nil)
	c := r.dial(wire.ClientOptions{})
	for _, s := range []struct {
		template, wanted string
		queues           int32 // 0: refused
	}{
		{"TBW102", "3", 3}, {"TBW102", "100", 8}, {"TBW102", "0", 8}, {"DefaultCluster", "100", 16}, {"SELF_TEST_TOPIC", "1", 0}, {"none", "1", 0}, {"", "1", 0},
	} {
		name := "by-" + s.template + "-" + s.wanted
		cmd := sendRequest(name, "0", "x")
		cmd.Fields.Set("c", s.template)
		cmd.Fields.Set("d", s.wanted)
		resp := invoke(t, c, cmd)
		conf, err := r.broker.Topic(name)
		switch {
		case s.queues == 0:
			if resp.Code != wire.TopicNotExist || err == nil {
				t.Errorf("%s: %d %s", name, resp.Code, resp.Remark)
			}
		case resp.Code != wire.Success || err != nil:
			t.Errorf("%s: %d %s %v", name, resp.Code, resp.Remark, err)
		case conf.ReadQueues != s.queues || conf.WriteQueues != s.queues || conf.Perm != catalog.PermRead|catalog.PermWrite:
			t.Errorf("%s: %+v", name, conf)
		}
	}
}

// A consumer whose own class filters gets everything: there are no filter servers.
func TestClassFilter(t *testing.T) {
	r := newRig(t, commitlog.ModeOS, Options{}, nil)
	c := r.dial(wire.ClientOptions{})
	if resp := invoke(t, c, sendRequest("filtered", "0", "x")); resp.Code != wire.Success {
		t.Fatal(resp.Code, resp.Remark)
	}
	for mode, want := range map[string]int{"true": wire.Success, "false": wire.PullRetryImmediately} {
		beat := request(wire.HeartBeat)
		beat.Body = []byte(`{"clientID":"c","consumerDataSet":[{"groupName":"g-` + mode + `","subscriptionDataSet":[` +
			`{"topic":"filtered","subString":"org.example.Filter","classFilterMode":` + mode + `,"subVersion":1}]}]}`)
		if resp := invoke(t, c, beat); resp.Code != wire.Success {
			t.Fatal(resp.Code, resp.Remark)
		}
		pull := pullRequest("g-"+mode, "filtered", "0", "0")
		pull.Fields.Set("sysFlag", "8")
		if resp := invoke(t, c, pull); resp.Code != want {
			t.Errorf("class filter %s: %d %s", mode, resp.Code, resp.Remark)
		}
	}
	for _, code := range []int{301, 302} { // where such filters were registered once
		if resp := invoke(t, c, request(code)); resp.Code != wire.RequestCodeNotSupported {
			t.Errorf("code %d: %d %s", code, resp.Code, resp.Remark)
		}
	}
}
