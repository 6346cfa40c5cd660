package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/pop"
	"github.com/cairnmq/cairn/tiered"
	"github.com/cairnmq/cairn/txn"
)

// busy is a store with a bit of everything in it, and its tier.
type busy struct {
	t      *testing.T
	o      Options
	folder string // of the tier
	c      *clock.Fake
	s      *Store
	topics []kvindex.ID
	group  kvindex.ID
	popped int64
	rounds int
}

func newBusy(t *testing.T) *busy {
	b := &busy{t: t, folder: t.TempDir(), c: clock.NewFake(epoch)}
	b.o = testOptions(newPlace(t), b.c)
	b.o.SegmentSize = 16 << 10
	b.o.Tier = openTier(t, b.folder)
	if _, err := b.o.Tier.Manifests().Claim(context.Background(), tiered.StoreID{1}); err != nil {
		t.Fatal(err)
	}
	b.open()
	for _, name := range []string{"a", "b", "c"} {
		b.topics = append(b.topics, putTopic(t, b.s, name))
	}
	b.group = kvindex.ID(mustAppend(t, b.s, b.s.Catalog.PutGroup(catalog.DefaultGroup("g")))[0].Offset)
	return b
}

func (b *busy) open() {
	b.t.Helper()
	s, err := Open(context.Background(), b.o)
	if err != nil {
		b.t.Fatal(err)
	}
	b.s = s
}

func (b *busy) now() int64 { return b.c.Now().UnixMilli() }

// rest is what a body is filled with.
var rest = strings.Repeat(".", 300)

