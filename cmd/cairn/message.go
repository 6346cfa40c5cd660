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
	c := &cobra.Command{Use: "message", Short: "Send, look up, read and resend messages", Example: `  cairn message send orders '{"id":7}' --tag paid --key 7
  cairn message query orders --key 7 --full
  cairn message query orders --from -10m --to -5m
  cairn message peek orders --queue 0 --offset 10 --count 3`}
	t.flags(c)
	var full bool
	c.PersistentFlags().BoolVar(&full, "full", false, "print each message found with its properties and its whole body")
	show := func(rows []messageRow, err error) error {
		switch {
		case err != nil:
			return err
		case full && t.output != "json":
			return t.printFull(rows)
		}
		return t.printMessages(rows)
	}
	var tag string
	var keys []string
	send := &cobra.Command{Use: "send TOPIC BODY", Short: "Send one message", Args: cobra.ExactArgs(2),
		RunE: t.run(func(args []string) error { return t.sendMessage(args[0], args[1], tag, keys) })}
	send.Flags().StringVar(&tag, "tag", "", "its tag")
	send.Flags().StringSliceVar(&keys, "key", nil, "keys to find it by")
	var key, id, from, to string
	var since time.Duration
	var in, most int
	query := &cobra.Command{Use: "query TOPIC", Short: "Find messages by key, unique id or time", Args: cobra.ExactArgs(1),
		Long: "Finds messages by a key, newest first, by their unique id, or those that were stored within a time, oldest first.",
		Example: `  cairn message query orders --key 7
  cairn message query orders --id 7F0000010A2B18B4AAC20F1C2D3E0000 --full
  cairn message query orders --from 2026-01-31T08:00:00Z --to 2026-01-31T08:05:00Z --limit 100 -o json`,
		RunE: t.run(func(args []string) error {
			if from == "" && to == "" {
				return show(t.queryMessages(args[0], key, id, since))
			}
			w, err := windowOf(from, to, in, most, time.Now())
			if err == nil && key+id != "" {
				err = usagef("give --key, --id or a time")
			}
			if err != nil {
				return err
			}
			return show(t.listWindow(args[0], w))
		})}
	query.Flags().StringVar(&key, "key", "", "a key that the sender gave")
	query.Flags().StringVar(&id, "id", "", "the unique id that the sender got")
	query.Flags().DurationVar(&since, "since", 72*time.Hour, "with --key or --id: look back this far")
	query.Flags().StringVar(&from, "from", "", "stored at this time or later: -10m, milliseconds since 1970, or like 2026-01-31T08:00:00Z")
	query.Flags().StringVar(&to, "to", "", "stored at this time or earlier")
	query.Flags().IntVar(&in, "queue", -1, "with a time: only in this queue")
	query.Flags().IntVar(&most, "limit", 32, "with a time: how many, at most 10000")
	var queue, count int
	var offset int64
	peek := &cobra.Command{Use: "peek TOPIC", Short: "Read messages of a queue without consuming them", Args: cobra.ExactArgs(1),
		RunE: t.run(func(args []string) error { return show(t.peekMessages(args[0], queue, offset, count)) })}
	peek.Flags().IntVar(&queue, "queue", 0, "queue")
	peek.Flags().Int64Var(&offset, "offset", 0, "first offset")
	peek.Flags().IntVar(&count, "count", 10, "how many, at most 32")
	c.AddCommand(send, query, peek, t.newResend(), t.newTrace(), &cobra.Command{Use: "get ID", Short: "Read the message with an offset id", Args: cobra.ExactArgs(1),
		RunE: t.run(func(args []string) error { return show(t.getMessage(args[0])) })})
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

// windowOf reads the bounds of a time; without a beginning it reaches back to the first message.
func windowOf(from, to string, queue, most int, now time.Time) (w window, err error) {
	if most < 1 || most > mostListed {
		return w, usagef("--limit is 1 to %d", mostListed)
	}
	w = window{queue: int32(queue), most: most}
	if w.from, err = parseWhen("from", from, now); err != nil {
		return w, err
	}
	if w.to, err = parseWhen("to", to, now); err != nil {
		return w, err
	}
	if w.to > 0 && w.from > w.to {
		return w, usagef("--from is after --to")
	}
	return w, nil
}

