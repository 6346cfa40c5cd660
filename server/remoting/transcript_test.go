package remoting

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/message"
)

// TestTranscripts plays testdata/*: requests as they come over the wire and what is answered.
//
//	call code=N [client=NAME] [oneway] [binary] [version=N]
//	field=value            lines of the header; a value in quotes is unescaped as in Go
//	extraInfo=@text        the receipt of the message that was popped with that body; with ' behind it, as the last change made it
//	body="text"            the body, or
//	batch=text,text        a body of several messages
//	----
//	response code, remark and fields; bodies of messages one a line, other bodies as they are
//
// What differs from run to run is shown as its kind.
func TestTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata/transcripts", func(t *testing.T, path string) {
		r := newRig(t, commitlog.ModeOS, Options{}, nil)
		clients, receipts := map[string]*wire.Client{}, receipts{}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd != "call" {
				d.Fatalf(t, "unknown command %s", d.Cmd)
			}
			name := ""
			d.MaybeScanArgs(t, "client", &name)
			if clients[name] == nil {
				clients[name] = r.dial(wire.ClientOptions{Serve: func(_ *wire.Conn, cmd *wire.Command) { cmd.Release() }})
			}
			req := readRequest(t, d)
			receipts.use(req)
			if d.HasArg("oneway") {
				if err := clients[name].OneWay(req); err != nil {
					d.Fatalf(t, "%v", err)
				}
				return "no answer"
			}
			resp := invoke(t, clients[name], req)
			if err := receipts.keep(req, resp); err != nil {
				d.Fatalf(t, "%v", err)
			}
			return describe(resp)
		})
	})
}

func readRequest(t *testing.T, d *datadriven.TestData) *wire.Command {
	t.Helper()
	var code int
	d.ScanArgs(t, "code", &code)
	req := request(code)
	req.Version = wire.Version5_5_0
	d.MaybeScanArgs(t, "version", &req.Version)
	if d.HasArg("binary") {
		req.Serialize = wire.Binary
	}
	for _, line := range strings.Split(d.Input, "\n") {
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			continue
		}
		if strings.HasPrefix(value, `"`) {
			var err error
			if value, err = strconv.Unquote(value); err != nil {
				d.Fatalf(t, "%s: %v", line, err)
			}
		}
		switch key {
		case "body":
			req.Body = []byte(value)
		case "bytes": // that many, of the letter x
			n, err := strconv.Atoi(value)
			if err != nil {
				d.Fatalf(t, "%s: %v", line, err)
			}
			req.Body = bytes.Repeat([]byte("x"), n)
		case "batch":
			for _, text := range strings.Split(value, ",") {
				m := message.Message{Body: []byte(text), Properties: message.EncodeProperties(map[string]string{"TAGS": text})}
				req.Body = message.AppendBatchItem(req.Body, &m)
			}
		default:
			req.Fields.Add(key, value)
		}
	}
	return req
}

func describe(resp *wire.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %s\n", resp.Code, resp.Remark)
	for _, f := range resp.Fields {
		switch f.Key {
		case "MSG_REGION", "TRACE_ON", "topicSysFlag", "groupSysFlag", "suggestWhichBrokerId":
			continue // the same everywhere
		case "msgId":
			if _, sent := resp.Fields.Get("queueId"); !sent {
				break // a unique id, of what was recalled
			}
			f.Value = kinds(f.Value, func(id string) error { _, _, err := message.ParseOffsetID(id); return err })
		case "recallHandle":
			f.Value = handleText(f.Value)
		case "transactionId":
			f.Value = kinds(f.Value, func(id string) error {
				if len(id) != 32 {
					return fmt.Errorf("%d digits", len(id))
				}
				return nil
			})
		case "indexLastUpdateTimestamp", "indexLastUpdatePhyoffset", "timestamp", "popTime", "reviveQid":
			if n, err := strconv.ParseInt(f.Value, 10, 64); err == nil && n > 0 {
				f.Value = "some"
			}
		}
		fmt.Fprintf(&b, "%s=%s\n", f.Key, f.Value)
	}
	describeBody(&b, resp.Body)
	return b.String()
}

// handleText shows what a recall handle says, but for the id and the position.
func handleText(text string) string {
	h, err := delay.ParseHandle(text)
	if err != nil {
		return fmt.Sprintf("%q: %v", text, err)
	}
	if h.Origin < 0 || h.UniqueID == "" {
		return fmt.Sprintf("%+v", h)
	}
	return fmt.Sprintf("<%s of %s at %d>", h.Topic, h.Broker, h.Due)
}

// kinds shows a comma-separated list of ids as how many there are, and what is wrong with one.
func kinds(list string, check func(string) error) string {
	ids := strings.Split(list, ",")
	for _, id := range ids {
		if err := check(id); err != nil {
			return fmt.Sprintf("%q: %v", id, err)
		}
	}
	return fmt.Sprintf("<%d>", len(ids))
}

func describeBody(b *strings.Builder, body []byte) {
	if len(body) == 0 {
		return
	}
	if body[0] == '{' {
		fmt.Fprintf(b, "%s\n", body)
		return
	}
	for len(body) > 0 {
		m, n, err := message.Decode(body)
		if err != nil {
			fmt.Fprintf(b, "no message: %v\n", err)
			return
		}
		body = body[n:]
		text := string(m.Body)
		if len(text) > 40 {
			text = fmt.Sprintf("%d bytes", len(text))
		}
		fmt.Fprintf(b, "%s queue %d offset %d: %s", m.Topic, m.QueueID, m.QueueOffset, text)
		message.EachProperty(m.Properties, func(k, v []byte) bool {
			switch string(k) {
			case "UNIQ_KEY", "__transactionId__", "ORIGIN_MESSAGE_ID":
				v = []byte("some")
			case "CLUSTER", "MSG_REGION", "TRACE_ON":
				return true
			}
			fmt.Fprintf(b, " %s=%s", k, v)
			return true
		})
		if m.ReconsumeTimes > 0 {
			fmt.Fprintf(b, " (consumed %d times before)", m.ReconsumeTimes)
		}
		b.WriteByte('\n')
	}
}