// round sends and takes a few of everything, in some minutes.
func (b *busy) round() {
	t, s := b.t, b.s
	t.Helper()
	i := b.rounds
	b.rounds++
	var recs []record.Record
	for k := range 6 {
		id := fmt.Sprintf("%d-%d", i, k)
		recs = append(recs, note{topic: b.topics[k%3], queue: int32(k % 2), id: id, keys: "k " + id, tag: "t", body: id + rest}.record(t))
	}
	waits := func(kind string) note {
		id := fmt.Sprintf("%s-%d", kind, i)
		return note{topic: b.topics[i%3], queue: int32(i % 2), id: id, keys: "w", body: id + rest}
	}
	due := b.now() + (10 * time.Minute).Milliseconds()
	if i%4 == 3 {
		due = b.now() + (40 * time.Hour).Milliseconds()
	}
	recs = append(recs, waits("delayed").later(t, due, false), waits("half").later(t, b.now()+6000, true), s.Catalog.PutKV("ns", fmt.Sprint(i%5), fmt.Sprint(i)))
	half := proposal(t, s, recs).Positions[7]
	b.c.Advance(4 * time.Minute)
	if i%4 != 1 { // else nobody decides
		mustAppend(t, s, txn.End{Position: half, Action: []txn.Action{txn.Commit, 0, txn.Rollback, txn.Commit}[i%4]}.Record())
	}
	timers, err := dueTimers(s, b.now(), 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, tm := range timers {
		mustAppend(t, s, delay.Fire{From: tm.Point, To: tm.Point}.Record())
	}
	b.pop()
	if i%10 == 7 {
		id := putTopic(t, s, "passing")
		send(t, s, note{topic: id, id: "passing", body: rest})
		topic, err := s.Catalog.Topic("passing")
		if err != nil {
			t.Fatal(err)
		}
		gone, err := s.Catalog.DeleteTopic(topic)
		if err != nil {
			t.Fatal(err)
		}
		mustAppend(t, s, gone)
	}
}

// pop hands out the next message of a queue, acknowledges every other one, and moves an offset.
func (b *busy) pop() {
	t, s := b.t, b.s
	t.Helper()
	entries, err := s.Entries(b.topics[0], 0, b.popped, 1, nil)
	if err != nil || len(entries) != 1 {
		t.Fatalf("%v, %v", entries, err)
	}
	e := &entries[0]
	p := &pop.Pop{
		Group: b.group, Topic: b.topics[0], PoppedAt: b.now(), VisibleAt: b.now() + 60_000, Nonce: uint64(b.rounds),
		Ranges:  []pop.Range{{Start: b.popped, End: e.Offset + 1, Count: 1}},
		Entries: []pop.Entry{{Offset: e.Offset, Position: e.Position, Size: e.Size}},
	}
	b.popped = e.Offset + 1
	recs := []record.Record{p.Record(), pop.CommitRecord([]pop.Commit{{Group: b.group, Topic: b.topics[1], Queue: 1, Offset: int64(b.rounds)}})}
	if b.rounds%2 == 0 {
		ack := pop.Ref{VisibleAt: p.VisibleAt, Offset: e.Offset, Nonce: p.Nonce}
		recs = append(recs, pop.AckRecord(&pop.Ack{Group: b.group, Topic: b.topics[0], Refs: []pop.Ref{ack}}))
	}
	mustAppend(t, s, recs...)
}

// run makes rounds, and what the owner of the tier does after each.
func (b *busy) run(rounds int) {
	b.t.Helper()
	for range rounds {
		b.round()
		mustUpload(b.t, b.s)
		if err := b.s.Snapshot(context.Background()); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *busy) manifest() *tiered.Manifest { return b.o.Tier.Manifests().View() }

// viewAt makes the view as of a position of the log, which must have all of it still.
func (b *busy) viewAt(at record.Position) kvindex.Engine {
	t := b.t
	t.Helper()
	e, err := kvindex.Open(kvindex.Options{FS: vfs.NewMem(), Dir: "view", Logger: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	r := rebuild{opts: &b.o, more: popFold, into: e, until: at}
	if err := r.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	return e
}

// restored restores the tier to an empty place. It is the tier's owner then.
func (b *busy) restored() (*busy, Restored) {
	b.t.Helper()
	o := b.o
	p := newPlace(b.t)
	o.FS, o.Dir, o.Tier = p.fs, p.dir, openTier(b.t, b.folder)
	got, err := Restore(context.Background(), o)
	if err != nil {
		b.t.Fatal(err)
	}
	r := *b
	r.o = o
	r.open()
	return &r, got
}

// same compares what b has with what was at the end of the tier, and reads everything that was there then from both.
func (b *busy) same(was *busy, end record.Position) {
	t := b.t
	t.Helper()
	view := was.viewAt(end)
	for _, space := range kvindex.Spaces() {
		switch space {
		case kvindex.SpaceConsumeQueue, kvindex.SpaceKeyIndex, kvindex.SpaceBucket, kvindex.SpaceTierQueue, kvindex.SpaceTier:
			continue // that is what the tier has, or not
		case kvindex.SpaceApplied:
			continue // there is a batch behind it
		}
		want, got := rowTexts(t, view, space), rowTexts(t, b.s.engine, space)
		if !slices.Equal(got, want) {
			t.Errorf("%v: %d rows %q\nwant %d rows %q", space, len(got), got, len(want), want)
		}
	}
	read := 0
	for _, topic := range b.topics {
		for q := range int32(2) {
			low, high, err := b.s.Bounds(topic, q)
			if err != nil {
				t.Fatal(err)
			}
			want := readAll(t, was.s, topic, q, low, int(high-low))
			got := readAll(t, b.s, topic, q, low, int(high-low))
			if fmt.Sprint(got) != fmt.Sprint(want) || len(got) != int(high-low) {
				t.Fatalf("topic %d queue %d has %d messages of %d..%d", topic, q, len(got), low, high)
			}
			read += len(got)
			for i := range got {
				b.find(was, topic, q, &got[i])
			}
		}
	}
	if read < 100 {
		t.Fatalf("only %d messages were compared", read)
	}
	for _, s := range []*Store{was.s, b.s} { // its keys are in the first parts
		if at, ok, err := s.DelayedByID(b.topics[0], "delayed-3"); err != nil || !ok || at.Due != epoch.Add(12*time.Minute+40*time.Hour).UnixMilli() {
			t.Errorf("timer by its id: %+v, %v, %v", at, ok, err)
		}
	}
	if err := pop.Check(b.s.Reader()); err != nil {
		t.Error(err)
	}
	mustVerify(t, b.s)
}

// find looks one message up in every way, here and there.
func (b *busy) find(was *busy, topic kvindex.ID, queue int32, m *message.Message) {
	t := b.t
	t.Helper()
	byPosition(t, b.s, *m)
	for _, boundary := range []Boundary{Lower, Upper} {
		want, werr := was.s.OffsetByTime(topic, queue, m.StoreTimestamp, boundary)
		if boundary == Upper {
			_, high, err := b.s.Bounds(topic, queue)
			if werr = errors.Join(werr, err); want >= high {
				want = high - 1
			}
		}
		if got, err := b.s.OffsetByTime(topic, queue, m.StoreTimestamp, boundary); err != nil || werr != nil || got != want {
			t.Fatalf("topic %d queue %d at %d: offset %d, %v; want %d, %v", topic, queue, m.StoreTimestamp, got, err, want, werr)
		}
	}
	id, _ := message.Property(m.Properties, message.PropUniqueKey)
	for _, s := range []*Store{was.s, b.s} {
		byID(t, s, topic, string(id), string(m.Body), m.QueueOffset)
	}
}

// rowTexts are the rows of a space. Of bounds it leaves out what a queue has in the tier.
func rowTexts(t *testing.T, r kvindex.Reader, space kvindex.Space) (out []string) {
	t.Helper()
	lower := []byte{byte(space)}
	err := kvindex.EachRow(r, lower, kvindex.PrefixEnd(lower), func(key, val []byte) (bool, error) {
		if space == kvindex.SpaceQueue {
			q, err := decodeBounds(val)
			if err != nil {
				return false, err
			}
			q.local = q.min
			val = q.appendTo(nil)
		}
		_, k, v := kvindex.Describe(key, val)
		out = append(out, k+" = "+v+fmt.Sprintf(" %x", val))
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A machine that has nothing gets all that was uploaded: with the newest snapshot, with the one before and the log behind it, and with
// the log alone. What came later is not there.
func TestRestoreFromTheTier(t *testing.T) {
	for _, how := range []string{"newest", "damaged", "log"} {
		t.Run(how, func(t *testing.T) {
			b := newBusy(t)
			b.run(40)
			// Some of it is offloaded, the log stays for the comparison.
			if err := b.s.Offload(context.Background(), b.now()-time.Hour.Milliseconds()); err != nil {
				t.Fatal(err)
			}
			b.run(20)
			b.round() // of which the tier has nothing, or little
			man := b.manifest()
			usable := man.Usable()
			parts := man.Parts
			end := parts[len(parts)-1].End
			if len(usable) != 2 || usable[0].Position != end || usable[1].Position >= usable[0].Position {
				t.Fatalf("usable snapshots %+v, the parts end at %d", usable, end)
			}
			want := usable[0].Position
			switch how {
			case "damaged":
				b.damage(usable[0].Name())
				want = usable[1].Position
			case "log":
				_, err := b.o.Tier.Manifests().Commit(context.Background(), func(next *tiered.Manifest) error {
					next.Snapshots = nil
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				want = 0
			}
			r, got := b.restored()
			if got.Snapshot != want || got.End != end || got.Until != parts[len(parts)-1].Until || (got.LogBytes > 0) != (want < end) {
				t.Fatalf("%+v, want snapshot %d", got, want)
			}
			if how != "log" && r.s.log.First() < parts[len(parts)-3].Start {
				t.Fatalf("the log begins at %d", r.s.log.First())
			}
			r.same(b, end)
			mustClose(t, r.s)
			r.open()
			r.same(b, end)
			r.goesOn(b)
			mustClose(t, r.s)
			mustClose(t, b.s)
		})
	}
}

// damage changes a byte of an object.
func (b *busy) damage(name string) {
	b.t.Helper()
	flip(b.t, vfs.Default, b.folder+"/"+name, 200)
}

// goesOn has traffic behind a restore, which the tier gets, and which is there after the next restore. The old owner is told.
func (b *busy) goesOn(old *busy) {
	t := b.t
	t.Helper()
	old.round()
	old.round()
	old.round()
	old.round()
	var superseded *tiered.SupersededError
	if _, _, err := old.s.Upload(context.Background()); !errors.As(err, &superseded) {
		t.Fatalf("the old owner uploaded: %v", err)
	}
	_, high, err := b.s.Bounds(b.topics[0], 0)
	if err != nil {
		t.Fatal(err)
	}
	parts := len(b.manifest().Parts)
	b.popped = min(b.popped, high) // the pops go on where the lost ones began
	b.run(20)
	if n := len(b.manifest().Parts); n < parts+3 {
		t.Fatalf("%d parts were %d", n, parts)
	}
	mustVerify(t, b.s)
	r, got := b.restored()
	_, high, err = r.s.Bounds(b.topics[0], 0)
	if err != nil || got.Snapshot == 0 {
		t.Fatal(got, err)
	}
	want := readAll(t, b.s, b.topics[0], 0, 0, int(high))
	if again := readAll(t, r.s, b.topics[0], 0, 0, int(high)); fmt.Sprint(again) != fmt.Sprint(want) || len(again) != int(high) {
		t.Fatalf("%d of %d (%d) messages after the next restore", len(again), high, len(want))
	}
	mustVerify(t, r.s)
	mustClose(t, r.s)
}

// A restore that was broken off is begun anew; a folder that has something else is left alone.
func TestARestoreBeginsAnew(t *testing.T) {
	b := newBusy(t)
	b.run(30)
	mustClose(t, b.s)
	o := b.o
	p := newPlace(t)
	o.FS, o.Dir, o.Tier = p.fs, p.dir, openTier(t, b.folder)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Restore(ctx, o); !errors.Is(err, context.Canceled) {
		t.Fatalf("restored: %v", err)
	}
	for _, half := range []string{logFolder, indexFolder, checkpointName(8)} {
		if err := o.FS.MkdirAll(o.path(half), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(context.Background(), o); !errors.Is(err, ErrRestoring) {
		t.Fatalf("half of it was opened: %v", err)
	}
	if _, err := Restore(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	s, err := Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if names, err := checkpoints(&o); err != nil || len(names) != 1 || names[0] == checkpointName(8) {
		t.Errorf("checkpoints %v, %v", names, err)
	}
	if _, err := Restore(context.Background(), o); !errors.Is(err, ErrLocked) {
		t.Errorf("restored under a store: %v", err)
	}
	mustVerify(t, s)
	mustClose(t, s)
	if _, err := Restore(context.Background(), o); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("restored over a store: %v", err)
	}
	if _, err := o.FS.Stat(o.path(restoreMark)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the mark is there: %v", err)
	}
	if id, ok, err := tiered.ReadIdentity(o.FS, o.Dir); err != nil || !ok || id.Store != (tiered.StoreID{1}) {
		t.Errorf("identity %+v, %v, %v", id, ok, err)
	}
}

func TestATierThatNothingCanBeRestoredFrom(t *testing.T) {
	o := testOptions(newPlace(t), clock.NewFake(epoch))
	if _, err := Restore(context.Background(), o); !errors.Is(err, ErrNoTier) {
		t.Errorf("without a tier: %v", err)
	}
	o.Tier = openTier(t, t.TempDir())
	if _, err := Restore(context.Background(), o); !errors.Is(err, tiered.ErrNoManifest) {
		t.Errorf("from nothing: %v", err)
	}
	if _, err := o.Tier.Manifests().Claim(context.Background(), tiered.StoreID{1}); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(context.Background(), o); !errors.Is(err, ErrNoSnapshot) {
		t.Errorf("from an empty tier: %v", err)
	}
}

// Without an end of a segment to take it at, and with uploads far behind, there is a snapshot after a while.
func TestASnapshotIsMadeOfAViewThatNobodySetAside(t *testing.T) {
	b := newBusy(t)
	for range 20 {
		b.round()
	}
	if err := b.s.sealed.drop(); err != nil {
		t.Fatal(err)
	}
	if _, done, err := b.s.Upload(context.Background()); done || err != nil {
		t.Fatal(done, err)
	}
	snapshot := func() []tiered.Snapshot {
		t.Helper()
		if err := b.s.Snapshot(context.Background()); err != nil {
			t.Fatal(err)
		}
		return b.manifest().Snapshots
	}
	if got := snapshot(); len(got) != 1 || got[0].Position != b.s.Stats().Applied || len(b.manifest().Usable()) != 0 {
		t.Fatalf("snapshots %+v", got)
	}
	b.round()
	if got := snapshot(); len(got) != 1 {
		t.Fatalf("one that waits for its parts was not enough: %+v", got)
	}
	b.run(20)
	if usable := b.manifest().Usable(); len(usable) != 2 {
		t.Fatalf("usable %+v", usable)
	}
	mustVerify(t, b.s)
	mustClose(t, b.s)
}

// Snapshots leave out what the parts have: they do not grow with what was stored.
func TestASnapshotDoesNotGrowWithTheLog(t *testing.T) {
	b := newBusy(t)
	b.run(30)
	first := b.manifest().Usable()[0]
	for range 60 {
		b.round()
		mustUpload(t, b.s)
		if err := b.s.Snapshot(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	last := b.manifest().Usable()[0]
	rows := 0
	r, err := b.o.Tier.SnapshotRows(context.Background(), &last)
	if err != nil {
		t.Fatal(err)
	}
	for r.Next() {
		if key, _ := r.Row(); bytes.HasPrefix(key, []byte{byte(kvindex.SpaceConsumeQueue)}) {
			rows++
		}
	}
	if err := r.Close(); err != nil || rows > 12 || last.Bytes > 3*first.Bytes {
		t.Errorf("%d runs, %d bytes of %d, %v", rows, last.Bytes, first.Bytes, err)
	}
	mustClose(t, b.s)
}
