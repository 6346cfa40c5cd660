package transport

import (
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// quiet is a connection over a pipe, in a bubble whose time goes on when nobody has anything to do.
func quiet(t *testing.T, do func(c *raw, k *conn)) {
	synctest.Test(t, func(t *testing.T) {
		srv := New(Options{Codec: protobuf{}, MaxRequest: 1 << 20, MaxHeaders: 16 << 10, MaxCalls: 10, Idle: 2 * time.Minute, Ping: time.Minute, Pong: 20 * time.Second})
		srv.RegisterService(&trialDesc, &trial{ended: make(chan error, 10)})
		client, server := net.Pipe()
		k := newConn(srv, server)
		done := make(chan error, 1)
		go func() {
			err := k.greet()
			if err == nil {
				k.serve()
			}
			done <- err
		}()
		do(newRaw(t, client), k)
		client.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestSilentClientIsAskedAndGivenUp(t *testing.T) {
	quiet(t, func(c *raw, _ *conn) {
		began := time.Now()
		c.open(1, "Chat")
		c.want("ping false")
		if took := time.Since(began); took < time.Minute || took > 80*time.Second {
			t.Errorf("asked after %s", took)
		}
		c.must(c.WritePing(true, errIdle)) // it is alive
		c.want("ping false")
		if took := time.Since(began); took < 2*time.Minute || took > 160*time.Second {
			t.Errorf("asked again after %s", took)
		}
		c.want("closed")
		if took := time.Since(began); took > 200*time.Second {
			t.Errorf("given up after %s", took)
		}
	})
}

func TestIdleClientIsSentAway(t *testing.T) {
	quiet(t, func(c *raw, _ *conn) {
		began := time.Now()
		for ; ; c.must(c.WritePing(true, errIdle)) {
			got := c.next()
			if got == "ping false" {
				continue
			}
			if took := time.Since(began); got != "go away: NO_ERROR" || took < 2*time.Minute || took > 140*time.Second {
				t.Fatalf("%s after %s", got, took)
			}
			break
		}
		c.want("ping false")
		c.open(1, "Fail") // it had not heard of it yet
		c.must(c.WriteData(1, true, request(make([]byte, 5))))
		c.want("header 1: grpc-status=5")
		c.must(c.WritePing(true, goAwayPing))
		c.want("go away: NO_ERROR", "closed")
	})
}

// Who never says that it has heard is closed all the same.
func TestClientThatIgnoresBeingSentAway(t *testing.T) {
	quiet(t, func(c *raw, k *conn) {
		c.open(1, "Chat")
		k.goAway()
		began := time.Now()
		c.want("go away: NO_ERROR", "ping false", "closed")
		if took := time.Since(began); took > 40*time.Second {
			t.Errorf("closed after %s", took)
		}
	})
}
