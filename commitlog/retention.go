package commitlog

import (
	"errors"
	"fmt"
	"io"

	"github.com/cairnmq/cairn/internal/record"
)

// SegmentInfo describes one segment.
type SegmentInfo struct {
	Name       string
	Start, End record.Position
	Bytes      int64 // of the file; less than End-Start while it is being filled
	// Follows is where the batch before its first one ends, in the segment before; 0 when there is none yet.
	Follows record.Position
	// Oldest is the timestamp of its first batch, ms since 1970; 0 when there is none yet.
	Oldest int64
	// Newest is a timestamp, ms since 1970, that no batch in it exceeds: that of the batch which follows the segment, or
	// of the log's last batch.
	Newest int64
	Active bool // being written
}

// Segments describes all segments, in order. The one that is only made ready is not among them.
func (l *Log) Segments() ([]SegmentInfo, error) {
	list := l.segments.all()
	infos := make([]SegmentInfo, len(list))
	l.mu.Lock()
	newest := l.mu.lastTime
	l.mu.Unlock()
	for i := len(list) - 1; i >= 0; i-- {
		seg := list[i]
		h, err := l.segments.acquire(seg)
		if err != nil {
			return nil, err
		}
		stat, err := h.Stat()
		var first header
		if err == nil && l.Committed() > seg.start {
			first, err = seg.firstBatch(h)
		}
		h.release()
		if err != nil {
			return nil, fmt.Errorf("commitlog: look at segment %s: %w", seg.name, err)
		}
		infos[i] = SegmentInfo{
			Name: seg.name, Start: seg.start, End: seg.end, Bytes: stat.Size(),
			Follows: first.previous, Oldest: first.timestamp, Newest: newest, Active: i == len(list)-1,
		}
		if first.timestamp != 0 {
			newest = first.timestamp
		}
	}
	return infos, nil
}

// Active is where the segment begins that is being written. After Start; it costs nothing.
func (l *Log) Active() record.Position {
	list := l.segments.all()
	return list[len(list)-1].start
}

// firstBatch is the header of the segment's first batch, zero when there is none.
func (s *segment) firstBatch(h *handle) (header, error) {
	if first := s.first.Load(); first != nil {
		return *first, nil
	}
	var raw [batchHeader]byte
	if _, err := h.ReadAt(raw[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return header{}, err
	}
	head, wrong := parseHeader(raw[:], s.start, 0, s.capacity())
	if wrong != "" {
		return header{}, nil
	}
	s.first.Store(&head)
	return head, nil
}

// DeleteBefore deletes whole segments whose end is ≤ pos, never the active one; returns how many bytes went. A segment also
// stays until a batch behind it is durable, so that index and time always have something to go on from. Each removal is
// made durable before the next, so that a crash leaves no hole. Reads under way finish; later ones get ErrGone.
func (l *Log) DeleteBefore(pos record.Position) (int64, error) {
	l.deleting.Lock()
	defer l.deleting.Unlock()
	var freed int64
	for {
		list := l.segments.all()
		if len(list) < 2 || list[0].end > pos || l.Durable() <= list[1].start {
			return freed, nil
		}
		seg := list[0]
		path := l.segments.path(seg.name)
		info, err := l.opts.FS.Stat(path)
		if err != nil {
			return freed, fmt.Errorf("commitlog: delete segment %s: %w", seg.name, err)
		}
		if err := l.opts.FS.Remove(path); err != nil {
			return freed, fmt.Errorf("commitlog: delete segment %s: %w", seg.name, err)
		}
		l.segments.drop(seg)
		if err := syncDir(l.opts.FS, l.opts.Dir); err != nil {
			return freed, err
		}
		freed += info.Size()
	}
}
