package commitlog

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
)

// TestTranscripts runs the files in testdata/transcripts. The commands:
//
//	open [mode=sync] [segment=4096] [from=N]   opens, replays (from the log's start, if not told otherwise) and starts
//	append                                     one proposal per line, each awaited; records apart by spaces, "x*300" repeats
//	sync                                       makes everything durable
//	advance 10ms                               moves the clock
//	delete before=N                            deletes segments
//	read pos=N size=N                          reads a record
//	status                                     positions and state
//	close, crash                               ends the log; a crash keeps only what was synced
//	flip at=N, zero at=N [n=N]                 damages what is on disk
//	dump                                       what a scan finds
//	segments                                   the files that hold anything
func TestTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata/transcripts", func(t *testing.T, path string) {
		tr := &transcript{mem: vfs.NewCrashableMem(), now: clock.NewFake(time.UnixMilli(1000))}
		datadriven.RunTest(t, path, tr.run)
		if tr.log != nil {
			closeLog(t, tr.log)
		}
	})
}

type transcript struct {
	mem *vfs.MemFS
	now *clock.Fake
	log *Log
}

func (tr *transcript) run(t *testing.T, d *datadriven.TestData) string {
	out := &strings.Builder{}
	say := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	result := func(err error) {
		if err != nil {
			say("error: %v", err)
		}
	}
	number := func(key string, otherwise int) record.Position {
		n := otherwise
		d.MaybeScanArgs(t, key, &n)
		return record.Position(n)
	}
	if tr.log == nil && strings.Contains(" append sync delete read status close crash ", " "+d.Cmd+" ") {
		return "not open"
	}
	switch d.Cmd {
	case "open":
		tr.open(t, d, say, result)
	case "append":
		for _, line := range strings.Split(d.Input, "\n") {
			p, err := tr.log.Append(t.Context(), records(payloads(line)...))
			if err != nil {
				result(err)
				continue
			}
			say("records at %v", p.Positions)
		}
	case "sync":
		result(tr.log.Sync())
	case "advance":
		by, err := time.ParseDuration(d.CmdArgs[0].Key)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		tr.now.Advance(by)
	case "delete":
		n, err := tr.log.DeleteBefore(number("before", 0))
		say("freed: %v, log begins at %d", n > 0, tr.log.First())
		result(err)
	case "read":
		r, _, err := tr.log.ReadAt(number("pos", 0), int(number("size", 0)), nil)
		if err == nil {
			say("%v %s", r.Kind, short(r.Payload))
		}
		result(err)
	case "status":
		say("first %d committed %d durable %d", tr.log.First(), tr.log.Committed(), tr.log.Durable())
		result(tr.log.State())
	case "close":
		result(tr.log.Close())
		tr.log = nil
	case "crash":
		lost := crash(tr.mem, 0, 0)
		closeLog(t, tr.log)
		tr.mem, tr.log = lost, nil
	case "flip":
		*byteAt(t, tr.mem, number("at", 0)) ^= 0x40
	case "zero":
		at := number("at", 0)
		for i := range number("n", 1) {
			*byteAt(t, tr.mem, at+i) = 0
		}
	case "dump":
		found, err := Inspect(tr.mem, testDir, 0, func(b *Batch) error {
			say("%d..%d batch %d term %d time %d", b.Position, b.End, b.Index, b.Term, b.Timestamp)
			for i, r := range b.Records {
				say("  %d %v %s", b.Positions[i], r.Kind, short(r.Payload))
			}
			return nil
		})
		say("%d batches, %d records, end %d, torn tail %d bytes", found.Batches, found.Records, found.End, found.Cut)
		result(err)
	case "segments":
		spans, err := listSpans(tr.mem, testDir)
		result(err)
		for _, s := range spans {
			raw := make([]byte, s.size)
			result(readFile(tr.mem, testDir+"/"+s.name, raw))
			if lengthWithoutZeros(raw) > 0 {
				say("%s", s.name)
			}
		}
	default:
		d.Fatalf(t, "unknown command %q", d.Cmd)
	}
	return out.String()
}

func (tr *transcript) open(t *testing.T, d *datadriven.TestData, say func(string, ...any), result func(error)) {
	opts := Options{FS: tr.mem, Dir: testDir, SegmentSize: 4096, Clock: tr.now}
	mode := "sync"
	d.MaybeScanArgs(t, "mode", &mode)
	d.MaybeScanArgs(t, "segment", &opts.SegmentSize)
	for _, m := range allModes {
		if m.String() == mode {
			opts.Mode = m
		}
	}
	l, err := Open(opts)
	if err != nil {
		d.Fatalf(t, "%v", err)
	}
	from := int(l.First())
	d.MaybeScanArgs(t, "from", &from)
	if err := l.Replay(record.Position(from), func(*Batch) error { return nil }); err != nil {
		result(err)
		for _, is := range []error{ErrViewAhead, ErrGone} {
			if errors.Is(err, is) {
				say("nothing was changed")
			}
		}
		closeLog(t, l)
		return
	}
	r := l.Recovery()
	say("replayed %d batches, %d records; end %d, index %d, cut %d", r.Batches, r.Records, r.End, r.Index, r.Cut)
	if err := l.Start(); err != nil {
		d.Fatalf(t, "%v", err)
	}
	tr.log = l
}

// payloads splits a line of an append command; "x*300" is x three hundred times.
func payloads(line string) (all []string) {
	for _, word := range strings.Fields(line) {
		n := 1
		text, times, ok := strings.Cut(word, "*")
		if ok {
			if _, err := fmt.Sscan(times, &n); err != nil {
				panic(err)
			}
		}
		all = append(all, strings.Repeat(text, n))
	}
	return all
}

// short shows a payload.
func short(p []byte) string {
	if len(p) > 20 {
		return fmt.Sprintf("%q… (%d bytes)", p[:8], len(p))
	}
	return fmt.Sprintf("%q", p)
}

// readFile fills b from the front of a file; unlike peek it may be used while the log is open.
func readFile(fs vfs.FS, name string, b []byte) error {
	f, err := fs.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.ReadAt(b, 0)
	if len(b) == 0 {
		return nil
	}
	return err
}
