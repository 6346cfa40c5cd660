package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/wire"
)

func newTopic() *cobra.Command {
	t := &tools{}
	c := &cobra.Command{Use: "topic", Short: "List, show, create, change and delete topics", Example: `  cairn topic list
  cairn topic create orders --queues 16
  cairn topic show orders -o json`}
	t.flags(c)
	var all bool
	list := &cobra.Command{Use: "list", Short: "List topics", Args: cobra.NoArgs, RunE: t.run(func([]string) error { return t.listTopics(all) })}
	list.Flags().BoolVarP(&all, "all", "a", false, "retry, dead-letter and system topics too")
	var queues, perm int
	var attrs []string
	create := &cobra.Command{Use: "create NAME", Short: "Create a topic, or change one", Args: cobra.ExactArgs(1),
		Long: "Creates a topic on every broker that the name server knows, or changes its queues and attributes when it is there.",
		RunE: t.run(func(args []string) error { return t.createTopic(args[0], queues, perm, attrs) })}
	create.Flags().IntVarP(&queues, "queues", "q", 8, "queues to read and write")
	create.Flags().IntVarP(&perm, "perm", "p", 6, "4 read, 2 write, 6 both")
	create.Flags().StringArrayVar(&attrs, "attribute", nil, "+key=value sets, -key removes an attribute, for example +message.type=FIFO")
	c.AddCommand(list, create, t.newTopicUpdate(),
		&cobra.Command{Use: "stats NAME", Short: "Show what is sent to a topic and what its groups are given", Args: cobra.ExactArgs(1),
			Example: "  cairn topic stats orders", RunE: t.run(func(args []string) error { return t.topicStats(args[0]) })},
		&cobra.Command{Use: "route NAME", Short: "Show where clients find a topic", Args: cobra.ExactArgs(1),
			Example: "  cairn topic route orders", RunE: t.run(func(args []string) error { return t.topicRoute(args[0]) })},
		&cobra.Command{Use: "show NAME", Short: "Show a topic's queues and offsets", Args: cobra.ExactArgs(1),
			RunE: t.run(func(args []string) error { return t.showTopic(args[0]) })},
		&cobra.Command{Use: "delete NAME", Short: "Delete a topic with its messages", Args: cobra.ExactArgs(1),
			RunE: t.run(func(args []string) error { return t.deleteTopic(args[0]) })})
	return c
}

func internalTopic(name string) bool {
	for _, p := range []string{"%RETRY%", "%DLQ%", "rmq_sys_", "RMQ_SYS_"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	switch name {
	case "TBW102", "SELF_TEST_TOPIC", "BenchmarkTest", "OFFSET_MOVED_EVENT", "SCHEDULE_TOPIC_XXXX", "TRANS_CHECK_MAX_TIME_TOPIC":
		return true
	}
	return false
}

func (t *tools) listTopics(all bool) error {
	var names body.TopicList
	if _, err := t.call(t.nameServer, wire.GetAllTopicList, nil, nil, &names); err != nil {
		return err
	}
	brokers, err := t.masters()
	if err != nil {
		return err
	}
	hidden := map[string]bool{}
	for _, b := range brokers {
		hidden[b.BrokerName], hidden[b.Cluster] = true, true
	}
	kept := []string{}
	for _, n := range names.TopicList {
		if all || !internalTopic(n) && !hidden[n] {
			kept = append(kept, n)
		}
	}
	return t.print(kept, "TOPIC", func(w io.Writer) {
		for _, n := range kept {
			fmt.Fprintln(w, n)
		}
	})
}

func (t *tools) createTopic(name string, queues, perm int, attrs []string) error {
	n := strconv.Itoa(queues)
	err := t.eachMaster(func(_, addr string) error {
		_, err := t.call(addr, wire.UpdateAndCreateTopic, map[string]string{"topic": name, "defaultTopic": "TBW102", "readQueueNums": n, "writeQueueNums": n,
			"perm": strconv.Itoa(perm), "topicFilterType": "SINGLE_TAG", "topicSysFlag": "0", "order": "false", "attributes": strings.Join(attrs, ",")}, nil, nil)
		return err
	})
	if err != nil {
		return err
	}
	return t.done("topic %s is there, with %d queues on each broker", name, queues)
}

func (t *tools) deleteTopic(name string) error {
	if err := t.eachMaster(func(_, addr string) error {
		_, err := t.call(addr, wire.DeleteTopicInBroker, map[string]string{"topic": name}, nil, nil)
		return err
	}); err != nil {
		return err
	}
	if _, err := t.call(t.nameServer, wire.DeleteTopicInNameServer, map[string]string{"topic": name}, nil, nil); err != nil {
		return err
	}
	return t.done("topic %s is deleted", name)
}

type queueRow struct {
	Broker     string `json:"broker"`
	Queue      int32  `json:"queue"`
	Min        int64  `json:"min"`
	Max        int64  `json:"max"`
	LastUpdate int64  `json:"last_update_ms"`
}

func (t *tools) showTopic(name string) error {
	var rows []queueRow
	err := t.brokersOf(name, func(_, addr string) error {
		var s body.TopicStats
		if _, err := t.call(addr, wire.GetTopicStats, map[string]string{"topic": name}, nil, &s); err != nil {
			return err
		}
		for _, q := range s.OffsetTable.Keys() {
			o := s.OffsetTable[q]
			rows = append(rows, queueRow{q.BrokerName, q.QueueID, o.MinOffset, o.MaxOffset, o.LastUpdateTimestamp})
		}
		return nil
	})
	if err != nil {
		return err
	}
	return t.print(rows, "BROKER\tQUEUE\tMIN\tMAX\tLAST MESSAGE", func(w io.Writer) {
		var total int64
		for _, r := range rows {
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\n", r.Broker, r.Queue, r.Min, r.Max, stamp(r.LastUpdate))
			total += r.Max - r.Min
		}
		fmt.Fprintf(w, "\t\t\t%d messages\t\n", total)
	})
}
