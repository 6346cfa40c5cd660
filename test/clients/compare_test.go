package clients

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// known are the differences that are meant, of all clients.
type known struct {
	entries []*difference
	mu      struct {
		sync.Mutex
		used map[string]bool // client and field
	}
}

// difference says what clients see at Cairn in one field, where it is not what they see at the reference.
type difference struct {
	Field  string            `json:"field"`  // scenario.name, as compare prints it
	Reason string            `json:"reason"` // why Cairn does otherwise
	Cairn  map[string]string `json:"cairn"`  // by client: the value, as compare prints it
}

func readKnown(t *testing.T) *known {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "known.json"))
	must(t, "known differences", err)
	k := &known{}
	must(t, "known differences", json.Unmarshal(text, &k.entries))
	for _, d := range k.entries {
		if d.Reason == "" || len(d.Cairn) == 0 {
			t.Errorf("known difference in %s: no reason or no value", d.Field)
		}
	}
	k.mu.used = map[string]bool{}
	return k
}

// meant tells whether a client is to see this value at Cairn; nil knows no difference.
func (k *known) meant(client, field, value string) bool {
	if k == nil {
		return false
	}
	for _, d := range k.entries {
		if d.Field == field && d.Cairn[client] == value {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.mu.used[client+" "+field] = true
			return true
		}
	}
	return false
}

// unused complains of differences that are none any more, of a client that has played.
func (k *known) unused(t *testing.T, client string) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, d := range k.entries {
		if _, named := d.Cairn[client]; named && !k.mu.used[client+" "+d.Field] {
			t.Errorf("%s: the known difference in %s was not seen: remove it, or correct it", client, d.Field)
		}
	}
}

// compare complains of each field in which a client saw something else than it is to see.
func compare(t *testing.T, client string, want, got results, k *known) {
	t.Helper()
	wanted, seen := fields(t, want), fields(t, got)
	all := maps.Clone(wanted)
	maps.Copy(all, seen)
	for _, f := range slices.Sorted(maps.Keys(all)) {
		if wanted[f] != seen[f] && !k.meant(client, f, seen[f]) {
			t.Errorf("%s, %s:\n   reference %s\n   here      %s", client, f, or(wanted[f], "nothing"), or(seen[f], "nothing"))
		}
	}
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// fields are the leaves of all scenarios: their path, and their value as JSON. A list of plain values is one leaf.
func fields(t *testing.T, r results) map[string]string {
	t.Helper()
	m := map[string]string{}
	for scenario, result := range r {
		var v any
		must(t, scenario, json.Unmarshal(result, &v))
		flatten(t, m, scenario, v)
	}
	return m
}

func flatten(t *testing.T, m map[string]string, path string, v any) {
	t.Helper()
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			flatten(t, m, path+"."+key, value)
		}
		if len(v) > 0 {
			return
		}
	case []any:
		if slices.ContainsFunc(v, func(e any) bool { _, object := e.(map[string]any); return object }) {
			for i, e := range v {
				flatten(t, m, fmt.Sprintf("%s[%d]", path, i), e)
			}
			return
		}
	}
	text, err := json.Marshal(v)
	must(t, path, err)
	m[path] = strings.Trim(string(text), `"`)
}
