package delay

import (
	"fmt"
	"strings"
	"time"
)

// DefaultLevels are the reference's 18 delay levels, beginning with level 1.
const DefaultLevels = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h"

// Levels are the delays of level 1, 2, ….
type Levels []time.Duration

// ParseLevels reads delays that blanks separate: whole numbers with the unit s, m, h or d, none under a second.
func ParseLevels(text string) (Levels, error) {
	var out Levels
	for _, word := range strings.Fields(text) {
		number, unit := word, time.Duration(1)
		if days, ok := strings.CutSuffix(word, "d"); ok {
			number, unit = days+"h", 24
		}
		d, err := time.ParseDuration(number)
		if err != nil || d < time.Second || d > 100*365*24*time.Hour/unit {
			return nil, fmt.Errorf("delay level %d, %q, is not like 30s, 5m, 2h or 1d", len(out)+1, word)
		}
		out = append(out, d*unit)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no delay levels in %q", text)
	}
	return out, nil
}

// Delay of a level; one beyond the last counts as the last, as in the reference. level is at least 1.
func (l Levels) Delay(level int32) (time.Duration, int32) {
	level = min(level, int32(len(l)))
	return l[level-1], level
}
