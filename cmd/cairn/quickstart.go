package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	client "github.com/apache/rocketmq-clients/golang/v5"
	"github.com/apache/rocketmq-clients/golang/v5/credentials"
	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/cairnmq/cairn/configs"
)

func newQuickstart() *cobra.Command {
	var n, size int
	var keep bool
	c := &cobra.Command{
		Use:   "quickstart",
		Short: "Start a broker in a temporary folder, send and receive through the official client, print figures",
		Long: `Starts a broker of its own (temporary folder, free ports on 127.0.0.1), sends messages through the official Go
gRPC client while a consumer receives and acknowledges each one, and checks that every message came once and as sent.

With --keep the broker stays up afterwards, on the standard ports, until Ctrl-C.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if n < 1 || size < 16 || size > 1<<20 {
				return usagef("--messages must be at least 1 and --size between 16 and 1048576 bytes")
			}
			return quickstart(cmd.Context(), cmd.OutOrStdout(), n, size, keep)
		},
	}
	c.Flags().IntVarP(&n, "messages", "m", 100_000, "messages to send and receive")
	c.Flags().IntVarP(&size, "size", "s", 128, "bytes of each body")
	c.Flags().BoolVar(&keep, "keep", false, "leave the broker running on the standard ports until Ctrl-C")
	return c
}

func quickstart(ctx context.Context, out io.Writer, n, size int, keep bool) (err error) {
	dir, err := os.MkdirTemp("", "cairn-quickstart-")
	if err != nil {
		return fmt.Errorf("make a temporary folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	cfg := configs.Default()
	cfg.Data, cfg.Advertise, cfg.SegmentSize = filepath.Join(dir, "data"), "127.0.0.1", 256<<20
	if !keep {
		cfg.NameServer, cfg.Remoting, cfg.GRPC, cfg.HTTP = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	}
	if err := cfg.Check(); err != nil {
		return err
	}
	began := time.Now()
	srv, err := start(ctx, cfg, zerolog.Nop())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, srv.close()) }()
	fmt.Fprintf(out, "broker up in %s (data in %s, durability %s)\n", time.Since(began).Round(time.Millisecond), cfg.Data, cfg.Durability)

	quietClientLogs(filepath.Join(dir, "client-logs"))
	run := &tour{endpoint: srv.addrs.grpc, topic: "quickstart", group: "quickstart", n: n, size: size,
		rtt: hdrhistogram.New(1, 60_000_000, 3), e2e: hdrhistogram.New(1, 60_000_000, 3)}
	if err := run.do(ctx, out); err != nil {
		return fmt.Errorf("quickstart: %w", err)
	}
	run.report(out)
	fmt.Fprintf(out, "\nConnect to it:   gRPC (5.x clients) %s   name server (4.x/5.x Remoting, mqadmin, dashboard) %s   health, metrics http://%s/metrics\n",
		srv.addrs.grpc, srv.addrs.nameserver, srv.addrs.http)
	if !keep {
		fmt.Fprintln(out, "This broker stops now. `cairn serve` starts one that stays, on ports 8081, 9876, 10911 and 9877.")
		return nil
	}
	fmt.Fprintln(out, "It stays up until Ctrl-C.")
	<-ctx.Done()
	return nil
}

// quietClientLogs sends the official client's own log to a folder that goes away, and only what matters.
func quietClientLogs(dir string) {
	_ = os.Setenv(client.CLIENT_LOG_ROOT, dir)
	_ = os.Setenv(client.CLIENT_LOG_LEVEL, "error")
	client.ResetLogger()
	client.EnableSsl = false
}

// tour is one walk of n messages through a broker.
type tour struct {
	endpoint, topic, group string
	n, size                int

	mu       sync.Mutex
	rtt, e2e *hdrhistogram.Histogram // µs
	sendTook time.Duration
	allTook  time.Duration
	repeated int
}

const (
	tourSenders   = 32
	tourReceivers = 4
	tourInvisible = 60 * time.Second
)

func (t *tour) do(ctx context.Context, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	cfg := &client.Config{Endpoint: t.endpoint, ConsumerGroup: t.group, Credentials: &credentials.SessionCredentials{}}
	producer, err := client.NewProducer(cfg, client.WithTopics(t.topic))
	if err != nil {
		return fmt.Errorf("make a producer: %w", err)
	}
	if err := producer.Start(); err != nil {
		return fmt.Errorf("start the producer: %w", err)
	}
	defer func() { _ = producer.GracefulStop() }()
	consumer, err := client.NewSimpleConsumer(cfg, client.WithSimpleAwaitDuration(5*time.Second),
		client.WithSimpleSubscriptionExpressions(map[string]*client.FilterExpression{t.topic: client.SUB_ALL}))
	if err != nil {
		return fmt.Errorf("make a consumer: %w", err)
	}
	if err := consumer.Start(); err != nil {
		return fmt.Errorf("start the consumer: %w", err)
	}
	defer func() { _ = consumer.GracefulStop() }()

	bar := newProgress(out, int64(t.n), "sent and received")
	began := time.Now()
	errs := make(chan error, 2)
	go func() {
		err := t.send(ctx, producer)
		t.sendTook = time.Since(began)
		errs <- err
	}()
	go func() { errs <- t.receive(ctx, consumer, bar) }()
	for range 2 {
		if e := <-errs; e != nil && err == nil {
			err = e
			cancel()
		}
	}
	t.allTook = time.Since(began)
	return err
}

func (t *tour) send(ctx context.Context, p client.Producer) error {
	var next atomic.Int64
	errs := make(chan error, tourSenders)
	for range tourSenders {
		go func() {
			hist := hdrhistogram.New(1, 60_000_000, 3)
			defer func() {
				t.mu.Lock()
				defer t.mu.Unlock()
				t.rtt.Merge(hist)
			}()
			for {
				i := next.Add(1) - 1
				if i >= int64(t.n) {
					errs <- nil
					return
				}
				body := make([]byte, t.size)
				binary.BigEndian.PutUint64(body, uint64(i))
				at := time.Now()
				binary.BigEndian.PutUint64(body[8:], uint64(at.UnixMicro()))
				if _, err := p.Send(ctx, &client.Message{Topic: t.topic, Body: body}); err != nil {
					errs <- fmt.Errorf("send message %d: %w", i, err)
					return
				}
				_ = hist.RecordValue(time.Since(at).Microseconds())
			}
		}()
	}
	var first error
	for range tourSenders {
		if err := <-errs; err != nil && first == nil {
			first = err
			next.Store(int64(t.n))
		}
	}
	return first
}

func (t *tour) receive(ctx context.Context, c client.SimpleConsumer, bar *progress) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	seen := make([]bool, t.n)
	left := t.n
	errs := make(chan error, tourReceivers)
	for range tourReceivers {
		go func() { errs <- t.receiveLoop(ctx, cancel, c, seen, &left, bar) }()
	}
	var first error
	for range tourReceivers {
		if err := <-errs; err != nil && first == nil {
			first = err
			cancel()
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if first == nil && left > 0 {
		first = fmt.Errorf("%d of %d messages did not arrive: %w", left, t.n, context.Cause(ctx))
	}
	return first
}

func (t *tour) receiveLoop(ctx context.Context, done func(), c client.SimpleConsumer, seen []bool, left *int, bar *progress) error {
	for ctx.Err() == nil {
		msgs, err := c.Receive(ctx, 32, tourInvisible)
		var status *client.ErrRpcStatus
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &status) && status.Code == int32(v2.Code_MESSAGE_NOT_FOUND):
			continue
		case err != nil:
			return fmt.Errorf("receive: %w", err)
		}
		acks := make(chan error, len(msgs))
		for _, m := range msgs {
			if err := t.count(m.GetBody(), seen, left); err != nil {
				return err
			}
			go func() { acks <- c.Ack(ctx, m) }()
		}
		for range msgs {
			if err := <-acks; err != nil && ctx.Err() == nil {
				return fmt.Errorf("acknowledge: %w", err)
			}
		}
		bar.add(int64(len(msgs)))
		t.mu.Lock()
		finished := *left == 0
		t.mu.Unlock()
		if finished {
			done()
		}
	}
	return nil
}

func (t *tour) count(body []byte, seen []bool, left *int) error {
	if len(body) != t.size {
		return fmt.Errorf("a body of %d bytes came, %d were sent", len(body), t.size)
	}
	i := binary.BigEndian.Uint64(body)
	at := time.UnixMicro(int64(binary.BigEndian.Uint64(body[8:])))
	t.mu.Lock()
	defer t.mu.Unlock()
	if i >= uint64(len(seen)) {
		return fmt.Errorf("message %d came, which was never sent", i)
	}
	if seen[i] {
		t.repeated++
		return nil
	}
	seen[i] = true
	*left--
	_ = t.e2e.RecordValue(time.Since(at).Microseconds())
	return nil
}

func (t *tour) report(out io.Writer) {
	row := func(what string, h *hdrhistogram.Histogram) {
		ms := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1000 }
		fmt.Fprintf(out, "%-18s p50 %6.2f   p99 %6.2f   p99.9 %6.2f   max %6.2f ms\n", what, ms(50), ms(99), ms(99.9), ms(100))
	}
	fmt.Fprintf(out, "sent     %d messages of %d bytes in %.2f s: %.0f/s\n", t.n, t.size, t.sendTook.Seconds(), float64(t.n)/t.sendTook.Seconds())
	fmt.Fprintf(out, "received %d, each acknowledged, in %.2f s: %.0f/s; %d came twice\n", t.n, t.allTook.Seconds(), float64(t.n)/t.allTook.Seconds(), t.repeated)
	row("send round trip", t.rtt)
	row("sent to received", t.e2e)
}
