package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/message"
)

const (
	// traceTopic is where clients send what they tell of messages.
	traceTopic = "RMQ_SYS_TRACE_TOPIC"
	// pullAtOnce is how many messages one request of a tool reads.
	pullAtOnce = 32
	// mostListed bounds what one command lists.
	mostListed = 10_000
)

// isCode tells whether an error is an answer with this code.
func isCode(err error, code int) bool {
	ce := (*codeError)(nil)
	return errors.As(err, &ce) && ce.code == code
}

// window is a stretch of a topic by store time.
type window struct {
	from, to int64 // ms; to is inclusive, 0 is now
	queue    int32 // −1: all
	most     int
}

// listWindow answers the first messages of a topic that were stored within a window, in the order in which they were.
func (t *tools) listWindow(topic string, w window) ([]messageRow, error) {
	r, err := t.route(topic)
	if err != nil {
		return nil, err
	}
	addrs := map[string]string{}
	for _, b := range r.BrokerDatas {
		addrs[b.BrokerName] = b.BrokerAddrs[0]
	}
	var rows []messageRow
	for _, q := range r.QueueDatas {
		for queue := range q.ReadQueueNums {
			if w.queue >= 0 && queue != w.queue {
				continue
			}
			found, err := t.listQueue(addrs[q.BrokerName], topic, queue, w)
			if err != nil {
				return nil, fmt.Errorf("broker %s, queue %d: %w", q.BrokerName, queue, err)
			}
			rows = append(rows, found...)
		}
	}
	slices.SortStableFunc(rows, func(a, b messageRow) int { return int(a.Stored - b.Stored) })
	return rows[:min(len(rows), w.most)], nil
}

// listQueue answers the first messages of a queue that were stored within a window.
func (t *tools) listQueue(addr, topic string, queue int32, w window) (rows []messageRow, err error) {
	place := map[string]string{"topic": topic, "queueId": strconv.Itoa(int(queue)), "timestamp": strconv.FormatInt(w.from, 10)}
	resp, err := t.call(addr, wire.SearchOffsetByTimestamp, place, nil, nil)
	if err != nil {
		return nil, err
	}
	at, err := strconv.ParseInt(resp.Fields.Text("offset"), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("the offset of a time: %w", err)
	}
	for len(rows) < w.most {
		found, next, err := t.pull(addr, topic, queue, at, pullAtOnce)
		if err != nil || len(found) == 0 {
			return rows, err
		}
		for _, m := range found {
			if w.to > 0 && m.Stored > w.to {
				return rows, nil
			}
			// A broker that is no Cairn finds a time to some messages before it.
			if m.Stored >= w.from && len(rows) < w.most {
				rows = append(rows, m)
			}
		}
		at = next
	}
	return rows, nil
}

// pull reads messages of a queue without consuming them; next is where to go on.
func (t *tools) pull(addr, topic string, queue int32, offset int64, count int) (rows []messageRow, next int64, err error) {
	resp, err := t.call(addr, wire.PullMessage, map[string]string{"consumerGroup": "TOOLS_CONSUMER", "topic": topic, "queueId": strconv.Itoa(int(queue)),
		"queueOffset": strconv.FormatInt(offset, 10), "maxMsgNums": strconv.Itoa(count), "sysFlag": "4", "commitOffset": "0",
		"suspendTimeoutMillis": "0", "subscription": "*", "subVersion": "0", "expressionType": "TAG"}, nil, nil)
	if ce := (*codeError)(nil); errors.As(err, &ce) && ce.code >= wire.PullNotFound && ce.code <= wire.PullOffsetMoved {
		return nil, offset, nil
	}
	if err != nil {
		return nil, 0, err
	}
	if rows, err = rowsOf(resp.Body); err != nil {
		return nil, 0, err
	}
	next, err = strconv.ParseInt(resp.Fields.Text("nextBeginOffset"), 10, 64)
	return rows, next, err
}

