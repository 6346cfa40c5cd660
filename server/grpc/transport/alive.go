package transport

import (
	"errors"
	"time"

	"golang.org/x/net/http2"
)

var (
	errSilent = errors.New("the client gives no sign of life")
	errIdle   = [8]byte{'a', 'l', 'i', 'v', 'e', '?'}
)

// watch looks after the connection from time to time until it is over.
func (c *conn) watch() {
	c.mu.Lock()
	defer c.mu.Unlock()
	every := c.srv.opts.Pong / ticksInPong
	c.mu.ticker = time.AfterFunc(every, func() {
		if c.look(time.Now()) {
			c.mu.Lock()
			if c.mu.err == nil {
				c.mu.ticker.Reset(every)
			}
			c.mu.Unlock()
		}
	})
}

// look asks a client for a sign of life that has been silent, gives it up when it gives none, and sends it away when it has had no
// call for long. false: the connection is over.
func (c *conn) look(now time.Time) bool {
	opts := &c.srv.opts
	heard := time.Unix(0, c.heard.Load())
	c.mu.Lock()
	if c.mu.err != nil {
		c.mu.Unlock()
		return false
	}
	if !c.mu.pinged.IsZero() && !heard.Before(c.mu.pinged) && c.mu.draining != warned {
		c.mu.pinged = time.Time{}
	}
	idle := c.mu.active == 0 && c.mu.draining == stays && now.Sub(c.mu.idle) >= opts.Idle
	silent := !c.mu.pinged.IsZero() && now.Sub(c.mu.pinged) >= opts.Pong
	if c.mu.pinged.IsZero() && now.Sub(heard) >= opts.Ping {
		c.mu.pinged = now
		c.mu.done(c.mu.frames.WritePing(false, errIdle))
	}
	c.mu.Unlock()
	c.signal()
	switch {
	case silent:
		c.fail(errSilent)
		return false
	case idle:
		c.goAway()
	}
	return true
}

// goAway tells the client to begin no further call here. What it has begun until it has heard of that is answered.
func (c *conn) goAway() {
	c.mu.Lock()
	if c.mu.draining == stays && c.mu.err == nil {
		c.mu.draining = warned
		c.mu.pinged = time.Now()
		c.mu.done(c.mu.frames.WriteGoAway(lastID, http2.ErrCodeNo, nil))
		c.mu.done(c.mu.frames.WritePing(false, goAwayPing))
	}
	c.mu.Unlock()
	c.signal()
}

func (c *conn) ping(f *http2.PingFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.IsAck() {
		if f.Data == goAwayPing && c.mu.draining == warned {
			c.mu.draining = agreed
			c.mu.pinged = time.Time{}
			c.mu.done(c.mu.frames.WriteGoAway(c.mu.newest, http2.ErrCodeNo, nil))
			if c.mu.active == 0 {
				c.mu.draining = finished
			}
			c.signal()
		}
		return nil
	}
	now := time.Now()
	switch {
	case c.mu.told: // clients that probe for the bandwidth ping for what they are sent
		c.mu.strikes = 0
	case now.Sub(c.mu.lastPing) < c.srv.opts.LeastPing:
		c.mu.strikes++
	}
	c.mu.told, c.mu.lastPing = false, now
	if c.mu.strikes > maxStrikes {
		c.mu.done(c.mu.frames.WriteGoAway(c.mu.newest, http2.ErrCodeEnhanceYourCalm, []byte("too_many_pings")))
		c.mu.draining = finished
		c.signal()
		return nil
	}
	c.mu.done(c.mu.frames.WritePing(true, f.Data))
	c.signal()
	return nil
}
