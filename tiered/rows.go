package tiered

import (
	"encoding/binary"

	"github.com/cairnmq/cairn/internal/codec"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// The rows of a table object. Keys are big-endian, so that byte order is numeric order; uv is an unsigned varint.
//
// familyKey: a message that has a key or unique id.
//
//	┌─────┬──────────┬─────────┬─────────┬────────────┬─────────────┐     ┌────────────────┐
//	│ 'K' │ topic 8  │ kind 1  │ hash 8  │ time ms 8  │ position 8  │ ──▶ │ record size uv │
//	└─────┴──────────┴─────────┴─────────┴────────────┴─────────────┘     └────────────────┘
//
// familyRun: a run of entries of a queue, as the index has it (package store draws the value).
//
//	┌─────┬──────────┬──────────┬────────────────┐     ┌─────┐
//	│ 'Q' │ topic 8  │ queue 4  │ last offset 8  │ ──▶ │ run │
//	└─────┴──────────┴──────────┴────────────────┘     └─────┘
//
// familyQueue: a queue that has runs in this table. These rows come last, close to the table's own index, so that one read of the
// end of the object tells whether a queue is in it.
//
//	┌─────┬──────────┬──────────┐     ┌──────────────────┬─────────────────┬──────────────────┬─────────────────┬──────────┐
//	│ 'T' │ topic 8  │ queue 4  │ ──▶ │ first offset uv  │ last offset uv  │ first time ms uv │ last time ms uv │ bytes uv │
//	└─────┴──────────┴──────────┘     └──────────────────┴─────────────────┴──────────────────┴─────────────────┴──────────┘
const (
	familyKey   = 'K'
	familyRun   = 'Q'
	familyQueue = 'T'
)

const (
	queueKeyLength = 1 + 8 + 4
	runKeyLength   = queueKeyLength + 8
	keyPrefix      = 1 + 8 + 1 + 8
	keyKeyLength   = keyPrefix + 8 + 8
)

// QueueRange says what a table has of one queue.
type QueueRange struct {
	First, Last         int64 // offsets
	FirstTime, LastTime int64 // ms since 1970 at which these became visible
	Bytes               int64 // of the records of the queue's messages in the part, whenever these became visible
}

func appendQueueKey(dst []byte, family byte, topic kvindex.ID, queue int32) []byte {
	dst = binary.BigEndian.AppendUint64(append(dst, family), uint64(topic))
	return binary.BigEndian.AppendUint32(dst, uint32(queue))
}

func appendRunKey(dst []byte, topic kvindex.ID, queue int32, last int64) []byte {
	return binary.BigEndian.AppendUint64(appendQueueKey(dst, familyRun, topic, queue), uint64(last))
}

// appendKeyPrefix makes what all rows of one hash begin with.
func appendKeyPrefix(dst []byte, topic kvindex.ID, kind kvindex.IndexKind, hash uint64) []byte {
	dst = binary.BigEndian.AppendUint64(append(dst, familyKey), uint64(topic))
	return binary.BigEndian.AppendUint64(append(dst, byte(kind)), hash)
}

func appendKeyKey(dst []byte, topic kvindex.ID, kind kvindex.IndexKind, hash uint64, ms int64, pos record.Position) []byte {
	dst = binary.BigEndian.AppendUint64(appendKeyPrefix(dst, topic, kind, hash), uint64(ms))
	return binary.BigEndian.AppendUint64(dst, uint64(pos))
}

func (q *QueueRange) appendTo(dst []byte) []byte {
	for _, v := range []int64{q.First, q.Last, q.FirstTime, q.LastTime, q.Bytes} {
		dst = binary.AppendUvarint(dst, uint64(v))
	}
	return dst
}

func decodeQueueRange(val []byte) (QueueRange, error) {
	d := codec.Decoder{Rest: val}
	q := QueueRange{First: d.Number(), Last: d.Number(), FirstTime: d.Number(), LastTime: d.Number(), Bytes: d.Number()}
	if q.Last < q.First || q.LastTime < q.FirstTime {
		d.Fail()
	}
	return q, d.End()
}

// KeyRow is a message that has a key or unique id of the hash that was asked for; another key may have the same hash.
type KeyRow struct {
	Time     int64 // ms since 1970 at which the message was stored
	Position record.Position
	Size     int32 // of the record, header included
}

// decodeKeyRow reads a row of familyKey.
func decodeKeyRow(key, val []byte) (KeyRow, error) {
	k, v := codec.Decoder{Rest: key[keyPrefix:]}, codec.Decoder{Rest: val}
	row := KeyRow{Time: int64(k.Fixed()), Position: record.Position(k.Fixed()), Size: v.Number32()}
	if err := k.End(); err != nil {
		return KeyRow{}, err
	}
	return row, v.End()
}