// findOne answers the message of a unique id or an offset id, as the broker stores it.
func (t *tools) findOne(topic, id string) (message.Message, error) {
	fields := map[string]string{"topic": topic, "key": id, "maxNum": "1", "beginTimestamp": "0", "_UNIQUE_KEY_QUERY": "true",
		"endTimestamp": strconv.FormatInt(time.Now().Add(time.Minute).UnixMilli(), 10)}
	var data []byte
	err := t.brokersOf(topic, func(_, addr string) error {
		resp, err := t.call(addr, wire.QueryMessage, fields, nil, nil)
		if err == nil {
			data = resp.Body
		}
		if isCode(err, wire.QueryNotFound) {
			return nil
		}
		return err
	})
	if err != nil {
		return message.Message{}, err
	}
	if len(data) == 0 {
		host, position, err := message.ParseOffsetID(id)
		if err != nil {
			return message.Message{}, fmt.Errorf("topic %s has no message with the unique id %s", topic, id)
		}
		resp, err := t.call(host.String(), wire.ViewMessageByID, map[string]string{"offset": strconv.FormatInt(position, 10)}, nil, nil)
		if err != nil {
			return message.Message{}, err
		}
		data = resp.Body
	}
	m, _, err := message.Decode(data)
	if err == nil && m.Topic != topic {
		err = fmt.Errorf("message %s is of topic %s, not of %s", id, m.Topic, topic)
	}
	return m, err
}

// kept are the properties with a meaning of their own that a message keeps when it is sent again.
var kept = []string{message.PropTags, message.PropKeys, message.PropShardingKey}

// resent is what became of a message that was sent again.
type resent struct {
	ID    string `json:"id"`
	Topic string `json:"topic"`
	NewID string `json:"new_id"`
	Queue string `json:"queue"`
	At    string `json:"offset"`
}

// resend sends messages again: body, tag, keys and the user's properties as they were, with new ids and at once.
func (t *tools) resend(topic string, ids []string, to string) error {
	if to == "" {
		to = topic
	}
	done := make([]resent, 0, len(ids))
	for _, id := range ids {
		m, err := t.findOne(topic, id)
		if err != nil {
			return err
		}
		data, err := message.Decompress(m.SysFlag, m.Body)
		if err != nil {
			return fmt.Errorf("the body of %s: %w", id, err)
		}
		props := message.DecodeProperties(m.Properties)
		maps.DeleteFunc(props, func(k, _ string) bool { return message.IsReserved(k) && !slices.Contains(kept, k) })
		s, err := t.deliver(to, props, data)
		if err != nil {
			return fmt.Errorf("message %s: %w", id, err)
		}
		done = append(done, resent{id, to, s.id, s.queue, s.offset})
	}
	return t.print(done, "MESSAGE\tSENT TO\tQUEUE\tOFFSET\tNEW ID", func(w io.Writer) {
		for _, r := range done {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.ID, r.Topic, r.Queue, r.At, r.NewID)
		}
	})
}

// traceRow is one thing that a client told of a message.
type traceRow struct {
	Time    int64  `json:"time_ms"`
	What    string `json:"what"`
	Group   string `json:"group"`
	Topic   string `json:"topic"`
	Host    string `json:"host"`
	Cost    int64  `json:"cost_ms"`
	Success bool   `json:"success"`
	Status  string `json:"status"`
}

// traceOf reads the records of one trace message that concern a message id. A record ends with 0x02 and its fields with 0x01; which
// they are depends on the first one. What a newer client adds at the end is passed over.
func traceOf(data, id, client string) (rows []traceRow) {
	for record := range strings.SplitSeq(data, "\x02") {
		f := strings.Split(record, "\x01")
		field := func(i int) string {
			if i < len(f) {
				return f[i]
			}
			return ""
		}
		number := func(i int) int64 {
			n, _ := strconv.ParseInt(field(i), 10, 64) // what a client did not say is 0
			return n
		}
		row := traceRow{What: f[0], Host: client}
		of := ""
		switch f[0] {
		case "Pub":
			row.Time, row.Group, row.Topic, row.Cost = number(1), field(3), field(4), number(10)
			row.Host, row.Success, of = field(8), field(len(f)-1) == "true" || field(13) == "true", field(5)
		case "SubBefore":
			row.Time, row.Group, row.Success, of = number(1), field(3), true, field(5)
			row.Status = "attempt " + strconv.FormatInt(number(6)+1, 10)
		case "SubAfter":
			row.Time, row.Group, row.Cost, row.Success, row.Status, of = number(7), field(8), number(3), field(4) == "true", field(6), field(2)
		case "EndTransaction":
			row.Time, row.Group, row.Topic, row.Success, row.Status, of = number(1), field(3), field(4), true, field(11), field(5)
		case "Recall":
			row.Time, row.Group, row.Topic, row.Success, of = number(1), field(3), field(4), field(6) == "true", field(5)
		default:
			continue
		}
		if of == id {
			rows = append(rows, row)
		}
	}
	return rows
}

