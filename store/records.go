package store

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/pop"
)

const (
	// topicBytes is the length of the topic's id in front of a stored layout.
	topicBytes = 8
	// leastLayout is the length of a stored layout with nothing in it.
	leastLayout = 91
)

// MessageRecord makes the record of a message: the topic's id, then the stored layout with its final topic and queue id.
// Offsets and store time are 0 in it: Seal fills in position and store time, the fold gives the queue offset.
//
//	┌──────────┬────────────────┐
//	│ topic 8  │ stored layout… │
//	└──────────┴────────────────┘
func MessageRecord(topic kvindex.ID, m *message.Message) (record.Record, error) {
	payload, err := AppendMessage(make([]byte, 0, topicBytes+m.EncodedSize()), topic, m)
	return record.Record{Kind: record.KindMessage, Payload: payload}, err
}

// AppendMessage appends the payload of a message's record to dst, for callers that keep the payloads of a proposal in one
// buffer. The store reads and patches the payload in place until the proposal's Done.
func AppendMessage(dst []byte, topic kvindex.ID, m *message.Message) ([]byte, error) {
	out, err := m.AppendEncode(binary.BigEndian.AppendUint64(dst, uint64(topic)))
	if err != nil {
		return dst, fmt.Errorf("encode message for topic %q: %w", m.Topic, err)
	}
	return out, nil
}

// AppendDelayed appends the payload of a message's record of KindDelayed to dst, like AppendMessage. It becomes visible at the
// due time (ms), or at once when that has passed when it is applied.
//
//	┌───────────┬──────────┬────────────────┐
//	│ due ms 8  │ topic 8  │ stored layout… │
//	└───────────┴──────────┴────────────────┘
func AppendDelayed(dst []byte, due int64, topic kvindex.ID, m *message.Message) ([]byte, error) {
	return AppendMessage(binary.BigEndian.AppendUint64(dst, uint64(due)), topic, m)
}

// AppendHalf appends the payload of a message's record of KindHalf to dst, like AppendMessage. The layout is that of the
// message as it will be when it is committed; its prepared offset is filled in. Its producer is asked at firstCheck (ms).
//
//	┌───────────────────┬──────────┬────────────────┐
//	│ first check ms 8  │ topic 8  │ stored layout… │
//	└───────────────────┴──────────┴────────────────┘
func AppendHalf(dst []byte, firstCheck int64, topic kvindex.ID, m *message.Message) ([]byte, error) {
	return AppendMessage(binary.BigEndian.AppendUint64(dst, uint64(firstCheck)), topic, m)
}

// CopyRecord makes the record of a delayed message's body once more: to be visible now, when it fires, or to wait on.
//
//	┌───────────┬───────────┬──────────┬──────────┬────────────────┐
//	│ due ms 8  │ origin 8  │ fired 1  │ topic 8  │ stored layout… │
//	└───────────┴───────────┴──────────┴──────────┴────────────────┘
func CopyRecord(at delay.Point, fired bool, topic kvindex.ID, layout []byte) record.Record {
	p := make([]byte, 0, copyHead+topicBytes+len(layout))
	p = binary.BigEndian.AppendUint64(p, uint64(at.Due))
	p = binary.BigEndian.AppendUint64(p, uint64(at.Origin))
	if p = append(p, 0); fired {
		p[len(p)-1] = 1
	}
	p = append(binary.BigEndian.AppendUint64(p, uint64(topic)), layout...)
	return record.Record{Kind: record.KindCopy, Payload: p}
}

const copyHead = 17

// AppendForward appends the payload of a message's record of KindForward to dst, like AppendMessage: it is entered in its queue
// if the checkpoint of the message that it stands for is still as it was, and removes that; else the record means nothing.
//
//	┌──────────┬─────────────────┬──────────────────┬─────────────────┬───────────┬──────────┬──────────┬────────────────┐
//	│ group 8  │ popped topic 8  │ visible at ms 8  │ popped queue 4  │ offset 8  │ nonce 8  │ topic 8  │ stored layout… │
//	└──────────┴─────────────────┴──────────────────┴─────────────────┴───────────┴──────────┴──────────┴────────────────┘
func AppendForward(dst []byte, from pop.Popped, topic kvindex.ID, m *message.Message) ([]byte, error) {
	dst = binary.BigEndian.AppendUint64(dst, uint64(from.Group))
	dst = binary.BigEndian.AppendUint64(dst, uint64(from.Topic))
	dst = binary.BigEndian.AppendUint64(dst, uint64(from.VisibleAt))
	dst = binary.BigEndian.AppendUint32(dst, uint32(from.Queue))
	dst = binary.BigEndian.AppendUint64(dst, uint64(from.Offset))
	dst = binary.BigEndian.AppendUint64(dst, from.Nonce)
	return AppendMessage(dst, topic, m)
}

const forwardHead = 44

// readForward reads what AppendForward writes in front of the topic.
func readForward(p []byte) (from pop.Popped, err error) {
	at := func(i int) uint64 { return binary.BigEndian.Uint64(p[i:]) }
	from = pop.Popped{Group: kvindex.ID(at(0)), Topic: kvindex.ID(at(8)), Ref: pop.Ref{
		VisibleAt: int64(at(16)), Queue: int32(binary.BigEndian.Uint32(p[24:])), Offset: int64(at(28)), Nonce: at(36),
	}}
	if from.VisibleAt < 0 || from.Queue < 0 || from.Offset < 0 {
		return pop.Popped{}, fmt.Errorf("%v record: %w", record.KindForward, errMalformed)
	}
	return from, nil
}

