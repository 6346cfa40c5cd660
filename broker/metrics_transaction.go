package broker

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/store"
	"github.com/cairnmq/cairn/txn"
)

// finishBounds are the upper bounds (ms) of the classes of how long transactions take; a last class is above.
var finishBounds = [...]int64{5_000, 60_000, 600_000, 3_600_000, 43_200_000, 86_400_000}

// halfMeter counts how the transactions of a topic ended.
type halfMeter struct {
	topic              string
	commits, rollbacks atomic.Int64
	took               atomic.Int64 // ms, of all commits
	classes            [len(finishBounds) + 1]atomic.Int64
}

// halfMeters count transactions and their checks.
type halfMeters struct {
	topics         series[kvindex.ID, halfMeter]
	asked, unasked atomic.Int64                      // checks that a producer got, and those for which there was none
	parked         [txn.ParkedByOps + 1]atomic.Int64 // by reason
}

func newHalfMeters() *halfMeters {
	return &halfMeters{topics: newSeries[kvindex.ID](&halfMeter{topic: otherName})}
}

// countEnd counts a transaction that ended so long (ms) after its half message was stored.
func (m *halfMeters) countEnd(t *catalog.Topic, how Resolution, took int64) {
	of := m.topics.find(t.ID)
	if of == nil {
		of = m.topics.add(t.ID, &halfMeter{topic: t.Name})
	}
	if how != TransactionCommit {
		of.rollbacks.Add(1)
		return
	}
	class := 0
	for class < len(finishBounds) && took > finishBounds[class] {
		class++
	}
	of.commits.Add(1)
	of.took.Add(took)
	of.classes[class].Add(1)
}

// forget drops the meters of topics that are gone.
func (m *halfMeters) forget(s *store.Store) {
	m.topics.keep(func(id kvindex.ID) bool { return there(s.Catalog.TopicByID(id)) })
}

// transactionMetrics is the part of metrics that tells of transactions.
type transactionMetrics struct {
	half, parked, commits, rollbacks, latency *prometheus.Desc
	checks, parkings                          *prometheus.Desc
}

func newTransactionMetrics(desc func(name, help string, labels ...string) *prometheus.Desc) transactionMetrics {
	return transactionMetrics{
		half:      desc("rocketmq_half_messages", "Messages whose transaction is not decided, without parked ones.", "topic"),
		parked:    desc("cairn_parked_half_messages", "Messages whose producers are not asked for the end of the transaction any more.", "topic"),
		commits:   desc("rocketmq_commit_messages_total", "Transactions committed.", "topic"),
		rollbacks: desc("rocketmq_rollback_messages_total", "Transactions rolled back.", "topic"),
		latency:   desc("rocketmq_finish_message_latency", "Seconds from the half message to the commit of its transaction.", "topic"),
		checks: desc("cairn_transaction_checks_total",
			"Checks of transactions: producers asked (sent), or none there to ask (no-producer).", "result"),
		parkings: desc("cairn_half_messages_parked_total", "Half messages parked, by reason.", "reason"),
	}
}

func (m *transactionMetrics) descs() []*prometheus.Desc {
	return []*prometheus.Desc{m.half, m.parked, m.commits, m.rollbacks, m.latency, m.checks, m.parkings}
}

func (m *transactionMetrics) collect(b *Broker, ch chan<- prometheus.Metric) {
	b.halves.forget(b.store)
	m.collectOpen(b, ch)
	b.halves.topics.each(func(of *halfMeter) {
		if n := of.rollbacks.Load(); n > 0 {
			counter(ch, m.rollbacks, n, of.topic)
		}
		commits := of.commits.Load()
		if commits == 0 {
			return
		}
		counter(ch, m.commits, commits, of.topic)
		buckets, below := map[float64]uint64{}, uint64(0)
		for i, bound := range finishBounds {
			below += uint64(of.classes[i].Load())
			buckets[float64(bound)/1000] = below
		}
		all := below + uint64(of.classes[len(finishBounds)].Load())
		ch <- prometheus.MustNewConstHistogram(m.latency, all, float64(of.took.Load())/1000, buckets, of.topic)
	})
	counter(ch, m.checks, b.halves.asked.Load(), "sent")
	counter(ch, m.checks, b.halves.unasked.Load(), "no-producer")
	counter(ch, m.parkings, b.halves.parked[txn.NoAnswer].Load(), "no-answer")
	counter(ch, m.parkings, b.halves.parked[txn.NoProducer].Load(), "no-producer")
}

// collectOpen tells what is undecided, for each of the first maxSeries topics and the others together.
func (m *transactionMetrics) collectOpen(b *Broker, ch chan<- prometheus.Metric) {
	topics, others := 0, txn.Count{}
	tell := func(topic string, n txn.Count) {
		ch <- prometheus.MustNewConstMetric(m.half, prometheus.GaugeValue, float64(n.Open), topic)
		if n.Parked > 0 {
			ch <- prometheus.MustNewConstMetric(m.parked, prometheus.GaugeValue, float64(n.Parked), topic)
		}
	}
	err := b.store.Txn.EachCount(func(id kvindex.ID, n txn.Count) bool {
		t, err := b.catalog.TopicByID(id)
		if err != nil {
			return true // deleted meanwhile
		}
		if topics++; topics <= maxSeries {
			tell(t.Name, n)
			return true
		}
		others.Open += n.Open
		others.Parked += n.Parked
		return true
	})
	if topics > maxSeries {
		tell(otherName, others)
	}
	if err != nil {
		b.log.Warn().Err(err).Msg("metrics: cannot count half messages")
	}
}
