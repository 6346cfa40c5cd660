package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/cairnmq/cairn/catalog"
)

// RequestMode is how those Remoting consumers of a group that leave the balancing to the broker get the messages of a topic.
type RequestMode struct {
	Pop   bool
	Share int32 // of a popping consumer: how many others' queues it pops beside its own; below 1: every queue
}

// requestModes is the namespace of the KV configuration that holds request modes, as JSON. The key is made of the ids of group
// and topic, so that a mode does not outlive either: a group or topic that is made anew is another one.
const requestModes = "cairn.request-modes"

func requestModeKey(g *catalog.Group, t *catalog.Topic) string {
	return fmt.Sprintf("%d@%d", g.ID, t.ID)
}

// storedMode is a RequestMode with names, for whoever reads the configuration.
type storedMode struct {
	Group string `json:"group"`
	Topic string `json:"topic"`
	Pop   bool   `json:"pop"`
	Share int32  `json:"share"`
}

// SetRequestMode says how the group's consumers get the topic's messages from now on. It survives a restart. What a group that is
// set back to pulling has popped and does not acknowledge comes to its retry topic (HandOver).
//
// Refusals: CodeTopicNotFound, CodeGroupNotFound, CodeNoPermission (retry topics are always pulled), CodeBusy, CodeReadOnly,
// CodeClosing.
func (b *Broker) SetRequestMode(ctx context.Context, group, topic string, m RequestMode) error {
	if err := b.gate.enter(); err != nil {
		return err
	}
	defer b.gate.leave()
	if strings.HasPrefix(topic, catalog.RetryPrefix) {
		return refuse(CodeNoPermission, "retry topic is not allowed to set mode: %s", topic)
	}
	t, err := b.topic(topic)
	if err != nil {
		return err
	}
	g, err := b.group(group)
	if err != nil {
		return err
	}
	value, err := json.Marshal(storedMode{Group: group, Topic: topic, Pop: m.Pop, Share: m.Share})
	if err != nil {
		return err
	}
	_, err = b.append(ctx, "set the request mode of "+group, b.catalog.PutKV(requestModes, requestModeKey(g, t), string(value)))
	return err
}

// RequestMode answers how the group's consumers get the topic's messages: they pull unless it was set otherwise. A group that
// is not there yet pulls. CodeTopicNotFound.
func (b *Broker) RequestMode(group, topic string) (RequestMode, error) {
	if err := b.gate.enter(); err != nil {
		return RequestMode{}, err
	}
	defer b.gate.leave()
	t, err := b.topic(topic)
	if err != nil {
		return RequestMode{}, err
	}
	g, err := b.group(group)
	if err != nil {
		if CodeOf(err) == CodeGroupNotFound {
			err = nil
		}
		return RequestMode{}, err
	}
	m, _, err := b.storedMode(g, t)
	return RequestMode{Pop: m.Pop, Share: m.Share}, err
}

// storedMode is what was set; ok is false where nothing was.
func (b *Broker) storedMode(g *catalog.Group, t *catalog.Topic) (m storedMode, ok bool, err error) {
	value, ok, err := b.catalog.KV(requestModes, requestModeKey(g, t))
	if err != nil || !ok {
		return m, false, verbError(err, "read the request mode of "+g.Name)
	}
	if json.Unmarshal([]byte(value), &m) != nil {
		return storedMode{}, false, nil // somebody wrote into the namespace
	}
	return m, true, nil
}
