package wire

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// reader cuts a stream into frames that alias its chunk.
type reader struct {
	src    io.Reader
	limit  int
	budget *budget
	cur    *chunk
	r, w   int // cur.b[r:w] was read and not yet cut
	size   int // chunk size that the recent reads call for
	timed  bool
	filled time.Time // when it last read something, if timed
	small  int       // reads in a row that would have fitted a smaller chunk
}

// next returns one frame without its length bytes; cur is the chunk that it aliases. At the end of the stream the error
// is io.EOF, within a frame io.ErrUnexpectedEOF.
func (r *reader) next() ([]byte, error) {
	for {
		have, need := r.w-r.r, 4
		if have >= 4 {
			n := binary.BigEndian.Uint32(r.cur.b[r.r:])
			if n < 4 || int64(n) > int64(r.limit-4) {
				return nil, fmt.Errorf("%w: a length of %d", ErrFrame, n)
			}
			need += int(n)
			if have >= need {
				f := r.cur.b[r.r+4 : r.r+need : r.r+need]
				r.r += need
				return f, nil
			}
		}
		if err := r.room(have, need); err != nil {
			return nil, err
		}
		if err := r.fill(); err != nil {
			if err == io.EOF && have > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

func (r *reader) fill() error {
	free := r.cur.b[r.w:]
	n, err := r.src.Read(free)
	r.w += n
	if r.timed {
		r.filled = time.Now()
	}
	switch {
	case n == len(free):
		r.small = 0
		r.size = min(r.size*chunkStep, chunkRead)
	case n < r.size/(2*chunkStep):
		if r.small++; r.small >= 32 {
			r.small = 0
			r.size = max(r.size/chunkStep, chunkMin)
		}
	default:
		r.small = 0
	}
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// room makes space to read into, for a frame of need bytes of which have are there.
func (r *reader) room(have, need int) error {
	if r.cur == nil {
		return r.move(0, r.size)
	}
	alone := r.cur.refs.Load() == 1
	free := len(r.cur.b) - r.w
	if have == 0 {
		if alone && len(r.cur.b) == r.size {
			r.r, r.w = 0, 0
			return nil
		}
		if !alone && free >= len(r.cur.b)/4 && len(r.cur.b) <= chunkRead {
			return nil
		}
		return r.move(0, r.size)
	}
	if free > 0 && (r.r+need <= len(r.cur.b) || r.r == 0 && len(r.cur.b) >= chunkRead) {
		return nil
	}
	if alone && need <= len(r.cur.b) {
		r.w = copy(r.cur.b, r.cur.b[r.r:r.w])
		r.r = 0
		return nil
	}
	if need <= chunkRead*chunkStep {
		return r.move(have, max(need, r.size))
	}
	return r.move(have, min(need, max(have*chunkStep, chunkRead*chunkStep)))
}

// move goes on in a new chunk of at least size bytes.
func (r *reader) move(have, size int) error {
	c := newChunk(size, r.budget)
	if c == nil {
		return fmt.Errorf("%w: a frame of %d bytes or more", ErrNoMemory, size)
	}
	if r.cur != nil {
		copy(c.b, r.cur.b[r.r:r.w])
		r.cur.release()
	}
	r.cur, r.r, r.w = c, 0, have
	return nil
}

func (r *reader) close() {
	if r.cur != nil {
		r.cur.release()
		r.cur = nil
	}
}
