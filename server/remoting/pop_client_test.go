package remoting

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/message"
)

// receipts makes receipts of answers as the Java client does it, and keeps them by the body of the message.
type receipts map[string]string

// use puts the receipt in that a request names as @body.
func (rs receipts) use(req *wire.Command) {
	for i := range req.Fields {
		if f := &req.Fields[i]; f.Key == "extraInfo" && strings.HasPrefix(f.Value, "@") {
			f.Value = rs[f.Value[1:]]
		}
	}
}

// keep keeps the receipts of what was popped, or of the message whose invisible time was changed.
func (rs receipts) keep(req, resp *wire.Command) error {
	if resp.Code != wire.Success {
		return nil
	}
	switch req.Code {
	case wire.PopMessage:
		return rs.popped(resp)
	case wire.ChangeInvisibleTime:
		old := req.Fields.Text("extraInfo")
		for body, receipt := range rs {
			if receipt == old && !strings.HasSuffix(body, "'") {
				rs[body+"'"] = receiptText(resp, req.Fields.Text("offset"), req.Fields.Text("queueId"), req.Fields.Text("offset"))
			}
		}
	}
	return nil
}

func receiptText(resp *wire.Command, start, queue, offset string) string {
	f := resp.Fields
	return fmt.Sprintf("%s %s %s %s 0 broker-a %s %s", start, f.Text("popTime"), f.Text("invisibleTime"), f.Text("reviveQid"), queue, offset)
}

// popped finds each message's place in the two fields that tell the offsets: by its queue, and by its rank among the messages of
// that queue.
func (rs receipts) popped(resp *wire.Command) error {
	starts, offsets := offsetInfo(resp.Fields.Text("startOffsetInfo")), offsetInfo(resp.Fields.Text("msgOffsetInfo"))
	ranks := map[string][]int64{}
	each := func(f func(queue string, m *message.Message)) error {
		for b := resp.Body; len(b) > 0; {
			m, n, err := message.Decode(b)
			if err != nil {
				return err
			}
			f("0@"+strconv.Itoa(int(m.QueueID)), &m)
			b = b[n:]
		}
		return nil
	}
	if err := each(func(queue string, m *message.Message) { ranks[queue] = append(ranks[queue], m.QueueOffset) }); err != nil {
		return err
	}
	var wrong error
	err := each(func(queue string, m *message.Message) {
		slices.Sort(ranks[queue])
		rank := slices.Index(ranks[queue], m.QueueOffset)
		if rank >= len(offsets[queue]) || offsets[queue][rank] != strconv.FormatInt(m.QueueOffset, 10) || len(starts[queue]) != 1 {
			wrong = fmt.Errorf("offset %d of queue %d is not number %d of %v from %v", m.QueueOffset, m.QueueID, rank, offsets, starts)
			return
		}
		rs[string(m.Body)] = receiptText(resp, starts[queue][0], strconv.Itoa(int(m.QueueID)), offsets[queue][rank])
	})
	if err == nil {
		err = wrong
	}
	return err
}

// offsetInfo reads startOffsetInfo or msgOffsetInfo.
func offsetInfo(text string) map[string][]string {
	all := map[string][]string{}
	for part := range strings.SplitSeq(text, ";") {
		if fields := strings.Split(part, " "); len(fields) == 3 {
			all[fields[0]+"@"+fields[1]] = strings.Split(fields[2], ",")
		}
	}
	return all
}
