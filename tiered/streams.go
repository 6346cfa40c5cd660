package tiered

import (
	"sync"

	"github.com/cairnmq/cairn/internal/record"
)

// Who reads the log in order gets its blocks fetched ahead: as much as was read in order already, from leastAhead to mostAhead.
const (
	leastAhead  = 2 * BlockSize
	mostAhead   = 8 << 20
	mostStreams = 64 // readers in order that are told apart
)

// streams notices who reads the log in order. A reader is known by where it stopped: who goes on from there, or a little behind,
// is the same one.
type streams struct {
	most int64 // bytes
	mu   struct {
		sync.Mutex
		list []stream // the one that read last is the last
	}
}

type stream struct {
	end    record.Position // of the read before
	window int64           // how far ahead to fetch, in bytes
	asked  record.Position // up to where it was done
}

func newStreams(most int64) *streams { return &streams{most: most} }

// read notes a read of [pos, end) and returns the range to fetch ahead, empty when there is none.
func (s *streams) read(pos, end record.Position) (from, to record.Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.findLocked(pos)
	if i < 0 {
		if len(s.mu.list) == mostStreams {
			s.mu.list = append(s.mu.list[:0], s.mu.list[1:]...)
		}
		s.mu.list = append(s.mu.list, stream{end: end})
		return 0, 0
	}
	st := s.mu.list[i]
	s.mu.list = append(append(s.mu.list[:i:i], s.mu.list[i+1:]...), stream{})
	last := &s.mu.list[len(s.mu.list)-1]
	defer func() { *last = st }()
	crossed := end/BlockSize != st.end/BlockSize
	st.end = max(st.end, end)
	if !crossed {
		return 0, 0
	}
	st.window = min(max(2*st.window, leastAhead), s.most)
	// Half the window is used up before the next request, so that requests are large.
	if st.asked > st.end+record.Position(st.window/2) || st.window < BlockSize {
		return 0, 0
	}
	from, to = max(st.asked, st.end), st.end+record.Position(st.window)
	st.asked = to
	return from, to
}

// findLocked finds who stopped at pos, about; −1 when nobody did.
func (s *streams) findLocked(pos record.Position) int {
	for i := len(s.mu.list) - 1; i >= 0; i-- {
		st := &s.mu.list[i]
		if gap := int64(pos - st.end); -BlockSize < gap && gap <= max(BlockSize, st.window/4) {
			return i
		}
	}
	return -1
}
