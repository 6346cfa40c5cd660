package delay

import (
	"encoding/binary"
	"fmt"

	"github.com/cairnmq/cairn/kvindex"
)

// Check looks through all rows of r and says what of this package's rules does not hold: a counter that is not the number of
// its rows, a long timer that is not listed, or listed and not there. nil when all is well. Timers of deleted topics have
// no counter.
func Check(r kvindex.Reader) error {
	counted := map[kvindex.ID]int64{}
	err := checkTimers(r, counted)
	if err == nil {
		err = checkCounters(r, counted)
	}
	if err != nil {
		return fmt.Errorf("delay: check: %w", err)
	}
	return nil
}

// checkTimers counts the timers of each topic. As many are listed as are long ones, and each of those is.
func checkTimers(r kvindex.Reader, counted map[kvindex.ID]int64) error {
	long := 0
	var t Timer
	err := eachOf(r, kvindex.SpaceTimer, func(key, val []byte) error {
		if err := t.decode(key, val); err != nil {
			return err
		}
		counted[t.Topic]++
		if t.Hour == 0 {
			return nil
		}
		long++
		_, ok, err := r.Get(kvindex.AppendLongTimerKey(nil, t.Hour, t.Due, int64(t.Origin)), nil)
		if err == nil && !ok {
			err = fmt.Errorf("the timer of origin %d is not listed under hour %d", t.Origin, t.Hour)
		}
		return err
	})
	if err != nil {
		return err
	}
	listed := 0
	err = eachOf(r, kvindex.SpaceLongTimer, func(_, _ []byte) error {
		listed++
		return nil
	})
	if err == nil && listed != long {
		err = fmt.Errorf("%d long timers, and %d are listed", long, listed)
	}
	return err
}

func checkCounters(r kvindex.Reader, counted map[kvindex.ID]int64) error {
	err := eachOf(r, kvindex.SpaceTimerCounter, func(key, val []byte) error {
		topic := kvindex.ID(binary.BigEndian.Uint64(key[1:]))
		n, err := decodeCounter(val)
		if err == nil && n != counted[topic] {
			err = fmt.Errorf("topic id %d: the counter says %d timers, there are %d", topic, n, counted[topic])
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
			return fmt.Errorf("topic id %d has timers and no counter", topic)
		}
	}
	return nil
}

func eachOf(r kvindex.Reader, space kvindex.Space, f func(key, val []byte) error) error {
	return kvindex.EachRow(r, []byte{byte(space)}, spaceEnd(space), func(key, val []byte) (bool, error) {
		err := f(key, val)
		return err == nil, err
	})
}
