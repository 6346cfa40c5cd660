//go:build !linux

package kvindex

import "runtime"

// yieldProcessor lets another goroutine run.
func yieldProcessor() { runtime.Gosched() }
