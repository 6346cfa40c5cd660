package store

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
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

// splitMessage takes the payload of a message's record apart. It looks at the lengths only: that the layout is whole was
// settled when it was encoded, and the log's checksum keeps it so.
func splitMessage(payload []byte) (topic kvindex.ID, layout []byte, err error) {
	if len(payload) < topicBytes+leastLayout || int(binary.BigEndian.Uint32(payload[topicBytes:])) != len(payload)-topicBytes {
		return 0, nil, fmt.Errorf("message record of %d bytes: %w", len(payload), errMalformed)
	}
	return kvindex.ID(binary.BigEndian.Uint64(payload)), payload[topicBytes:], nil
}

// seal completes a message with what only the log writer knows: the time of its batch and its place.
func seal(timestamp int64, at record.Position, r *record.Record) {
	if r.Kind != record.KindMessage {
		return
	}
	layout := r.Payload[topicBytes:]
	message.PatchPhysicalOffset(layout, int64(at))
	message.PatchStoreTimestamp(layout, timestamp)
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
