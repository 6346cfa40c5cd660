package tiered

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

func runsOf(t testing.TB, tier *Tier, name queueName, from int64) (out []runRow) {
	t.Helper()
	it := tier.Runs(background, name.topic, name.queue, from)
	for it.Next() {
		out = append(out, runRow{last: it.Last(), value: bytes.Clone(it.Value())})
	}
	must(t, it.Close())
	return out
}

func keysOf(t testing.TB, tier *Tier, topic kvindex.ID, kind kvindex.IndexKind, hash uint64, begin, end int64) (out []KeyRow) {
	t.Helper()
	it := tier.Keys(background, topic, kind, hash, begin, end)
	for it.Next() {
		out = append(out, it.Row())
	}
	must(t, it.Close())
	return out
}

// wantRuns is what Runs must give.
func (w *world) wantRuns(tier *Tier, name queueName, from int64) (out []runRow) {
	b, _ := tier.Bounds()
	for _, r := range w.runs[name] {
		if r.last >= from && r.time >= b.From && r.time < b.Until {
			out = append(out, runRow{last: r.last, value: r.value})
		}
	}
	return out
}

// wantKeys is what Keys must give.
func (w *world) wantKeys(tier *Tier, topic kvindex.ID, kind kvindex.IndexKind, hash uint64, begin, end int64) (out []KeyRow) {
	b, _ := tier.Bounds()
	for _, k := range w.keys {
		if k.topic == topic && k.kind == kind && k.hash == hash && k.Time >= begin && k.Time <= end && k.Position >= b.First && k.Position < b.End {
			out = append(out, k.KeyRow)
		}
	}
	slices.SortFunc(out, func(a, b KeyRow) int {
		return -cmp.Or(cmp.Compare(a.Time, b.Time), cmp.Compare(a.Position, b.Position))
	})
	return slices.Compact(out)
}

func sameRuns(a, b []runRow) bool {
	return slices.EqualFunc(a, b, func(x, y runRow) bool { return x.last == y.last && bytes.Equal(x.value, y.value) })
}

// Whatever is asked of the tier, it answers as the log and its index do.
func TestTierIsTheLog(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
	w := newWorld(t, 42, 8)
	tier := w.tier(t, newFake(t), Options{Memory: 2 << 20, Disk: t.TempDir(), DiskBytes: 4 << 20, Requests: 4})
	defer tier.Close()
	bounds, ok := tier.Bounds()
	if !ok || bounds.First != 0 || bounds.End < 7<<20 {
		t.Fatalf("bounds %+v", bounds)
	}
	queues := append(w.queues(), queueName{1000, 0})
	rapid.Check(t, func(rt *rapid.T) {
		switch rapid.IntRange(0, 3).Draw(rt, "question") {
		case 0, 1:
			p := rapid.SampledFrom(tier.parts()).Draw(rt, "part")
			pos := record.Position(rapid.Int64Range(int64(p.Start), int64(p.End)-1).Draw(rt, "position"))
			n := rapid.IntRange(0, rapid.SampledFrom([]int{100, 10_000, 2 << 20}).Draw(rt, "scale")).Draw(rt, "bytes")
			got, err := tier.ReadRaw(background, pos, n, nil)
			must(t, err)
			want, err := w.log.ReadRaw(pos, n, nil)
			must(t, err)
			if !bytes.Equal(got, want) {
				rt.Fatalf("%d bytes at %d are others: got %d, want %d", n, pos, len(got), len(want))
			}
		case 2:
			name := rapid.SampledFrom(queues).Draw(rt, "queue")
			from := rapid.Int64Range(0, 250).Draw(rt, "from")
			if got, want := runsOf(t, tier, name, from), w.wantRuns(tier, name, from); !sameRuns(got, want) {
				rt.Fatalf("queue %v from %d: got %d runs, want %d", name, from, len(got), len(want))
			}
		case 3:
			topic, hash := kvindex.ID(rapid.IntRange(1, 4).Draw(rt, "topic")), uint64(rapid.IntRange(0, 20).Draw(rt, "hash"))
			kind := rapid.SampledFrom([]kvindex.IndexKind{kvindex.IndexKey, kvindex.IndexUniqueID}).Draw(rt, "kind")
			begin := rapid.Int64Range(bounds.From-2, bounds.Until).Draw(rt, "begin")
			end := rapid.Int64Range(begin-1, bounds.Until+2).Draw(rt, "end")
			got, want := keysOf(t, tier, topic, kind, hash, begin, end), w.wantKeys(tier, topic, kind, hash, begin, end)
			if !slices.Equal(got, want) {
				rt.Fatalf("topic %d hash %d from %d to %d: got %v, want %v", topic, hash, begin, end, got, want)
			}
		}
	})
	if s := tier.Stats(); s.Memory > 2<<20 || s.Disk > 4<<20 || s.Requests == 0 || s.Parts != 8 {
		t.Errorf("stats %+v", s)
	}
}

