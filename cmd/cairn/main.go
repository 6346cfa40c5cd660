// Command cairn is the message broker with its name server, its doors and its tools in one binary.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/cairnmq/cairn/configs"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newRoot().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "cairn: "+err.Error())
		var usage *usageError
		if errors.As(err, &usage) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// usageError is a command line that cannot be carried out as it is: exit code 2.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "cairn",
		Short: "A message broker that speaks Apache RocketMQ's protocols",
		Long: `Cairn is a message broker for Apache RocketMQ's clients and tools: name server, broker and gRPC proxy in one binary.

  cairn quickstart        see it work: starts a broker, sends and receives 100,000 messages, prints figures
  cairn serve             run a broker; data goes to ./cairn-data, ports are 9876, 10911, 8081 and 9877
  cairn topic list        ask a running broker (any RocketMQ one) what it has

Every command explains itself with --help; -o json gives output for scripts.`,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usagef("%w (see '%s --help')", err, c.CommandPath())
	})
	root.AddCommand(newServe(), newQuickstart(), newTopic(), newGroup(), newMessage(), newTimer(), newTxn(), newDLQ(), newTier(), newCluster(), newMetadata(), newImport(), newBench(), newDebug(), newConfig())
	return root
}

func version() string {
	if bi, ok := debug.ReadBuildInfo(); ok && bi.Main.Version != "" && bi.Main.Version != "(devel)" {
		return bi.Main.Version
	}
	return "0.1.0-dev"
}

func newConfig() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Show or check a configuration"}
	c.AddCommand(&cobra.Command{
		Use: "sample", Short: "Print a cairn.yaml with every key, its meaning and its default", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := io.WriteString(cmd.OutOrStdout(), configs.Sample())
			return err
		},
	}, &cobra.Command{
		Use: "check FILE", Short: "Check a cairn.yaml without starting anything", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := configs.Load(args[0], nil, configs.Default()); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), args[0]+" is good")
			return nil
		},
	})
	return c
}

// newLogger writes readable lines to a terminal and JSON elsewhere, unless the format says otherwise. The level is the process's, so
// that it can be changed while the broker runs.
func newLogger(w *os.File, level, format string) zerolog.Logger {
	l, err := zerolog.ParseLevel(level)
	if err != nil {
		l = zerolog.InfoLevel
	}
	zerolog.SetGlobalLevel(l)
	zerolog.TimeFieldFormat = zerolog.TimeFormatUnixMs
	zerolog.DurationFieldUnit = 1e6
	var out io.Writer = w
	if format == "text" || format == "auto" && term.IsTerminal(int(w.Fd())) {
		out = zerolog.ConsoleWriter{Out: w, TimeFormat: "15:04:05.000", NoColor: !term.IsTerminal(int(w.Fd()))}
	}
	return zerolog.New(out).With().Timestamp().Logger()
}
