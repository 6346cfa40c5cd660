package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/configs"
	"github.com/cairnmq/cairn/tiered"
	"github.com/cairnmq/cairn/tiered/objects"
)

// defaultGrace is how old an object is that nobody needs before it is collected.
const defaultGrace = 24 * time.Hour

// tierTools are the commands that look after what is in an object store.
type tierTools struct {
	jsonTools
	file string // configuration
}

func newTier() *cobra.Command {
	t := &tierTools{}
	c := &cobra.Command{Use: "tier", Short: "Look after the segments that are in an object store",
		Long: `A broker with tiered.url puts each segment of its log into an object store once it is full, and keeps here only what is
younger than its retention. Readers do not notice.

'status' asks a running broker at its HTTP port. 'verify' and 'gc' go to the object store themselves, whether the broker runs
or not; they read tiered.url, cluster and name from the broker's configuration (--config), the environment, or flags.
Credentials are found as the broker finds them (AWS_ACCESS_KEY_ID and so on).`,
		Example: `  cairn tier status                                     # how far is the broker with its uploads?
  cairn tier verify --config cairn.yaml                 # is everything there, and undamaged?
  cairn tier gc --config cairn.yaml --dry-run           # what is there that nobody needs?
  cairn tier gc --tiered.url s3://backup/cairn          # remove it, if it is older than a day`}
	t.flags(c)
	verify := &cobra.Command{Use: "verify", Short: "Read everything that the manifest names, and say what is missing or damaged", Args: cobra.NoArgs,
		Long: `Reads every object that the manifest names: the whole object by its checksum, every batch and record of the log by theirs,
every row of the tables. It reads the bodies twice, so it costs about two downloads of the tier. What is missing or damaged is
listed with the object's name and the position in the log, and the exit code is 1.`}
	t.config(verify)
	verify.RunE = t.withTier(verify, t.verify)
	gc := &cobra.Command{Use: "gc", Short: "Remove objects that nobody needs", Args: cobra.NoArgs,
		Long: `Removes what no manifest of the grace time names: what uploads that were broken off left, parts that compaction replaced or
retention let go, old manifests. An upload that takes longer than the grace time loses its objects, and so does a reader that
holds on to a manifest for that long, so the grace time should be hours.`}
	t.config(gc)
	grace := gc.Flags().Duration("grace", defaultGrace, "how old objects must be; at least 1s")
	dry := gc.Flags().Bool("dry-run", false, "only list them")
	gc.RunE = t.withTier(gc, func(o *openedTier) error { return t.collect(o, *grace, *dry) })
	c.AddCommand(&cobra.Command{Use: "status", Short: "Show what is in the tier, and how far the broker is with its uploads", Args: cobra.NoArgs,
		RunE: t.run(func([]string) error { return t.status() })}, verify, gc)
	return c
}

// config declares the flags that say where the tier is.
func (t *tierTools) config(c *cobra.Command) {
	c.Flags().StringVarP(&t.file, "config", "c", "", "configuration file of the broker (YAML)")
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	configs.AddFlags(all, configs.Default())
	for _, key := range []string{"cluster", "name", "tiered.url", "tiered.encryption"} {
		c.Flags().AddFlag(all.Lookup(key))
	}
}

// withTier wraps a command's work with a tier that is open and has a manifest.
func (t *tierTools) withTier(c *cobra.Command, f func(*openedTier) error) func(*cobra.Command, []string) error {
	return t.runIn(func(ctx context.Context) (err error) {
		cfg, err := configs.Load(t.file, c.Flags(), configs.Default())
		if err != nil {
			return &usageError{err}
		}
		if cfg.TieredURL == "" {
			return usagef("where is the tier? Give --config, --tiered.url or CAIRN_TIERED_URL")
		}
		cfg.TieredDisk = 0 // which belongs to the broker
		o, err := openTier(ctx, cfg, nil)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, o.close()) }()
		if err := o.tier.Refresh(ctx); err != nil {
			return err
		}
		if o.tier.Manifests().View() == nil {
			return fmt.Errorf("%s has no tier of cluster %s, broker %s: there is no manifest", cfg.TieredURL, cfg.Cluster, cfg.Name)
		}
		return f(o)
	})
}

// runIn is run for work without arguments that wants the context.
func (t *tierTools) runIn(f func(context.Context) error) func(*cobra.Command, []string) error {
	return t.run(func([]string) error { return f(t.ctx) })
}

func (t *tierTools) status() error {
	var i broker.TierInfo
	if err := t.get("/v1/tier", nil, &i); err != nil {
		return err
	}
	now := time.Now()
	return t.print(i, "STATE\t"+i.State+" for "+span(now.Sub(time.UnixMilli(i.Since))), func(w io.Writer) {
		row := func(name, format string, args ...any) { fmt.Fprintf(w, name+"\t"+format+"\n", args...) }
		if i.Error != "" {
			row("last error", "%s", i.Error)
		}
		row("tier of store", "%s", i.Store)
		row("manifest", "generation %d", i.Generation)
		row("parts", "%d, with %d messages", i.Parts, i.Messages)
		row("positions", "%d to %d", i.First, i.End)
		row("times", "%s to %s", stamp(i.From), stamp(i.Until))
		row("bytes", "%s of the log, of which %s are wanted, in %s", size(i.RawBytes), size(i.LiveBytes), size(i.StoredBytes))
		row("snapshots", "%d", i.Snapshots)
		if i.BehindSegments == 0 {
			row("to upload", "nothing")
		} else {
			row("to upload", "%d segments, %s, sealed up to %s ago", i.BehindSegments, size(i.BehindBytes), span(time.Duration(i.BehindMillis)*time.Millisecond))
		}
		row("since its start", "%d uploads, %d failed tries; %d reads of %s, %d of %d pages from memory", i.Uploads, i.Failures, i.ReadRequests,
			size(i.ReadBytes), i.CacheHits, i.CacheHits+i.CacheMisses)
		row("cached", "%s in memory, %s on disk", size(i.CacheBytes), size(i.DiskBytes))
	})
}

