package store

import (
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/record"
)

// Lag is what is sealed and not in the tier yet.
type Lag struct {
	Segments int
	Bytes    int64
	Sealed   int64 // ms since 1970: when the oldest of them was sealed; 0 when there is none
}

// UploadLag is how far Upload is behind. Before the tier's manifest was read all that is sealed and was never offloaded counts.
func (s *Store) UploadLag() (Lag, error) {
	segments, err := s.log.Segments()
	if err != nil {
		return Lag{}, err
	}
	done, err := s.offloaded()
	if err != nil {
		return Lag{}, err
	}
	from := done.end
	if b, some := s.opts.Tier.Bounds(); some {
		from = max(from, b.End)
	}
	return lagBehind(segments, from), nil
}

// lagBehind is that of the sealed segments from a position on.
func lagBehind(segments []commitlog.SegmentInfo, from record.Position) (lag Lag) {
	for i := range segments {
		seg := &segments[i]
		if seg.Start < from || seg.Active {
			continue
		}
		if lag.Segments == 0 {
			lag.Sealed = segments[i+1].Oldest
		}
		lag.Segments++
		lag.Bytes += int64(seg.End - seg.Start)
	}
	return lag
}
