package commitlog

import (
	"fmt"
	"io"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
)

// zeros is what room ahead of the tail is filled with. A write this long holds up one of the writer's for some 50 µs.
var zeros [128 << 10]byte

// writeZeros zeroes the bytes from..to of a file.
func writeZeros(f io.WriterAt, from, to int64) error {
	for from < to {
		n, err := f.WriteAt(zeros[:min(int64(len(zeros)), to-from)], from)
		if err != nil {
			return fmt.Errorf("zero-fill: %w", err)
		}
		from += int64(n)
	}
	return nil
}

func (l *Log) wakePreparer() {
	select {
	case l.prepare <- struct{}{}:
	default:
	}
}

// prepareLoop is the preparer: it keeps room ready ahead of the tail, so that a batch neither waits for a file to be made
// nor makes its sync pay for growing one (an fdatasync that need not change metadata takes half the CPU and two thirds of
// the time). In the modes without a sync for each batch, only the next segment is made. As the one who looks for room it
// also notices when a full disk has some again.
func (l *Log) prepareLoop() {
	var probe clock.Timer
	for {
		var due <-chan time.Time
		if l.prepareAll() {
			probe = l.opts.Clock.NewTimer(probeEvery)
			due = probe.C()
		}
		select {
		case <-l.writerGone:
		case <-l.prepare:
		case <-due:
		}
		if probe != nil {
			probe.Stop()
		}
		select {
		case <-l.writerGone:
			return
		default:
		}
	}
}

// prepareAll makes all the room that is wanted. It is true when the disk is full.
func (l *Log) prepareAll() (full bool) {
	for {
		l.mu.Lock()
		stopped, full := l.mu.failure != nil || l.mu.writerExited, l.mu.full
		l.mu.Unlock()
		if stopped {
			return false
		}
		did, err := l.prepareStep(full)
		switch {
		case err != nil && diskFull(err):
			l.setFull(true, err)
			return true
		case err != nil:
			l.fail("make room", err)
			return false
		case did == madeSegment: // an empty file proves no room
		case full:
			l.setFull(false, nil)
		case did == nothing:
			return false
		}
	}
}

// step is what prepareStep did.
type step uint8

const (
	nothing step = iota
	madeSegment
	filledSlice
)

// prepareStep makes the next segment when there is none, else it fills a slice when the lead is short or when it must
// prove that there is room.
func (l *Log) prepareStep(must bool) (did step, err error) {
	l.mu.Lock()
	active, next := l.mu.active, l.mu.next
	if next == nil {
		l.mu.Unlock()
		return madeSegment, l.makeNext(active.end)
	}
	seg, file := active, l.mu.activeFile
	if seg.filled >= seg.capacity() {
		seg, file = next, l.mu.nextFile
	}
	short := l.opts.Mode == ModeSync && l.aheadLocked(l.mu.written) < l.opts.lead()
	if seg.filled >= seg.capacity() || !short && !must {
		l.mu.Unlock()
		return nothing, nil
	}
	from := seg.filled
	to := min(from+l.opts.slice(), seg.capacity())
	seg.filling = true
	file.hold()
	l.mu.Unlock()
	defer file.release()

	err = writeZeros(file, from, to)
	l.mu.Lock()
	seg.filling = false
	if err == nil {
		seg.filled = to
	}
	l.mu.toWrite.Signal()
	l.mu.Unlock()
	if err != nil {
		return filledSlice, err
	}
	if err := file.SyncData(); err != nil {
		// The kernel reports a lost page to one sync only, and it may have been a batch's.
		l.fail("sync zero-filled room", err)
	}
	return filledSlice, nil
}

// aheadLocked says how many bytes beyond pos, a place in the active segment, are filled.
func (l *Log) aheadLocked(pos record.Position) int64 {
	seg := l.mu.active
	ahead := seg.filled - max(0, int64(pos-seg.start))
	if seg.filled >= seg.capacity() && l.mu.next != nil {
		ahead += l.mu.next.filled
	}
	return ahead
}

func (l *Log) makeNext(start record.Position) error {
	seg, file, err := l.makeSegment(start)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.next, l.mu.nextFile = seg, file
	l.mu.toWrite.Signal()
	return nil
}

// makeSegment makes an empty segment file, durably.
func (l *Log) makeSegment(start record.Position) (*segment, *handle, error) {
	seg := &segment{start: start, name: segmentName(start), end: start + record.Position(l.opts.SegmentSize)}
	f, err := l.opts.FS.OpenReadWrite(l.segments.path(seg.name), vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, nil, fmt.Errorf("commitlog: make segment %s: %w", seg.name, err)
	}
	info, err := f.Stat()
	if err == nil && info.Size() != 0 {
		err = fmt.Errorf("it is there already, with %d bytes", info.Size())
	}
	if err == nil {
		err = syncDir(l.opts.FS, l.opts.Dir)
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, fmt.Errorf("commitlog: make segment %s: %w", seg.name, err)
	}
	return seg, newHandle(f), nil
}
