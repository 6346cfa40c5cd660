package tiered

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"hash/crc32"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/tiered/objects"
)

var (
	background = context.Background()
	ours       = StoreID{1, 2, 3}
)

// numbered is a part that can be told by its number.
func numbered(i int) Part {
	return Part{
		Start: record.Position(i * 1000), End: record.Position(i*1000 + 1000), From: int64(i * 10), Until: int64(i*10 + 10),
		Generation: 1, LogBytes: 100, TableBytes: 50, LiveBytes: 1000, Messages: int64(i),
	}
}

// adding adds a part unless it is there.
func adding(i int) func(*Manifest) error {
	return func(next *Manifest) error {
		p := numbered(i)
		at := partAt(next.Parts, p.Start)
		if at < len(next.Parts) && next.Parts[at].Start == p.Start {
			return nil
		}
		next.Parts = slices.Insert(next.Parts, at, p)
		return nil
	}
}

func claimed(t testing.TB, s objects.Store) *Manifests {
	t.Helper()
	m := NewManifests(s, 0)
	_, err := m.Claim(background, ours)
	must(t, err)
	return m
}

func commit(t testing.TB, m *Manifests, change func(*Manifest) error) *Manifest {
	t.Helper()
	view, err := m.Commit(background, change)
	must(t, err)
	return view
}

func load(t testing.TB, s objects.Store) *Manifest {
	t.Helper()
	view, err := NewManifests(s, 0).Load(background)
	must(t, err)
	return view
}

func TestManifestGrowsByGenerations(t *testing.T) {
	s := newFake(t)
	if _, err := NewManifests(s, 0).Load(background); !errors.Is(err, ErrNoManifest) {
		t.Fatalf("without a tier: %v", err)
	}
	if _, err := NewManifests(s, 0).Commit(background, adding(1)); !errors.Is(err, ErrNoManifest) {
		t.Fatalf("commit without a tier: %v", err)
	}
	m := claimed(t, s)
	for i := range 5 {
		commit(t, m, adding(i))
	}
	got := load(t, s)
	if got.Generation != 6 || got.Store != ours || got.Owner != m.Writer() || len(got.Parts) != 5 || got.Parts[3] != numbered(3) {
		t.Errorf("loaded %+v", got)
	}
	if _, err := m.Commit(background, func(next *Manifest) error {
		next.Parts[0].End = next.Parts[0].Start
		return nil
	}); err == nil {
		t.Error("an impossible manifest was committed")
	}
	if got := load(t, s); got.Generation != 6 || m.View().Parts[0] != numbered(0) {
		t.Errorf("after a refused commit: generation %d, %+v", got.Generation, m.View().Parts[0])
	}
}

// The newest manifest is found although the list is old, and an old one is not taken for it.
func TestManifestIsFoundBehindAStaleList(t *testing.T) {
	s := newFake(t)
	m := claimed(t, s)
	for i := range 5 {
		commit(t, m, adding(i))
	}
	s.onList(func(name string) bool { return name <= manifestName(3) })
	if got := load(t, s); got.Generation != 6 {
		t.Errorf("generation %d", got.Generation)
	}
	s.onList(func(string) bool { return false })
	got, err := NewManifests(s, 5).Load(background)
	must(t, err)
	if got.Generation != 6 {
		t.Errorf("generation %d", got.Generation)
	}
	var lost *LostError
	if _, err := NewManifests(s, 9).Load(background); !errors.As(err, &lost) || lost.Generation != 9 {
		t.Errorf("a generation that was known is gone: %v", err)
	}
	if _, err := NewManifests(s, 9).Claim(background, ours); !errors.As(err, &lost) {
		t.Errorf("claim of a tier that is gone: %v", err)
	}
}

