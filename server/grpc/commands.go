package grpc

import "sync/atomic"

const (
	// maxCommands and maxCommandBytes bound what waits to be written to one telemetry stream; one more may go beyond the bytes.
	maxCommands     = 64
	maxCommandBytes = 1 << 20
)

// commands wait to be written to a telemetry stream, which only its handler may write to.
type commands struct {
	queue chan encoded
	bytes atomic.Int64  // waiting or being written
	all   *atomic.Int64 // the same of all clients, with what they receive
}

func newCommands(all *atomic.Int64) *commands {
	return &commands{queue: make(chan encoded, maxCommands), all: all}
}

// put leaves a command without waiting; false when the client is slow to take those before it.
func (q *commands) put(cmd encoded) bool {
	if q.bytes.Load() > maxCommandBytes || q.all.Load() > maxBeingAnswered {
		return false
	}
	size := int64(len(cmd)) // before the handler takes it
	select {
	case q.queue <- cmd:
		q.count(size)
		return true
	default:
		return false
	}
}

func (q *commands) count(size int64) {
	q.bytes.Add(size)
	q.all.Add(size)
}

// write has send write a command, and is done with it afterwards.
func (q *commands) write(cmd encoded, send func(m any) error) error {
	defer q.count(-int64(len(cmd)))
	return send(&cmd)
}

// drop forgets what waits. Nothing may be put any more.
func (q *commands) drop() {
	for {
		select {
		case cmd := <-q.queue:
			q.count(-int64(len(cmd)))
		default:
			return
		}
	}
}
