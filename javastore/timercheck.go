package javastore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// TimerCheck is how far the timer wheel of a broker is.
type TimerCheck struct {
	ReadTime    int64 // ms: everything in the wheel that is due up to here was delivered
	QueueOffset int64 // in the queue of the timer topic: what lies before was put into the wheel
}

// ReadTimerCheck reads config/timercheck, big-endian. A store without a wheel has none, and says 0 and 0.
//
//	┌──────────────┬───────────────────┬─────────────────┬────────────────────────┬─────────────────┐
//	│ read time 8  │ timerlog flushed 8│ queue offset 8  │ master's queue offset 8│ data version 24 │
//	└──────────────┴───────────────────┴─────────────────┴────────────────────────┴─────────────────┘
func ReadTimerCheck(file string) (TimerCheck, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return TimerCheck{}, nil
	}
	if err != nil {
		return TimerCheck{}, fmt.Errorf("javastore: %w", err)
	}
	if len(data) < 32 {
		return TimerCheck{}, fmt.Errorf("%s of %d bytes: %w", file, len(data), ErrConfig)
	}
	return TimerCheck{
		ReadTime: int64(binary.BigEndian.Uint64(data)), QueueOffset: int64(binary.BigEndian.Uint64(data[16:])),
	}, nil
}
