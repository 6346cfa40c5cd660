package store

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cairnmq/cairn/internal/record"
)

// errMalformed is a broken invariant: rows and records are checked by their checksums before they are decoded.
var errMalformed = errors.New("malformed store bytes")

// runEntries is how many entries one run row holds at most. A reader decodes a run from its start, so the bound keeps a
// read in the middle of a large batch cheap; a row more or less per 128 messages costs the writer nothing to speak of.
const runEntries = 128

// entries are places in a queue, one column each, so that a column can be handed on without copying.
type entries struct {
	positions []int64
	sizes     []int32
	tags      []int64
}

func (e *entries) add(at record.Position, size int32, tag int64) {
	e.positions = append(e.positions, int64(at))
	e.sizes = append(e.sizes, size)
	e.tags = append(e.tags, tag)
}

func (e *entries) len() int { return len(e.positions) }

func (e *entries) slice(from, to int) entries {
	return entries{e.positions[from:to], e.sizes[from:to], e.tags[from:to]}
}

func (e *entries) reset() {
	e.positions, e.sizes, e.tags = e.positions[:0], e.sizes[:0], e.tags[:0]
}

// Forms of run rows.
const (
	runRising = 1 // each entry lies behind the one before in the log
	runMixed  = 2 // not so: messages that waited
)

// appendRun makes the value of a row in SpaceConsumeQueue: neighbours in one queue that came with one batch. The key
// holds the last offset, so the first is last − count + 1. All entries became visible at the time of the batch. uv is an
// unsigned varint; gap is the distance from the end of the entry before, 0 for the first. In form 2 the gap is signed: a zigzag
// varint.
//
//	┌─────────┬───────────┬─────────────┬──────────────┬──── entry × count ──────────────┐
//	│ form 1  │ count uv  │ time ms uv  │ position uv  │ gap uv │ size uv │ tag hash 4 BE │
//	└─────────┴───────────┴─────────────┴──────────────┴─────────────────────────────────┘
func appendRun(dst []byte, timestamp int64, e entries) []byte {
	form := e.form()
	dst = append(dst, form)
	dst = binary.AppendUvarint(dst, uint64(e.len()))
	dst = binary.AppendUvarint(dst, uint64(timestamp))
	dst = binary.AppendUvarint(dst, uint64(e.positions[0]))
	end := e.positions[0]
	for i, pos := range e.positions {
		if form == runRising {
			dst = binary.AppendUvarint(dst, uint64(pos-end))
		} else {
			dst = binary.AppendVarint(dst, pos-end)
		}
		dst = binary.AppendUvarint(dst, uint64(e.sizes[i]))
		dst = binary.BigEndian.AppendUint32(dst, uint32(e.tags[i]))
		end = pos + int64(e.sizes[i])
	}
	return dst
}

func (e *entries) form() byte {
	for i := 1; i < len(e.positions); i++ {
		if e.positions[i] < e.positions[i-1]+int64(e.sizes[i-1]) {
			return runMixed
		}
	}
	return runRising
}

// run reads a run row from its front.
type run struct {
	form      byte
	first     int64 // offset of the first entry
	count     int
	timestamp int64 // ms
	position  int64 // of the first entry
	end       int64 // of the entry read last
	rest      []byte
}

// openRun reads the head of the run whose last entry has offset last.
func openRun(last int64, val []byte) (run, error) {
	if len(val) == 0 || val[0] != runRising && val[0] != runMixed {
		return run{}, fmt.Errorf("run row of %d bytes: %w", len(val), errMalformed)
	}
	rest := val[1:]
	var head [3]uint64
	for i := range head {
		v, n := binary.Uvarint(rest)
		if n <= 0 {
			return run{}, fmt.Errorf("head of run row: %w", errMalformed)
		}
		head[i], rest = v, rest[n:]
	}
	const leastEntry = 6
	if head[0] == 0 || head[0] > uint64(len(rest)/leastEntry) || head[0] > uint64(last)+1 || head[1] > 1<<62 ||
		head[2] > 1<<62 {
		return run{}, fmt.Errorf("run row of %d entries that ends at offset %d: %w", head[0], last, errMalformed)
	}
	return run{
		form: val[0], first: last - int64(head[0]) + 1, count: int(head[0]), timestamp: int64(head[1]), position: int64(head[2]),
		end: int64(head[2]), rest: rest,
	}, nil
}

// next reads the next entry; the caller counts to r.count.
func (r *run) next() (position int64, size int32, tag int64, err error) {
	gap, n := r.gap()
	if n <= 0 || gap > 1<<62 || r.end+gap < 0 {
		return 0, 0, 0, fmt.Errorf("position in run row: %w", errMalformed)
	}
	r.rest = r.rest[n:]
	length, n := binary.Uvarint(r.rest)
	if n <= 0 || length > 1<<31-1 || len(r.rest) < n+4 {
		return 0, 0, 0, fmt.Errorf("entry in run row: %w", errMalformed)
	}
	tag = int64(int32(binary.BigEndian.Uint32(r.rest[n:])))
	r.rest = r.rest[n+4:]
	position = r.end + gap
	r.end = position + int64(length)
	return position, int32(length), tag, nil
}

// gap reads the distance from the end of the entry before.
func (r *run) gap() (gap int64, n int) {
	if r.form == runMixed {
		return binary.Varint(r.rest)
	}
	v, n := binary.Uvarint(r.rest)
	return int64(min(v, 1<<63-1)), n
}

// skip passes over n entries.
func (r *run) skip(n int64) error {
	for range n {
		if _, _, _, err := r.next(); err != nil {
			return err
		}
	}
	return nil
}

// bounds is where a queue begins and ends. hour is the newest hour whose bucket lists the queue. What lies before local is in
// the tier; that is left out of the row of a queue of which nothing is there.
//
//	┌────────┬────────┬─────────┬──────────┐
//	│ min 8  │ max 8  │ hour 4  │ local 8  │
//	└────────┴────────┴─────────┴──────────┘
type bounds struct {
	min, max int64 // first offset that is there, next one to be given
	hour     uint32
	local    int64 // first offset that the index has a row of, at least min
}

func (q bounds) appendTo(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(q.min))
	dst = binary.BigEndian.AppendUint64(dst, uint64(q.max))
	dst = binary.BigEndian.AppendUint32(dst, q.hour)
	if q.local > q.min {
		dst = binary.BigEndian.AppendUint64(dst, uint64(q.local))
	}
	return dst
}

func decodeBounds(val []byte) (bounds, error) {
	if len(val) != 20 && len(val) != 28 {
		return bounds{}, fmt.Errorf("queue row of %d bytes: %w", len(val), errMalformed)
	}
	q := bounds{
		min:  int64(binary.BigEndian.Uint64(val)),
		max:  int64(binary.BigEndian.Uint64(val[8:])),
		hour: binary.BigEndian.Uint32(val[16:]),
	}
	q.local = q.min
	if len(val) == 28 {
		q.local = int64(binary.BigEndian.Uint64(val[20:]))
	}
	if q.min < 0 || q.max < q.local || q.local < q.min || len(val) == 28 && q.local == q.min {
		return bounds{}, fmt.Errorf("queue row from %d by %d to %d: %w", q.min, q.local, q.max, errMalformed)
	}
	return q, nil
}
