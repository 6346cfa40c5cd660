package broker

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/cairnmq/cairn/internal/clock"
)

const (
	// sampleEvery is how often the totals are noted; sampleCount of them reach ten minutes back.
	sampleEvery = 10 * time.Second
	sampleCount = 61
)

// Rates for the runtime info and stats codes.
type Rates struct {
	PutTPS, GetTPS     [3]float64 // messages per second over the last 10 s, 1 min, 10 min, or since the start
	PutTotal, GetTotal int64      // messages since the start
	PutBytes, GetBytes int64
	PutMaxLatency      time.Duration // of a send, within the last 10 to 20 s
	Boot               time.Time
}

// rates counts what goes in and out. Counting is a few atomic additions.
type rates struct {
	clock clock.Clock
	boot  time.Time

	puts, putBytes, gets, getBytes atomic.Int64
	slowest                        atomic.Int64 // ns, since the last sample

	mu struct {
		sync.Mutex
		samples []rateSample // oldest first
		slowest time.Duration
	}
}

// rateSample is the totals of one moment.
type rateSample struct {
	at         time.Time
	puts, gets int64
}

func newRates(c clock.Clock) *rates {
	r := &rates{clock: c, boot: c.Now()}
	r.sample()
	return r
}

// put counts messages that were stored by one request.
func (r *rates) put(messages, bytes int, latency time.Duration) {
	r.puts.Add(int64(messages))
	r.putBytes.Add(int64(bytes))
	for {
		old := r.slowest.Load()
		if int64(latency) <= old || r.slowest.CompareAndSwap(old, int64(latency)) {
			return
		}
	}
}

// get counts messages that were handed out.
func (r *rates) get(messages, bytes int) {
	r.gets.Add(int64(messages))
	r.getBytes.Add(int64(bytes))
}

// sample notes the totals; the due loop calls it every sampleEvery.
func (r *rates) sample() {
	now := rateSample{at: r.clock.Now(), puts: r.puts.Load(), gets: r.gets.Load()}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.samples = append(r.mu.samples, now)
	if len(r.mu.samples) > sampleCount {
		r.mu.samples = append(r.mu.samples[:0], r.mu.samples[1:]...)
	}
	r.mu.slowest = time.Duration(r.slowest.Swap(0))
}

// Rates answers totals and rates of messages in and out.
func (b *Broker) Rates() Rates { return b.rates.read() }

func (r *rates) read() Rates {
	out := Rates{
		PutTotal: r.puts.Load(), GetTotal: r.gets.Load(), PutBytes: r.putBytes.Load(), GetBytes: r.getBytes.Load(), Boot: r.boot,
	}
	now := r.clock.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	out.PutMaxLatency = max(r.mu.slowest, time.Duration(r.slowest.Load()))
	for i, window := range []time.Duration{10 * time.Second, time.Minute, 10 * time.Minute} {
		from := r.mu.samples[0]
		for _, s := range r.mu.samples {
			if now.Sub(s.at) >= window {
				from = s // the newest that is old enough
			}
		}
		if elapsed := now.Sub(from.at).Seconds(); elapsed > 0 {
			out.PutTPS[i] = float64(out.PutTotal-from.puts) / elapsed
			out.GetTPS[i] = float64(out.GetTotal-from.gets) / elapsed
		}
	}
	return out
}
