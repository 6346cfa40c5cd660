package message

import (
	"bytes"
	"errors"
	"maps"
	"testing"

	"pgregory.net/rapid"
)

// genProps makes properties as a hostile or an old client might: separators anywhere, few keys, so that they repeat.
func genProps(t *rapid.T) []byte {
	return []byte(rapid.StringOfN(rapid.RuneFrom([]rune{'a', 'b', 'ü', keyEnd, pairEnd}), 0, 30, -1).Draw(t, "properties"))
}

func genKey(t *rapid.T) string {
	return rapid.SampledFrom([]string{"a", "b", "ab", "ü", "other"}).Draw(t, "key")
}

func TestReadersAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		props := genProps(t)
		want := DecodeProperties(props)
		each := map[string]string{}
		EachProperty(props, func(key, value []byte) bool {
			each[string(key)] = string(value)
			return true
		})
		if !maps.Equal(each, want) {
			t.Fatalf("%q: EachProperty found %q, DecodeProperties %q", props, each, want)
		}
		for _, key := range []string{"a", "b", "ab", "ü", "", "a\x01", "\x01", "\x02"} {
			wantValue, wantOK := want[key]
			if value, ok := Property(props, key); ok != wantOK || string(value) != wantValue {
				t.Fatalf("%q: Property %q is %q, %v; want %q", props, key, value, ok, wantValue)
			}
		}
	})
}

func TestWritersActLikeAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		props := genProps(t)
		before := bytes.Clone(props)
		key := genKey(t)
		value := rapid.SampledFrom([]string{"1", "longer value", "石", "a\x01b"}).Draw(t, "value")

		want := DecodeProperties(props)
		delete(want, key)
		dropped := DropProperty(props, key)
		if got := DecodeProperties(dropped); !maps.Equal(got, want) {
			t.Fatalf("%q without %s is %q", props, key, dropped)
		}
		want[key] = value
		if got := AppendProperty(bytes.Clone(dropped), key, value); !maps.Equal(DecodeProperties(got), want) {
			t.Fatalf("%q and %s=%q is %q", dropped, key, value, got)
		}
		set := SetProperty(props, key, value)
		if !maps.Equal(DecodeProperties(set), want) {
			t.Fatalf("%q with %s=%q is %q", props, key, value, set)
		}
		if again := SetProperty(set, key, value); &again[0] != &set[0] {
			t.Fatalf("%q was copied to set what it has", set)
		}
		if !bytes.Equal(props, before) {
			t.Fatalf("%q was changed to %q", before, props)
		}
		if encoded := EncodeProperties(want); !maps.Equal(DecodeProperties(encoded), want) {
			t.Fatalf("%q is encoded as %q", want, encoded)
		}
	})
}

func TestWritersNeverTouchTheirInput(t *testing.T) {
	backing := []byte("a\x011\x02b\x012\x02the next record")
	before := bytes.Clone(backing)
	props := backing[:8] // with room behind it, unlike what Decode hands out
	SetProperty(props, "a", "x")
	SetProperty(props, "c", "x")
	DropProperty(props, "a")
	if !bytes.Equal(backing, before) {
		t.Errorf("%q was changed to %q", before, backing)
	}
	if kept := DropProperty(props, "c"); &kept[0] != &props[0] {
		t.Error("dropping nothing made a copy")
	}
}

func TestPropertiesExactly(t *testing.T) {
	for _, c := range []struct{ what, got, want string }{
		{"sorted", string(EncodeProperties(map[string]string{"b": "2", "a": "1", "c": "3"})), "a\x011\x02b\x012\x02c\x013\x02"},
		{"none", string(EncodeProperties(nil)), ""},
		{"append after a missing end", string(AppendProperty([]byte("a\x011"), "b", "2")), "a\x011\x02b\x012\x02"},
		{"set moves to the end", string(SetProperty([]byte("a\x011\x02b\x012\x02"), "a", "3")), "b\x012\x02a\x013\x02"},
		{"drop all of a key", string(DropProperty([]byte("a\x011\x02b\x012\x02a\x013"), "a")), "b\x012\x02"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %q, want %q", c.what, c.got, c.want)
		}
	}
	n := 0
	EachProperty([]byte("a\x011\x02b\x012\x02"), func(_, _ []byte) bool { n++; return false })
	if n != 1 {
		t.Errorf("EachProperty called f %d times after it said to stop", n)
	}
}

func TestCheckProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		alphabet := rapid.RuneFrom([]rune{'a', 'b', keyEnd, pairEnd})
		key := rapid.StringOfN(alphabet, 0, 4, -1).Draw(t, "key")
		value := rapid.StringOfN(alphabet, 0, 4, -1).Draw(t, "value")
		err := CheckProperty(key, value)
		if err != nil && !errors.Is(err, ErrBadProperty) {
			t.Fatal(err)
		}
		back := DecodeProperties(EncodeProperties(map[string]string{key: value}))
		if survives := maps.Equal(back, map[string]string{key: value}); survives != (err == nil) {
			t.Fatalf("%q=%q comes back as %q, but: %v", key, value, back, err)
		}
	})
}

func TestReservedNames(t *testing.T) {
	for name, want := range map[string]bool{PropTags: true, PropCRC32: true, "customer": false, "": false, "tags": false} {
		if IsReserved(name) != want {
			t.Errorf("IsReserved(%q) is not %v", name, want)
		}
	}
	if !IsTransient(PropTransientTopicConfig) || IsTransient(PropTags) {
		t.Error("IsTransient")
	}
}

func FuzzEachProperty(f *testing.F) {
	for _, g := range readManifest(f).Properties {
		f.Add(g.Encoded)
	}
	f.Fuzz(func(t *testing.T, props []byte) {
		pairs := map[string]string{}
		EachProperty(props, func(key, value []byte) bool {
			if len(key) == 0 || len(value) == 0 || bytes.IndexByte(key, keyEnd) >= 0 || bytes.IndexByte(value, pairEnd) >= 0 {
				t.Fatalf("pair %q, %q", key, value)
			}
			pairs[string(key)] = string(value)
			return true
		})
		for key, want := range pairs {
			if got, ok := Property(props, key); !ok || string(got) != want {
				t.Fatalf("Property %q is %q, want %q", key, got, want)
			}
		}
		if again := DecodeProperties(EncodeProperties(pairs)); !maps.Equal(again, pairs) {
			t.Fatalf("%q is then %q", pairs, again)
		}
	})
}

func BenchmarkProperty(b *testing.B) {
	props := benchmarkMessage().Properties
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := Property(props, PropUniqueKey); !ok {
			b.Fatal("absent")
		}
	}
}

func BenchmarkTagHashOf(b *testing.B) {
	props := benchmarkMessage().Properties
	b.ReportAllocs()
	for b.Loop() {
		if TagHashOf(props) == 0 {
			b.Fatal("no tag")
		}
	}
}
