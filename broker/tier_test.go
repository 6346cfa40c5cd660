package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/tiered"
	"github.com/cairnmq/cairn/tiered/objects"
)

// brokenStore is an object store whose every call fails with an error while there is one.
type brokenStore struct {
	objects.Store
	err   atomic.Pointer[error]
	once  atomic.Pointer[error] // for one call
	tries atomic.Int64
}

func (s *brokenStore) fail(err error) {
	if err == nil {
		s.err.Store(nil)
		return
	}
	s.err.Store(&err)
}

func (s *brokenStore) broken() error {
	if err := s.once.Swap(nil); err != nil {
		s.tries.Add(1)
		return *err
	}
	if err := s.err.Load(); err != nil {
		s.tries.Add(1)
		return *err
	}
	return nil
}

func (s *brokenStore) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	if err := s.broken(); err != nil {
		return 0, err
	}
	return s.Store.ReadAt(ctx, name, p, off)
}

func (s *brokenStore) Put(ctx context.Context, name string, content io.ReadSeeker, size int64) error {
	if err := s.broken(); err != nil {
		return err
	}
	return s.Store.Put(ctx, name, content, size)
}

func (s *brokenStore) Create(ctx context.Context, name string, content []byte) error {
	if err := s.broken(); err != nil {
		return err
	}
	return s.Store.Create(ctx, name, content)
}

