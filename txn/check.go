package txn

import (
	"encoding/binary"
	"fmt"

	"github.com/cairnmq/cairn/kvindex"
)

// CheckRows looks through all rows of r and says what of this package's rules does not hold: a half message without its check,
// a check without its half message, one that is open and parked, a counter that is not the number of its rows. nil when all is
// well. Half messages of deleted topics have no counter.
func CheckRows(r kvindex.Reader) error {
	counted := map[kvindex.ID]Count{}
	err := checkOpen(r, counted)
	if err == nil {
		err = checkParked(r, counted)
	}
	if err == nil {
		err = checkCounters(r, counted)
	}
	if err != nil {
		return fmt.Errorf("txn: check: %w", err)
	}
	return nil
}

// checkOpen counts the open half messages of each topic. There are as many checks, and each has one at its time.
func checkOpen(r kvindex.Reader, counted map[kvindex.ID]Count) error {
	open := 0
	var h Half
	err := eachOf(r, kvindex.SpaceHalf, func(key, val []byte) error {
		if err := h.decode(key, val); err != nil {
			return err
		}
		open++
		n := counted[h.Topic]
		n.Open++
		counted[h.Topic] = n
		_, ok, err := r.Get(kvindex.AppendHalfCheckKey(nil, h.CheckAt, int64(h.Position)), nil)
		if err == nil && !ok {
			err = fmt.Errorf("the half message at %d has no check at its time", h.Position)
		}
		return err
	})
	if err != nil {
		return err
	}
	checks := 0
	err = eachOf(r, kvindex.SpaceHalfCheck, func(_, _ []byte) error {
		checks++
		return nil
	})
	if err == nil && checks != open {
		err = fmt.Errorf("%d open half messages, and %d checks", open, checks)
	}
	return err
}

func checkParked(r kvindex.Reader, counted map[kvindex.ID]Count) error {
	var h Half
	return eachOf(r, kvindex.SpaceParked, func(key, val []byte) error {
		if err := h.decode(key, val); err != nil {
			return err
		}
		n := counted[h.Topic]
		n.Parked++
		counted[h.Topic] = n
		_, ok, err := r.Get(kvindex.AppendHalfKey(nil, int64(h.Position)), nil)
		if err == nil && ok {
			err = fmt.Errorf("the half message at %d is open and parked", h.Position)
		}
		return err
	})
}

func checkCounters(r kvindex.Reader, counted map[kvindex.ID]Count) error {
	err := eachOf(r, kvindex.SpaceHalfCounter, func(key, val []byte) error {
		topic := kvindex.ID(binary.BigEndian.Uint64(key[1:]))
		n, err := decodeCount(val)
		if err == nil && n != counted[topic] {
			err = fmt.Errorf("topic id %d: the counter says %+v, there are %+v", topic, n, counted[topic])
		}
		delete(counted, topic)
		return err
	})
	if err != nil {
		return err
	}
	for topic := range counted {
		_, ok, err := r.Get(kvindex.AppendTopicIDKey(nil, topic), nil)
		if err != nil {
			return err
		}
		if ok {
			return fmt.Errorf("topic id %d has half messages and no counter", topic)
		}
	}
	return nil
}

func eachOf(r kvindex.Reader, space kvindex.Space, f func(key, val []byte) error) error {
	lower := []byte{byte(space)}
	return kvindex.EachRow(r, lower, kvindex.PrefixEnd(lower), func(key, val []byte) (bool, error) {
		err := f(key, val)
		return err == nil, err
	})
}