// Of writers that commit at once none loses what it added.
func TestCommitsOfManyWriters(t *testing.T) {
	s := newFake(t)
	owner := claimed(t, s)
	var all sync.WaitGroup
	for w := range 4 {
		m := owner
		if w > 0 {
			m = NewManifests(s, 0) // a tool
		}
		all.Go(func() {
			for i := range 8 {
				if _, err := m.Commit(background, adding(w*100+i)); err != nil {
					t.Errorf("writer %d: %v", w, err)
				}
			}
		})
	}
	all.Wait()
	got := load(t, s)
	if len(got.Parts) != 32 || got.Generation != 33 || got.Owner != owner.Writer() {
		t.Errorf("%d parts in generation %d, owner %s", len(got.Parts), got.Generation, got.Owner)
	}
}

func TestLostAnswerOfACreate(t *testing.T) {
	s := newFake(t)
	m := claimed(t, s)
	timeout := errors.New("timeout")
	for i, answer := range []error{timeout, objects.ErrExists} {
		s.onCreate(func(_ string, real func() error) error {
			must(t, real())
			return answer
		})
		if got := commit(t, m, adding(i)); got.Generation != uint64(i+2) || len(got.Parts) != i+1 {
			t.Errorf("%v: generation %d, %d parts", answer, got.Generation, len(got.Parts))
		}
	}
	s.onCreate(func(string, func() error) error { return timeout })
	if _, err := m.Commit(background, adding(2)); !errors.Is(err, timeout) {
		t.Errorf("a create that was not made: %v", err)
	}
	s.onCreate(nil)
	// The answer is lost, and so is the look at what is there: the caller tries again.
	s.onCreate(func(_ string, real func() error) error { must(t, real()); return timeout })
	s.onRead(func(name string, _ []byte, _ int64, real func() (int, error)) (int, error) {
		if n, err := real(); name != manifestName(4) {
			return n, err
		} else if errors.Is(err, objects.ErrNotFound) {
			return n, err
		}
		return 0, timeout
	})
	if _, err := m.Commit(background, adding(2)); !errors.Is(err, timeout) {
		t.Errorf("nothing is known: %v", err)
	}
	s.onCreate(nil)
	s.onRead(nil)
	commit(t, m, adding(2))
	if got := load(t, s); len(got.Parts) != 3 {
		t.Errorf("%d parts", len(got.Parts))
	}
}

func TestWhoMayWrite(t *testing.T) {
	s := newFake(t)
	first := claimed(t, s)
	commit(t, first, adding(0))
	var foreign *ForeignError
	if _, err := NewManifests(s, 0).Claim(background, StoreID{9}); !errors.As(err, &foreign) || foreign.Have != ours {
		t.Errorf("another store: %v", err)
	}
	second := claimed(t, s)
	commit(t, second, adding(1))
	var superseded *SupersededError
	if _, err := first.Commit(background, adding(2)); !errors.As(err, &superseded) || superseded.Owner != second.Writer() {
		t.Errorf("the first owner: %v", err)
	}
	tool := NewManifests(s, 0)
	commit(t, tool, adding(3))
	commit(t, second, adding(4))
	if got := load(t, s); got.Owner != second.Writer() || len(got.Parts) != 4 {
		t.Errorf("owner %s, %d parts", got.Owner, len(got.Parts))
	}
}

// A process that slept between its look and its create, for so long that the generation which it creates was there and is gone,
// learns that it is late.
func TestCommitAfterALongSleep(t *testing.T) {
	s := newFake(t)
	sleeper := claimed(t, s)
	s.onCreate(func(name string, real func() error) error {
		s.onCreate(nil)
		other := claimed(t, s)
		for i := range 4 {
			commit(t, other, adding(i))
		}
		for g := range uint64(4) {
			must(t, s.Delete(background, manifestName(g+1)))
		}
		return real()
	})
	var superseded *SupersededError
	if _, err := sleeper.Commit(background, adding(9)); !errors.As(err, &superseded) {
		t.Fatalf("got %v", err)
	}
	if got := load(t, s); len(got.Parts) != 4 || got.Generation != 6 {
		t.Errorf("generation %d, %d parts", got.Generation, len(got.Parts))
	}
}

