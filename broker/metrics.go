package broker

import (
	"maps"
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/pop"
)

const (
	// maxLagRows is how many places of groups one scrape looks at, so that many groups cannot make it slow.
	maxLagRows = 20_000
	// maxWalked is how many checkpoints and lines one scrape looks at, of all groups, to find the oldest messages.
	maxWalked = int64(500_000)
)

// metrics hands the broker's counters and gauges to Prometheus, under the names that RocketMQ's OpenTelemetry metrics have
// where there is one. Nothing is kept for it: each scrape reads.
type metrics struct {
	b *Broker

	messagesIn, throughputIn, messageSize    *prometheus.Desc
	messagesOut, throughputOut, toDLQ        *prometheus.Desc
	topics, groups, permission               *prometheus.Desc
	producers, consumers                     *prometheus.Desc
	lag, ready, inFlight, delayed, parked    *prometheus.Desc
	lagLatency, queueingLatency, dead        *prometheus.Desc
	lagWhole, reserveTime                    *prometheus.Desc
	timers, timerLateness                    *prometheus.Desc
	storageSize, flushBehind, dispatchBehind *prometheus.Desc
	waiting, durability                      *prometheus.Desc
	transactions                             transactionMetrics
	timing                                   timerMetrics
	tier                                     tierMetrics
}

func newMetrics(b *Broker) *metrics {
	constant := prometheus.Labels{"cluster": b.opts.ClusterName, "node_type": "broker", "node_id": b.opts.BrokerName}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, constant)
	}
	in := []string{"topic", "message_type", "is_system"}
	out := []string{"topic", "consumer_group", "is_retry", "is_system"}
	place := []string{"consumer_group", "topic", "is_retry", "is_system"}
	storage := []string{"storage_type", "storage_medium"}
	m := &metrics{
		b:             b,
		messagesIn:    desc("rocketmq_messages_in_total", "Messages stored.", in...),
		throughputIn:  desc("rocketmq_throughput_in_total", "Bytes of messages stored.", in...),
		messageSize:   desc("rocketmq_message_size", "Sizes of messages stored, in bytes.", in...),
		messagesOut:   desc("rocketmq_messages_out_total", "Messages handed out.", out...),
		throughputOut: desc("rocketmq_throughput_out_total", "Bytes of messages handed out.", out...),
		toDLQ: desc("rocketmq_send_to_dlq_messages_total", "Messages that went to a dead-letter topic.",
			"consumer_group", "topic", "is_system"),
		topics:     desc("rocketmq_topic_number", "Topics."),
		groups:     desc("rocketmq_consumer_group_number", "Consumer groups."),
		permission: desc("rocketmq_broker_permission", "4 readable, 6 readable and writable."),
		producers:  desc("rocketmq_producer_connections", "Connected producers.", "language", "version", "protocol_type"),
		consumers: desc("rocketmq_consumer_connections", "Connected consumers.", "consumer_group", "language", "version",
			"consume_mode", "protocol_type", "is_system"),
		lag:      desc("rocketmq_consumer_lag_messages", "Messages not yet consumed: ready, in flight, delayed and parked.", place...),
		ready:    desc("rocketmq_consumer_ready_messages", "Messages that can be handed out now.", place...),
		inFlight: desc("rocketmq_consumer_inflight_messages", "Messages that a consumer has and has not acknowledged.", place...),
		delayed:  desc("cairn_consumer_delayed_messages", "Messages given back, that come again later.", place...),
		parked:   desc("cairn_consumer_parked_messages", "Messages that wait for an earlier one of their message group.", place...),
		lagLatency: desc("rocketmq_consumer_lag_latency", "Age of the oldest message not yet consumed, in ms. Left out while a group has very "+
			"much in flight.", place...),
		queueingLatency: desc("rocketmq_consumer_queueing_latency", "Age of the oldest message never handed out, in ms. Left out with the "+
			"lag latency.", place...),
		lagWhole: desc("cairn_consumer_lag_whole", "1 when the lag of all groups is in the series (those beyond the first 2,000 pairs of group and "+
			"topic together, as (other)); 0 when groups have so many places that some are in none."),
		reserveTime:    desc("rocketmq_storage_message_reserve_time", "Age of the oldest message that is kept, in ms.", storage...),
		dead:           desc("cairn_dead_letters", "Dead letters of a consumer group that were neither redriven nor purged.", "consumer_group"),
		timers:         desc("rocketmq_timing_messages", "Delayed messages that wait for their time.", "topic", "storage_type", "storage_medium"),
		timerLateness:  desc("cairn_timer_lateness_ms", "How late delayed messages became visible, in ms."),
		storageSize:    desc("rocketmq_storage_size", "Bytes on disk: log and index.", storage...),
		flushBehind:    desc("rocketmq_storage_flush_behind_bytes", "Bytes of the log that are not synced yet.", storage...),
		dispatchBehind: desc("rocketmq_storage_dispatch_behind_bytes", "Bytes of the log that are not applied yet.", storage...),
		waiting:        desc("cairn_waiting_requests", "Long polls that wait for messages.", "verb"),
		durability:     desc("cairn_durability_mode", "1 for the mode in force.", "mode"),
		transactions:   newTransactionMetrics(desc),
		timing:         newTimerMetrics(desc),
	}
	m.tier = newTierMetrics(desc, m.storageSize, m.reserveTime)
	return m
}

