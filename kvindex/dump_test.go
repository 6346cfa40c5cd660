package kvindex

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// declaredSpaces reads the Space constants out of keys.go.
func declaredSpaces(t *testing.T) map[string]Space {
	file, err := parser.ParseFile(token.NewFileSet(), "keys.go", nil, parser.ParseComments)
	must(t, err)
	out := map[string]Space{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if id, ok := spec.Type.(*ast.Ident); ok && id.Name == "Space" {
			v, err := strconv.ParseUint(spec.Values[0].(*ast.BasicLit).Value, 0, 8)
			must(t, err)
			out[spec.Names[0].Name] = Space(v)
			doc := spec.Doc.Text()
			if !strings.Contains(doc, "┌") || !strings.Contains(doc, "Owner: ") || !strings.Contains(doc, "Since format") {
				t.Errorf("%s: its comment needs a drawing, \"Owner: …\" and \"Since format …\"", spec.Names[0].Name)
			}
		}
		return true
	})
	return out
}

func TestEverySpaceCanBePrinted(t *testing.T) {
	declared := declaredSpaces(t)
	if len(declared) < 14 || len(declared) != len(spaceInfos) {
		t.Errorf("keys.go declares %d spaces, spaces.go describes %d", len(declared), len(spaceInfos))
	}
	for name, space := range declared {
		info := spaceByByte[space]
		if info == nil {
			t.Errorf("%s has no entry in spaceInfos (spaces.go): add its name and key printer", name)
			continue
		}
		if got, ok := ParseSpace(space.String()); !ok || got != space {
			t.Errorf("%s: its name %q is not unique", name, space)
		}
	}
	if !slices.IsSorted(Spaces()) || len(Spaces()) != len(declared) {
		t.Errorf("spaces are not in key order: %v", Spaces())
	}
	if Space(0xee).String() != "space-ee" {
		t.Errorf("an unknown space is called %s", Space(0xee))
	}
	if _, ok := ParseSpace("nonsense"); ok {
		t.Error("nonsense is a space")
	}
}

