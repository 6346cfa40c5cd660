package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/wire"
)

func newGroup() *cobra.Command {
	t := &tools{}
	c := &cobra.Command{Use: "group", Short: "List, show, create, delete and reset consumer groups", Example: `  cairn group list
  cairn group show billing
  cairn group reset billing orders --to 2026-01-31T08:00:00Z`}
	t.flags(c)
	var retries int32
	var orderly bool
	var attributes string
	create := &cobra.Command{Use: "create NAME", Short: "Create a consumer group, or change one", Args: cobra.ExactArgs(1),
		RunE: t.run(func(args []string) error { return t.createGroup(args[0], retries, orderly, attributes) })}
	create.Flags().Int32Var(&retries, "retries", 16, "deliveries after the first before a message is a dead letter")
	create.Flags().BoolVar(&orderly, "orderly", false, "messages of a group or queue come in order")
	create.Flags().StringVar(&attributes, "attributes", "", "attributes to set and remove: +KEY=VALUE,-KEY; with +dlq.redrive.after=1h,+dlq.redrive.max=3\ndead letters go back by themselves an hour later, three times")
	var to string
	reset := &cobra.Command{Use: "reset GROUP TOPIC", Short: "Move a group to another place in a topic", Args: cobra.ExactArgs(2),
		Long: "Moves a group in all queues of a topic: to the first message at or after a time, or to the earliest or latest one.\nIt takes effect at once, also for consumers that are connected.",
		RunE: t.run(func(args []string) error { return t.resetGroup(args[0], args[1], to) })}
	reset.Flags().StringVar(&to, "to", "", "earliest, latest, milliseconds since 1970, or a time such as 2026-01-31T08:00:00Z")
	var clean bool
	del := &cobra.Command{Use: "delete NAME", Short: "Delete a consumer group", Args: cobra.ExactArgs(1),
		RunE: t.run(func(args []string) error { return t.deleteGroup(args[0], clean) })}
	del.Flags().BoolVar(&clean, "offsets", true, "its offsets too")
	c.AddCommand(create, reset, del,
		&cobra.Command{Use: "list", Short: "List consumer groups", Args: cobra.NoArgs, RunE: t.run(func([]string) error { return t.listGroups() })},
		&cobra.Command{Use: "show NAME", Short: "Show where a group stands and who consumes", Args: cobra.ExactArgs(1),
			RunE: t.run(func(args []string) error { return t.showGroup(args[0]) })})
	return c
}

