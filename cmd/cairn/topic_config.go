package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/wire"
)

// Request codes that the commands alone name.
const (
	systemTopicsOfBroker = 305
	cloneGroupOffsets    = 314
	viewBrokerStats      = 315
	topicsOfConsumer     = 343
)

func (t *tools) newTopicUpdate() *cobra.Command {
	var queues, perm int32
	var attrs []string
	c := &cobra.Command{Use: "update NAME", Short: "Change a topic that is there", Args: cobra.ExactArgs(1),
		Long: "Changes what is given and leaves everything else as it is, on each broker that has the topic.",
		Example: `  cairn topic update orders --queues 32
  cairn topic update orders --perm 4
  cairn topic update orders --attribute +message.type=FIFO`}
	f := c.Flags()
	f.Int32VarP(&queues, "queues", "q", 0, "queues to read and write")
	f.Int32VarP(&perm, "perm", "p", 0, "4 read, 2 write, 6 both")
	f.StringArrayVar(&attrs, "attribute", nil, "+key=value sets, -key removes an attribute")
	c.RunE = t.run(func(args []string) error {
		return t.updateTopic(args[0], func(c *catalog.Topic) {
			if f.Changed("queues") {
				c.ReadQueues, c.WriteQueues = queues, queues
			}
			if f.Changed("perm") {
				c.Perm = perm
			}
		}, attrs)
	})
	return c
}

// updateTopic changes a topic's configuration on each of its brokers.
func (t *tools) updateTopic(name string, change func(*catalog.Topic), attrs []string) error {
	err := t.brokersOf(name, func(_, addr string) error {
		var c catalog.Topic
		if _, err := t.call(addr, wire.GetTopicConfig, map[string]string{"topic": name}, nil, &c); err != nil {
			return err
		}
		c.Name = name
		change(&c)
		return t.putTopic(addr, c, strings.Join(attrs, ","))
	})
	if err != nil {
		return err
	}
	return t.done("topic %s is changed", name)
}

// putTopic creates or changes a topic on a broker; attributes are changes: +key=value,-key.
func (t *tools) putTopic(addr string, c catalog.Topic, attributes string) error {
	number := func(n int32) string { return strconv.Itoa(int(n)) }
	_, err := t.call(addr, wire.UpdateAndCreateTopic, map[string]string{"topic": c.Name, "defaultTopic": "TBW102",
		"readQueueNums": number(c.ReadQueues), "writeQueueNums": number(c.WriteQueues), "perm": number(c.Perm), "topicFilterType": "SINGLE_TAG",
		"topicSysFlag": number(c.SysFlag), "order": strconv.FormatBool(c.Order), "attributes": attributes}, nil, nil)
	return err
}

func (t *tools) topicRoute(name string) error {
	r, err := t.route(name)
	if err != nil {
		return err
	}
	addrs := map[string]string{}
	for _, b := range r.BrokerDatas {
		addrs[b.BrokerName] = b.BrokerAddrs[0]
	}
	return t.print(r, "BROKER\tADDRESS\tREAD QUEUES\tWRITE QUEUES\tPERM", func(w io.Writer) {
		for _, q := range r.QueueDatas {
			fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\n", q.BrokerName, addrs[q.BrokerName], q.ReadQueueNums, q.WriteQueueNums, permText(q.Perm))
		}
	})
}

func permText(perm int32) string {
	text := ""
	if perm&catalog.PermRead != 0 {
		text += "R"
	}
	if perm&catalog.PermWrite != 0 {
		text += "W"
	}
	if text == "" {
		return "–"
	}
	return text
}

// trafficRow is what went to or came from a topic at one broker.
type trafficRow struct {
	Broker string  `json:"broker"`
	What   string  `json:"what"` // in, or the group that consumes
	TPS    float64 `json:"messages_per_second"`
	Hour   int64   `json:"last_hour"`
	Day    int64   `json:"last_day"`
}

// topicStats tells what was sent to a topic and what each of its groups was given.
func (t *tools) topicStats(name string) error {
	rows := []trafficRow{}
	err := t.brokersOf(name, func(broker, addr string) error {
		in, err := t.traffic(addr, "TOPIC_PUT_NUMS", name)
		if err != nil {
			return err
		}
		rows = append(rows, in.row(broker, "in"))
		var groups body.GroupList
		if _, err := t.call(addr, wire.QueryTopicConsumeByWho, map[string]string{"topic": name}, nil, &groups); err != nil {
			return err
		}
		for _, g := range groups.GroupList {
			out, err := t.traffic(addr, "GROUP_GET_NUMS", name+"@"+g)
			if err != nil {
				return err
			}
			rows = append(rows, out.row(broker, g))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return t.print(rows, "BROKER\tIN, OR GROUP\tMESSAGES/S\tLAST HOUR\tLAST DAY", func(w io.Writer) {
		for _, r := range rows {
			fmt.Fprintf(w, "%s\t%s\t%.1f\t%d\t%d\n", r.Broker, r.What, r.TPS, r.Hour, r.Day)
		}
	})
}

type traffic struct{ body.StatsData }

// traffic asks for a statistic; what nothing was counted of is none.
func (t *tools) traffic(addr, name, key string) (out traffic, err error) {
	_, err = t.call(addr, viewBrokerStats, map[string]string{"statsName": name, "statsKey": key}, nil, &out.StatsData)
	if ce, ok := err.(*codeError); ok && ce.code == wire.SystemError {
		return traffic{}, nil
	}
	return out, err
}

func (s traffic) row(broker, what string) trafficRow {
	return trafficRow{broker, what, s.StatsMinute.TPS, s.StatsHour.Sum, s.StatsDay.Sum}
}

// rateRow is how much a broker takes and gives.
type rateRow struct {
	Broker   string  `json:"broker"`
	In       float64 `json:"in_per_second"`
	Out      float64 `json:"out_per_second"`
	InBytes  int64   `json:"in_bytes_last_hour"`
	OutBytes int64   `json:"out_bytes_last_hour"`
	InDay    int64   `json:"in_last_day"`
	OutDay   int64   `json:"out_last_day"`
}

// clusterRates tells how many messages came and went within the last minute, hour and day.
func (t *tools) clusterRates() error {
	all, err := t.masters()
	if err != nil {
		return err
	}
	rows := []rateRow{}
	for _, b := range all {
		var stats [4]traffic
		for i, name := range []string{"BROKER_PUT_NUMS", "BROKER_GET_NUMS", "BROKER_PUT_BYTES", "BROKER_GET_BYTES"} {
			if stats[i], err = t.traffic(b.BrokerAddrs[0], name, b.Cluster); err != nil {
				return fmt.Errorf("broker %s: %w", b.BrokerName, err)
			}
		}
		rows = append(rows, rateRow{b.BrokerName, stats[0].StatsMinute.TPS, stats[1].StatsMinute.TPS, stats[2].StatsHour.Sum, stats[3].StatsHour.Sum,
			stats[0].StatsDay.Sum, stats[1].StatsDay.Sum})
	}
	return t.print(rows, "BROKER\tIN/S\tOUT/S\tIN, LAST DAY\tOUT, LAST DAY\tBYTES IN, LAST HOUR\tBYTES OUT, LAST HOUR", func(w io.Writer) {
		for _, r := range rows {
			fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%d\t%d\t%d\t%d\n", r.Broker, r.In, r.Out, r.InDay, r.OutDay, r.InBytes, r.OutBytes)
		}
	})
}
