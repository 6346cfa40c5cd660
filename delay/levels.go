package delay

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// DefaultLevels are the reference's 18 delay levels, beginning with level 1.
const DefaultLevels = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h"

// Levels are the delays of level 1, 2, ….
type Levels []time.Duration

// maxLevel bounds the delay of a level.
const maxLevel = 100 * 365 * 24 * time.Hour

// ParseLevels reads delays that blanks separate: whole numbers with the unit s, m, h or d, none of them 0.
func ParseLevels(text string) (Levels, error) {
	var out Levels
	for word := range strings.FieldsSeq(text) {
		last := len(word) - 1
		unit := unitOf(word[last])
		n, err := strconv.ParseUint(word[:last], 10, 32)
		if err != nil || unit == 0 || n == 0 || n > uint64(maxLevel/unit) {
			return nil, fmt.Errorf("delay level %d, %q, is not like 30s, 5m, 2h or 1d", len(out)+1, word)
		}
		out = append(out, time.Duration(n)*unit)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no delay levels in %q", text)
	}
	return out, nil
}

// unitOf is 0 for what is no unit.
func unitOf(c byte) time.Duration {
	switch c {
	case 's':
		return time.Second
	case 'm':
		return time.Minute
	case 'h':
		return time.Hour
	case 'd':
		return 24 * time.Hour
	}
	return 0
}

// Delay of a level; one beyond the last counts as the last, as in the reference. level is at least 1.
func (l Levels) Delay(level int32) (time.Duration, int32) {
	level = min(level, int32(len(l)))
	return l[level-1], level
}
