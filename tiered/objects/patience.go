package objects

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// errStalled ends a request in which nothing moved for too long.
var errStalled = errors.New("no answer")

// patience is a transport that bounds how many requests are under way, and ends each in which no byte has moved for a while.
// So a large object may take as long as it needs, and a dead connection does not.
type patience struct {
	next  http.RoundTripper
	slots chan struct{} // one for each request until its answer is read
	stall time.Duration
}

func newPatience(next http.RoundTripper, requests int, stall time.Duration) *patience {
	return &patience{next: next, slots: make(chan struct{}, requests), stall: stall}
}

func (p *patience) RoundTrip(req *http.Request) (*http.Response, error) {
	select {
	case p.slots <- struct{}{}:
	case <-req.Context().Done():
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, context.Cause(req.Context())
	}
	w := &watch{stall: p.stall}
	ctx, cancel := context.WithCancelCause(req.Context())
	w.timer = time.AfterFunc(p.stall, func() { cancel(fmt.Errorf("%w for %s", errStalled, p.stall)) })
	w.ctx = ctx
	w.end = sync.OnceFunc(func() {
		w.timer.Stop()
		cancel(nil)
		<-p.slots
	})
	req = req.WithContext(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = &watchedBody{ReadCloser: req.Body, watch: w}
	}
	resp, err := p.next.RoundTrip(req)
	if err != nil {
		err = w.why(err)
		w.end()
		return nil, err
	}
	resp.Body = &watchedBody{ReadCloser: resp.Body, watch: w, ends: true}
	return resp, nil
}

// watch ends one request when it stalls.
type watch struct {
	stall time.Duration
	timer *time.Timer
	ctx   context.Context // ended by the timer, with the reason
	end   func()
}

// why is the reason behind the error: that the request stalled, if it did.
func (w *watch) why(err error) error {
	if cause := context.Cause(w.ctx); errors.Is(cause, errStalled) {
		return cause
	}
	return err
}

// watchedBody tells the watch of every byte.
type watchedBody struct {
	io.ReadCloser
	watch *watch
	ends  bool // the request with it
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		return n, b.watch.why(err)
	}
	if n > 0 {
		b.watch.timer.Reset(b.watch.stall)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	err := b.ReadCloser.Close()
	if b.ends {
		b.watch.end()
	}
	return err
}
