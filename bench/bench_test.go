package bench

import (
	"os"
	"testing"
)

func TestBitmapTellsRepeats(t *testing.T) {
	b := newBitmap()
	for _, i := range []uint64{0, 63, 64, 1_000_000} {
		if !b.add(i) || b.add(i) {
			t.Errorf("%d", i)
		}
	}
}

func TestUsageOfThisProcess(t *testing.T) {
	m := startUsage(os.Getpid())
	sum := 0
	for cpuTicks(os.Getpid()) < m.ticks+5 {
		for i := range 1_000_000 {
			sum += i
		}
	}
	u := m.stop(1000)
	if u == nil || u.CPUPerMessage < 40 || u.ResidentMiB < 1 {
		t.Fatalf("%+v (%d)", u, sum)
	}
	if startUsage(0).stop(5) != nil {
		t.Fatal("a process that is not known has no usage")
	}
}

func TestOptionsAreChecked(t *testing.T) {
	good := Options{Protocol: Remoting, Workers: 1, Conns: 1, Size: 128, Count: 1, Batch: 32}
	if _, err := good.target(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Options){
		"size": func(o *Options) { o.Size = 8 }, "workers": func(o *Options) { o.Workers = 0 }, "end": func(o *Options) { o.Count = 0 },
		"batch": func(o *Options) { o.Batch = 33 }, "protocol": func(o *Options) { o.Protocol = "smtp" },
	} {
		o := good
		change(&o)
		if _, err := o.target(); err == nil {
			t.Errorf("a bad %s was taken", name)
		}
	}
}
