package objects

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"
)

func TestPutsShareTheBandwidth(t *testing.T) {
	folder, err := OpenFolder(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	content := bytes.Repeat([]byte("0123456789abcdef"), limitStep/16)
	s := Limit(folder, 10*limitStep)
	began := time.Now()
	for _, name := range []string{"a", "b", "c"} { // the first finds the limiter's burst
		if err := s.Put(t.Context(), name, bytes.NewReader(content), int64(len(content))); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took < 190*time.Millisecond {
		t.Errorf("two contents of a tenth of a second each took %s", took)
	}
	got := make([]byte, len(content))
	if n, err := s.ReadAt(t.Context(), "c", got, 0); n != len(content) || err != nil || !bytes.Equal(got, content) {
		t.Errorf("read %d bytes, %v", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Put(ctx, "d", bytes.NewReader(content), int64(len(content))); err == nil {
		t.Error("put with a context that is over")
	}
	if _, err := s.Stat(t.Context(), "d"); !errors.Is(err, ErrNotFound) {
		t.Errorf("it is there: %v", err)
	}
}
