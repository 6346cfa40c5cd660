package remoting

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/rpctime"
	"github.com/cairnmq/cairn/internal/wire"
)

// TestLatency: each answered request is counted once, by its code and what was answered.
func TestLatency(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	h, err := rpctime.New(reg, "c", "b")
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, commitlog.ModeOS, Options{Latency: h}, nil)
	c := r.dial(wire.ClientOptions{})
	for range 3 {
		invoke(t, c, request(wire.GetBrokerRuntimeInfo)).Release()
	}
	invoke(t, c, request(9999)).Release()
	invoke(t, c, request(wire.GetMaxOffset)).Release() // without a topic

	all, err := reg.Gather()
	if err != nil || len(all) != 1 {
		t.Fatalf("%v, %v", all, err)
	}
	got := map[string]uint64{}
	for _, m := range all[0].Metric {
		var labels []string
		for _, l := range m.Label {
			if name := l.GetName(); name == "request_code" || name == "response_code" || name == "result" || name == "is_long_polling" {
				labels = append(labels, l.GetValue())
			}
		}
		got[strings.Join(labels, " ")] = m.Histogram.GetSampleCount()
	}
	for labels, want := range map[string]uint64{
		"false get_broker_runtime_info success success":        3,
		"false unsupported request_code_not_supported success": 1,
		"false get_max_offset system_error success":            1,
	} {
		if got[labels] != want {
			t.Errorf("%s: %d, want %d", labels, got[labels], want)
		}
	}
	if len(got) != 3 {
		t.Errorf("series %v", got)
	}
}
