package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/wire"
)

func (t *tools) newGroupUpdate() *cobra.Command {
	var retries int32
	var orderly, consume bool
	var attributes string
	c := &cobra.Command{Use: "update NAME", Short: "Change a consumer group that is there", Args: cobra.ExactArgs(1),
		Long: "Changes what is given and leaves everything else as it is, on each broker that has the group.",
		Example: `  cairn group update billing --retries 3
  cairn group update billing --consume=false`}
	f := c.Flags()
	f.Int32Var(&retries, "retries", 0, "deliveries after the first before a message is a dead letter")
	f.BoolVar(&orderly, "orderly", false, "messages of a group or queue come in order")
	f.BoolVar(&consume, "consume", true, "whether the group may consume")
	f.StringVar(&attributes, "attributes", "", "attributes to set and remove: +KEY=VALUE,-KEY")
	c.RunE = t.run(func(args []string) error {
		changes, err := attributeChanges(attributes)
		if err != nil {
			return err
		}
		return t.updateGroup(args[0], func(g *catalog.Group) {
			if f.Changed("retries") {
				g.RetryMaxTimes = retries
			}
			if f.Changed("orderly") {
				g.ConsumeMessageOrderly = orderly
			}
			if f.Changed("consume") {
				g.ConsumeEnable = consume
			}
			g.Attributes = changes
		})
	})
	return c
}

// attributeChanges reads +KEY=VALUE,-KEY.
func attributeChanges(text string) (map[string]string, error) {
	out := map[string]string{}
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		key, value, _ := strings.Cut(item, "=")
		if key == "" || key[0] != '+' && key[0] != '-' {
			return nil, usagef("--attributes: %q is neither +KEY=VALUE nor -KEY", item)
		}
		out[key] = value
	}
	return out, nil
}

// updateGroup changes a group's configuration on each broker that has it.
func (t *tools) updateGroup(name string, change func(*catalog.Group)) error {
	there := false
	err := t.eachMaster(func(_, addr string) error {
		var g catalog.Group
		_, err := t.call(addr, wire.GetGroupConfig, map[string]string{"group": name}, nil, &g)
		if ce := (*codeError)(nil); errors.As(err, &ce) && ce.code == wire.SubscriptionGroupNotExist {
			return nil
		} else if err != nil {
			return err
		}
		there = true
		change(&g)
		return t.putGroup(addr, g)
	})
	switch {
	case err != nil:
		return err
	case !there:
		return fmt.Errorf("no broker has group %s (`cairn group create` makes one)", name)
	}
	return t.done("group %s is changed", name)
}

// putGroup creates or changes a group on a broker; its attributes are changes: +key with a value, or -key.
func (t *tools) putGroup(addr string, g catalog.Group) error {
	data, err := json.Marshal(g)
	if err != nil {
		return err
	}
	_, err = t.call(addr, wire.UpdateAndCreateGroup, nil, data, nil)
	return err
}

// connectionsView is who consumes in a group, and what they say of it, by broker.
type connectionsView struct {
	Broker string                  `json:"broker"`
	Group  body.ConsumerConnection `json:"group"`
}

// groupConnections tells who consumes in a group and what the group subscribes to.
func (t *tools) groupConnections(name string) error {
	views := []connectionsView{}
	err := t.eachMaster(func(broker, addr string) error {
		var c body.ConsumerConnection
		_, err := t.call(addr, wire.GetConsumerConnections, map[string]string{"consumerGroup": name}, nil, &c)
		if ce := (*codeError)(nil); errors.As(err, &ce) && ce.code == wire.ConsumerNotOnline {
			return nil
		} else if err != nil {
			return err
		}
		views = append(views, connectionsView{broker, c})
		return nil
	})
	if err != nil {
		return err
	}
	return t.print(views, "BROKER\tCONSUMER\tADDRESS\tLANGUAGE\tVERSION", func(w io.Writer) {
		for _, v := range views {
			for _, c := range v.Group.ConnectionSet {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\n", v.Broker, c.ClientID, c.ClientAddr, c.Language, c.Version)
			}
		}
		fmt.Fprint(w, "\nBROKER\tTOPIC\tSUBSCRIPTION\tTYPE\tMODEL\n")
		for _, v := range views {
			for _, topic := range slices.Sorted(maps.Keys(v.Group.SubscriptionTable)) {
				s := v.Group.SubscriptionTable[topic]
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", v.Broker, topic, s.SubString, s.ExpressionType, v.Group.MessageModel)
			}
		}
	})
}

// resetToOffset moves a group to an offset of one queue.
func (t *tools) resetToOffset(group, topic string, queue int32, offset int64) error {
	r, err := t.route(topic)
	if err != nil {
		return err
	}
	if len(r.BrokerDatas) != 1 {
		return usagef("topic %s is on %d brokers, where an offset means different messages: use --to", topic, len(r.BrokerDatas))
	}
	_, err = t.call(r.BrokerDatas[0].BrokerAddrs[0], wire.InvokeBrokerToReset, map[string]string{"group": group, "topic": topic, "timestamp": "-1",
		"isForce": "true", "queueId": strconv.Itoa(int(queue)), "offset": strconv.FormatInt(offset, 10)}, nil, nil)
	if err != nil {
		return err
	}
	return t.done("group %s moved to offset %d in queue %d of %s", group, offset, queue, topic)
}

// cloneOffsets gives a group the places of another.
func (t *tools) cloneOffsets(from, to, topic string) error {
	err := t.eachMaster(func(_, addr string) error {
		_, err := t.call(addr, cloneGroupOffsets, map[string]string{"srcGroup": from, "destGroup": to, "topic": topic, "offline": "true"}, nil, nil)
		return err
	})
	if err != nil {
		return err
	}
	if topic == "" {
		topic = "all topics of " + from
	}
	return t.done("group %s stands where %s does in %s", to, from, topic)
}
