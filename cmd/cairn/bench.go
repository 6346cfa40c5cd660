package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cairnmq/cairn/bench"
)

func newBench() *cobra.Command {
	c := &cobra.Command{
		Use:   "bench",
		Short: "Drive a broker with load and measure it",
		Long: `Drives any broker that speaks RocketMQ's protocols, Cairn or Java, and prints rates and latencies; with --pid also
what the broker's process spent: CPU per message, memory, bytes written.

A closed loop (the default) has each worker wait for its answer before it sends again; --rate makes an open loop, in which a
send is due at its time whether the broker has kept up or not, and is measured from then.

With --delay messages are delayed ones: by a timer property over Remoting, by a delivery timestamp over gRPC. Over gRPC a topic
takes delayed messages or transactions when its type says so:

  cairn topic create cairn-bench-delay --attribute +message.type=DELAY
  cairn topic create cairn-bench-txn --attribute +message.type=TRANSACTION`,
		Example: `  cairn bench produce --endpoint 127.0.0.1:9876 --messages 1000000 --workers 64
  cairn bench consume --endpoint 127.0.0.1:9876 --group g1 --messages 1000000
  cairn bench e2e --protocol grpc --endpoint 127.0.0.1:8081 --rate 2000 --duration 30s
  cairn bench produce --messages 1000000 --delay 1h --spread 1h --topic cairn-bench-delay
  cairn bench timers --rate 10000 --duration 1m --delay 1m    # 10,000 are due each second, beginning a minute from now
  cairn bench timers --messages 1000000 --spread 1s --delay 2m
  cairn bench txn --messages 100000 --workers 64
  cairn bench pop --messages 320000 --groups 10000 --queues 1 --ack batch
  cairn bench pop --messages 200000 --fail-every 20 --invisible 10s -p grpc -e 127.0.0.1:8081
  cairn bench pop --messages 1000000 --filter sql --pass-every 1000
  cairn bench wake --polls 100000 --messages 2000 --rate 100`,
	}
	c.AddCommand(
		benchCommand("produce", "Send messages", benchDefaults{topic: "cairn-bench"}, bench.Produce),
		benchCommand("consume", "Receive what is there already", benchDefaults{topic: "cairn-bench"}, bench.Consume),
		benchCommand("e2e", "Send and receive at once, and check that each message came once", benchDefaults{topic: "cairn-bench"}, bench.EndToEnd),
		benchCommand("timers", "Send messages that are due in a window after --delay, and measure how late they come",
			benchDefaults{topic: delayTopic, delay: 10 * time.Second}, bench.Timers),
		benchCommand("recall", "Send delayed messages, and measure taking them back", benchDefaults{topic: delayTopic, delay: time.Hour}, bench.Recall),
		benchCommand("txn", "Send half messages and commit each of them", benchDefaults{topic: "cairn-bench-txn"}, bench.Transactions),
		benchCommand("pop", "Fill topics, and have consumer groups pop and acknowledge all of it", benchDefaults{topic: "cairn-bench-pop"}, bench.Pop),
		benchCommand("wake", "Have many pops wait, send single messages, and measure how long the pop that gets one takes to be woken",
			benchDefaults{topic: "cairn-bench-wake"}, bench.Wake),
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

// driven runs a measure with the collector's setting of a broker: on one machine with the broker that it measures, what the driver
// spends on garbage is taken from that.
func driven(ctx context.Context, o bench.Options, run func(context.Context, bench.Options) (bench.Result, error)) (bench.Result, error) {
	tuning, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { tuneGC(tuning) })
	defer wg.Wait()
	defer stop()
	return run(ctx, o)
}

const delayTopic = "cairn-bench-delay"

// benchDefaults are the flags whose defaults differ between measures.
type benchDefaults struct {
	topic string
	delay time.Duration
}

func benchCommand(use, short string, def benchDefaults, run func(context.Context, bench.Options) (bench.Result, error)) *cobra.Command {
	var o bench.Options
	var protocol, output string
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		o.Protocol = bench.Protocol(protocol)
		if output != "text" && output != "json" {
			return usagef("-o is text or json, not %q", output)
		}
		if consumes := use == "consume" || use == "e2e" || use == "timers"; consumes && o.Group == "" {
			o.Group = fmt.Sprintf("cairn-bench-%d", time.Now().UnixNano())
		}
		if output == "text" {
			bar := newProgress(cmd.ErrOrStderr(), o.Count, use)
			o.Progress = bar.set
		}
		res, err := driven(cmd.Context(), o, run)
		if err != nil {
			return fmt.Errorf("bench %s: %w", use, err)
		}
		if output == "json" {
			return json.NewEncoder(cmd.OutOrStdout()).Encode(res)
		}
		printResult(cmd.OutOrStdout(), res)
		return nil
	}}
	rate := "messages a second, open loop; 0: as fast as answers come"
	if use == "timers" {
		rate = "timers that are due each second, instead of --spread"
	}
	f := c.Flags()
	f.StringVarP(&protocol, "protocol", "p", "remoting", "remoting or grpc")
	f.StringVarP(&o.Endpoint, "endpoint", "e", "127.0.0.1:9876", "name server (remoting) or gRPC address")
	f.StringVarP(&o.Topic, "topic", "t", def.topic, "topic")
	f.StringVarP(&o.Group, "group", "g", "", "consumer group; empty: a new one")
	f.IntVarP(&o.Workers, "workers", "w", 16, "senders, or receivers")
	f.IntVar(&o.Conns, "conns", 2, "connections that the workers share")
	f.IntVarP(&o.Size, "size", "s", 128, "bytes of a body")
	f.Int64VarP(&o.Count, "messages", "m", 0, "how many messages")
	if use == "produce" || def.delay > 0 {
		f.DurationVar(&o.Delay, "delay", def.delay, "delay the messages by this; 0: not at all")
		f.DurationVar(&o.Spread, "spread", 0, "and by up to this much more, evenly spread")
	}
	if use == "txn" {
		f.BoolVar(&o.Open, "open", false, "leave the half messages open")
	}
	if use == "pop" || use == "wake" {
		popFlags(f, &o.Pop, use)
	}
	f.DurationVarP(&o.Duration, "duration", "d", 0, "for how long at most")
	f.Float64VarP(&o.Rate, "rate", "r", 0, rate)
	f.IntVarP(&o.Batch, "batch", "b", 32, "messages of one pull or receive")
	f.DurationVar(&o.Wait, "wait", 10*time.Second, "a consumer that got nothing for this long is done")
	f.IntVar(&o.PID, "pid", 0, "the broker's process, to measure what it spends")
	f.StringVarP(&output, "output", "o", "text", "text or json")
	return c
}

