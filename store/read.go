package store

import (
	"fmt"
	"slices"
	"sync"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
)

// Buffer is a pooled read buffer; Release returns it. Slices handed out with it are valid until then.
type Buffer struct {
	B    []byte
	ends []int
}

// A buffer that a large read made larger than this is not kept.
const keptBuffer = 4 << 20

var buffers = sync.Pool{New: func() any { return new(Buffer) }}

// NewBuffer takes an empty buffer from the pool.
func NewBuffer() *Buffer { return buffers.Get().(*Buffer) }

// Release gives the buffer back; neither it nor what was handed out with it may be used afterwards. A nil buffer is fine.
func (b *Buffer) Release() {
	if b == nil || cap(b.B) > keptBuffer {
		return
	}
	b.B, b.ends = b.B[:0], b.ends[:0]
	buffers.Put(b)
}

// endsFrom are the ends that were added since there were n.
func (b *Buffer) endsFrom(n int) []int { return b.ends[n:len(b.ends):len(b.ends)] }

// scratch is room for the keys of one read.
type scratch struct{ lower, upper, val []byte }

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// Entry is one place in a queue.
type Entry struct {
	Offset    int64
	Position  record.Position
	Size      int32 // of the log record, header included
	TagHash   int64
	StoreTime int64 // ms: when it became visible
}

// Bounds of a queue: min is the first offset that is there, max the next one to be given. 0, 0 for a queue never written.
func (s *Store) Bounds(topic kvindex.ID, queue int32) (min, max int64, err error) {
	q, err := s.boundsOf(queueKey{topic, queue})
	return q.min, q.max, err
}

func (s *Store) boundsOf(k queueKey) (bounds, error) {
	q, ok, epoch := s.queues.bounds.Get(k)
	if ok {
		return q, nil
	}
	sc := scratches.Get().(*scratch)
	defer scratches.Put(sc)
	sc.lower = kvindex.AppendQueueKey(sc.lower[:0], k.topic, k.queue)
	val, ok, err := s.engine.Get(sc.lower, sc.val)
	if err != nil {
		return bounds{}, fmt.Errorf("store: read bounds of topic id %d queue %d: %w", k.topic, k.queue, err)
	}
	if !ok {
		return bounds{}, nil // not cached: to the fold, a cached queue's topic exists
	}
	sc.val = val
	if q, err = decodeBounds(val); err != nil {
		return bounds{}, err
	}
	s.queues.bounds.Fill(k, q, epoch)
	return q, nil
}

// runsOf iterates the run rows of a queue whose last offset is at least from.
func (s *Store) runsOf(topic kvindex.ID, queue int32, from int64) (kvindex.Iter, error) {
	sc := scratches.Get().(*scratch)
	defer scratches.Put(sc)
	sc.lower = kvindex.AppendConsumeQueueKey(sc.lower[:0], topic, queue, max(from, 0))
	sc.upper = kvindex.AppendConsumeQueueKey(sc.upper[:0], topic, queue, maxOffset)
	it, err := s.engine.NewIter(sc.lower, sc.upper)
	if err != nil {
		return nil, fmt.Errorf("store: read topic id %d queue %d: %w", topic, queue, err)
	}
	return it, nil
}

const maxOffset = 1<<63 - 1

// Entries is that of a Reader which reads the tier, too.
func (s *Store) Entries(topic kvindex.ID, queue int32, offset int64, max int, dst []Entry) ([]Entry, error) {
	return s.own().Entries(topic, queue, offset, max, dst)
}

