package tiered

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/tiered/objects"
)

var someHead = SnapshotHead{RowFormat: 1, Log: 7, Term: 1, End: 4096, Index: 9, Timestamp: 1000}

type pair struct{ key, value string }

// somePairs has rows of all sizes, empty values among them.
func somePairs(n int) (rows []pair) {
	for i := range n {
		rows = append(rows, pair{fmt.Sprintf("key-%05d", i), string(bytes.Repeat([]byte{byte(i)}, i*i%3000))})
	}
	return rows
}

func makeSnapshot(t testing.TB, head SnapshotHead, rows []pair) ([]byte, Sum) {
	t.Helper()
	var out bytes.Buffer
	w, err := NewSnapshotWriter(&out, head)
	must(t, err)
	for _, r := range rows {
		must(t, w.Add([]byte(r.key), []byte(r.value)))
	}
	sum, err := w.Close()
	must(t, err)
	if sum.Bytes != int64(out.Len()) || w.Rows() != uint64(len(rows)) {
		t.Fatalf("%d bytes, %d rows", sum.Bytes, w.Rows())
	}
	return out.Bytes(), sum
}

func readPairs(r io.Reader) (head SnapshotHead, rows []pair, err error) {
	s, err := ReadSnapshot("s", r)
	if err != nil {
		return head, nil, err
	}
	for s.Next() {
		key, value := s.Row()
		rows = append(rows, pair{string(key), string(value)})
	}
	return s.Head, rows, s.Close()
}

func TestASnapshotIsReadAsItWasWritten(t *testing.T) {
	for _, n := range []int{0, 1, 2000} {
		want := somePairs(n)
		raw, _ := makeSnapshot(t, someHead, want)
		head, rows, err := readPairs(iotest.HalfReader(bytes.NewReader(raw)))
		if err != nil || head != someHead || !slices.Equal(rows, want) {
			t.Fatalf("%d of %d rows of %+v, %v", len(rows), n, head, err)
		}
	}
}

// Whatever becomes of the bytes, who comes to the end has what was written.
func TestADamagedSnapshotIsNotReadToItsEnd(t *testing.T) {
	want := somePairs(40)
	raw, _ := makeSnapshot(t, someHead, want)
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 0x20
		var damage *DamageError
		if _, rows, err := readPairs(bytes.NewReader(bad)); !errors.As(err, &damage) && !slices.Equal(rows, want) {
			t.Fatalf("byte %d: %d rows, %v", i, len(rows), err)
		}
		if _, rows, err := readPairs(bytes.NewReader(raw[:i])); !errors.As(err, &damage) {
			t.Fatalf("cut at %d: %d rows, %v", i, len(rows), err)
		}
	}
	var damage *DamageError
	if _, _, err := readPairs(io.MultiReader(bytes.NewReader(raw), bytes.NewReader([]byte{1}))); !errors.As(err, &damage) {
		t.Fatalf("a byte behind it: %v", err)
	}
}

// That the store cannot be read says nothing about the object.
func TestAnUnreadableSnapshotIsNotDamaged(t *testing.T) {
	raw, _ := makeSnapshot(t, someHead, somePairs(40))
	for _, at := range []int{0, 30, snapshotHead, snapshotHead + 50, len(raw)} {
		broken := io.MultiReader(bytes.NewReader(raw[:at]), iotest.ErrReader(errHiccup))
		if _, _, err := readPairs(broken); !errors.Is(err, errHiccup) || !Temporary(err) {
			t.Errorf("at %d: %v", at, err)
		}
	}
}

var errHiccup = errors.New("hiccup")

func TestRowsTooLargeForASnapshotAreRefused(t *testing.T) {
	w, err := NewSnapshotWriter(io.Discard, someHead)
	must(t, err)
	if err := w.Add([]byte("k"), make([]byte, maxSnapshotRow+1)); err == nil {
		t.Error("it was taken")
	}
	if _, err := w.Close(); err == nil {
		t.Error("the snapshot was finished")
	}
	if _, err := NewSnapshotWriter(io.Discard, SnapshotHead{RowFormat: 1}); err == nil {
		t.Error("a snapshot of nothing was begun")
	}
}

// snapshotTier is a tier with parts up to position 3000, claimed.
func snapshotTier(t *testing.T, s objects.Store) *Tier {
	t.Helper()
	tier, err := Open(context.Background(), s, Options{})
	must(t, err)
	t.Cleanup(tier.Close)
	_, err = tier.Manifests().Claim(context.Background(), StoreID{1})
	must(t, err)
	_, err = tier.Manifests().Commit(context.Background(), func(next *Manifest) error {
		for i := range int64(3) {
			next.Parts = append(next.Parts, Part{
				Start: record.Position(i * 1000), End: record.Position(i*1000 + 1000), From: i, Until: i + 1, LogBytes: 1, TableBytes: 1,
			})
		}
		return nil
	})
	must(t, err)
	return tier
}

func addSnapshot(t *testing.T, tier *Tier, at record.Position) Snapshot {
	t.Helper()
	head := someHead
	head.End = at
	raw, sum := makeSnapshot(t, head, somePairs(10))
	s, err := tier.AddSnapshot(context.Background(), Snapshot{Position: at, Bytes: sum.Bytes, CRC: sum.CRC}, bytes.NewReader(raw))
	must(t, err)
	return s
}

