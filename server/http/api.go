package http

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/internal/record"
)

// Verbs is what the door calls of a broker.
type Verbs interface {
	Timers(broker.TimerQuery) (found []broker.TimerInfo, more bool, err error)
	TimerHistogram(ctx context.Context, q broker.TimerQuery, width int64) ([]broker.TimerBucket, error)
	Recall(context.Context, *broker.RecallRequest) (uniqueID string, err error)
	HalfMessages(broker.HalfQuery) (found []broker.HalfInfo, next record.Position, err error)
	EndTransaction(context.Context, *broker.EndTransactionRequest) error
	DeadGroups(behind string, most int) (found []broker.DeadGroup, more bool, err error)
	DeadGroup(name string) (broker.DeadGroup, error)
	DeadMessages(context.Context, broker.DeadQuery) (found []broker.DeadLetter, next broker.DeadPoint, more bool, err error)
	Redrive(context.Context, *broker.RedriveRequest) (*broker.RedriveResult, error)
	Tier() (broker.TierInfo, error)
}

const (
	// maxBody bounds the body of a request in bytes.
	maxBody = 64 << 10
	// bodyTimeout bounds how long a client may take to send one.
	bodyTimeout = 10 * time.Second
	// maxReads bounds the lists and histograms that are made at once: each may read millions of rows.
	maxReads = 4
	// maxListed bounds the rows of one answer, as the verbs do.
	maxListed = 1000
)

type api struct {
	verbs Verbs
	log   zerolog.Logger
	reads chan struct{} // holds an element for each read under way
}

func (a *api) register(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/timers", a.read(a.listTimers))
	mux.HandleFunc("GET /v1/timers/histogram", a.read(a.timerHistogram))
	mux.HandleFunc("POST /v1/timers/recall", a.change(a.recall))
	mux.HandleFunc("GET /v1/transactions", a.read(a.listTransactions))
	mux.HandleFunc("POST /v1/transactions/end", a.change(a.endTransaction))
	mux.HandleFunc("GET /v1/dlq", a.read(a.listDeadGroups))
	mux.HandleFunc("GET /v1/dlq/messages", a.read(a.listDeadLetters))
	mux.HandleFunc("POST /v1/dlq/redrive", a.change(a.redrive))
	mux.HandleFunc("POST /v1/dlq/purge", a.change(a.purge))
	mux.HandleFunc("GET /v1/tier", a.read(func(*http.Request) (any, error) { return a.verbs.Tier() }))
}

// read wraps an answer to a query.
func (a *api) read(f func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case a.reads <- struct{}{}:
			defer func() { <-a.reads }()
		default:
			a.answer(w, r, nil, &broker.Error{Code: broker.CodeBusy, Message: fmt.Sprintf("%d lists are being read already", maxReads)})
			return
		}
		v, err := f(r)
		a.answer(w, r, v, err)
	}
}

// change wraps an answer to a request with a body. The body has to say that it is JSON: a web page of somebody else cannot
// make a browser send that.
func (a *api) change(f func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); strings.TrimSpace(kind) != "application/json" {
			a.answer(w, r, nil, &statusError{http.StatusUnsupportedMediaType, "content-type", "Content-Type is not application/json"})
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		c := http.NewResponseController(w)
		_ = c.SetReadDeadline(time.Now().Add(bodyTimeout)) // where it cannot be set there is no network to wait for
		v, err := f(r)
		_ = c.SetReadDeadline(time.Time{})
		a.answer(w, r, v, err)
	}
}

// Refusal is the body of every answer that is not 200.
type Refusal struct {
	Error struct {
		Code    string `json:"code"` // what a program may look at
		Message string `json:"message"`
	} `json:"error"`
}

// statusError is a refusal that is the door's own.
type statusError struct {
	status        int
	code, message string
}

func (e *statusError) Error() string { return e.message }

func badParameter(format string, args ...any) error {
	return &broker.Error{Code: broker.CodeParameter, Message: fmt.Sprintf(format, args...)}
}