func TestOldPartsGoToPages(t *testing.T) {
	s := newFake(t)
	m := claimed(t, s)
	commit(t, m, func(next *Manifest) error {
		for i := range 5*pageParts + 10 {
			next.Parts = append(next.Parts, numbered(i))
		}
		return nil
	})
	pages := func() (names []string) {
		for info, err := range s.List(background, pagePrefix, "") {
			must(t, err)
			names = append(names, info.Name)
		}
		return names
	}
	made := pages()
	if n := len(get(t, s, manifestName(2))); len(made) != 4 || n > 32<<10 {
		t.Fatalf("pages %v, manifest of %d bytes", made, n)
	}
	commit(t, m, adding(5*pageParts+10))
	if again := pages(); !slices.Equal(again, made) {
		t.Fatalf("pages %v, before %v", again, made)
	}
	// Retention takes the first page and a bit, and makes a part in the third anew.
	commit(t, m, func(next *Manifest) error {
		next.Parts = next.Parts[pageParts+3:]
		i := partAt(next.Parts, 1000*(2*pageParts+7))
		next.Parts[i].Generation = 77
		return nil
	})
	got := load(t, s)
	if len(got.Parts) != 4*pageParts+8 || got.Parts[0].Start != 1000*(pageParts+3) || got.Parts[len(got.Parts)-1] != numbered(5*pageParts+10) {
		t.Fatalf("%d parts from %d on", len(got.Parts), got.Parts[0].Start)
	}
	if i := partAt(got.Parts, 1000*(2*pageParts+7)); got.Parts[i].Generation != 77 {
		t.Errorf("part %+v", got.Parts[i])
	}
	if len(pages()) != 6 || len(got.pages) != 3 || got.pages[2].name() != made[3] {
		t.Errorf("pages %v", pages())
	}
}

func TestOrphans(t *testing.T) {
	s := newFake(t)
	m := claimed(t, s)
	old, fresh := numbered(0), numbered(0)
	fresh.Generation = 2
	for _, p := range []Part{old, fresh, numbered(1)} {
		put(t, s, p.LogName(), []byte("l"))
		put(t, s, p.TableName(), []byte("t"))
	}
	put(t, s, "other/file", []byte("x"))
	commit(t, m, adding(0))
	commit(t, m, func(next *Manifest) error {
		next.Parts[0] = fresh
		return nil
	})
	names := func(grace time.Duration, at time.Time) (out []string) {
		t.Helper()
		found, err := m.Orphans(background, grace, at)
		must(t, err)
		for _, info := range found {
			out = append(out, info.Name)
		}
		slices.Sort(out)
		return out
	}
	now := time.Now()
	if got := names(time.Hour, now); len(got) != 0 {
		t.Errorf("within the grace time: %v", got)
	}
	want := []string{
		manifestName(1), manifestName(2), old.TableName(), old.LogName(), ptr(numbered(1)).TableName(), ptr(numbered(1)).LogName(),
	}
	slices.Sort(want)
	if got := names(time.Hour, now.Add(2*time.Hour)); !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if _, err := NewManifests(newFake(t), 0).Orphans(background, 0, now); !errors.Is(err, ErrNoManifest) {
		t.Errorf("without a manifest: %v", err)
	}
}

func ptr[T any](v T) *T { return &v }

