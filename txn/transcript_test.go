package txn

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/kvindex/foldtest"
)

// TestTranscripts runs the files in testdata/transcripts. Times are durations after 2026-11-21T10:00Z. The commands:
//
//	batch at=TIME            one log batch, a step per line, each with its outcome and what it released:
//	    topic ID, delete-topic ID
//	    half POSITION check=TIME topic=ID [group=NAME] [queue=N] [size=N] [tag=N] [id=N] [delayed]
//	    commit POSITION [due=TIME], rollback POSITION, expire POSITION
//	    check POSITION:TIME… (asked, and again then), free POSITION:TIME… (not asked), park POSITION:REASON…
//	next, due now=TIME [most=N], get POSITION, open from=POSITION, parked from=POSITION, count      what readers see
//	ended POSITION           what is remembered of one that was stored at 10:00Z
//	dump, hex                the rows, readable and as they are
//	flush, crash, verify     of the index; its rules, and its rows against the log
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
	var w args
	for _, a := range d.CmdArgs {
		w = append(w, a.String())
	}
	var err error
	switch d.Cmd {
	case "batch":
		tr.batch(w.time("at"), strings.Split(d.Input, "\n"))
	case "record":
		tr.say("%x", w.record().Payload)
	case "next", "due", "get", "open", "parked", "count", "ended":
		err = tr.read(d.Cmd, w)
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

func (tr *transcript) batch(at int64, lines []string) {
	var steps []step
	for _, line := range lines {
		steps = append(steps, args(strings.Fields(line)).step(at))
	}
	for i, r := range tr.Apply(at, steps...) {
		verb := strings.Fields(lines[i])[0]
		if r.Refused {
			tr.say("%s: refused", verb)
			continue
		}
		tr.say("%s: %d", verb, r.Offset)
		for _, rel := range r.Released {
			text := fmt.Sprintf("  topic=%d queue=%d position=%d size=%d tag=%d half=%v hour=%d", rel.Topic, rel.Queue, rel.Position, rel.Size,
				rel.TagHash, rel.Half, rel.Hour)
			if rel.Due != 0 {
				text += " due=" + timeText(rel.Due)
			}
			tr.say("%s", text)
		}
	}
}

func (tr *transcript) read(what string, w args) (err error) {
	show := func(h *Half) bool {
		text := fmt.Sprintf("%d topic=%d queue=%d size=%d tag=%d id=%d group=%s checks=%d stored=%s", h.Position, h.Topic, h.Queue, h.Size,
			h.TagHash, h.ID, h.Group, h.Checks, timeText(h.Stored))
		if h.Delayed {
			text += " delayed"
		}
		if h.Reason != NotParked {
			text += fmt.Sprintf(" reason=%q", h.Reason)
		} else {
			text += " check=" + timeText(h.CheckAt)
		}
		tr.say("%s", text)
		return true
	}
	switch what {
	case "next":
		var at int64
		var ok bool
		if at, ok, err = tr.Fold.NextCheck(); ok {
			tr.say("%s", timeText(at))
		}
	case "due":
		var due []Half
		due, err = tr.Fold.Due(w.time("now"), int(w.or("most", 100)), nil)
		for i := range due {
			show(&due[i])
		}
	case "get":
		var h Half
		var ok bool
		if h, ok, err = tr.Fold.Get(w.position(0)); ok {
			show(&h)
		}
	case "open", "parked":
		err = tr.Fold.Each(what == "parked", record.Position(w.or("from", 0)), show)
	case "count":
		err = tr.Fold.EachCount(func(topic kvindex.ID, n Count) bool {
			one, err := tr.Fold.Count(topic)
			tr.say("topic=%d open=%d parked=%d", topic, n.Open, n.Parked)
			if err != nil || one != n {
				tr.say("but alone %+v, %v", one, err)
			}
			return true
		})
	case "ended":
		var e kvindex.Ended
		var ok bool
		if e, ok, err = kvindex.ReadEnded(tr.Engine, kvindex.HourOf(base), int64(w.position(0))); ok {
			tr.say("%v %d", e.Outcome, e.Number)
		}
	}
	if tr.out.Len() == 0 && err == nil {
		tr.say("none")
	}
	return err
}

func timeText(ms int64) string { return (time.Duration(ms-base) * time.Millisecond).String() }

func parseTime(text string) int64 {
	d, err := time.ParseDuration(text)
	if err != nil {
		panic(err)
	}
	return base + d.Milliseconds()
}

func parseNumber(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

// args are the words of a step; a mistake in one is a panic.
type args []string

func (w args) find(key string) (string, bool) {
	for _, word := range w {
		if v, ok := strings.CutPrefix(word, key+"="); ok {
			return v, true
		}
	}
	return "", false
}

func (w args) or(key string, otherwise int64) int64 {
	if text, ok := w.find(key); ok {
		return parseNumber(text)
	}
	return otherwise
}

func (w args) time(key string) int64 {
	text, _ := w.find(key)
	return parseTime(text)
}

func (w args) position(i int) record.Position { return record.Position(parseNumber(w[i])) }

func (w args) step(now int64) step {
	switch w[0] {
	case "topic":
		return putTopic(kvindex.ID(w.position(1)))
	case "delete-topic":
		return deleteTopic(kvindex.ID(w.position(1)))
	case "half":
		h := Half{Position: w.position(1), CheckAt: w.time("check"), Topic: kvindex.ID(w.or("topic", 0)), Queue: int32(w.or("queue", 0)),
			Size: int32(w.or("size", 100)), TagHash: w.or("tag", 0), Stored: now, ID: uint64(w.or("id", 0)), Delayed: w[len(w)-1] == "delayed"}
		h.Group, _ = w.find("group")
		return add(h)
	}
	return foldtest.Record[*State](w.record())
}

var (
	actions = map[string]Action{"commit": Commit, "rollback": Rollback, "expire": Expire}
	reasons = map[string]Reason{"no-answer": NoAnswer, "no-producer": NoProducer, "by-ops": ParkedByOps}
)

func (w args) record() record.Record {
	if action, ok := actions[w[0]]; ok {
		e := End{Position: w.position(1), Action: action}
		if _, ok := w.find("due"); ok {
			e.Due = w.time("due")
		}
		return e.Record()
	}
	var checks []Check
	for _, word := range w[1:] {
		position, what, _ := strings.Cut(word, ":")
		c := Check{Position: record.Position(parseNumber(position)), Free: w[0] == "free"}
		if w[0] == "park" {
			c.Park = reasons[what]
		} else {
			c.Next = parseTime(what)
		}
		checks = append(checks, c)
	}
	return ChecksRecord(checks)
}
