package commitlog

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/cairnmq/cairn/internal/record"
)

// Format 1. All numbers are little-endian. A segment holds batches of one format only, so that the batch at its start
// tells how the records in it look.
const (
	batchMagic  = uint32('C') | uint32('L')<<8 | uint32('B')<<16 | 1<<24 // "CLB" and the format's number
	batchAlign  = 8
	batchHeader = 72
	recordHead  = 9
	maxBatch    = (batchHeader + MaxProposal + batchAlign - 1) / batchAlign * batchAlign
)

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	magicBytes = le.AppendUint32(nil, batchMagic)
)

// header begins each batch. Batches begin at multiples of 8.
//
//	 0         4         8          12        16              24
//	┌─────────┬─────────┬──────────┬─────────┬───────────────┬────────┐
//	│ magic 4 │ crc 4   │ length 4 │ count 4 │ log 8         │ term 8 │
//	├─────────┴─────────┼──────────┴─────────┼───────────────┼────────┴───┬───────────┐
//	│ index 8           │ timestamp 8        │ position 8    │ previous 8 │ durable 8 │
//	├───────────────────┴───────┬────────────┴──────┬───────────┴────┬────┴───────────┤
//	│ record                    │ record            │ …              │ zeros to 8     │
//	└───────────────────────────┴───────────────────┴────────────────┴────────────────┘
//	32                 40                   48              56           64          72
//
// crc is the CRC-32C of everything after it up to the batch's end; length is that of the whole batch, padding included;
// count is the number of records.
type header struct {
	length int64
	count  int
	// log is a random number that all batches of a log share. So neither a payload nor a file from elsewhere can pass
	// for a batch of this log.
	log       uint64
	term      uint64
	index     uint64
	timestamp int64           // ms since 1970
	position  record.Position // of this header
	previous  record.Position // the end of the batch before
	durable   record.Position // what was known to be durable when this batch was written: at most previous
}

func (h *header) end() record.Position { return h.position + record.Position(h.length) }

// batchLength is the length of a batch whose encoded records take n bytes.
func batchLength(n int) int64 {
	return (int64(batchHeader+n) + batchAlign - 1) / batchAlign * batchAlign
}

// sealBatch fills in the header at the front of raw, a whole batch whose records are in place.
func sealBatch(raw []byte, h *header) {
	le.PutUint32(raw[0:], batchMagic)
	le.PutUint32(raw[8:], uint32(len(raw)))
	le.PutUint32(raw[12:], uint32(h.count))
	le.PutUint64(raw[16:], h.log)
	le.PutUint64(raw[24:], h.term)
	le.PutUint64(raw[32:], h.index)
	le.PutUint64(raw[40:], uint64(h.timestamp))
	le.PutUint64(raw[48:], uint64(h.position))
	le.PutUint64(raw[56:], uint64(h.previous))
	le.PutUint64(raw[64:], uint64(h.durable))
	le.PutUint32(raw[4:], crc32.Checksum(raw[8:], castagnoli))
}

// parseHeader reads the header of the batch at pos, of which room bytes can be there. log 0 stands for any. It returns
// what is wrong with it, or "".
func parseHeader(raw []byte, pos record.Position, log uint64, room int64) (h header, wrong string) {
	if len(raw) < batchHeader {
		return h, "no room for a batch"
	}
	if le.Uint32(raw) != batchMagic {
		return h, "no batch begins here"
	}
	h = header{
		length:    int64(le.Uint32(raw[8:])),
		count:     int(le.Uint32(raw[12:])),
		log:       le.Uint64(raw[16:]),
		term:      le.Uint64(raw[24:]),
		index:     le.Uint64(raw[32:]),
		timestamp: int64(le.Uint64(raw[40:])),
		position:  record.Position(le.Uint64(raw[48:])),
		previous:  record.Position(le.Uint64(raw[56:])),
		durable:   record.Position(le.Uint64(raw[64:])),
	}
	switch {
	case h.position != pos:
		return h, "the batch says it is elsewhere"
	case log != 0 && h.log != log:
		return h, "the batch is another log's"
	case h.length < batchHeader || h.length%batchAlign != 0 || h.length > maxBatch || h.length > room:
		return h, "impossible batch length"
	case int64(h.count) > (h.length-batchHeader)/recordHead:
		return h, "impossible record count"
	case h.previous < 0 || h.previous > pos || h.durable < 0 || h.durable > h.previous || h.log == 0 || h.index == 0:
		return h, "impossible batch header"
	}
	return h, ""
}

// batchSum checks raw, a whole batch, against its CRC.
func batchSum(raw []byte) bool { return le.Uint32(raw[4:]) == crc32.Checksum(raw[8:], castagnoli) }

// splitBatch appends the records of raw, a whole batch at pos whose CRC is right, and their positions. The payloads are
// slices of raw. It returns what is wrong, or "".
func splitBatch(raw []byte, pos record.Position, count int, recs []record.Record, at []record.Position) ([]record.Record, []record.Position, string) {
	off := batchHeader
	for range count {
		n, ok := recordLength(raw[off:])
		if !ok {
			return recs, at, "a record reaches beyond its batch"
		}
		recs = append(recs, record.Record{Kind: record.Kind(raw[off+8]), Payload: raw[off+recordHead : off+n : off+n]})
		at = append(at, pos+record.Position(off))
		off += n
	}
	if len(raw)-off >= batchAlign {
		return recs, at, "bytes after the last record"
	}
	return recs, at, ""
}

// RecordSize is the encoded size of a record with a payload of n bytes.
//
//	 0       4          8        9
//	┌───────┬──────────┬────────┬──────────┐
//	│ crc 4 │ length 4 │ kind 1 │ payload… │
//	└───────┴──────────┴────────┴──────────┘
//
// crc is the CRC-32C of everything after it; length is the payload's. Records follow each other without gaps.
func RecordSize(n int) int { return recordHead + n }

// putRecord encodes r at the front of dst, which has room for it, and returns its size.
func putRecord(dst []byte, r *record.Record) int {
	n := recordHead + len(r.Payload)
	dst = dst[:n]
	le.PutUint32(dst[4:], uint32(len(r.Payload)))
	dst[8] = byte(r.Kind)
	copy(dst[recordHead:], r.Payload)
	le.PutUint32(dst, crc32.Checksum(dst[4:], castagnoli))
	return n
}

// recordLength is the size of the record at the front of raw, header included; ok is false when raw ends before it.
func recordLength(raw []byte) (n int, ok bool) {
	if len(raw) < recordHead {
		return 0, false
	}
	payload := int64(le.Uint32(raw[4:]))
	return int(recordHead + payload), recordHead+payload <= int64(len(raw))
}

// parseRecord is ParseRecord with the reason as a string.
func parseRecord(raw []byte) (r record.Record, n int, wrong string) {
	n, ok := recordLength(raw)
	if !ok {
		return r, 0, "the record is cut short"
	}
	if le.Uint32(raw) != crc32.Checksum(raw[4:n], castagnoli) {
		return r, 0, "the record's checksum does not match"
	}
	return record.Record{Kind: record.Kind(raw[8]), Payload: raw[recordHead:n:n]}, n, ""
}
