package http

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/txn"
)

// fakeVerbs answers what a test put into it and keeps what it was asked.
type fakeVerbs struct {
	timers  []broker.TimerInfo
	more    bool
	buckets []broker.TimerBucket
	halves  []broker.HalfInfo
	next    record.Position
	err     error
	entered chan struct{} // when it is there, Timers says that it was called
	leave   chan struct{} // and waits for this

	asked any
	width int64
}

func (f *fakeVerbs) Timers(q broker.TimerQuery) ([]broker.TimerInfo, bool, error) {
	if f.entered != nil {
		f.entered <- struct{}{}
		<-f.leave
		return nil, false, nil
	}
	f.asked = q
	return f.timers, f.more, f.err
}

func (f *fakeVerbs) TimerHistogram(_ context.Context, q broker.TimerQuery, width int64) ([]broker.TimerBucket, error) {
	f.asked, f.width = q, width
	return f.buckets, f.err
}

func (f *fakeVerbs) Recall(_ context.Context, req *broker.RecallRequest) (string, error) {
	f.asked = *req
	return "ID-1", f.err
}

func (f *fakeVerbs) HalfMessages(q broker.HalfQuery) ([]broker.HalfInfo, record.Position, error) {
	f.asked = q
	return f.halves, f.next, f.err
}

func (f *fakeVerbs) EndTransaction(_ context.Context, req *broker.EndTransactionRequest) error {
	f.asked = *req
	return f.err
}

func newAPI(t *testing.T, verbs Verbs) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	(&api{verbs: verbs, log: zerolog.Nop(), reads: make(chan struct{}, maxReads)}).register(mux)
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv
}

// ask sends a request, with a body when there is one, and reads the answer into v.
func ask(t *testing.T, srv *httptest.Server, path, body string, v any) int {
	t.Helper()
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	req, err := http.NewRequest(method, srv.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatalf("%s: %d %q: %v", path, resp.StatusCode, data, err)
	}
	return resp.StatusCode
}

func TestTimersAreListed(t *testing.T) {
	f := &fakeVerbs{more: true, timers: []broker.TimerInfo{
		{Point: delay.Point{Due: 5000, Origin: 77}, Topic: "orders", Queue: 3, Level: 2, Stored: 4000, UniqueID: "U", Keys: "k1 k2", Handle: "H", BodySize: 12},
	}}
	srv := newAPI(t, f)
	var got TimerList
	if code := ask(t, srv, "/v1/timers?topic=orders&from=10&to=20&after=11-42&limit=7", "", &got); code != 200 {
		t.Fatalf("status %d", code)
	}
	want := broker.TimerQuery{Topic: "orders", From: 10, To: 20, After: delay.Point{Due: 11, Origin: 42}, Most: 7}
	if f.asked != want {
		t.Errorf("asked for %+v, want %+v", f.asked, want)
	}
	if l := (TimerList{Timers: []Timer{{"orders", 3, 5000, 4000, 2, "U", "k1 k2", 12, 77, "H"}}, Next: "5000-77"}); !reflect.DeepEqual(got, l) {
		t.Errorf("%+v, want %+v", got, l)
	}

	f.timers, f.more, got = nil, false, TimerList{}
	if code := ask(t, srv, "/v1/timers", "", &got); code != 200 || got.Timers == nil || got.Next != "" || f.asked != (broker.TimerQuery{}) {
		t.Errorf("none: %d %+v, asked for %+v", code, got, f.asked)
	}
}

