package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/message"
)

func newMessage() *cobra.Command {
	t := &tools{}
	c := &cobra.Command{Use: "message", Short: "Send, look up and read messages", Example: `  cairn message send orders '{"id":7}' --tag paid --key 7
  cairn message query orders --key 7
  cairn message peek orders --queue 0 --offset 10 --count 3`}
	t.flags(c)
	var tag string
	var keys []string
	send := &cobra.Command{Use: "send TOPIC BODY", Short: "Send one message", Args: cobra.ExactArgs(2),
		RunE: t.run(func(args []string) error { return t.sendMessage(args[0], args[1], tag, keys) })}
	send.Flags().StringVar(&tag, "tag", "", "its tag")
	send.Flags().StringSliceVar(&keys, "key", nil, "keys to find it by")
	var key, id string
	var since time.Duration
	query := &cobra.Command{Use: "query TOPIC", Short: "Find messages by key or unique id", Args: cobra.ExactArgs(1),
		RunE: t.run(func(args []string) error { return t.queryMessages(args[0], key, id, since) })}
	query.Flags().StringVar(&key, "key", "", "a key that the sender gave")
	query.Flags().StringVar(&id, "id", "", "the unique id that the sender got")
	query.Flags().DurationVar(&since, "since", 72*time.Hour, "look back this far")
	var queue, count int
	var offset int64
	peek := &cobra.Command{Use: "peek TOPIC", Short: "Read messages of a queue without consuming them", Args: cobra.ExactArgs(1),
		RunE: t.run(func(args []string) error { return t.peekMessages(args[0], queue, offset, count) })}
	peek.Flags().IntVar(&queue, "queue", 0, "queue")
	peek.Flags().Int64Var(&offset, "offset", 0, "first offset")
	peek.Flags().IntVar(&count, "count", 10, "how many, at most 32")
	c.AddCommand(send, query, peek, &cobra.Command{Use: "get ID", Short: "Read the message with an offset id", Args: cobra.ExactArgs(1),
		RunE: t.run(func(args []string) error { return t.getMessage(args[0]) })})
	return c
}

type messageRow struct {
	Topic      string            `json:"topic"`
	Queue      int32             `json:"queue"`
	Offset     int64             `json:"offset"`
	ID         string            `json:"id"`
	OffsetID   string            `json:"offset_id"`
	Stored     int64             `json:"stored_ms"`
	Properties map[string]string `json:"properties"`
	Body       string            `json:"body"`
}

func rowOf(m *message.Message) (messageRow, error) {
	data, err := message.Decompress(m.SysFlag, m.Body)
	if err != nil {
		return messageRow{}, err
	}
	text := string(data)
	if !utf8.ValidString(text) {
		text = fmt.Sprintf("%x", data)
	}
	props := message.DecodeProperties(m.Properties)
	return messageRow{m.Topic, m.QueueID, m.QueueOffset, props[message.PropUniqueKey], message.OffsetID(m.StoreHost, m.PhysicalOffset), m.StoreTimestamp, props, text}, nil
}

func rowsOf(layouts []byte) (rows []messageRow, err error) {
	for len(layouts) > 0 {
		m, n, err := message.Decode(layouts)
		if err != nil {
			return nil, err
		}
		row, err := rowOf(&m)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
		layouts = layouts[n:]
	}
	return rows, nil
}

func (t *tools) printMessages(rows []messageRow) error {
	if rows == nil {
		rows = []messageRow{}
	}
	return t.print(rows, "QUEUE\tOFFSET\tSTORED\tID\tTAG\tKEYS\tBODY", func(w io.Writer) {
		for _, r := range rows {
			shown := strings.ReplaceAll(r.Body, "\n", " ")
			if len(shown) > 80 {
				shown = shown[:77] + "…"
			}
			fmt.Fprintf(w, "%d\t%d\t%s\t%s\t%s\t%s\t%s\n", r.Queue, r.Offset, stamp(r.Stored), r.ID, r.Properties[message.PropTags], r.Properties[message.PropKeys], shown)
		}
	})
}