// Entries appends up to max entries from offset on (at most the queue's end) to dst. Where the queue begins later than
// offset, the first entry is the queue's first. What it gives lies before the end that Bounds tells from now on: rows of
// a batch that is committed but not yet published are left for the next call. Errors to decide on: ErrCold, ErrNoTier.
func (r Reader) Entries(topic kvindex.ID, queue int32, offset int64, max int, dst []Entry) (_ []Entry, err error) {
	s := r.s
	if max <= 0 {
		return dst, nil
	}
	k := queueKey{topic, queue}
	q, err := s.boundsOf(k)
	if err != nil || offset >= q.max {
		return dst, err
	}
	begin, end := len(dst), len(dst)+max
	if offset < q.local && q.min < q.local {
		dst, err = r.coldEntries(k, q, atLeast(offset, q.min), dst, end)
		if err != nil || len(dst) == end || len(dst) > begin && dst[len(dst)-1].Offset < q.local-1 {
			return dst, err
		}
		offset = q.local
	}
	if tail, ok := s.queues.tails.read(k, atLeast(offset, q.min), end-len(dst), dst); ok {
		return before(q.max, tail, begin), nil
	}
	if dst, err = s.rowEntries(k, offset, end, dst); err != nil {
		return dst, err
	}
	return before(q.max, dst, begin), nil
}

// rowEntries appends the entries from offset on that the rows have, until dst has end of them.
func (s *Store) rowEntries(k queueKey, offset int64, end int, dst []Entry) (_ []Entry, err error) {
	it, err := s.runsOf(k.topic, k.queue, offset)
	if err != nil {
		return dst, err
	}
	defer func() {
		if cerr := it.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("store: read topic id %d queue %d: %w", k.topic, k.queue, cerr)
		}
	}()
	for ok := it.First(); ok && len(dst) < end; ok = it.Next() {
		if dst, err = appendEntries(dst, lastOffset(it.Key()), it.Value(), offset, end); err != nil {
			return dst, err
		}
	}
	return dst, it.Error()
}

// before leaves those of the entries from begin on that are before an offset.
func before(offset int64, entries []Entry, begin int) []Entry {
	for len(entries) > begin && entries[len(entries)-1].Offset >= offset {
		entries = entries[:len(entries)-1]
	}
	return entries
}

func atLeast(offset, least int64) int64 { return max(offset, least) }

// appendEntries appends those entries of a run that are not before offset, until dst has end entries.
func appendEntries(dst []Entry, last int64, val []byte, offset int64, end int) ([]Entry, error) {
	r, err := openRun(last, val)
	if err != nil {
		return dst, err
	}
	from := max(offset-r.first, 0)
	if err := r.skip(from); err != nil {
		return dst, err
	}
	for i := from; i < int64(r.count) && len(dst) < end; i++ {
		pos, size, tag, err := r.next()
		if err != nil {
			return dst, err
		}
		dst = append(dst, Entry{
			Offset: r.first + i, Position: record.Position(pos), Size: size, TagHash: tag, StoreTime: r.timestamp,
		})
	}
	return dst, nil
}

// Neighbours in the log are read together when what lies between them is not more than readGap bytes: copying that much
// costs less than another call of the operating system. maxSpan bounds one such read.
const (
	readGap = 4 << 10
	maxSpan = 1 << 20
)

// ReadMessages is that of a Reader which reads the tier, too.
func (s *Store) ReadMessages(entries []Entry, maxBytes int, buf *Buffer) (ends []int, err error) {
	return s.own().ReadMessages(entries, maxBytes, buf)
}

// ReadMessages appends the stored layouts of entries to buf.B, one after the other, with queue offset and physical
// offset filled in, and returns the end of each in buf.B. The entries are those of one queue in order of their offsets.
// Neighbours in the log are read together. It stops early when the next message would bring the bytes read over
// maxBytes (the first one is always read). An entry whose body is gone is commitlog.ErrGone when it is the first one,
// and ends the answer when it is not; so does one that is ErrCold. Other errors: *commitlog.CorruptError.
func (r Reader) ReadMessages(entries []Entry, maxBytes int, buf *Buffer) (ends []int, err error) {
	entries = entries[:fitting(entries, maxBytes)]
	first := len(buf.ends)
	for len(entries) > 0 {
		n := neighbours(entries)
		read, err := r.readSpan(entries[:n], buf)
		if err != nil {
			if len(buf.ends) == first {
				return nil, err
			}
			break
		}
		entries = entries[read:]
	}
	return buf.endsFrom(first), nil
}

