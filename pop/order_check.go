package pop

import (
	"fmt"

	"github.com/cairnmq/cairn/kvindex"
)

// orderCheck is what the rows of one group on one topic in SpaceOrder come to.
type orderCheck struct {
	r       kvindex.Reader
	at      place
	lines   map[Line]*checkedLine
	flights int64
}

// checkedLine is what is left of a line to be found.
type checkedLine struct {
	parked int64
	from   int64 // least offset that may wait
	last   int64 // offset in flight, −1 for none
	turn   turn  // kind 0 when it was found
}

// checkOrder holds the rows of SpaceOrder against each other and against checkpoints and cursors. It adds what waits to counted, and
// takes what is in flight from lined, the number of checkpoints that say they are in a line.
func checkOrder(r kvindex.Reader, counted map[place]Counters, lined map[place]int64) error {
	c := &orderCheck{r: r, lines: map[Line]*checkedLine{}}
	end := func() error {
		if err := c.end(); err != nil {
			return fmt.Errorf("group id %d on topic id %d: %w", c.at.group, c.at.topic, err)
		}
		lined[c.at] -= c.flights
		c.flights = 0
		return nil
	}
	err := kvindex.EachRow(r, spaceStart(kvindex.SpaceOrder), spaceEnd(kvindex.SpaceOrder), func(key, val []byte) (bool, error) {
		if at := placeOfKey(key); at != c.at {
			if err := end(); err != nil {
				return false, err
			}
			c.at = at
		}
		if err := c.row(key, val); err != nil {
			return false, fmt.Errorf("group id %d on topic id %d: %w", c.at.group, c.at.topic, err)
		}
		if kvindex.OrderKind(key[orderKindAt]) == kvindex.OrderParked {
			sum := counted[c.at]
			sum.Parked++
			if c.lines[lineOfKey(key)].last < 0 {
				sum.Free++
			}
			counted[c.at] = sum
		}
		return true, nil
	})
	if err == nil {
		err = end()
	}
	if err != nil {
		return err
	}
	for at, n := range lined {
		if n != 0 {
			return fmt.Errorf("group id %d on topic id %d: %d checkpoints more than their lines know of", at.group, at.topic, n)
		}
	}
	return nil
}

// row looks at one row; those of lines come first.
func (c *orderCheck) row(key, val []byte) error {
	switch kvindex.OrderKind(key[orderKindAt]) {
	case kvindex.OrderLine:
		return c.line(lineOfKey(key), val)
	case kvindex.OrderParked:
		return c.parked(lineOfKey(key), offsetOfParked(key), val)
	}
	since, l := placeOfTurn(key)
	is := turn{kvindex.OrderKind(key[orderKindAt]), since}
	line := c.lines[l]
	if line == nil || line.turn != is {
		return fmt.Errorf("%+v is in the list %c at %d and should not be", l, is.kind, since)
	}
	line.turn = turn{}
	return nil
}

func (c *orderCheck) line(l Line, val []byte) error {
	var row lineRow
	if err := row.decode(val); err != nil {
		return err
	}
	checked := &checkedLine{parked: row.parked, from: row.from, last: -1, turn: row.turn()}
	for _, fl := range row.flights {
		val, ok, err := c.r.Get(kvindex.AppendCheckpointKey(nil, c.at.group, c.at.topic, fl.visibleAt, l.Queue, fl.offset), nil)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("%+v: offset %d is in flight and has no checkpoint", l, fl.offset)
		}
		cp, err := decodeCheckpoint(val)
		if err != nil {
			return err
		}
		if cp.Line != l.ID {
			return fmt.Errorf("%+v: the checkpoint of offset %d is of line %016x", l, fl.offset, cp.Line)
		}
		checked.last = fl.offset
		c.flights++
	}
	c.lines[l] = checked
	return nil
}

func (c *orderCheck) parked(l Line, offset int64, val []byte) error {
	if _, _, err := decodeParked(val); err != nil {
		return err
	}
	line := c.lines[l]
	if line == nil || line.parked == 0 || offset <= line.last || offset < line.from {
		return fmt.Errorf("%+v: offset %d waits and should not", l, offset)
	}
	line.parked--
	val, ok, err := c.r.Get(kvindex.AppendCursorKey(nil, c.at.group, c.at.topic, l.Queue), nil)
	if err != nil {
		return err
	}
	var cursor Cursor
	if ok {
		if cursor, err = decodeCursor(val); err != nil {
			return err
		}
	}
	if cursor.Next <= offset {
		return fmt.Errorf("%+v: offset %d waits, and the cursor is at %d", l, offset, cursor.Next)
	}
	return nil
}

// end says what was not found of the lines of a group on a topic.
func (c *orderCheck) end() error {
	for l, line := range c.lines {
		switch {
		case line.parked != 0:
			return fmt.Errorf("%+v: %d more wait than there are rows", l, line.parked)
		case line.turn.kind != 0:
			return fmt.Errorf("%+v is not in the list %c at %d", l, line.turn.kind, line.turn.since)
		}
	}
	clear(c.lines)
	return nil
}
