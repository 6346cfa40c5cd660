package tiered

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/tiered/objects"
)

// fake is a store in a folder whose answers a test may change.
type fake struct {
	objects.Store
	reads atomic.Int64
	mu    struct {
		sync.Mutex
		read   func(name string, p []byte, off int64, real func() (int, error)) (int, error)
		create func(name string, real func() error) error
		list   func(name string) bool // whether it is listed
	}
}

func newFake(t testing.TB) *fake {
	t.Helper()
	s, err := objects.OpenFolder(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &fake{Store: s}
}

func (f *fake) onRead(fn func(name string, p []byte, off int64, real func() (int, error)) (int, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.read = fn
}

func (f *fake) onCreate(fn func(name string, real func() error) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.create = fn
}

func (f *fake) onList(fn func(name string) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.list = fn
}

func (f *fake) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	f.reads.Add(1)
	f.mu.Lock()
	read := f.mu.read
	f.mu.Unlock()
	real := func() (int, error) { return f.Store.ReadAt(ctx, name, p, off) }
	if read == nil {
		return real()
	}
	return read(name, p, off, real)
}

func (f *fake) Create(ctx context.Context, name string, content []byte) error {
	f.mu.Lock()
	create := f.mu.create
	f.mu.Unlock()
	real := func() error { return f.Store.Create(ctx, name, content) }
	if create == nil {
		return real()
	}
	return create(name, real)
}

func (f *fake) List(ctx context.Context, prefix, after string) iter.Seq2[objects.Info, error] {
	f.mu.Lock()
	listed := f.mu.list
	f.mu.Unlock()
	return func(yield func(objects.Info, error) bool) {
		for info, err := range f.Store.List(ctx, prefix, after) {
			if err == nil && listed != nil && !listed(info.Name) {
				continue
			}
			if !yield(info, err) {
				return
			}
		}
	}
}

func put(t testing.TB, s objects.Store, name string, content []byte) {
	t.Helper()
	must(t, s.Put(context.Background(), name, bytes.NewReader(content), int64(len(content))))
}

func get(t testing.TB, s objects.Store, name string) []byte {
	t.Helper()
	info, err := s.Stat(context.Background(), name)
	must(t, err)
	b := make([]byte, info.Size)
	if n, err := s.ReadAt(context.Background(), name, b, 0); n < len(b) {
		t.Fatal(err)
	}
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually polls until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func isDamage(err error) bool {
	var damage *DamageError
	return errors.As(err, &damage)
}

type queueName struct {
	topic kvindex.ID
	queue int32
}

type runRow struct {
	last  int64
	first int64
	time  int64
	value []byte
}

type keyFull struct {
	topic kvindex.ID
	kind  kvindex.IndexKind
	hash  uint64
	KeyRow
}

// world is a log, and what an index of it would have.
type world struct {
	log  *commitlog.Log
	runs map[queueName][]runRow
	keys []keyFull
	rng  *rand.Rand
}

// newWorld writes a log of at least so many full segments of 1 MiB.
func newWorld(t testing.TB, seed uint64, segments int) *world {
	t.Helper()
	w := &world{runs: map[queueName][]runRow{}, rng: rand.New(rand.NewPCG(seed, 1))}
	opts := commitlog.Options{FS: vfs.NewMem(), Dir: "/log", SegmentSize: 1 << 20, Mode: commitlog.ModeOS}
	opts.OnCommit = func(b *commitlog.Batch) {
		for _, p := range b.Proposals {
			p.Done(p)
		}
	}
	log, err := commitlog.Open(opts)
	must(t, err)
	must(t, log.Replay(0, func(*commitlog.Batch) error { return nil }))
	must(t, log.Start())
	t.Cleanup(func() { must(t, log.Close()) })
	w.log = log
	now := int64(1_700_000_000_000)
	for sealed := 0; sealed < segments; {
		now += w.rng.Int64N(3)
		w.propose(t, now)
		info, err := log.Segments()
		must(t, err)
		sealed = len(info) - 1
	}
	return w
}

// propose appends a few records as one batch of a given time, and notes their rows.
func (w *world) propose(t testing.TB, now int64) {
	t.Helper()
	p := &commitlog.Proposal{At: now}
	for range 1 + w.rng.IntN(4) {
		body := make([]byte, w.rng.IntN(12_000))
		for i := range len(body) / (1 + w.rng.IntN(3)) {
			body[i] = byte(w.rng.Uint32())
		}
		p.Records = append(p.Records, record.Record{Kind: record.KindMessage, Payload: body})
	}
	done := make(chan struct{})
	p.Done = func(*commitlog.Proposal) { close(done) }
	must(t, w.log.Propose(p))
	<-done
	must(t, p.Err)
	name := queueName{kvindex.ID(1 + w.rng.IntN(3)), int32(w.rng.IntN(3))}
	if w.rng.IntN(60) == 0 {
		name = queueName{99, 7} // one that few parts have
	}
	first := int64(0)
	if runs := w.runs[name]; len(runs) > 0 {
		first = runs[len(runs)-1].last + 1
	}
	value := make([]byte, 20+w.rng.IntN(50))
	for i := range value {
		value[i] = byte(w.rng.Uint32())
	}
	w.runs[name] = append(w.runs[name], runRow{first: first, last: first + int64(len(p.Records)) - 1, time: p.Timestamp, value: value})
	for i, at := range p.Positions {
		for range w.rng.IntN(3) {
			kind := kvindex.IndexUniqueID
			if w.rng.IntN(2) == 0 {
				kind = kvindex.IndexKey
			}
			size := int32(commitlog.RecordSize(len(p.Records[i].Payload)))
			w.keys = append(w.keys, keyFull{name.topic, kind, uint64(w.rng.IntN(20)), KeyRow{p.Timestamp, at, size}})
		}
	}
}

// sealed lists the segments that are full.
func (w *world) sealed(t testing.TB) []commitlog.SegmentInfo {
	t.Helper()
	info, err := w.log.Segments()
	must(t, err)
	return slices.DeleteFunc(info, func(s commitlog.SegmentInfo) bool { return s.Active })
}

// raw reads a segment. Its file may end before the next segment begins.
func (w *world) raw(t testing.TB, seg commitlog.SegmentInfo) []byte {
	t.Helper()
	raw, err := w.log.ReadRaw(seg.Start, int(seg.End-seg.Start), nil)
	must(t, err)
	if int64(len(raw)) != seg.Bytes {
		t.Fatalf("segment %s: %d bytes of %d", seg.Name, len(raw), seg.Bytes)
	}
	return raw
}

// part uploads a segment.
func (w *world) part(t testing.TB, s objects.Store, seg commitlog.SegmentInfo, generation uint64) Part {
	t.Helper()
	raw := w.raw(t, seg)
	p := Part{
		Start: seg.Start, End: seg.Start + record.Position(len(raw)), From: seg.Oldest, Until: seg.Newest, Generation: generation, LiveBytes: int64(len(raw)),
	}
	var bodies, table bytes.Buffer
	b, err := NewBodiesWriter(&bodies, seg.Start)
	must(t, err)
	for len(raw) > 0 {
		n := min(len(raw), 1+w.rng.IntN(100_000))
		_, err := b.Write(raw[:n])
		must(t, err)
		raw = raw[n:]
	}
	sum, err := b.Close()
	must(t, err)
	p.LogBytes, p.LogCRC = sum.Bytes, sum.CRC
	sum = w.table(t, &table, p)
	p.TableBytes, p.TableCRC = sum.Bytes, sum.CRC
	put(t, s, p.LogName(), bodies.Bytes())
	put(t, s, p.TableName(), table.Bytes())
	return p
}

// table writes the rows of a part.
func (w *world) table(t testing.TB, out *bytes.Buffer, p Part) Sum {
	t.Helper()
	rows := NewKeyRows(p.Start)
	for _, k := range w.keys {
		if k.Position >= p.Start && k.Position < p.End {
			must(t, rows.Add(k.topic, k.kind, k.hash, k.Time, k.Position, k.Size))
		}
	}
	tw := NewTableWriter(out)
	must(t, tw.AddKeys(rows))
	for _, name := range w.queues() {
		for _, r := range w.visible(name, p) {
			must(t, tw.AddRun(name.topic, name.queue, r.last, r.value))
		}
	}
	for _, name := range w.queues() {
		if v := w.visible(name, p); len(v) > 0 {
			first, last := v[0], v[len(v)-1]
			must(t, tw.AddQueue(name.topic, name.queue, QueueRange{first.first, last.last, first.time, last.time, last.last - first.first + 1}))
		}
	}
	sum, err := tw.Close()
	must(t, err)
	return sum
}

func (w *world) visible(name queueName, p Part) (out []runRow) {
	for _, r := range w.runs[name] {
		if r.time >= p.From && r.time < p.Until {
			out = append(out, r)
		}
	}
	return out
}

// queues in the order of their keys.
func (w *world) queues() []queueName {
	var out []queueName
	for name := range w.runs {
		out = append(out, name)
	}
	slices.SortFunc(out, func(a, b queueName) int {
		return bytes.Compare(appendQueueKey(nil, 0, a.topic, a.queue), appendQueueKey(nil, 0, b.topic, b.queue))
	})
	return out
}

// tier uploads all full segments and opens what was made.
func (w *world) tier(t testing.TB, s objects.Store, o Options) *Tier {
	t.Helper()
	m := NewManifests(s, 0)
	_, err := m.Claim(context.Background(), StoreID{1})
	must(t, err)
	for _, seg := range w.sealed(t) {
		p := w.part(t, s, seg, 1)
		_, err := m.Commit(context.Background(), func(next *Manifest) error {
			next.Parts = append(next.Parts, p)
			return nil
		})
		must(t, err)
	}
	tier, err := Open(context.Background(), s, o)
	must(t, err)
	t.Cleanup(tier.Close)
	return tier
}
