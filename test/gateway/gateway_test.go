package gateway

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cairnmq/cairn/tiered/objects"
)

// The server keeps what it has when it is stopped and run again.
func TestRestart(t *testing.T) {
	g := Start(t)
	s, err := objects.Open(t.Context(), Address(g.Endpoint, "a/b"), objects.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Put(t.Context(), "o", strings.NewReader("x"), 1); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(g.Folder, Bucket, "a/b/o")); err != nil {
		t.Error(err)
	}
	g.Stop()
	if _, err := s.Stat(t.Context(), "o"); err == nil {
		t.Error("a stopped server answers")
	}
	g.Restart(t)
	if info, err := s.Stat(t.Context(), "o"); err != nil || info.Size != 1 {
		t.Errorf("after a restart: %+v, %v", info, err)
	}
}
