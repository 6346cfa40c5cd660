package grpc

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// sniffingServer serves the health service behind a sniffer.
func sniffingServer(t *testing.T, cfg *tls.Config, max int64) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.Creds(newSniffer(cfg)), grpc.ConnectionTimeout(2*time.Second))
	healthpb.RegisterHealthServer(srv, health.NewServer())
	done := make(chan error, 1)
	go func() {
		done <- srv.Serve(&boundedListener{Listener: ln, max: max, open: new(atomic.Int64), log: zerolog.Nop()})
	}()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

func healthy(t *testing.T, addr string, creds credentials.TransportCredentials) error {
	t.Helper()
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err = healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
	return err
}

func TestPlainAndTLSOnOnePort(t *testing.T) {
	addr := sniffingServer(t, nil, 100)
	if err := healthy(t, addr, insecure.NewCredentials()); err != nil {
		t.Errorf("plain text: %v", err)
	}
	// As the official clients do: TLS without verification.
	if err := healthy(t, addr, credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})); err != nil {
		t.Errorf("TLS: %v", err)
	}
}

func TestConfiguredCertificate(t *testing.T) {
	own, err := selfSigned()
	if err != nil {
		t.Fatal(err)
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{*own}, MinVersion: tls.VersionTLS13}
	addr := sniffingServer(t, cfg, 100)
	nc, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	state := nc.ConnectionState()
	if string(state.PeerCertificates[0].Raw) != string(own.Certificate[0]) {
		t.Error("another certificate than the configured one")
	}
	if state.Version != tls.VersionTLS13 || state.NegotiatedProtocol != "h2" {
		t.Errorf("version %x, protocol %q", state.Version, state.NegotiatedProtocol)
	}
	if _, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}); err == nil {
		t.Error("TLS 1.2 although 1.3 was configured")
	}
}

// TestSilentAndStrangeConnections: who says nothing, or nothing that we know, is closed.
func TestSilentAndStrangeConnections(t *testing.T) {
	addr := sniffingServer(t, nil, 100)
	for name, says := range map[string]string{"nothing": "", "HTTP/1": "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "torn TLS": "\x16\x03\x01\x00\x05hello"} {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(nc, says); err != nil {
			t.Fatal(err)
		}
		if err := nc.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, nc)
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("%s: still open", name)
		}
		nc.Close()
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	bounded := &boundedListener{Listener: ln, max: 2, open: new(atomic.Int64), log: zerolog.Nop()}
	accepted := make(chan net.Conn)
	go func() {
		defer close(accepted)
		for {
			nc, err := bounded.Accept()
			if err != nil {
				return
			}
			accepted <- nc
		}
	}()
	dial := func() net.Conn {
		t.Helper()
		nc, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return nc
	}
	dial()
	first := <-accepted
	dial()
	<-accepted
	third := dial()
	if err := third.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := third.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the third connection: %v, want it to be closed", err)
	}
	first.Close()
	first.Close() // closing twice gives one place back
	dial()
	<-accepted
	if n := bounded.open.Load(); n != 2 {
		t.Errorf("%d connections are counted, want 2", n)
	}
	ln.Close()
	for range accepted {
		t.Error("accepted after the listener was closed")
	}
}
