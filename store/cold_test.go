package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/tiered"
	"github.com/cairnmq/cairn/tiered/objects"
)

// Until the manifest was loaded, what came of it may be an answer that went wrong on its way: whoever reads is told to come again, and
// not that something is damaged.
func TestTheTierIsUnreadableUntilItsManifestIsHere(t *testing.T) {
	c := clock.NewFake(epoch)
	o := testOptions(newPlace(t), c)
	o.SegmentSize, o.Retention = 16<<10, time.Hour
	folder := t.TempDir()
	o.Tier = openTier(t, folder)
	if _, err := o.Tier.Manifests().Claim(context.Background(), tiered.StoreID{1}); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, o)
	topic := putTopic(t, s, "a")
	for i := range 40 {
		c.Advance(10 * time.Minute)
		send(t, s, note{topic: topic, id: fmt.Sprint("id-", i), body: string(make([]byte, 900))})
	}
	mustUpload(t, s)
	if err := s.Expire(context.Background(), c.Now()); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)

	manifests, err := filepath.Glob(filepath.Join(folder, "manifest", "*"))
	if err != nil || len(manifests) == 0 {
		t.Fatalf("%d manifests, %v", len(manifests), err)
	}
	whole := map[string][]byte{}
	for _, name := range manifests {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		whole[name] = data
		wrong := append([]byte{}, data...)
		wrong[len(wrong)/2]++
		if err := os.WriteFile(name, wrong, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bucket, err := objects.OpenFolder(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer bucket.Close()
	if o.Tier, err = tiered.New(bucket, tiered.Options{}); err != nil {
		t.Fatal(err)
	}
	defer o.Tier.Close()
	s = mustOpen(t, o)
	defer mustClose(t, s)
	var damage *tiered.DamageError
	if err := o.Tier.Refresh(context.Background()); !errors.As(err, &damage) {
		t.Fatalf("a manifest with a wrong byte: %v", err)
	}
	var unreadable *TierError
	if _, err := s.Entries(topic, 0, 0, 1, nil); !errors.As(err, &unreadable) || !errors.Is(err, tiered.ErrNotLoaded) {
		t.Errorf("%v", err)
	}
	for name, data := range whole {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.Tier.Refresh(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, s, topic, 0, 0, 100); len(got) != 40 {
		t.Errorf("%d messages", len(got))
	}
}
