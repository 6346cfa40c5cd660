// Package telemetry pushes the metrics that a Prometheus registry gathers to an OpenTelemetry collector, over OTLP and gRPC. So
// there is one set of metrics, under the same names, whether they are scraped or pushed.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	bridge "go.opentelemetry.io/contrib/bridges/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
)

const (
	// maxPoints bounds the data points of one request, so that it stays under the 4 MiB that collectors take.
	maxPoints = 1000
	// leastTimeout and maxTimeout bound how long one request may take, which otherwise is the interval.
	leastTimeout = time.Second
	maxTimeout   = 10 * time.Second
)

// Options of a Pusher.
type Options struct {
	// Endpoint is host:port or http://host:port, both without TLS, or https://host:port. CheckEndpoint says what is one.
	Endpoint string
	Interval time.Duration // between two pushes
	Gatherer prometheus.Gatherer
	Instance string // tells this process from others: service.instance.id
	Logger   zerolog.Logger
}

// Pusher pushes metrics until it is closed. A collector that is not there costs a log line when that begins and one when it ends,
// and no metrics: counters go on counting.
type Pusher struct{ provider *metric.MeterProvider }

// CheckEndpoint says what is wrong with an endpoint.
func CheckEndpoint(endpoint string) error {
	_, err := address(endpoint)
	return err
}

// address makes a URL of an endpoint.
func address(endpoint string) (string, error) {
	if !strings.Contains(endpoint, "://") {
		endpoint = "http://" + endpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		return "", fmt.Errorf("%q is not an address such as collector:4317", endpoint)
	}
	if _, port, err := net.SplitHostPort(u.Host); err != nil || port == "" || u.Hostname() == "" {
		return "", fmt.Errorf("%q is not an address such as collector:4317", u.Host)
	}
	if u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return "", fmt.Errorf("%q is not http://host:port or https://host:port", endpoint)
	}
	return u.String(), nil
}

// Start begins to push; it does not wait for the collector. Close the Pusher.
func Start(o Options) (*Pusher, error) {
	to, err := address(o.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("push metrics: %w", err)
	}
	timeout := max(leastTimeout, min(o.Interval, maxTimeout))
	exporter, err := otlpmetricgrpc.New(context.Background(), otlpmetricgrpc.WithEndpointURL(to), otlpmetricgrpc.WithTimeout(timeout),
		otlpmetricgrpc.WithCompressor("gzip"),
		// What a push that failed has said, the next one says again: there is nothing to be sent once more.
		otlpmetricgrpc.WithRetry(otlpmetricgrpc.RetryConfig{Enabled: false}))
	if err != nil {
		return nil, fmt.Errorf("push metrics to %s: %w", to, err)
	}
	log := o.Logger.With().Str("endpoint", to).Logger()
	// The SDK tells of what goes wrong while gathering to one handler of the process.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		if !errors.Is(err, context.Canceled) { // by Close
			log.Warn().Err(err).Msg("metrics could not be gathered for the collector")
		}
	}))
	reader := metric.NewPeriodicReader(&watched{Exporter: exporter, log: log}, metric.WithInterval(o.Interval), metric.WithTimeout(timeout),
		metric.WithMaxExportBatchSize(maxPoints), metric.WithProducer(bridge.NewMetricProducer(bridge.WithGatherer(o.Gatherer))))
	res := resource.NewSchemaless(attribute.String("service.name", "cairn"), attribute.String("service.instance.id", o.Instance))
	return &Pusher{metric.NewMeterProvider(metric.WithReader(reader), metric.WithResource(res))}, nil
}

// Close pushes once more and ends; ctx bounds how long that may take. What could not be pushed is no error: it was logged.
func (p *Pusher) Close(ctx context.Context) error {
	if err := p.provider.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("end pushing metrics: %w", err)
	}
	return nil
}

// watched logs when pushes begin to fail or to be taken.
type watched struct {
	metric.Exporter
	log   zerolog.Logger
	state atomic.Int32
}

const (
	statePending int32 = iota // nothing was pushed yet
	stateTaken
	stateFailing
)

// Export hands the error to the log alone: the SDK would print each.
func (w *watched) Export(ctx context.Context, m *metricdata.ResourceMetrics) error {
	err := w.Exporter.Export(ctx, m)
	switch {
	case err == nil:
		if w.state.Swap(stateTaken) != stateTaken {
			w.log.Info().Msg("the collector takes metrics")
		}
	case errors.Is(ctx.Err(), context.Canceled): // Close goes on with a push of its own
	case w.state.Swap(stateFailing) != stateFailing:
		w.log.Warn().Err(err).Msg("the collector does not take metrics; pushes go on")
	}
	return nil
}
