package filter

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cairnmq/cairn/message"
	"github.com/cockroachdb/datadriven"
	"pgregory.net/rapid"
)

func TestTags(t *testing.T) {
	datadriven.RunTest(t, "testdata/tags", func(t *testing.T, d *datadriven.TestData) string {
		input := d.Input
		if strings.HasPrefix(input, `"`) { // quoted, for the blanks around it
			var err error
			if input, err = strconv.Unquote(input); err != nil {
				d.Fatalf(t, "%v", err)
			}
		}
		e, err := ParseTags(input)
		if err != nil {
			return fmt.Sprintf("error: %v (ErrExpression: %v)", err, errors.Is(err, ErrExpression))
		}
		switch d.Cmd {
		case "parse":
			return fmt.Sprintf("%v all=%v hashes=%d", e, e.All(), len(e.hashes))
		case "match":
			arg, _ := d.Arg("tags")
			var out strings.Builder
			for _, tag := range arg.Vals {
				fmt.Fprintf(&out, "%q hash=%v exact=%v\n", tag, e.MatchHash(message.TagHash(tag)), e.MatchTag([]byte(tag)))
			}
			return out.String()
		}
		d.Fatalf(t, "unknown command")
		return ""
	})
}

func TestZeroMatchesEverything(t *testing.T) {
	for _, e := range []*Expr{nil, {}} {
		if !e.All() || !e.MatchHash(7) || !e.MatchTag(nil) || e.String() != "*" {
			t.Errorf("%v does not match everything", e)
		}
	}
}

func TestEveryAlternativeMatches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tags := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-zA-Z0-9_%|-]?[a-z标🪨]{1,5}`), 1, 30, rapid.ID).Draw(t, "tags")
		e, err := ParseTags(strings.Join(tags, " || "))
		if err != nil {
			t.Fatal(err)
		}
		for i, tag := range tags {
			if !e.MatchHash(message.TagHash(tag)) || !e.MatchTag([]byte(tag)) {
				t.Fatalf("%v does not match %q, alternative %d", e, tag, i)
			}
		}
		other := rapid.StringMatching(`[A-Z]{6}`).Draw(t, "other")
		if e.MatchTag([]byte(other)) {
			t.Fatalf("%v matches %q", e, other)
		}
	})
}

func TestMatchingDoesNotAllocate(t *testing.T) {
	e, err := ParseTags("TagA || " + strings.Repeat("b", 100))
	if err != nil {
		t.Fatal(err)
	}
	tag := []byte(strings.Repeat("b", 100))
	if n := testing.AllocsPerRun(100, func() { _ = e.MatchHash(5) || e.MatchTag(tag) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzParseTags(f *testing.F) {
	for _, s := range []string{"", "*", "TagA", "TagA || TagB", "||", " || a", "a|||b", "标签||\xff", "* || a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := ParseTags(s)
		if err != nil {
			if !errors.Is(err, ErrExpression) || trim(strings.ReplaceAll(s, "||", "")) != "" {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		again, err := ParseTags(e.String())
		if err != nil || again.All() != e.All() || len(again.hashes) != len(e.hashes) || len(again.tags) != len(e.tags) {
			t.Fatalf("%q is then %q: %v", s, e, err)
		}
		for tag := range e.tags {
			if tag == "" || !again.MatchTag([]byte(tag)) || !e.MatchHash(message.TagHash(tag)) {
				t.Fatalf("%q does not match its %q", s, tag)
			}
		}
	})
}

func BenchmarkMatchHash(b *testing.B) {
	e, err := ParseTags("TagA || TagB || TagC || TagD")
	if err != nil {
		b.Fatal(err)
	}
	hash := message.TagHash("TagC")
	b.ReportAllocs()
	for b.Loop() {
		if !e.MatchHash(hash) {
			b.Fatal("no match")
		}
	}
}
