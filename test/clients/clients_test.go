// Package clients plays one list of scenarios with official clients of other languages than Go and Java, and compares what
// each of them saw with what it saw at the reference broker.
//
// The programs are in the folders python, node and rust; each prints a line of JSON for each scenario. What they saw at the
// reference is in testdata/CLIENT.json; where Cairn does otherwise is in testdata/known.json, with the reason.
//
//	CAIRN_CLIENTS="python node rust" go test ./test/clients
//	CAIRN_CLIENTS=rust go test ./test/clients -reference ../../../shared/reference            the reference, too
//	CAIRN_CLIENTS=rust go test ./test/clients -reference ../../../shared/reference -rewrite   and note what it does
package clients

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cairnmq/cairn/test/place"
)

var (
	reference = flag.String("reference", "", "folder with the reference's up.sh and down.sh: run the clients against it, too")
	rewrite   = flag.Bool("rewrite", false, "write what the reference does to testdata")
)

// patience bounds one run of one client; a run takes less than a minute.
const patience = 4 * time.Minute

// results are what a client saw: scenario, then what the program says of it.
type results map[string]json.RawMessage

func TestClients(t *testing.T) {
	names := strings.Fields(os.Getenv("CAIRN_CLIENTS"))
	if len(names) == 0 {
		t.Skip("CAIRN_CLIENTS names no client; test/all.sh clients does")
	}
	if *rewrite && *reference == "" {
		t.Fatal("-rewrite needs -reference")
	}
	programs := install(t, names)
	if *reference != "" {
		t.Run("reference", func(t *testing.T) {
			at := place.Reference(t, *reference, "enablePropertyFilter=true\ntransactionTimeOut=5000\ntransactionCheckInterval=8000")
			for _, name := range names {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					got := play(t, programs[name], name, at)
					if *rewrite {
						write(t, name, got)
						return
					}
					compare(t, name, read(t, name), got, nil)
				})
			}
		})
	}
	known := readKnown(t)
	t.Run("cairn", func(t *testing.T) {
		at := place.Cairn(t, "--transaction-timeout", "5s", "--transaction-check-interval", "2s")
		for _, name := range names {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				compare(t, name, read(t, name), play(t, programs[name], name, at), known)
			})
		}
	})
	for _, name := range names {
		known.unused(t, name)
	}
}

// play runs a client's program at a place that has its topics and groups, and gathers what it prints.
func play(t *testing.T, p program, name string, at place.Place) results {
	t.Helper()
	prepare(t, at, name)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.command[0], append(p.command[1:], at.GRPC, name)...)
	cmd.Dir = p.dir
	// some clients log to files in the home folder
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, tail(said.Bytes()))
	}
	got := results{}
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		var line struct {
			Scenario string          `json:"scenario"`
			Result   json.RawMessage `json:"result"`
		}
		if json.Unmarshal(s.Bytes(), &line) == nil && line.Scenario != "" {
			got[line.Scenario] = line.Result
		}
	}
	if len(got) == 0 {
		t.Fatalf("%s printed no result:\n%s%s", name, out, tail(said.Bytes()))
	}
	if t.Failed() || testing.Verbose() {
		t.Logf("%s said:\n%s", name, tail(said.Bytes()))
	}
	return got
}

// tail is the end of what a program said.
func tail(said []byte) []byte { return said[max(0, len(said)-4000):] }

func goldenPath(name string) string { return filepath.Join("testdata", name+".json") }

func read(t *testing.T, name string) results {
	t.Helper()
	text, err := os.ReadFile(goldenPath(name))
	if err != nil {
		t.Fatalf("what the reference does: %v (-rewrite makes it)", err)
	}
	var r results
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatalf("%s: %v", goldenPath(name), err)
	}
	return r
}

func write(t *testing.T, name string, r results) {
	t.Helper()
	for scenario, result := range r {
		if failed(result) {
			t.Errorf("%s at the reference: %s", scenario, result)
		}
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(goldenPath(name), append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// failed tells whether a scenario ended in an error that it did not expect: nothing is to be learned from that.
func failed(result json.RawMessage) bool {
	var r struct {
		Failed string `json:"failed"`
	}
	return json.Unmarshal(result, &r) == nil && r.Failed != ""
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(fmt.Errorf("%s: %w", what, err))
	}
}
