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

	samplesPerMinute = int(time.Minute / sampleEvery)
)

// putClasses are the bounds of the classes that the times of sends are counted in. A class reaches from its bound up to the
// next one; the first is below a millisecond.
var putClasses = [...]time.Duration{
	0, time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond,
	500 * time.Millisecond, time.Second, 2 * time.Second, 3 * time.Second, 4 * time.Second, 5 * time.Second, 10 * time.Second,
}

// Rates for the runtime info and stats codes.
type Rates struct {
	PutTPS, GetTPS     [3]float64 // messages per second over the last 10 s, 1 min, 10 min, or since the start
	FoundTPS, MissTPS  [3]float64 // answers per second that had messages, and looks that found none
	PutTotal, GetTotal int64      // messages since the start
	PutBytes, GetBytes int64
	PutFailed          int64 // sends that were accepted and then failed
	// Totals when today and yesterday began, by the machine's time zone; 0 when the broker did not run then.
	PutToday, PutYesterday, GetToday, GetYesterday int64
	PutMaxLatency                                  time.Duration // of a send, within the last 10 to 20 s
	GetMaxLatency                                  time.Duration // of a look for messages, likewise
	// PutTimes counts sends by how long they took within the last one to two minutes: under 1 ms, to 10, 50, 100, 200, 500 ms,
	// to 1, 2, 3, 4, 5, 10 s, and above.
	PutTimes [len(putClasses)]int64
	Boot     time.Time
}

// rates counts what goes in and out. Counting is a few atomic additions.
type rates struct {
	clock clock.Clock
	boot  time.Time

	puts, putBytes, gets, getBytes atomic.Int64
	finds, misses, putFailed       atomic.Int64
	slowest, slowestGet            atomic.Int64 // ns, since the last sample
	putTimes                       [len(putClasses)]atomic.Int64

	trends trends // by topic and group

	mu struct {
		sync.Mutex
		samples             []rateSample // oldest first
		slowest, slowestGet time.Duration
		today, yesterday    rateSample // the totals when they began
		taken               int        // samples since putTimes was last put aside
		putTimes            [len(putClasses)]int64
	}
}

// rateSample is the totals of one moment.
type rateSample struct {
	at                        time.Time
	puts, gets, finds, misses int64
	putBytes, getBytes        int64
}

func newRates(c clock.Clock) *rates {
	r := &rates{clock: c, boot: c.Now()}
	r.mu.today.at = r.boot
	r.sample()
	return r
}

// put counts messages that were stored by one request.
func (r *rates) put(messages, bytes int, latency time.Duration) {
	r.puts.Add(int64(messages))
	r.putBytes.Add(int64(bytes))
	class := 0
	for class < len(putClasses)-1 && latency >= putClasses[class+1] {
		class++
	}
	r.putTimes[class].Add(1)
	raise(&r.slowest, int64(latency))
}

// get counts messages that were handed out in one answer.
func (r *rates) get(messages, bytes int) {
	r.gets.Add(int64(messages))
	r.getBytes.Add(int64(bytes))
	r.finds.Add(1)
}

// looked counts a look for messages.
func (r *rates) looked(found bool, took time.Duration) {
	if !found {
		r.misses.Add(1)
	}
	raise(&r.slowestGet, int64(took))
}

// raise makes v at least n.
func raise(v *atomic.Int64, n int64) {
	for {
		old := v.Load()
		if n <= old || v.CompareAndSwap(old, n) {
			return
		}
	}
}

func (r *rates) now() rateSample {
	return rateSample{
		at: r.clock.Now(), puts: r.puts.Load(), gets: r.gets.Load(), finds: r.finds.Load(), misses: r.misses.Load(),
		putBytes: r.putBytes.Load(), getBytes: r.getBytes.Load(),
	}
}

// sample notes the totals; the due loop calls it every sampleEvery.
func (r *rates) sample() {
	now := r.now()
	r.trends.sample(now)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.samples = append(r.mu.samples, now)
	if len(r.mu.samples) > sampleCount {
		r.mu.samples = append(r.mu.samples[:0], r.mu.samples[1:]...)
	}
	r.mu.slowest = time.Duration(r.slowest.Swap(0))
	r.mu.slowestGet = time.Duration(r.slowestGet.Swap(0))
	if y, m, d := now.at.Local().Date(); time.Date(y, m, d, 0, 0, 0, 0, time.Local).After(r.mu.today.at) {
		r.mu.today, r.mu.yesterday = now, r.mu.today
	}
	if r.mu.taken++; r.mu.taken == samplesPerMinute {
		r.mu.taken = 0
		for i := range r.putTimes {
			r.mu.putTimes[i] = r.putTimes[i].Swap(0)
		}
	}
}

// Rates answers totals and rates of messages in and out.
func (b *Broker) Rates() Rates { return b.rates.read() }

func (r *rates) read() Rates {
	now := r.now()
	out := Rates{
		PutTotal: now.puts, GetTotal: now.gets, PutBytes: now.putBytes, GetBytes: now.getBytes, Boot: r.boot,
		PutFailed: r.putFailed.Load(),
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	out.PutMaxLatency = max(r.mu.slowest, time.Duration(r.slowest.Load()))
	out.GetMaxLatency = max(r.mu.slowestGet, time.Duration(r.slowestGet.Load()))
	out.PutToday, out.PutYesterday = r.mu.today.puts, r.mu.yesterday.puts
	out.GetToday, out.GetYesterday = r.mu.today.gets, r.mu.yesterday.gets
	for i := range out.PutTimes {
		out.PutTimes[i] = r.mu.putTimes[i] + r.putTimes[i].Load()
	}
	for i, window := range []time.Duration{10 * time.Second, time.Minute, 10 * time.Minute} {
		from := r.mu.samples[0]
		for _, s := range r.mu.samples {
			if now.at.Sub(s.at) >= window {
				from = s // the newest that is old enough
			}
		}
		if elapsed := now.at.Sub(from.at).Seconds(); elapsed > 0 {
			out.PutTPS[i] = float64(now.puts-from.puts) / elapsed
			out.GetTPS[i] = float64(now.gets-from.gets) / elapsed
			out.FoundTPS[i] = float64(now.finds-from.finds) / elapsed
			out.MissTPS[i] = float64(now.misses-from.misses) / elapsed
		}
	}
	return out
}
