package javastore

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/body"
)

// Names of the files in a store's folder config/. Beside each there may be one with .bak behind its name: what the file held
// before it was written last, which Java reads when the file is missing or damaged.
const (
	TopicsFile       = "topics.json"
	GroupsFile       = "subscriptionGroup.json"
	OffsetsFile      = "consumerOffset.json"
	LiteOffsetsFile  = "lmqConsumerOffset.json" // instead of OffsetsFile in brokers with enableLmq
	DelayOffsetsFile = "delayOffset.json"
)

// ErrConfig says that a file of config/ is not what a Java broker writes.
var ErrConfig = errors.New("not a configuration file of a Java broker")

// Version is the dataVersion that Java writes into each file: it tells a replica or a name server which of two is newer.
type Version struct {
	Counter   int64 `json:"counter"`
	State     int64 `json:"stateVersion"`
	Timestamp int64 `json:"timestamp"` // ms
}

type topicsFile struct {
	Version Version                    `json:"dataVersion"`
	Topics  map[string]json.RawMessage `json:"topicConfigTable"`
}

type groupsFile struct {
	Version   Version                     `json:"dataVersion"`
	Forbidden map[string]map[string]int32 `json:"forbiddenTable"`
	Groups    map[string]json.RawMessage  `json:"subscriptionGroupTable"`
}

type offsetsFile struct {
	Version Version                    `json:"dataVersion"`
	Groups  map[string]json.RawMessage `json:"groupTopicMap"`
	Offsets map[string]map[int32]int64 `json:"offsetTable"`
	Pulled  map[string]map[int32]int64 `json:"pullOffsetTable"`
}

// liteOffsets is what lmqConsumerOffset.json has besides.
type liteOffsets struct {
	Lite map[string]int64 `json:"lmqOffsetTable"`
}

// Groups is what subscriptionGroup.json holds. Forbidden has for a group and topic the bits of what is forbidden there: bit 0 is
// to read.
type Groups struct {
	Groups    []catalog.Group
	Forbidden map[string]map[string]int32
}

// Offset is the committed offset of a group in a queue: the next one that it wants.
type Offset struct {
	Group, Topic string
	Queue        int32
	Offset       int64
}

// ParseTopics reads topics.json and answers the topics by name. What a file does not say of a topic has Java's default. The
// error is ErrConfig.
func ParseTopics(data []byte) ([]catalog.Topic, error) {
	var f topicsFile
	if err := parse(data, TopicsFile, &f); err != nil {
		return nil, err
	}
	out := make([]catalog.Topic, 0, len(f.Topics))
	for _, name := range sortedKeys(f.Topics) {
		t := catalog.Topic{
			Name: name, ReadQueues: 16, WriteQueues: 16, Perm: catalog.PermRead | catalog.PermWrite, TopicFilterType: "SINGLE_TAG",
		}
		if err := json.Unmarshal(f.Topics[name], &t); err != nil {
			return nil, fmt.Errorf("%s: topic %q: %w: %w", TopicsFile, name, ErrConfig, err)
		}
		t.Name = name
		out = append(out, t)
	}
	return out, nil
}

// MarshalTopics writes topics.json.
func MarshalTopics(topics []catalog.Topic, version Version) ([]byte, error) {
	table := make(map[string]any, len(topics))
	for _, t := range topics {
		if t.Attributes == nil {
			t.Attributes = map[string]string{}
		}
		table[t.Name] = struct {
			catalog.Topic
			Attributes map[string]string `json:"attributes"`
		}{t, t.Attributes}
	}
	return body.Marshal(map[string]any{"dataVersion": version, "topicConfigTable": table})
}

