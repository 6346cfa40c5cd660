package tiered

import (
	"fmt"
	"slices"

	"github.com/cairnmq/cairn/internal/record"
)

// Part is a sealed segment [Start, End) of the log in the object store: a bodies object and a table object. End is behind the last
// byte of the segment's file; the next segment may begin later, and nothing has a position between.
type Part struct {
	Start record.Position `json:"start"`
	End   record.Position `json:"end"`
	// The table has the queue rows that became visible in [From, Until), ms since 1970: the times of the segment's first batch
	// and of the first batch behind it. The keys of its own records are of [From, Until].
	From       int64  `json:"from"`
	Until      int64  `json:"until"`
	Generation uint64 `json:"generation"` // of the objects' names
	LogBytes   int64  `json:"logBytes"`   // sizes of the objects
	TableBytes int64  `json:"tableBytes"`
	LogCRC     uint32 `json:"logCRC"` // CRC-32C of the objects
	TableCRC   uint32 `json:"tableCRC"`
	LiveBytes  int64  `json:"liveBytes"` // of End − Start, those that retention has not cleared
	Messages   int64  `json:"messages"`
}

// RawBytes is the size of the segment's file.
func (p *Part) RawBytes() int64 { return int64(p.End - p.Start) }

// LogName is the name of the bodies object.
func (p *Part) LogName() string { return LogName(p.Start, p.Generation) }

// TableName is the name of the table object.
func (p *Part) TableName() string { return TableName(p.Start, p.Generation) }

// check says what makes the part impossible.
func (p *Part) check() error {
	switch {
	case p.Start < 0 || p.End <= p.Start:
		return fmt.Errorf("part of positions %d to %d", p.Start, p.End)
	case p.From < 0 || p.Until < p.From:
		return fmt.Errorf("part at %d of times %d to %d", p.Start, p.From, p.Until)
	case p.LogBytes <= 0 || p.TableBytes <= 0:
		return fmt.Errorf("part at %d with objects of %d and %d bytes", p.Start, p.LogBytes, p.TableBytes)
	case p.LiveBytes < 0 || p.LiveBytes > p.RawBytes() || p.Messages < 0:
		return fmt.Errorf("part at %d with %d live bytes and %d messages", p.Start, p.LiveBytes, p.Messages)
	}
	return nil
}

// checkParts says what is wrong with parts that must be in the order of the log, in positions and in time.
func checkParts(parts []Part) error {
	for i := range parts {
		if err := parts[i].check(); err != nil {
			return err
		}
		if i > 0 && (parts[i].Start < parts[i-1].End || parts[i].From < parts[i-1].Until) {
			return fmt.Errorf("part at %d does not lie behind the part at %d", parts[i].Start, parts[i-1].Start)
		}
	}
	return nil
}

// partAt finds the first part that ends behind pos; its place is len(parts) when there is none.
func partAt(parts []Part, pos record.Position) int {
	i, _ := slices.BinarySearchFunc(parts, pos, func(p Part, pos record.Position) int {
		if p.End <= pos {
			return -1
		}
		return 1
	})
	return i
}