// size says a number of bytes with three digits.
func size(n int64) string {
	v, unit := float64(n), 0
	for ; v >= 1000 && unit < 4; unit++ {
		v /= 1024
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.3g %s", v, [...]string{"", "KiB", "MiB", "GiB", "TiB"}[unit])
}

// verified is what 'tier verify' found.
type verified struct {
	Generation uint64           `json:"generation"`
	Parts      int              `json:"parts"`
	Snapshots  int              `json:"snapshots"`
	Bytes      int64            `json:"bytes"` // of objects
	Findings   []tiered.Finding `json:"findings"`
}

func (t *tierTools) verify(o *openedTier) error {
	view := o.tier.Manifests().View()
	v := verified{Generation: view.Generation, Parts: len(view.Parts), Snapshots: len(view.Snapshots), Findings: []tiered.Finding{}}
	for i := range view.Parts {
		v.Bytes += view.Parts[i].LogBytes + view.Parts[i].TableBytes
	}
	for i := range view.Snapshots {
		v.Bytes += view.Snapshots[i].Bytes
	}
	far := newProgress(os.Stderr, v.Bytes, "bytes verified")
	for i := range view.Parts {
		p := &view.Parts[i]
		found, err := o.tier.VerifyPart(t.ctx, p)
		if err != nil {
			return fmt.Errorf("verify the part at %d: %w", p.Start, err)
		}
		v.Findings = append(v.Findings, found...)
		far.add(p.LogBytes + p.TableBytes)
	}
	for i := range view.Snapshots {
		s := &view.Snapshots[i]
		found, err := o.tier.VerifySnapshot(t.ctx, s)
		if err != nil {
			return fmt.Errorf("verify the snapshot at %d: %w", s.Position, err)
		}
		if found != nil {
			v.Findings = append(v.Findings, *found)
		}
		far.add(s.Bytes)
	}
	var err error
	if len(v.Findings) == 0 && t.output == "text" {
		return t.done("manifest %d: %d parts and %d snapshots, %s: everything is there and undamaged", v.Generation, v.Parts, v.Snapshots, size(v.Bytes))
	}
	err = t.print(v, "POSITION\tOBJECT\tPROBLEM", func(w io.Writer) {
		for _, f := range v.Findings {
			fmt.Fprintf(w, "%d\t%s\t%s\n", f.Position, f.Object, f.Problem)
		}
	})
	if len(v.Findings) > 0 {
		return errors.Join(err, fmt.Errorf("%d objects or records of the tier are missing or damaged", len(v.Findings)))
	}
	return err
}

// collected is what 'tier gc' found.
type collected struct {
	DryRun     bool     `json:"dryRun"`
	Objects    []orphan `json:"objects"`
	Bytes      int64    `json:"bytes"`
	Unfinished int      `json:"unfinished"` // uploads that never ended
}

type orphan struct {
	Name     string    `json:"name"`
	Bytes    int64     `json:"bytes"`
	Modified time.Time `json:"modified"`
}

func (t *tierTools) collect(o *openedTier, grace time.Duration, dry bool) error {
	if grace < time.Second {
		return usagef("--grace is at least 1s")
	}
	now := time.Now()
	found, err := o.tier.Manifests().Orphans(t.ctx, grace, now)
	if err != nil {
		return err
	}
	c := collected{DryRun: dry, Objects: []orphan{}}
	for _, info := range found {
		c.Objects = append(c.Objects, orphan{info.Name, info.Size, info.Modified})
		c.Bytes += info.Size
	}
	if !dry {
		if err := t.remove(o.objects, found); err != nil {
			return err
		}
		if c.Unfinished, err = o.objects.Sweep(t.ctx, now.Add(-grace)); err != nil {
			return fmt.Errorf("remove uploads that never ended: %w", err)
		}
	}
	if t.output == "text" && len(found) == 0 {
		return t.done("nothing is older than %s and not needed", grace)
	}
	return t.print(c, "OBJECT\tSIZE\tAGE", func(w io.Writer) {
		for _, f := range c.Objects {
			fmt.Fprintf(w, "%s\t%s\t%s\n", f.Name, size(f.Bytes), span(now.Sub(f.Modified)))
		}
		verb := "removed"
		if dry {
			verb = "would be removed"
		}
		fmt.Fprintf(w, "%d %s\t%s\t\n", len(c.Objects), verb, size(c.Bytes))
	})
}

// remove deletes objects. When it is broken off, the next run finds the rest.
func (t *tierTools) remove(s objects.Store, found []objects.Info) error {
	far := newProgress(os.Stderr, int64(len(found)), "objects removed")
	for i := range found {
		if err := s.Delete(t.ctx, found[i].Name); err != nil {
			return fmt.Errorf("remove %s: %w", found[i].Name, err)
		}
		far.add(1)
	}
	return nil
}