// spoken is what a broker logged.
type spoken struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *spoken) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *spoken) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// count is how many lines have the text.
func (s *spoken) count(text string) (n int) {
	for line := range strings.Lines(s.String()) {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// tieredBroker is a broker that uploads to a folder.
type tieredBroker struct {
	*testBroker
	store  *brokenStore
	clock  *clock.Fake
	spoken spoken
}

// newTieredBroker makes one that is not open yet; its tier has not been looked at.
func newTieredBroker(t *testing.T, bucket objects.Store) *tieredBroker {
	t.Helper()
	b := &tieredBroker{store: &brokenStore{Store: bucket}, clock: clock.NewFake(time.UnixMilli(1_700_000_000_000))}
	tier, err := tiered.New(b.store, tiered.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b.testBroker = &testBroker{segment: 16 << 10, tier: tier}
	t.Cleanup(func() {
		if b.Broker != nil {
			b.close(t)
		}
		b.tier.Close()
	})
	return b
}

func (b *tieredBroker) start(t *testing.T) {
	t.Helper()
	b.openOn(t, withClock(b.clock), func(o *Options) {
		o.Uploads, o.Logger, o.Registerer = true, zerolog.New(&b.spoken), prometheus.NewPedanticRegistry()
	})
}

func newBucket(t *testing.T) objects.Store {
	t.Helper()
	folder, err := objects.OpenFolder(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := folder.Close(); err != nil {
			t.Error(err)
		}
	})
	return folder
}

// fill stores as much as several segments hold.
func (b *tieredBroker) fill(t *testing.T, topic string) {
	t.Helper()
	for i := range 60 {
		b.clock.Advance(10 * time.Millisecond)
		b.send(t, topic, 0, plain(fmt.Sprint(i)+strings.Repeat(".", 900)))
	}
}

// await lets time pass until ok.
func (b *tieredBroker) await(t *testing.T, what string, ok func(TierInfo) bool) TierInfo {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(20 * time.Second); ; {
		i, err := b.Tier()
		if err != nil {
			t.Fatal(err)
		}
		if ok(i) {
			return i
		}
		select {
		case <-tick.C:
			b.clock.Advance(500 * time.Millisecond)
		case <-deadline:
			t.Fatalf("never: %s; %+v\n%s", what, i, b.spoken.String())
		}
	}
}

// filled is how many segments a fill seals.
const filled = 4

func uploadedAll(i TierInfo) bool {
	return i.State == "working" && i.Parts >= filled && i.BehindSegments == 0
}

// settled says that all is uploaded, and that what the last upload brought with it is over, too.
func (b *tieredBroker) settled(i TierInfo) bool {
	id, _, err := tiered.ReadIdentity(b.fs, b.folder())
	return err == nil && uploadedAll(i) && i.Uploads == int64(i.Parts) && id.Generation == i.Generation
}

func TestSealedSegmentsGoToTheTier(t *testing.T) {
	b := newTieredBroker(t, newBucket(t))
	b.start(t)
	b.fill(t, "a")
	first := b.await(t, "uploads", b.settled)
	if first.Messages == 0 || first.StoredBytes == 0 || first.Failures != 0 || first.Until < first.From {
		t.Errorf("%+v", first)
	}
	id, ok, err := tiered.ReadIdentity(b.fs, b.folder())
	if err != nil || !ok || id.Store.String() != first.Store {
		t.Errorf("%+v, %t, %v; the tier is of store %s", id, ok, err, first.Store)
	}
	gathered, err := b.opts.Registerer.(*prometheus.Registry).Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range gathered {
		for _, m := range family.Metric {
			values[family.GetName()] += m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"cairn_tier_parts": float64(first.Parts), "cairn_tier_uploads_total": float64(first.Parts), "cairn_tier_state": 1,
		"cairn_tier_upload_behind_bytes": 0, "rocketmq_tiered_store_messages_dispatch_total": float64(first.Messages),
	} {
		if got, ok := values[name]; !ok || got != want {
			t.Errorf("%s is %g, %t; want %g", name, got, ok, want)
		}
	}

	// the next process goes on
	b.restart(t)
	b.fill(t, "a")
	b.await(t, "more uploads", func(i TierInfo) bool { return uploadedAll(i) && i.Parts > first.Parts && i.Store == first.Store })
	if n := b.spoken.count("the tier is there"); n != 2 {
		t.Errorf("said %d times that the tier is there", n)
	}
}

func TestAnOutageIsSaidOnce(t *testing.T) {
	b := newTieredBroker(t, newBucket(t))
	b.store.fail(errors.New("no route to host"))
	b.start(t) // although the object store is out of reach
	b.fill(t, "a")
	i := b.await(t, "many tries", func(i TierInfo) bool { return i.State == "unreachable" && b.store.tries.Load() > 12 })
	if i.BehindSegments < 3 || i.BehindBytes == 0 || !strings.Contains(i.Error, "no route to host") {
		t.Errorf("%+v", i)
	}
	if _, err := b.tier.ReadRaw(context.Background(), 0, 1, nil); !errors.Is(err, tiered.ErrNotLoaded) {
		t.Errorf("a read of the tier: %v", err)
	}
	if b.store.fail(nil); b.spoken.count("out of reach") != 1 {
		t.Errorf("%s", b.spoken.String())
	}
	b.await(t, "everything is there", uploadedAll)
	// a single error is no outage; only one call may meet it, since time passes here as fast as tests run
	reset := errors.New("connection reset")
	b.store.once.Store(&reset)
	tries := b.store.tries.Load()
	b.fill(t, "a")
	b.await(t, "a try", func(TierInfo) bool { return b.store.tries.Load() > tries })
	b.await(t, "everything is there again", uploadedAll)
	for text, want := range map[string]int{"out of reach": 1, "the tier is back": 1, "the tier": 2} {
		if n := b.spoken.count(text); n != want {
			t.Errorf("said %q %d times, not %d\n%s", text, n, want, b.spoken.String())
		}
	}
}

func TestARefusalSaysWhatToDo(t *testing.T) {
	b := newTieredBroker(t, newBucket(t))
	b.store.fail(fmt.Errorf("%w: quota", objects.ErrRefused))
	b.start(t)
	b.await(t, "refused", func(i TierInfo) bool { return i.State == "refused" && b.store.tries.Load() > 3 })
	b.store.fail(nil)
	b.fill(t, "a")
	b.await(t, "everything is there", uploadedAll)
	if refused, back := b.spoken.count("look at the credentials"), b.spoken.count("the tier is back"); refused != 1 || back != 1 {
		t.Errorf("%s", b.spoken.String())
	}
}

func TestATierOfAnotherFolderIsLeftAlone(t *testing.T) {
	bucket := newBucket(t)
	a := newTieredBroker(t, bucket)
	a.start(t)
	a.fill(t, "a")
	whole := a.await(t, "uploads", a.settled)

	b := newTieredBroker(t, bucket)
	b.start(t)
	b.fill(t, "b")
	i := b.await(t, "refused", func(i TierInfo) bool { return i.State == "refused" })
	if i.Generation != whole.Generation || b.spoken.count("choose another tiered.url, cluster or name, or restore") != 1 {
		t.Errorf("%+v\n%s", i, b.spoken.String())
	}

	// a folder that is an older copy: it has the identity, and less of the log
	b.close(t)
	id, _, err := tiered.ReadIdentity(a.fs, a.folder())
	if err != nil {
		t.Fatal(err)
	}
	copied := newTieredBroker(t, bucket)
	copied.start(t)
	copied.await(t, "refused", func(i TierInfo) bool { return i.State == "refused" })
	if err := id.Write(copied.fs, copied.folder()); err != nil {
		t.Fatal(err)
	}
	i = copied.await(t, "refused as older", func(i TierInfo) bool { return strings.Contains(i.Error, "here it ends at") })
	if i.State != "refused" || i.Generation != whole.Generation {
		t.Errorf("%+v", i)
	}
}

func TestWhoeverClaimsTheTierLastHasIt(t *testing.T) {
	bucket := newBucket(t)
	b := newTieredBroker(t, bucket)
	b.start(t)
	b.fill(t, "a")
	b.await(t, "uploads", uploadedAll)
	id, _, err := tiered.ReadIdentity(b.fs, b.folder())
	if err != nil {
		t.Fatal(err)
	}
	other, err := tiered.Open(context.Background(), bucket, tiered.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.Manifests().Claim(context.Background(), id.Store); err != nil {
		t.Fatal(err)
	}
	b.fill(t, "a")
	i := b.await(t, "stopped", func(i TierInfo) bool { return i.State == "stopped" })
	if i.BehindSegments == 0 || b.spoken.count("two brokers run with one tier") != 1 {
		t.Errorf("%+v\n%s", i, b.spoken.String())
	}
	if err := other.Refresh(context.Background()); err != nil || other.Manifests().View().Owner != other.Manifests().Writer() {
		t.Errorf("the other one lost it, %v", err)
	}
}

func TestPausesGrow(t *testing.T) {
	for failing := 1; failing < 100; failing++ {
		longest := min(tierLongestPause, tierFirstPause<<min(failing-1, 20))
		if p := tierPause(failing); p < longest/2 || p > longest {
			t.Errorf("after %d tries: %s", failing, p)
		}
	}
}
