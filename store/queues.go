package store

import (
	"encoding/binary"
	"fmt"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/internal/viewcache"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/pop"
	"github.com/cairnmq/cairn/txn"
)

// queueKey names a queue.
type queueKey struct {
	topic kvindex.ID
	queue int32
}

// cachedQueues bounds the bounds that are kept in memory, for the fold and for readers: about 100 bytes each.
const cachedQueues = 16384

// queueFold enters messages into queues, buckets and the key index. The folder's goroutine alone uses it; readers share
// the cache of bounds, which holds what was published.
//
// What a batch adds to a queue is gathered in a pending and written by Finish, one row per run. Rows that only this fold
// reads are written with Put. The fold's memory (cache, newest hour) only saves reads: rows are the same without it.
type queueFold struct {
	bounds *viewcache.Cache[queueKey, bounds]
	tails  *tails
	delay  *delay.State // gets what waits for its time
	txn    *txn.State   // gets what waits for a decision
	pop    *pop.State   // has the checkpoints of what is forwarded
	// hour is the newest hour known to have its own row.
	hour uint32

	// The batch under way.
	touched []*pending            // in the order of first touch
	index   map[queueKey]*pending //
	last    *pending              // touched by the record before
	gone    map[kvindex.ID]bool   // topics deleted in this batch
	free    []*pending
	spare   int // entries that the free ones have room for
	props   properties
	key     []byte
	val     []byte
}

// pending is a queue that the batch under way changes.
type pending struct {
	queueKey
	bounds       // as the batch leaves it so far
	base   int64 // max before the batch: the offset of the first new entry
	fresh  entries
	row    bool // bounds changed
}

func newQueueFold(d *delay.State, t *txn.State) *queueFold {
	f := &queueFold{
		delay: d, txn: t,
		bounds: viewcache.New[queueKey, bounds](cachedQueues),
		tails:  newTails(),
		index:  map[queueKey]*pending{},
		gone:   map[kvindex.ID]bool{},
	}
	f.props.each = f.props.visit
	return f
}

var _ kvindex.Fold = (*queueFold)(nil)

func (f *queueFold) Kinds() []record.Kind {
	return []record.Kind{
		record.KindMessage, record.KindDelayed, record.KindHalf, record.KindCopy, record.KindForward, record.KindTrim,
		record.KindDropHour, record.KindStart, record.KindOffload,
	}
}

func (f *queueFold) Apply(b *kvindex.Batch, at record.Position, r record.Record) (record.Outcome, error) {
	switch r.Kind {
	case record.KindMessage, record.KindDelayed, record.KindHalf, record.KindCopy, record.KindForward:
		return f.applyMessage(b, at, r)
	case record.KindTrim:
		return f.applyTrim(b, r.Payload)
	case record.KindDropHour:
		return f.applyDropHour(b, r.Payload)
	case record.KindStart:
		return f.applyStart(b, r.Payload)
	case record.KindOffload:
		return f.applyOffload(b, r.Payload)
	}
	return record.Outcome{}, fmt.Errorf("queues: record of kind %v at %d is not theirs", r.Kind, at)
}

// open returns the pending of a queue; nil when its topic does not exist (any more).
func (f *queueFold) open(b *kvindex.Batch, k queueKey) (*pending, error) {
	if f.last != nil && f.last.queueKey == k {
		return f.last, nil
	}
	if len(f.gone) > 0 && f.gone[k.topic] {
		return nil, nil
	}
	if p, ok := f.index[k]; ok {
		f.last = p
		return p, nil
	}
	// A cached queue's topic exists: the cache is emptied when a topic goes.
	q, cached, _ := f.bounds.Get(k)
	if !cached {
		f.key = kvindex.AppendTopicIDKey(f.key[:0], k.topic)
		_, ok, err := b.Get(f.key)
		if err != nil {
			return nil, fmt.Errorf("queues: read topic id %d: %w", k.topic, err)
		}
		if !ok {
			return nil, nil
		}
		if q, err = f.read(b, k); err != nil {
			return nil, err
		}
	}
	p := f.take()
	p.queueKey, p.bounds, p.base = k, q, q.max
	f.touched = append(f.touched, p)
	f.index[k] = p
	f.last = p
	return p, nil
}

func (f *queueFold) read(b *kvindex.Batch, k queueKey) (bounds, error) {
	f.key = kvindex.AppendQueueKey(f.key[:0], k.topic, k.queue)
	val, ok, err := b.Get(f.key)
	if err != nil {
		return bounds{}, fmt.Errorf("queues: read bounds of topic id %d queue %d: %w", k.topic, k.queue, err)
	}
	if !ok {
		return bounds{}, nil
	}
	return decodeBounds(val)
}

