package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/record"
	doorhttp "github.com/cairnmq/cairn/server/http"
	"github.com/cairnmq/cairn/txn"
)

// fakeVerbs keeps timers in due order and half messages in the order of their positions.
type fakeVerbs struct {
	timers []broker.TimerInfo
	halves []broker.HalfInfo
	ended  []string
	counts int // histograms that were asked for
}

func (f *fakeVerbs) selected(q broker.TimerQuery) (out []broker.TimerInfo) {
	for _, t := range f.timers {
		if (q.Topic == "" || q.Topic == t.Topic) && t.Due >= q.From && (q.To == 0 || t.Due <= q.To) && q.After.Before(t.Point) {
			out = append(out, t)
		}
	}
	return out
}

func (f *fakeVerbs) Timers(q broker.TimerQuery) ([]broker.TimerInfo, bool, error) {
	found := f.selected(q)
	most := cmp.Or(q.Most, 100)
	return found[:min(most, len(found))], len(found) > most, nil
}

func (f *fakeVerbs) TimerHistogram(_ context.Context, q broker.TimerQuery, width int64) (out []broker.TimerBucket, err error) {
	f.counts++
	for _, t := range f.selected(q) {
		from := t.Due - (t.Due-q.From)%width
		if n := len(out); n == 0 || out[n-1].From != from {
			out = append(out, broker.TimerBucket{From: from})
		}
		out[len(out)-1].Count++
	}
	if len(out) > 1000 {
		return nil, &broker.Error{Code: broker.CodeParameter, Message: "too many buckets"}
	}
	return out, nil
}

func (f *fakeVerbs) Recall(_ context.Context, req *broker.RecallRequest) (string, error) {
	h, err := delay.ParseHandle(req.Handle)
	if err != nil || h.Topic != req.Topic {
		return "", &broker.Error{Code: broker.CodeInvalidHandle, Message: "not a handle of this topic"}
	}
	for i, t := range f.timers {
		if t.UniqueID == h.UniqueID {
			f.timers = slices.Delete(f.timers, i, i+1)
			return h.UniqueID, nil
		}
	}
	return "", &broker.Error{Code: broker.CodeDelivered, Message: "it was delivered"}
}

func (f *fakeVerbs) HalfMessages(q broker.HalfQuery) (out []broker.HalfInfo, next record.Position, err error) {
	for _, h := range f.halves {
		if (h.Reason != txn.NotParked) != q.Parked || h.Position < q.From || q.Group != "" && q.Group != h.Group || q.Topic != "" && q.Topic != h.Topic {
			continue
		}
		if len(out) == cmp.Or(q.Most, 100) {
			return out, h.Position, nil
		}
		out = append(out, h)
	}
	return out, -1, nil
}

func (f *fakeVerbs) EndTransaction(_ context.Context, req *broker.EndTransactionRequest) error {
	i := slices.IndexFunc(f.halves, func(h broker.HalfInfo) bool { return h.Position == req.Position })
	if i < 0 {
		return &broker.Error{Code: broker.CodeNotFound, Message: "no half message there"}
	}
	f.halves = slices.Delete(f.halves, i, i+1)
	f.ended = append(f.ended, fmt.Sprintf("%d:%d", req.Position, req.Resolution))
	return nil
}

// openDoor serves verbs over HTTP and answers its address.
func openDoor(t *testing.T, verbs doorhttp.Verbs) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := doorhttp.New(verbs, prometheus.NewRegistry(), func() error { return nil }, zerolog.Nop())
	served := make(chan error, 1)
	go func() { served <- d.Serve(ln) }()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		if err := errors.Join(d.Close(context.Background()), <-served); err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

// cairnSays runs a command line and answers what it printed.
func cairnSays(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&out)
	err := root.ExecuteContext(context.Background())
	return out.String(), err
}

func isUsage(err error) bool {
	var usage *usageError
	return errors.As(err, &usage)
}