func TestDescribe(t *testing.T) {
	const ms = 1_795_255_200_123 // 2026-11-21
	for want, key := range map[string][]byte{
		"applied ":                              {byte(SpaceApplied)},
		"meta name=format":                      AppendMetaKey(nil, "format"),
		"topic-name name=%RETRY%g":              AppendTopicNameKey(nil, "%RETRY%g"),
		"topic-id topic=7":                      AppendTopicIDKey(nil, 7),
		`group-name name="with space"`:          AppendGroupNameKey(nil, "with space"),
		"group-id group=8":                      AppendGroupIDKey(nil, 8),
		`kv-config namespace=n key=""`:          AppendKVConfigKey(nil, "n", ""),
		"queue topic=7 queue=3":                 AppendQueueKey(nil, 7, 3),
		"consume-queue topic=7 queue=3 last=99": AppendConsumeQueueKey(nil, 7, 3, 99),
		"key-index hour=498682(2026-11-21T10Z) topic=7 kind=key hash=00000000000000ff stored=2026-11-21T10:00:00.123Z position=4096": AppendKeyIndexKey(
			nil, HourOf(ms), 7, IndexKey, 255, ms, 4096),
		"bucket hour=498682(2026-11-21T10Z) topic=7 queue=3":                            AppendBucketKey(nil, HourOf(ms), 7, 3),
		"cursor group=8 topic=7 queue=3":                                                AppendCursorKey(nil, 8, 7, 3),
		"checkpoint group=8 topic=7 visible=2026-11-21T10:00:00.123Z queue=3 offset=12": AppendCheckpointKey(nil, 8, 7, ms, 3, 12),
		"counter group=8 topic=7":                                                       AppendCounterKey(nil, 8, 7),
		"order group=8 topic=7 kind=line queue=3 line=00000000000000ff":                 AppendOrderLineKey(nil, 8, 7, OrderLine, 3, 255),
		"order group=8 topic=7 kind=parked queue=3 line=00000000000000ff offset=12":     AppendOrderParkedKey(nil, 8, 7, 3, 255, 12),
		"order group=8 topic=7 kind=ready since=9 queue=3 line=00000000000000ff":        AppendOrderPlaceKey(nil, 8, 7, OrderReady, 9, 3, 255),
		"order group=8 topic=7 kind=turn visible=2026-11-21T10:00:00.123Z queue=3 line=00000000000000ff": AppendOrderPlaceKey(
			nil, 8, 7, OrderTurn, ms, 3, 255),
		"order malformed key 0x0000000000000008000000000000000700": append(AppendOrderTopicPrefix(nil, 8, 7), 0),
		"queue malformed key 0x0000":                               {byte(SpaceQueue), 0, 0},
		"topic-id malformed key 0x000000000000000700":              append(AppendTopicIDKey(nil, 7), 0),
		"kv-config malformed key 0xffff61":                         {byte(SpaceKVConfig), 0xff, 0xff, 'a'},
		"space-ee 0x01":                                            {0xee, 1},
		"none empty key":                                           {},
	} {
		space, text, _ := Describe(key, nil)
		if got := space + " " + text; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	for want, row := range map[string][2][]byte{
		"end=5 index=6 timestamp=1970-01-01T00:00:00.007Z": {appliedKey, Applied{5, 6, 7}.append(nil)},
		"0x01":      {appliedKey, {1}},
		"version=1": {AppendMetaKey(nil, "format"), {0, 0, 0, 1}},
		"0x02":      {AppendMetaKey(nil, "format"), {2}},
		"0x03":      {AppendQueueKey(nil, 1, 1), {3}},
		"empty":     {AppendQueueKey(nil, 1, 1), nil},
	} {
		if _, _, got := Describe(row[0], row[1]); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestRegisterValue(t *testing.T) {
	const space = SpaceCounter
	RegisterValue(space, func(key, value []byte) string { return fmt.Sprintf("%d bytes of key, %s", len(key), value) })
	defer func() { values.print[space] = nil }()
	if _, _, got := Describe(AppendCounterKey(nil, 1, 2), []byte("v")); got != "17 bytes of key, v" {
		t.Errorf("printed %q", got)
	}
	for _, s := range []Space{space, 0xee} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("a second printer for %v, or one for no space, is taken", s)
				}
			}()
			RegisterValue(s, func(_, _ []byte) string { return "" })
		}()
	}
}

func TestDump(t *testing.T) {
	eachEngine(t, func(t *testing.T, opts Options) {
		e := mustOpen(t, opts)
		defer e.Close()
		commit(t, e, func(w Writer) {
			w.Set(AppendTopicIDKey(nil, 1), []byte("a"))
			w.Set(AppendTopicIDKey(nil, 2), []byte("b"))
			w.Set(AppendQueueKey(nil, 1, 0), []byte("c"))
			w.Set(appliedKey, Applied{1, 2, 3}.append(nil))
		})
		all := "applied = end=1 index=2 timestamp=1970-01-01T00:00:00.003Z\n" +
			"meta name=format = version=1\n" +
			"topic-id topic=1 = 0x61\ntopic-id topic=2 = 0x62\nqueue topic=1 queue=0 = 0x63\n"
		for _, c := range []struct {
			space Space
			limit int
			want  string
		}{
			{AllSpaces, 0, all},
			{AllSpaces, 1, all[:strings.Index(all, "meta")]},
			{SpaceTopicID, -1, "topic-id topic=1 = 0x61\ntopic-id topic=2 = 0x62\n"},
			{SpaceTopicID, 1, "topic-id topic=1 = 0x61\n"},
			{SpaceCursor, 0, ""},
		} {
			var out strings.Builder
			must(t, Dump(&out, e, c.space, c.limit))
			if out.String() != c.want {
				t.Errorf("dump of %v, %d:\n%s\nwant\n%s", c.space, c.limit, out.String(), c.want)
			}
		}
		if err := Dump(brokenPipe{}, e, AllSpaces, 0); !errors.Is(err, errPassing) {
			t.Errorf("dump to a broken pipe: %v", err)
		}
	})
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errPassing }

