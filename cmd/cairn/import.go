package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/spf13/cobra"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/configs"
	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/javaimport"
	"github.com/cairnmq/cairn/javastore"
	"github.com/cairnmq/cairn/store"
)

func newImport() *cobra.Command {
	var levels, output string
	def := configs.Default()
	c := &cobra.Command{
		Use:   "import STORE_DIR",
		Short: "Bring the store folder of a Java broker into a new data folder",
		Long: `Reads the store folder (storePathRootDir) of a Java RocketMQ broker that is off, 4.9 or 5.x, and makes a data folder of it that
'cairn serve' goes on with: topics, groups, their offsets, every message in its queue at its offset with its time, ids, keys and
properties, delayed messages that are not due yet, half messages that nobody decided, and what was popped and not acknowledged.

It only reads the store. An import that was broken off, however, goes on where it was when it is run again.

Give serve the retention that the Java broker had (fileReservedTime, 72 hours by default) before it runs the first time: it lets go
of what is older.`,
		Example: `  cairn import /home/rocketmq/store --data /var/lib/cairn
  cairn serve --data /var/lib/cairn`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return usagef("-o is text or json, not %q", output)
			}
			cfg, err := configs.Load("", cmd.Flags(), def)
			if err != nil {
				return &usageError{err}
			}
			parsed, err := delay.ParseLevels(levels)
			if err != nil {
				return usagef("--levels: %w", err)
			}
			folder, err := javastore.OpenFolder(args[0])
			if err != nil {
				return err
			}
			log := newLogger(os.Stderr, "warn", cfg.LogFormat)
			bars := &importBars{out: cmd.ErrOrStderr()}
			began := time.Now()
			report, err := javaimport.Run(cmd.Context(), folder, javaimport.Options{
				Store: store.Options{
					FS: vfs.Default, Dir: cfg.Data, Engine: cfg.Engine, CacheBytes: int64(cfg.Memory), SegmentSize: int64(cfg.SegmentSize),
					Mode: commitlog.ModeOS, Clock: clock.System, Logger: log,
				},
				Levels: parsed, Progress: bars.show,
			})
			if err != nil {
				return explainImport(err)
			}
			if took := time.Since(began); output == "json" {
				err = json.NewEncoder(cmd.OutOrStdout()).Encode(importResult{report, took.Seconds()})
			} else {
				printImport(cmd.OutOrStdout(), &report, cfg.Data, took)
			}
			return err
		},
	}
	// The keys of cairn.yaml that concern the data folder.
	all := &cobra.Command{}
	configs.AddFlags(all.Flags(), def)
	for _, key := range []string{"data", "engine", "memory", "segment-size"} {
		c.Flags().AddFlag(all.Flags().Lookup(key))
	}
	c.Flags().StringVar(&levels, "levels", delay.DefaultLevels, "the Java broker's messageDelayLevel, where its consume queues do not tell when a message is due")
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return c
}

// importResult is what -o json prints.
type importResult struct {
	javaimport.Report
	Seconds float64 `json:"seconds"`
}

// importBars shows one bar for each stage that goes over the log.
type importBars struct {
	out   io.Writer
	stage javaimport.Stage
	bar   *progress
}

func (b *importBars) show(stage javaimport.Stage, done, total int64) {
	if stage != b.stage {
		what := map[javaimport.Stage]string{
			javaimport.StageLook: "reading the commitlog (bytes)", javaimport.StageMessages: "importing messages (bytes read)",
		}[stage]
		b.stage, b.bar = stage, newProgress(b.out, total, what)
	}
	b.bar.set(done)
}

func explainImport(err error) error {
	if errors.Is(err, store.ErrLocked) {
		return fmt.Errorf("%w: is a broker running on it?", err)
	}
	return err
}

// explainUnfinished says how to go on with an import that serve found in the data folder.
func explainUnfinished(err error, data string) error {
	if errors.Is(err, javaimport.ErrUnfinished) {
		return fmt.Errorf("%w: run 'cairn import STORE_DIR --data %s' again, it goes on where it was", err, data)
	}
	return err
}

func mebibytes(n int64) float64 { return float64(n) / (1 << 20) }

func printImport(w io.Writer, r *javaimport.Report, data string, took time.Duration) {
	if r.Before {
		fmt.Fprintf(w, "this store was imported before, nothing was changed\nstart the broker with: cairn serve --data %s\n", data)
		return
	}
	fmt.Fprintf(w, "%d topics, %d groups, %d offsets, %d messages in their queues, %d delayed, %d half messages, %d popped and not acknowledged\n",
		r.Topics, r.Groups, r.Offsets, r.Messages, r.Delayed, r.Halves, r.InFlight)
	fmt.Fprintf(w, "%.1f MiB of the commitlog in %s: %.1f MiB/s\n", mebibytes(r.Bytes), took.Round(time.Millisecond), mebibytes(r.Bytes)/max(took.Seconds(), 0.001))
	if r.Torn {
		fmt.Fprintln(w, "the commitlog ends within a message: the Java broker was killed while it wrote, and would drop that message, too")
	}
	for _, topic := range slices.Sorted(maps.Keys(r.Skipped)) {
		fmt.Fprintf(w, "left behind: %d messages of topic %s, which no client could have got: it was deleted, or is the broker's own\n", r.Skipped[topic], topic)
	}
	for _, warning := range r.Warnings {
		fmt.Fprintln(w, "note: "+warning)
	}
	fmt.Fprintf(w, "start the broker with: cairn serve --data %s\n", data)
}