func (t *tools) sendMessage(topic, text, tag string, keys []string) error {
	r, err := t.route(topic)
	template := topic
	if ce, ok := err.(*codeError); ok && ce.code == wire.TopicNotExist {
		template = "TBW102"
		r, err = t.route(template) // the broker that makes topics on demand has it
	}
	if err != nil {
		return err
	}
	if len(r.BrokerDatas) == 0 {
		return fmt.Errorf("no broker has topic %s", topic)
	}
	props := map[string]string{message.PropUniqueKey: message.NewUniqueID(), message.PropWait: "true"}
	if tag != "" {
		props[message.PropTags] = tag
	}
	if len(keys) > 0 {
		props[message.PropKeys] = strings.Join(keys, " ")
	}
	resp, err := t.call(r.BrokerDatas[0].BrokerAddrs[0], wire.SendMessageV2, map[string]string{"a": "cairn-cli", "b": topic, "c": "TBW102", "d": "8", "e": "-1", "f": "0",
		"g": strconv.FormatInt(time.Now().UnixMilli(), 10), "h": "0", "i": string(message.EncodeProperties(props)), "j": "0", "k": "false", "m": "false"}, []byte(text), nil)
	if err != nil {
		return err
	}
	f := resp.Fields
	return t.done("sent to %s, queue %s, offset %s, id %s, offset id %s", topic, f.Text("queueId"), f.Text("queueOffset"), props[message.PropUniqueKey], f.Text("msgId"))
}

func (t *tools) queryMessages(topic, key, id string, since time.Duration) error {
	if (key == "") == (id == "") {
		return usagef("give one of --key and --id")
	}
	fields := map[string]string{"topic": topic, "key": key + id, "maxNum": "32", "beginTimestamp": strconv.FormatInt(time.Now().Add(-since).UnixMilli(), 10),
		"endTimestamp": strconv.FormatInt(time.Now().Add(time.Minute).UnixMilli(), 10)}
	if id != "" {
		fields["_UNIQUE_KEY_QUERY"] = "true"
	}
	var rows []messageRow
	err := t.brokersOf(topic, func(_, addr string) error {
		resp, err := t.call(addr, wire.QueryMessage, fields, nil, nil)
		if ce, ok := err.(*codeError); ok && ce.code == wire.QueryNotFound {
			return nil
		}
		if err != nil {
			return err
		}
		found, err := rowsOf(resp.Body)
		rows = append(rows, found...)
		return err
	})
	if err != nil {
		return err
	}
	return t.printMessages(rows)
}

func (t *tools) peekMessages(topic string, queue int, offset int64, count int) error {
	if count < 1 || count > 32 {
		return usagef("--count is 1 to 32")
	}
	var rows []messageRow
	err := t.brokersOf(topic, func(_, addr string) error {
		resp, err := t.call(addr, wire.PullMessage, map[string]string{"consumerGroup": "TOOLS_CONSUMER", "topic": topic, "queueId": strconv.Itoa(queue),
			"queueOffset": strconv.FormatInt(offset, 10), "maxMsgNums": strconv.Itoa(count), "sysFlag": "4", "commitOffset": "0",
			"suspendTimeoutMillis": "0", "subscription": "*", "subVersion": "0", "expressionType": "TAG"}, nil, nil)
		if ce, ok := err.(*codeError); ok && ce.code >= wire.PullNotFound && ce.code <= wire.PullOffsetMoved {
			return nil
		}
		if err != nil {
			return err
		}
		found, err := rowsOf(resp.Body)
		rows = append(rows, found...)
		return err
	})
	if err != nil {
		return err
	}
	return t.printMessages(rows)
}

func (t *tools) getMessage(id string) error {
	host, position, err := message.ParseOffsetID(id)
	if err != nil {
		return usagef("%w; an offset id is what a Remoting send answers; `cairn message query TOPIC --id` finds unique ids", err)
	}
	resp, err := t.call(host.String(), wire.ViewMessageByID, map[string]string{"offset": strconv.FormatInt(position, 10)}, nil, nil)
	if err != nil {
		return err
	}
	rows, err := rowsOf(resp.Body)
	if err != nil {
		return err
	}
	return t.printMessages(rows)
}
