package objects

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake is an S3 server that answers as it is told to.
func fake(t *testing.T, o Options, own condition, answer http.HandlerFunc) *s3 {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	server := httptest.NewServer(answer)
	s, err := openS3(s3Address{bucket: "bucket", endpoint: strings.TrimPrefix(server.URL, "http://"), region: "here", pathStyle: true, insecure: true, condition: own}, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.Close()
		server.CloseClientConnections()
		server.Close()
	})
	return s
}

func TestS3Errors(t *testing.T) {
	decisive := []error{ErrNotFound, ErrExists, ErrRefused}
	for _, c := range []struct {
		status int
		code   string
		want   error // nil: temporary
	}{
		{404, "NoSuchKey", ErrNotFound}, {404, "NoSuchBucket", ErrRefused}, {412, "PreconditionFailed", ErrExists}, {409, "FileAlreadyExists", ErrExists},
		{409, "ConditionalRequestConflict", nil}, {409, "OperationAborted", nil}, {403, "AccessDenied", ErrRefused}, {403, "SignatureDoesNotMatch", ErrRefused},
		{403, "InvalidAccessKeyId", ErrRefused}, {403, "QuotaExceeded", ErrRefused}, {507, "XMinioStorageFull", ErrRefused}, {301, "PermanentRedirect", ErrRefused},
		{400, "ExpiredToken", nil}, {400, "BadDigest", nil}, {400, "RequestTimeout", nil}, {400, "InvalidArgument", ErrRefused}, {501, "NotImplemented", ErrRefused},
		{405, "MethodNotAllowed", ErrRefused}, {429, "TooManyRequests", nil}, {500, "InternalError", nil}, {503, "SlowDown", nil}, {502, "", nil}, {504, "", nil},
	} {
		t.Run(fmt.Sprint(c.status, c.code), func(t *testing.T) {
			s := fake(t, Options{}, condition{}, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.WriteHeader(c.status)
				if c.code != "" {
					fmt.Fprintf(w, "<Error><Code>%s</Code><Message>the reason</Message></Error>", c.code)
				}
			})
			err := s.Create(t.Context(), "manifest/1", []byte("x"))
			if err == nil {
				t.Fatal("no error")
			}
			for _, kind := range decisive {
				if errors.Is(err, kind) != (kind == c.want) {
					t.Errorf("%v is %v: %v", err, kind, errors.Is(err, kind))
				}
			}
			if c.want == ErrRefused && !strings.Contains(err.Error(), "the reason") {
				t.Errorf("%v: does not say what the store said", err)
			}
		})
	}
}

// The condition of a Create, the sums of contents and encryption are in the requests.
func TestS3Headers(t *testing.T) {
	var mu sync.Mutex
	var seen http.Header
	answer := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		mu.Lock()
		defer mu.Unlock()
		seen = r.Header.Clone()
		w.Header().Set("ETag", `"x"`)
	}
	for _, c := range []struct {
		own    condition
		create string // name: value of the condition's header
	}{{condition{}, "If-None-Match: *"}, {condition{"X-Oss-Forbid-Overwrite", "true"}, "X-Oss-Forbid-Overwrite: true"}} {
		s := fake(t, Options{Encryption: "AES256"}, c.own, answer)
		check := func(call string, conditional bool) {
			t.Helper()
			mu.Lock()
			defer mu.Unlock()
			for _, header := range []string{"If-None-Match", "X-Oss-Forbid-Overwrite"} {
				name, value, _ := strings.Cut(c.create, ": ")
				if want := map[bool]string{true: value}[conditional && name == header]; seen.Get(header) != want {
					t.Errorf("%s: %s is %q, not %q", call, header, seen.Get(header), want)
				}
			}
			if seen.Get("Content-Md5") == "" || seen.Get("X-Amz-Server-Side-Encryption") != "AES256" || !strings.Contains(seen.Get("Authorization"), "content-md5") {
				t.Errorf("%s: %v", call, seen)
			}
		}
		if err := s.Create(t.Context(), "manifest/1", []byte("x")); err != nil {
			t.Fatal(err)
		}
		check("create", true)
		if err := s.Put(t.Context(), "parts/1", strings.NewReader("x"), 1); err != nil {
			t.Fatal(err)
		}
		check("put", false)
	}
}

