package catalog

import (
	"math"
	"testing"
	"time"
)

func TestMaxAttempts(t *testing.T) {
	for retries, want := range map[int32]int32{-1: 1, 0: 1, 2: 3, 16: 17, math.MaxInt32: math.MaxInt32} {
		if got := (&Group{RetryMaxTimes: retries}).MaxAttempts(); got != want {
			t.Errorf("%d retries: %d attempts, want %d", retries, got, want)
		}
	}
}

func TestAutoRedrive(t *testing.T) {
	for change, want := range map[string]AutoRedrive{
		"":                       {},
		"+dlq.redrive.max=5":     {},
		"+dlq.redrive.after=1h":  {time.Hour, defaultRedrives},
		"+dlq.redrive.after=90s": {90 * time.Second, defaultRedrives},
		"+dlq.redrive.after=1h30m,+dlq.redrive.max=1": {90 * time.Minute, 1},
	} {
		attrs, err := ApplyGroupAttributes(nil, change, true)
		if err != nil {
			t.Fatalf("%s: %v", change, err)
		}
		if got := (&Group{Attributes: attrs}).AutoRedrive(); got != want {
			t.Errorf("%s: %+v, want %+v", change, got, want)
		}
	}
	for _, change := range []string{
		"+dlq.redrive.after=soon", "+dlq.redrive.after=59s", "+dlq.redrive.after=-1h", "+dlq.redrive.max=0", "+dlq.redrive.max=1001", "+dlq.redrive.max=x",
	} {
		if _, err := ApplyGroupAttributes(nil, change, true); err == nil {
			t.Errorf("%s is accepted", change)
		}
	}
}

// TestNegativeWaitsAreNone: clients may put any number into a group's policy.
func TestNegativeWaitsAreNone(t *testing.T) {
	p := &RetryPolicy{Type: RetryCustomized, Customized: &CustomizedBackoff{Next: []int64{-5, 7}}}
	if a, b := p.Wait(1), p.Wait(2); a != 0 || b != 7*time.Millisecond {
		t.Errorf("%v, %v", a, b)
	}
}
