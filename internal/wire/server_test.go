package wire

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testHandler answers by code.
type testHandler struct {
	serve          func(*Conn, *Command)
	opened, closed atomic.Int32
	reasons        chan error
}

func (h *testHandler) Opened(*Conn) { h.opened.Add(1) }

func (h *testHandler) Closed(c *Conn) {
	h.closed.Add(1)
	select {
	case h.reasons <- c.Err():
	default:
	}
}

func (h *testHandler) Serve(c *Conn, cmd *Command) { h.serve(c, cmd) }

// echo answers with the request's fields and a copy of its body.
func echo(c *Conn, cmd *Command) {
	r := cmd.Reply(Success, "echo")
	r.Fields = append(r.Fields, cmd.Fields...)
	r.Body = bytes.Clone(cmd.Body)
	c.Respond(cmd, r)
}

type testServer struct {
	*Server
	addr    string
	handler *testHandler
	log     *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func serve(t testing.TB, opts Options, f func(*Conn, *Command)) *testServer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := &lockedBuffer{}
	opts.Logger = zerolog.New(log).Level(zerolog.InfoLevel)
	h := &testHandler{serve: f, reasons: make(chan error, 100)}
	s := &testServer{Server: NewServer(h, opts), addr: ln.Addr().String(), handler: h, log: log}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-ended; !errors.Is(err, ErrServerClosed) {
			t.Errorf("Serve: %v", err)
		}
		if o, c := h.opened.Load(), h.closed.Load(); o != c {
			t.Errorf("%d connections opened, %d closed", o, c)
		}
	})
	return s
}

func dial(t testing.TB, s *testServer, opts ClientOptions) *Client {
	t.Helper()
	c, err := Dial(t.Context(), s.addr, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// eventually polls; it is for things that other goroutines bring about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func TestPipelining(t *testing.T) {
	s := serve(t, Options{}, echo)
	c := dial(t, s, ClientOptions{})
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for i := range 200 {
				size := []int{0, 1, 100, 5000, 9000, 70_000, 300_000}[(g+i)%7]
				if i%10 != 0 && size > 9000 {
					size = 10
				}
				body := bytes.Repeat([]byte{byte(i)}, size)
				req := &Command{Code: SendMessage, Body: body, Serialize: Serialize(i % 2), Fields: Fields{{"n", fmt.Sprint(g, i)}}}
				resp, err := c.Invoke(t.Context(), req)
				if err != nil {
					t.Error(err)
					return
				}
				if !bytes.Equal(resp.Body, body) || resp.Fields.Text("n") != fmt.Sprint(g, i) || resp.Serialize != req.Serialize {
					t.Errorf("%d bytes came back as %d, n %s", size, len(resp.Body), resp.Fields.Text("n"))
				}
				resp.Release()
			}
		})
	}
	wg.Wait()
}

func TestLargestFrame(t *testing.T) {
	s := serve(t, Options{}, echo)
	c := dial(t, s, ClientOptions{})
	body := bytes.Repeat([]byte("0123456789abcdef"), (DefaultFrameLimit-300)/16)
	resp, err := c.Invoke(t.Context(), &Command{Code: 1, Body: body})
	if err != nil || !bytes.Equal(resp.Body, body) {
		t.Fatal(err)
	}
	resp.Release()
	if _, err := c.Invoke(t.Context(), &Command{Code: 1, Body: make([]byte, DefaultFrameLimit)}); !errors.Is(err, ErrTooLong) {
		t.Fatalf("%v", err)
	}
	eventually(t, "the large buffers are given back", func() bool {
		return s.budget.left.Load() == s.opts.BigBytes || s.Conns() == 0
	})
}

// An answer that does not fit a frame becomes an error answer.
func TestAnswerTooLong(t *testing.T) {
	var released atomic.Int32
	s := serve(t, Options{FrameLimit: 100_000}, func(c *Conn, cmd *Command) {
		r := cmd.Reply(Success, "")
		r.Body = make([]byte, 100_000)
		r.BodyDone = func() { released.Add(1) }
		c.Respond(cmd, r)
	})
	c := dial(t, s, ClientOptions{})
	resp, err := c.Invoke(t.Context(), NewRequest(1))
	if err != nil || resp.Code != SystemError || resp.Remark == "" || released.Load() != 1 {
		t.Fatalf("%+v %v %d", resp, err, released.Load())
	}
}

