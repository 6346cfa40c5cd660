package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
)

// hit is one row of the key index.
type hit struct {
	position record.Position
	offset   int64
	size     int32
}

// decodeKeyRow reads the value of a row in SpaceKeyIndex; indexKeys draws it.
func decodeKeyRow(val []byte) (offset int64, size int32, err error) {
	o, n := binary.Uvarint(val)
	if n > 0 {
		var z uint64
		var m int
		if z, m = binary.Uvarint(val[n:]); m > 0 && n+m == len(val) && o <= math.MaxInt64 && z <= math.MaxInt32 {
			return int64(o), int32(z), nil
		}
	}
	return 0, 0, fmt.Errorf("key index row of %d bytes: %w", len(val), errMalformed)
}

// Query appends the messages of a topic with this key (or unique id) stored in [begin, end] ms to buf, newest first, at
// most max, and returns the end of each in buf.B. Trimmed messages are left out; one that is in no queue says why in its
// property PropState. A hash that another key shares costs a
// read and nothing else: the key is compared with the message's own.
func (s *Store) Query(topic kvindex.ID, kind kvindex.IndexKind, key string, begin, end int64, max int, buf *Buffer,
) (ends []int, err error) {
	first := len(buf.ends)
	more := true
	each := func(h hit) (bool, error) {
		if more = len(buf.ends)-first < max; !more {
			return false, nil
		}
		return true, s.appendHit(topic, kind, key, h, buf)
	}
	if err = s.eachHit(topic, kind, key, begin, end, each); err == nil && more {
		err = s.eachColdHit(topic, kind, key, begin, end, each)
	}
	if err != nil {
		return nil, err
	}
	return buf.endsFrom(first), nil
}

// eachHit walks the key index from end back to begin, hour by hour, over the hours that have any rows.
func (s *Store) eachHit(topic kvindex.ID, kind kvindex.IndexKind, key string, begin, end int64,
	f func(hit) (more bool, err error),
) (err error) {
	begin, end = max(begin, 0), min(end, s.applied.Load().Timestamp)
	if begin > end {
		return nil
	}
	upper := kvindex.PrefixEnd(kvindex.AppendKeyIndexHourPrefix(nil, kvindex.HourOf(end)))
	it, err := s.engine.NewIter(kvindex.AppendKeyIndexHourPrefix(nil, kvindex.HourOf(begin)), upper)
	if err != nil {
		return fmt.Errorf("store: query key index: %w", err)
	}
	defer func() {
		if cerr := it.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("store: query key index: %w", cerr)
		}
	}()
	hash := kind.Hash(key)
	var seek []byte
	for ok := it.Last(); ok; {
		hour := binary.BigEndian.Uint32(it.Key()[1:])
		prefix := kvindex.AppendKeyIndexPrefix(nil, hour, topic, kind, hash)
		seek = kvindex.AppendKeyIndexKey(seek[:0], hour, topic, kind, hash, end, math.MaxInt64)
		for ok = it.SeekLT(seek); ok && bytes.HasPrefix(it.Key(), prefix); ok = it.Prev() {
			rest := it.Key()[len(prefix):]
			if int64(binary.BigEndian.Uint64(rest)) < begin {
				return nil
			}
			h := hit{position: record.Position(binary.BigEndian.Uint64(rest[8:]))}
			if h.offset, h.size, err = decodeKeyRow(it.Value()); err != nil {
				return err
			}
			if more, err := f(h); err != nil || !more {
				return err
			}
		}
		seek = kvindex.AppendKeyIndexHourPrefix(seek[:0], hour)
		ok = it.SeekLT(seek)
	}
	return it.Error()
}

// appendHit appends the message of a row when it really has the key and is still in its queue.
func (s *Store) appendHit(topic kvindex.ID, kind kvindex.IndexKind, key string, h hit, buf *Buffer) error {
	from := len(buf.B)
	buf.B = slices.Grow(buf.B, int(h.size))
	raw, err := s.Anywhere(s.open).readRaw(h.position, int(h.size), buf.B[from:from+int(h.size)])
	if errors.Is(err, commitlog.ErrGone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("store: read message at %d: %w", h.position, err)
	}
	m, err := parseMessage(raw, int(h.size))
	if errors.Is(err, commitlog.ErrGone) {
		return nil
	}
	if err != nil {
		return s.corrupt(h.position, err)
	}
	if m.topic != topic || !hasKey(m.layout, kind, key) {
		return nil
	}
	at, err := s.locate(&m, h.position, h.offset)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if buf.B, err = at.appendTo(buf.B, m.layout); err != nil {
		return err
	}
	buf.ends = append(buf.ends, len(buf.B))
	return nil
}

func hasKey(layout []byte, kind kvindex.IndexKind, key string) bool {
	name := message.PropKeys
	if kind == kvindex.IndexUniqueID {
		name = message.PropUniqueKey
	}
	value, ok := message.Property(message.PropertiesOf(layout), name)
	if !ok || kind == kvindex.IndexUniqueID {
		return ok && string(value) == key
	}
	found := false
	eachWord(value, func(word []byte) bool {
		found = string(word) == key
		return !found
	})
	return found
}
