package broker

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/cairnmq/cairn/internal/clock"
)

func TestColdReadersGetAShareOfTheTime(t *testing.T) {
	b := newColdBudget(clock.NewFake(time.UnixMilli(0)), func() int64 { return 0 })
	share := float64(runtime.GOMAXPROCS(0)) / coldShare
	now := time.UnixMilli(1_700_000_000_000)
	const reads = 10_000
	for _, read := range []time.Duration{20 * time.Microsecond, 200 * time.Microsecond, coldCharge} {
		began := now
		for range reads {
			now = now.Add(b.pause(now))
			ended := now.Add(read)
			b.spend(now, ended)
			now = ended
		}
		took := now.Sub(began).Seconds()
		least, most := max(reads*read.Seconds(), (reads*read-2*coldBurst).Seconds()/share), max(1, 1.06/share)*reads*read.Seconds()
		if took < least || took > most {
			t.Errorf("%d reads of %v took %.3f s, not %.3f to %.3f: their share is %.2f", reads, read, took, least, most, share)
		}
	}
	// who waited an hour for the object store is charged for no more than a read may take
	b.spend(now, now.Add(time.Hour))
	now = now.Add(time.Hour)
	if pause := b.pause(now); pause > 0 {
		t.Errorf("after that hour the next waits %v", pause)
	}
}

func TestColdReadersAloneAreNotHeldBack(t *testing.T) {
	c := clock.NewFake(time.UnixMilli(1_700_000_000_000))
	puts := int64(7)
	b := newColdBudget(c, func() int64 { return puts })
	for range 100 { // costs them nothing
		b.run(t.Context(), func() { c.Advance(coldCharge) })
	}
	if pause := b.pause(c.Now()); pause > 0 {
		t.Errorf("the next waits %v", pause)
	}
	puts++
	for range 100 {
		b.spend(c.Now(), c.Now().Add(coldCharge))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ran := false
	if b.run(ctx, func() { ran = true }); !ran { // and waited for a clock that stands still, this would never end
		t.Error("it was not called although the context had ended")
	}
	c.Advance(coldAlone)
	if b.run(t.Context(), func() { ran = false }); ran {
		t.Error("nothing came in any more, and it was not called")
	}
}
