package bench

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func TestRatiosAreOfMedians(t *testing.T) {
	var in bytes.Buffer
	enc := json.NewEncoder(&in)
	for _, row := range []Row{
		{"cairn", "send", Result{Throughput: 100, Send: &Latency{P50: 1}, Broker: &Usage{CPUPerMessage: 5}}},
		{"cairn", "send", Result{Throughput: 300, Send: &Latency{P50: 3}, Broker: &Usage{CPUPerMessage: 5}}},
		{"cairn", "send", Result{Throughput: 200, Send: &Latency{P50: 2}, Broker: &Usage{CPUPerMessage: 5}}},
		{"file", "send", Result{Throughput: 50, Failed: 2, Send: &Latency{P50: 8}, Broker: &Usage{CPUPerMessage: 50}}},
	} {
		if err := enc.Encode(row); err != nil {
			t.Fatal(err)
		}
	}
	var out strings.Builder
	if err := Ratios(&in, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"cairn ÷ file", "4.000×", "0.250×", "0.100×"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %s in\n%s", want, out.String())
		}
	}
}
