//go:build !linux

package bench

import "time"

// alarm is a timer of the Go runtime.
type alarm struct{}

func newAlarm() *alarm                { return &alarm{} }
func (a *alarm) wait(d time.Duration) { time.Sleep(d) }
func (a *alarm) close()               {}
