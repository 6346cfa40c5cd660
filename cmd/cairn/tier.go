package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/cairnmq/cairn/configs"
	"github.com/cairnmq/cairn/tiered"
	"github.com/cairnmq/cairn/tiered/objects"
)

// tierCache is the folder of the tier's disk cache, below the data folder.
const tierCache = "tier-cache"

// openedTier is what the configuration names: the object store, and the tier in it.
type openedTier struct {
	objects objects.Store
	tier    *tiered.Tier
}

// openTier opens the tier of a broker; nil when it has none. The object store is not asked for anything yet: the broker loads the
// manifest when it runs, so that it starts while the store is out of reach. Metrics of its calls go to the registerer, when there is one.
func openTier(ctx context.Context, cfg configs.Config, registerer prometheus.Registerer) (_ *openedTier, err error) {
	if cfg.TieredURL == "" {
		return nil, nil
	}
	known, _, err := tiered.ReadIdentity(vfs.Default, cfg.Data)
	if err != nil {
		return nil, err
	}
	o := tiered.Options{Memory: int64(cfg.TieredMemory), Least: known.Generation}
	if cfg.TieredDisk > 0 {
		o.Disk, o.DiskBytes = filepath.Join(cfg.Data, tierCache), int64(cfg.TieredDisk)
	}
	t := &openedTier{}
	if t.objects, err = openObjects(ctx, cfg); err != nil {
		return nil, err
	}
	if registerer != nil {
		observed, err := observeObjects(t.objects, cfg, registerer)
		if err != nil {
			return nil, errors.Join(err, t.objects.Close())
		}
		t.objects = observed
	}
	if t.tier, err = tiered.New(t.objects, o); err != nil {
		return nil, errors.Join(fmt.Errorf("tiered.cache.disk: %w", err), t.objects.Close())
	}
	return t, nil
}

// openObjects opens the object store below the broker's prefix.
func openObjects(ctx context.Context, cfg configs.Config) (objects.Store, error) {
	address, err := tierAddress(cfg)
	if err != nil {
		return nil, err
	}
	s, err := objects.Open(ctx, address, objects.Options{Encryption: cfg.TieredEncryption})
	if err != nil {
		return nil, fmt.Errorf("tiered.url: %w", err)
	}
	if cfg.TieredBandwidth > 0 {
		s = objects.Limit(s, int64(cfg.TieredBandwidth))
	}
	return s, nil
}

// tierAddress is tiered.url with the broker's prefix behind it, CLUSTER/NAME, so that brokers may share a bucket and a configuration.
func tierAddress(cfg configs.Config) (string, error) {
	u, err := url.Parse(cfg.TieredURL)
	if err != nil {
		return "", fmt.Errorf("tiered.url: %w", err)
	}
	// Names of brokers may have a bar, which names of objects may not.
	escape := strings.NewReplacer("|", "%7C").Replace
	u.Path, u.RawPath = path.Join("/", u.Path, escape(cfg.Cluster), escape(cfg.Name)), ""
	return u.String(), nil
}

// ofBroker is the tier that the store reads; nil without one.
func (t *openedTier) ofBroker() *tiered.Tier {
	if t == nil {
		return nil
	}
	return t.tier
}

// close is called behind the broker, which reads by the tier. A tier that was not opened has nothing to close.
func (t *openedTier) close() error {
	if t == nil {
		return nil
	}
	t.tier.Close()
	if err := t.objects.Close(); err != nil {
		return fmt.Errorf("close the object store: %w", err)
	}
	return nil
}
