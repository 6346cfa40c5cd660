package http

import (
	"context"
	"net/http/httptest"
	"reflect"
	"testing"

	"github.com/cairnmq/cairn/broker"
)

// deadVerbs answers what a test put into it and keeps what it was asked.
type deadVerbs struct {
	fakeVerbs
	groups []broker.DeadGroup
	found  []broker.DeadLetter
	next   broker.DeadPoint
	more   bool
	res    broker.RedriveResult
}

func (f *fakeVerbs) DeadGroups(string, int) ([]broker.DeadGroup, bool, error) {
	return nil, false, f.err
}

func (f *fakeVerbs) DeadGroup(string) (broker.DeadGroup, error) { return broker.DeadGroup{}, f.err }

func (f *fakeVerbs) DeadMessages(context.Context, broker.DeadQuery) ([]broker.DeadLetter, broker.DeadPoint, bool, error) {
	return nil, broker.DeadPoint{}, false, f.err
}

func (f *fakeVerbs) Redrive(context.Context, *broker.RedriveRequest) (*broker.RedriveResult, error) {
	return &broker.RedriveResult{}, f.err
}

func (f *fakeVerbs) Tier() (broker.TierInfo, error) {
	return broker.TierInfo{State: "working", Parts: 3}, f.err
}

func (f *deadVerbs) DeadGroups(behind string, most int) ([]broker.DeadGroup, bool, error) {
	f.asked = []any{behind, most}
	return f.groups, f.more, f.err
}

func (f *deadVerbs) DeadGroup(name string) (broker.DeadGroup, error) {
	return broker.DeadGroup{Group: name, Count: 7}, f.err
}

func (f *deadVerbs) DeadMessages(_ context.Context, q broker.DeadQuery) ([]broker.DeadLetter, broker.DeadPoint, bool, error) {
	f.asked = q
	return f.found, f.next, f.more, f.err
}

func (f *deadVerbs) Redrive(_ context.Context, req *broker.RedriveRequest) (*broker.RedriveResult, error) {
	f.asked = *req
	return &f.res, f.err
}

func newDeadAPI(t *testing.T, f *deadVerbs) *httptest.Server { return newAPI(t, f) }

func TestDeadGroupsAreListed(t *testing.T) {
	f := &deadVerbs{more: true, groups: []broker.DeadGroup{{Group: "g", Topic: "%DLQ%g", Count: 3, Oldest: 1000, Newest: 2000}}}
	srv := newDeadAPI(t, f)
	var got DeadGroupList
	if code := ask(t, srv, "/v1/dlq?after=f&limit=1", "", &got); code != 200 || !reflect.DeepEqual(f.asked, []any{"f", 1}) {
		t.Fatalf("status %d, asked for %v", code, f.asked)
	}
	if want := (DeadGroupList{Groups: []DeadGroup{{"g", "%DLQ%g", 3, 1000, 2000}}, Next: "g"}); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	got = DeadGroupList{}
	if code := ask(t, srv, "/v1/dlq?group=one", "", &got); code != 200 || len(got.Groups) != 1 || got.Groups[0].Group != "one" || got.Groups[0].Count != 7 {
		t.Errorf("%d %+v", code, got)
	}
}

func TestDeadLettersAreListed(t *testing.T) {
	queue, offset := int32(2), int64(40)
	f := &deadVerbs{more: true, next: broker.DeadPoint{Kept: 5, Queue: 0, Offset: 9}, found: []broker.DeadLetter{
		{DeadPoint: broker.DeadPoint{Kept: 5, Offset: 9}, Died: 3000, Reason: "forwarded", Attempts: 2, First: 1000, Last: 2000, Redrives: 1, Topic: "orders",
			OriginQueue: queue, OriginOffset: offset, UniqueID: "U", OriginID: "O", Keys: "k", Tag: "red", BodySize: 12},
		{DeadPoint: broker.DeadPoint{Offset: 10}, OriginQueue: -1, OriginOffset: -1},
	}}
	srv := newDeadAPI(t, f)
	var got DeadLetterList
	if code := ask(t, srv, "/v1/dlq/messages?group=g&tag=red&reason=forwarded&id=U&from=10&to=20&limit=2", "", &got); code != 200 {
		t.Fatalf("status %d", code)
	}
	asked := broker.DeadQuery{Group: "g", Most: 2, Filter: broker.DeadFilter{Tag: "red", Reason: "forwarded", ID: "U", From: 10, To: 20}}
	if !reflect.DeepEqual(f.asked, asked) {
		t.Errorf("asked for %+v, want %+v", f.asked, asked)
	}
	want := []DeadLetter{
		{Offset: 9, Died: 3000, Reason: "forwarded", Attempts: 2, First: 1000, Last: 2000, Redrives: 1, Topic: "orders", OriginQueue: &queue, OriginOffset: &offset,
			ID: "U", OriginID: "O", Keys: "k", Tag: "red", Size: 12},
		{Offset: 10},
	}
	if !reflect.DeepEqual(got.Letters, want) {
		t.Errorf("%+v, want %+v", got.Letters, want)
	}
	var again DeadLetterList
	if code := ask(t, srv, "/v1/dlq/messages?group=g&after="+got.Next, "", &again); code != 200 || f.asked.(broker.DeadQuery).After != f.next {
		t.Errorf("%d, asked for %+v", code, f.asked)
	}
}

func TestDeadLettersAreRedriven(t *testing.T) {
	f := &deadVerbs{res: broker.RedriveResult{Done: 3, Passed: 2, Failed: 1, Why: "no", Next: broker.RedrivePoint{Began: 77, After: broker.DeadPoint{Kept: 8, Queue: 1, Offset: -1}}}}
	srv := newDeadAPI(t, f)
	var got Redriven
	body := `{"group":"g","tag":"red","reason":"r","id":"U","from_ms":1,"to_ms":2,"topic":"t","limit":50}`
	if code := ask(t, srv, "/v1/dlq/redrive", body, &got); code != 200 || got != (Redriven{3, 2, 1, "no", got.Next}) || got.Next == "" {
		t.Fatalf("%d %+v", code, got)
	}
	want := broker.RedriveRequest{Group: "g", To: "t", Most: 50, Filter: broker.DeadFilter{Tag: "red", Reason: "r", ID: "U", From: 1, To: 2}}
	if f.asked != want {
		t.Errorf("asked for %+v, want %+v", f.asked, want)
	}
	f.res.End = true
	next := got.Next
	got = Redriven{}
	if code := ask(t, srv, "/v1/dlq/purge", `{"group":"g","after":"`+next+`"}`, &got); code != 200 || got.Next != "" {
		t.Fatalf("%d %+v", code, got)
	}
	if want := (broker.RedriveRequest{Group: "g", Purge: true, From: f.res.Next}); f.asked != want {
		t.Errorf("asked for %+v, want %+v", f.asked, want)
	}
	for _, body := range []string{`{"group":"g","after":"1.2.3"}`, `{"group":"g","after":"1.2.3.-4"}`, `{"group":"g","limit":1001}`, `{"group":"g","topic":"t"}`} {
		var refused Refusal
		if code := ask(t, srv, "/v1/dlq/purge", body, &refused); code != 400 || refused.Error.Code != "parameter" {
			t.Errorf("%s: %d %+v", body, code, refused)
		}
	}
}
