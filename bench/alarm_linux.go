package bench

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// alarm is a timer of the kernel, or of the Go runtime where there is none. The latter are up to a millisecond late in a process that
// has nothing else to do, which would be most of what is measured at a steady rate. One goroutine uses it.
type alarm struct {
	fd   int
	file *os.File // of fd; reads give way to other goroutines
}

func newAlarm() *alarm {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return &alarm{}
	}
	return &alarm{fd, os.NewFile(uintptr(fd), "timer")}
}

// wait lets d, more than nothing, pass.
func (a *alarm) wait(d time.Duration) {
	due := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}
	if a.file == nil || unix.TimerfdSettime(a.fd, 0, &due, nil) != nil {
		time.Sleep(d)
		return
	}
	var times [8]byte
	_, _ = a.file.Read(times[:]) // fails for a closed timer only
}

func (a *alarm) close() {
	if a.file != nil {
		_ = a.file.Close()
	}
}
