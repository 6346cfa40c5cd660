package http

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/internal/alloctest"
)

// FuzzRequests gives every end point any query and body. Each answers JSON, an error by its name, and none panics.
func FuzzRequests(f *testing.F) {
	paths := []string{
		"/v1/timers", "/v1/timers/histogram", "/v1/timers/recall", "/v1/transactions", "/v1/transactions/end", "/v1/dlq", "/v1/dlq/messages",
		"/v1/dlq/redrive", "/v1/dlq/purge",
	}
	for i := range paths {
		f.Add(uint8(i), "", "")
		f.Add(uint8(i), "topic=t&limit=5&after=1-2&group=g&from=0&to=9&width=1000&behind=x", "")
		f.Add(uint8(i), "", `{"topic":"t","handle":"djEgdCBiIDEgdQ==","group":"g","id":"0000000000001000x","commit":true,"limit":3,"behind":"1-2"}`)
	}
	mux := http.NewServeMux()
	(&api{verbs: &fakeVerbs{}, log: zerolog.Nop(), reads: make(chan struct{}, maxReads)}).register(mux)
	f.Fuzz(func(t *testing.T, which uint8, query, body string) {
		method := http.MethodGet
		if body != "" {
			method = http.MethodPost
		}
		alloctest.AtMost(t, 200*(len(query)+len(body)), func() {
			req := httptest.NewRequest(method, paths[int(which)%len(paths)], strings.NewReader(body))
			req.URL = &url.URL{Path: req.URL.Path, RawQuery: query}
			req.Header.Set("Content-Type", "application/json")
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, req)
			var v any
			if w.Header().Get("Content-Type") == "application/json" {
				if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
					t.Fatalf("%d %q: %v", w.Code, w.Body, err)
				}
			}
			if w.Code == http.StatusInternalServerError {
				t.Fatalf("%s?%s %q: %q", req.URL.Path, query, body, w.Body)
			}
		})
	})
}
