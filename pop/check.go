package pop

import (
	"encoding/binary"
	"fmt"

	"github.com/cairnmq/cairn/kvindex"
)

// Check looks through all rows of r and says what of this package's rules does not hold: a counter that is not the number of
// its rows, a message with two checkpoints, a checkpoint that is not below its group's cursor, a line that is not what its messages
// are. nil when all is well.
func Check(r kvindex.Reader) error {
	counted, lined := map[place]Counters{}, map[place]int64{}
	if err := checkCheckpoints(r, counted, lined); err != nil {
		return fmt.Errorf("pop: check: %w", err)
	}
	if err := checkOrder(r, counted, lined); err != nil {
		return fmt.Errorf("pop: check: %w", err)
	}
	err := kvindex.EachRow(r, spaceStart(kvindex.SpaceCounter), spaceEnd(kvindex.SpaceCounter), func(key, val []byte) (bool, error) {
		at := placeOfKey(key)
		c, err := decodeCounters(val)
		if err != nil {
			return false, err
		}
		if c != counted[at] {
			return false, fmt.Errorf("group id %d on topic id %d: the counters say %+v, there are %+v", at.group, at.topic, c,
				counted[at])
		}
		delete(counted, at)
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("pop: check: %w", err)
	}
	for at, c := range counted {
		return fmt.Errorf("pop: check: group id %d on topic id %d: %+v and no counter", at.group, at.topic, c)
	}
	return nil
}

// checkCheckpoints counts the checkpoints of each place, and those that are in a line.
func checkCheckpoints(r kvindex.Reader, counted map[place]Counters, lined map[place]int64) error {
	type message struct {
		queue  int32
		offset int64
	}
	var last place
	seen := map[message]struct{}{} // of last: the rows of a place are neighbours
	next := map[int32]int64{}      // its cursors
	return kvindex.EachRow(r, spaceStart(kvindex.SpaceCheckpoint), spaceEnd(kvindex.SpaceCheckpoint), func(key, val []byte) (bool, error) {
		at, ref := placeOfKey(key), refOfKey(key)
		if at != last {
			last = at
			clear(seen)
			clear(next)
		}
		c, err := decodeCheckpoint(val)
		if err != nil {
			return false, err
		}
		sum := counted[at]
		sum.InFlight++
		if c.Postponed {
			sum.Postponed++
		}
		counted[at] = sum
		if c.Line != 0 {
			lined[at]++
		}
		m := message{ref.Queue, ref.Offset}
		if _, twice := seen[m]; twice {
			return false, fmt.Errorf("group id %d has two checkpoints of topic id %d queue %d offset %d", at.group, at.topic,
				ref.Queue, ref.Offset)
		}
		seen[m] = struct{}{}
		if _, known := next[ref.Queue]; !known {
			val, ok, err := r.Get(kvindex.AppendCursorKey(nil, at.group, at.topic, ref.Queue), nil)
			if err != nil {
				return false, err
			}
			if ok {
				c, err := decodeCursor(val)
				if err != nil {
					return false, err
				}
				next[ref.Queue] = c.Next
			}
		}
		if ref.Offset >= next[ref.Queue] {
			return false, fmt.Errorf("group id %d has a checkpoint of topic id %d queue %d offset %d, and its cursor is at %d",
				at.group, at.topic, ref.Queue, ref.Offset, next[ref.Queue])
		}
		return true, nil
	})
}

// placeOfKey reads the first parts of a key in SpaceCheckpoint and SpaceCounter.
func placeOfKey(key []byte) place {
	return place{kvindex.ID(binary.BigEndian.Uint64(key[1:])), kvindex.ID(binary.BigEndian.Uint64(key[9:]))}
}

func spaceStart(s kvindex.Space) []byte { return []byte{byte(s)} }
func spaceEnd(s kvindex.Space) []byte   { return kvindex.PrefixEnd([]byte{byte(s)}) }