// Describe sends all descriptions.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		m.messagesIn, m.throughputIn, m.messageSize, m.messagesOut, m.throughputOut, m.toDLQ, m.topics, m.groups, m.permission,
		m.producers, m.consumers, m.lag, m.ready, m.inFlight, m.delayed, m.parked, m.lagLatency, m.queueingLatency, m.lagWhole, m.dead, m.timers,
		m.timerLateness, m.reserveTime, m.storageSize, m.flushBehind, m.dispatchBehind, m.waiting, m.durability,
	} {
		ch <- d
	}
	for _, d := range slices.Concat(m.transactions.descs(), m.timing.descs(), m.tier.descs()) {
		ch <- d
	}
}

// Collect reads everything once.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	if m.b.gate.enter() != nil {
		return
	}
	defer m.b.gate.leave()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	m.b.meters.forget(m.b.store)
	m.collectIn(ch)
	m.collectOut(ch)
	m.collectClients(gauge)
	m.collectLag(gauge)
	m.collectDead(gauge)
	m.collectTimers(ch, gauge)
	m.transactions.collect(m.b, ch)
	m.timing.collect(m.b, ch)
	m.tier.collect(m.b, ch)

	topics, groups := m.b.catalog.Counts()
	gauge(m.topics, float64(topics))
	gauge(m.groups, float64(groups))
	permission := catalog.PermRead
	if m.b.store.Health() == nil {
		permission |= catalog.PermWrite
	}
	gauge(m.permission, float64(permission))
	s := m.b.store.Stats()
	gauge(m.storageSize, float64(s.LogBytes+s.IndexBytes), "local", "disk")
	gauge(m.reserveTime, age(s.OldestStoreTime, m.b.clock.Now().UnixMilli()), "local", "disk")
	gauge(m.flushBehind, float64(max(s.LogCommitted-s.LogDurable, 0)), "local", "disk")
	gauge(m.dispatchBehind, float64(max(s.LogCommitted-s.Applied, 0)), "local", "disk")
	pulls, all := m.b.pulls.count(), m.b.waiters.len()
	gauge(m.waiting, float64(pulls), "pull")
	gauge(m.waiting, float64(max(all-pulls, 0)), "pop")
	gauge(m.durability, 1, modeName(m.b.mode))
}

func modeName(mode commitlog.Mode) string {
	switch mode {
	case commitlog.ModeInterval:
		return "interval"
	case commitlog.ModeOS:
		return "os"
	}
	return "sync"
}

