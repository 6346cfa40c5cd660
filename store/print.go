package store

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
)

func init() {
	kvindex.RegisterValue(kvindex.SpaceQueue, printed(func(_, val []byte) (string, error) {
		q, err := decodeBounds(val)
		text := fmt.Sprintf("min=%d max=%d hour=%d", q.min, q.max, q.hour)
		if q.local > q.min {
			text += fmt.Sprintf(" local=%d", q.local)
		}
		return text, err
	}))
	kvindex.RegisterValue(kvindex.SpaceConsumeQueue, printed(printRun))
	kvindex.RegisterValue(kvindex.SpaceTierQueue, printed(func(key, val []byte) (string, error) {
		t, err := decodeTierQueue(lastOffset(key), val)
		return fmt.Sprintf("part=%d first=%d from=%s to=%s", t.part, t.first, kvindex.FormatTime(t.from), kvindex.FormatTime(t.to)), err
	}))
	kvindex.RegisterValue(kvindex.SpaceTier, printed(func(_, val []byte) (string, error) {
		o, err := decodeOffloaded(val)
		return fmt.Sprintf("end=%d until=%s", o.end, kvindex.FormatTime(o.until)), err
	}))
	kvindex.RegisterValue(kvindex.SpaceKeyIndex, printed(func(_, val []byte) (string, error) {
		offset, size, err := decodeKeyRow(val)
		return fmt.Sprintf("offset=%d size=%d", offset, size), err
	}))
	kvindex.RegisterValue(kvindex.SpaceBucket, printed(func(_, val []byte) (string, error) {
		if len(val) == 0 {
			return "empty", nil
		}
		b, err := decodeHour(val)
		return fmt.Sprintf("position=%d time=%s", b.position, kvindex.FormatTime(b.timestamp)), err
	}))
}

// DescribeMessage prints a record that carries a message or lets a queue begin; ok is false for others, and for those that cannot
// be read.
func DescribeMessage(r record.Record) (text string, ok bool) {
	if r.Kind == record.KindStart {
		s, err := decodeStart(r.Payload)
		return fmt.Sprintf("topic %d queue %d begins at offset %d", s.topic, s.queue, s.min), err == nil
	}
	m, err := split(r)
	if err != nil {
		return "", false
	}
	msg, _, err := message.Decode(m.layout)
	if err != nil {
		return "", false
	}
	switch r.Kind {
	case record.KindDelayed:
		text = "due " + kvindex.FormatTime(m.timer.Due) + " "
	case record.KindCopy:
		text = fmt.Sprintf("due %s origin %d fired %t ", kvindex.FormatTime(m.timer.Due), m.timer.Origin, m.fired)
	case record.KindHalf:
		text = "first check " + kvindex.FormatTime(m.check) + " "
	case record.KindForward:
		text = fmt.Sprintf("for offset %d of queue %d of topic %d, popped by group %d, ", m.popped.Offset, m.popped.Queue, m.popped.Topic, m.popped.Group)
	}
	unique, _ := message.Property(msg.Properties, message.PropUniqueKey)
	return text + fmt.Sprintf("topic %d %q queue %d body %d bytes id %s", m.topic, msg.Topic, msg.QueueID, len(msg.Body), unique), true
}

// printed falls back to hex for rows that cannot be read.
func printed(f func(key, val []byte) (string, error)) func(key, val []byte) string {
	return func(key, val []byte) string {
		text, err := f(key, val)
		if err != nil {
			return fmt.Sprintf("0x%x (%v)", val, err)
		}
		return text
	}
}

func printRun(key, val []byte) (string, error) {
	if len(key) < 8 {
		return "", fmt.Errorf("key of %d bytes: %w", len(key), errMalformed)
	}
	r, err := openRun(int64(binary.BigEndian.Uint64(key[len(key)-8:])), val)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	fmt.Fprintf(&out, "first=%d time=%s", r.first, kvindex.FormatTime(r.timestamp))
	for range r.count {
		pos, size, tag, err := r.next()
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&out, " %d+%d", pos, size)
		if tag != 0 {
			fmt.Fprintf(&out, "#%d", tag)
		}
	}
	return out.String(), nil
}