func positions(snapshots []Snapshot) (at []record.Position) {
	for _, s := range snapshots {
		at = append(at, s.Position)
	}
	return at
}

func TestTheNewestSnapshotsThatCanBeUsedAreKept(t *testing.T) {
	s := newFake(t)
	tier := snapshotTier(t, s)
	for _, at := range []record.Position{800, 1000, 3000, 3800} {
		addSnapshot(t, tier, at)
	}
	view := tier.Manifests().View()
	if got := positions(view.Snapshots); !slices.Equal(got, []record.Position{1000, 3000, 3800}) {
		t.Errorf("kept %v", got)
	}
	if got := positions(view.Usable()); !slices.Equal(got, []record.Position{3000, 1000}) {
		t.Errorf("usable %v", got)
	}
	if newest, ok := view.Newest(); !ok || newest.Position != 3800 {
		t.Errorf("newest %+v", newest)
	}
	snapshot := view.Usable()[0]
	rows, err := tier.SnapshotRows(context.Background(), &snapshot)
	must(t, err)
	n := 0
	for rows.Next() {
		n++
	}
	if err := rows.Close(); err != nil || n != 10 {
		t.Errorf("%d rows, %v", n, err)
	}

	// Who takes the tier over goes on from where the parts end.
	other, err := Open(context.Background(), s, Options{})
	must(t, err)
	t.Cleanup(other.Close)
	taken, err := other.TakeOver(context.Background())
	must(t, err)
	if got := positions(taken.Snapshots); !slices.Equal(got, []record.Position{1000, 3000}) || taken.Store != (StoreID{1}) {
		t.Errorf("taken over with %v", got)
	}
	raw, sum := makeSnapshot(t, someHead, nil)
	_, err = tier.AddSnapshot(context.Background(), Snapshot{Position: 4096, Bytes: sum.Bytes, CRC: sum.CRC}, bytes.NewReader(raw))
	var superseded *SupersededError
	if !errors.As(err, &superseded) {
		t.Errorf("who was superseded added a snapshot: %v", err)
	}
}

// An object that is whole but not the one that the manifest means is found out.
func TestASnapshotIsTheOneThatTheManifestMeans(t *testing.T) {
	s := newFake(t)
	tier := snapshotTier(t, s)
	snapshot := addSnapshot(t, tier, 2000)
	head := someHead
	head.End = 2000
	raw, _ := makeSnapshot(t, head, append(somePairs(9), pair{"key-00009", "other"}))
	for _, content := range [][]byte{raw, get(t, s, snapshot.Name())[:40]} {
		put(t, s, snapshot.Name(), content)
		rows, err := tier.SnapshotRows(context.Background(), &snapshot)
		if err == nil {
			for rows.Next() {
			}
			err = rows.Close()
		}
		var damage *DamageError
		if !errors.As(err, &damage) || Temporary(err) {
			t.Errorf("%d bytes: %v", len(content), err)
		}
	}
	must(t, s.Delete(context.Background(), snapshot.Name()))
	if _, err := tier.SnapshotRows(context.Background(), &snapshot); !errors.Is(err, objects.ErrNotFound) || Temporary(err) {
		t.Errorf("one that is gone: %v", err)
	}
}

func TestATierThatNobodyMadeIsNotTakenOver(t *testing.T) {
	tier, err := Open(context.Background(), newFake(t), Options{})
	must(t, err)
	t.Cleanup(tier.Close)
	if _, err := tier.TakeOver(context.Background()); !errors.Is(err, ErrNoManifest) || Temporary(err) {
		t.Errorf("%v", err)
	}
}

// FuzzSnapshot reads any bytes, as an object and as the rows of one, and what comes to the end is written again as it was.
func FuzzSnapshot(f *testing.F) {
	raw, _ := makeSnapshot(f, someHead, somePairs(20))
	f.Add(raw, []byte{})
	f.Add(raw[:snapshotHead], []byte{})
	f.Add([]byte{}, []byte("\x01k\x02vv\x00\x01"))
	f.Add([]byte{}, []byte("\x01k\xff\xff\xff\x07"))
	f.Fuzz(func(t *testing.T, object, rows []byte) {
		if len(rows) > 0 { // within a frame whose checksum is right
			object = frameOf(t, rows)
		}
		head, got, err := readPairs(bytes.NewReader(object))
		var damage *DamageError
		if err != nil {
			if !errors.As(err, &damage) {
				t.Fatal(err)
			}
			return
		}
		again, _ := makeSnapshot(t, head, got)
		if same, rows, err := readPairs(bytes.NewReader(again)); err != nil || same != head || !slices.Equal(rows, got) {
			t.Fatalf("%d rows became %d, %v", len(got), len(rows), err)
		}
	})
}

// frameOf is an object of these bytes in place of rows.
func frameOf(t *testing.T, rows []byte) []byte {
	var out bytes.Buffer
	w, err := NewSnapshotWriter(&out, someHead)
	must(t, err)
	_, err = w.enc.Write(rows)
	must(t, err)
	must(t, w.enc.Close())
	return out.Bytes()
}
