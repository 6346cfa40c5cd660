package broker

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"
)

// A thousand consumers that join one after the other are told a few times each, not each of each; in the end everybody was told
// after the last one came.
func TestManyJoinersAreToldTogether(t *testing.T) {
	const n = 1000
	c, now := newTestClients()
	type call struct {
		at time.Time
		f  func()
	}
	var calls []call
	c.later = func(at time.Time, f func()) { calls = append(calls, call{at, f}) }
	run := func() {
		for len(calls) > 0 && !calls[0].at.After(now.Now()) {
			f := calls[0].f
			calls = calls[1:]
			f()
		}
	}
	var told atomic.Int64
	last := make([]int, n) // how many were there when it was told
	for i := range n {
		c.RegisterConsumer("g", &Client{ID: fmt.Sprint(i), Conn: i, Notify: func(string) {
			told.Add(1)
			last[i] = len(c.ConsumerIDs("g"))
		}}, subscribed(1, "t"))
		now.Advance(time.Millisecond)
		run()
	}
	now.Advance(2 * n * quietPerMember)
	run()
	for i, seen := range last {
		if seen != n {
			t.Fatalf("consumer %d was told when %d of %d were there", i, seen, n)
		}
	}
	if got := told.Load(); got > 10*n {
		t.Errorf("%d notices to %d consumers", got, n)
	}
	if len(calls) != 0 {
		t.Errorf("%d calls are left", len(calls))
	}
	before := told.Load()
	for i := range n - 1 { // a process with all but one of them ends
		c.CloseConn(i)
	}
	now.Advance(2 * n * quietPerMember)
	run()
	if ids := c.ConsumerIDs("g"); len(ids) != 1 || last[n-1] != 1 {
		t.Errorf("%q are left; the last was told when %d were there", ids, last[n-1])
	}
	if got := told.Load() - before; got > 10*n {
		t.Errorf("%d notices of the end of %d consumers", got, n)
	}
}

func TestFewMembersAreToldAtOnce(t *testing.T) {
	c, _ := newTestClients()
	c.later = func(time.Time, func()) { t.Error("somebody is told later") }
	told := 0
	for i := range manyMembers {
		c.RegisterConsumer("g", &Client{ID: fmt.Sprint(i), Conn: i, Notify: func(string) { told++ }}, subscribed(1, "t"))
	}
	if want := manyMembers * (manyMembers - 1) / 2; told != want {
		t.Errorf("%d notices, want %d", told, want)
	}
}