// fitting is how many entries stay within maxBytes, one at least.
func fitting(entries []Entry, maxBytes int) int {
	total := 0
	for i := range entries {
		total += int(entries[i].Size)
		if i > 0 && total > maxBytes {
			return i
		}
	}
	return len(entries)
}

// neighbours is how many entries from the first on are close enough in the log to be read together.
func neighbours(entries []Entry) int {
	start := entries[0].Position
	end := start + record.Position(entries[0].Size)
	for i := 1; i < len(entries); i++ {
		e := &entries[i]
		next := e.Position + record.Position(e.Size)
		if e.Position < end || e.Position-end > readGap || next-start > maxSpan {
			return i
		}
		end = next
	}
	return len(entries)
}

// readSpan reads the log from the first entry to the end of the last, then checks each record and moves its layout to
// the end of buf.B, over what it has done with. It returns how many it got: a span may end with a segment.
func (r Reader) readSpan(span []Entry, buf *Buffer) (int, error) {
	start := span[0].Position
	last := &span[len(span)-1]
	n := int(last.Position-start) + int(last.Size)
	out := len(buf.B)
	buf.B = slices.Grow(buf.B, n)
	raw, err := r.readRaw(start, n, buf.B[out:out+n])
	if err != nil {
		return 0, fmt.Errorf("store: read %d messages at %d: %w", len(span), start, err)
	}
	for i := range span {
		e := &span[i]
		at := int(e.Position - start)
		if i > 0 && at+int(e.Size) > len(raw) {
			return i, nil
		}
		m, err := parseMessage(raw[at:], int(e.Size))
		if err != nil {
			return i, r.s.corrupt(e.Position, err)
		}
		from := len(buf.B)
		buf.B = append(buf.B, m.layout...)
		message.PatchQueueOffset(buf.B[from:], e.Offset)
		if m.kind != record.KindMessage && e.StoreTime > 0 { // it came to its queue later than to the log
			message.PatchStoreTimestamp(buf.B[from:], e.StoreTime)
		}
		buf.ends = append(buf.ends, len(buf.B))
	}
	return len(span), nil
}

// parseMessage checks the record at the front of raw against its checksum and what the index says of it, and takes it apart.
func parseMessage(raw []byte, size int) (stored, error) {
	rec, n, err := commitlog.ParseRecord(raw)
	if err != nil {
		return stored{}, err
	}
	if _, carries := headOf(rec.Kind); n != size || !carries {
		return stored{}, fmt.Errorf("the index has a message of %d bytes there, the log a %v of %d", size, rec.Kind, n)
	}
	m, err := split(rec)
	if err == nil && message.Cleared(m.layout) {
		return stored{}, commitlog.ErrGone
	}
	return m, err
}

// Prefetch hints that the message whose record of that size is at a position will be read in a moment.
func (s *Store) Prefetch(pos record.Position, size int32) { s.log.Prefetch(pos, int(size)) }

// ReadStored appends the stored layout of the message whose record of that size (0: not known, the position came from outside)
// is at a position to buf.B and returns it, as it was written, whatever has become of it since. Errors to decide on:
// commitlog.ErrGone, *commitlog.CorruptError; with size 0 ErrNotFound.
func (s *Store) ReadStored(pos record.Position, size int32, buf *Buffer) ([]byte, error) {
	from := len(buf.B)
	if size == 0 {
		m, err := s.readAny(pos, buf)
		if err != nil {
			return nil, err
		}
		buf.B = append(buf.B, m.layout...)
		return buf.B[from:], nil
	}
	buf.B = slices.Grow(buf.B, int(size))
	raw, err := s.own().readRaw(pos, int(size), buf.B[from:from+int(size)])
	if err != nil {
		return nil, fmt.Errorf("store: read message at %d: %w", pos, err)
	}
	m, err := parseMessage(raw, int(size))
	if err != nil {
		return nil, s.corrupt(pos, err)
	}
	buf.B = append(buf.B, m.layout...)
	return buf.B[from:], nil
}
