package store

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// offload says what a part of the tier has, so that it need not be here any more.
type offload struct {
	part   record.Position // where the part begins in the log
	queues []offloaded
	// done, which the last record of a part has, says that all of the part is listed; nil in the others.
	done *offloadedTo
}

// offloaded is what a part has of a queue: the offsets from first to before next, which became visible from the time from to the
// time to (ms).
type offloaded struct {
	queueKey
	first, next int64
	from, to    int64
}

// offloadedTo is the row of SpaceTier: of what became visible before a time (ms), and of the log before a position, nothing is
// needed here.
//
//	┌────────┬──────────┐
//	│ end 8  │ until 8  │
//	└────────┴──────────┘
type offloadedTo struct {
	end   record.Position
	until int64
}

func (o offloadedTo) appendTo(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(o.end))
	return binary.BigEndian.AppendUint64(dst, uint64(o.until))
}

func decodeOffloaded(val []byte) (offloadedTo, error) {
	if len(val) != 16 {
		return offloadedTo{}, fmt.Errorf("tier row of %d bytes: %w", len(val), errMalformed)
	}
	o := offloadedTo{record.Position(binary.BigEndian.Uint64(val)), int64(binary.BigEndian.Uint64(val[8:]))}
	if o.end < 0 || o.until < 0 {
		return offloadedTo{}, fmt.Errorf("tier row: %w", errMalformed)
	}
	return o, nil
}

// offloadChunk is how many queues one offload record lists at most.
const offloadChunk = 256

const (
	offloadHead  = 25
	offloadBytes = 44
)

// encodeOffload makes the payload of an offload record. Its end and until are those of offloadedTo, zero unless done.
//
//	┌─────────┬─────────┬────────┬──────────┬──── queue × n ───────────────────────────────────────────┐
//	│ part 8  │ done 1  │ end 8  │ until 8  │ topic 8 │ queue 4 │ first 8 │ next 8 │ from ms 8 │ to ms 8 │
//	└─────────┴─────────┴────────┴──────────┴──────────────────────────────────────────────────────────┘
func encodeOffload(o *offload) []byte {
	out := make([]byte, 0, offloadHead+offloadBytes*len(o.queues))
	out = binary.BigEndian.AppendUint64(out, uint64(o.part))
	if o.done != nil {
		out = o.done.appendTo(append(out, 1))
	} else {
		out = offloadedTo{}.appendTo(append(out, 0))
	}
	for _, q := range o.queues {
		out = binary.BigEndian.AppendUint64(out, uint64(q.topic))
		out = binary.BigEndian.AppendUint32(out, uint32(q.queue))
		for _, v := range []int64{q.first, q.next, q.from, q.to} {
			out = binary.BigEndian.AppendUint64(out, uint64(v))
		}
	}
	return out
}

func decodeOffload(payload []byte) (*offload, error) {
	if len(payload) < offloadHead || (len(payload)-offloadHead)%offloadBytes != 0 || payload[8] > 1 {
		return nil, fmt.Errorf("offload record of %d bytes: %w", len(payload), errMalformed)
	}
	o := &offload{part: record.Position(binary.BigEndian.Uint64(payload))}
	to, err := decodeOffloaded(payload[9:offloadHead])
	switch {
	case err != nil:
		return nil, err
	case payload[8] == 1:
		o.done = &to
	case to != offloadedTo{}:
		return nil, fmt.Errorf("offload record that is not the last has an end: %w", errMalformed)
	}
	if o.part < 0 {
		return nil, fmt.Errorf("offload record of the part at %d: %w", o.part, errMalformed)
	}
	for b := range slices.Chunk(payload[offloadHead:], offloadBytes) {
		q := offloaded{queueKey: queueKey{kvindex.ID(binary.BigEndian.Uint64(b)), int32(binary.BigEndian.Uint32(b[8:]))}}
		for i, v := range []*int64{&q.first, &q.next, &q.from, &q.to} {
			*v = int64(binary.BigEndian.Uint64(b[12+8*i:]))
		}
		if q.first < 0 || q.next <= q.first || q.from < 0 || q.to < q.from {
			return nil, fmt.Errorf("offload record: offsets %d to %d: %w", q.first, q.next, errMalformed)
		}
		o.queues = append(o.queues, q)
	}
	return o, nil
}

// tierQueue is a row of SpaceTierQueue, whose key has the last offset.
type tierQueue struct {
	part        record.Position
	first, last int64
	from, to    int64 // ms, when its first and its last entry became visible
}

// appendTierQueue makes the value of a row in SpaceTierQueue; uv is an unsigned varint.
//
//	┌──────────┬───────────┬─────────────┬────────────────┐
//	│ part uv  │ count uv  │ from ms uv  │ to − from uv   │
//	└──────────┴───────────┴─────────────┴────────────────┘
func appendTierQueue(dst []byte, part record.Position, q *offloaded) []byte {
	for _, v := range []int64{int64(part), q.next - q.first, q.from, q.to - q.from} {
		dst = binary.AppendUvarint(dst, uint64(v))
	}
	return dst
}

func decodeTierQueue(last int64, val []byte) (t tierQueue, err error) {
	var v [4]int64
	for i := range v {
		u, n := binary.Uvarint(val)
		if n <= 0 || u > math.MaxInt64/2 {
			return tierQueue{}, fmt.Errorf("tier queue row: %w", errMalformed)
		}
		v[i], val = int64(u), val[n:]
	}
	t = tierQueue{part: record.Position(v[0]), first: last - v[1] + 1, last: last, from: v[2], to: v[2] + v[3]}
	if len(val) > 0 || v[1] < 1 || t.first < 0 {
		return tierQueue{}, fmt.Errorf("tier queue row: %w", errMalformed)
	}
	return t, nil
}

// applyOffload notes which part has what of a queue, in place of the rows that say it here. Queues that are passed over are
// deleted, trimmed so far, or were listed before. The outcome's offset is the number of those that were not.
func (f *queueFold) applyOffload(b *kvindex.Batch, payload []byte) (record.Outcome, error) {
	o, err := decodeOffload(payload)
	if err != nil {
		return record.Outcome{}, err
	}
	out := record.Outcome{}
	for i := range o.queues {
		q := &o.queues[i]
		p, err := f.open(b, q.queueKey)
		if err != nil {
			return record.Outcome{}, err
		}
		if p == nil || q.next <= p.local || q.next > p.base {
			continue
		}
		f.key = kvindex.AppendTierQueueKey(f.key[:0], q.topic, q.queue, q.next-1)
		f.val = appendTierQueue(f.val[:0], o.part, q)
		b.Set(f.key, f.val)
		if err := f.dropRuns(b, p, q.next); err != nil {
			return record.Outcome{}, err
		}
		p.row = true
		out.Offset++
	}
	if o.done != nil {
		f.key = kvindex.AppendTierKey(f.key[:0])
		b.Set(f.key, o.done.appendTo(nil))
	}
	return out, nil
}
