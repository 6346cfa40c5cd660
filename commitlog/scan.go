package commitlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/cairnmq/cairn/internal/record"
)

// Scan calls fn for each whole batch of the log in dir from position from on, which is a batch boundary or anything up to
// the log's start for all of it. It never writes, so it may be used on a damaged log, and on one that is in use (which then
// may seem to have a torn tail). A torn tail ends it without error. The batch is the scan's again when fn returns.
// Errors: *CorruptError, ErrViewAhead, fn's own.
func Scan(fsys vfs.FS, dir string, from record.Position, fn func(*Batch) error) error {
	_, err := Inspect(fsys, dir, from, fn)
	return err
}

// Inspect is Scan, and tells what it found. Each record's own checksum is looked at too.
func Inspect(fsys vfs.FS, dir string, from record.Position, fn func(*Batch) error) (Recovery, error) {
	spans, err := listSpans(fsys, dir)
	if err != nil {
		return Recovery{}, err
	}
	if len(spans) > 0 {
		from = max(from, spans[0].start)
	}
	s := newScanner(fsys, dir, spans)
	defer s.close()
	end, err := s.run(from, func(b *Batch, raw []byte) error {
		for _, pos := range b.Positions {
			if _, _, wrong := parseRecord(raw[pos-b.Position:]); wrong != "" {
				return s.corrupt(pos, wrong)
			}
		}
		return fn(b)
	})
	return s.found(end), err
}

// ending is where a log ends.
type ending struct {
	pos  record.Position // the end of the last whole batch: the next one follows it
	last header          // that batch; index 0 when there is none
	junk int64           // bytes behind pos that are not zero, counted up to the last of them: a torn tail
}

// scanner reads a log's files from front to back. It never writes.
type scanner struct {
	fs    vfs.FS
	dir   string
	spans []span
	log   uint64 // the log's number; 0 until a batch told it
	stats Recovery

	// The piece of a file that is in memory.
	file   vfs.File
	opened int // index of the span, -1 for none
	off    int64
	buf    []byte
}

// scanChunk is how much is read at a time, unless a batch is larger.
const scanChunk = 1 << 20

func newScanner(fsys vfs.FS, dir string, spans []span) *scanner {
	return &scanner{fs: fsys, dir: dir, spans: spans, opened: -1}
}

func (s *scanner) close() {
	if s.file != nil {
		_ = s.file.Close()
		s.file, s.opened = nil, -1
	}
}

func (s *scanner) found(end ending) Recovery {
	r := s.stats
	r.Cut, r.End, r.Index = end.junk, end.pos, end.last.index
	return r
}

// corrupt makes the error for damage at pos.
func (s *scanner) corrupt(pos record.Position, reason string) error {
	e := &CorruptError{Position: pos, Reason: reason}
	if i := s.spanAt(pos); i >= 0 {
		e.Segment = s.spans[i].name
	}
	return e
}

// spanAt is the index of the last span that starts at or before pos, -1 when there is none.
func (s *scanner) spanAt(pos record.Position) int {
	i := len(s.spans) - 1
	for i >= 0 && s.spans[i].start > pos {
		i--
	}
	return i
}

// at returns up to n bytes of span i from off on: fewer where the file or the span ends. They are valid until the next call.
func (s *scanner) at(i int, off, n int64) ([]byte, error) {
	sp := &s.spans[i]
	n = min(n, min(sp.size, int64(sp.end-sp.start))-off)
	if n <= 0 {
		return nil, nil
	}
	if s.opened != i {
		s.close()
		f, err := s.fs.Open(s.fs.PathJoin(s.dir, sp.name), vfs.SequentialReadsOption)
		if err != nil {
			return nil, fmt.Errorf("commitlog: open segment %s: %w", sp.name, err)
		}
		s.file, s.opened, s.buf = f, i, s.buf[:0]
	}
	if off < s.off || off+n > s.off+int64(len(s.buf)) {
		want := min(max(n, scanChunk), sp.size-off)
		if int64(cap(s.buf)) < want {
			s.buf = make([]byte, want)
		}
		s.buf = s.buf[:want]
		got, err := s.file.ReadAt(s.buf, off)
		s.off, s.buf = off, s.buf[:got]
		if err != nil && !errors.Is(err, io.EOF) {
			s.buf = s.buf[:0]
			return nil, fmt.Errorf("commitlog: read segment %s at %d: %w", sp.name, off, err)
		}
		n = min(n, int64(got))
	}
	return s.buf[off-s.off:][:n], nil
}

