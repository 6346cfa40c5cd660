package catalog

import (
	"bytes"
	"fmt"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/internal/viewcache"
	"github.com/cairnmq/cairn/kvindex"
)

var _ kvindex.Fold = (*Catalog)(nil)

// changes are what the batch under way changed; the folder's goroutine alone touches them.
type changes struct {
	topicNames, groupNames []string
	topicIDs, groupIDs     []kvindex.ID
	counters               counters
	counted                bool // counters were changed
	reserved               bool // a topic that was there may have another reserve.time
}

// Kinds lists the record kinds that the catalog applies.
func (c *Catalog) Kinds() []record.Kind {
	return []record.Kind{
		record.KindTopicPut, record.KindTopicDelete, record.KindGroupPut, record.KindGroupDelete, record.KindKVPut,
	}
}

// Apply turns one record into rows. The outcome's offset is the id of the topic or group.
func (c *Catalog) Apply(b *kvindex.Batch, at record.Position, r record.Record) (record.Outcome, error) {
	switch r.Kind {
	case record.KindTopicPut:
		return c.applyPut(b, topicNames, r.Payload)
	case record.KindGroupPut:
		return c.applyPut(b, groupNames, r.Payload)
	case record.KindTopicDelete:
		return c.applyTopicDelete(b, r.Payload)
	case record.KindGroupDelete:
		return c.applyGroupDelete(b, r.Payload)
	case record.KindKVPut:
		return c.applyKV(b, r.Payload)
	}
	return record.Outcome{}, fmt.Errorf("catalog: record of kind %v at %d is not the catalog's", r.Kind, at)
}

// Finish has nothing to do: each Apply leaves its rows complete.
func (c *Catalog) Finish(*kvindex.Batch) error { return nil }

// Publish makes the changes of the batch that was just committed visible to lookups. The folder calls it after the
// commit and before it answers whoever proposed the records.
func (c *Catalog) Publish() {
	ch := &c.changes
	if ch.counted {
		published := ch.counters
		c.counters.Store(&published)
		ch.counted = false
	}
	if ch.reserved {
		c.reserves.Add(1)
		ch.reserved = false
	}
	if len(ch.topicNames)+len(ch.topicIDs) > 0 {
		forget(c.topicsByName, ch.topicNames)
		forget(c.topicsByID, ch.topicIDs)
		ch.topicNames, ch.topicIDs = ch.topicNames[:0], ch.topicIDs[:0]
	}
	if len(ch.groupNames)+len(ch.groupIDs) > 0 {
		forget(c.groupsByName, ch.groupNames)
		forget(c.groupsByID, ch.groupIDs)
		ch.groupNames, ch.groupIDs = ch.groupNames[:0], ch.groupIDs[:0]
	}
}

func forget[K comparable, V any](cache *viewcache.Cache[K, V], keys []K) {
	cache.Publish(func(p viewcache.Publisher[K, V]) {
		for _, k := range keys {
			p.Forget(k)
		}
	})
}

// names is one of the two interned families.
type names struct {
	what    string
	nameKey func(dst []byte, name string) []byte
	idKey   func(dst []byte, id kvindex.ID) []byte
	// last and live pick the family's counters; note remembers what changed.
	last func(*counters) *kvindex.ID
	live func(*counters) *int64
	note func(ch *changes, name string, id kvindex.ID)
}

var topicNames = names{
	what: "topic", nameKey: kvindex.AppendTopicNameKey, idKey: kvindex.AppendTopicIDKey,
	last: func(n *counters) *kvindex.ID { return &n.lastTopic },
	live: func(n *counters) *int64 { return &n.topics },
	note: func(ch *changes, name string, id kvindex.ID) {
		ch.topicNames, ch.topicIDs = append(ch.topicNames, name), append(ch.topicIDs, id)
	},
}

var groupNames = names{
	what: "group", nameKey: kvindex.AppendGroupNameKey, idKey: kvindex.AppendGroupIDKey,
	last: func(n *counters) *kvindex.ID { return &n.lastGroup },
	live: func(n *counters) *int64 { return &n.groups },
	note: func(ch *changes, name string, id kvindex.ID) {
		ch.groupNames, ch.groupIDs = append(ch.groupNames, name), append(ch.groupIDs, id)
	},
}

func (c *Catalog) applyPut(b *kvindex.Batch, ns names, payload []byte) (record.Outcome, error) {
	rawName, config, err := decodePut(payload)
	if err != nil {
		return record.Outcome{}, err
	}
	n, err := c.readCounters(b)
	if err != nil {
		return record.Outcome{}, err
	}
	name := string(rawName)
	row, known, err := readEntry(b, ns, name)
	if err != nil {
		return record.Outcome{}, err
	}
	if !known {
		last := ns.last(&n)
		*last++
		row.id = *last
		b.Set(ns.idKey(nil, row.id), rawName)
	}
	if !known || row.state == stateRemnant {
		row.created = b.Timestamp()
		*ns.live(&n)++
	}
	b.Set(ns.nameKey(nil, name), appendEntryRow(nil, row.id, row.created, stateLive, config))
	ns.note(&c.changes, name, row.id)
	c.changes.reserved = c.changes.reserved || known && !bytes.Equal(row.config, config) && (reserves(row.config) || reserves(config))
	c.writeCounters(b, n)
	return record.Outcome{Offset: int64(row.id)}, nil
}

// reserves says whether a configuration may have the attribute reserve.time.
func reserves(config []byte) bool { return bytes.Contains(config, []byte(AttrReserveTime)) }

