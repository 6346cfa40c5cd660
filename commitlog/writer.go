package commitlog

import (
	"fmt"
	"runtime"
	"slices"

	"github.com/cairnmq/cairn/internal/record"
)

// tail is the end of the log. Only the writer touches it once the log is started.
type tail struct {
	segment   *segment
	file      *handle
	pos       record.Position // end of the last batch
	log       uint64
	term      uint64
	index     uint64 // of the last batch
	timestamp int64  // of the last batch
	buf       []byte // the batch being written; reused

	// A full disk may cut a write short. These bytes of the active file, never committed, are zeroed before the next write.
	junkFrom, junkTo int64
}

// yieldBytes is how much makes a batch that is written without looking whether more is about to come.
const yieldBytes = 16 << 10

// writeLoop is the writer: it gathers, writes and passes on until the log is closed or has failed.
func (l *Log) writeLoop() {
	for {
		f := l.gather()
		if f == nil {
			break
		}
		err := l.write(f)
		switch {
		case err == nil:
			l.publish(f)
			continue
		case diskFull(err):
			l.setFull(true, err)
			_ = l.clearJunk() // or else before the next write
			l.giveUp(f.Proposals, ErrDiskFull)
			l.wakePreparer()
		default:
			l.fail("write a batch", err)
			l.giveUp(f.Proposals, l.State())
		}
		l.mu.Lock()
		l.recycleLocked(f)
		l.mu.Unlock()
	}
	l.mu.Lock()
	l.mu.writerExited = true
	l.mu.want = l.mu.written
	l.wakeAllLocked()
	l.mu.Unlock()
	close(l.writerGone)
}

// gather waits until there is a batch worth writing and returns it; nil when there will be no more. While the log
// refuses proposals it fails those that were queued before.
func (l *Log) gather() *flight {
	l.mu.Lock()
	defer l.mu.Unlock()
	yielded := false
	for {
		refusal := l.refusalLocked()
		switch {
		case refusal != nil && l.mu.queue.len() > 0:
			waiting, _ := l.mu.queue.take(l.mu.queue.bytes, nil)
			l.mu.Unlock()
			l.giveUp(waiting, refusal)
			l.mu.Lock()
			continue
		case l.mu.failure != nil, l.mu.phase == phaseClosed && l.mu.queue.len() == 0:
			return nil
		case refusal == nil && l.worthWritingLocked():
			if yielded || l.mu.queue.bytes >= yieldBytes {
				return l.takeLocked()
			}
			// Whoever is about to propose, and only waits for a processor, comes along: a batch of one costs nearly as much as one of ten.
			yielded = true
			l.mu.Unlock()
			runtime.Gosched()
			l.mu.Lock()
			continue
		}
		yielded = false
		l.mu.toWrite.Wait()
	}
}

// worthWritingLocked says whether the writer should write now rather than let more come together. It should when the
// stage behind it has nothing else to do; when that is busy, only for writeAhead bytes.
func (l *Log) worthWritingLocked() bool {
	if l.mu.queue.len() == 0 || l.mu.inFlight >= handOver {
		return false
	}
	busy := len(l.mu.ready) > 0
	if l.opts.Mode == ModeSync {
		busy = l.mu.syncing || len(l.mu.unsynced) > 0
	}
	return !busy || l.mu.queue.bytes >= writeAhead
}

func (l *Log) takeLocked() *flight {
	var f *flight
	if n := len(l.mu.spare); n > 0 {
		f, l.mu.spare = l.mu.spare[n-1], l.mu.spare[:n-1]
	} else {
		f = &flight{}
	}
	f.Proposals, f.bytes = l.mu.queue.take(l.opts.MaxBatchBytes, f.Proposals[:0])
	return f
}

// recycleLocked keeps f for another batch, but nothing that it pointed to.
func (l *Log) recycleLocked(f *flight) {
	clear(f.Records)
	clear(f.Proposals)
	f.Batch = Batch{Records: f.Records[:0], Proposals: f.Proposals[:0]}
	if len(l.mu.spare) < handOver {
		l.mu.spare = append(l.mu.spare, f)
	}
}

// write encodes f and writes it at the tail, which moves only when all of it was written.
func (l *Log) write(f *flight) error {
	t := &l.tail
	if err := l.clearJunk(); err != nil {
		return err
	}
	length := batchLength(f.bytes)
	pos := max(t.pos, t.segment.start)
	if pos+record.Position(length) > t.segment.end {
		if err := l.roll(length); err != nil {
			return err
		}
		pos = t.segment.start
	}
	h := header{
		length: length, log: t.log, term: t.term, index: t.index + 1, timestamp: max(l.timeOf(f), t.timestamp),
		position: pos, previous: t.pos, durable: l.Durable(),
	}
	l.encode(f, &h)
	off := int64(pos - t.segment.start)
	l.claim(off + length)
	n, err := t.file.WriteAt(t.buf, off)
	if err != nil {
		t.junkFrom, t.junkTo = off, off+int64(n)
		return fmt.Errorf("segment %s: %w", t.segment.name, err)
	}
	t.pos, t.index, t.timestamp = h.end(), h.index, h.timestamp
	if cap(t.buf) > 2*l.opts.MaxBatchBytes {
		t.buf = nil // a rare large proposal; do not keep its room
	}
	return nil
}

