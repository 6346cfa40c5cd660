package differential

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// known are the differences that are meant; nil are none.
type known struct {
	entries []*difference
}

// difference is one of them; in its texts, but for the reason, * stands for any text.
type difference struct {
	Case   string  `json:"case"`  // file and name of the call
	Field  string  `json:"field"` // as answers show it
	Cairn  *string `json:"cairn"` // what Cairn answers, as answers show it: empty for no such field; absent for anything
	Reason string  `json:"reason"`

	call, field, value *regexp.Regexp
	used               bool
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
		if d.Reason == "" || d.Case == "" || d.Field == "" {
			t.Errorf("a known difference needs case, field and reason: %+v", d)
		}
		d.call, d.field, d.value = pattern(d.Case), pattern(d.Field), pattern("*")
		if d.Cairn != nil {
			d.value = pattern(*d.Cairn)
		}
	}
	return k
}

// unexplained tells what differs and is not meant to.
func (k *known) unexplained(call string, want, got answer) (complaints []string) {
	all := maps.Clone(want)
	maps.Copy(all, got)
	for _, f := range slices.Sorted(maps.Keys(all)) {
		if want[f] == got[f] || want[f] == exception && got[f] != "" || k.meant(call, f, got[f]) {
			continue
		}
		complaints = append(complaints, fmt.Sprintf("%s, %s:\n   reference %q\n   here      %q", call, f, want[f], got[f]))
	}
	return complaints
}

func (k *known) meant(call, field, value string) bool {
	if k == nil {
		return false
	}
	found := false
	for _, d := range k.entries {
		if d.call.MatchString(call) && d.field.MatchString(field) && d.value.MatchString(value) {
			d.used, found = true, true
		}
	}
	return found
}

// unused complains of differences that are none any more.
func (k *known) unused(t *testing.T) {
	t.Helper()
	if k == nil {
		return
	}
	for _, d := range k.entries {
		if !d.used {
			t.Errorf("the known difference in %s, %s was not seen: remove it, or correct it", d.Case, d.Field)
		}
	}
}