func TestDiff(t *testing.T) {
	open := func(rows ...string) Engine {
		e := mustOpen(t, Options{FS: vfs.NewMem(), Dir: "x"})
		t.Cleanup(func() { must(t, e.Close()) })
		commit(t, e, func(w Writer) {
			for _, r := range rows {
				k, v, _ := strings.Cut(r, "=")
				w.Set(AppendTopicNameKey(nil, k), []byte(v))
			}
		})
		return e
	}
	for _, c := range []struct{ a, b, want string }{
		{"a=1 b=2", "a=1 b=2", ""},
		{"a=1 b=2", "a=1", "only the first has topic-name name=b = 0x32"},
		{"a=1", "a=1 b=2", "only the second has topic-name name=b = 0x32"},
		{"a=1 c=2", "a=1 b=2 c=2", "only the second has topic-name name=b = 0x32"},
		{"a=1 b=2 c=2", "a=1 c=2", "only the first has topic-name name=b = 0x32"},
		{"a=1 b=2", "a=1 b=3", "topic-name name=b: the first has 0x32, the second 0x33"},
	} {
		a, b := open(strings.Fields(c.a)...), open(strings.Fields(c.b)...)
		got, err := Diff(a, b)
		must(t, err)
		if got != c.want {
			t.Errorf("%s against %s: %q, want %q", c.a, c.b, got, c.want)
		}
	}
	RegisterValue(SpaceTopicName, func(_, _ []byte) string { return "the same" })
	defer func() { values.print[SpaceTopicName] = nil }()
	got, err := Diff(open("a=1"), open("a=2"))
	must(t, err)
	if got != "topic-name name=a: the first has 0x31, the second 0x32" {
		t.Errorf("values that print alike: %q", got)
	}
}

func TestFormatVersion(t *testing.T) {
	eachEngine(t, func(t *testing.T, opts Options) {
		e := mustOpen(t, opts)
		key := AppendMetaKey(nil, "format")
		val, ok, err := e.Get(key, nil)
		must(t, err)
		if !ok || binary.BigEndian.Uint32(val) != FormatVersion {
			t.Fatalf("a new index has format %x %v", val, ok)
		}
		reopen := func(f func(w Writer)) error {
			commit(t, e, f)
			must(t, e.Flush())
			must(t, e.Close())
			broken, err := Open(opts)
			if err == nil {
				e = broken
				return nil
			}
			raw := opts // past the check, to try the next thing
			raw.setDefaults()
			if raw.Kind == KindPebble {
				e, _ = openPebble(raw)
			} else {
				e, _ = openRocksDB(raw)
			}
			return err
		}
		must(t, reopen(func(w Writer) { w.Set(userKey("a"), []byte("1")) }))
		var fe *FormatError
		err = reopen(func(w Writer) { w.Set(key, []byte{0, 0, 0, FormatVersion + 1}) })
		if !errors.As(err, &fe) || fe.Found != FormatVersion+1 || fe.Known != FormatVersion || !strings.Contains(err.Error(), "newer program") {
			t.Fatalf("a newer format: %v", err)
		}
		var re *RowError
		if err = reopen(func(w Writer) { w.Set(key, []byte{1}) }); !errors.As(err, &re) || !bytes.Equal(re.Key, key) {
			t.Fatalf("a damaged format row: %v", err)
		}
		if err = reopen(func(w Writer) { w.Delete(key) }); !errors.As(err, &fe) || fe.Found != 0 {
			t.Fatalf("rows without a format: %v", err)
		}
		must(t, reopen(func(w Writer) { w.Delete(userKey("a")) })) // empty again
		must(t, e.Close())
	})
}

