// Package place starts the brokers that the whole-system tests compare: Cairn, and the reference from the folder of its scripts.
package place

import (
	"bufio"
	"encoding/json"
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

// Reference runs the reference on an empty store until the test ends: name server, broker and proxy, started and stopped by
// up.sh and down.sh in a folder. Its addresses are the usual ones unless NAMESRV, BROKER_ADDR and PROXY_ADDR say otherwise.
// The lines of configuration go to its broker.conf.
func Reference(t *testing.T, scripts string, configuration string) Place {
	t.Helper()
	up := exec.Command(filepath.Join(scripts, "up.sh"), "file")
	up.Env = append(os.Environ(), "PROXY=local", "FRESH=1", "HEAP=1g", "EXTRA="+configuration)
	if out, err := up.CombinedOutput(); err != nil {
		t.Fatalf("start the reference: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command(filepath.Join(scripts, "down.sh")).CombinedOutput(); err != nil {
			t.Errorf("stop the reference: %v\n%s", err, out)
		}
	})
	return Place{NameServer: address(t, "NAMESRV", 9876), Remoting: address(t, "BROKER_ADDR", 10911), GRPC: address(t, "PROXY_ADDR", 8081)}
}

func address(t *testing.T, variable string, port uint16) string {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port).String()
	}
	if _, err := netip.ParseAddrPort(text); err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return text
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
