package txn

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/kvindex/foldtest"
)

// TestTranscripts runs the files in testdata/transcripts. Beside the commands of every foldtest.Script there are:
//
//	next, due now=TIME [most=N], get POSITION, open from=POSITION, parked from=POSITION, count      what readers see
//	ended POSITION           what is remembered of one that was stored at 10:00Z
//
// and the steps:
//
//	topic ID, delete-topic ID
//	half POSITION check=TIME topic=ID [group=NAME] [queue=N] [size=N] [tag=N] [id=N] [delayed]
//	commit POSITION [due=TIME], rollback POSITION, expire POSITION
//	check POSITION:TIME… (asked, and again then), free POSITION:TIME… (not asked), park POSITION:REASON…
func TestTranscripts(t *testing.T) {
	foldtest.Script[*State]{Machine: newMachine, Record: recordOf, Step: stepOf, Reads: map[string]read{
		"next": readNext, "due": readDue, "get": readGet, "count": readCounts, "ended": readEnded,
		"open":   func(tr *transcript, w words) error { return readEach(tr, w, false) },
		"parked": func(tr *transcript, w words) error { return readEach(tr, w, true) },
	}}.Run(t)
}

type (
	transcript = foldtest.Transcript[*State]
	words      = foldtest.Words
	read       = func(tr *transcript, w words) error
)

const base = foldtest.Base

func show(tr *transcript, h *Half) {
	text := fmt.Sprintf("%d topic=%d queue=%d size=%d tag=%d id=%d group=%s checks=%d stored=%s", h.Position, h.Topic, h.Queue, h.Size,
		h.TagHash, h.ID, h.Group, h.Checks, foldtest.TimeText(h.Stored))
	if h.Delayed {
		text += " delayed"
	}
	if h.Reason != NotParked {
		text += fmt.Sprintf(" reason=%q", h.Reason)
	} else {
		text += " check=" + foldtest.TimeText(h.CheckAt)
	}
	tr.Say("%s", text)
}

func readNext(tr *transcript, _ words) error {
	at, ok, err := tr.Fold.NextCheck()
	if ok {
		tr.Say("%s", foldtest.TimeText(at))
	}
	return err
}

func readDue(tr *transcript, w words) error {
	due, err := tr.Fold.Due(w.Time("now"), int(w.Or("most", 100)), nil)
	for i := range due {
		show(tr, &due[i])
	}
	return err
}

func readGet(tr *transcript, w words) error {
	h, ok, err := tr.Fold.Get(position(w[0]))
	if ok {
		show(tr, &h)
	}
	return err
}

func readEach(tr *transcript, w words, parked bool) error {
	return tr.Fold.Each(parked, record.Position(w.Or("from", 0)), func(h *Half) bool {
		show(tr, h)
		return true
	})
}

func readCounts(tr *transcript, _ words) error {
	return tr.Fold.EachCount(func(topic kvindex.ID, n Count) bool {
		one, err := tr.Fold.Count(topic)
		tr.Say("topic=%d open=%d parked=%d", topic, n.Open, n.Parked)
		if err != nil || one != n {
			tr.Say("but alone %+v, %v", one, err)
		}
		return true
	})
}

func readEnded(tr *transcript, w words) error {
	e, ok, err := kvindex.ReadEnded(tr.Engine, kvindex.HourOf(base), int64(position(w[0])))
	if ok {
		tr.Say("%v %d", e.Outcome, e.Number)
	}
	return err
}

func position(text string) record.Position { return record.Position(foldtest.ParseNumber(text)) }

func stepOf(w words, now int64) step {
	switch w[0] {
	case "topic":
		return putTopic(kvindex.ID(position(w[1])))
	case "delete-topic":
		return deleteTopic(kvindex.ID(position(w[1])))
	case "half":
		h := Half{Position: position(w[1]), CheckAt: w.Time("check"), Topic: kvindex.ID(w.Or("topic", 0)), Queue: int32(w.Or("queue", 0)),
			Size: int32(w.Or("size", 100)), TagHash: w.Or("tag", 0), Stored: now, ID: uint64(w.Or("id", 0)), Delayed: w[len(w)-1] == "delayed"}
		h.Group, _ = w.Find("group")
		return add(h)
	}
	return nil
}

var (
	actionWords = map[string]Action{"commit": Commit, "rollback": Rollback, "expire": Expire}
	reasonWords = map[string]Reason{"no-answer": NoAnswer, "no-producer": NoProducer, "by-ops": ParkedByOps}
)

func recordOf(w words) record.Record {
	if action, ok := actionWords[w[0]]; ok {
		e := End{Position: position(w[1]), Action: action}
		if _, ok := w.Find("due"); ok {
			e.Due = w.Time("due")
		}
		return e.Record()
	}
	var checks []Check
	for _, word := range w[1:] {
		at, what, _ := strings.Cut(word, ":")
		c := Check{Position: position(at), Free: w[0] == "free"}
		if w[0] == "park" {
			c.Park = reasonWords[what]
		} else {
			c.Next = foldtest.ParseTime(what)
		}
		checks = append(checks, c)
	}
	return ChecksRecord(checks)
}
