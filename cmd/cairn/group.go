package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/wire"
)

func newGroup() *cobra.Command {
	t := &tools{}
	c := &cobra.Command{Use: "group", Short: "List, show, create, change, delete and reset consumer groups", Example: `  cairn group list
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
	create.Flags().StringVar(&attributes, "attributes", "", "attributes to set and remove: +KEY=VALUE,-KEY; with +dlq.redrive.after=1h,+dlq.redrive.max=3\ndead letters go back by themselves an hour later, three times; with +queues.virtual=true\nall consumers that pull get work, also when they are more than the queues of the topic")
	var to string
	var queue int32
	var offset int64
	reset := &cobra.Command{Use: "reset GROUP TOPIC", Aliases: []string{"reset-offset"}, Short: "Move a group to another place in a topic", Args: cobra.ExactArgs(2),
		Long: "Moves a group in all queues of a topic: to the first message at or after a time, or to the earliest or latest one.\nIt takes effect at once, also for consumers that are connected.",
		Example: `  cairn group reset billing orders --to earliest
  cairn group reset billing orders --to 2026-01-31T08:00:00Z
  cairn group reset billing orders --queue 3 --offset 1500`}
	reset.RunE = t.run(func(args []string) error {
		at, in := reset.Flags().Changed("offset"), reset.Flags().Changed("queue")
		switch {
		case at != in || at && to != "":
			return usagef("give --to, or --queue and --offset")
		case at:
			return t.resetToOffset(args[0], args[1], queue, offset)
		}
		return t.resetGroup(args[0], args[1], to)
	})
	reset.Flags().StringVar(&to, "to", "", "earliest, latest, milliseconds since 1970, or a time such as 2026-01-31T08:00:00Z")
	reset.Flags().Int32Var(&queue, "queue", 0, "only this queue, to --offset")
	reset.Flags().Int64Var(&offset, "offset", 0, "an offset of --queue")
	var topic string
	clone := &cobra.Command{Use: "clone-offsets FROM TO", Short: "Put a group where another one stands", Args: cobra.ExactArgs(2),
		Long:    "Gives TO the committed offsets of FROM, in one topic or in all. What FROM has no place in stays as it is.",
		Example: "  cairn group clone-offsets billing billing-test\n  cairn group clone-offsets billing billing-test --topic orders",
		RunE:    t.run(func(args []string) error { return t.cloneOffsets(args[0], args[1], topic) })}
	clone.Flags().StringVar(&topic, "topic", "", "only in this topic")
	var clean bool
	del := &cobra.Command{Use: "delete NAME", Short: "Delete a consumer group", Args: cobra.ExactArgs(1),
		RunE: t.run(func(args []string) error { return t.deleteGroup(args[0], clean) })}
	del.Flags().BoolVar(&clean, "offsets", true, "its offsets too")
	c.AddCommand(create, t.newGroupUpdate(), reset, clone, del,
		&cobra.Command{Use: "connections NAME", Short: "Show who consumes in a group, and what it subscribes to", Args: cobra.ExactArgs(1),
			Example: "  cairn group connections billing", RunE: t.run(func(args []string) error { return t.groupConnections(args[0]) })},
		&cobra.Command{Use: "list", Short: "List consumer groups", Args: cobra.NoArgs, RunE: t.run(func([]string) error { return t.listGroups() })},
		&cobra.Command{Use: "show NAME", Short: "Show where a group stands and who consumes", Args: cobra.ExactArgs(1),
			Long: `Shows what a group has before it in each of its topics, then the same by queue, then who consumes.

READY      may be handed out now; what the group's filter will pass over is among it until a consumer comes there
IN FLIGHT  with a consumer, not acknowledged yet
DELAYED    comes again later: a consumer has failed on it or gave it back
PARKED     waits for an earlier message of its message group
LAG        all of these
OLDEST     how long the oldest of these is there
DEAD       dead letters that were first in the topic; – when there are too many to look at each
POPPED     of the lag of a queue, what was popped before or is parked`,
			RunE: t.run(func(args []string) error { return t.showGroup(args[0]) })})
	return c
}

func (t *tools) listGroups() error {
	seen := map[string]bool{}
	err := t.eachMaster(func(_, addr string) error {
		groups, err := t.groupsOf(addr)
		for _, g := range groups {
			seen[g.Name] = true
		}
		return err
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
	changes, err := attributeChanges(attributes)
	if err != nil {
		return err
	}
	g.RetryMaxTimes, g.ConsumeMessageOrderly, g.Attributes = retries, orderly, changes
	err = t.eachMaster(func(_, addr string) error { return t.putGroup(addr, g) })
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

type groupQueue struct {
	Topic        string `json:"topic"`
	Broker       string `json:"broker"`
	Queue        int32  `json:"queue"`
	Committed    int64  `json:"committed"`
	Max          int64  `json:"max"`
	Lag          int64  `json:"lag"`
	Popped       int64  `json:"popped"` // of the lag, what was popped or parked
	LastConsumed int64  `json:"last_consumed_ms"`
}

// groupTopic is what a group has before it in a topic, of all brokers.
type groupTopic struct {
	Topic    string `json:"topic"`
	Lag      int64  `json:"lag"`
	Ready    int64  `json:"ready"`
	InFlight int64  `json:"in_flight"`
	Delayed  int64  `json:"delayed"`
	Parked   int64  `json:"parked"`
	Oldest   int64  `json:"oldest_age_ms"`
	Dead     *int64 `json:"dead"` // null: there are too many dead letters to look at each
}

type groupDead struct {
	Count  int64 `json:"count"`
	Oldest int64 `json:"oldest_died_ms"`
}

type groupView struct {
	Topics    []groupTopic      `json:"topics"` // none of a broker that is no Cairn
	Dead      groupDead         `json:"dead"`
	Queues    []groupQueue      `json:"queues"`
	Consumers []body.Connection `json:"consumers"`
	Lag       int64             `json:"lag"`
}

func (t *tools) showGroup(name string) error {
	v := groupView{Topics: []groupTopic{}, Queues: []groupQueue{}, Consumers: []body.Connection{}}
	err := t.eachMaster(func(broker, addr string) error {
		var s body.ConsumeStats
		if _, err := t.call(addr, wire.GetConsumeStats, map[string]string{"consumerGroup": name, "progress": "true"}, nil, &s); err != nil {
			return err
		}
		for _, q := range s.OffsetTable.Keys() {
			o := s.OffsetTable[q]
			v.Queues = append(v.Queues, groupQueue{q.Topic, broker, q.QueueID, o.ConsumerOffset, o.BrokerOffset, o.BrokerOffset - o.ConsumerOffset,
				max(o.PullOffset-o.ConsumerOffset, 0), o.LastTimestamp})
			v.Lag += o.BrokerOffset - o.ConsumerOffset
		}
		if s.Progress != nil {
			v.add(s.Progress)
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
	if t.output == "json" {
		return t.print(v, "", nil)
	}
	return v.write(t)
}

// add adds what one broker says.
func (v *groupView) add(p *body.GroupProgress) {
	v.Dead.Count += p.Dead
	if p.OldestDead > 0 && (v.Dead.Oldest == 0 || p.OldestDead < v.Dead.Oldest) {
		v.Dead.Oldest = p.OldestDead
	}
	for _, from := range p.Topics {
		i := slices.IndexFunc(v.Topics, func(to groupTopic) bool { return to.Topic == from.Topic })
		if i < 0 {
			i = len(v.Topics)
			v.Topics = append(v.Topics, groupTopic{Topic: from.Topic, Dead: new(int64)})
		}
		to := &v.Topics[i]
		to.Ready += from.Ready
		to.InFlight += from.InFlight
		to.Delayed += from.Delayed
		to.Parked += from.Parked
		to.Lag += from.Ready + from.InFlight + from.Delayed + from.Parked
		to.Oldest = max(to.Oldest, from.OldestAge)
		if from.Dead == nil {
			to.Dead = nil
		} else if to.Dead != nil {
			*to.Dead += *from.Dead
		}
	}
}

// write prints what a person reads.
func (v *groupView) write(t *tools) error {
	if len(v.Topics) > 0 {
		err := t.print(nil, "TOPIC\tLAG\tREADY\tIN FLIGHT\tDELAYED\tPARKED\tOLDEST\tDEAD", func(w io.Writer) {
			for _, r := range v.Topics {
				oldest, dead := "–", "–"
				if r.Oldest > 0 {
					oldest = span(time.Duration(r.Oldest) * time.Millisecond)
				}
				if r.Dead != nil {
					dead = strconv.FormatInt(*r.Dead, 10)
				}
				fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%s\t%s\n", r.Topic, r.Lag, r.Ready, r.InFlight, r.Delayed, r.Parked, oldest, dead)
			}
		})
		if err != nil {
			return err
		}
	}
	if v.Dead.Count > 0 {
		fmt.Fprintf(t.out, "dead letters: %d, the first died at %s\n", v.Dead.Count, stamp(v.Dead.Oldest))
	}
	if len(v.Topics) > 0 || v.Dead.Count > 0 {
		fmt.Fprintln(t.out)
	}
	return t.print(nil, "TOPIC\tBROKER\tQUEUE\tCOMMITTED\tMAX\tLAG\tPOPPED\tLAST CONSUMED", func(w io.Writer) {
		for _, r := range v.Queues {
			fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%s\n", r.Topic, r.Broker, r.Queue, r.Committed, r.Max, r.Lag, r.Popped,
				stamp(r.LastConsumed))
		}
		fmt.Fprintf(w, "\t\t\t\t\t%d\t\t\n\nCONSUMER\tADDRESS\tLANGUAGE\n", v.Lag)
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
