package wire

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
)

// maxCalls bounds the calls of one connection that wait for an answer.
const maxCalls = 1 << 17

// ClientOptions of a connection to another Remoting server. Zero values take the default.
type ClientOptions struct {
	TLS        *tls.Config // nil: plain. ServerName is taken from the address when it is empty
	FrameLimit int         // bytes of a frame in either direction; 16 MiB
	QueueBytes int64       // bytes queued from which on the connection is given up; 64 MiB
	// Serve is called with the requests of the server, from the reader goroutine; it must not block, and it owns the
	// command as Handler.Serve does. Nil: they are answered with code 3.
	Serve func(*Conn, *Command)
}

// Client is a connection to a Remoting server. Any number of calls may be under way at once; see Conn for the calls. It
// does not reconnect: when Done is closed, dial anew.
type Client struct {
	*Conn
	wg sync.WaitGroup
}

// Dial connects.
func Dial(ctx context.Context, addr string, opts ClientOptions) (*Client, error) {
	setDefault(&opts.FrameLimit, DefaultFrameLimit)
	setDefault(&opts.QueueBytes, 64<<20)
	if opts.Serve == nil {
		opts.Serve = func(c *Conn, cmd *Command) {
			c.Respond(cmd, cmd.Reply(RequestCodeNotSupported, "this client serves no requests"))
		}
	}
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	lim := limits{frame: opts.FrameLimit, pause: opts.QueueBytes, queue: opts.QueueBytes, calls: maxCalls}
	c := &Client{Conn: newConn(raw, lim, newBudget(opts.QueueBytes), opts.Serve)}
	if opts.TLS != nil {
		if err := c.handshake(ctx, addr, opts.TLS); err != nil {
			_ = raw.Close() // the handshake's error is the one that tells
			return nil, err
		}
	}
	c.wg.Add(2)
	go func() { defer c.wg.Done(); c.readLoop(nil) }()
	go func() { defer c.wg.Done(); c.writeLoop() }()
	return c, nil
}

func (c *Client) handshake(ctx context.Context, addr string, cfg *tls.Config) error {
	if cfg.ServerName == "" && !cfg.InsecureSkipVerify {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return fmt.Errorf("address %q: %w", addr, err)
		}
		cfg = cfg.Clone()
		cfg.ServerName = host
	}
	t := tls.Client(c.raw, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS handshake with %s: %w", addr, err)
	}
	c.rw = t
	return nil
}

// Close ends the connection and waits for its goroutines; calls under way fail with ErrClosed. It must not be called
// from a callback or from ClientOptions.Serve: there Conn.Close, which does not wait, is the one.
func (c *Client) Close() {
	c.Conn.Close()
	c.wg.Wait()
}