// What an answer says of its range is believed only when it fits.
func TestS3Ranges(t *testing.T) {
	for _, c := range []struct {
		contentRange, body string
		off                int64
		n                  int
		eof, wrong         bool
	}{
		{"bytes 2-4/9", "cde", 2, 3, false, false}, {"bytes 2-3/4", "cd", 2, 2, true, false}, {"bytes 2-3/9", "cd", 2, 2, false, true},
		{"bytes 0-2/9", "abc", 2, 0, false, true}, {"", "abc", 2, 0, false, true}, {"", "abcdefghi", 0, 3, false, false}, {"", "ab", 0, 2, true, false},
		{"bytes 2-99/9", "cde", 2, 0, false, true}, {"bytes x", "cde", 2, 0, false, true}, {"bytes 2-4/*", "cde", 2, 0, false, true},
	} {
		s := fake(t, Options{}, condition{}, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
			if c.contentRange != "" {
				w.Header().Set("Content-Range", c.contentRange)
				w.WriteHeader(http.StatusPartialContent)
			}
			_, _ = io.WriteString(w, c.body)
		})
		p := make([]byte, 3)
		n, err := s.ReadAt(t.Context(), "o", p, c.off)
		if n != c.n || (err == io.EOF) != c.eof || (err != nil && err != io.EOF) != c.wrong {
			t.Errorf("%q with %q for 3 bytes at %d: %d, %v", c.contentRange, c.body, c.off, n, err)
		} else if want := "abcdefghi"[c.off:][:n]; string(p[:n]) != want {
			t.Errorf("%q: %q, not %q", c.contentRange, p[:n], want)
		}
	}
}

func TestS3WithoutCredentials(t *testing.T) {
	for _, variable := range []string{"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"} {
		t.Setenv(variable, "")
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
	// the machine has no role: its service answers that there is none
	role := httptest.NewServer(http.NotFoundHandler())
	defer role.Close()
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", role.URL+"/none")
	s, err := Open(t.Context(), "s3://bucket?endpoint=127.0.0.1:1&insecure=true&region=here", Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = s.Stat(t.Context(), "o")
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "AWS_ACCESS_KEY_ID") {
		t.Errorf("without credentials: %v", err)
	}
}

// A request in which nothing moves ends; one that is slow does not, and no more are under way than allowed.
func TestPatience(t *testing.T) {
	const stall = 300 * time.Millisecond
	release := make(chan struct{})
	var underWay, most int
	var mu sync.Mutex
	s := fake(t, Options{Stall: stall, Requests: 3}, condition{}, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		underWay++
		most = max(most, underWay)
		mu.Unlock()
		defer func() { mu.Lock(); underWay--; mu.Unlock() }()
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		switch {
		case strings.HasSuffix(r.URL.Path, "/silent"):
			select {
			case <-r.Context().Done():
			case <-release:
			}
		case strings.HasSuffix(r.URL.Path, "/half"):
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "abc")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		case strings.HasSuffix(r.URL.Path, "/slow"):
			w.Header().Set("Content-Length", "10")
			for range 10 {
				_, _ = io.WriteString(w, "x")
				w.(http.Flusher).Flush()
				<-time.After(stall / 4)
			}
		}
	})
	defer close(release)
	p := make([]byte, 10)
	begin := time.Now()
	if _, err := s.ReadAt(t.Context(), "silent", p, 0); !errors.Is(err, errStalled) {
		t.Errorf("silent: %v", err)
	}
	if took := time.Since(begin); took > attempts*stall+5*time.Second {
		t.Errorf("silence took %s", took)
	}
	if n, err := s.ReadAt(t.Context(), "half", p, 0); n != 3 || !errors.Is(err, errStalled) {
		t.Errorf("half: %d, %v", n, err)
	}
	if n, err := s.ReadAt(t.Context(), "slow", p, 0); n != 10 || err != nil {
		t.Errorf("slow: %d, %v", n, err)
	}
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			p := make([]byte, 10)
			if n, err := s.ReadAt(t.Context(), "slow", p, 0); n != 10 || err != nil || !bytes.Equal(p, bytes.Repeat([]byte{'x'}, 10)) {
				t.Errorf("one of many: %d, %v", n, err)
			}
		})
	}
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	if most != 3 {
		t.Errorf("%d requests at once, not 3", most)
	}
}
