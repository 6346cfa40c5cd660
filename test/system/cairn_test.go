// Package system tries the broker as a process, with the official Go client and by killing it.
package system

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cairnmq/cairn/test/place"
)

// cairn is a broker process on addresses and a folder that outlive it, so that it can be killed and started again.
type cairn struct {
	t      *testing.T
	data   string
	extra  []string
	fixed  addresses
	cmd    *exec.Cmd
	ended  chan struct{}
	began  time.Time
	ready  time.Duration // from the start of the process to its word that it is ready
	mu     sync.Mutex
	errors []string       // lines of level error
	heard  map[string]int // how often it said what, since it was started last
}

type addresses struct {
	NameServer string `json:"nameserver"`
	Remoting   string `json:"remoting"`
	GRPC       string `json:"grpc"`
	HTTP       string `json:"http"`
}

// newCairn makes a broker that is not started yet.
func newCairn(t *testing.T, extra ...string) *cairn {
	t.Helper()
	c := &cairn{t: t, data: filepath.Join(t.TempDir(), "data"), extra: extra}
	var free []string
	for range 4 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = ln.Close() }()
		free = append(free, ln.Addr().String())
	}
	c.fixed = addresses{free[0], free[1], free[2], free[3]}
	t.Cleanup(func() {
		if c.cmd != nil {
			c.stop()
		}
	})
	return c
}

func startCairn(t *testing.T, extra ...string) *cairn {
	t.Helper()
	c := newCairn(t, extra...)
	c.start()
	return c
}

// place is where its clients find it.
func (c *cairn) place() place.Place {
	return place.Place{NameServer: c.fixed.NameServer, Remoting: c.fixed.Remoting, GRPC: c.fixed.GRPC}
}

func (c *cairn) start() {
	c.t.Helper()
	args := append([]string{"serve", "--data", c.data, "--advertise", "127.0.0.1", "--nameserver", c.fixed.NameServer, "--remoting", c.fixed.Remoting,
		"--grpc", c.fixed.GRPC, "--http", c.fixed.HTTP, "--log-format", "json"}, c.extra...)
	c.cmd = exec.Command(program(c.t), args...)
	stderr, err := c.cmd.StderrPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	c.began = time.Now()
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	ready, ended := make(chan struct{}), make(chan struct{})
	c.ended = ended
	c.mu.Lock()
	c.heard = map[string]int{}
	c.mu.Unlock()
	go func() {
		defer close(ended)
		for s := bufio.NewScanner(stderr); s.Scan(); {
			var line struct {
				Message string `json:"message"`
				Level   string `json:"level"`
			}
			err := json.Unmarshal(s.Bytes(), &line)
			c.mu.Lock()
			c.heard[line.Message]++
			c.mu.Unlock()
			if err == nil && line.Message == "cairn is ready" {
				close(ready)
			} else if line.Level != "info" && line.Level != "warn" && line.Level != "debug" {
				c.mu.Lock()
				c.errors = append(c.errors, s.Text())
				c.mu.Unlock()
			}
		}
	}()
	select {
	case <-ready:
		c.ready = time.Since(c.began)
	case <-ended:
		c.t.Fatalf("cairn ended before it was ready: %v\n%s", c.cmd.Wait(), c.said())
	case <-time.After(60 * time.Second):
		c.t.Fatal("cairn was not ready after 60 s")
	}
}

// said is what the broker logged as errors.
func (c *cairn) said() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.errors, "\n")
}

// times is how often it said something that begins with the text, since it was started last.
func (c *cairn) times(text string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for message, count := range c.heard {
		if strings.HasPrefix(message, text) {
			n += count
		}
	}
	return n
}

// kill ends the process as a crash does.
func (c *cairn) kill() {
	c.t.Helper()
	if err := c.cmd.Process.Kill(); err != nil {
		c.t.Fatal(err)
	}
	<-c.ended
	_ = c.cmd.Wait() // it was killed: its exit status says so
	c.cmd = nil
}

// stop ends it in order.
func (c *cairn) stop() {
	c.t.Helper()
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	<-c.ended
	if err := c.cmd.Wait(); err != nil {
		c.t.Errorf("cairn ended with %v\n%s", err, c.said())
	}
	c.cmd = nil
	if s := c.said(); s != "" {
		c.t.Errorf("cairn logged errors:\n%s", s)
	}
}

// run is one call of the binary; what it prints is returned.
func run(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(program(t), args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("cairn %s: %v\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String()
}

var built struct {
	sync.Once
	path string
	err  error
}

// program is the one that the test command built, or a build of the tree.
func program(t *testing.T) string {
	t.Helper()
	if bin := os.Getenv("CAIRN_TEST_BIN"); bin != "" {
		return bin
	}
	built.Do(func() {
		dir, err := os.MkdirTemp("", "cairn-system-")
		if err != nil {
			built.err = err
			return
		}
		built.path = filepath.Join(dir, "cairn")
		cmd := exec.Command("go", "build", "-o", built.path, "./cmd/cairn")
		cmd.Dir = filepath.Join("..", "..")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("build cairn: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

func TestMain(m *testing.M) {
	code := m.Run()
	if err := shared.stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if built.path != "" {
		_ = os.RemoveAll(filepath.Dir(built.path))
	}
	os.Exit(code)
}

// eventually polls until f is true.
func eventually(t *testing.T, limit time.Duration, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(limit); !f(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}
