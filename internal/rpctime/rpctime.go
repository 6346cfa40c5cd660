// Package rpctime measures how long the doors take to answer requests.
package rpctime

import (
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Histogram is the metric rocketmq_rpc_latency, in ms, with the labels and bounds that RocketMQ gives it. Nil measures nothing.
// Safe for concurrent use.
type Histogram struct {
	vec  *prometheus.HistogramVec
	mu   sync.Mutex                                   // for who adds to seen
	seen atomic.Pointer[map[Call]prometheus.Observer] // is replaced, never changed
}

// Call is a kind of answered request. All of it comes from tables of the doors, so there is a bounded number of them.
type Call struct {
	Protocol string // remoting or grpc
	Request  string // the name of the request code or rpc, in small letters
	Response string // the name or number of the response's code
	Waited   bool   // it was a long poll that waited
	OneWay   bool   // nobody wanted an answer
}

var bounds = []float64{1, 3, 5, 7, 10, 100, 1000, 2000, 3000}

// New makes the metric of one broker and registers it.
func New(reg prometheus.Registerer, cluster, node string) (*Histogram, error) {
	h := &Histogram{vec: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "rocketmq_rpc_latency", Help: "How long requests took until they were answered, in ms.", Buckets: bounds,
		ConstLabels: prometheus.Labels{"cluster": cluster, "node_type": "broker", "node_id": node},
	}, []string{"protocol_type", "request_code", "response_code", "is_long_polling", "result"})}
	h.seen.Store(&map[Call]prometheus.Observer{})
	return h, reg.Register(h.vec)
}

// Observe counts one request.
func (h *Histogram) Observe(c Call, took time.Duration) {
	if h == nil {
		return
	}
	o := (*h.seen.Load())[c]
	if o == nil {
		o = h.add(c)
	}
	o.Observe(float64(took) / float64(time.Millisecond))
}

func (h *Histogram) add(c Call) prometheus.Observer {
	h.mu.Lock()
	defer h.mu.Unlock()
	result := "success"
	if c.OneWay {
		result = "oneway"
	}
	o := h.vec.WithLabelValues(c.Protocol, c.Request, c.Response, strconv.FormatBool(c.Waited), result)
	seen := maps.Clone(*h.seen.Load())
	seen[c] = o
	h.seen.Store(&seen)
	return o
}
