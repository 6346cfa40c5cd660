package tiered

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/tiered/objects"
)

// remake makes the objects of a part anew with bytes from zero on cleared.
func (w *world) remake(t *testing.T, old Part, raw []byte, zero int) (p Part, log, table []byte) {
	t.Helper()
	p = old
	var bodies, rows bytes.Buffer
	b, err := NewBodiesWriter(&bodies, p.Start)
	must(t, err)
	raw = bytes.Clone(raw)
	clear(raw[zero:])
	_, err = b.Write(raw)
	must(t, err)
	sum, err := b.Close()
	must(t, err)
	p.LogBytes, p.LogCRC, p.LiveBytes = sum.Bytes, sum.CRC, int64(zero)
	sum = w.table(t, &rows, p)
	p.TableBytes, p.TableCRC = sum.Bytes, sum.CRC
	return p, bodies.Bytes(), rows.Bytes()
}

// A part that is made anew is read from then on; the old objects stay for who reads them, and are orphans after the grace time.
func TestAPartIsReplaced(t *testing.T) {
	w := newWorld(t, 7, 3)
	s := newFake(t)
	tier := w.tier(t, s, Options{})
	_, err := tier.Manifests().Claim(background, StoreID{1})
	must(t, err)
	old := tier.parts()[1]
	raw := w.raw(t, w.sealed(t)[1])
	got, err := io.ReadAll(tier.Bodies(background, &old))
	must(t, err)
	if !bytes.Equal(got, raw) {
		t.Fatalf("%d bytes of %d are read in order", len(got), len(raw))
	}
	const zero = 1000
	p, log, table := w.remake(t, old, raw, zero)
	stale := another(t, s)
	p, err = tier.Replace(background, old, p, bytes.NewReader(log), bytes.NewReader(table))
	must(t, err)
	if now := tier.parts()[1]; now != p || now.Generation == old.Generation || now.LiveBytes != zero {
		t.Fatalf("the manifest has %+v, want %+v", now, p)
	}
	check := func(who string, tier *Tier, want []byte) {
		t.Helper()
		got, err := tier.ReadRaw(background, old.Start, len(raw), nil)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", who, len(got), err)
		}
	}
	cleared := append(bytes.Clone(raw[:zero]), make([]byte, len(raw)-zero)...)
	check("who knows of it", tier, cleared)
	check("who does not", stale, raw)

	if _, err := tier.Replace(background, old, p, bytes.NewReader(log), bytes.NewReader(table)); err == nil {
		t.Error("what is not there any more is replaced")
	}
	moved := p
	moved.End++
	if _, err := tier.Replace(background, p, moved, bytes.NewReader(log), bytes.NewReader(table)); err == nil {
		t.Error("a part of other positions takes its place")
	}

	late := another(t, s) // of the new manifest
	again := another(t, s)
	orphans, err := tier.Manifests().Orphans(background, 0, time.Now().Add(time.Hour))
	must(t, err)
	found := 0
	for _, o := range orphans {
		if o.Name == old.LogName() || o.Name == old.TableName() {
			found++
		}
		if o.Name == p.LogName() || o.Name == p.TableName() {
			t.Errorf("%s is an orphan", o.Name)
		}
		must(t, s.Delete(background, o.Name))
	}
	if found != 2 {
		t.Errorf("%d of the two old objects are orphans", found)
	}
	check("who reads later", late, cleared)

	must(t, tier.Remove(background, old.End))
	if _, err := tier.ReadRaw(background, old.Start, 10, nil); !errors.Is(err, commitlog.ErrGone) {
		t.Errorf("what was removed: %v", err)
	}
	must(t, again.Refresh(background))
	if parts := again.parts(); len(parts) != len(late.parts())-2 || parts[0].Start < old.End {
		t.Errorf("%d parts are left", len(parts))
	}
}

// another opens a tier as another process does.
func another(t *testing.T, s objects.Store) *Tier {
	t.Helper()
	tier, err := Open(background, s, Options{})
	must(t, err)
	t.Cleanup(tier.Close)
	return tier
}

// A try at a replacement that fails leaves the old part, whatever was carried out of it.
func TestAReplacementThatFailsLeavesTheOldPart(t *testing.T) {
	w := newWorld(t, 8, 2)
	s := newFake(t)
	tier := w.tier(t, s, Options{})
	old := tier.parts()[0]
	raw := w.raw(t, w.sealed(t)[0])
	p, log, table := w.remake(t, old, raw, 0)
	broken := errors.New("no answer")
	s.onCreate(func(string, func() error) error { return broken })
	if _, err := tier.Replace(background, old, p, bytes.NewReader(log), bytes.NewReader(table)); !errors.Is(err, broken) {
		t.Fatalf("replaced: %v", err)
	}
	s.onCreate(nil)
	if _, err := tier.Replace(background, old, p, bytes.NewReader(log[1:]), bytes.NewReader(table)); err == nil {
		t.Fatal("an object that is too short is taken")
	}
	must(t, tier.Refresh(background))
	if tier.parts()[0] != old {
		t.Errorf("the manifest has %+v", tier.parts()[0])
	}
	got, err := tier.ReadRaw(background, old.Start, len(raw), nil)
	if err != nil || !bytes.Equal(got, raw) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
