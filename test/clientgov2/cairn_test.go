package clientgov2

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// cairn is a running broker: of the binary under test, or the reference in its place.
type cairn struct {
	NameServer string `json:"nameserver"`
	Remoting   string `json:"remoting"`
}

// startCairn runs `cairn serve` on free ports in a temporary folder until the test ends.
func startCairn(t *testing.T, extra ...string) cairn {
	t.Helper()
	cmd := exec.Command(program(t), append([]string{"serve", "--data", filepath.Join(t.TempDir(), "data"), "--advertise", "127.0.0.1",
		"--nameserver", "127.0.0.1:0", "--remoting", "127.0.0.1:0", "--grpc", "off", "--http", "off", "--log-format", "json", "--segment-size", "64MiB"}, extra...)...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan cairn, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for s := bufio.NewScanner(stderr); s.Scan(); {
			var line struct {
				Message string `json:"message"`
				Level   string `json:"level"`
				cairn
			}
			if json.Unmarshal(s.Bytes(), &line) == nil && line.Message == "cairn is ready" {
				ready <- line.cairn
			} else if line.Level == "error" || line.Level == "" {
				t.Log(s.Text())
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		if err := cmd.Wait(); err != nil {
			t.Errorf("cairn ended with %v", err)
		}
	})
	select {
	case c := <-ready:
		return c
	case <-ended:
		t.Fatal("cairn ended before it was ready")
	case <-time.After(30 * time.Second):
		t.Fatal("cairn was not ready after 30 s")
	}
	return cairn{}
}

// program is the one that the test command built, or a fresh build.
func program(t *testing.T) string {
	t.Helper()
	if bin := os.Getenv("CAIRN_TEST_BIN"); bin != "" {
		return bin
	}
	bin := filepath.Join(t.TempDir(), "cairn")
	build := exec.Command("go", "build", "-o", bin, "./cmd/cairn")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build cairn: %v\n%s", err, out)
	}
	return bin
}

// eventually polls until f is true.
func eventually(t *testing.T, limit time.Duration, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(limit); !f(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}