// popFlags are those of the measures that pop. They default to what the measure takes for a small run.
func popFlags(f *pflag.FlagSet, p *bench.PopOptions, use string) {
	f.StringVar(&p.Names, "names", "127.0.0.1:9876", "name server by which topics and groups are made and filled when --protocol is grpc")
	f.IntVar(&p.Queues, "queues", 8, "queues of each topic that is made")
	f.DurationVar(&p.Invisible, "invisible", time.Minute, "for how long a message that was popped is invisible; over gRPC 10s at least")
	p.Ack, p.Filter = bench.AckEach, bench.FilterNone
	if use == "wake" {
		f.IntVar(&p.Polls, "polls", 1000, "pops that wait")
		f.IntVar(&p.Topics, "topics", 0, "topics that they are spread over, a group for each; 0: as many as polls, at most 1000")
		f.DurationVar(&p.Hold, "hold", 20*time.Second, "how long a pop waits before it ends and begins anew; over gRPC 5s to 1m")
		return
	}
	f.IntVar(&p.Groups, "groups", 1, "consumer groups; each takes an equal part of --messages")
	f.IntVar(&p.Topics, "topics", 0, "topics that the groups read, each group one of them; 0: as many as groups")
	f.BoolVar(&p.There, "there", false, "take --messages of what --topic holds already, instead of filling new topics")
	f.StringVar((*string)(&p.Ack), "ack", string(bench.AckEach), "acknowledge each message by a call of its own, a batch of those of one pop, or never")
	f.Int64Var(&p.FailEvery, "fail-every", 0, "each so-manieth message is not acknowledged when it comes first; 0: none")
	f.StringVar((*string)(&p.Filter), "filter", string(bench.FilterNone), "select by tag or sql; or none")
	f.Int64Var(&p.PassEvery, "pass-every", 1000, "each so-manieth message passes the filter")
	f.DurationVar(&p.Hold, "hold", 5*time.Second, "how long a pop may wait; over gRPC 5s to 1m")
}

func printResult(w io.Writer, r bench.Result) {
	fmt.Fprintf(w, "%s over %s: %d messages in %.2f s: %.0f/s", r.What, r.Protocol, r.Messages, r.Took.Seconds(), r.Throughput)
	if r.Failed > 0 {
		fmt.Fprintf(w, "; %d FAILED, first: %s", r.Failed, r.FirstError)
	}
	if r.What == "e2e" || r.What == "timers" {
		fmt.Fprintf(w, "; %d lost, %d came twice", r.Lost, r.Repeated)
	}
	if r.What == "timers" {
		fmt.Fprintf(w, ", %d early (by %.2f ms at most), %d out of order", r.Early, r.EarlyMax, r.Disordered)
	}
	if r.What == "pop" {
		fmt.Fprintf(w, "; %d lost, %d came twice though acknowledged, %d had to come again, %d early; %d pops brought nothing, %d were turned away",
			r.Lost, r.Repeated, r.Redeliver, r.Early, r.Empty, r.Refused)
	}
	if r.What == "wake" {
		fmt.Fprintf(w, "; %d lost, %d pops waited at least, %d ended without a message, %d were turned away", r.Lost, r.Waiting, r.Empty, r.Refused)
	}
	fmt.Fprintln(w)
	row := func(what string, l *bench.Latency) {
		if l != nil {
			fmt.Fprintf(w, "  %-18s p50 %8.2f   p99 %8.2f   p99.9 %8.2f   max %8.2f ms\n", what, l.P50, l.P99, l.P999, l.Max)
		}
	}
	row("send", r.Send)
	row("pop", r.Pop)
	row("acknowledge", r.Ack)
	row("sent to received", r.EndToEnd)
	row("answer to received", r.Wake)
	row("due to received", r.Late)
	row("recall", r.Recall)
	row("send and commit", r.Pair)
	row("machine itself", r.Machine)
	if b := r.Broker; b != nil {
		fmt.Fprintf(w, "  broker             %.1f µs CPU a message (%.2f cores), %.0f MiB resident, %.0f bytes written a message\n", b.CPUPerMessage, b.Cores, b.ResidentMiB, b.BytesPerMessage)
	}
}
