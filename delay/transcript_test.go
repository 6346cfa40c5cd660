package delay

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// TestTranscripts runs the files in testdata/transcripts. Times are durations after 2026-11-21T10:00Z, points are
// time/origin. The commands:
//
//	batch at=TIME            one log batch, a step per line, each with its outcome and what it released:
//	    topic ID, delete-topic ID
//	    add POINT topic=ID [queue=N] [size=N] [tag=N] [level=N] [stored=TIME]
//	    fire POINT POINT, recall POINT topic=ID
//	    take POINT, move POINT to=POSITION size=N
//	next, due now=TIME [most=N], get POINT, long before=TIME, pending, level N      what readers see
//	dump, hex                the rows, readable and as they are
//	flush, crash, check      of the index; its rules, and its rows against the log
//	record STEP              the payload of a record
func TestTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata/transcripts", func(t *testing.T, path string) {
		tr := &transcript{machine: newMachine(t)}
		datadriven.RunTest(t, path, tr.run)
	})
}

const base = 1_795_255_200_000 // 2026-11-21T10:00Z

type transcript struct {
	*machine
	out strings.Builder
}

func (tr *transcript) say(format string, args ...any) { fmt.Fprintf(&tr.out, format+"\n", args...) }

func (tr *transcript) run(t *testing.T, d *datadriven.TestData) string {
	tr.out.Reset()
	var err error
	switch d.Cmd {
	case "batch":
		tr.batch(t, d)
	case "record":
		err = tr.record(words(strings.Join(allArgs(d), " ")))
	case "next", "due", "get", "long", "pending", "level":
		err = tr.read(t, d)
	case "dump":
		tr.out.WriteString(tr.Dump())
	case "hex":
		tr.out.WriteString(tr.Hex())
	case "flush":
		tr.Flush()
	case "crash":
		tr.Crash()
	case "check":
		err = tr.Check()
	default:
		d.Fatalf(t, "no such command")
	}
	if err != nil {
		tr.say("error: %v", err)
	}
	if tr.out.Len() == 0 {
		return "ok"
	}
	return tr.out.String()
}

func (tr *transcript) batch(t *testing.T, d *datadriven.TestData) {
	lines := strings.Split(d.Input, "\n")
	var steps []step
	for _, line := range lines {
		steps = append(steps, words(line).step())
	}
	for i, r := range tr.Apply(words(strings.Join(allArgs(d), " ")).time("at"), steps...) {
		verb := strings.Fields(lines[i])[0]
		if r.Refused {
			tr.say("%s: refused", verb)
			continue
		}
		tr.say("%s: %d", verb, r.Offset)
		for _, rel := range r.Released {
			tr.say("  topic=%d queue=%d position=%d size=%d tag=%d", rel.Topic, rel.Queue, rel.Position, rel.Size, rel.TagHash)
		}
	}
}

func (tr *transcript) record(w args) error {
	switch w.word(0) {
	case "fire":
		tr.say("%x", Fire{w.point(1), w.point(2)}.Record().Payload)
	case "recall":
		tr.say("%x", Recall{w.point(1), kvindex.ID(w.number("topic"))}.Record().Payload)
	default:
		return fmt.Errorf("no record of %q", w)
	}
	return nil
}

func (tr *transcript) read(t *testing.T, d *datadriven.TestData) error {
	w := words(strings.Join(allArgs(d), " "))
	show := func(t *Timer) {
		tr.say("%s topic=%d queue=%d position=%d size=%d tag=%d level=%d hour=%d", pointText(t.Point), t.Topic, t.Queue, t.Position,
			t.Size, t.TagHash, t.Level, t.Hour)
	}
	var timer Timer
	var ok bool
	var err error
	switch d.Cmd {
	case "next":
		timer, ok, err = tr.Fold.Next()
	case "get":
		timer, ok, err = tr.Fold.Get(w.point(0))
	case "due":
		var due []Timer
		due, err = tr.Fold.Due(w.time("now"), int(w.or("most", 100)), nil)
		for i := range due {
			show(&due[i])
		}
	case "long":
		err = tr.Fold.EachLong(kvindex.HourOf(w.time("before")), func(hour uint32, at Point) bool {
			tr.say("hour=%d %s", hour, pointText(at))
			return true
		})
	case "pending":
		err = tr.Fold.EachPending(func(topic kvindex.ID, n int64) bool {
			one, err := tr.Fold.Pending(topic)
			if err != nil || one != n {
				t.Errorf("topic %d: %d, %v", topic, one, err)
			}
			tr.say("topic=%d %d", topic, n)
			return true
		})
	case "level":
		level, _ := strconv.Atoi(w.word(0))
		var c LevelCount
		c, err = tr.Fold.Level(int32(level))
		tr.say("in=%d out=%d", c.In, c.Out)
	}
	if ok {
		show(&timer)
	} else if err == nil && tr.out.Len() == 0 {
		tr.say("none")
	}
	return err
}

func pointText(p Point) string {
	return fmt.Sprintf("%v/%d", time.Duration(p.Due-base)*time.Millisecond, p.Origin)
}

// allArgs are the words after a command.
func allArgs(d *datadriven.TestData) (out []string) {
	for _, a := range d.CmdArgs {
		out = append(out, a.String())
	}
	return out
}

// args are the words of a step; a mistake in one is a panic.
type args []string

func words(line string) args { return strings.Fields(line) }

func (w args) word(i int) string { return w[i] }

func (w args) find(key string) (string, bool) {
	for _, word := range w {
		if v, ok := strings.CutPrefix(word, key+"="); ok {
			return v, true
		}
	}
	return "", false
}

func (w args) or(key string, otherwise int64) int64 {
	if _, ok := w.find(key); !ok {
		return otherwise
	}
	return w.number(key)
}

func (w args) number(key string) int64 {
	text, _ := w.find(key)
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		panic(fmt.Sprintf("%s in %q: %v", key, w, err))
	}
	return n
}

func (w args) time(key string) int64 {
	text, _ := w.find(key)
	return parseTime(text)
}

func parseTime(text string) int64 {
	d, err := time.ParseDuration(text)
	if err != nil {
		panic(err)
	}
	return base + d.Milliseconds()
}

func (w args) point(i int) Point {
	due, origin, _ := strings.Cut(w[i], "/")
	n, err := strconv.ParseInt(origin, 10, 64)
	if err != nil {
		panic(fmt.Sprintf("point %q: %v", w[i], err))
	}
	return Point{Due: parseTime(due), Origin: record.Position(n)}
}

func (w args) step() step {
	switch w.word(0) {
	case "topic", "delete-topic":
		id, err := strconv.ParseUint(w.word(1), 10, 64)
		if err != nil {
			panic(err)
		}
		if w.word(0) == "topic" {
			return putTopic(kvindex.ID(id))
		}
		return deleteTopic(kvindex.ID(id))
	case "add":
		t := Timer{Point: w.point(1), Topic: kvindex.ID(w.number("topic")), Queue: int32(w.or("queue", 0)), Size: int32(w.or("size", 100)),
			TagHash: w.or("tag", 0), Level: int32(w.or("level", 0))}
		if _, ok := w.find("stored"); ok {
			t.Hour = kvindex.HourOf(w.time("stored"))
		}
		t.Position = t.Origin
		return add(t)
	case "fire":
		return fire(w.point(1), w.point(2))
	case "recall":
		return recall(w.point(1), kvindex.ID(w.number("topic")))
	case "take":
		return take(w.point(1))
	case "move":
		return move(w.point(1), record.Position(w.number("to")), int32(w.number("size")))
	}
	panic(fmt.Sprintf("no step %q", w))
}