func (a *api) answer(w http.ResponseWriter, r *http.Request, v any, err error) {
	status := http.StatusOK
	if err != nil {
		var refused Refusal
		status, refused.Error.Code = statusOf(err)
		refused.Error.Message = err.Error()
		v = refused
		if status == http.StatusInternalServerError && r.Context().Err() == nil {
			a.log.Error().Err(err).Str("path", r.URL.Path).Msg("request failed")
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // who asked is gone when it fails
}

func statusOf(err error) (status int, code string) {
	var own *statusError
	if errors.As(err, &own) {
		return own.status, own.code
	}
	if a, ok := answers[broker.CodeOf(err)]; ok {
		return a.status, a.name
	}
	return http.StatusInternalServerError, answers[broker.CodeInternal].name
}

type refusalAnswer struct {
	status int
	name   string
}

var answers = map[broker.Code]refusalAnswer{
	broker.CodeInternal:           {http.StatusInternalServerError, "internal"},
	broker.CodeBusy:               {http.StatusServiceUnavailable, "busy"},
	broker.CodeReadOnly:           {http.StatusServiceUnavailable, "read-only"},
	broker.CodeClosing:            {http.StatusServiceUnavailable, "closing"},
	broker.CodeTopicNotFound:      {http.StatusNotFound, "topic-not-found"},
	broker.CodeGroupNotFound:      {http.StatusNotFound, "group-not-found"},
	broker.CodeOffsetNotFound:     {http.StatusNotFound, "offset-not-found"},
	broker.CodeNotFound:           {http.StatusNotFound, "not-found"},
	broker.CodeTopicIllegal:       {http.StatusBadRequest, "topic-illegal"},
	broker.CodeGroupIllegal:       {http.StatusBadRequest, "group-illegal"},
	broker.CodeMessageIllegal:     {http.StatusBadRequest, "message-illegal"},
	broker.CodeParameter:          {http.StatusBadRequest, "parameter"},
	broker.CodeInvalidHandle:      {http.StatusBadRequest, "invalid-handle"},
	broker.CodeDelayTooLong:       {http.StatusBadRequest, "delay-too-long"},
	broker.CodeNoPermission:       {http.StatusForbidden, "no-permission"},
	broker.CodeBodyTooLarge:       {http.StatusRequestEntityTooLarge, "body-too-large"},
	broker.CodePropertiesTooLarge: {http.StatusRequestEntityTooLarge, "properties-too-large"},
	broker.CodeUnsupported:        {http.StatusNotImplemented, "unsupported"},
	broker.CodeDelivered:          {http.StatusConflict, "delivered"},
	broker.CodeConflict:           {http.StatusConflict, "conflict"},
}

// decode reads a body of one JSON object; an unknown key is an error.
func decode(r *http.Request, v any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("more than one object")
		}
	}
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return &statusError{http.StatusRequestEntityTooLarge, "request-too-large", fmt.Sprintf("the request's body is over %d bytes", maxBody)}
	case err != nil:
		return badParameter("the request's body is not as it should be: %v", err)
	}
	return nil
}

// query reads the parameters of a request. The first error is kept and ends it all.
type query struct {
	values url.Values
	err    error
}

// newQuery begins; a parameter that is none of the known ones is an error.
func newQuery(r *http.Request, known ...string) *query {
	q := &query{}
	q.values, q.err = url.ParseQuery(r.URL.RawQuery)
	if q.err != nil {
		q.err = badParameter("the query is malformed: %v", q.err)
	}
	for name := range q.values {
		if !slices.Contains(known, name) {
			q.fail("unknown parameter %q; there are %s", name, strings.Join(known, ", "))
		}
	}
	return q
}

func (q *query) fail(format string, args ...any) {
	if q.err == nil {
		q.err = badParameter(format, args...)
	}
}

func (q *query) text(name string) string { return q.values.Get(name) }

// number is a whole one between 0 and most; without it the default.
func (q *query) number(name string, otherwise, most int64) int64 {
	text := q.values.Get(name)
	if text == "" {
		return otherwise
	}
	v, err := strconv.ParseInt(text, 10, 64)
	if err != nil || v < 0 || v > most {
		q.fail("%s=%s is not a number from 0 to %d", name, text, most)
	}
	return v
}

func (q *query) flag(name string) bool {
	text := q.values.Get(name)
	if text == "" {
		return false
	}
	v, err := strconv.ParseBool(text)
	if err != nil {
		q.fail("%s=%s is neither true nor false", name, text)
	}
	return v
}
