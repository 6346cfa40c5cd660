package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/wire"
)

// tools is how the topic, group, message and cluster commands talk to any RocketMQ-compatible name server and its brokers.
type tools struct {
	nameServer string
	output     string
	timeout    time.Duration

	ctx   context.Context
	out   io.Writer
	conns map[string]*wire.Client
}

func (t *tools) flags(c *cobra.Command) {
	def := os.Getenv("CAIRN_NAMESERVER")
	if def == "" {
		def = "127.0.0.1:9876"
	}
	c.PersistentFlags().StringVarP(&t.nameServer, "nameserver", "n", def, "name server, host:port (or CAIRN_NAMESERVER)")
	t.outputFlags(c)
}

func (t *tools) outputFlags(c *cobra.Command) {
	c.PersistentFlags().StringVarP(&t.output, "output", "o", "text", "text or json")
	c.PersistentFlags().DurationVar(&t.timeout, "timeout", 10*time.Second, "limit of one request")
}

// run wraps a command's work: it connects on demand and closes what it opened.
func (t *tools) run(f func(args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if t.output != "text" && t.output != "json" {
			return usagef("-o is text or json, not %q", t.output)
		}
		t.ctx, t.out, t.conns = cmd.Context(), cmd.OutOrStdout(), map[string]*wire.Client{}
		defer func() {
			for _, c := range t.conns {
				c.Close()
			}
		}()
		return f(args)
	}
}

// codeError is an answer other than success.
type codeError struct {
	code   int
	remark string
}

func (e *codeError) Error() string { return fmt.Sprintf("%s (code %d)", e.remark, e.code) }

// call sends a request and reads the response's body into v when it is not nil.
func (t *tools) call(addr string, code int, fields map[string]string, reqBody []byte, v any) (*wire.Command, error) {
	c := t.conns[addr]
	ctx, cancel := context.WithTimeout(t.ctx, t.timeout)
	defer cancel()
	if c == nil {
		var err error
		if c, err = wire.Dial(ctx, addr, wire.ClientOptions{}); err != nil {
			return nil, fmt.Errorf("%w (is a broker running there? `cairn serve` starts one)", err)
		}
		t.conns[addr] = c
	}
	req := wire.NewRequest(code)
	for _, k := range slices.Sorted(maps.Keys(fields)) {
		req.Fields.Add(k, fields[k])
	}
	req.Body = reqBody
	resp, err := c.Invoke(ctx, req)
	if err != nil {
		return nil, err
	}
	if resp.Code != wire.Success {
		return nil, &codeError{resp.Code, resp.Remark}
	}
	if v != nil {
		if err := body.Unmarshal(resp.Body, v); err != nil {
			return nil, fmt.Errorf("answer of %s to request %d: %w", addr, code, err)
		}
	}
	return resp, nil
}

// masters are the brokers of all clusters, in name order.
func (t *tools) masters() ([]body.BrokerData, error) {
	var info body.ClusterInfo
	if _, err := t.call(t.nameServer, wire.GetBrokerClusterInfo, nil, nil, &info); err != nil {
		return nil, err
	}
	var out []body.BrokerData
	for _, name := range slices.Sorted(maps.Keys(info.BrokerAddrTable)) {
		if b := info.BrokerAddrTable[name]; b.BrokerAddrs[0] != "" {
			out = append(out, b)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the name server at %s knows no broker", t.nameServer)
	}
	return out, nil
}

func (t *tools) route(topic string) (r body.TopicRoute, err error) {
	_, err = t.call(t.nameServer, wire.GetRouteInfoByTopic, map[string]string{"topic": topic, "acceptStandardJsonOnly": "true"}, nil, &r)
	return r, err
}

// brokersOf calls f for each broker of a topic.
func (t *tools) brokersOf(topic string, f func(name, addr string) error) error {
	r, err := t.route(topic)
	if err != nil {
		return err
	}
	for _, b := range r.BrokerDatas {
		if err := f(b.BrokerName, b.BrokerAddrs[0]); err != nil {
			return fmt.Errorf("broker %s: %w", b.BrokerName, err)
		}
	}
	return nil
}

// eachMaster calls f for each broker.
func (t *tools) eachMaster(f func(name, addr string) error) error {
	all, err := t.masters()
	if err != nil {
		return err
	}
	for _, b := range all {
		if err := f(b.BrokerName, b.BrokerAddrs[0]); err != nil {
			return fmt.Errorf("broker %s: %w", b.BrokerName, err)
		}
	}
	return nil
}

// print writes v as JSON, or rows as a table under a head.
func (t *tools) print(v any, head string, rows func(w io.Writer)) error {
	if t.output == "json" {
		enc := json.NewEncoder(t.out)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	w := tabwriter.NewWriter(t.out, 2, 0, 3, ' ', 0)
	fmt.Fprintln(w, head)
	rows(w)
	return w.Flush()
}

func (t *tools) done(format string, args ...any) error {
	if t.output == "json" {
		return json.NewEncoder(t.out).Encode(map[string]string{"done": fmt.Sprintf(format, args...)})
	}
	_, err := fmt.Fprintf(t.out, format+"\n", args...)
	return err
}

func stamp(ms int64) string {
	if ms <= 0 {
		return "–"
	}
	return time.UnixMilli(ms).Format("2006-01-02 15:04:05.000")
}
