package kvindex

import "golang.org/x/sys/unix"

// yieldProcessor lets another thread run, of any process, that waits for the processor of this one.
func yieldProcessor() { _, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0) } // which never fails