// batch returns the batch at pos in span i, checked. Otherwise it says what is wrong.
func (s *scanner) batch(i int, pos record.Position) (h header, raw []byte, wrong string, err error) {
	sp := &s.spans[i]
	off := int64(pos - sp.start)
	raw, err = s.at(i, off, batchHeader)
	if err != nil {
		return h, nil, "", err
	}
	h, wrong = parseHeader(raw, pos, s.log, min(sp.size, int64(sp.end-sp.start))-off)
	if wrong != "" {
		return h, nil, wrong, nil
	}
	raw, err = s.at(i, off, h.length)
	if err != nil {
		return h, nil, "", err
	}
	if int64(len(raw)) < h.length || !batchSum(raw) {
		return h, nil, "the batch's checksum does not match", nil
	}
	s.log = h.log
	return h, raw, "", nil
}

// learnLog finds the log's number in the first batch of the first segment that begins with one.
func (s *scanner) learnLog() error {
	for i := range s.spans {
		if _, _, wrong, err := s.batch(i, s.spans[i].start); err != nil || wrong == "" {
			return err
		}
	}
	return nil
}

// next returns the batch that follows the one that ended at pos: right there, or at the start of a later segment when
// there was no room for it. That it follows is what it says itself; only the log's first batch needs no forerunner.
func (s *scanner) next(pos record.Position) (h header, raw []byte, wrong string, err error) {
	i := s.spanAt(pos)
	if i < 0 {
		return h, nil, "the log has no segment here", nil
	}
	h, raw, wrong, err = s.batch(i, pos)
	if err != nil {
		return h, nil, "", err
	}
	if wrong == "" {
		if h.previous == pos || pos == s.spans[0].start {
			return h, raw, "", nil
		}
		wrong = "the batch does not follow the one before it"
	}
	for j := i + 1; j < len(s.spans); j++ {
		h, raw, bad, err := s.batch(j, s.spans[j].start)
		if err != nil {
			return h, nil, "", err
		}
		if bad == "" && h.previous == pos {
			return h, raw, "", nil
		}
	}
	return h, nil, wrong, nil
}

// run calls fn for each batch from from on and says where the log ends.
func (s *scanner) run(from record.Position, fn func(b *Batch, raw []byte) error) (ending, error) {
	end := ending{pos: from}
	if len(s.spans) == 0 {
		if from != 0 {
			return end, fmt.Errorf("%w: it is at %d, and there is no segment", ErrViewAhead, from)
		}
		return end, nil
	}
	if from < s.spans[0].start {
		return end, fmt.Errorf("%w: the log begins at %d, not at %d", ErrGone, s.spans[0].start, from)
	}
	if from%batchAlign != 0 {
		return end, fmt.Errorf("%w: no batch ends at %d", ErrViewAhead, from)
	}
	if err := s.learnLog(); err != nil {
		return end, err
	}
	var b Batch
	for {
		h, raw, wrong, err := s.next(end.pos)
		if err != nil {
			return end, err
		}
		if wrong != "" {
			return s.ended(from, end, wrong)
		}
		if err := s.deliver(&b, &h, raw, &end, fn); err != nil {
			return end, err
		}
	}
}

// deliver checks that h may follow end.last, hands it to fn and moves end behind it.
func (s *scanner) deliver(b *Batch, h *header, raw []byte, end *ending, fn func(b *Batch, raw []byte) error) error {
	if last := &end.last; last.index != 0 {
		switch {
		case h.index != last.index+1:
			return s.corrupt(h.position, fmt.Sprintf("batch %d follows batch %d", h.index, last.index))
		case h.timestamp < last.timestamp || h.term < last.term:
			return s.corrupt(h.position, "time or term of the batch is before that of the one before it")
		}
	}
	var wrong string
	b.Position, b.End, b.Term, b.Index, b.Timestamp = h.position, h.end(), h.term, h.index, h.timestamp
	b.Records, b.Positions, wrong = splitBatch(raw, h.position, h.count, b.Records[:0], b.Positions[:0])
	if wrong != "" {
		return s.corrupt(h.position, wrong)
	}
	if err := fn(b, raw); err != nil {
		return err
	}
	s.stats.Batches++
	s.stats.Records += int64(h.count)
	s.stats.Bytes += h.length
	end.pos, end.last = h.end(), *h
	return nil
}

