package differential

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/message"
)

func (s *session) connect(t *testing.T, name, addr string) *wire.Client {
	t.Helper()
	key := name + " " + addr
	if c := s.remoting[key]; c != nil {
		return c
	}
	c, err := wire.Dial(context.Background(), addr, wire.ClientOptions{Serve: func(_ *wire.Conn, cmd *wire.Command) { cmd.Release() }})
	if err != nil {
		t.Fatal(err)
	}
	s.remoting[key] = c
	return c
}

// call makes a Remoting request.
func (s *session) call(t *testing.T, d *datadriven.TestData, in input) answer {
	t.Helper()
	var code int
	var name, at string
	d.ScanArgs(t, "code", &code)
	d.MaybeScanArgs(t, "client", &name)
	d.MaybeScanArgs(t, "at", &at)
	addr := s.at.Remoting
	if at == "nameserver" {
		addr = s.at.NameServer
	}
	c := s.connect(t, name, addr)
	req := wire.NewRequest(code)
	req.Version = wire.Version5_5_0
	req.Language = wire.Java
	d.MaybeScanArgs(t, "version", &req.Version)
	if d.HasArg("binary") {
		req.Serialize = wire.Binary
	}
	for _, line := range in.lines {
		if err := add(req, line); err != nil {
			d.Fatalf(t, "%s: %v", line, err)
		}
	}
	if d.HasArg("oneway") {
		if err := c.OneWay(req); err != nil {
			d.Fatalf(t, "%v", err)
		}
		return answer{}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	resp, err := c.Invoke(ctx, req)
	if err != nil {
		d.Fatalf(t, "code %d: %v", code, err)
	}
	a := answer{"code": strconv.Itoa(resp.Code)}
	if resp.Remark != "" {
		a["remark"] = resp.Remark
	}
	for _, f := range resp.Fields {
		a["header."+f.Key] = f.Value
	}
	messages := describeBody(a, resp.Body)
	for _, r := range in.receipts {
		i, err := strconv.Atoi(r[1])
		if err != nil || i >= len(messages) {
			d.Fatalf(t, "no message %s in\n%s", r[1], format(a))
		}
		s.variables[r[0]] = receipt(t, resp, messages[i])
	}
	return a
}

// add puts a line of a call into a request.
func add(req *wire.Command, line string) error {
	key, value, ok := strings.Cut(line, "=")
	if !ok {
		return fmt.Errorf("no field")
	}
	if strings.HasPrefix(value, `"`) {
		var err error
		if value, err = strconv.Unquote(value); err != nil {
			return err
		}
	}
	switch key {
	case "body":
		req.Body = []byte(value)
	case "bytes":
		n, err := strconv.Atoi(value)
		if err != nil {
			return err
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
	return nil
}

// receipt is what a client makes of the answer to a pop for one of its messages.
func receipt(t *testing.T, resp *wire.Command, m message.Message) string {
	t.Helper()
	for _, queue := range strings.Split(resp.Fields.Text("startOffsetInfo"), ";") {
		part := strings.Fields(queue) // kind of the topic, queue, first offset
		if len(part) == 3 && part[1] == strconv.Itoa(int(m.QueueID)) {
			return strings.Join([]string{part[2], resp.Fields.Text("popTime"), resp.Fields.Text("invisibleTime"), resp.Fields.Text("reviveQid"), part[0],
				"broker-a", part[1], strconv.FormatInt(m.QueueOffset, 10)}, " ")
		}
	}
	t.Fatalf("no queue %d in startOffsetInfo %q", m.QueueID, resp.Fields.Text("startOffsetInfo"))
	return ""
}

// describeBody shows a body: JSON of either dialect by its leaves, messages by what clients see of them.
func describeBody(a answer, content []byte) (messages []message.Message) {
	if len(content) == 0 {
		return nil
	}
	var v any
	if content[0] == '{' || content[0] == '[' {
		if err := body.Unmarshal(content, &v); err == nil {
			flatten(a, "body", v)
			return nil
		}
	}
	for rest := content; len(rest) > 0; {
		m, n, err := message.Decode(rest)
		if err != nil {
			a["body"] = strconv.Quote(string(content))
			return nil
		}
		describeMessage(a, fmt.Sprintf("message[%d]", len(messages)), &m)
		messages, rest = append(messages, m), rest[n:]
	}
	return messages
}

func describeMessage(a answer, path string, m *message.Message) {
	text := string(m.Body)
	if len(text) > 80 {
		text = fmt.Sprintf("<%d bytes>", len(text))
	}
	a[path] = fmt.Sprintf("%s %d %d %s", m.Topic, m.QueueID, m.QueueOffset, text)
	a[path+".flag"] = strconv.Itoa(int(m.Flag))
	a[path+".reconsumeTimes"] = strconv.Itoa(int(m.ReconsumeTimes))
	message.EachProperty(m.Properties, func(k, v []byte) bool {
		a[path+"."+string(k)] = string(v)
		return true
	})
}

// flatten shows a value of JSON by its leaves.
func flatten(a answer, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			flatten(a, path+"."+key, value)
		}
		if len(v) == 0 {
			a[path] = "{}"
		}
	case []any:
		for i, value := range v {
			flatten(a, fmt.Sprintf("%s[%d]", path, i), value)
		}
		if len(v) == 0 {
			a[path] = "[]"
		}
	case string:
		a[path] = v
	default:
		text, err := json.Marshal(v)
		if err != nil {
			a[path] = err.Error()
			return
		}
		a[path] = string(text)
	}
}
