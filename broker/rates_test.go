package broker

import (
	"testing"
	"time"

	"github.com/cairnmq/cairn/internal/clock"
)

func TestRates(t *testing.T) {
	c := clock.NewFake(epoch)
	r := newRates(c)
	if got := r.read(); got.PutTPS != [3]float64{} || got.PutTotal != 0 || !got.Boot.Equal(epoch) {
		t.Errorf("at the start: %+v", got)
	}
	second := func(puts, gets int) {
		r.put(puts, puts*100, time.Duration(puts)*time.Millisecond)
		r.get(gets, gets*10)
		c.Advance(time.Second)
	}
	for range 5 {
		second(10, 1)
	}
	if got := r.read(); got.PutTPS != [3]float64{10, 10, 10} || got.GetTPS[0] != 1 {
		t.Errorf("since the start: %+v", got)
	}
	for i := range 1200 {
		second(20, 2)
		if i%10 == 0 {
			r.sample()
		}
	}
	for range 9 {
		second(110, 2)
	}
	got := r.read()
	if got.PutTotal != 50+24_000+990 || got.PutBytes != got.PutTotal*100 || got.GetTotal != 5+2400+18 {
		t.Errorf("totals: %+v", got)
	}
	if got.PutTPS[0] != (9*20+9*110)/18.0 { // the newest sample that is 10 s old is 18 s old
		t.Errorf("10 s: %v", got.PutTPS[0])
	}
	if tenMinutes := got.PutTPS[2]; tenMinutes < 20 || tenMinutes > 22 {
		t.Errorf("10 min: %v, want a little over 20", tenMinutes)
	}
	if got.PutMaxLatency != 110*time.Millisecond {
		t.Errorf("slowest: %v", got.PutMaxLatency)
	}
	r.sample()
	r.sample()
	if got := r.read().PutMaxLatency; got != 0 {
		t.Errorf("slowest after two quiet samples: %v", got)
	}
	if n := len(r.mu.samples); n > sampleCount {
		t.Errorf("%d samples are kept", n)
	}
}
