package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/cairnmq/cairn/bench"
)

func newBench() *cobra.Command {
	c := &cobra.Command{
		Use:   "bench",
		Short: "Drive a broker with load and measure it",
		Long: `Drives any broker that speaks RocketMQ's protocols, Cairn or Java, and prints rates and latencies; with --pid also
what the broker's process spent: CPU per message, memory, bytes written.

A closed loop (the default) has each worker wait for its answer before it sends again; --rate makes an open loop, in which a
send is due at its time whether the broker has kept up or not, and is measured from then.`,
		Example: `  cairn bench produce --endpoint 127.0.0.1:9876 --messages 1000000 --workers 64
  cairn bench consume --endpoint 127.0.0.1:9876 --group g1 --messages 1000000
  cairn bench e2e --protocol grpc --endpoint 127.0.0.1:8081 --rate 2000 --duration 30s`,
	}
	c.AddCommand(
		benchCommand("produce", "Send messages", bench.Produce),
		benchCommand("consume", "Receive what is there already", bench.Consume),
		benchCommand("e2e", "Send and receive at once, and check that each message came once", bench.EndToEnd),
		&cobra.Command{Use: "ratios FILE", Short: "Compare the results of two brokers (bench/compare.sh makes the file)", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close() //nolint:errcheck // only read
				return bench.Ratios(f, cmd.OutOrStdout())
			}})
	return c
}

func benchCommand(use, short string, run func(context.Context, bench.Options) (bench.Result, error)) *cobra.Command {
	var o bench.Options
	var protocol, output string
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		o.Protocol = bench.Protocol(protocol)
		if output != "text" && output != "json" {
			return usagef("-o is text or json, not %q", output)
		}
		if use != "produce" && o.Group == "" {
			o.Group = fmt.Sprintf("cairn-bench-%d", time.Now().UnixNano())
		}
		if output == "text" {
			bar := newProgress(cmd.ErrOrStderr(), o.Count, use)
			o.Progress = bar.set
		}
		res, err := run(cmd.Context(), o)
		if err != nil {
			return fmt.Errorf("bench %s: %w", use, err)
		}
		if output == "json" {
			return json.NewEncoder(cmd.OutOrStdout()).Encode(res)
		}
		printResult(cmd.OutOrStdout(), res)
		return nil
	}}
	f := c.Flags()
	f.StringVarP(&protocol, "protocol", "p", "remoting", "remoting or grpc")
	f.StringVarP(&o.Endpoint, "endpoint", "e", "127.0.0.1:9876", "name server (remoting) or gRPC address")
	f.StringVarP(&o.Topic, "topic", "t", "cairn-bench", "topic")
	f.StringVarP(&o.Group, "group", "g", "", "consumer group; empty: a new one")
	f.IntVarP(&o.Workers, "workers", "w", 16, "senders, or receivers")
	f.IntVar(&o.Conns, "conns", 2, "connections that the workers share")
	f.IntVarP(&o.Size, "size", "s", 128, "bytes of a body")
	f.Int64VarP(&o.Count, "messages", "m", 0, "how many messages")
	f.DurationVarP(&o.Duration, "duration", "d", 0, "for how long at most")
	f.Float64VarP(&o.Rate, "rate", "r", 0, "messages a second, open loop; 0: as fast as answers come")
	f.IntVarP(&o.Batch, "batch", "b", 32, "messages of one pull or receive")
	f.DurationVar(&o.Wait, "wait", 10*time.Second, "a consumer that got nothing for this long is done")
	f.IntVar(&o.PID, "pid", 0, "the broker's process, to measure what it spends")
	f.StringVarP(&output, "output", "o", "text", "text or json")
	return c
}

func printResult(w io.Writer, r bench.Result) {
	fmt.Fprintf(w, "%s over %s: %d messages in %.2f s: %.0f/s", r.What, r.Protocol, r.Messages, r.Took.Seconds(), r.Throughput)
	if r.Failed > 0 {
		fmt.Fprintf(w, "; %d FAILED, first: %s", r.Failed, r.FirstError)
	}
	if r.What == "e2e" {
		fmt.Fprintf(w, "; %d lost, %d came twice", r.Lost, r.Repeated)
	}
	fmt.Fprintln(w)
	row := func(what string, l *bench.Latency) {
		if l != nil {
			fmt.Fprintf(w, "  %-16s p50 %8.2f   p99 %8.2f   p99.9 %8.2f   max %8.2f ms\n", what, l.P50, l.P99, l.P999, l.Max)
		}
	}
	row("send", r.Send)
	row("acknowledge", r.Ack)
	row("sent to received", r.EndToEnd)
	row("machine itself", r.Machine)
	if b := r.Broker; b != nil {
		fmt.Fprintf(w, "  broker           %.1f µs CPU a message (%.2f cores), %.0f MiB resident, %.0f bytes written a message\n", b.CPUPerMessage, b.Cores, b.ResidentMiB, b.BytesPerMessage)
	}
}
