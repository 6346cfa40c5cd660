package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/configs"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/store"
)

// offline is what the debug commands share: the folder of a broker that is off.
type offline struct {
	data   string
	engine string
	limit  int
}

func newDebug() *cobra.Command {
	d := &offline{}
	def := configs.Default()
	c := &cobra.Command{Use: "debug", Short: "Look into the data folder of a broker that is off",
		Long: "Reads the data folder of a broker that is off, and never writes to it.",
		Example: `  cairn debug log --data cairn-data --from 0 --limit 20
  cairn debug kv --data cairn-data --space checkpoint
  cairn debug verify --data cairn-data`}
	c.PersistentFlags().StringVar(&d.data, "data", def.Data, "the broker's data folder")
	c.PersistentFlags().StringVar(&d.engine, "engine", def.Engine, "index engine: pebble, or rocksdb in binaries built with the tag grocksdb")
	var from int64
	logs := &cobra.Command{Use: "log", Short: "Print batches and records of the commitlog", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return d.printLog(cmd.OutOrStdout(), record.Position(from))
		}}
	logs.Flags().Int64Var(&from, "from", 0, "position of a batch to begin at; 0: the log's beginning")
	logs.Flags().IntVar(&d.limit, "limit", 0, "stop after so many batches; 0: none")
	var space string
	kv := &cobra.Command{Use: "kv", Short: "Print rows of the index", Args: cobra.NoArgs, Long: "Prints rows of the index in key order, one a line. Spaces: " + spaceNames(),
		RunE: func(cmd *cobra.Command, _ []string) error { return d.printRows(cmd.OutOrStdout(), space) }}
	kv.Flags().StringVar(&space, "space", "", "only this key space")
	kv.Flags().IntVar(&d.limit, "limit", 0, "stop after so many rows; 0: none")
	c.AddCommand(logs, kv, &cobra.Command{Use: "verify", Short: "Check the log, and the index against it", Args: cobra.NoArgs,
		Long: "Reads every batch of the log with its checksums, makes the index anew from it in a temporary folder, and compares the two row by row.",
		RunE: func(cmd *cobra.Command, _ []string) error { return d.verify(cmd.Context(), cmd.OutOrStdout()) }})
	return c
}

func spaceNames() string {
	var names []string
	for _, s := range kvindex.Spaces() {
		names = append(names, s.String())
	}
	return strings.Join(names, ", ")
}

var errEnough = errors.New("limit reached")

func (d *offline) printLog(w io.Writer, from record.Position) error {
	batches := 0
	err := commitlog.Scan(vfs.Default, filepath.Join(d.data, "log"), from, func(b *commitlog.Batch) error {
		if d.limit > 0 && batches == d.limit {
			return errEnough
		}
		batches++
		fmt.Fprintf(w, "batch %d at %d, %d bytes, term %d, %s, %d records\n", b.Index, b.Position, int64(b.End-b.Position), b.Term,
			time.UnixMilli(b.Timestamp).UTC().Format("2006-01-02T15:04:05.000Z"), len(b.Records))
		for i, r := range b.Records {
			fmt.Fprintf(w, "  %d %s %s\n", b.Positions[i], r.Kind, describe(r))
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// describe prints a record's payload: messages readably, the rest as it is.
func describe(r record.Record) string {
	if text, ok := store.DescribeMessage(r); ok {
		return text
	}
	const most = 160
	if len(r.Payload) > most {
		return fmt.Sprintf("%q… %d bytes", r.Payload[:most], len(r.Payload))
	}
	return fmt.Sprintf("%q", r.Payload)
}

func (d *offline) openIndex() (kvindex.Engine, error) {
	e, err := kvindex.Open(kvindex.Options{Dir: filepath.Join(d.data, "index"), Kind: d.engine, ReadOnly: true, Logger: zerolog.Nop()})
	if err != nil {
		return nil, fmt.Errorf("%w (is a broker still running on %s?)", err, d.data)
	}
	return e, nil
}

func (d *offline) printRows(w io.Writer, name string) error {
	space := kvindex.AllSpaces
	if name != "" {
		var ok bool
		if space, ok = kvindex.ParseSpace(name); !ok {
			return usagef("no key space %q; there are %s", name, spaceNames())
		}
	}
	e, err := d.openIndex()
	if err != nil {
		return err
	}
	return errors.Join(kvindex.Dump(w, e, space, d.limit), e.Close())
}

func (d *offline) verify(ctx context.Context, w io.Writer) error {
	var batches, records int64
	err := commitlog.Scan(vfs.Default, filepath.Join(d.data, "log"), 0, func(b *commitlog.Batch) error {
		batches++
		records += int64(len(b.Records))
		return ctx.Err()
	})
	if err != nil {
		return fmt.Errorf("after %d whole batches: %w", batches, err)
	}
	fmt.Fprintf(w, "log: %d batches, %d records, every checksum right\n", batches, records)
	tmp, err := os.MkdirTemp("", "cairn-verify-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // temporary
	view := filepath.Join(tmp, "view")
	opts := store.Options{FS: vfs.Default, Dir: d.data, Engine: d.engine, Clock: clock.System, Logger: zerolog.Nop()}
	if _, err := store.Rebuild(ctx, opts, view); err != nil {
		return err
	}
	anew, err := kvindex.Open(kvindex.Options{Dir: view, Kind: d.engine, ReadOnly: true, Logger: zerolog.Nop()})
	if err != nil {
		return err
	}
	defer anew.Close() //nolint:errcheck // only read
	live, err := d.openIndex()
	if err != nil {
		return err
	}
	defer live.Close() //nolint:errcheck // only read
	at, err := kvindex.ReadApplied(live)
	if err != nil {
		return err
	}
	end, err := kvindex.ReadApplied(anew)
	if err != nil {
		return err
	}
	if at != end {
		fmt.Fprintf(w, "index: it stands at position %d, the log ends at %d: the broker was not stopped in order, its next start applies the rest\n", at.End, end.End)
		return nil
	}
	diff, err := kvindex.Diff(anew, live)
	if err != nil {
		return err
	}
	if diff != "" {
		return fmt.Errorf("the index differs from what the log says, first (log's, then index's): %s; move %s away and start the broker: it makes the index anew", diff, filepath.Join(d.data, "index"))
	}
	fmt.Fprintf(w, "index: every row is what the log says, up to position %d\n", at.End)
	return nil
}
