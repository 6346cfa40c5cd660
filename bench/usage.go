package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"time"
)

// Usage is what the broker's process spent during a run.
type Usage struct {
	CPUPerMessage   float64 `json:"cpu_us_per_message"`
	Cores           float64 `json:"cores"`
	ResidentMiB     float64 `json:"resident_mib"`
	BytesPerMessage float64 `json:"written_bytes_per_message"` // handed to the disk, from /proc/PID/io
}

type usageMeter struct {
	pid          int
	began        time.Time
	ticks, bytes int64
}

// ticksPerSecond is Linux's USER_HZ, the same on every architecture that Go runs on.
const ticksPerSecond = 100

func startUsage(pid int) *usageMeter {
	m := &usageMeter{pid: pid, began: time.Now()}
	if pid > 0 {
		m.ticks, m.bytes = cpuTicks(pid), writtenBytes(pid)
	}
	return m
}

// quiet waits until a process has done with what it was given before: until it takes less than a twentieth of a core for half a second,
// or for maxQuiet.
func quiet(ctx context.Context, pid int) {
	const look = 500 * time.Millisecond
	if pid <= 0 {
		return
	}
	tick := time.NewTicker(look)
	defer tick.Stop()
	for last, began := cpuTicks(pid), time.Now(); time.Since(began) < maxQuiet; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		ticks := cpuTicks(pid)
		if float64(ticks-last)/ticksPerSecond < look.Seconds()/20 {
			return
		}
		last = ticks
	}
}

const maxQuiet = 15 * time.Second

func (m *usageMeter) stop(messages int64) *Usage {
	if m.pid <= 0 || messages == 0 {
		return nil
	}
	took := time.Since(m.began).Seconds()
	cpu := float64(cpuTicks(m.pid)-m.ticks) / ticksPerSecond
	return &Usage{
		CPUPerMessage:   cpu * 1e6 / float64(messages),
		Cores:           cpu / took,
		ResidentMiB:     float64(residentBytes(m.pid)) / (1 << 20),
		BytesPerMessage: float64(writtenBytes(m.pid)-m.bytes) / float64(messages),
	}
}

func proc(pid int, file string) []byte {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		return nil
	}
	return b
}

// cpuTicks is user and system time: fields 14 and 15 of stat, counted behind the command's closing parenthesis.
func cpuTicks(pid int) int64 {
	b := proc(pid, "stat")
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(string(fields[11]), 10, 64)
	system, _ := strconv.ParseInt(string(fields[12]), 10, 64)
	return user + system
}

func residentBytes(pid int) int64 { return 1024 * procNumber(pid, "status", "VmRSS:") }

func writtenBytes(pid int) int64 { return procNumber(pid, "io", "write_bytes:") }

func procNumber(pid int, file, key string) int64 {
	for _, line := range bytes.Split(proc(pid, file), []byte("\n")) {
		if rest, ok := bytes.CutPrefix(line, []byte(key)); ok {
			if f := bytes.Fields(rest); len(f) > 0 {
				n, _ := strconv.ParseInt(string(f[0]), 10, 64)
				return n
			}
		}
	}
	return 0
}