// ended judges a log in which no batch follows end.pos: it is whole, has a torn tail, is damaged, or never reached from.
func (s *scanner) ended(from record.Position, end ending, wrong string) (ending, error) {
	rest, err := s.survey(end.pos)
	if err != nil {
		return end, err
	}
	if rest.known {
		return end, s.damageAfter(end.pos, rest, wrong)
	}
	end.junk = rest.junk
	if end.last.index != 0 {
		return end, nil // at least one batch was read, so end.pos is where it ended
	}
	if first := s.spans[0].start; from == first {
		if first != 0 {
			return end, s.corrupt(first, wrong+", and everything before it is deleted")
		}
		return end, nil
	}
	last, ok, err := s.endingAt(from)
	if err != nil {
		return end, err
	}
	if !ok {
		return end, fmt.Errorf("%w: no batch ends at %d", ErrViewAhead, from)
	}
	end.last = last
	return end, nil
}

// damageAfter makes the error for a missing batch that followed the one which ended at pos: it was there, or at the start of
// the next segment that holds anything, unless that has a whole batch.
func (s *scanner) damageAfter(pos record.Position, rest survey, wrong string) error {
	const known = ", but a later batch knew what was here to be durable"
	if i := rest.first; i > s.spanAt(pos) {
		_, _, bad, err := s.batch(i, s.spans[i].start)
		if err != nil {
			return err
		}
		if bad != "" {
			return s.corrupt(s.spans[i].start, bad+known)
		}
	}
	return s.corrupt(pos, wrong+known)
}

// survey is what lies behind the end of a log.
type survey struct {
	junk  int64 // bytes up to the last one that is not zero
	first int   // index of the span with the first byte that is not zero, -1 for none
	known bool  // there is a whole batch that knew more to be durable than the log has; junk is not counted then
}

// survey looks at everything from pos on, where no batch is.
func (s *scanner) survey(pos record.Position) (survey, error) {
	rest := survey{first: -1}
	for i := s.spanAt(pos); i < len(s.spans); i++ {
		from := max(0, int64(pos-s.spans[i].start))
		last := from
		for off := from; ; off += scanChunk {
			chunk, err := s.at(i, off, scanChunk)
			if err != nil {
				return rest, err
			}
			if len(chunk) == 0 {
				break
			}
			n := lengthWithoutZeros(chunk)
			if n == 0 {
				continue
			}
			if last = off + int64(n); rest.first < 0 {
				rest.first = i
			}
			if rest.known, err = s.knows(i, off, chunk[:n], pos); err != nil || rest.known {
				return rest, err
			}
		}
		rest.junk += last - from
	}
	return rest, nil
}

// knows looks in chunk, bytes of span i from off on, for a whole batch that knew more than pos to be durable.
func (s *scanner) knows(i int, off int64, chunk []byte, pos record.Position) (bool, error) {
	for _, b := range headersIn(chunk, off) {
		h, _, wrong, err := s.batch(i, s.spans[i].start+record.Position(b))
		if err != nil {
			return false, err
		}
		if wrong == "" && h.durable > pos {
			return true, nil
		}
	}
	return false, nil
}

// headersIn lists the offsets in a file at which a batch may begin, given the file's bytes from off on.
func headersIn(chunk []byte, off int64) (begins []int64) {
	for k := 0; ; k++ {
		n := bytes.Index(chunk[k:], magicBytes)
		if n < 0 {
			return begins
		}
		if k += n; k%batchAlign == 0 {
			begins = append(begins, off+int64(k))
		}
	}
}

// endingAt finds the batch that ends at pos, looking backwards from there.
func (s *scanner) endingAt(pos record.Position) (h header, ok bool, err error) {
	i := s.spanAt(pos - 1)
	if i < 0 || pos > s.spans[i].end || pos%batchAlign != 0 {
		return h, false, nil
	}
	start := s.spans[i].start
	lowest := max(0, int64(pos-start)-maxBatch)
	for hi := int64(pos - start); hi > lowest; {
		lo := max(lowest, hi-scanChunk)
		chunk, err := s.at(i, lo, hi-lo)
		if err != nil {
			return h, false, err
		}
		for _, b := range slices.Backward(headersIn(chunk, lo)) {
			h, _, wrong, err := s.batch(i, start+record.Position(b))
			if err != nil {
				return h, false, err
			}
			if wrong == "" && h.end() == pos {
				return h, true, nil
			}
		}
		hi = lo
	}
	return h, false, nil
}

// lengthWithoutZeros is the length of b without the zeros at its end.
func lengthWithoutZeros(b []byte) int {
	n := len(b)
	for n > 0 {
		k := min(n, len(zeros))
		if bytes.Equal(b[n-k:n], zeros[:k]) {
			n -= k
			continue
		}
		for b[n-1] == 0 {
			n--
		}
		return n
	}
	return 0
}
