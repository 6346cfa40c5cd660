package delay

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/kvindex/foldtest"
)

// TestTranscripts runs the files in testdata/transcripts. Points are time/origin. Beside the commands of every
// foldtest.Script there are:
//
//	next, due now=TIME [most=N], get POINT, long before=TIME, pending, level N      what readers see
//
// and the steps:
//
//	topic ID, delete-topic ID
//	add POINT topic=ID [queue=N] [size=N] [tag=N] [level=N] [stored=TIME]
//	fire POINT POINT, recall POINT topic=ID
//	take POINT, move POINT to=POSITION size=N
func TestTranscripts(t *testing.T) {
	foldtest.Script[*State]{Machine: newMachine, Record: recordOf, Step: stepOf, Reads: map[string]func(*transcript, words) error{
		"next": readNext, "due": readDue, "get": readGet, "long": readLong, "pending": readPending, "level": readLevel,
	}}.Run(t)
}

type (
	transcript = foldtest.Transcript[*State]
	words      = foldtest.Words
)

const base = foldtest.Base

func show(tr *transcript, t *Timer) {
	tr.Say("%s topic=%d queue=%d position=%d size=%d tag=%d level=%d hour=%d", pointText(t.Point), t.Topic, t.Queue, t.Position,
		t.Size, t.TagHash, t.Level, t.Hour)
}

func readNext(tr *transcript, _ words) error {
	t, ok, err := tr.Fold.Next()
	if ok {
		show(tr, &t)
	}
	return err
}

func readDue(tr *transcript, w words) error {
	timers, err := dueTimers(tr.Fold, w.Time("now"), int(w.Or("most", 100)))
	for i := range timers {
		show(tr, &timers[i])
	}
	return err
}

func readGet(tr *transcript, w words) error {
	t, ok, err := tr.Fold.Get(point(w[0]))
	if ok {
		show(tr, &t)
	}
	return err
}

func readLong(tr *transcript, w words) error {
	return tr.Fold.EachLong(kvindex.HourOf(w.Time("before")), func(hour uint32, at Point) bool {
		tr.Say("hour=%d %s", hour, pointText(at))
		return true
	})
}

func readPending(tr *transcript, _ words) error {
	return tr.Fold.EachPending(func(topic kvindex.ID, n int64) bool {
		tr.Say("topic=%d %d", topic, n)
		if one, err := tr.Fold.Pending(topic); err != nil || one != n {
			tr.Say("but alone %d, %v", one, err)
		}
		return true
	})
}

func readLevel(tr *transcript, w words) error {
	c, err := tr.Fold.Level(int32(foldtest.ParseNumber(w[0])))
	tr.Say("in=%d out=%d", c.In, c.Out)
	return err
}

func pointText(p Point) string { return fmt.Sprintf("%s/%d", foldtest.TimeText(p.Due), p.Origin) }

func point(text string) Point {
	due, origin, _ := strings.Cut(text, "/")
	return Point{Due: foldtest.ParseTime(due), Origin: record.Position(foldtest.ParseNumber(origin))}
}

func recordOf(w words) record.Record {
	switch w[0] {
	case "fire":
		return Fire{point(w[1]), point(w[2])}.Record()
	case "recall":
		return Recall{point(w[1]), kvindex.ID(w.Number("topic"))}.Record()
	}
	panic(fmt.Sprintf("no record of %q", w))
}

func stepOf(w words, _ int64) step {
	switch w[0] {
	case "topic":
		return putTopic(kvindex.ID(foldtest.ParseNumber(w[1])))
	case "delete-topic":
		return deleteTopic(kvindex.ID(foldtest.ParseNumber(w[1])))
	case "add":
		t := Timer{Point: point(w[1]), Topic: kvindex.ID(w.Number("topic")), Queue: int32(w.Or("queue", 0)), Size: int32(w.Or("size", 100)),
			TagHash: w.Or("tag", 0), Level: int32(w.Or("level", 0))}
		if _, ok := w.Find("stored"); ok {
			t.Hour = kvindex.HourOf(w.Time("stored"))
		}
		t.Position = t.Origin
		return add(t)
	case "take":
		return take(point(w[1]))
	case "move":
		return move(point(w[1]), record.Position(w.Number("to")), int32(w.Number("size")))
	}
	return nil
}
