package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/configs"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/store"
	"github.com/cairnmq/cairn/tiered"
	"github.com/cairnmq/cairn/tiered/objects"
)

// restoreFromTier is what --restore-from takes.
const restoreFromTier = "tier"

// restore makes the data folder of what the tier has, before a broker starts in it.
func restore(ctx context.Context, cfg configs.Config, from string, log zerolog.Logger) (err error) {
	switch {
	case from != restoreFromTier:
		return usagef("--restore-from: %q is nothing to restore from; there is %q", from, restoreFromTier)
	case cfg.TieredURL == "":
		return usagef("--restore-from tier: tiered.url does not say where the tier is")
	}
	t, err := openTier(ctx, cfg, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	_, err = store.Restore(ctx, store.Options{
		FS: vfs.Default, Dir: cfg.Data, Engine: cfg.Engine, CacheBytes: int64(cfg.Memory), SegmentSize: int64(cfg.SegmentSize),
		Retention: cfg.Retention, Tier: t.tier, TierRetention: cfg.TieredRetention, Clock: clock.System, Logger: log,
	})
	return explainRestore(err, cfg)
}

// explainRestore says how to go on with a restore that cannot be.
func explainRestore(err error, cfg configs.Config) error {
	switch {
	case errors.Is(err, store.ErrNotEmpty):
		return fmt.Errorf("%w: start without --restore-from to go on with it, or move it away to restore", err)
	case errors.Is(err, store.ErrRestoring):
		return fmt.Errorf("%w: run it once more with --restore-from tier, or remove %s", err, cfg.Data)
	case errors.Is(err, tiered.ErrNoManifest):
		return fmt.Errorf("%w at %s for broker %s of cluster %s: are tiered.url, name and cluster those of the broker that wrote it?", err,
			cfg.TieredURL, cfg.Name, cfg.Cluster)
	case errors.Is(err, store.ErrNoSnapshot):
		return fmt.Errorf("%w: the first comes with the second segment that is uploaded", err)
	case errors.Is(err, objects.ErrRefused):
		return fmt.Errorf("%w: see tiered.url, and the credentials in the environment", err)
	}
	return err
}