func counter(ch chan<- prometheus.Metric, d *prometheus.Desc, v int64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

func (m *metrics) collectIn(ch chan<- prometheus.Metric) {
	m.b.meters.topics.each(func(t *topicMeter) {
		for kind := range t.kinds {
			in := &t.kinds[kind]
			messages := in.messages.Load()
			if messages == 0 {
				continue
			}
			labels := []string{t.topic, kindNames[kind], strconv.FormatBool(t.system)}
			counter(ch, m.messagesIn, messages, labels...)
			counter(ch, m.throughputIn, in.bytes.Load(), labels...)
			buckets, below := map[float64]uint64{}, uint64(0)
			for i, bound := range sizeBounds {
				below += uint64(in.sizes[i].Load())
				buckets[float64(bound)] = below
			}
			all := below + uint64(in.sizes[len(sizeBounds)].Load())
			ch <- prometheus.MustNewConstHistogram(m.messageSize, all, float64(in.bytes.Load()), buckets, labels...)
		}
	})
}

func (m *metrics) collectOut(ch chan<- prometheus.Metric) {
	m.b.meters.outs.each(func(o *outMeter) {
		if messages := o.messages.Load(); messages > 0 {
			labels := []string{o.topic, o.group, strconv.FormatBool(o.retry), strconv.FormatBool(o.system)}
			counter(ch, m.messagesOut, messages, labels...)
			counter(ch, m.throughputOut, o.bytes.Load(), labels...)
		}
	})
	m.b.meters.dead.each(func(d *deadMeter) {
		if messages := d.messages.Load(); messages > 0 {
			counter(ch, m.toDLQ, messages, d.group, d.topic, strconv.FormatBool(d.system))
		}
	})
}

// collectTimers tells of the first maxSeries topics that have timers, and of the others together.
func (m *metrics) collectTimers(ch chan<- prometheus.Metric, gauge func(*prometheus.Desc, float64, ...string)) {
	topics, others := 0, int64(0)
	err := m.b.EachPendingTimers(func(topic string, n int64) bool {
		if topics++; topics > maxSeries {
			others += n
			return true
		}
		gauge(m.timers, float64(n), topic, "local", "disk")
		return true
	})
	if err != nil {
		m.b.log.Warn().Err(err).Msg("metrics: cannot count timers")
	}
	if others > 0 {
		gauge(m.timers, float64(others), otherName, "local", "disk")
	}
	late := &m.b.firer.late
	buckets, below := map[float64]uint64{}, uint64(0)
	for i, bound := range latenessBounds {
		below += uint64(late.classes[i].Load())
		buckets[float64(bound)] = below
	}
	all := max(uint64(late.total()), below)
	ch <- prometheus.MustNewConstHistogram(m.timerLateness, all, float64(late.sum.Load()), buckets)
}

// clientKey is what clients are counted by; group and mode are empty for producers.
type clientKey struct{ group, language, version, mode, protocol string }

func (m *metrics) collectClients(gauge func(*prometheus.Desc, float64, ...string)) {
	producers, consumers := map[clientKey]int{}, map[clientKey]int{}
	m.b.clients.each(func(group string, consumer bool, info *ConsumerInfo, cl *Client) {
		key := clientKey{language: cl.Language, version: strconv.Itoa(int(cl.Version)), protocol: cl.Protocol}
		counts := producers
		if consumer {
			key.group, key.mode, counts = group, info.ConsumeType, consumers
		}
		if _, known := counts[key]; !known && len(counts) >= maxSeries {
			key = clientKey{otherName, otherName, otherName, otherName, otherName}
		}
		counts[key]++
	})
	for key, n := range producers {
		gauge(m.producers, float64(n), key.language, key.version, key.protocol)
	}
	for key, n := range consumers {
		gauge(m.consumers, float64(n), key.group, key.language, key.version, key.mode, key.protocol,
			strconv.FormatBool(catalog.IsSystemGroup(key.group)))
	}
}

// lagSeries is what a scrape says of a group on a topic.
type lagSeries struct {
	GroupCounters
	labels     []string
	aged       bool    // the ages are known
	lag, queue float64 // ms
}

// collectLag tells where groups stand: each of the first maxSeries pairs of group and topic, and the others together, as far as
// maxLagRows places go.
func (m *metrics) collectLag(gauge func(*prometheus.Desc, float64, ...string)) {
	rows, pairs, walk := 0, 0, maxWalked
	others := lagSeries{labels: []string{otherName, otherName, "false", "false"}, aged: true}
	err := m.b.catalog.EachGroup(func(g *catalog.Group) bool {
		if g.Name == deadKeeper {
			return true // no consumer
		}
		topics := map[kvindex.ID]struct{}{}
		err := m.b.store.Pop.EachCursor(g.ID, 0, func(topic kvindex.ID, _ int32, _ pop.Cursor) bool {
			topics[topic] = struct{}{}
			rows++
			return rows < maxLagRows
		})
		if err != nil {
			m.b.log.Warn().Err(err).Str("group", g.Name).Msg("metrics: cannot read where the group stands")
		}
		for _, id := range slices.Sorted(maps.Keys(topics)) {
			one, ok := m.lagOf(g, id, &walk)
			switch {
			case !ok:
			case pairs < maxSeries:
				pairs++
				m.tellLag(gauge, &one)
			default:
				pairs++
				others.add(&one)
			}
		}
		return rows < maxLagRows
	})
	if err != nil {
		m.b.log.Warn().Err(err).Msg("metrics: cannot list consumer groups")
	}
	if pairs > maxSeries {
		m.tellLag(gauge, &others)
	}
	whole := 1.0
	if rows >= maxLagRows {
		whole = 0
	}
	gauge(m.lagWhole, whole)
}

// add sums another one up; an age is the greatest of them.
func (l *lagSeries) add(o *lagSeries) {
	l.Ready += o.Ready
	l.InFlight += o.InFlight
	l.Delayed += o.Delayed
	l.Parked += o.Parked
	l.aged = l.aged && o.aged
	l.lag, l.queue = max(l.lag, o.lag), max(l.queue, o.queue)
}

// lagOf reads one pair. How old messages are it finds only when it need not look at more than walk rows for that, which it takes off.
// ok is false when the topic was deleted meanwhile or cannot be read.
func (m *metrics) lagOf(g *catalog.Group, topic kvindex.ID, walk *int64) (one lagSeries, ok bool) {
	t, err := m.b.catalog.TopicByID(topic)
	if err != nil {
		return one, false
	}
	taken, err := m.b.store.Pop.Counters(g.ID, topic)
	if err != nil {
		return one, false
	}
	rows := taken.InFlight + taken.Free // and lines: each of them has something in flight or is free
	one.labels = []string{
		g.Name, t.Name, strconv.FormatBool(isRetry(t.Name)),
		strconv.FormatBool(m.b.isSystemTopic(t.Name) || catalog.IsSystemGroup(g.Name)),
	}
	if rows > *walk {
		one.GroupCounters, err = m.b.groupCounters(g, t)
		return one, err == nil
	}
	p, err := m.b.progress(g, t)
	if err != nil {
		return one, false
	}
	*walk -= rows
	one.GroupCounters, one.aged, one.lag, one.queue = p.GroupCounters, true, age(p.Oldest, p.At), age(p.Unseen, p.At)
	return one, true
}

func (m *metrics) tellLag(gauge func(*prometheus.Desc, float64, ...string), one *lagSeries) {
	if one.aged {
		gauge(m.lagLatency, one.lag, one.labels...)
		gauge(m.queueingLatency, one.queue, one.labels...)
	}
	gauge(m.lag, float64(one.Lag()), one.labels...)
	gauge(m.ready, float64(one.Ready), one.labels...)
	gauge(m.inFlight, float64(one.InFlight), one.labels...)
	gauge(m.delayed, float64(one.Delayed), one.labels...)
	gauge(m.parked, float64(one.Parked), one.labels...)
}

// age is how long ago a time was, 0 when there is none; all in ms.
func age(since, now int64) float64 {
	if since == 0 {
		return 0
	}
	return float64(max(now-since, 0))
}

// collectDead tells of the first groups that have dead letters, by name, and of the others together.
func (m *metrics) collectDead(gauge func(*prometheus.Desc, float64, ...string)) {
	groups, others := 0, int64(0)
	for behind, more := "", true; more; {
		var found []DeadGroup
		var err error
		if found, more, err = m.b.DeadGroups(behind, maxDeadGroups); err != nil {
			m.b.log.Warn().Err(err).Msg("metrics: cannot count dead letters")
			return
		}
		for i := range found {
			behind = found[i].Group
			if groups++; groups > maxSeries {
				others += found[i].Count
				continue
			}
			gauge(m.dead, float64(found[i].Count), found[i].Group)
		}
	}
	if others > 0 {
		gauge(m.dead, float64(others), otherName)
	}
}
