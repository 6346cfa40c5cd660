package pop

import (
	"fmt"

	"github.com/cairnmq/cairn/kvindex"
)

// How tools print the rows of this package.
func init() {
	kvindex.RegisterValue(kvindex.SpaceCursor, func(_, val []byte) string {
		c, err := decodeCursor(val)
		return describe(val, err, "next=%d committed=%d", c.Next, c.Committed)
	})
	kvindex.RegisterValue(kvindex.SpaceCheckpoint, func(_, val []byte) string {
		c, err := decodeCheckpoint(val)
		return describe(val, err, "attempts=%d nonce=%016x position=%d size=%d popped=%s first=%s postponed=%v", c.Attempts, c.Nonce,
			c.Position, c.Size, kvindex.FormatTime(c.PoppedAt), kvindex.FormatTime(c.FirstAt), c.Postponed)
	})
	kvindex.RegisterValue(kvindex.SpaceCounter, func(_, val []byte) string {
		c, err := decodeCounters(val)
		return describe(val, err, "in-flight=%d parked=%d free=%d postponed=%d", c.InFlight, c.Parked, c.Free, c.Postponed)
	})
}

func describe(val []byte, err error, format string, args ...any) string {
	if err != nil {
		return fmt.Sprintf("malformed 0x%x", val)
	}
	return fmt.Sprintf(format, args...)
}