// trace tells what clients said that became of a message.
func (t *tools) trace(id, topic string) error {
	rows := []traceRow{}
	fields := map[string]string{"topic": topic, "key": id, "maxNum": "64", "beginTimestamp": "0",
		"endTimestamp": strconv.FormatInt(time.Now().Add(time.Minute).UnixMilli(), 10)}
	err := t.brokersOf(topic, func(_, addr string) error {
		resp, err := t.call(addr, wire.QueryMessage, fields, nil, nil)
		if isCode(err, wire.QueryNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		for data := resp.Body; len(data) > 0; {
			m, n, err := message.Decode(data)
			if err != nil {
				return err
			}
			text, err := message.Decompress(m.SysFlag, m.Body)
			if err != nil {
				return err
			}
			rows = append(rows, traceOf(string(text), id, m.BornHost.String())...)
			data = data[n:]
		}
		return nil
	})
	if err != nil {
		if isCode(err, wire.TopicNotExist) {
			return fmt.Errorf("no client has sent a trace: there is no topic %s", topic)
		}
		return err
	}
	slices.SortStableFunc(rows, func(a, b traceRow) int { return int(a.Time - b.Time) })
	return t.print(rows, "TIME\tWHAT\tGROUP\tHOST\tTOOK\tSUCCESS\tSTATUS", func(w io.Writer) {
		for _, r := range rows {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%dms\t%v\t%s\n", stamp(r.Time), r.What, r.Group, r.Host, r.Cost, r.Success, r.Status)
		}
	})
}

// printFull writes messages with all that they have.
func (t *tools) printFull(rows []messageRow) error {
	for i, r := range rows {
		if i > 0 {
			fmt.Fprintln(t.out)
		}
		fmt.Fprintf(t.out, "topic      %s\nqueue      %d\noffset     %d\nstored     %s\nid         %s\noffset id  %s\n",
			r.Topic, r.Queue, r.Offset, stamp(r.Stored), r.ID, r.OffsetID)
		for _, k := range slices.Sorted(maps.Keys(r.Properties)) {
			fmt.Fprintf(t.out, "property   %s = %s\n", k, r.Properties[k])
		}
		if _, err := fmt.Fprintf(t.out, "body       %d bytes\n%s\n", len(r.Body), r.Body); err != nil {
			return err
		}
	}
	return nil
}

func (t *tools) newResend() *cobra.Command {
	var to string
	c := &cobra.Command{Use: "resend TOPIC ID...", Short: "Send messages again", Args: cobra.MinimumNArgs(2),
		Long: "Sends copies of messages, named by their unique or offset ids: body, tag, keys and the user's properties as they were, with new ids.\nA delayed message is sent at once.",
		Example: `  cairn message resend orders 7F0000010A2B18B4AAC20F1C2D3E0000
  cairn message resend orders 7F0000010A2B18B4AAC20F1C2D3E0000 --to orders-again`,
		RunE: t.run(func(args []string) error { return t.resend(args[0], args[1:], to) })}
	c.Flags().StringVar(&to, "to", "", "another topic than the one they are in")
	return c
}

func (t *tools) newTrace() *cobra.Command {
	var topic string
	c := &cobra.Command{Use: "trace ID", Short: "Show what clients told of a message", Args: cobra.ExactArgs(1),
		Long:    "Shows who sent a message, who got it and how that went, as far as the clients have message trace switched on.",
		Example: "  cairn message trace 7F0000010A2B18B4AAC20F1C2D3E0000",
		RunE:    t.run(func(args []string) error { return t.trace(args[0], topic) })}
	c.Flags().StringVar(&topic, "trace-topic", traceTopic, "where the clients send their traces")
	return c
}