// applyTopicDelete removes a topic and every row under its id that has not its own end of life: rows of the key index
// and the buckets go with their hour, timers when they are due, half messages when they end. For a topic that is gone already the listed groups' rows still go, so that what
// was added between listing and deleting can be cleaned by a second record.
func (c *Catalog) applyTopicDelete(b *kvindex.Batch, payload []byte) (record.Outcome, error) {
	topic, groups, err := decodeTopicDelete(payload)
	if err != nil {
		return record.Outcome{}, err
	}
	for _, g := range groups {
		deletePrefix(b, kvindex.AppendCursorTopicPrefix(nil, g, topic))
		deletePrefix(b, kvindex.AppendCheckpointTopicPrefix(nil, g, topic))
		deletePrefix(b, kvindex.AppendOrderTopicPrefix(nil, g, topic))
		b.Delete(kvindex.AppendCounterKey(nil, g, topic))
	}
	out := record.Outcome{Offset: int64(topic)}
	name, ok, err := readName(b, topicNames, topic)
	if err != nil || !ok {
		out.Refused = true
		return out, err
	}
	n, err := c.readCounters(b)
	if err != nil {
		return record.Outcome{}, err
	}
	n.topics--
	b.Delete(kvindex.AppendTopicNameKey(nil, name))
	b.Delete(kvindex.AppendTopicIDKey(nil, topic))
	deletePrefix(b, kvindex.AppendQueuePrefix(nil, topic))
	deletePrefix(b, kvindex.AppendConsumeQueueTopicPrefix(nil, topic))
	deletePrefix(b, kvindex.AppendTierQueueTopicPrefix(nil, topic))
	b.Delete(kvindex.AppendTimerCounterKey(nil, topic))
	b.Delete(kvindex.AppendHalfCounterKey(nil, topic))
	topicNames.note(&c.changes, name, topic)
	c.writeCounters(b, n)
	return out, nil
}

func (c *Catalog) applyGroupDelete(b *kvindex.Batch, payload []byte) (record.Outcome, error) {
	group, clean, err := decodeGroupDelete(payload)
	if err != nil {
		return record.Outcome{}, err
	}
	out := record.Outcome{Offset: int64(group)}
	name, ok, err := readName(b, groupNames, group)
	if err != nil || !ok {
		out.Refused = true
		return out, err
	}
	row, ok, err := readEntry(b, groupNames, name)
	if err != nil {
		return record.Outcome{}, err
	}
	if !ok || row.id != group {
		return record.Outcome{}, fmt.Errorf("catalog: group id %d has no row under its name %q", group, name)
	}
	wasLive := row.state == stateLive
	if !wasLive && !clean {
		out.Refused = true
		return out, nil
	}
	n, err := c.readCounters(b)
	if err != nil {
		return record.Outcome{}, err
	}
	if wasLive {
		n.groups--
	}
	if clean {
		b.Delete(kvindex.AppendGroupNameKey(nil, name))
		b.Delete(kvindex.AppendGroupIDKey(nil, group))
		deletePrefix(b, kvindex.AppendCursorGroupPrefix(nil, group))
		deletePrefix(b, kvindex.AppendCheckpointGroupPrefix(nil, group))
		deletePrefix(b, kvindex.AppendOrderGroupPrefix(nil, group))
		deletePrefix(b, kvindex.AppendCounterGroupPrefix(nil, group))
	} else {
		b.Set(kvindex.AppendGroupNameKey(nil, name), appendEntryRow(nil, group, row.created, stateRemnant, nil))
	}
	groupNames.note(&c.changes, name, group)
	c.writeCounters(b, n)
	return out, nil
}

func (c *Catalog) applyKV(b *kvindex.Batch, payload []byte) (record.Outcome, error) {
	namespace, key, value, present, err := decodeKVPut(payload)
	if err != nil {
		return record.Outcome{}, err
	}
	row := kvindex.AppendKVConfigKey(nil, string(namespace), string(key))
	if present {
		b.Set(row, value)
		return record.Outcome{}, nil
	}
	_, ok, err := b.Get(row)
	if err != nil {
		return record.Outcome{}, fmt.Errorf("catalog: read KV row: %w", err)
	}
	b.Delete(row)
	return record.Outcome{Refused: !ok}, nil
}

// readEntry reads a name's row; what it returns does not alias the batch.
func readEntry(b *kvindex.Batch, ns names, name string) (entryRow, bool, error) {
	val, ok, err := b.Get(ns.nameKey(nil, name))
	if err != nil {
		return entryRow{}, false, fmt.Errorf("catalog: read %s %q: %w", ns.what, name, err)
	}
	if !ok {
		return entryRow{}, false, nil
	}
	row, err := decodeEntryRow(val)
	if err != nil {
		return entryRow{}, false, fmt.Errorf("catalog: %s %q: %w", ns.what, name, err)
	}
	row.config = bytes.Clone(row.config)
	return row, true, nil
}

func readName(b *kvindex.Batch, ns names, id kvindex.ID) (string, bool, error) {
	val, ok, err := b.Get(ns.idKey(nil, id))
	if err != nil {
		return "", false, fmt.Errorf("catalog: read name of %s id %d: %w", ns.what, id, err)
	}
	return string(val), ok, nil
}

func (c *Catalog) readCounters(b *kvindex.Batch) (counters, error) {
	val, ok, err := b.Get(kvindex.AppendMetaKey(nil, countersName))
	if err != nil || !ok {
		return counters{}, err
	}
	return decodeCounters(val)
}

// writeCounters counts one change and writes the row.
func (c *Catalog) writeCounters(b *kvindex.Batch, n counters) {
	n.version++
	n.versionTime = b.Timestamp()
	b.Set(kvindex.AppendMetaKey(nil, countersName), n.appendTo(nil))
	c.changes.counters, c.changes.counted = n, true
}

func deletePrefix(b *kvindex.Batch, prefix []byte) { b.DeleteRange(prefix, kvindex.PrefixEnd(prefix)) }
