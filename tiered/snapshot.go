package tiered

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/cairnmq/cairn/internal/record"
)

// A snapshot object holds rows of the index as of a position of the log. Numbers of the head are little-endian; uv is an unsigned
// varint.
//
//	 0         8           12              16       24       32      40        48               56      60
//	┌─────────┬───────────┬───────────────┬────────┬────────┬───────┬─────────┬────────────────┬───────┬───────────────┐
//	│ magic 8 │ version 4 │ row format 4  │ log 8  │ term 8 │ end 8 │ index 8 │ timestamp ms 8 │ crc 4 │ zstd of rows… │
//	└─────────┴───────────┴───────────────┴────────┴────────┴───────┴─────────┴────────────────┴───────┴───────────────┘
//
// crc is the CRC-32C of the head before it. The zstd frame ends with a checksum of the rows, and the manifest has one of the object.
//
//	┌────────────────┬──────┬──────────────────┬────────┐ × n ┌──────┬───────┐
//	│ key length uv  │ key… │ value length uv  │ value… │     │ 0 uv │ n uv  │
//	└────────────────┴──────┴──────────────────┴────────┘     └──────┴───────┘
const (
	snapshotMagic   = "CAIRNSNP"
	snapshotVersion = 1
	snapshotHead    = 60
	// maxSnapshotRow bounds a row's key and value, each, in bytes.
	maxSnapshotRow = 16 << 20
	// snapshotWindow bounds what compression and decompression hold, in bytes.
	snapshotWindow = 1 << 20
)

// SnapshotHead says what a snapshot is of.
type SnapshotHead struct {
	RowFormat uint32 // of keys and values: kvindex.FormatVersion of who wrote them
	Log, Term uint64 // the log's number, and its term
	// End is the position up to which the rows say what the log says; Index and Timestamp (ms since 1970) are those of the batch that
	// ends there.
	End       record.Position
	Index     uint64
	Timestamp int64
}

func (h *SnapshotHead) appendTo(dst []byte) []byte {
	from := len(dst)
	dst = append(dst, snapshotMagic...)
	dst = le.AppendUint32(dst, snapshotVersion)
	dst = le.AppendUint32(dst, h.RowFormat)
	for _, v := range []uint64{h.Log, h.Term, uint64(h.End), h.Index, uint64(h.Timestamp)} {
		dst = le.AppendUint64(dst, v)
	}
	return le.AppendUint32(dst, crc32.Checksum(dst[from:], castagnoli))
}

// decodeSnapshotHead says what is wrong, or "".
func decodeSnapshotHead(b []byte) (h SnapshotHead, wrong string) {
	switch {
	case len(b) < snapshotHead || string(b[:8]) != snapshotMagic:
		return h, "it is no snapshot"
	case le.Uint32(b[56:]) != crc32.Checksum(b[:56], castagnoli):
		return h, "the head's checksum does not match"
	case le.Uint32(b[8:]) != snapshotVersion:
		return h, fmt.Sprintf("it has format %d, not %d", le.Uint32(b[8:]), snapshotVersion)
	}
	h = SnapshotHead{
		RowFormat: le.Uint32(b[12:]), Log: le.Uint64(b[16:]), Term: le.Uint64(b[24:]), End: record.Position(le.Uint64(b[32:])),
		Index: le.Uint64(b[40:]), Timestamp: int64(le.Uint64(b[48:])),
	}
	if h.RowFormat == 0 || h.Log == 0 || h.End <= 0 || h.Index == 0 || h.Timestamp < 0 {
		return h, "the head is impossible"
	}
	return h, ""
}

// SnapshotWriter makes a snapshot object of rows that are given in any order, best in that of their keys. It holds some MiB.
type SnapshotWriter struct {
	out  *summed
	enc  *zstd.Encoder
	buf  []byte
	rows uint64
	err  error // the first; it stays
}

// NewSnapshotWriter writes to w as rows come. The writer must be closed, also after an error.
func NewSnapshotWriter(w io.Writer, head SnapshotHead) (*SnapshotWriter, error) {
	raw := head.appendTo(nil)
	if _, wrong := decodeSnapshotHead(raw); wrong != "" {
		return nil, fmt.Errorf("tiered: make a snapshot at %d: %s", head.End, wrong)
	}
	out := newSummed(w)
	s := &SnapshotWriter{out: &out}
	var err error
	if s.enc, err = zstd.NewWriter(s.out, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(snapshotWindow)); err != nil {
		return nil, fmt.Errorf("tiered: compress a snapshot: %w", err)
	}
	_, s.err = s.out.Write(raw)
	return s, nil
}