func (f *queueFold) take() *pending {
	if n := len(f.free); n > 0 {
		p := f.free[n-1]
		f.free = f.free[:n-1]
		f.spare -= cap(p.fresh.positions)
		return p
	}
	return &pending{}
}

func (f *queueFold) applyMessage(b *kvindex.Batch, at record.Position, r record.Record) (record.Outcome, error) {
	m, err := split(r)
	if err != nil {
		return record.Outcome{}, err
	}
	p, err := f.open(b, queueKey{m.topic, message.QueueIDOf(m.layout)})
	if err != nil {
		return record.Outcome{}, err
	}
	if p == nil {
		if m.kind == record.KindCopy { // nothing will ask for its timer any more
			err = f.delay.Drop(b, m.timer)
		}
		return record.Outcome{Refused: true}, err
	}
	f.props.scan(message.PropertiesOf(m.layout))
	e := entry{at, int32(commitlog.RecordSize(len(r.Payload))), f.props.tagHash()}
	v := visible
	if m.kind != record.KindMessage {
		if v, err = f.wait(b, &m, e); err != nil {
			return record.Outcome{}, err
		}
	}
	offset := int64(0)
	switch v {
	case visible:
		if offset, err = f.enter(b, p, at, e); err == nil && message.Cleared(m.layout) {
			err = f.trim(b, p, p.max) // it has its offset, so that the others have theirs, and is gone: the log came from the tier
		}
	case waiting:
		err = f.noteHour(b, at)
	case refused:
		return record.Outcome{Refused: true}, nil
	}
	if err != nil {
		return record.Outcome{}, err
	}
	f.indexKeys(b, kvindex.HourOf(b.Timestamp()), p.topic, at, e.size, offset)
	return record.Outcome{Offset: offset}, nil
}

// entry is a message that is entered in a queue: where its record is, how large, and the hash of its tag.
type entry struct {
	position record.Position
	size     int32
	tag      int64
}

// enter gives a message the next offset of a queue; at is where the record stands that is applied.
func (f *queueFold) enter(b *kvindex.Batch, p *pending, at record.Position, e entry) (offset int64, err error) {
	if err := f.noteHour(b, at); err != nil {
		return 0, err
	}
	if p.hour != f.hour {
		f.key = kvindex.AppendBucketKey(f.key[:0], f.hour, p.topic, p.queue)
		b.Put(f.key, nil)
		p.hour = f.hour
	}
	p.fresh.add(e.position, e.size, e.tag)
	offset = p.max
	p.max++
	p.row = true
	return offset, nil
}

// noteHour makes the row of the batch's hour; enter lists the queues in it.
//
// The row of the hour itself stands under topic 0, queue 0, which no queue has. It says where the log was when the first
// message of that hour came: all messages before that position were stored in earlier hours. The rows of queues are empty.
//
//	┌────────────┬────────────┐
//	│ position 8 │ time ms 8  │
//	└────────────┴────────────┘
func (f *queueFold) noteHour(b *kvindex.Batch, at record.Position) error {
	hour := kvindex.HourOf(b.Timestamp())
	if hour == f.hour {
		return nil
	}
	f.key = kvindex.AppendBucketKey(f.key[:0], hour, 0, 0)
	_, ok, err := b.Get(f.key)
	if err != nil {
		return fmt.Errorf("queues: read hour %d: %w", hour, err)
	}
	if !ok {
		f.val = appendHour(f.val[:0], at, b.Timestamp())
		b.Set(f.key, f.val)
	}
	f.hour = hour
	return nil
}

func appendHour(dst []byte, at record.Position, timestamp int64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(dst, uint64(at)), uint64(timestamp))
}

// indexedWords bounds the rows of one message: its 32 KiB of properties could hold some sixteen thousand words.
const indexedWords = 64

// indexKeys writes the key index rows of the message whose properties were scanned last: one for its unique id and one
// for each of the first words of its keys. The value says what a reader would otherwise have to search for.
//
//	┌────────────┬─────────┐
//	│ offset uv  │ size uv │ offset in the queue; size of the log record
//	└────────────┴─────────┘
func (f *queueFold) indexKeys(b *kvindex.Batch, hour uint32, topic kvindex.ID, at record.Position, size int32,
	offset int64,
) {
	if len(f.props.uniqueID) == 0 && len(f.props.keys) == 0 {
		return
	}
	f.val = binary.AppendUvarint(f.val[:0], uint64(offset))
	f.val = binary.AppendUvarint(f.val, uint64(size))
	f.props.eachKey(func(kind kvindex.IndexKind, hash uint64) {
		f.key = kvindex.AppendKeyIndexKey(f.key[:0], hour, topic, kind, hash, b.Timestamp(), int64(at))
		b.Put(f.key, f.val)
	})
}

