package telemetry

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	collector "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// receiver is a collector that can be told to refuse.
type receiver struct {
	collector.UnimplementedMetricsServiceServer

	mu      sync.Mutex
	refuses bool
	pushes  int
	points  map[string]*metrics.Metric // the newest by name
	largest int                        // points of one request
	service map[string]string
}

func (r *receiver) Export(_ context.Context, req *collector.ExportMetricsServiceRequest) (*collector.ExportMetricsServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pushes++; r.refuses {
		return nil, status.Error(codes.Unavailable, "not now")
	}
	n := 0
	for _, rm := range req.GetResourceMetrics() {
		for _, a := range rm.GetResource().GetAttributes() {
			r.service[a.GetKey()] = a.GetValue().GetStringValue()
		}
		for _, sm := range rm.GetScopeMetrics() {
			for _, m := range sm.GetMetrics() {
				r.points[m.GetName()] = m
				n += len(m.GetGauge().GetDataPoints()) + len(m.GetSum().GetDataPoints()) + len(m.GetHistogram().GetDataPoints())
			}
		}
	}
	r.largest = max(r.largest, n)
	return &collector.ExportMetricsServiceResponse{}, nil
}

func (r *receiver) set(refuses bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuses = refuses
}

// after waits until so many more pushes came.
func (r *receiver) after(t *testing.T, more int) {
	t.Helper()
	r.mu.Lock()
	want := r.pushes + more
	r.mu.Unlock()
	deadline := time.Now().Add(20 * time.Second)
	for {
		r.mu.Lock()
		n := r.pushes
		r.mu.Unlock()
		if n >= want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d pushes came, not %d", n, want)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func newReceiver(t *testing.T) (r *receiver, addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r = &receiver{points: map[string]*metrics.Metric{}, service: map[string]string{}}
	srv := grpc.NewServer()
	collector.RegisterMetricsServiceServer(srv, r)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return r, ln.Addr().String()
}

// lines is a log that may be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// What a registry gathers comes to the collector under its own names, with its labels and values, in requests of a bounded size;
// a collector that refuses costs one line when it begins and one when it ends.
func TestPush(t *testing.T) {
	registry := prometheus.NewRegistry()
	in := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "rocketmq_messages_in_total", Help: "In.", ConstLabels: prometheus.Labels{"node_id": "b"}}, []string{"topic"})
	size := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "rocketmq_message_size", Help: "Size.", Buckets: []float64{10, 100}})
	lag := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "rocketmq_consumer_lag_messages", Help: "Lag."}, []string{"consumer_group"})
	registry.MustRegister(in, size, lag)
	in.WithLabelValues("t").Add(7)
	size.Observe(50)
	for i := range 2*maxPoints + 10 {
		lag.WithLabelValues(fmt.Sprint("g", i)).Set(3)
	}
	r, addr := newReceiver(t)
	r.set(true)
	log := &lines{}
	p, err := Start(Options{Endpoint: addr, Interval: 20 * time.Millisecond, Gatherer: registry, Instance: "b", Logger: zerolog.New(log)})
	if err != nil {
		t.Fatal(err)
	}
	r.after(t, 6)
	r.set(false)
	r.after(t, 9)
	in.WithLabelValues("t").Add(1) // comes with the last push at the latest
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := p.Close(ctx); err != nil {
		t.Error(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.points["rocketmq_messages_in_total"].GetSum()
	if n := len(got.GetDataPoints()); n != 1 || !got.GetIsMonotonic() || got.GetDataPoints()[0].GetAsDouble() != 8 || len(got.GetDataPoints()[0].GetAttributes()) != 2 {
		t.Errorf("messages in: %v", got)
	}
	if h := r.points["rocketmq_message_size"].GetHistogram(); len(h.GetDataPoints()) != 1 || h.GetDataPoints()[0].GetSum() != 50 || h.GetDataPoints()[0].GetCount() != 1 {
		t.Errorf("size: %v", h)
	}
	if n := len(r.points["rocketmq_consumer_lag_messages"].GetGauge().GetDataPoints()); n == 0 || r.largest > maxPoints {
		t.Errorf("%d points of the lag in the last request, up to %d in one", n, r.largest)
	}
	if r.service["service.name"] != "cairn" || r.service["service.instance.id"] != "b" {
		t.Errorf("resource: %v", r.service)
	}
	if text := log.String(); strings.Count(text, "does not take metrics") != 1 || strings.Count(text, "the collector takes metrics") != 1 || strings.Count(text, "\n") != 2 {
		t.Errorf("the log has\n%s", text)
	}
}

func TestEndpoints(t *testing.T) {
	for _, good := range []string{"collector:4317", "http://127.0.0.1:4317", "https://[::1]:4317/"} {
		if err := CheckEndpoint(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "collector", ":4317", "ftp://collector:4317", "http://collector:4317/v1/metrics", "http://collector", "http://a b:1"} {
		if err := CheckEndpoint(bad); err == nil {
			t.Errorf("%q is an endpoint", bad)
		}
	}
}