// headOf is what a record that carries a message has before the topic's id; ok is false for other kinds.
func headOf(k record.Kind) (bytes int, ok bool) {
	switch k {
	case record.KindMessage:
		return 0, true
	case record.KindDelayed, record.KindHalf:
		return 8, true
	case record.KindCopy:
		return copyHead, true
	case record.KindForward:
		return forwardHead, true
	}
	return 0, false
}

// stored is a record that carries a message, taken apart. It aliases the record.
type stored struct {
	kind   record.Kind
	topic  kvindex.ID
	layout []byte
	// timer of KindDelayed (without the origin, which is the record's position) and KindCopy.
	timer delay.Point
	fired bool  // KindCopy
	check int64 // ms, KindHalf
	// popped is the checkpoint of KindForward.
	popped pop.Popped
}

// split takes a record that carries a message apart. It looks at the lengths only: that the layout is whole was settled when it
// was encoded, and the log's checksum keeps it so.
func split(r record.Record) (m stored, err error) {
	head, ok := headOf(r.Kind)
	if rest := len(r.Payload) - head - topicBytes; !ok || rest < leastLayout ||
		int(binary.BigEndian.Uint32(r.Payload[head+topicBytes:])) != rest {
		return stored{}, fmt.Errorf("%v record of %d bytes: %w", r.Kind, len(r.Payload), errMalformed)
	}
	m = stored{kind: r.Kind, topic: kvindex.ID(binary.BigEndian.Uint64(r.Payload[head:])), layout: r.Payload[head+topicBytes:]}
	switch r.Kind {
	case record.KindHalf:
		m.check = int64(binary.BigEndian.Uint64(r.Payload))
	case record.KindDelayed:
		m.timer.Due = int64(binary.BigEndian.Uint64(r.Payload))
	case record.KindCopy:
		m.timer.Due = int64(binary.BigEndian.Uint64(r.Payload))
		m.timer.Origin = record.Position(binary.BigEndian.Uint64(r.Payload[8:]))
		if m.fired = r.Payload[16] == 1; r.Payload[16] > 1 {
			return stored{}, fmt.Errorf("%v record: %w", r.Kind, errMalformed)
		}
	case record.KindForward:
		if m.popped, err = readForward(r.Payload); err != nil {
			return stored{}, err
		}
	}
	if m.check < 0 || m.timer.Due < 0 || m.timer.Origin < 0 {
		return stored{}, fmt.Errorf("%v record: %w", r.Kind, errMalformed)
	}
	return m, nil
}

// seal completes a message with what only the log writer knows: the time of its batch and its place.
func seal(timestamp int64, at record.Position, r *record.Record) {
	head, ok := headOf(r.Kind)
	if !ok {
		return
	}
	layout := r.Payload[head+topicBytes:]
	message.PatchPhysicalOffset(layout, int64(at))
	message.PatchStoreTimestamp(layout, timestamp)
	if r.Kind == record.KindHalf {
		message.PatchPreparedOffset(layout, int64(at))
	}
}

// trim is one queue's new beginning.
type trim struct {
	topic kvindex.ID
	queue int32
	min   int64
}

// trimChunk is how many queues one trim record lists at most.
const trimChunk = 256

const trimBytes = 20

// encodeTrim makes the payload of a trim record.
//
//	┌──────────┬──────────┬────────────┐
//	│ topic 8  │ queue 4  │ new min 8  │ × n
//	└──────────┴──────────┴────────────┘
func encodeTrim(trims []trim) []byte {
	out := make([]byte, 0, trimBytes*len(trims))
	for _, t := range trims {
		out = binary.BigEndian.AppendUint64(out, uint64(t.topic))
		out = binary.BigEndian.AppendUint32(out, uint32(t.queue))
		out = binary.BigEndian.AppendUint64(out, uint64(t.min))
	}
	return out
}

func decodeTrim(payload []byte) ([]trim, error) {
	if len(payload)%trimBytes != 0 {
		return nil, fmt.Errorf("trim record of %d bytes: %w", len(payload), errMalformed)
	}
	var out []trim
	for b := range slices.Chunk(payload, trimBytes) {
		out = append(out, trim{
			topic: kvindex.ID(binary.BigEndian.Uint64(b)),
			queue: int32(binary.BigEndian.Uint32(b[8:])),
			min:   int64(binary.BigEndian.Uint64(b[12:])),
		})
	}
	return out, nil
}

// StartRecord makes the record that lets a queue begin at an offset, which is not negative. It is refused when the queue has ever
// had a message.
//
//	┌──────────┬──────────┬───────────┐
//	│ topic 8  │ queue 4  │ offset 8  │
//	└──────────┴──────────┴───────────┘
func StartRecord(topic kvindex.ID, queue int32, offset int64) record.Record {
	return record.Record{Kind: record.KindStart, Payload: encodeTrim([]trim{{topic, queue, offset}})}
}

func decodeStart(payload []byte) (trim, error) {
	if len(payload) != trimBytes {
		return trim{}, fmt.Errorf("start record of %d bytes: %w", len(payload), errMalformed)
	}
	trims, err := decodeTrim(payload)
	if err != nil || trims[0].queue < 0 || trims[0].min < 0 {
		return trim{}, fmt.Errorf("start record: %w", errMalformed)
	}
	return trims[0], nil
}

// encodeDropHour makes the payload of a drop-hour record.
//
//	┌─────────┐
//	│ hour 4  │ hours since 1970
//	└─────────┘
func encodeDropHour(hour uint32) []byte { return binary.BigEndian.AppendUint32(nil, hour) }

func decodeDropHour(payload []byte) (uint32, error) {
	if len(payload) != 4 {
		return 0, fmt.Errorf("drop-hour record of %d bytes: %w", len(payload), errMalformed)
	}
	return binary.BigEndian.Uint32(payload), nil
}