// Add adds a row, which is copied. An error is that of the writer below, or says that the row is too large, and stays.
func (s *SnapshotWriter) Add(key, value []byte) error {
	if len(key) == 0 || len(key) > maxSnapshotRow || len(value) > maxSnapshotRow {
		s.fail(fmt.Errorf("a row of %d and %d bytes", len(key), len(value)))
	}
	if s.err != nil {
		return s.err
	}
	s.buf = append(binary.AppendUvarint(s.buf[:0], uint64(len(key))), key...)
	s.buf = append(binary.AppendUvarint(s.buf, uint64(len(value))), value...)
	_, err := s.enc.Write(s.buf)
	s.fail(err)
	s.rows++
	return s.err
}

func (s *SnapshotWriter) fail(err error) {
	if err != nil && s.err == nil {
		s.err = fmt.Errorf("tiered: write a snapshot: %w", err)
	}
}

// Rows is how many were added.
func (s *SnapshotWriter) Rows() uint64 { return s.rows }

// Close writes what is left. It does not close the writer below.
func (s *SnapshotWriter) Close() (Sum, error) {
	_, err := s.enc.Write(binary.AppendUvarint([]byte{0}, s.rows))
	s.fail(errors.Join(err, s.enc.Close()))
	sum, err := s.out.sum(), s.err
	s.fail(errors.New("it is closed"))
	return sum, err
}

// SnapshotReader walks over the rows of a snapshot object. It is used by one goroutine, and closed by its owner.
type SnapshotReader struct {
	Head SnapshotHead

	name       string
	dec        *zstd.Decoder
	in         *bufio.Reader
	key, value bytes.Buffer
	rows       uint64
	ended      bool
	err        error
}

// ReadSnapshot reads the head of the object. Errors: *DamageError, those of r.
func ReadSnapshot(name string, r io.Reader) (*SnapshotReader, error) {
	r = source{r}
	var raw [snapshotHead]byte
	n, err := io.ReadFull(r, raw[:])
	var below *sourceError
	if errors.As(err, &below) {
		return nil, below.cause
	}
	s := &SnapshotReader{name: name}
	var wrong string
	if s.Head, wrong = decodeSnapshotHead(raw[:n]); wrong != "" {
		return nil, &DamageError{Object: name, Reason: wrong}
	}
	s.dec, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return nil, fmt.Errorf("tiered: decompress %s: %w", name, err)
	}
	s.in = bufio.NewReaderSize(s.dec, 64<<10)
	return s, nil
}

// Next goes to the next row; false at the end and after an error, which Close returns. Only who came to the end knows that the rows are
// what was written.
func (s *SnapshotReader) Next() bool {
	if s.err != nil || s.ended {
		return false
	}
	more, err := s.next()
	var below *sourceError
	switch {
	case errors.As(err, &below):
		s.err = below.cause
	case err != nil:
		s.err = &DamageError{Object: s.name, Offset: snapshotHead, Reason: fmt.Sprintf("behind row %d it cannot be read", s.rows), Cause: err}
	}
	return more && s.err == nil
}

// source marks what goes wrong below the decoder, which is none of the object's faults.
type source struct{ io.Reader }

func (s source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &sourceError{err}
	}
	return n, err
}

type sourceError struct{ cause error }

func (e *sourceError) Error() string { return e.cause.Error() }
func (e *sourceError) Unwrap() error { return e.cause }

func (s *SnapshotReader) next() (more bool, err error) {
	n, err := s.length()
	if err != nil {
		return false, err
	}
	if n == 0 {
		return false, s.end()
	}
	if err := s.fill(&s.key, n); err != nil {
		return false, err
	}
	if n, err = s.length(); err != nil {
		return false, err
	}
	s.rows++
	return true, s.fill(&s.value, n)
}

func (s *SnapshotReader) length() (int64, error) {
	n, err := binary.ReadUvarint(s.in)
	if err == nil && n > maxSnapshotRow {
		err = fmt.Errorf("a row of %d bytes", n)
	}
	return int64(n), err
}

// fill reads n bytes, of which it does not believe that they are there.
func (s *SnapshotReader) fill(dst *bytes.Buffer, n int64) error {
	dst.Reset()
	_, err := io.CopyN(dst, s.in, n)
	return err
}

// end checks what stands behind the rows, and that nothing stands behind that.
func (s *SnapshotReader) end() error {
	n, err := binary.ReadUvarint(s.in)
	if err != nil {
		return err
	}
	if n != s.rows {
		return fmt.Errorf("%d rows are %d", n, s.rows)
	}
	if _, err := s.in.ReadByte(); !errors.Is(err, io.EOF) {
		return errors.Join(err, errors.New("bytes behind the last row"))
	}
	s.ended = true
	return nil
}

// Row is valid until the next call of Next.
func (s *SnapshotReader) Row() (key, value []byte) { return s.key.Bytes(), s.value.Bytes() }

// Close ends it and returns the error that ended the walk: *DamageError, those of the reader below. A second Close does nothing.
func (s *SnapshotReader) Close() error {
	if s.dec != nil {
		s.dec.Close()
		s.dec = nil
	}
	err := s.err
	s.err, s.ended = nil, true
	return err
}