// ParseGroups reads subscriptionGroup.json and answers the groups by name. What a file does not say of a group has Java's
// default. The error is ErrConfig.
func ParseGroups(data []byte) (Groups, error) {
	var f groupsFile
	if err := parse(data, GroupsFile, &f); err != nil {
		return Groups{}, err
	}
	out := Groups{Groups: make([]catalog.Group, 0, len(f.Groups)), Forbidden: f.Forbidden}
	for _, name := range sortedKeys(f.Groups) {
		g := catalog.DefaultGroup(name)
		if err := json.Unmarshal(f.Groups[name], &g); err != nil {
			return Groups{}, fmt.Errorf("%s: group %q: %w: %w", GroupsFile, name, ErrConfig, err)
		}
		g.Name = name
		out.Groups = append(out.Groups, g)
	}
	return out, nil
}

// MarshalGroups writes subscriptionGroup.json.
func MarshalGroups(groups Groups, version Version) ([]byte, error) {
	table := make(map[string]any, len(groups.Groups))
	for _, g := range groups.Groups {
		if g.Attributes == nil {
			g.Attributes = map[string]string{}
		}
		table[g.Name] = struct {
			catalog.Group
			Attributes map[string]string `json:"attributes"`
		}{g, g.Attributes}
	}
	forbidden := groups.Forbidden
	if forbidden == nil {
		forbidden = map[string]map[string]int32{}
	}
	return body.Marshal(map[string]any{"dataVersion": version, "forbiddenTable": forbidden, "subscriptionGroupTable": table})
}

// topicAtGroup separates the two names in the keys of consumerOffset.json; neither may contain it.
const topicAtGroup = "@"

// ParseOffsets reads consumerOffset.json or lmqConsumerOffset.json and answers the offsets by group, topic and queue. The
// offsets of lite topics, which are no queues of a topic, are not among them. The error is ErrConfig.
func ParseOffsets(data []byte) ([]Offset, error) {
	var f offsetsFile
	if err := parse(data, OffsetsFile, &f); err != nil {
		return nil, err
	}
	var out []Offset
	for key, queues := range f.Offsets {
		topic, group, ok := strings.Cut(key, topicAtGroup)
		if !ok || strings.Contains(group, topicAtGroup) {
			return nil, fmt.Errorf("%s: key %q is not topic@group: %w", OffsetsFile, key, ErrConfig)
		}
		for queue, offset := range queues {
			out = append(out, Offset{Group: group, Topic: topic, Queue: queue, Offset: offset})
		}
	}
	slices.SortFunc(out, func(a, b Offset) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Queue, b.Queue))
	})
	return out, nil
}

// LiteOffsets says how many offsets of lite topics a lmqConsumerOffset.json holds, which ParseOffsets leaves out.
func LiteOffsets(data []byte) (int, error) {
	var f liteOffsets
	err := parse(data, LiteOffsetsFile, &f)
	return len(f.Lite), err
}

// MarshalOffsets writes consumerOffset.json.
func MarshalOffsets(offsets []Offset, version Version) ([]byte, error) {
	table := map[string]map[int32]int64{}
	for _, o := range offsets {
		key := o.Topic + topicAtGroup + o.Group
		if table[key] == nil {
			table[key] = map[int32]int64{}
		}
		table[key][o.Queue] = o.Offset
	}
	// Java writes the numbers of queues as keys without quotes.
	return body.MarshalLegacy(map[string]any{
		"dataVersion": version, "groupTopicMap": map[string]any{}, "offsetTable": table, "pullOffsetTable": map[string]any{},
	})
}

// ParseDelayOffsets reads delayOffset.json: for each delay level from 1 the queue offset in SCHEDULE_TOPIC_XXXX up to which its
// messages were delivered. The error is ErrConfig.
func ParseDelayOffsets(data []byte) (map[int32]int64, error) {
	var f struct {
		Offsets map[int32]int64 `json:"offsetTable"`
	}
	err := parse(data, DelayOffsetsFile, &f)
	return f.Offsets, err
}

func parse(data []byte, file string, v any) error {
	if err := body.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w: %w", file, ErrConfig, err)
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