// eachKey calls f for the unique id and for each of the first words of the keys.
func (p *properties) eachKey(f func(kind kvindex.IndexKind, hash uint64)) {
	if len(p.uniqueID) > 0 {
		f(kvindex.IndexUniqueID, hashBytes(kvindex.IndexUniqueID, p.uniqueID))
	}
	words := 0
	eachWord(p.keys, func(word []byte) bool {
		f(kvindex.IndexKey, hashBytes(kvindex.IndexKey, word))
		words++
		return words < indexedWords
	})
}

// applyTrim raises the minimum of the queues that it lists; lower ones and those of deleted topics are passed over. The
// outcome's offset is the number of queues that changed.
func (f *queueFold) applyTrim(b *kvindex.Batch, payload []byte) (record.Outcome, error) {
	trims, err := decodeTrim(payload)
	if err != nil {
		return record.Outcome{}, err
	}
	out := record.Outcome{}
	for _, t := range trims {
		p, err := f.open(b, queueKey{t.topic, t.queue})
		if err != nil {
			return record.Outcome{}, err
		}
		if p == nil || min(t.min, p.max) <= p.min {
			continue
		}
		if err := f.trim(b, p, min(t.min, p.max)); err != nil {
			return record.Outcome{}, err
		}
		out.Offset++
	}
	out.Refused = out.Offset == 0
	return out, nil
}

// trim removes the rows before offset to, which is above the queue's minimum and at most its end. A run that holds
// entries on both sides is written again without the trimmed ones, so that what the rows hold is what is there.
func (f *queueFold) trim(b *kvindex.Batch, p *pending, to int64) error {
	if p.min < p.local {
		lower := kvindex.AppendTierQueueKey(nil, p.topic, p.queue, 0)
		b.DeleteRange(lower, kvindex.AppendTierQueueKey(nil, p.topic, p.queue, to))
	}
	p.min = to
	p.row = true
	return f.dropRuns(b, p, to)
}

// dropRuns removes the rows of runs before offset to, which is at most the queue's end.
func (f *queueFold) dropRuns(b *kvindex.Batch, p *pending, to int64) error {
	if stored := min(to, p.base); stored > p.local {
		if err := f.splitRun(b, p, stored); err != nil {
			return err
		}
		lower := kvindex.AppendConsumeQueueKey(nil, p.topic, p.queue, 0)
		upper := kvindex.AppendConsumeQueueKey(nil, p.topic, p.queue, stored)
		b.DeleteRange(lower, upper)
	}
	p.local = max(p.local, to)
	return nil
}

// splitRun rewrites the stored run that has offset at inside, if there is one. The row may be that of before the batch:
// an earlier trim of the same batch has then written a longer remainder, which this one replaces.
func (f *queueFold) splitRun(b *kvindex.Batch, p *pending, at int64) (err error) {
	if at == p.base {
		return nil
	}
	lower := kvindex.AppendConsumeQueueKey(nil, p.topic, p.queue, at)
	upper := kvindex.AppendConsumeQueueKey(nil, p.topic, p.queue, p.base)
	it, err := b.Engine().NewIter(lower, upper)
	if err != nil {
		return fmt.Errorf("queues: split run: %w", err)
	}
	defer func() {
		if cerr := it.Close(); err == nil {
			err = cerr
		}
	}()
	if !it.First() {
		return fmt.Errorf("queues: topic id %d queue %d has no run at offset %d: %w", p.topic, p.queue, at, errMalformed)
	}
	r, err := openRun(lastOffset(it.Key()), it.Value())
	if err != nil || r.first >= at {
		return err
	}
	if err := r.skip(at - r.first); err != nil {
		return err
	}
	var rest entries
	for range r.count - int(at-r.first) {
		pos, size, tag, err := r.next()
		if err != nil {
			return err
		}
		rest.add(record.Position(pos), size, tag)
	}
	b.Set(it.Key(), appendRun(nil, r.timestamp, rest))
	return nil
}

// applyStart lets a queue begin at an offset. It is refused when the topic is not there, and when the queue has a place already.
func (f *queueFold) applyStart(b *kvindex.Batch, payload []byte) (record.Outcome, error) {
	s, err := decodeStart(payload)
	if err != nil {
		return record.Outcome{}, err
	}
	p, err := f.open(b, queueKey{s.topic, s.queue})
	if err != nil {
		return record.Outcome{}, err
	}
	if p == nil || p.max > 0 {
		return record.Outcome{Refused: true}, nil
	}
	p.min, p.local, p.max, p.base, p.row = s.min, s.min, s.min, s.min, true
	return record.Outcome{Offset: s.min}, nil
}