// someTimers makes timers of the topic, one every step.
func someTimers(topic string, n int, first time.Time, step time.Duration) (out []broker.TimerInfo) {
	for i := range n {
		p := delay.Point{Due: first.Add(time.Duration(i) * step).UnixMilli(), Origin: record.Position(i * 100)}
		id := fmt.Sprintf("%s-%d", topic, i)
		out = append(out, broker.TimerInfo{Point: p, Topic: topic, Queue: 2, UniqueID: id, Keys: "key", BodySize: 12,
			Handle: delay.Handle{Topic: topic, Broker: "b", Due: p.Due, UniqueID: id, Origin: p.Origin}.String()})
	}
	return out
}

func TestTimerList(t *testing.T) {
	f := &fakeVerbs{timers: someTimers("orders", 2500, time.Now().Add(time.Hour), time.Second)}
	f.timers = append(someTimers("late", 1, time.Now().Add(-5*time.Second), 0), f.timers...)
	addr := openDoor(t, f)
	out, err := cairnSays(t, "timer", "list", "--http", addr)
	if err != nil || strings.Count(out, "\n") != 1+20+1 || !strings.Contains(out, "overdue 5.") || !strings.Contains(out, "in 59m") || !strings.Contains(out, "and more") {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = cairnSays(t, "timer", "list", "orders", "--from", "90m", "--to", "91m", "--limit", "100", "--http", addr, "--handles")
	if err != nil || strings.Contains(out, "and more") || strings.Count(out, "\n") < 60 || strings.Count(out, "\n") > 63 || !strings.Contains(out, "HANDLE") {
		t.Errorf("a window of a minute: %v\n%s", err, out)
	}
	out, err = cairnSays(t, "timer", "list", "orders", "--limit", "2100", "-o", "json", "--http", "http://"+addr+"/")
	var rows []doorhttp.Timer
	if err != nil || json.Unmarshal([]byte(out), &rows) != nil || len(rows) != 2100 || rows[2099].ID != "orders-2099" {
		t.Errorf("three pages: %v, %d rows", err, len(rows))
	}
	out, err = cairnSays(t, "timer", "list", "nothing", "-o", "json", "--http", addr)
	if err != nil || out != "[]\n" {
		t.Errorf("none: %v %q", err, out)
	}
	for _, bad := range [][]string{{"--from", "soon"}, {"--limit", "0"}, {"a", "b"}, {"-o", "xml"}} {
		if _, err := cairnSays(t, append([]string{"timer", "list", "--http", addr}, bad...)...); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
}

func TestTimerHistogramFindsItsWidth(t *testing.T) {
	first := time.Now().Add(time.Hour).Truncate(time.Hour)
	for _, c := range []struct {
		name  string
		step  time.Duration
		width time.Duration
	}{{"within a second", 100 * time.Microsecond, 100 * time.Millisecond}, {"a minute", 10 * time.Millisecond, 5 * time.Second}, {"a day", 15 * time.Second, 3 * time.Hour}, {"a year", 90 * time.Minute, 240 * time.Hour}} {
		f := &fakeVerbs{timers: someTimers("orders", 5800, first, c.step)}
		out, err := cairnSays(t, "timer", "histogram", "orders", "-o", "json", "--http", openDoor(t, f))
		var h doorhttp.TimerHistogram
		if err != nil || json.Unmarshal([]byte(out), &h) != nil {
			t.Errorf("%s: %v %s", c.name, err, out)
			continue
		}
		var total int64
		for i, b := range h.Buckets {
			if total += b.Count; i > 0 && b.From != h.Buckets[i-1].From+h.Width {
				t.Errorf("%s: a gap before %d", c.name, b.From)
			}
		}
		if h.Width != c.width.Milliseconds() || total != 5800 || f.counts > 4 || len(h.Buckets) > 40 {
			t.Errorf("%s: %d counted in %d steps of %d ms, %d requests", c.name, total, len(h.Buckets), h.Width, f.counts)
		}
	}
}

// TestTimerHistogramKeepsToItsWindow: a window that is given begins the first row, and nothing outside of it is counted.
func TestTimerHistogramKeepsToItsWindow(t *testing.T) {
	first := time.Now().Add(time.Hour).Truncate(time.Hour)
	f := &fakeVerbs{timers: someTimers("orders", 3600, first, time.Second)}
	from, to := first.Add(7*time.Minute+3*time.Second), first.Add(31*time.Minute)
	out, err := cairnSays(t, "timer", "histogram", "-o", "json", "--http", openDoor(t, f), "--from", from.Format(time.RFC3339), "--to", to.Format(time.RFC3339))
	var h doorhttp.TimerHistogram
	if err != nil || json.Unmarshal([]byte(out), &h) != nil || len(h.Buckets) == 0 {
		t.Fatalf("%v %s", err, out)
	}
	var total int64
	for _, b := range h.Buckets {
		total += b.Count
	}
	if want := int64(to.Sub(from)/time.Second) + 1; total != want || h.Buckets[0].From != from.UnixMilli() {
		t.Errorf("%d counted from %d on, want %d from %d on", total, h.Buckets[0].From, want, from.UnixMilli())
	}
}

func TestTimerHistogramHasBars(t *testing.T) {
	f := &fakeVerbs{timers: someTimers("orders", 30, time.Now().Add(time.Hour).Truncate(time.Minute), time.Minute)}
	addr := openDoor(t, f)
	out, err := cairnSays(t, "timer", "histogram", "--width", "10m", "--http", addr)
	if err != nil || !strings.Contains(out, strings.Repeat("█", mostBar)) || !strings.Contains(out, "steps of 10m0s   30") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := cairnSays(t, "timer", "histogram", "nothing", "--http", addr); err != nil || !strings.Contains(out, "in all") {
		t.Errorf("none: %v\n%s", err, out)
	}
	if _, err := cairnSays(t, "timer", "histogram", "--width", "-1s", "--http", addr); !isUsage(err) {
		t.Errorf("a width under 0: %v", err)
	}
	if _, err := cairnSays(t, "timer", "histogram", "--width", "1ms", "--http", addr); err != nil {
		t.Errorf("a narrow width: %v", err)
	}
}

func TestTimerRecall(t *testing.T) {
	f := &fakeVerbs{timers: someTimers("orders", 3, time.Now().Add(time.Hour), time.Second)}
	handles := []string{f.timers[0].Handle, f.timers[2].Handle}
	addr := openDoor(t, f)
	out, err := cairnSays(t, "timer", "recall", handles[0], handles[1], "--http", addr)
	if err != nil || strings.Count(out, "recalled") != 2 || len(f.timers) != 1 {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = cairnSays(t, "timer", "recall", handles[0], "--http", addr, "-o", "json")
	if err == nil || isUsage(err) || !strings.Contains(out, "it was delivered (delivered)") || !strings.Contains(err.Error(), "1 of 1") {
		t.Errorf("too late: %v\n%s", err, out)
	}
	if _, err := cairnSays(t, "timer", "recall", "nonsense", "--http", addr); !isUsage(err) {
		t.Errorf("not a handle: %v", err)
	}
}

func someHalves() (out []broker.HalfInfo) {
	now := time.Now()
	for i := range 2400 {
		h := broker.HalfInfo{Half: txn.Half{Position: record.Position(1000 + i*10), Group: "pg", Stored: now.Add(-time.Hour).UnixMilli(), Checks: 15, Reason: txn.NoProducer},
			Topic: "orders", UniqueID: fmt.Sprintf("U%d", i), Keys: "k", BodySize: 5}
		switch i % 3 {
		case 0:
			h.Reason, h.CheckAt, h.Checks = txn.NotParked, now.Add(12*time.Second).UnixMilli(), 1
		case 1:
			h.Group = "other"
		}
		out = append(out, h)
	}
	return out
}

func TestTxnList(t *testing.T) {
	addr := openDoor(t, &fakeVerbs{halves: someHalves()})
	out, err := cairnSays(t, "txn", "list", "--http", addr)
	if err != nil || strings.Count(out, "\n") != 22 || !strings.Contains(out, "1h00m") || !strings.Contains(out, "in 11.") || !strings.Contains(out, "and more") {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = cairnSays(t, "txn", "list", "--parked", "--group", "pg", "--topic", "orders", "--limit", "800", "--http", addr)
	if err != nil || strings.Count(out, "\n") != 801 || strings.Contains(out, "and more") || !strings.Contains(out, txn.NoProducer.String()) || strings.Contains(out, "other") {
		t.Errorf("parked: %v, %d lines", err, strings.Count(out, "\n"))
	}
	out, err = cairnSays(t, "txn", "list", "--group", "nobody", "-o", "json", "--http", addr)
	if err != nil || out != "[]\n" {
		t.Errorf("none: %v %q", err, out)
	}
}

func TestTxnEnd(t *testing.T) {
	f := &fakeVerbs{halves: someHalves()}
	addr := openDoor(t, f)
	out, err := cairnSays(t, "txn", "commit", "1000", "1010", "--http", addr)
	if err != nil || strings.Count(out, "committed") != 2 {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = cairnSays(t, "txn", "rollback", "1020", "5", "--http", addr)
	if err == nil || !strings.Contains(out, "1020: rolled back") || !strings.Contains(out, "5: FAILED: no half message there (not-found)") {
		t.Errorf("%v\n%s", err, out)
	}
	if want := []string{"1000:1", "1010:1", "1020:2"}; !slices.Equal(f.ended, want) {
		t.Errorf("ended %v, want %v", f.ended, want)
	}
	for _, bad := range [][]string{{}, {"first"}, {"-5"}, {"--all-parked"}, {"--all-parked", "--group", "pg", "1000"}} {
		if _, err := cairnSays(t, append([]string{"txn", "commit", "--http", addr}, bad...)...); !isUsage(err) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

// TestTxnEndsAllParkedWhenAskedTwice: all of a group over several pages, and only with --yes.
func TestTxnEndsAllParkedWhenAskedTwice(t *testing.T) {
	f := &fakeVerbs{}
	for _, h := range someHalves() {
		if h.Reason != txn.NotParked {
			h.Group = "pg"
			f.halves = append(f.halves, h)
		}
	}
	addr := openDoor(t, f)
	line := []string{"txn", "rollback", "--all-parked", "--group", "pg", "--http", addr}
	if _, err := cairnSays(t, line...); !isUsage(err) || !strings.Contains(err.Error(), "1600 parked") || len(f.ended) != 0 {
		t.Errorf("%v, %d ended", err, len(f.ended))
	}
	out, err := cairnSays(t, append(line, "--yes")...)
	if err != nil || !strings.Contains(out, "1600 parked half messages of group pg rolled back") || len(f.ended) != 1600 {
		t.Errorf("%v, %d ended\n%s", err, len(f.ended), out)
	}
}

func TestWhatIsNotCairnIsSaid(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	if _, err := cairnSays(t, "timer", "list", "--http", srv.URL); err == nil || !strings.Contains(err.Error(), "is that the HTTP port of a Cairn broker?") {
		t.Errorf("%v", err)
	}
}

func TestParseWhen(t *testing.T) {
	now := time.UnixMilli(1_000_000)
	for text, want := range map[string]int64{"": 0, "5": 5, "10s": 1_010_000, "-10s": 990_000, "1970-01-01T00:00:07Z": 7000} {
		if got, err := parseWhen("from", text, now); err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	if _, err := parseWhen("from", "-5", now); !isUsage(err) {
		t.Errorf("%v", err)
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0ms", 999 * time.Millisecond: "999ms", 59_990 * time.Millisecond: "59.9s", 61 * time.Second: "1m01s",
		5*time.Hour + 7*time.Minute: "5h07m", 50 * time.Hour: "2d02h", -time.Minute: "-1m00s"} {
		if got := span(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
	if widthFor(math.MaxInt64/2, 10) != widths[len(widths)-1].Milliseconds() {
		t.Error("no width for very much time")
	}
	for i := 1; i < len(widths); i++ {
		if widths[i]%widths[i-1] != 0 {
			t.Errorf("%v is no multiple of %v", widths[i], widths[i-1])
		}
	}
}
