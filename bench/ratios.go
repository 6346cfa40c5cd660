package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// Row is one line of a comparison file: a result with the broker and the case that it belongs to.
type Row struct {
	Broker string `json:"broker"` // "cairn", or the reference's store mode
	Case   string `json:"case"`
	Result Result `json:"result"`
}

type figure struct {
	name string
	of   func(Result) (float64, bool)
}

func millis(l *Latency, of func(*Latency) float64) (float64, bool) {
	if l == nil {
		return 0, false
	}
	return of(l), true
}

// sentBeforeWake is a latency of a run that wakes pops: what it took besides the waking.
func sentBeforeWake(r Result, l *Latency, of func(*Latency) float64) (float64, bool) {
	if r.Wake == nil {
		return 0, false
	}
	return millis(l, of)
}

// main latency of a result: what its case is about, else end to end, else that of the send, else of the acknowledgement.
func (r Result) latency() *Latency {
	for _, l := range []*Latency{r.Wake, r.Late, r.Recall, r.Pair, r.EndToEnd, r.Send, r.Ack} {
		if l != nil {
			return l
		}
	}
	return nil
}

var figures = []figure{
	{"msg/s", func(r Result) (float64, bool) { return r.Throughput, true }},
	{"p50 ms", func(r Result) (float64, bool) { return millis(r.latency(), func(l *Latency) float64 { return l.P50 }) }},
	{"p99 ms", func(r Result) (float64, bool) { return millis(r.latency(), func(l *Latency) float64 { return l.P99 }) }},
	{"p99.9 ms", func(r Result) (float64, bool) { return millis(r.latency(), func(l *Latency) float64 { return l.P999 }) }},
	{"max ms", func(r Result) (float64, bool) { return millis(r.latency(), func(l *Latency) float64 { return l.Max }) }},
	{"send p50", func(r Result) (float64, bool) {
		return sentBeforeWake(r, r.Send, func(l *Latency) float64 { return l.P50 })
	}},
	{"send p99", func(r Result) (float64, bool) {
		return sentBeforeWake(r, r.Send, func(l *Latency) float64 { return l.P99 })
	}},
	{"send to receipt p50", func(r Result) (float64, bool) {
		return sentBeforeWake(r, r.EndToEnd, func(l *Latency) float64 { return l.P50 })
	}},
	{"p99", func(r Result) (float64, bool) {
		return sentBeforeWake(r, r.EndToEnd, func(l *Latency) float64 { return l.P99 })
	}},
	{"machine p99.9", func(r Result) (float64, bool) { return millis(r.Machine, func(l *Latency) float64 { return l.P999 }) }},
	{"CPU µs/msg", func(r Result) (float64, bool) {
		if r.Broker == nil {
			return 0, false
		}
		return r.Broker.CPUPerMessage, true
	}},
	{"RSS MiB", func(r Result) (float64, bool) {
		if r.Broker == nil {
			return 0, false
		}
		return r.Broker.ResidentMiB, true
	}},
	{"written B/msg", func(r Result) (float64, bool) {
		if r.Broker == nil {
			return 0, false
		}
		return r.Broker.BytesPerMessage, true
	}},
}

const ours = "cairn"

// Ratios reads rows (JSON, one after the other) and prints for each case the median figures of every broker, and Cairn's
// as a ratio to each other one's.
func Ratios(r io.Reader, w io.Writer) error {
	var cases, brokers []string
	rounds := map[[2]string][]Result{}
	dec := json.NewDecoder(r)
	for {
		var row Row
		err := dec.Decode(&row)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read results: %w", err)
		}
		if !slices.Contains(cases, row.Case) {
			cases = append(cases, row.Case)
		}
		if !slices.Contains(brokers, row.Broker) {
			brokers = append(brokers, row.Broker)
		}
		key := [2]string{row.Case, row.Broker}
		rounds[key] = append(rounds[key], row.Result)
	}
	t := tabwriter.NewWriter(w, 2, 0, 2, ' ', tabwriter.AlignRight)
	for _, c := range cases {
		shown := slices.DeleteFunc(slices.Clone(figures), func(f figure) bool {
			return !slices.ContainsFunc(brokers, func(b string) bool { _, ok := median(rounds[[2]string{c, b}], f); return ok })
		})
		fmt.Fprintf(t, "%s\t", c)
		for _, f := range shown {
			fmt.Fprintf(t, "%s\t", f.name)
		}
		fmt.Fprintln(t, "failed\tlost\tearly\t")
		for _, b := range brokers {
			printMedians(t, b, shown, rounds[[2]string{c, b}])
		}
		for _, b := range brokers {
			if b != ours {
				printRatios(t, b, shown, rounds[[2]string{c, ours}], rounds[[2]string{c, b}])
			}
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}

func median(rs []Result, f figure) (float64, bool) {
	var vs []float64
	for _, r := range rs {
		if v, ok := f.of(r); ok {
			vs = append(vs, v)
		}
	}
	if len(vs) == 0 {
		return 0, false
	}
	slices.Sort(vs)
	return vs[len(vs)/2], true
}

func printMedians(w io.Writer, broker string, figures []figure, rs []Result) {
	if len(rs) == 0 {
		return
	}
	fmt.Fprintf(w, "%s\t", broker)
	for _, f := range figures {
		if v, ok := median(rs, f); ok {
			fmt.Fprintf(w, "%.4g\t", v)
		} else {
			fmt.Fprint(w, "–\t")
		}
	}
	var failed, lost, early int64
	for _, r := range rs {
		failed += r.Failed
		lost += r.Lost
		early += r.Early
	}
	fmt.Fprintf(w, "%d\t%d\t%d\t\n", failed, lost, early)
}

func printRatios(w io.Writer, other string, figures []figure, us, them []Result) {
	if len(us) == 0 || len(them) == 0 {
		return
	}
	fmt.Fprintf(w, "cairn ÷ %s\t", other)
	for _, f := range figures {
		a, ok1 := median(us, f)
		b, ok2 := median(them, f)
		if ok1 && ok2 && b > 0 {
			fmt.Fprintf(w, "%.3f×\t", a/b)
		} else {
			fmt.Fprint(w, "–\t")
		}
	}
	fmt.Fprintln(w, "\t\t\t")
}
