// Package http is the door for people and machines that watch the broker: health, readiness, metrics and profiles, and verbs
// in JSON for what no RocketMQ request covers: the lists of timers and half messages, and how to end what is in them.
//
// Read http.go first, then api.go (requests, answers and refusals in JSON), timers.go, transactions.go.
package http

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"
)

// Health says whether the broker takes writes: nil, or why not. Safe for concurrent use; it must answer at once.
type Health func() error

// Door serves /healthz, /readyz, /metrics, /debug/pprof, and JSON under /v1/.
//
//   - /healthz answers 200 while the process can do its work, also when the disk is full: a restart would not help.
//   - /readyz answers 200 while writes are accepted, else 503 with the reason.
type Door struct {
	srv *http.Server
}

// New makes a door over a broker's verbs, a metrics gatherer and a health check.
func New(verbs Verbs, gatherer prometheus.Gatherer, health Health, log zerolog.Logger) *Door {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := health(); err != nil {
			http.Error(w, "not accepting writes: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4, ErrorLog: errorLog{log},
	}))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	(&api{verbs: verbs, log: log, reads: make(chan struct{}, maxReads)}).register(mux)
	return &Door{srv: &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}}
}

type errorLog struct{ log zerolog.Logger }

func (l errorLog) Println(v ...any) { l.log.Warn().Msg("metrics: " + fmt.Sprint(v...)) }

// Serve answers on ln until Close; it then returns nil.
func (d *Door) Serve(ln net.Listener) error {
	if err := d.srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve http: %w", err)
	}
	return nil
}

// Close stops accepting and waits for requests under way until ctx ends.
func (d *Door) Close(ctx context.Context) error {
	if err := d.srv.Shutdown(ctx); err != nil {
		return errors.Join(err, d.srv.Close())
	}
	return nil
}