// delivered says where a message that was sent is.
type delivered struct{ id, offsetID, queue, offset string }

// deliver sends a message with a unique id of its own, which it adds to the properties.
func (t *tools) deliver(topic string, props map[string]string, data []byte) (delivered, error) {
	r, err := t.route(topic)
	if isCode(err, wire.TopicNotExist) {
		r, err = t.route("TBW102") // the broker that makes topics on demand has it
	}
	if err != nil {
		return delivered{}, err
	}
	if len(r.BrokerDatas) == 0 {
		return delivered{}, fmt.Errorf("no broker has topic %s", topic)
	}
	props[message.PropUniqueKey], props[message.PropWait] = message.NewUniqueID(), "true"
	resp, err := t.call(r.BrokerDatas[0].BrokerAddrs[0], wire.SendMessageV2, map[string]string{"a": "cairn-cli", "b": topic, "c": "TBW102", "d": "8", "e": "-1", "f": "0",
		"g": strconv.FormatInt(time.Now().UnixMilli(), 10), "h": "0", "i": string(message.EncodeProperties(props)), "j": "0", "k": "false", "m": "false"}, data, nil)
	if err != nil {
		return delivered{}, err
	}
	f := resp.Fields
	return delivered{props[message.PropUniqueKey], f.Text("msgId"), f.Text("queueId"), f.Text("queueOffset")}, nil
}

func (t *tools) sendMessage(topic, text, tag string, keys []string) error {
	props := map[string]string{}
	if tag != "" {
		props[message.PropTags] = tag
	}
	if len(keys) > 0 {
		props[message.PropKeys] = strings.Join(keys, " ")
	}
	s, err := t.deliver(topic, props, []byte(text))
	if err != nil {
		return err
	}
	return t.done("sent to %s, queue %s, offset %s, id %s, offset id %s", topic, s.queue, s.offset, s.id, s.offsetID)
}

func (t *tools) queryMessages(topic, key, id string, since time.Duration) (rows []messageRow, err error) {
	if (key == "") == (id == "") {
		return nil, usagef("give one of --key and --id, or a time with --from and --to")
	}
	fields := map[string]string{"topic": topic, "key": key + id, "maxNum": "32", "beginTimestamp": strconv.FormatInt(time.Now().Add(-since).UnixMilli(), 10),
		"endTimestamp": strconv.FormatInt(time.Now().Add(time.Minute).UnixMilli(), 10)}
	if id != "" {
		fields["_UNIQUE_KEY_QUERY"] = "true"
	}
	err = t.brokersOf(topic, func(_, addr string) error {
		resp, err := t.call(addr, wire.QueryMessage, fields, nil, nil)
		if isCode(err, wire.QueryNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		found, err := rowsOf(resp.Body)
		rows = append(rows, found...)
		return err
	})
	return rows, err
}

func (t *tools) peekMessages(topic string, queue int, offset int64, count int) (rows []messageRow, err error) {
	if count < 1 || count > pullAtOnce {
		return nil, usagef("--count is 1 to %d", pullAtOnce)
	}
	err = t.brokersOf(topic, func(_, addr string) error {
		found, _, err := t.pull(addr, topic, int32(queue), offset, count)
		rows = append(rows, found...)
		return err
	})
	return rows, err
}

func (t *tools) getMessage(id string) ([]messageRow, error) {
	host, position, err := message.ParseOffsetID(id)
	if err != nil {
		return nil, usagef("%w; an offset id is what a Remoting send answers; `cairn message query TOPIC --id` finds unique ids", err)
	}
	resp, err := t.call(host.String(), wire.ViewMessageByID, map[string]string{"offset": strconv.FormatInt(position, 10)}, nil, nil)
	if err != nil {
		return nil, err
	}
	return rowsOf(resp.Body)
}
