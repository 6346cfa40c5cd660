package broker

import (
	"github.com/prometheus/client_golang/prometheus"
)

// The values of storage_type and storage_medium for what is in an object store; rocketmq-tiered-store 5.5 calls every medium that.
const (
	tieredType   = "tiered"
	tieredMedium = "blob"
)

// tierMetrics are those of a broker with a tier. Where TieredStoreMetricsConstant of rocketmq-tiered-store 5.5 has a name for the same
// thing, that is used; it has labels for topics and queues, which have no end here.
type tierMetrics struct {
	storageSize, reserveTime      *prometheus.Desc // shared with what is here
	state, parts, raw, generation *prometheus.Desc
	behindBytes, behindSeconds    *prometheus.Desc
	uploads, failures             *prometheus.Desc
	uploaded, uploadSeconds       *prometheus.Desc
	dispatched                    *prometheus.Desc
	accesses, hits                *prometheus.Desc
	cached, onDisk, diskFailures  *prometheus.Desc
}

func newTierMetrics(desc func(name, help string, labels ...string) *prometheus.Desc, storageSize, reserveTime *prometheus.Desc) tierMetrics {
	return tierMetrics{
		storageSize: storageSize, reserveTime: reserveTime,
		state:         desc("cairn_tier_state", "1 for how the broker stands to the object store.", "state"),
		parts:         desc("cairn_tier_parts", "Segments of the log that the tier has."),
		raw:           desc("cairn_tier_raw_bytes", "Bytes of the log that the tier has, before compression."),
		generation:    desc("cairn_tier_manifest_generation", "Generation of the tier's manifest."),
		behindBytes:   desc("cairn_tier_upload_behind_bytes", "Bytes of sealed segments that the tier does not have yet."),
		behindSeconds: desc("cairn_tier_upload_behind_seconds", "Time since the oldest of these segments was sealed, in s; 0 when there is none."),
		uploads:       desc("cairn_tier_uploads_total", "Segments that were uploaded."),
		failures:      desc("cairn_tier_upload_failures_total", "Tries at an upload that failed."),
		uploaded:      desc("cairn_tier_uploaded_bytes_total", "Bytes of objects that were uploaded."),
		uploadSeconds: desc("cairn_tier_upload_seconds_total", "Time that uploads took, in s, checks of what was written included."),
		dispatched:    desc("rocketmq_tiered_store_messages_dispatch_total", "Messages that were uploaded."),
		accesses:      desc("rocketmq_tiered_store_read_ahead_cache_access_total", "Pages of the tier that readers asked for."),
		hits:          desc("rocketmq_tiered_store_read_ahead_cache_hit_total", "Pages of the tier that readers found in memory."),
		cached:        desc("rocketmq_tiered_store_read_ahead_cache_bytes", "Bytes of the tier that are in memory."),
		onDisk:        desc("cairn_tier_disk_cache_bytes", "Bytes of the tier that are in the disk cache."),
		diskFailures:  desc("cairn_tier_disk_cache_failures_total", "Files of the disk cache that could not be read or written."),
	}
}

// descs are those that nobody else describes.
func (m *tierMetrics) descs() []*prometheus.Desc {
	return []*prometheus.Desc{
		m.state, m.parts, m.raw, m.generation, m.behindBytes, m.behindSeconds, m.uploads, m.failures, m.uploaded, m.uploadSeconds,
		m.dispatched, m.accesses, m.hits, m.cached, m.onDisk, m.diskFailures,
	}
}

// collect tells nothing of a broker without a tier.
func (m *tierMetrics) collect(b *Broker, ch chan<- prometheus.Metric) {
	u := b.uploader
	if u == nil {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	now := u.State()
	for state := range tierStates {
		in := 0.0
		if state == now {
			in = 1
		}
		gauge(m.state, in, state.String())
	}
	i := u.info()
	gauge(m.storageSize, float64(i.StoredBytes), tieredType, tieredMedium)
	if i.Parts > 0 {
		gauge(m.reserveTime, age(i.From, b.clock.Now().UnixMilli()), tieredType, tieredMedium)
	}
	gauge(m.parts, float64(i.Parts))
	gauge(m.raw, float64(i.RawBytes))
	gauge(m.generation, float64(i.Generation))
	gauge(m.behindBytes, float64(i.BehindBytes))
	gauge(m.behindSeconds, float64(i.BehindMillis)/1000)
	counter(ch, m.uploads, i.Uploads)
	counter(ch, m.failures, i.Failures)
	counter(ch, m.uploaded, u.counts.bytes.Load())
	ch <- prometheus.MustNewConstMetric(m.uploadSeconds, prometheus.CounterValue, float64(u.counts.took.Load())/1000)
	counter(ch, m.dispatched, u.counts.messages.Load())
	counter(ch, m.accesses, i.CacheHits+i.CacheMisses)
	counter(ch, m.hits, i.CacheHits)
	gauge(m.cached, float64(i.CacheBytes))
	gauge(m.onDisk, float64(i.DiskBytes))
	counter(ch, m.diskFailures, u.tier.Stats().DiskFailed)
}