func TestTimerHistogram(t *testing.T) {
	f := &fakeVerbs{buckets: []broker.TimerBucket{{From: 1000, Count: 3}, {From: 9000, Count: 1}}}
	srv := newAPI(t, f)
	var got TimerHistogram
	if code := ask(t, srv, "/v1/timers/histogram?topic=orders&from=1000&to=9999&width=1000", "", &got); code != 200 {
		t.Fatalf("status %d", code)
	}
	if (f.asked != broker.TimerQuery{Topic: "orders", From: 1000, To: 9999}) || f.width != 1000 {
		t.Errorf("asked for %+v in steps of %d", f.asked, f.width)
	}
	if want := (TimerHistogram{1000, []TimerBucket{{1000, 3}, {9000, 1}}}); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestRecall(t *testing.T) {
	f := &fakeVerbs{}
	srv := newAPI(t, f)
	var got Recalled
	if code := ask(t, srv, "/v1/timers/recall", `{"topic":"orders","handle":"H"}`, &got); code != 200 || got.ID != "ID-1" {
		t.Errorf("%d %+v", code, got)
	}
	if (f.asked != broker.RecallRequest{Topic: "orders", Handle: "H"}) {
		t.Errorf("asked for %+v", f.asked)
	}
	f.err = &broker.Error{Code: broker.CodeDelivered, Message: "it was delivered"}
	var refused Refusal
	if code := ask(t, srv, "/v1/timers/recall", `{"topic":"orders","handle":"H"}`, &refused); code != 409 || refused.Error.Code != "delivered" ||
		refused.Error.Message != "it was delivered" {
		t.Errorf("%d %+v", code, refused)
	}
}

func TestTransactionsAreListed(t *testing.T) {
	f := &fakeVerbs{next: 900, halves: []broker.HalfInfo{
		{Half: txn.Half{Position: 500, CheckAt: 7000, Queue: 1, Checks: 2, Stored: 1000, Delayed: true, Group: "pg"}, Topic: "orders", UniqueID: "U", Keys: "k", BodySize: 9},
		{Half: txn.Half{Position: 600, Checks: 15, Stored: 1001, Reason: txn.NoAnswer, Group: "pg"}, Topic: "orders"},
	}}
	srv := newAPI(t, f)
	var got TransactionList
	if code := ask(t, srv, "/v1/transactions?parked=true&topic=orders&group=pg&from=400&limit=2", "", &got); code != 200 {
		t.Fatalf("status %d", code)
	}
	if want := (broker.HalfQuery{Parked: true, Topic: "orders", Group: "pg", From: 400, Most: 2}); f.asked != want {
		t.Errorf("asked for %+v, want %+v", f.asked, want)
	}
	want := TransactionList{Next: 900, Transactions: []Transaction{
		{Position: 500, Topic: "orders", Queue: 1, Group: "pg", Stored: 1000, Checks: 2, CheckAt: 7000, Delayed: true, ID: "U", Keys: "k", Size: 9},
		{Position: 600, Topic: "orders", Group: "pg", Stored: 1001, Checks: 15, Parked: true, Reason: txn.NoAnswer.String()},
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	f.next, got = -1, TransactionList{}
	if ask(t, srv, "/v1/transactions", "", &got); got.Next != 0 {
		t.Errorf("%d is to go on from at the end", got.Next)
	}
}

func TestTransactionIsEnded(t *testing.T) {
	f := &fakeVerbs{}
	srv := newAPI(t, f)
	for action, want := range map[Action]broker.Resolution{Commit: broker.TransactionCommit, Rollback: broker.TransactionRollback} {
		var got EndRequest
		body := `{"position":0,"action":"` + string(action) + `"}`
		if code := ask(t, srv, "/v1/transactions/end", body, &got); code != 200 || *got.Position != 0 || got.Action != action {
			t.Errorf("%s: %d %+v", action, code, got)
		}
		if (f.asked != broker.EndTransactionRequest{Resolution: want}) {
			t.Errorf("%s: asked for %+v", action, f.asked)
		}
	}
}

func TestBadRequestsAreRefused(t *testing.T) {
	srv := newAPI(t, &fakeVerbs{})
	for _, c := range []struct {
		path, body string
		status     int
		code       string
	}{
		{"/v1/timers?tpoic=a", "", 400, "parameter"},
		{"/v1/timers?from=soon", "", 400, "parameter"},
		{"/v1/timers?to=-1", "", 400, "parameter"},
		{"/v1/timers?limit=1001", "", 400, "parameter"},
		{"/v1/timers?after=12", "", 400, "parameter"},
		{"/v1/timers?topic=%zz", "", 400, "parameter"},
		{"/v1/timers/histogram?width=0", "", 400, "parameter"},
		{"/v1/transactions?parked=perhaps", "", 400, "parameter"},
		{"/v1/timers/recall", `{"topic":"a","handel":"b"}`, 400, "parameter"},
		{"/v1/timers/recall", `{"topic":"a"} {}`, 400, "parameter"},
		{"/v1/timers/recall", `{"handle":"` + strings.Repeat("x", maxBody) + `"}`, 413, "request-too-large"},
		{"/v1/transactions/end", `{"position":1,"action":"forget"}`, 400, "parameter"},
		{"/v1/transactions/end", `{"position":-1,"action":"commit"}`, 400, "parameter"},
		{"/v1/transactions/end", `{"action":"commit"}`, 400, "parameter"},
		{"/v1/transactions/end", `commit`, 400, "parameter"},
	} {
		var refused Refusal
		if status := ask(t, srv, c.path, c.body, &refused); status != c.status || refused.Error.Code != c.code || refused.Error.Message == "" {
			t.Errorf("%s %.40s: %d %+v", c.path, c.body, status, refused)
		}
	}
}

// TestFormsOfOtherSitesChangeNothing: what a web page can make a browser send without being asked is refused.
func TestFormsOfOtherSitesChangeNothing(t *testing.T) {
	f := &fakeVerbs{}
	srv := newAPI(t, f)
	for _, kind := range []string{"text/plain", "application/x-www-form-urlencoded", ""} {
		resp, err := srv.Client().Post(srv.URL+"/v1/transactions/end", kind, bytes.NewReader([]byte(`{"position":1,"action":"rollback"}`)))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusUnsupportedMediaType || f.asked != nil {
			t.Errorf("%q: %d, asked for %v", kind, resp.StatusCode, f.asked)
		}
	}
}

func TestEveryCodeHasAnAnswer(t *testing.T) {
	names := map[string]bool{}
	for c := broker.CodeInternal; c <= broker.CodeConflict; c++ {
		a, ok := answers[c]
		if !ok || a.status < 400 || a.name == "" || names[a.name] {
			t.Errorf("code %d: %+v", c, a)
		}
		names[a.name] = true
	}
	srv := newAPI(t, &fakeVerbs{err: errors.New("the index is gone")})
	var refused Refusal
	if status := ask(t, srv, "/v1/timers", "", &refused); status != 500 || refused.Error.Code != "internal" {
		t.Errorf("%d %+v", status, refused)
	}
}

// TestReadsAreBounded: a list beyond the bound is refused at once, and one that has ended makes room.
func TestReadsAreBounded(t *testing.T) {
	f := &fakeVerbs{entered: make(chan struct{}), leave: make(chan struct{})}
	srv := newAPI(t, f)
	over := make(chan int, maxReads)
	for range maxReads {
		go func() {
			resp, err := srv.Client().Get(srv.URL + "/v1/timers")
			if err != nil {
				over <- 0
				return
			}
			_ = resp.Body.Close()
			over <- resp.StatusCode
		}()
	}
	for range maxReads {
		<-f.entered
	}
	var refused Refusal
	if status := ask(t, srv, "/v1/transactions", "", &refused); status != 503 || refused.Error.Code != "busy" {
		t.Errorf("%d %+v", status, refused)
	}
	close(f.leave)
	for range maxReads {
		if status := <-over; status != 200 {
			t.Errorf("a read that had begun: %d", status)
		}
	}
	var got TransactionList
	if status := ask(t, srv, "/v1/transactions", "", &got); status != 200 {
		t.Errorf("after them: %d", status)
	}
}
