package http

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/record"
)

// Timer is a delayed message that is not delivered yet.
type Timer struct {
	Topic    string          `json:"topic"`
	Queue    int32           `json:"queue"`
	Due      int64           `json:"due_ms"`
	Stored   int64           `json:"stored_ms"`
	Level    int32           `json:"level,omitempty"` // delay level; 0 for a time of its own
	ID       string          `json:"id"`
	Keys     string          `json:"keys"`
	Size     int             `json:"body_bytes"`
	Position record.Position `json:"position"` // where it was first stored
	Handle   string          `json:"handle"`   // to recall it with
}

// TimerList answers GET /v1/timers.
type TimerList struct {
	Timers []Timer `json:"timers"`
	Next   string  `json:"next,omitempty"` // parameter after of the request that goes on; empty at the end
}

// GET /v1/timers?topic=&from=&to=&after=&limit=
func (a *api) listTimers(r *http.Request) (any, error) {
	q := newQuery(r, "topic", "from", "to", "after", "limit")
	ask := broker.TimerQuery{Topic: q.text("topic"), From: q.number("from", 0, math.MaxInt64), To: q.number("to", 0, math.MaxInt64),
		After: q.point("after"), Most: int(q.number("limit", 0, maxListed))}
	if q.err != nil {
		return nil, q.err
	}
	found, more, err := a.verbs.Timers(ask)
	if err != nil {
		return nil, err
	}
	list := TimerList{Timers: make([]Timer, len(found))}
	for i := range found {
		t := &found[i]
		list.Timers[i] = Timer{t.Topic, t.Queue, t.Due, t.Stored, t.Level, t.UniqueID, t.Keys, t.BodySize, t.Origin, t.Handle}
	}
	if more && len(found) > 0 {
		list.Next = formatPoint(found[len(found)-1].Point)
	}
	return list, nil
}

// A place in the order of timers is written as due time and position with a dash between.
func formatPoint(p delay.Point) string { return fmt.Sprintf("%d-%d", p.Due, p.Origin) }

func (q *query) point(name string) (p delay.Point) {
	text := q.values.Get(name)
	if text == "" {
		return p
	}
	due, origin, _ := strings.Cut(text, "-")
	d, err1 := strconv.ParseInt(due, 10, 64)
	o, err2 := strconv.ParseInt(origin, 10, 64)
	if err1 != nil || err2 != nil || d < 0 || o < 0 {
		q.fail("%s=%s is not what an earlier answer said to go on with", name, text)
	}
	return delay.Point{Due: d, Origin: record.Position(o)}
}

// TimerHistogram answers GET /v1/timers/histogram.
type TimerHistogram struct {
	Width   int64         `json:"width_ms"`
	Buckets []TimerBucket `json:"buckets"` // in the order of time, without the empty ones
}

// TimerBucket is how many timers are due from a time on, for the width of the histogram.
type TimerBucket struct {
	From  int64 `json:"from_ms"`
	Count int64 `json:"count"`
}

const defaultWidth = 60_000 // ms

// GET /v1/timers/histogram?topic=&from=&to=&width=
func (a *api) timerHistogram(r *http.Request) (any, error) {
	q := newQuery(r, "topic", "from", "to", "width")
	ask := broker.TimerQuery{Topic: q.text("topic"), From: q.number("from", 0, math.MaxInt64), To: q.number("to", 0, math.MaxInt64)}
	width := q.number("width", defaultWidth, math.MaxInt64)
	if width == 0 {
		q.fail("width=0: a bucket is at least 1 ms wide")
	}
	if q.err != nil {
		return nil, q.err
	}
	found, err := a.verbs.TimerHistogram(r.Context(), ask, width)
	if err != nil {
		return nil, err
	}
	h := TimerHistogram{Width: width, Buckets: make([]TimerBucket, len(found))}
	for i, b := range found {
		h.Buckets[i] = TimerBucket(b)
	}
	return h, nil
}

// RecallRequest is the body of POST /v1/timers/recall.
type RecallRequest struct {
	Topic  string `json:"topic"`
	Handle string `json:"handle"`
}

// Recalled answers it.
type Recalled struct {
	ID string `json:"id"` // unique id of the message that will not be delivered
}

// POST /v1/timers/recall
func (a *api) recall(r *http.Request) (any, error) {
	var req RecallRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	id, err := a.verbs.Recall(r.Context(), &broker.RecallRequest{Topic: req.Topic, Handle: req.Handle})
	if err != nil {
		return nil, err
	}
	return Recalled{id}, nil
}
