package objects

import (
	"context"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestEveryCallIsTold(t *testing.T) {
	folder, err := OpenFolder(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	var calls []Call
	s := Observe(folder, func(c Call) { calls = append(calls, c) })
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.Put(t.Context(), "a", strings.NewReader("hello"), 5))
	must(s.Create(t.Context(), "b", []byte("hi")))
	_ = s.Create(t.Context(), "b", []byte("hi")) // it exists
	if n, err := s.ReadAt(t.Context(), "a", make([]byte, 10), 0); n != 5 || err != io.EOF {
		t.Fatal(n, err)
	}
	_, _ = s.Stat(t.Context(), "none")
	for range s.List(t.Context(), "", "") {
	}
	must(s.Delete(t.Context(), "a"))
	if _, err := s.Sweep(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	_ = s.Put(over, "c", strings.NewReader("hello"), 5)
	got := make([]string, 0, len(calls))
	for i, c := range calls {
		if got = append(got, c.Operation); (c.Err != nil) != (i == len(calls)-1) {
			t.Errorf("%s: %v", c.Operation, c.Err)
		}
	}
	if want := strings.Fields("put create create read stat list delete sweep put"); !slices.Equal(got, want) {
		t.Errorf("told of %v, want %v", got, want)
	}
	if calls[0].Written != 5 || calls[1].Written != 2 || calls[3].Read != 5 || calls[len(calls)-1].Written != 0 {
		t.Errorf("%+v", calls)
	}
}
