// Package place starts the brokers that the whole-system tests compare: Cairn, and the reference from the folder of its scripts.
package place

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Place is a running broker with a name server and a gRPC endpoint. Both kinds call cluster and broker DefaultCluster and
// broker-a.
type Place struct {
	NameServer, Remoting, GRPC string // host:port
}

// patience bounds the start of a broker.
const patience = 60 * time.Second

// Cairn runs the binary that CAIRN_TEST_BIN names, or a build of the tree, on free ports until the test ends. An error in its
// log fails the test: what clients do wrong is none.
func Cairn(t *testing.T, flags ...string) Place {
	t.Helper()
	args := append([]string{"serve", "--data", filepath.Join(t.TempDir(), "data"), "--advertise", "127.0.0.1", "--nameserver", "127.0.0.1:0",
		"--remoting", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--http", "off", "--log-format", "json", "--segment-size", "64MiB"}, flags...)
	cmd := exec.Command(binary(t), args...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready, ended := make(chan Place, 1), make(chan struct{})
	go func() {
		defer close(ended)
		for s := bufio.NewScanner(stderr); s.Scan(); {
			var line struct{ Level, Message, NameServer, Remoting, GRPC string }
			switch err := json.Unmarshal(s.Bytes(), &line); {
			case err == nil && line.Message == "cairn is ready":
				ready <- Place{NameServer: line.NameServer, Remoting: line.Remoting, GRPC: line.GRPC}
			case err != nil || line.Level == "error":
				t.Error(s.Text())
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
	case p := <-ready:
		return p
	case <-ended:
		t.Fatal("cairn ended before it was ready")
	case <-time.After(patience):
		t.Fatalf("cairn was not ready after %s", patience)
	}
	return Place{}
}

// Reference runs the reference on an empty store until the test ends. The lines of configuration go to its broker.conf.
func Reference(t *testing.T, scripts string, configuration string) Place {
	t.Helper()
	at, err := Up(scripts, configuration)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Down(scripts); err != nil {
			t.Error(err)
		}
	})
	return at
}

// Up starts the reference on an empty store by up.sh in the folder scripts: name server, broker and proxy. Its addresses are the usual
// ones unless NAMESRV, BROKER_ADDR and PROXY_ADDR say otherwise. The lines of configuration go to its broker.conf.
func Up(scripts string, configuration string) (at Place, err error) {
	for _, a := range []struct {
		addr     *string
		variable string
		port     uint16
	}{{&at.NameServer, "NAMESRV", 9876}, {&at.Remoting, "BROKER_ADDR", 10911}, {&at.GRPC, "PROXY_ADDR", 8081}} {
		if *a.addr, err = address(a.variable, a.port); err != nil {
			return Place{}, err
		}
	}
	up := exec.Command(filepath.Join(scripts, "up.sh"), "file")
	up.Env = append(os.Environ(), "PROXY=local", "FRESH=1", "HEAP=1g", "EXTRA="+configuration)
	if out, err := up.CombinedOutput(); err != nil {
		return Place{}, fmt.Errorf("start the reference: %w\n%s", err, out)
	}
	return at, nil
}

// Down stops what Up started, by down.sh.
func Down(scripts string) error {
	if out, err := exec.Command(filepath.Join(scripts, "down.sh")).CombinedOutput(); err != nil {
		return fmt.Errorf("stop the reference: %w\n%s", err, out)
	}
	return nil
}

func address(variable string, port uint16) (string, error) {
	text := os.Getenv(variable)
	if text == "" {
		return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port).String(), nil
	}
	if _, err := netip.ParseAddrPort(text); err != nil {
		return "", fmt.Errorf("%s: %w", variable, err)
	}
	return text, nil
}

// binary is the one that the test command built, or a fresh build.
func binary(t *testing.T) string {
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
