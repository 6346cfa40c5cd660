package rpctime

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestHistogram(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	h, err := New(reg, "c", "b")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			h.Observe(Call{Protocol: "remoting", Request: "pull_message", Response: "success", Waited: true}, 2500*time.Millisecond)
			h.Observe(Call{Protocol: "remoting", Request: "send_message", Response: "success", OneWay: true}, 500*time.Microsecond)
		})
	}
	all.Wait()
	got, err := reg.Gather()
	if err != nil || len(got) != 1 || len(got[0].Metric) != 2 {
		t.Fatalf("%v, %v", got, err)
	}
	for _, m := range got[0].Metric {
		var labels []string
		for _, l := range m.Label {
			labels = append(labels, l.GetName()+"="+l.GetValue())
		}
		text := strings.Join(labels, " ")
		h := m.Histogram
		switch {
		case h.GetSampleCount() != 4:
			t.Errorf("%s: %d", text, h.GetSampleCount())
		case strings.Contains(text, "pull"):
			if !strings.Contains(text, "is_long_polling=true") || h.GetSampleSum() != 10_000 || h.Bucket[7].GetCumulativeCount() != 0 {
				t.Errorf("%s: %v", text, h)
			}
		case !strings.Contains(text, "result=oneway") || h.Bucket[0].GetCumulativeCount() != 4:
			t.Errorf("%s: %v", text, h)
		}
	}
	(*Histogram)(nil).Observe(Call{}, 0)
}