// applyDropHour removes an hour of the key index and of the buckets, and what ended up to then. An hour that the batch's own time has not passed is
// refused: the log's time never falls, so nothing can come to an hour after it was dropped.
func (f *queueFold) applyDropHour(b *kvindex.Batch, payload []byte) (record.Outcome, error) {
	hour, err := decodeDropHour(payload)
	if err != nil {
		return record.Outcome{}, err
	}
	if hour >= kvindex.HourOf(b.Timestamp()) {
		return record.Outcome{Refused: true}, nil
	}
	for _, prefix := range [][]byte{
		kvindex.AppendBucketHourPrefix(nil, hour), kvindex.AppendKeyIndexHourPrefix(nil, hour),
	} {
		b.DeleteRange(prefix, kvindex.PrefixEnd(prefix))
	}
	// What has ended may stand under hours in which no message came, and which nobody drops.
	ended := kvindex.AppendEndedHourPrefix(nil, hour)
	b.DeleteRange(ended[:1], kvindex.PrefixEnd(ended))
	return record.Outcome{}, nil
}

// forgetTopic drops what the batch under way has gathered for a topic that one of its records deleted; the catalog has
// removed the rows that were there before.
func (f *queueFold) forgetTopic(topic kvindex.ID) {
	f.gone[topic] = true
	f.last = nil
}

// Finish writes the runs and then the bounds of every queue that the batch touched: neighbours are cheaper for the engine.
func (f *queueFold) Finish(b *kvindex.Batch) error {
	for _, p := range f.touched {
		if !p.row || f.gone[p.topic] {
			continue
		}
		// A trim in the same batch may have taken some of the new entries already.
		for from := int(max(p.min-p.base, 0)); from < p.fresh.len(); {
			to := min(from+runEntries, p.fresh.len())
			f.key = kvindex.AppendConsumeQueueKey(f.key[:0], p.topic, p.queue, p.base+int64(to)-1)
			f.val = appendRun(f.val[:0], b.Timestamp(), p.fresh.slice(from, to))
			b.Put(f.key, f.val)
			from = to
		}
	}
	for _, p := range f.touched {
		if !p.row || f.gone[p.topic] {
			continue
		}
		f.key = kvindex.AppendQueueKey(f.key[:0], p.topic, p.queue)
		f.val = p.bounds.appendTo(f.val[:0])
		b.Put(f.key, f.val)
	}
	return nil
}

// publish hands the new entries and bounds to readers and appends what arrived to dst; both only after the batch was committed. The
// arrivals' tag hashes are valid until reset.
func (f *queueFold) publish(dst []Arrival, timestamp int64) []Arrival {
	if len(f.touched) == 0 && len(f.gone) == 0 {
		return dst
	}
	f.tails.publish(f.touched, timestamp)
	f.bounds.Publish(func(c viewcache.Publisher[queueKey, bounds]) {
		if len(f.gone) > 0 {
			c.ForgetAll()
		}
		for _, p := range f.touched {
			if !f.gone[p.topic] {
				c.Set(p.queueKey, p.bounds)
			}
		}
	})
	for _, p := range f.touched {
		if p.fresh.len() > 0 && !f.gone[p.topic] {
			dst = append(dst, Arrival{
				Topic: p.topic, Queue: p.queue, First: p.base, Count: p.fresh.len(), TagHashes: p.fresh.tags,
			})
		}
	}
	return dst
}

// What is kept from one batch to the next at most: queues in the index, and room for entries in the free pendings.
const (
	keptQueues  = 4096
	keptEntries = 128 << 10
)

// reset forgets the batch.
func (f *queueFold) reset() {
	for _, p := range f.touched {
		p.fresh.reset()
		p.row = false
		if room := cap(p.fresh.positions); f.spare+room <= keptEntries && len(f.free) < keptQueues {
			f.free = append(f.free, p)
			f.spare += room
		}
	}
	if len(f.touched) > keptQueues {
		f.index, f.touched = map[queueKey]*pending{}, nil
	}
	clear(f.index)
	clear(f.gone)
	clear(f.touched)
	f.touched, f.last = f.touched[:0], nil
}

// lastOffset reads the last part of a key in SpaceConsumeQueue.
func lastOffset(key []byte) int64 { return int64(binary.BigEndian.Uint64(key[len(key)-8:])) }
