package tiered

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cairnmq/cairn/tiered/objects"
)

// Orphans lists the objects of the tier that nobody needs any more: those that no kept generation of the manifest names, and the
// generations that are not kept themselves, as far as they were written before now − grace. A generation is kept as long as it
// is the newest, or was the newest within the grace time: who reads by it finds everything until then. An upload that takes longer
// than the grace time would lose its objects, so grace is hours at least; it also covers what the clocks differ.
//
// It reads every kept generation. Objects of other names are left alone. Errors: ErrNoManifest, for without a manifest nothing
// is known to be needed or not; *DamageError; the store's.
func (m *Manifests) Orphans(ctx context.Context, grace time.Duration, now time.Time) ([]objects.Info, error) {
	if err := m.lock(ctx); err != nil {
		return nil, err
	}
	defer m.unlock()
	newest, err := m.load(ctx)
	if err != nil {
		return nil, err
	}
	before := now.Add(-grace)
	manifests, others, err := m.inventory(ctx)
	if err != nil {
		return nil, err
	}
	needed := map[string]bool{manifestName(newest.Generation): true}
	newest.objects(func(name string) { needed[name] = true })
	for i, info := range manifests {
		g, _ := manifestGeneration(info.Name)
		// It was the newest until the next one was written.
		replaced := i+1 < len(manifests) && manifests[i+1].Modified.Before(before)
		if replaced || g >= newest.Generation {
			continue
		}
		needed[info.Name] = true
		if err := m.need(ctx, g, needed); err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(append(manifests, others...), func(info objects.Info) bool {
		g, manifest := manifestGeneration(info.Name)
		return needed[info.Name] || !info.Modified.Before(before) || manifest && g > newest.Generation
	}), nil
}

// need adds what a kept generation names. One that is gone meanwhile is not needed.
func (m *Manifests) need(ctx context.Context, generation uint64, needed map[string]bool) error {
	raw, err := m.get(ctx, manifestName(generation))
	if err == nil {
		var man *Manifest
		if man, err = m.decode(ctx, generation, raw); err == nil {
			man.objects(func(name string) { needed[name] = true })
		}
	}
	if errors.Is(err, objects.ErrNotFound) {
		return nil
	}
	return err
}

// inventory lists the manifests, in order, and everything else of the tier.
func (m *Manifests) inventory(ctx context.Context) (manifests, others []objects.Info, err error) {
	for _, prefix := range []string{manifestPrefix, partsPrefix, snapshotsPrefix} {
		for info, err := range m.store.List(ctx, prefix, "") {
			if err != nil {
				return nil, nil, fmt.Errorf("tiered: list %s: %w", prefix, err)
			}
			if _, ok := manifestGeneration(info.Name); ok {
				manifests = append(manifests, info)
			} else {
				others = append(others, info)
			}
		}
	}
	return manifests, others, nil
}
