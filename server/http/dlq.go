package http

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/internal/record"
)

// DeadGroup is a consumer group that has dead letters.
type DeadGroup struct {
	Group  string `json:"group"`
	Topic  string `json:"topic"` // where they are
	Count  int64  `json:"count"` // neither redriven nor purged
	Oldest int64  `json:"oldest_ms"`
	Newest int64  `json:"newest_ms"`
}

// DeadGroupList answers GET /v1/dlq; with a group it has that one alone, also when it has no dead letters.
type DeadGroupList struct {
	Groups []DeadGroup `json:"groups"`         // by name
	Next   string      `json:"next,omitempty"` // parameter after of the request that goes on; empty at the end
}

// GET /v1/dlq?group=&after=&limit=
func (a *api) listDeadGroups(r *http.Request) (any, error) {
	q := newQuery(r, "group", "after", "limit")
	after, limit := q.text("after"), int(q.number("limit", 0, maxListed))
	if q.err != nil {
		return nil, q.err
	}
	if group := q.text("group"); group != "" {
		d, err := a.verbs.DeadGroup(group)
		return DeadGroupList{Groups: []DeadGroup{DeadGroup(d)}}, err
	}
	found, more, err := a.verbs.DeadGroups(after, limit)
	if err != nil {
		return nil, err
	}
	list := DeadGroupList{Groups: make([]DeadGroup, len(found))}
	for i, d := range found {
		list.Groups[i] = DeadGroup(d)
	}
	if more && len(found) > 0 {
		list.Next = found[len(found)-1].Group
	}
	return list, nil
}

// DeadLetter is a message that a group could not consume, and what became of it before. What is not known is left out.
type DeadLetter struct {
	Queue        int32  `json:"queue"` // of the dead-letter topic
	Offset       int64  `json:"offset"`
	Died         int64  `json:"died_ms"`
	Reason       string `json:"reason,omitempty"`
	Attempts     int32  `json:"attempts"` // deliveries
	First        int64  `json:"first_delivery_ms,omitempty"`
	Last         int64  `json:"last_delivery_ms,omitempty"`
	Redrives     int32  `json:"redrives,omitempty"` // how often it went back before
	Topic        string `json:"origin_topic"`
	OriginQueue  *int32 `json:"origin_queue,omitempty"`
	OriginOffset *int64 `json:"origin_offset,omitempty"`
	ID           string `json:"id"`
	OriginID     string `json:"origin_id"` // offset message id that it had
	Keys         string `json:"keys"`
	Tag          string `json:"tag"`
	Size         int    `json:"body_bytes"`
}

// DeadLetterList answers GET /v1/dlq/messages.
type DeadLetterList struct {
	Letters []DeadLetter `json:"letters"`        // those that a redrive has passed over come first
	Next    string       `json:"next,omitempty"` // parameter after of the request that goes on; empty at the end
}

// GET /v1/dlq/messages?group=&tag=&reason=&id=&from=&to=&after=&limit=
func (a *api) listDeadLetters(r *http.Request) (any, error) {
	q := newQuery(r, "group", "tag", "reason", "id", "from", "to", "after", "limit")
	ask := broker.DeadQuery{
		Group: q.text("group"), Most: int(q.number("limit", 0, maxListed)),
		Filter: broker.DeadFilter{
			Tag: q.text("tag"), Reason: q.text("reason"), ID: q.text("id"), From: q.number("from", 0, math.MaxInt64), To: q.number("to", 0, math.MaxInt64),
		},
	}
	at, err := parseRedrivePoint(q.text("after"))
	if err != nil {
		q.fail("after: %v", err)
	}
	if q.err != nil {
		return nil, q.err
	}
	ask.After = at.After
	found, next, more, err := a.verbs.DeadMessages(r.Context(), ask)
	if err != nil {
		return nil, err
	}
	list := DeadLetterList{Letters: make([]DeadLetter, len(found))}
	for i := range found {
		list.Letters[i] = deadLetterOf(&found[i])
	}
	if more {
		list.Next = formatRedrivePoint(broker.RedrivePoint{After: next})
	}
	return list, nil
}

