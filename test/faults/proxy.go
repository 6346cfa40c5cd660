package faults

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Proxy stands between an S3 client that uses plain HTTP and path style, and a server.
type Proxy struct {
	// Endpoint is its host:port, for clients.
	Endpoint string

	plan   *Plan
	target string
	next   *http.Transport
	lists  history[*answer]
}

// answer is a whole one, to be given again.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// StartProxy runs a proxy to the server (host:port) until the test ends.
func StartProxy(t testing.TB, server string, plan *Plan) *Proxy {
	t.Helper()
	p := &Proxy{plan: plan, target: server, next: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}}
	front := httptest.NewServer(p)
	p.Endpoint = front.Listener.Addr().(*net.TCPAddr).String()
	t.Cleanup(func() {
		front.CloseClientConnections() // requests that wait for their time-out
		front.Close()
		p.next.CloseIdleConnections()
	})
	return p
}

// cut ends the client's connection without another byte.
func cut() { panic(http.ErrAbortHandler) }

// ServeHTTP carries a request to the server and back, or not.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := callOf(r)
	kind, wrong := p.plan.choose(c)
	if !wrong {
		p.relay(w, r, c)
		return
	}
	switch kind {
	case CutAnswer:
		p.answerHalf(w, r)
	case StaleList:
		p.answerStale(w, r)
	case WrongBytes:
		p.damage(w, r, c)
	case LostAnswer:
		if _, err := p.forward(r); err == nil {
			p.plan.count(kind)
		}
		cut()
	case HalfUpload:
		p.plan.count(kind)
		r.Body = &halfBody{ReadCloser: r.Body, left: r.ContentLength / 2}
		_, _ = p.forward(r)
		cut()
	default:
		p.plan.count(kind)
		p.refuse(w, r, kind)
	}
}

// callOf tells what a request is for by its method, path and parameters.
func callOf(r *http.Request) call {
	query := r.URL.Query()
	_, object, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch {
	case r.Method == http.MethodGet && object == "" && query.Has("list-type"):
		return list
	case object == "":
		return other
	case r.Method == http.MethodGet:
		return read
	case r.Method == http.MethodPut:
		return write
	case r.Method == http.MethodPost && query.Has("uploadId"):
		return commit
	case r.Method == http.MethodDelete:
		return remove
	}
	return other
}

// refuse answers without asking the server.
func (p *Proxy) refuse(w http.ResponseWriter, r *http.Request, kind Kind) {
	// a client hears an answer when it has sent its content, and only then is it seen to hang up
	_, _ = io.Copy(io.Discard, r.Body)
	switch kind {
	case Timeout:
		<-r.Context().Done()
		cut()
	case ServerError:
		writeError(w, http.StatusInternalServerError, "InternalError")
	case SlowDown:
		writeError(w, http.StatusServiceUnavailable, "SlowDown")
	case QuotaFull:
		if p.plan.below(2) == 0 {
			writeError(w, http.StatusForbidden, "QuotaExceeded")
		} else {
			writeError(w, http.StatusInsufficientStorage, "XMinioStorageFull")
		}
	case Outage:
		cut()
	}
}

func writeError(w http.ResponseWriter, status int, code string) {
	body := fmt.Sprintf(`<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>injected: %s</Message></Error>`, code, code)
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// forward asks the server, and returns its whole answer.
func (p *Proxy) forward(r *http.Request) (*answer, error) {
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host = "http", p.target // Host stays the client's: the signature covers it
	out.RequestURI = ""
	resp, err := p.next.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	return &answer{resp.StatusCode, resp.Header, body}, nil
}

// relay does what a proxy does; when the server is gone, so is the client's connection.
func (p *Proxy) relay(w http.ResponseWriter, r *http.Request, c call) {
	a, err := p.forward(r)
	if err != nil {
		cut()
	}
	if c == list && a.status == http.StatusOK {
		p.lists.remember(r.URL.RequestURI(), a, time.Now())
	}
	a.write(w, r.Method, a.body)
}

// write gives the answer with another body, of which less than the answer's length may be there.
func (a *answer) write(w http.ResponseWriter, method string, body []byte) {
	header := w.Header()
	for name, values := range a.header {
		header[name] = values
	}
	if method != http.MethodHead && a.status != http.StatusNoContent {
		header.Set("Content-Length", strconv.Itoa(len(a.body)))
		header.Del("Transfer-Encoding")
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(body)
}

func (p *Proxy) answerHalf(w http.ResponseWriter, r *http.Request) {
	a, err := p.forward(r)
	if err != nil {
		cut()
	}
	p.plan.count(CutAnswer)
	a.write(w, r.Method, a.body[:len(a.body)/2])
	if flusher, ok := w.(http.Flusher); ok {
		flusher.Flush()
	}
	cut()
}

func (p *Proxy) answerStale(w http.ResponseWriter, r *http.Request) {
	if old, ok := p.lists.stale(r.URL.RequestURI(), time.Now()); ok {
		p.plan.count(StaleList)
		old.write(w, r.Method, old.body)
		return
	}
	p.relay(w, r, list)
}

// damage changes a byte of the content, on the way on which there is one.
func (p *Proxy) damage(w http.ResponseWriter, r *http.Request, c call) {
	if c == write {
		if r.ContentLength > 0 {
			p.plan.count(WrongBytes)
			r.Body = &damagedBody{ReadCloser: r.Body, at: int64(p.plan.below(int(r.ContentLength)))}
		}
		p.relay(w, r, c)
		return
	}
	a, err := p.forward(r)
	if err != nil {
		cut()
	}
	body := a.body
	if a.status < http.StatusMultipleChoices && len(body) > 0 {
		p.plan.countWrong(r.URL.Path)
		body = bytes.Clone(body)
		body[p.plan.below(len(body))] ^= 0x20
	}
	a.write(w, r.Method, body)
}

// halfBody ends with an error, and the connection to the server with it.
type halfBody struct {
	io.ReadCloser
	left int64
}

var errHalf = errors.New("injected: the client is gone")

func (b *halfBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errHalf
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// damagedBody has another byte at one place.
type damagedBody struct {
	io.ReadCloser
	at int64 // from where the reader is
}

func (b *damagedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.at >= 0 && b.at < int64(n) {
		p[b.at] ^= 0x20
	}
	b.at -= int64(n)
	return n, err
}
