package broker

import (
	"sync/atomic"
	"testing"
)

func TestWorkersRunEverything(t *testing.T) {
	w := newWorkers(3, 2)
	var ran atomic.Int64
	for range 1000 {
		w.run(func() { ran.Add(1) })
	}
	w.close()
	if n := ran.Load(); n != 1000 {
		t.Errorf("%d ran before close returned, want 1000", n)
	}
	w.run(func() { ran.Add(1) })
	if n := ran.Load(); n != 1001 {
		t.Error("after close nobody ran it")
	}
}