// timeOf is the time that the proposals of a batch ask for.
func (l *Log) timeOf(f *flight) int64 {
	if at := f.Proposals[0].At; at != 0 {
		return at
	}
	return l.now()
}

// encode lays f out in the tail's buffer and fills in what f and its proposals say about where they are.
func (l *Log) encode(f *flight, h *header) {
	count := 0
	for _, p := range f.Proposals {
		count += len(p.Records)
	}
	h.count = count
	f.Position, f.End, f.Term, f.Index, f.Timestamp = h.position, h.end(), h.term, h.index, h.timestamp
	f.Records = slices.Grow(f.Records[:0], count)
	f.Positions = make([]record.Position, 0, count)

	buf := slices.Grow(l.tail.buf[:0], int(h.length))[:h.length]
	off := batchHeader
	for _, p := range f.Proposals {
		first := len(f.Records)
		for i := range p.Records {
			r := &p.Records[i]
			pos := h.position + record.Position(off)
			if l.opts.Seal != nil {
				l.opts.Seal(h.timestamp, pos, r)
			}
			off += putRecord(buf[off:], r)
			f.Records = append(f.Records, *r)
			f.Positions = append(f.Positions, pos)
		}
		n := len(f.Records)
		p.Timestamp = h.timestamp
		p.Positions, p.Outcomes = f.Positions[first:n:n], nil
	}
	clear(buf[off:])
	sealBatch(buf, h)
	l.tail.buf = buf
}

// claim makes the first end bytes of the active segment the writer's: the preparer fills only beyond. It waits for a fill
// under way there, and wakes the preparer when the room ahead gets scarce.
func (l *Log) claim(end int64) {
	seg := l.tail.segment
	l.mu.Lock()
	for seg.filling && end > seg.filled {
		l.mu.toWrite.Wait()
	}
	seg.filled = max(seg.filled, end)
	scarce := l.opts.Mode == ModeSync && l.aheadLocked(seg.start+record.Position(end)) < l.opts.lead()/2
	l.mu.Unlock()
	if scarce {
		l.wakePreparer()
	}
}

// roll makes the next segment the active one. A batch that is larger than a segment makes it as large as itself.
func (l *Log) roll(length int64) error {
	t := &l.tail
	seg, file, err := l.takeNext(length)
	if err != nil {
		return err
	}
	l.segments.add(seg, file)
	t.file.release()
	t.segment, t.file = seg, file
	l.wakePreparer()
	return nil
}

// takeNext waits for the next segment and makes it the active one of the pipeline, together with the reference to its file.
// In the modes that do not sync each batch, the full segment is synced now.
func (l *Log) takeNext(length int64) (*segment, *handle, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.mu.next == nil {
		if err := l.refusalLocked(); err != nil {
			return nil, nil, err
		}
		l.wakePreparer()
		l.mu.toWrite.Wait()
	}
	seg, file := l.mu.next, l.mu.nextFile
	if length > seg.capacity() {
		seg.end = seg.start + record.Position(alignUp(length, pageSize))
	}
	l.mu.active, l.mu.activeFile = seg, file
	l.mu.next, l.mu.nextFile = nil, nil
	if l.mu.want < l.mu.written {
		l.mu.want = l.mu.written
		l.mu.toSync.Signal()
	}
	return seg, file, nil
}

// clearJunk zeroes what a write left behind that a full disk cut short. The blocks are there, so it needs no room.
func (l *Log) clearJunk() error {
	t := &l.tail
	if t.junkFrom == t.junkTo {
		return nil
	}
	if err := writeZeros(t.file, t.junkFrom, t.junkTo); err != nil {
		return err
	}
	t.junkFrom, t.junkTo = 0, 0
	return nil
}

// publish hands a written batch to the next stage.
func (l *Log) publish(f *flight) {
	c := &l.counts
	c.batches.Add(1)
	c.records.Add(int64(len(f.Records)))
	c.bytes.Add(int64(f.End - f.Position))

	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.written, l.mu.lastTime = f.End, f.Timestamp
	l.mu.inFlight++
	if n := len(l.mu.dirty); n == 0 || l.mu.dirty[n-1] != l.tail.file {
		l.tail.file.hold()
		l.mu.dirty = append(l.mu.dirty, l.tail.file)
	}
	if l.opts.Mode == ModeSync {
		l.mu.unsynced = append(l.mu.unsynced, f)
		l.mu.want = f.End
		l.mu.toSync.Signal()
		return
	}
	l.committed.Store(int64(f.End))
	l.mu.ready = append(l.mu.ready, f)
	l.mu.toApply.Signal()
}
