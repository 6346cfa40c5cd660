package kvindex

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

// childEnv makes the test binary write rows until it is killed, as "kind dir".
const childEnv = "KVINDEX_TEST_CHILD"

// runChild applies numbered batches from where the view stands, and prints "c n" before batch n is covered by BeforeFlush
// and "d n" when it is durable.
func runChild(job string) {
	kind, dir, _ := strings.Cut(job, " ")
	var n uint64
	say := func(what string, n uint64) {
		if _, err := fmt.Fprintln(os.Stdout, what, n); err != nil {
			os.Exit(1)
		}
	}
	opts := Options{Dir: dir, Kind: kind, MemoryBytes: minMemory, Logger: zerolog.New(os.Stderr).Level(zerolog.WarnLevel)}
	opts.BeforeFlush = func() error { say("c", n); return nil }
	e, err := Open(opts)
	exitOn(err)
	a, err := ReadApplied(e)
	exitOn(err)
	n = a.Index
	say("d", n)
	b := NewBatch(e)
	for {
		for range 40 {
			n++
			applyNumbered(b, n)
			exitOn(b.Commit())
		}
		exitOn(e.Flush())
		say("d", n)
	}
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// TestKilledProcessLeavesAPrefix kills a writing child process again and again; each time its folder opens as the exact state
// after one of the batches.
func TestKilledProcessLeavesAPrefix(t *testing.T) {
	eachEngine(t, func(t *testing.T, opts Options) {
		opts.FS = nil
		want := newNumberedView(t)
		rng := rand.New(rand.NewPCG(3, 4))
		for range 12 {
			durable, covered := killChild(t, opts, rng.IntN(40))
			e := mustOpen(t, opts)
			n := want.check(t, e)
			must(t, e.Close())
			if n < durable || n > max(covered, durable) {
				t.Fatalf("the view is at batch %d; durable were %d, covered %d", n, durable, covered)
			}
		}
	})
}

// killChild starts a child, kills it after so many lines of its output and returns what it last said.
func killChild(t *testing.T, opts Options, lines int) (durable, covered uint64) {
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childEnv+"="+opts.Kind+" "+opts.Dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	in := bufio.NewReader(out)
	for i := 0; ; i++ {
		line, err := in.ReadString('\n')
		if err == io.EOF {
			break
		}
		must(t, err)
		what, num, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseUint(num, 10, 64)
		must(t, err)
		if what == "c" {
			covered = n
		} else {
			durable = n
		}
		if i == lines {
			must(t, cmd.Process.Kill())
		}
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the child ended by itself: %v", err)
	}
	return durable, covered
}