func TestReadApplied(t *testing.T) {
	e := mustOpen(t, testOptions(KindPebble, "x"))
	defer e.Close()
	if a, err := ReadApplied(e); err != nil || a != (Applied{}) {
		t.Fatalf("%+v %v", a, err)
	}
	var re *RowError
	commit(t, e, func(w Writer) { w.Set(appliedKey, []byte("short")) })
	if _, err := ReadApplied(e); !errors.As(err, &re) || !strings.Contains(err.Error(), "damaged row applied") {
		t.Fatalf("a damaged applied row: %v", err)
	}
	commit(t, e, func(w Writer) { w.Set(appliedKey, Applied{End: -1}.append(nil)) })
	if _, err := ReadApplied(e); !errors.As(err, &re) {
		t.Fatalf("a negative position: %v", err)
	}
}

func TestOpenErrors(t *testing.T) {
	if _, err := Open(Options{Dir: "x", Kind: "leveldb"}); err == nil || !strings.Contains(err.Error(), `"rocksdb"`) {
		t.Errorf("an unknown engine: %v", err)
	}
	if _, err := Open(Options{}); err == nil {
		t.Error("no folder is needed")
	}
	if len(engineKinds) == 1 {
		_, err := Open(Options{Dir: "x", Kind: KindRocksDB})
		if !errors.Is(err, ErrNotBuilt) || !strings.Contains(err.Error(), "-tags grocksdb") {
			t.Errorf("rocksdb without the tag: %v", err)
		}
	}
}

func TestPrefixEnd(t *testing.T) {
	for in, want := range map[string]string{"a": "b", "a\xff": "b", "\x01\xff\xff": "\x02"} {
		if got := PrefixEnd([]byte(in)); string(got) != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if PrefixEnd([]byte("\xff\xff")) != nil || PrefixEnd(nil) != nil {
		t.Error("there is something after the last key")
	}
}

// TestHashKeyStaysTheSame: the hash is on disk.
func TestHashKeyStaysTheSame(t *testing.T) {
	for in, want := range map[string]uint64{"": 0xef46db3751d8e999, "a": 0xd24ec4f1a98c6e5b, "abc": 0x44bc2cf5ad770999} {
		if got := HashKey(in); got != want {
			t.Errorf("%q: %x, want %x", in, got, want)
		}
	}
	key := strings.Repeat("k", 50)
	if n := testing.AllocsPerRun(100, func() { _ = HashKey(key) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestHashIDKeepsNeighboursTogether: ids that one producer counts up differ in the low bits only; what is no such id has
// the hash of a key. The hash is on disk.
func TestHashIDKeepsNeighboursTogether(t *testing.T) {
	const first, next = "0100155DBE9A0C4A300569DC5F00000009", "0100155DBE9A0C4A300569DC5F0000000a"
	if a, b := HashID(first), HashID(next); b != a+1 || a != 0xfd7192df00000009 {
		t.Errorf("%x, %x", a, b)
	}
	for _, other := range []string{"", "0000000F", "order-of-the-customer-4711", strings.Repeat("z", 32)} {
		if HashID(other) != HashKey(other) {
			t.Errorf("%q: %x", other, HashID(other))
		}
	}
	if n := testing.AllocsPerRun(100, func() { _ = HashID(first) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if IndexUniqueID.Hash(first) != HashID(first) || IndexKey.Hash(first) != HashKey(first) {
		t.Error("the kinds have each other's hash")
	}
}

// FuzzDescribe: a damaged row can always be printed, on one line, and what decodes as an applied row encodes to the same bytes.
func FuzzDescribe(f *testing.F) {
	for _, s := range Spaces() {
		f.Add([]byte{byte(s)}, []byte("value"))
		f.Add(append([]byte{byte(s)}, bytes.Repeat([]byte{0, 0, 0, 0, 0, 0, 0, 7}, 5)...), Applied{1, 2, 3}.append(nil))
	}
	f.Add(AppendKVConfigKey(nil, "a", "b"), []byte{})
	f.Fuzz(func(t *testing.T, key, value []byte) {
		space, k, v := Describe(key, value)
		if space == "" || v == "" || strings.ContainsAny(space+k+v, "\n\r\x00") {
			t.Fatalf("%x: %q %q %q", key, space, k, v)
		}
		if a, ok := decodeApplied(value); ok && !bytes.Equal(a.append(nil), value) {
			t.Fatalf("%x does not survive decoding", value)
		}
	})
}
