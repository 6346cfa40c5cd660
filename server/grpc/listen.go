package grpc

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// boundedListener closes connections over a limit at once, instead of leaving them in the queue where clients wait.
type boundedListener struct {
	net.Listener
	max  int64
	open *atomic.Int64
	log  zerolog.Logger
}

func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if n := l.open.Add(1); n > l.max {
			l.open.Add(-1)
			l.log.Warn().Int64("connections", n-1).Stringer("from", nc.RemoteAddr()).Msg("too many connections: closed a new one")
			_ = nc.Close()
			continue
		}
		return &countedConn{Conn: nc, open: l.open}, nil
	}
}

type countedConn struct {
	net.Conn
	open *atomic.Int64
	once sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.Conn.Close()
}

// sniffer finds out from the first byte whether a client speaks TLS or plain text. gRPC calls ServerHandshake on a
// goroutine of each connection, with a deadline set.
type sniffer struct {
	credentials.TransportCredentials // for TLS
	plain                            credentials.TransportCredentials
}

// tlsHandshake is the type of a TLS record that begins a handshake; HTTP/2 in plain text begins with 'P'.
const tlsHandshake = 0x16

func newSniffer(cfg *tls.Config) *sniffer {
	if cfg == nil {
		cfg = &tls.Config{
			MinVersion:     tls.VersionTLS12,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return selfSigned() },
		}
	}
	return &sniffer{TransportCredentials: credentials.NewTLS(cfg), plain: insecure.NewCredentials()}
}

func (s *sniffer) ServerHandshake(nc net.Conn) (net.Conn, credentials.AuthInfo, error) {
	var first [1]byte
	if _, err := nc.Read(first[:]); err != nil {
		return nil, nil, fmt.Errorf("read the first byte: %w", err)
	}
	c := &sniffedConn{Conn: nc, first: first[:]}
	if first[0] == tlsHandshake {
		return s.TransportCredentials.ServerHandshake(c)
	}
	return s.plain.ServerHandshake(c)
}

// Clone returns s itself, which nothing changes.
func (s *sniffer) Clone() credentials.TransportCredentials { return s }

// sniffedConn gives the bytes that were read ahead back first.
type sniffedConn struct {
	net.Conn
	first []byte
}

func (c *sniffedConn) Read(p []byte) (int, error) {
	if len(c.first) > 0 && len(p) > 0 {
		n := copy(p, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// selfSigned is a certificate for whoever asks, made when the first client wants TLS, for as long as the process lives.
var selfSigned = sync.OnceValues(func() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	now := time.Now()
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      pkix.Name{CommonName: "cairn"},
		DNSNames:     []string{"localhost"},
		NotBefore:    now.Add(-24 * time.Hour), // clients' clocks differ
		NotAfter:     now.AddDate(10, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
})