func (t *tools) listGroups() error {
	seen := map[string]bool{}
	err := t.eachMaster(func(_, addr string) error {
		var table struct {
			Groups map[string]json.RawMessage `json:"subscriptionGroupTable"`
		}
		if _, err := t.call(addr, wire.GetAllGroupConfig, nil, nil, &table); err != nil {
			return err
		}
		for g := range table.Groups {
			seen[g] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	names := slices.Sorted(maps.Keys(seen))
	return t.print(names, "GROUP", func(w io.Writer) {
		for _, n := range names {
			fmt.Fprintln(w, n)
		}
	})
}

func (t *tools) createGroup(name string, retries int32, orderly bool, attributes string) error {
	g := catalog.DefaultGroup(name)
	g.RetryMaxTimes, g.ConsumeMessageOrderly, g.Attributes = retries, orderly, map[string]string{}
	for item := range strings.SplitSeq(attributes, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		key, value, _ := strings.Cut(item, "=")
		if key[0] != '+' && key[0] != '-' {
			return usagef("--attributes: %q is neither +KEY=VALUE nor -KEY", item)
		}
		g.Attributes[key] = value
	}
	data, err := json.Marshal(g)
	if err != nil {
		return err
	}
	err = t.eachMaster(func(_, addr string) error {
		_, err := t.call(addr, wire.UpdateAndCreateGroup, nil, data, nil)
		return err
	})
	if err != nil {
		return err
	}
	return t.done("group %s is there", name)
}

func (t *tools) deleteGroup(name string, clean bool) error {
	err := t.eachMaster(func(_, addr string) error {
		_, err := t.call(addr, wire.DeleteGroup, map[string]string{"groupName": name, "cleanOffset": strconv.FormatBool(clean)}, nil, nil)
		return err
	})
	if err != nil {
		return err
	}
	return t.done("group %s is deleted", name)
}

type groupRow struct {
	Topic        string `json:"topic"`
	Broker       string `json:"broker"`
	Queue        int32  `json:"queue"`
	Committed    int64  `json:"committed"`
	Max          int64  `json:"max"`
	Lag          int64  `json:"lag"`
	LastConsumed int64  `json:"last_consumed_ms"`
}

type groupView struct {
	Queues    []groupRow        `json:"queues"`
	Consumers []body.Connection `json:"consumers"`
	Lag       int64             `json:"lag"`
}

func (t *tools) showGroup(name string) error {
	v := groupView{Queues: []groupRow{}, Consumers: []body.Connection{}}
	err := t.eachMaster(func(broker, addr string) error {
		var s body.ConsumeStats
		if _, err := t.call(addr, wire.GetConsumeStats, map[string]string{"consumerGroup": name}, nil, &s); err != nil {
			return err
		}
		for _, q := range s.OffsetTable.Keys() {
			o := s.OffsetTable[q]
			v.Queues = append(v.Queues, groupRow{q.Topic, broker, q.QueueID, o.ConsumerOffset, o.BrokerOffset, o.BrokerOffset - o.ConsumerOffset, o.LastTimestamp})
			v.Lag += o.BrokerOffset - o.ConsumerOffset
		}
		var conns body.ConsumerConnection
		_, err := t.call(addr, wire.GetConsumerConnections, map[string]string{"consumerGroup": name}, nil, &conns)
		if ce, ok := err.(*codeError); ok && ce.code == wire.ConsumerNotOnline {
			return nil
		}
		v.Consumers = append(v.Consumers, conns.ConnectionSet...)
		return err
	})
	if err != nil {
		return err
	}
	return t.print(v, "TOPIC\tBROKER\tQUEUE\tCOMMITTED\tMAX\tLAG\tLAST CONSUMED", func(w io.Writer) {
		for _, r := range v.Queues {
			fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%s\n", r.Topic, r.Broker, r.Queue, r.Committed, r.Max, r.Lag, stamp(r.LastConsumed))
		}
		fmt.Fprintf(w, "\t\t\t\t\t%d\t\n\nCONSUMER\tADDRESS\tLANGUAGE\n", v.Lag)
		for _, c := range v.Consumers {
			fmt.Fprintf(w, "%s\t%s\t%s\n", c.ClientID, c.ClientAddr, c.Language)
		}
	})
}

func (t *tools) resetGroup(group, topic, to string) error {
	var ms int64
	switch to {
	case "":
		return usagef("--to is missing: earliest, latest, or a time")
	case "latest":
		ms = -1
	case "earliest":
		ms = 0
	default:
		n, err := strconv.ParseInt(to, 10, 64)
		if err != nil {
			at, err := time.Parse(time.RFC3339, to)
			if err != nil {
				return usagef("--to %q is neither earliest, latest, milliseconds nor a time such as 2026-01-31T08:00:00Z", to)
			}
			n = at.UnixMilli()
		}
		ms = n
	}
	var moved int
	err := t.brokersOf(topic, func(_, addr string) error {
		var r body.ResetOffset
		_, err := t.call(addr, wire.InvokeBrokerToReset, map[string]string{"group": group, "topic": topic, "timestamp": strconv.FormatInt(ms, 10), "isForce": "true"}, nil, &r)
		moved += len(r.OffsetTable)
		return err
	})
	if err != nil {
		return err
	}
	return t.done("group %s moved in %d queues of %s", group, moved, topic)
}