// Many readers in order at once: each gets the log, most of it fetched before it is asked for.
func TestTierSequentialReaders(t *testing.T) {
	w := newWorld(t, 7, 6)
	s := newFake(t)
	tier := w.tier(t, s, Options{})
	reads := s.reads.Load()
	var readers sync.WaitGroup
	for r := range 4 {
		readers.Go(func() {
			var buf []byte
			for _, p := range tier.parts() {
				for pos := p.Start; pos < p.End; pos += record.Position(len(buf)) {
					var err error
					if buf, err = tier.ReadRaw(background, pos, 30_000+r, buf); err != nil {
						t.Errorf("reader %d at %d: %v", r, pos, err)
						return
					}
					want, err := w.log.ReadRaw(pos, 30_000+r, nil)
					if err != nil || !bytes.Equal(buf, want) {
						t.Errorf("reader %d at %d: other bytes (%v)", r, pos, err)
						return
					}
				}
			}
		})
	}
	readers.Wait()
	st := tier.Stats()
	if st.Ahead == 0 || s.reads.Load()-reads > 30 {
		t.Errorf("%d requests for 6 parts of 4 blocks; %+v", s.reads.Load()-reads, st)
	}
}

func TestTierOutside(t *testing.T) {
	w := newWorld(t, 3, 3)
	s := newFake(t)
	tier := w.tier(t, s, Options{})
	bounds, _ := tier.Bounds()
	if _, err := tier.ReadRaw(background, bounds.End, 1, nil); !errors.Is(err, commitlog.ErrNotFound) {
		t.Errorf("behind the end: %v", err)
	}
	_, err := tier.Manifests().Commit(background, func(next *Manifest) error {
		next.Parts = next.Parts[1:]
		return nil
	})
	must(t, err)
	if _, err := tier.ReadRaw(background, 0, 1, nil); !errors.Is(err, commitlog.ErrGone) {
		t.Errorf("before the first part: %v", err)
	}
	if now, _ := tier.Bounds(); now.First != tier.parts()[0].Start || now.First == 0 {
		t.Errorf("bounds %+v", now)
	}
	empty, err := Open(background, newFake(t), Options{})
	must(t, err)
	defer empty.Close()
	if _, ok := empty.Bounds(); ok {
		t.Error("an empty tier has bounds")
	}
	if _, err := empty.ReadRaw(background, 0, 1, nil); !errors.Is(err, commitlog.ErrNotFound) {
		t.Errorf("an empty tier: %v", err)
	}
	if len(runsOf(t, empty, queueName{1, 1}, 0)) != 0 || len(keysOf(t, empty, 1, kvindex.IndexKey, 1, 0, 1<<60)) != 0 {
		t.Error("an empty tier has rows")
	}
	must(t, empty.Refresh(background))
}