func deadLetterOf(d *broker.DeadLetter) DeadLetter {
	out := DeadLetter{
		Queue: d.Queue, Offset: d.Offset, Died: d.Died, Reason: d.Reason, Attempts: d.Attempts, First: d.First, Last: d.Last,
		Redrives: d.Redrives, Topic: d.Topic, ID: d.UniqueID, OriginID: d.OriginID, Keys: d.Keys, Tag: d.Tag, Size: d.BodySize,
	}
	if d.OriginQueue >= 0 && d.OriginOffset >= 0 {
		out.OriginQueue, out.OriginOffset = &d.OriginQueue, &d.OriginOffset
	}
	return out
}

// A place in a run is written as where the log was when it began, and the dead letter that was looked at last: kept since, queue, offset.
func formatRedrivePoint(p broker.RedrivePoint) string {
	return fmt.Sprintf("%d.%d.%d.%d", p.Began, p.After.Kept, p.After.Queue, p.After.Offset+1)
}

func parseRedrivePoint(text string) (p broker.RedrivePoint, err error) {
	if text == "" {
		return p, nil
	}
	parts := strings.Split(text, ".")
	var n [4]int64
	if len(parts) != len(n) {
		return p, fmt.Errorf("%s is not what an earlier answer said to go on with", text)
	}
	for i, part := range parts {
		if n[i], err = strconv.ParseInt(part, 10, 64); err != nil || n[i] < 0 || i == 2 && n[i] > math.MaxInt32 {
			return p, fmt.Errorf("%s is not what an earlier answer said to go on with", text)
		}
	}
	return broker.RedrivePoint{Began: record.Position(n[0]), After: broker.DeadPoint{Kept: n[1], Queue: int32(n[2]), Offset: n[3] - 1}}, nil
}

// RedriveRequest is the body of POST /v1/dlq/redrive and of POST /v1/dlq/purge, which has no topic. Empty means all.
type RedriveRequest struct {
	Group  string `json:"group"`
	Tag    string `json:"tag,omitempty"`
	Reason string `json:"reason,omitempty"`
	ID     string `json:"id,omitempty"`
	From   int64  `json:"from_ms,omitempty"` // when they died
	To     int64  `json:"to_ms,omitempty"`
	Topic  string `json:"topic,omitempty"` // where they go; empty: where each was first
	After  string `json:"after,omitempty"` // what the answer before said to go on with
	Limit  int    `json:"limit,omitempty"` // dead letters to look at, at most 1000; 0: 100
}

// Redriven answers it.
type Redriven struct {
	Done   int    `json:"done"`   // redriven, or purged
	Passed int    `json:"passed"` // did not match, or had gone
	Failed int    `json:"failed"`
	Why    string `json:"why,omitempty"`  // of the first that failed
	Next   string `json:"next,omitempty"` // what to go on with; empty at the end
}

// POST /v1/dlq/redrive
func (a *api) redrive(r *http.Request) (any, error) { return a.redriveOrPurge(r, false) }

// POST /v1/dlq/purge
func (a *api) purge(r *http.Request) (any, error) { return a.redriveOrPurge(r, true) }

func (a *api) redriveOrPurge(r *http.Request, purge bool) (any, error) {
	var req RedriveRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	at, err := parseRedrivePoint(req.After)
	switch {
	case err != nil:
		return nil, badParameter("after: %v", err)
	case purge && req.Topic != "":
		return nil, badParameter("what is purged goes to no topic")
	case req.Limit < 0 || req.Limit > maxListed:
		return nil, badParameter("limit=%d is not a number from 0 to %d", req.Limit, maxListed)
	}
	// A part that has begun is finished when who asked has gone: so he knows of each dead letter what became of it, or it is there.
	res, err := a.verbs.Redrive(context.WithoutCancel(r.Context()), &broker.RedriveRequest{
		Group: req.Group, To: req.Topic, Purge: purge, Most: req.Limit, From: at,
		Filter: broker.DeadFilter{Tag: req.Tag, Reason: req.Reason, ID: req.ID, From: req.From, To: req.To},
	})
	if err != nil {
		return nil, err
	}
	out := Redriven{Done: res.Done, Passed: res.Passed, Failed: res.Failed, Why: res.Why}
	if !res.End {
		out.Next = formatRedrivePoint(res.Next)
	}
	return out, nil
}
