package commitlog

import (
	"bufio"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/cairnmq/cairn/internal/record"
)

// Edit copies the batches of the log from start to end, both batch boundaries, from r to w. It hands each to edit, which may write over
// payloads (their lengths and kinds stay) and says whether it has; then the checksums are made to fit again. So what it writes is a
// log as it reads one, with every batch and record at its place. The batch is Edit's again when edit returns. Errors: *CorruptError for
// bytes that are no batch, with a position and without a segment; those of r, w and edit.
func Edit(r io.Reader, w io.Writer, start, end record.Position, edit func(b *Batch) (changed bool, err error)) error {
	in := bufio.NewReaderSize(r, scanChunk)
	var raw []byte
	var b Batch
	for at := start; at < end; at = b.End {
		h, err := readBatch(in, at, int64(end-at), &raw)
		if err != nil {
			return err
		}
		var wrong string
		b.Position, b.End, b.Term, b.Index, b.Timestamp = h.position, h.end(), h.term, h.index, h.timestamp
		if b.Records, b.Positions, wrong = splitBatch(raw, at, h.count, b.Records[:0], b.Positions[:0]); wrong != "" {
			return &CorruptError{Position: at, Reason: wrong}
		}
		for _, pos := range b.Positions {
			if _, _, wrong := parseRecord(raw[pos-at:]); wrong != "" {
				return &CorruptError{Position: pos, Reason: wrong}
			}
		}
		changed, err := edit(&b)
		if err != nil {
			return err
		}
		if changed {
			sumAnew(raw, &b, &h)
		}
		if _, err := w.Write(raw); err != nil {
			return err
		}
	}
	return nil
}

// readBatch reads the batch at a position, of which room bytes can be there, into raw.
func readBatch(in *bufio.Reader, at record.Position, room int64, raw *[]byte) (header, error) {
	head, err := in.Peek(batchHeader)
	if err != nil && err != io.EOF {
		return header{}, err
	}
	h, wrong := parseHeader(head, at, 0, room)
	if wrong != "" {
		return h, &CorruptError{Position: at, Reason: wrong}
	}
	*raw = slices.Grow((*raw)[:0], int(h.length))[:h.length]
	if _, err := io.ReadFull(in, *raw); err != nil {
		return h, fmt.Errorf("commitlog: read the batch at %d: %w", at, err)
	}
	if !batchSum(*raw) {
		return h, &CorruptError{Position: at, Reason: "the batch's checksum does not match"}
	}
	return h, nil
}

// sumAnew makes the checksums of a batch and its records anew.
func sumAnew(raw []byte, b *Batch, h *header) {
	for i, pos := range b.Positions {
		rec := raw[pos-b.Position:][:RecordSize(len(b.Records[i].Payload))]
		le.PutUint32(rec, crc32.Checksum(rec[4:], castagnoli))
	}
	sealBatch(raw, h)
}
