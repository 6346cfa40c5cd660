package catalog

import (
	"testing"
	"time"
)

func TestReserveTime(t *testing.T) {
	const broker = 90 * time.Hour
	for change, want := range map[string]time.Duration{
		"": broker, "+reserve.time=-1": broker, "+reserve.time=0": 0, "+reserve.time=24": 24 * time.Hour,
		"+reserve.time=9223372036854775807": 2562047 * time.Hour,
	} {
		attrs, err := ApplyAttributes(nil, change, true)
		if topic := (Topic{Attributes: attrs}); err != nil || topic.TierRetention(broker) != want {
			t.Errorf("%q: %v, %v", change, topic.TierRetention(broker), err)
		}
	}
	for _, change := range []string{"+reserve.time=-2", "+reserve.time=1d", "+reserve.time=9223372036854775808", "+reserve.time"} {
		if _, err := ApplyAttributes(nil, change, true); err == nil {
			t.Errorf("%s is taken", change)
		}
	}
}

// Who works by reserve.time is told of each change of a topic that is there, and of nothing else.
func TestChangesOfReserveTimeAreCounted(t *testing.T) {
	h := newHost(t)
	with := func(value string) Topic {
		return Topic{Name: "a", ReadQueues: 4, Attributes: map[string]string{AttrReserveTime: value}}
	}
	for i, step := range []struct {
		topic Topic
		more  bool
	}{
		{with("5"), false}, {with("5"), false}, {with("6"), true}, {Topic{Name: "a", ReadQueues: 4}, true},
		{Topic{Name: "a", ReadQueues: 8}, false}, {with("0"), true}, {Topic{Name: "b"}, false},
	} {
		before := h.c.Reserves()
		h.apply(t, h.c.PutTopic(step.topic))
		if got := h.c.Reserves() > before; got != step.more {
			t.Errorf("step %d: told %t", i, got)
		}
	}
}
