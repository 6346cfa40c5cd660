// Package gateway runs a real S3 server for tests: versitygw, which keeps a bucket as a folder.
package gateway

import (
	"bytes"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Version is the server's; a later one may answer otherwise.
const Version = "v1.8.0"

// Region, AccessKey and SecretKey are what the server wants to hear; Bucket is there from the start.
const (
	Region    = "us-east-1"
	AccessKey = "cairn-test"
	SecretKey = "cairn-test-secret"
	Bucket    = "cairn"
)

// Variable must be set for tests that need the server, since it is built when it is not there; test/all.sh tiered sets it.
const Variable = "CAIRN_S3"

// patience bounds the server's start.
const patience = 60 * time.Second

// Gateway is a running server, or one that was stopped.
type Gateway struct {
	// Endpoint is its host:port, the same after a Restart.
	Endpoint string
	// Folder holds the buckets, one folder each.
	Folder string

	binary string
	cmd    *exec.Cmd
	said   bytes.Buffer // of interest when it does not start
}

// Start runs a server on an empty folder and a free port until the test ends, and sets the credentials in the test's environment. The
// test is skipped unless Variable is set.
func Start(t *testing.T) *Gateway {
	t.Helper()
	if os.Getenv(Variable) == "" {
		t.Skipf("%s is not set; test/all.sh tiered sets it, and builds the S3 server", Variable)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", SecretKey)
	t.Setenv("AWS_SESSION_TOKEN", "")
	g := &Gateway{Endpoint: freeAddress(t), Folder: t.TempDir(), binary: binary(t)}
	if err := os.Mkdir(filepath.Join(g.Folder, Bucket), 0o755); err != nil {
		t.Fatal(err)
	}
	g.Restart(t)
	t.Cleanup(g.Stop)
	return g
}

// Address is the s3:// address of a prefix in the bucket; endpoint is the server's, or that of a proxy before it.
func Address(endpoint, prefix string) string {
	query := url.Values{"endpoint": {endpoint}, "region": {Region}, "path-style": {"true"}, "insecure": {"true"}}
	return fmt.Sprintf("s3://%s/%s?%s", Bucket, prefix, query.Encode())
}

// Stop kills the server. What it has stays.
func (g *Gateway) Stop() {
	if g.cmd == nil {
		return
	}
	_ = g.cmd.Process.Kill()
	_ = g.cmd.Wait()
	g.cmd = nil
}

// Restart runs a stopped server again, at the same address.
func (g *Gateway) Restart(t *testing.T) {
	t.Helper()
	g.said.Reset()
	g.cmd = exec.Command(g.binary, "--access", AccessKey, "--secret", SecretKey, "--region", Region, "--port", g.Endpoint, "-q", "posix", g.Folder)
	g.cmd.Stdout, g.cmd.Stderr = &g.said, &g.said
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; {
		conn, err := net.DialTimeout("tcp", g.Endpoint, time.Second)
		if err == nil {
			_ = conn.Close()
			return
		}
		if time.Now().After(deadline) {
			g.Stop()
			t.Fatalf("versitygw was not ready after %s: %v\n%s", patience, err, g.said.Bytes())
		}
		<-time.After(10 * time.Millisecond)
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// binary is the one that CAIRN_VERSITYGW names, or one that is built once and kept among the system's temporary files.
func binary(t *testing.T) string {
	t.Helper()
	if named := os.Getenv("CAIRN_VERSITYGW"); named != "" {
		return named
	}
	kept := filepath.Join(os.TempDir(), "cairn-versitygw-"+Version)
	if _, err := os.Stat(kept); err == nil {
		return kept
	}
	built := t.TempDir()
	install := exec.Command("go", "install", "github.com/versity/versitygw/cmd/versitygw@"+Version)
	install.Env = append(os.Environ(), "GOBIN="+built)
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("build versitygw: %v\n%s", err, out)
	}
	// several tests may do this at once: each moves a whole file
	if err := os.Rename(filepath.Join(built, "versitygw"), kept); err != nil {
		return filepath.Join(built, "versitygw")
	}
	return kept
}
