package foldtest

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/cairnmq/cairn/internal/record"
)

// Base is the time in ms from which transcripts count: 2026-11-21T10:00Z.
const Base = 1_795_255_200_000

// Script says what the words of a package's transcripts mean. All times in them are durations after Base. The commands of
// every script:
//
//	batch at=TIME            one log batch, a step per line, each with its outcome and what it released
//	record STEP              the payload of a record
//	dump, hex                the rows, readable and as they are
//	flush, crash, verify     of the index; its rules, and its rows against the log
type Script[F Fold] struct {
	Machine func(testing.TB) *Machine[F]
	Record  func(w Words) record.Record
	// Step is a line of a batch whose time is now (ms); nil: its record.
	Step func(w Words, now int64) Step[F]
	// Reads are the commands that show what readers see.
	Reads map[string]func(t *Transcript[F], w Words) error
}

// Transcript is one run of a Script.
type Transcript[F Fold] struct {
	*Machine[F]
	script Script[F]
	out    strings.Builder
}

// Run runs the files in testdata/transcripts, each on a machine of its own.
func (s Script[F]) Run(t *testing.T) {
	datadriven.Walk(t, "testdata/transcripts", func(t *testing.T, path string) {
		tr := &Transcript[F]{Machine: s.Machine(t), script: s}
		datadriven.RunTest(t, path, tr.run)
	})
}

// Say adds a line to what a command answers.
func (tr *Transcript[F]) Say(format string, args ...any) { fmt.Fprintf(&tr.out, format+"\n", args...) }

func (tr *Transcript[F]) run(t *testing.T, d *datadriven.TestData) string {
	tr.out.Reset()
	var w Words
	for _, a := range d.CmdArgs {
		w = append(w, a.String())
	}
	otherwise := "ok"
	var err error
	switch d.Cmd {
	case "batch":
		tr.batch(w.Time("at"), strings.Split(d.Input, "\n"))
	case "record":
		tr.Say("%x", tr.script.Record(w).Payload)
	case "dump":
		tr.out.WriteString(tr.Dump())
	case "hex":
		tr.out.WriteString(tr.Hex())
	case "flush":
		tr.Flush()
	case "crash":
		tr.Crash()
	case "verify":
		err = tr.Check()
	default:
		read, ok := tr.script.Reads[d.Cmd]
		if !ok {
			d.Fatalf(t, "no such command")
		}
		otherwise, err = "none", read(tr, w)
	}
	if err != nil {
		tr.Say("error: %v", err)
	}
	if tr.out.Len() == 0 {
		return otherwise
	}
	return tr.out.String()
}

func (tr *Transcript[F]) batch(at int64, lines []string) {
	var steps []Step[F]
	for _, line := range lines {
		w := Words(strings.Fields(line))
		s := tr.script.Step(w, at)
		if s == nil {
			s = Record[F](tr.script.Record(w))
		}
		steps = append(steps, s)
	}
	for i, r := range tr.Apply(at, steps...) {
		verb := strings.Fields(lines[i])[0]
		if r.Refused {
			tr.Say("%s: refused", verb)
			continue
		}
		tr.Say("%s: %d", verb, r.Offset)
		for _, rel := range r.Released {
			text := fmt.Sprintf("  topic=%d queue=%d position=%d size=%d tag=%d", rel.Topic, rel.Queue, rel.Position, rel.Size, rel.TagHash)
			if rel.Half {
				text += fmt.Sprintf(" half=true hour=%d", rel.Hour)
			}
			if rel.Due != 0 {
				text += " due=" + TimeText(rel.Due)
			}
			tr.Say("%s", text)
		}
	}
}

// Words are those of a command after its name, or of a step. What reads them panics on a mistake.
type Words []string

// Find returns what follows "key=".
func (w Words) Find(key string) (text string, ok bool) {
	for _, word := range w {
		if text, ok = strings.CutPrefix(word, key+"="); ok {
			return text, true
		}
	}
	return "", false
}

// Or is the number that follows "key=".
func (w Words) Or(key string, otherwise int64) int64 {
	if text, ok := w.Find(key); ok {
		return ParseNumber(text)
	}
	return otherwise
}

// Number is the number that follows "key=", which must be there.
func (w Words) Number(key string) int64 {
	text, _ := w.Find(key)
	return ParseNumber(text)
}

// Time is the time in ms that follows "key=", which must be there.
func (w Words) Time(key string) int64 {
	text, _ := w.Find(key)
	return ParseTime(text)
}

// ParseNumber reads a number of a transcript.
func ParseNumber(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

// ParseTime reads a time of a transcript, in ms.
func ParseTime(text string) int64 {
	d, err := time.ParseDuration(text)
	if err != nil {
		panic(err)
	}
	return Base + d.Milliseconds()
}

// TimeText is how transcripts say a time (ms).
func TimeText(ms int64) string { return (time.Duration(ms-Base) * time.Millisecond).String() }
