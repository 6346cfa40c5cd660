package main

import (
	"fmt"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cairnmq/cairn/configs"
	"github.com/cairnmq/cairn/tiered/objects"
)

// observeObjects returns the store with metrics of its calls, under the names that TieredStoreMetricsConstant of rocketmq-tiered-store
// 5.5 has for them.
func observeObjects(s objects.Store, cfg configs.Config, registerer prometheus.Registerer) (objects.Store, error) {
	constant := prometheus.Labels{"cluster": cfg.Cluster, "node_type": "broker", "node_id": cfg.Name}
	latency := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "rocketmq_tiered_store_provider_rpc_latency", Help: "Time of requests to the object store, in ms.", ConstLabels: constant,
		Buckets: []float64{1, 3, 5, 7, 10, 100, 200, 400, 600, 800, 1000, 1500, 3000, 10_000},
	}, []string{"operation", "success"})
	sizes := []float64{1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20, 256 << 20, 1 << 30}
	size := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, ConstLabels: constant, Buckets: sizes})
	}
	up := size("rocketmq_tiered_store_provider_upload_bytes", "Sizes of what was written to the object store, in bytes.")
	down := size("rocketmq_tiered_store_provider_download_bytes", "Sizes of what was read from the object store, in bytes.")
	for _, c := range []prometheus.Collector{latency, up, down} {
		if err := registerer.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of the object store: %w", err)
		}
	}
	return objects.Observe(s, func(c objects.Call) {
		latency.WithLabelValues(c.Operation, strconv.FormatBool(c.Err == nil)).Observe(float64(c.Took.Microseconds()) / 1000)
		if c.Written > 0 {
			up.Observe(float64(c.Written))
		}
		if c.Read > 0 {
			down.Observe(float64(c.Read))
		}
	}), nil
}