func TestManifestDamage(t *testing.T) {
	s := newFake(t)
	m := claimed(t, s)
	commit(t, m, adding(0))
	raw := get(t, s, manifestName(2))
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 4
		put(t, s, manifestName(2), bad)
		if _, err := NewManifests(s, 0).Load(background); !isDamage(err) {
			t.Fatalf("byte %d: %v", i, err)
		}
	}
	for _, change := range []func(*manifestFile){
		func(f *manifestFile) { f.Format = 2 },
		func(f *manifestFile) { f.Generation = 3 },
		func(f *manifestFile) { f.Store = StoreID{} },
		func(f *manifestFile) { f.Owner = "" },
		func(f *manifestFile) { f.Parts = append(f.Parts, f.Parts...) },
		func(f *manifestFile) { f.Pages = []pageRef{{ID: "../../etc/passwd", Parts: 1}} },
		func(f *manifestFile) { f.Snapshots = []Snapshot{{Position: -1}} },
	} {
		f, err := decodeManifest("m", raw)
		must(t, err)
		change(f)
		bad, err := seal(f)
		must(t, err)
		put(t, s, manifestName(2), bad)
		if _, err := NewManifests(s, 0).Load(background); !isDamage(err) {
			t.Errorf("%+v: %v", f, err)
		}
	}
	newer, err := seal(map[string]any{"format": 1, "invention": true})
	must(t, err)
	if _, err := decodeManifest("m", newer); err == nil || !strings.Contains(err.Error(), "newer version") {
		t.Errorf("a field that is not known: %v", err)
	}
}

// A frame that becomes endless zeros ends at the bound.
func TestManifestBomb(t *testing.T) {
	enc, err := zstd.NewWriter(nil)
	must(t, err)
	raw := enc.EncodeAll(make([]byte, maxManifest+10), append([]byte(manifestMagic), 0, 0, 0, 0))
	must(t, enc.Close())
	le.PutUint32(raw[8:], crc32.Checksum(raw[manifestHead:], castagnoli))
	if _, err := decodeManifest("m", raw); !isDamage(err) {
		t.Errorf("%d bytes that become %d: %v", len(raw), maxManifest+10, err)
	}
}

func TestStoreIDText(t *testing.T) {
	var id StoreID
	text, err := json.Marshal(ours)
	must(t, err)
	must(t, json.Unmarshal(text, &id))
	if id != ours {
		t.Errorf("%s became %s", ours, id)
	}
	for _, bad := range []string{`""`, `"00"`, `"zz000000000000000000000000000000"`, `"0102030000000000000000000000000000"`} {
		if json.Unmarshal([]byte(bad), &id) == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

// Whatever lies under a manifest's name: an error, or a manifest that can be written again as it is.
func FuzzManifest(f *testing.F) {
	good, err := seal(&manifestFile{
		Format: manifestFormat, Store: ours, Generation: 3, Writer: "a", Owner: "b", Parts: []Part{numbered(1), numbered(2)},
		Pages:     []pageRef{{Start: 0, ID: "0123456789abcdef", Parts: 1}},
		Snapshots: []Snapshot{{Position: 5, Generation: 1, Bytes: 9}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, byte(0))
	f.Add([]byte(`{"format":1,"parts":[{}]}`), byte(2))
	f.Add(good[manifestHead:], byte(1))
	f.Fuzz(func(t *testing.T, raw []byte, frame byte) {
		switch frame % 3 { // as it is, with a right checksum, as JSON
		case 1:
			raw = append([]byte(manifestMagic+"\x00\x00\x00\x00"), raw...)
			le.PutUint32(raw[8:], crc32.Checksum(raw[manifestHead:], castagnoli))
		case 2:
			enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
			must(t, err)
			raw = enc.EncodeAll(raw, []byte(manifestMagic+"\x00\x00\x00\x00"))
			must(t, enc.Close())
			le.PutUint32(raw[8:], crc32.Checksum(raw[manifestHead:], castagnoli))
		}
		if parts, err := decodePage(&pageRef{Parts: 1, ID: "x", CRC: crc32.Checksum(raw, castagnoli)}, raw); err == nil {
			must(t, checkParts(parts))
		}
		got, err := decodeManifest("m", raw)
		if err != nil {
			return
		}
		again, err := seal(got)
		must(t, err)
		back, err := decodeManifest("m", again)
		must(t, err)
		if a, b := string(must2(json.Marshal(got))), string(must2(json.Marshal(back))); a != b {
			t.Fatalf("%s became %s", a, b)
		}
	})
}

func must2[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
