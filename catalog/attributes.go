package catalog

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// AttrMessageType is the topic attribute that says what kind of messages the topic takes.
const AttrMessageType = "message.type"

// Group attributes of Cairn's own: dead letters go back to where they came from after a time such as 1h, each so many times.
const (
	AttrRedriveAfter = "dlq.redrive.after"
	AttrRedriveMax   = "dlq.redrive.max"
)

// AttrVirtualQueues is the group attribute, true or false, that lets Remoting consumers which pull be more than a topic has queues:
// each is given every queue, and what it pulls is popped for it.
const AttrVirtualQueues = "queues.virtual"

// AttrReserveTime is the topic attribute that says for how many hours the tier keeps the topic's messages: -1 for as long as the broker
// says, 0 for not at all.
const AttrReserveTime = "reserve.time"

// attribute is a known key: whether it can change after creation, and what its values are.
type attribute struct {
	mutable bool
	check   func(value string) error
}

var topicAttributes = map[string]attribute{
	"queue.type":     {false, oneOf("SimpleCQ", "BatchCQ")},
	"cleanup.policy": {false, oneOf("DELETE", "COMPACTION")},
	AttrMessageType: {true, oneOf("UNSPECIFIED", "NORMAL", "FIFO", "DELAY", "TRANSACTION", "PRIORITY", "LITE",
		"MIXED")},
	AttrReserveTime:         {true, between(-1, math.MaxInt64)},
	"lite.topic.expiration": {true, between(-1, 43_200)},
}

var groupAttributes = map[string]attribute{
	"priority.factor":                   {true, between(0, 100)},
	"lite.bind.topic":                   {true, ValidateTopicName},
	"lite.sub.model":                    {true, oneOf("Shared", "Exclusive")},
	"lite.sub.reset.offset.exclusive":   {true, oneOf("true", "false")},
	"lite.sub.reset.offset.unsubscribe": {true, oneOf("true", "false")},
	"lite.sub.client.quota":             {true, between(-1, 1<<31-1)},
	"lite.sub.client.max.event.cnt":     {true, between(10, 1<<31-1)},
	"lite.sub.wildcard":                 {true, oneOf("true", "false")},
	AttrRedriveAfter:                    {true, lasting(time.Minute)},
	AttrRedriveMax:                      {true, between(1, 1000)},
	AttrVirtualQueues:                   {true, oneOf("true", "false")},
}

// ApplyAttributes merges `+k=v,-k` into a topic's attributes and returns a new map (nil when it would be empty). With
// create set only additions are allowed, of any known key; later, keys that decide how the topic is stored are fixed.
// The error is a *NameError: an unknown key or one named twice, a bad value, a change of a fixed key, the removal of a
// key that is not there.
func ApplyAttributes(attrs map[string]string, change string, create bool) (map[string]string, error) {
	return applyAttributes(topicAttributes, attrs, change, create)
}

// ApplyGroupAttributes does the same for a consumer group.
func ApplyGroupAttributes(attrs map[string]string, change string, create bool) (map[string]string, error) {
	return applyAttributes(groupAttributes, attrs, change, create)
}

func applyAttributes(known map[string]attribute, attrs map[string]string, change string, create bool,
) (map[string]string, error) {
	out := maps.Clone(attrs)
	seen := map[string]bool{}
	for item := range strings.SplitSeq(change, ",") {
		item = strings.TrimSpace(item)
		if item == "" {
			continue
		}
		key, value, add, err := splitChange(item)
		if err != nil {
			return nil, err
		}
		if seen[key] {
			return nil, &NameError{"attribute", key, "named twice"}
		}
		seen[key] = true
		if err := checkChange(known, attrs, key, value, add, create); err != nil {
			return nil, err
		}
		if !add {
			delete(out, key)
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[key] = value
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

// splitChange takes one `+key=value` or `-key` apart.
func splitChange(item string) (key, value string, add bool, err error) {
	key, value, valued := strings.Cut(item[1:], "=")
	switch {
	case item[0] != '+' && item[0] != '-':
		return "", "", false, &NameError{"attribute", item, "neither +key=value nor -key"}
	case key == "":
		return "", "", false, &NameError{"attribute", item, "the key is empty"}
	case item[0] == '+' && (!valued || value == ""):
		return "", "", false, &NameError{"attribute", key, "the value is missing"}
	}
	return key, value, item[0] == '+', nil
}

func checkChange(known map[string]attribute, attrs map[string]string, key, value string, add, create bool) error {
	a, ok := known[key]
	if !ok {
		return &NameError{"attribute", key, "unknown; known are " + strings.Join(slices.Sorted(maps.Keys(known)), ", ")}
	}
	_, present := attrs[key]
	switch {
	case !add && create:
		return &NameError{"attribute", key, "nothing to remove while creating"}
	case !add && !present:
		return &NameError{"attribute", key, "not set, so it cannot be removed"}
	case !create && !a.mutable:
		return &NameError{"attribute", key, "cannot change after creation"}
	case add:
		if err := a.check(value); err != nil {
			return &NameError{"attribute", key, err.Error()}
		}
	}
	return nil
}

func oneOf(values ...string) func(string) error {
	return func(v string) error {
		if slices.Contains(values, v) {
			return nil
		}
		return fmt.Errorf("value %s is not one of %s", quoteLong(v), strings.Join(values, ", "))
	}
}

// lasting accepts a duration such as 90s or 1h30m.
func lasting(least time.Duration) func(string) error {
	return func(v string) error {
		if d, err := time.ParseDuration(v); err != nil || d < least {
			return fmt.Errorf("value %s is not a time such as 1h30m, of at least %s", quoteLong(v), least)
		}
		return nil
	}
}

func between(low, high int64) func(string) error {
	return func(v string) error {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < low || n > high {
			return fmt.Errorf("value %s is not a whole number from %d to %d", quoteLong(v), low, high)
		}
		return nil
	}
}