// Bodies are released once: copied ones, spliced ones, those of one-way requests and those that were never written.
func TestBodyDone(t *testing.T) {
	var made, done atomic.Int32
	s := serve(t, Options{}, func(c *Conn, cmd *Command) {
		r := cmd.Reply(Success, "")
		made.Add(1)
		once := false
		r.Body = make([]byte, cmd.Code)
		r.BodyDone = func() {
			if once {
				t.Error("released twice")
			}
			once = true
			done.Add(1)
		}
		c.Respond(cmd, r)
	})
	c := dial(t, s, ClientOptions{})
	for _, size := range []int{0, 10, spliceMin - 1, spliceMin, 1 << 20} {
		resp, err := c.Invoke(t.Context(), NewRequest(size))
		if err != nil || len(resp.Body) != size {
			t.Fatal(err)
		}
		resp.Release()
		if err := c.OneWay(NewRequest(size)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "one-way requests served", func() bool { return made.Load() == 10 })
	for range 50 {
		if err := c.InvokeAsync(NewRequest(1<<20), func(r *Command, err error) {
			if err == nil {
				r.Release()
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	c.Close()
	s.Close()
	if made.Load() != done.Load() {
		t.Fatalf("%d bodies, %d released", made.Load(), done.Load())
	}
}

// The request and its body stay valid until the answer, however late, while other requests reuse the buffers.
func TestLateAnswers(t *testing.T) {
	var mu sync.Mutex
	var held []*Command
	s := serve(t, Options{}, func(c *Conn, cmd *Command) {
		mu.Lock()
		defer mu.Unlock()
		if held = append(held, cmd); len(held) < 50 {
			return
		}
		for _, h := range held {
			r := h.Reply(Success, "")
			r.Body = bytes.Clone(h.Body)
			c.Respond(h, r)
		}
		held = held[:0]
	})
	c := dial(t, s, ClientOptions{})
	var wg sync.WaitGroup
	for i := range 1000 {
		want := bytes.Repeat([]byte(fmt.Sprint(i, "-")), 1+i%300)
		wg.Add(1)
		err := c.InvokeAsync(&Command{Body: want}, func(r *Command, err error) {
			defer wg.Done()
			if err != nil || !bytes.Equal(r.Body, want) {
				t.Errorf("%d: %v %.20q", i, err, r.Body)
			}
			r.Release()
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
}

func TestServerCallsClient(t *testing.T) {
	conns := make(chan *Conn, 1)
	s := serve(t, Options{}, func(c *Conn, cmd *Command) {
		select {
		case conns <- c:
		default:
		}
		echo(c, cmd)
	})
	notified := make(chan int, 1)
	c := dial(t, s, ClientOptions{Serve: func(c *Conn, cmd *Command) {
		if cmd.IsOneWay() {
			notified <- cmd.Code
			cmd.Release()
			return
		}
		if cmd.Code != 999 {
			echo(c, cmd)
			return
		}
		cmd.Release() // never answered
	}})
	if _, err := c.Invoke(t.Context(), NewRequest(1)); err != nil {
		t.Fatal(err)
	}
	conn := <-conns
	if err := conn.OneWay(NewRequest(NotifyConsumerIDsChanged)); err != nil {
		t.Fatal(err)
	}
	if code := <-notified; code != NotifyConsumerIDsChanged {
		t.Fatal(code)
	}
	resp, err := conn.Invoke(t.Context(), &Command{Code: GetConsumerRunningInfo, Body: []byte("x")})
	if err != nil || string(resp.Body) != "x" {
		t.Fatal(resp, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := conn.Invoke(ctx, NewRequest(999)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	c.Close()
	if _, err := conn.Invoke(t.Context(), NewRequest(999)); err == nil {
		t.Fatal("a call on a closed connection came back")
	}
	if _, err := c.Invoke(t.Context(), NewRequest(1)); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

func TestCallsFailWithTheConnection(t *testing.T) {
	s := serve(t, Options{}, func(_ *Conn, cmd *Command) { cmd.Release() })
	c := dial(t, s, ClientOptions{})
	errs := make(chan error, 20)
	for range 20 {
		go func() { _, err := c.Invoke(t.Context(), NewRequest(1)); errs <- err }()
	}
	eventually(t, "calls under way", func() bool { c.calls.mu.Lock(); defer c.calls.mu.Unlock(); return len(c.calls.mu.wait) == 20 })
	s.Close()
	for range 20 {
		if err := <-errs; err == nil {
			t.Fatal("answered")
		}
	}
}

// rawDial is a peer that does not keep to the protocol.
func rawDial(t *testing.T, s *testServer) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// closedBy waits until the server has closed the connection and tells what the server says why.
func closedBy(t *testing.T, s *testServer, c net.Conn) error {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if b, err := io.ReadAll(c); errors.Is(err, context.DeadlineExceeded) || len(b) > 0 {
		t.Fatalf("still open, or answered: %d bytes, %v", len(b), err)
	}
	return <-s.handler.reasons
}

func TestGarbageClosesTheConnection(t *testing.T) {
	s := serve(t, Options{}, echo)
	for name, in := range map[string]struct {
		bytes string
		want  error
	}{
		"http":           {"GET / HTTP/1.1\r\n\r\n", ErrFrame},
		"tls":            {"\x16\x03\x01\x02\x00\x01\x00", ErrFrame},
		"too long":       {"\x01\x00\x00\x01", ErrFrame},
		"negative":       {"\xff\xff\xff\xff", ErrFrame},
		"too short":      {"\x00\x00\x00\x03\x00\x00\x00", ErrFrame},
		"header beyond":  {"\x00\x00\x00\x06\x00\x00\x00\x03{}", ErrFrame},
		"unknown codec":  {"\x00\x00\x00\x06\x07\x00\x00\x02{}", ErrFrame},
		"no json":        {"\x00\x00\x00\x06\x00\x00\x00\x02xx", ErrHeader},
		"no fixed part":  {"\x00\x00\x00\x06\x01\x00\x00\x02xx", ErrHeader},
		"long but never": {"\x00\xff\xff\xf0\x00\x00\x00\x02{}", io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			c := rawDial(t, s)
			if _, err := io.WriteString(c, in.bytes); err != nil {
				t.Fatal(err)
			}
			if errors.Is(in.want, io.ErrUnexpectedEOF) {
				_ = c.(*net.TCPConn).CloseWrite()
			}
			if err := closedBy(t, s, c); !errors.Is(err, in.want) {
				t.Fatalf("%v, want %v", err, in.want)
			}
		})
	}
	if !strings.Contains(s.log.String(), "malformed") {
		t.Errorf("log: %s", s.log)
	}
	// Announcing long frames has cost nothing.
	if left := s.budget.left.Load(); left != s.opts.BigBytes {
		t.Errorf("%d bytes of the budget are missing", s.opts.BigBytes-left)
	}
}

func TestOneByteAtATime(t *testing.T) {
	s := serve(t, Options{}, echo)
	c := rawDial(t, s)
	frame := (&Command{Code: 1, Body: []byte("abc")}).AppendEncode(nil)
	for i := range frame {
		if _, err := c.Write(frame[i : i+1]); err != nil {
			t.Fatal(err)
		}
	}
	var head [4]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(c, answer); err != nil {
		t.Fatal(err)
	}
	if resp, err := Decode(answer); err != nil || string(resp.Body) != "abc" {
		t.Fatal(resp, err)
	}
}

// A peer that asks and does not read is held back at first; what is pushed to it beyond that cuts it off.
func TestSlowReader(t *testing.T) {
	var served atomic.Int32
	conns := make(chan *Conn, 1)
	s := serve(t, Options{PauseBytes: 1 << 20, QueueBytes: 8 << 20, FrameLimit: 1 << 20}, func(c *Conn, cmd *Command) {
		if served.Add(1) == 1 {
			conns <- c
		}
		r := cmd.Reply(Success, "")
		r.Body = make([]byte, 500_000)
		c.Respond(cmd, r)
	})
	c := rawDial(t, s)
	var in []byte
	for range 1000 {
		in = (&Command{Code: 1}).AppendEncode(in)
	}
	if _, err := c.Write(in); err != nil {
		t.Fatal(err)
	}
	conn := <-conns
	eventually(t, "the queue is over its pause mark", func() bool { return conn.Queued() > 1<<20 })
	if n := served.Load(); n > 100 {
		t.Fatalf("%d requests were served to a peer that does not read", n)
	}
	push := make([]byte, 500_000)
	var err error
	for i := 0; i < 40 && err == nil; i++ {
		err = conn.OneWay(&Command{Code: 1, Body: push})
	}
	if !errors.Is(err, ErrSlowReader) || !errors.Is(conn.Err(), ErrSlowReader) {
		t.Fatalf("%v, %v", err, conn.Err())
	}
	eventually(t, "a line in the log", func() bool { return strings.Contains(s.log.String(), ErrSlowReader.Error()) })
	if conn.Queued() > 1<<20+1<<20 {
		t.Errorf("%d bytes are still queued", conn.Queued())
	}
}

func TestPausedPeerGoesOn(t *testing.T) {
	s := serve(t, Options{PauseBytes: 100_000}, func(c *Conn, cmd *Command) {
		r := cmd.Reply(Success, "")
		r.Body = make([]byte, 300_000)
		c.Respond(cmd, r)
	})
	c := dial(t, s, ClientOptions{})
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if _, err := c.Invoke(t.Context(), NewRequest(1)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestIdleClose(t *testing.T) {
	s := serve(t, Options{Idle: time.Hour}, echo)
	idle := rawDial(t, s)
	half := rawDial(t, s)
	if _, err := half.Write([]byte{0, 0, 1, 0, 0}); err != nil {
		t.Fatal(err)
	}
	busy := dial(t, s, ClientOptions{})
	eventually(t, "connections", func() bool { return s.handler.opened.Load() == 3 })
	for range sweeps + 1 {
		if _, err := busy.Invoke(t.Context(), NewRequest(1)); err != nil {
			t.Fatal(err)
		}
		s.sweep()
	}
	for _, c := range []net.Conn{idle, half} {
		if err := closedBy(t, s, c); !errors.Is(err, ErrIdle) {
			t.Fatal(err)
		}
	}
	if _, err := busy.Invoke(t.Context(), NewRequest(1)); err != nil {
		t.Fatal(err)
	}
}

func TestIdleCloseByItself(t *testing.T) {
	s := serve(t, Options{Idle: 40 * time.Millisecond}, echo)
	if err := closedBy(t, s, rawDial(t, s)); !errors.Is(err, ErrIdle) {
		t.Fatal(err)
	}
}

func TestStalledWriteClose(t *testing.T) {
	conns := make(chan *Conn, 1)
	s := serve(t, Options{Idle: time.Hour}, func(c *Conn, cmd *Command) {
		r := cmd.Reply(Success, "")
		r.Body = make([]byte, 15<<20)
		c.Respond(cmd, r)
		conns <- c
	})
	c := rawDial(t, s)
	if _, err := c.Write((&Command{Code: 1}).AppendEncode(nil)); err != nil {
		t.Fatal(err)
	}
	conn := <-conns
	eventually(t, "a write that does not end", func() bool { return conn.stalled.Load() > 0 })
	for range sweeps + 1 {
		s.sweep()
	}
	if err := <-s.handler.reasons; !errors.Is(err, ErrStalled) && !errors.Is(err, ErrIdle) {
		t.Fatal(err)
	}
}

func TestMaxConns(t *testing.T) {
	s := serve(t, Options{MaxConns: 2}, echo)
	a, b := dial(t, s, ClientOptions{}), dial(t, s, ClientOptions{})
	for _, c := range []*Client{a, b} {
		if _, err := c.Invoke(t.Context(), NewRequest(1)); err != nil {
			t.Fatal(err)
		}
	}
	third := rawDial(t, s)
	_ = third.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := third.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the third connection is open: %v", err)
	}
	a.Close()
	eventually(t, "room", func() bool { return s.Conns() == 1 })
	if _, err := dial(t, s, ClientOptions{}).Invoke(t.Context(), NewRequest(1)); err != nil {
		t.Fatal(err)
	}
}

// Many large frames begun at once are bounded over all connections.
func TestBigFramesAreBounded(t *testing.T) {
	s := serve(t, Options{BigBytes: 3 << 20}, echo)
	refused := 0
	for range 8 {
		c := rawDial(t, s)
		part := append([]byte{0, 0xF0, 0, 0, 0, 0, 0, 2, '{', '}'}, make([]byte, 900_000)...)
		_, _ = c.Write(part) // fails when the server has had enough
	}
	eventually(t, "some are cut off", func() bool {
		select {
		case err := <-s.handler.reasons:
			if !errors.Is(err, ErrNoMemory) {
				t.Fatal(err)
			}
			refused++
		default:
		}
		return refused >= 4
	})
	if left := s.budget.left.Load(); left < 0 {
		t.Fatal(left)
	}
}

func TestShutdownAnswersWhatIsUnderWay(t *testing.T) {
	requests := make(chan func(), 10)
	s := serve(t, Options{}, func(c *Conn, cmd *Command) { requests <- func() { echo(c, cmd) } })
	c := dial(t, s, ClientOptions{})
	answers := make(chan error, 10)
	for range 10 {
		go func() {
			_, err := c.Invoke(t.Context(), NewRequest(1))
			answers <- err
		}()
	}
	eventually(t, "requests under way", func() bool { return len(requests) == 10 })
	idle := dial(t, s, ClientOptions{})
	down := make(chan error, 1)
	go func() { down <- s.Shutdown(t.Context()) }()
	<-idle.Done()
	select {
	case <-down:
		t.Fatal("down with requests under way")
	default:
	}
	for range 10 {
		(<-requests)()
	}
	for range 10 {
		if err := <-answers; err != nil {
			t.Fatal(err)
		}
	}
	if err := <-down; err != nil {
		t.Fatal(err)
	}
}

func TestShutdownCutsOffWhatLasts(t *testing.T) {
	served := make(chan struct{}, 1)
	s := serve(t, Options{}, func(*Conn, *Command) { served <- struct{}{} }) // never answers
	c := dial(t, s, ClientOptions{})
	if err := c.InvokeAsync(NewRequest(1), func(*Command, error) {}); err != nil {
		t.Fatal(err)
	}
	<-served
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	<-c.Done()
}

func TestGoAway(t *testing.T) {
	oneWays := make(chan struct{}, 1)
	s := serve(t, Options{Grace: time.Hour}, func(c *Conn, cmd *Command) {
		if cmd.IsOneWay() {
			oneWays <- struct{}{}
		}
		echo(c, cmd)
	})
	c := dial(t, s, ClientOptions{})
	if _, err := c.Invoke(t.Context(), NewRequest(1)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	down := make(chan error, 1)
	go func() { down <- s.Shutdown(ctx) }()
	eventually(t, "GO_AWAY", func() bool {
		resp, err := c.Invoke(t.Context(), NewRequest(1))
		if err != nil {
			t.Fatal(err)
		}
		return resp.Code == GoAway
	})
	old := NewRequest(1)
	old.Version = Version5_3_1
	if resp, err := c.Invoke(t.Context(), old); err != nil || resp.Code != Success {
		t.Fatal(resp, err)
	}
	if err := c.OneWay(NewRequest(1)); err != nil { // nobody could tell its sender to try elsewhere
		t.Fatal(err)
	}
	<-oneWays
	cancel()
	<-down
}

func testTLS(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, &tls.Config{RootCAs: pool}
}

func TestTLSAndPlainShareThePort(t *testing.T) {
	server, client := testTLS(t)
	var secure atomic.Int32
	s := serve(t, Options{TLS: server}, func(c *Conn, cmd *Command) {
		if _, ok := c.TLS(); ok {
			secure.Add(1)
		}
		echo(c, cmd)
	})
	body := bytes.Repeat([]byte("x"), 200_000)
	for _, cfg := range []*tls.Config{nil, client} {
		c := dial(t, s, ClientOptions{TLS: cfg})
		for range 3 {
			resp, err := c.Invoke(t.Context(), &Command{Code: 1, Body: body})
			if err != nil || !bytes.Equal(resp.Body, body) {
				t.Fatal(err)
			}
		}
	}
	if secure.Load() != 3 {
		t.Fatalf("%d requests over TLS", secure.Load())
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestRequireTLS(t *testing.T) {
	server, _ := testTLS(t)
	s := serve(t, Options{TLS: server, RequireTLS: true, Handshake: 50 * time.Millisecond}, echo)
	c := rawDial(t, s)
	if _, err := c.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	slow := rawDial(t, s) // begins a handshake and does not go on
	if _, err := slow.Write([]byte{0x16, 3}); err != nil {
		t.Fatal(err)
	}
	_ = slow.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadAll(slow); errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	eventually(t, "both are logged", func() bool { return strings.Count(s.log.String(), "closed a connection") == 2 })
}

// BenchmarkPipelined is the price of a request and its answer, both ends in one process.
func BenchmarkPipelined(b *testing.B) {
	for _, conns := range []int{1, 16} {
		b.Run(fmt.Sprintf("conns=%d", conns), func(b *testing.B) {
			s := serve(b, Options{}, func(c *Conn, cmd *Command) {
				r := cmd.Reply(Success, "")
				r.Fields.Add("queueOffset", "12345")
				c.Respond(cmd, r)
			})
			frame := javaFrames(b)["JSON:send"]
			template, err := Decode(bytes.Clone(frame[4:]))
			if err != nil {
				b.Fatal(err)
			}
			var wg sync.WaitGroup
			window := make(chan struct{}, 256)
			clients := make([]*Client, conns)
			for i := range clients {
				clients[i] = dial(b, s, ClientOptions{})
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				window <- struct{}{}
				wg.Add(1)
				req := *template
				if err := clients[i%conns].InvokeAsync(&req, func(r *Command, err error) {
					if err != nil {
						b.Error(err)
					}
					r.Release()
					<-window
					wg.Done()
				}); err != nil {
					b.Fatal(err)
				}
			}
			wg.Wait()
		})
	}
}
