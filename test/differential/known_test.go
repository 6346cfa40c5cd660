package differential

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// known are the differences that are meant; nil are none.
type known struct {
	entries []*difference
}

// difference is one of them, or some that have the same reason: of a field, or of all of an answer. In its texts, but for the
// reason, * stands for any text; an empty one is that of a field that is not there.
type difference struct {
	Case      string   `json:"case"`      // file and name of the call
	Field     string   `json:"field"`     // as answers show it
	Reference *string  `json:"reference"` // what the reference answers, as answers show it; absent for anything
	Cairn     *string  `json:"cairn"`     // what Cairn answers, in the same way
	Answer    []string `json:"answer"`    // instead of these three: all lines of what Cairn answers
	Reason    string   `json:"reason"`

	call, field, theirs, ours *regexp.Regexp
	whole                     map[string]*regexp.Regexp // of Answer
	used                      bool
}

func readKnown(t *testing.T) *known {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "known.json"))
	if err != nil {
		t.Fatal(err)
	}
	k := &known{}
	if err := json.Unmarshal(text, &k.entries); err != nil {
		t.Fatalf("known differences: %v", err)
	}
	for _, d := range k.entries {
		if d.Reason == "" || d.Case == "" || (d.Field == "") == (d.Answer == nil) {
			t.Errorf("a known difference needs case, reason, and field or answer: %+v", d)
		}
		d.call, d.field = pattern(d.Case), pattern(d.Field)
		d.theirs, d.ours = patternOr(d.Reference, "*"), patternOr(d.Cairn, "*")
		d.whole = map[string]*regexp.Regexp{}
		for f, v := range parse(strings.Join(d.Answer, "\n")) {
			d.whole[f] = pattern(v)
		}
	}
	return k
}

// patternOr is that of a text that may be missing.
func patternOr(text *string, otherwise string) *regexp.Regexp {
	if text != nil {
		otherwise = *text
	}
	return pattern(otherwise)
}

// unexplained tells what differs and is not meant to.
func (k *known) unexplained(call string, want, got answer) (complaints []string) {
	all := maps.Clone(want)
	maps.Copy(all, got)
	for _, f := range slices.Sorted(maps.Keys(all)) {
		if want[f] == got[f] || want[f] == exception && got[f] != "" || k.meant(call, f, want, got) {
			continue
		}
		complaints = append(complaints, fmt.Sprintf("%s, %s:\n   reference %q\n   here      %q", call, f, want[f], got[f]))
	}
	return complaints
}

func (k *known) meant(call, field string, want, got answer) bool {
	if k == nil {
		return false
	}
	found := false
	for _, d := range k.entries {
		if d.call.MatchString(call) && d.explains(field, want, got) {
			d.used, found = true, true
		}
	}
	return found
}

// explains tells whether a field is answered as the difference says, or all of the answer is.
func (d *difference) explains(field string, want, got answer) bool {
	if d.Answer == nil {
		return d.field.MatchString(field) && d.theirs.MatchString(want[field]) && d.ours.MatchString(got[field])
	}
	for f, v := range got {
		if p := d.whole[f]; p == nil || !p.MatchString(v) {
			return false
		}
	}
	return len(got) == len(d.whole)
}

// unused complains of differences that are none any more.
func (k *known) unused(t *testing.T) {
	t.Helper()
	if k == nil {
		return
	}
	for _, d := range k.entries {
		if !d.used {
			t.Errorf("the known difference in %s, %s (%s) was not seen: remove it, or correct it", d.Case, d.Field, d.Reason)
		}
	}
}