// Another process replaced a part and its objects went: readers go on with what the newest manifest names, in the middle of a
// walk, too.
func TestTierFollowsTheManifest(t *testing.T) {
	w := newWorld(t, 11, 4)
	s := newFake(t)
	tier := w.tier(t, s, Options{})
	name := queueName{1, 0}
	it := tier.Runs(background, name.topic, name.queue, 0)
	if !it.Next() {
		t.Fatal(it.Close())
	}
	tool := NewManifests(s, 0)
	for i, seg := range w.sealed(t) {
		if i == 0 {
			continue
		}
		old, fresh := tier.parts()[i], w.part(t, s, seg, 2)
		_, err := tool.Commit(background, func(next *Manifest) error {
			next.Parts[i] = fresh
			return nil
		})
		must(t, err)
		must(t, s.Delete(background, old.LogName()))
		must(t, s.Delete(background, old.TableName()))
	}
	n := 1
	for it.Next() {
		n++
	}
	must(t, it.Close())
	if want := len(w.wantRuns(tier, name, 0)); n != want {
		t.Errorf("%d runs, want %d", n, want)
	}
	pos := w.sealed(t)[2].Start
	got, err := tier.ReadRaw(background, pos, 1000, nil)
	must(t, err)
	want, err := w.log.ReadRaw(pos, 1000, nil)
	must(t, err)
	if !bytes.Equal(got, want) || tier.Stats().Generation != 8 {
		t.Errorf("other bytes, or generation %d", tier.Stats().Generation)
	}
	must(t, s.Delete(background, LogName(pos, 2)))
	other, err := Open(background, s, Options{})
	must(t, err)
	defer other.Close()
	if _, err := other.ReadRaw(background, pos, 1000, nil); err == nil {
		t.Error("an object that is gone was read")
	}
}

// Errors of the store come through, end a walk, and leave nothing behind.
func TestTierErrors(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
	w := newWorld(t, 13, 3)
	s := newFake(t)
	tier := w.tier(t, s, Options{})
	defer tier.Close()
	outage := errors.New("no route to host")
	s.onRead(func(string, []byte, int64, func() (int, error)) (int, error) { return 0, outage })
	if _, err := tier.ReadRaw(background, 0, 10, nil); !errors.Is(err, outage) {
		t.Errorf("read: %v", err)
	}
	runs := tier.Runs(background, 1, 0, 0)
	for range 2 {
		if runs.Next() {
			t.Error("a run during an outage")
		}
	}
	if err := runs.Close(); !errors.Is(err, outage) {
		t.Errorf("runs: %v", err)
	}
	if err := runs.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	keys := tier.Keys(background, 1, kvindex.IndexKey, 1, 0, 1<<60)
	if keys.Next() {
		t.Error("a key during an outage")
	}
	if err := keys.Close(); !errors.Is(err, outage) {
		t.Errorf("keys: %v", err)
	}
	s.onRead(nil)
	if len(runsOf(t, tier, queueName{1, 0}, 0)) == 0 {
		t.Error("no runs after the outage")
	}
	gone, cancel := context.WithCancel(background)
	cancel()
	if _, err := tier.ReadRaw(gone, 0, 10, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that is over: %v", err)
	}
	runs = tier.Runs(gone, 3, 2, 0)
	if runs.Next() {
		t.Error("a run with a context that is over")
	}
	if err := runs.Close(); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that is over: %v", err)
	}
	tier.Close()
	if _, err := tier.ReadRaw(background, 2<<20, 10, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("after close: %v", err)
	}
}

// Every byte of a segment that comes back passes the log's own checks.
func TestTierRecordsParse(t *testing.T) {
	w := newWorld(t, 17, 2)
	tier := w.tier(t, newFake(t), Options{})
	checked := 0
	for _, k := range w.keys {
		if b, _ := tier.Bounds(); k.Position >= b.End {
			continue
		}
		raw, err := tier.ReadRaw(background, k.Position, int(k.Size), nil)
		must(t, err)
		if _, n, err := commitlog.ParseRecord(raw); err != nil || n != int(k.Size) {
			t.Fatalf("record at %d: %d bytes, %v", k.Position, n, err)
		}
		checked++
	}
	if checked < 100 {
		t.Errorf("%d records", checked)
	}
}
