package main

import (
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cairnmq/cairn/delay"
	doorhttp "github.com/cairnmq/cairn/server/http"
)

// pageSize is how many rows one request asks for: as many as the door gives.
const pageSize = 1000

func newTimer() *cobra.Command {
	t := &timerTools{}
	c := &cobra.Command{Use: "timer", Short: "List, count and recall delayed messages",
		Long: `Shows the messages that are to be delivered later and are not yet: those sent with a delay level, a delay, or a
delivery time. A delayed message keeps its topic; it gets its place in the topic's queue at the moment when it is due.

These commands ask one Cairn broker at its HTTP port.`,
		Example: `  cairn timer list                              # what is due next, on all topics
  cairn timer list orders --from 1h --to 2h     # due between one and two hours from now
  cairn timer histogram orders                  # how many are due when
  cairn timer list orders --handles             # with the handles that recall takes
  cairn timer recall HANDLE`}
	t.flags(c)
	var limit int
	var handles bool
	list := &cobra.Command{Use: "list [TOPIC]", Short: "List delayed messages in the order in which they are due", Args: cobra.MaximumNArgs(1),
		RunE: t.run(func(args []string) error { return t.list(args, limit, handles) })}
	list.Flags().IntVarP(&limit, "limit", "l", 20, "how many at most")
	list.Flags().BoolVar(&handles, "handles", false, "show what recall takes")
	t.windowFlags(list)
	var width time.Duration
	histogram := &cobra.Command{Use: "histogram [TOPIC]", Short: "Count delayed messages by the time at which they are due", Args: cobra.MaximumNArgs(1),
		Long: "Counts the delayed messages of a topic, or of all topics, by the time at which they are due. Without --width the\ntime between the first and the last of them is divided into some twenty steps.",
		RunE: t.run(func(args []string) error { return t.histogram(args, width) })}
	histogram.Flags().DurationVarP(&width, "width", "w", 0, "time of one step, at least 1ms; 0: one that fits")
	t.windowFlags(histogram)
	c.AddCommand(list, histogram, &cobra.Command{Use: "recall HANDLE…", Short: "Take delayed messages back, so that they are never delivered", Args: cobra.MinimumNArgs(1),
		Long: "Takes delayed messages back. The handle is what the producer got as the answer to its send, or what 'cairn timer list\n--handles' shows. A message that was delivered meanwhile is an error; to recall one twice is none.",
		RunE: t.run(t.recall)})
	return c
}

type timerTools struct {
	jsonTools
	from, to string
}

func (t *timerTools) windowFlags(c *cobra.Command) {
	c.Flags().StringVar(&t.from, "from", "", "due at or after: a time from now such as 10m, or a time such as 2026-01-31T08:00:00Z")
	c.Flags().StringVar(&t.to, "to", "", "due at or before")
}

// window is the query that the arguments and flags ask for.
func (t *timerTools) window(args []string, now time.Time) (url.Values, error) {
	q := url.Values{}
	if len(args) == 1 {
		q.Set("topic", args[0])
	}
	for _, f := range []struct{ name, text string }{{"from", t.from}, {"to", t.to}} {
		ms, err := parseWhen(f.name, f.text, now)
		if err != nil {
			return nil, err
		}
		if ms > 0 {
			q.Set(f.name, strconv.FormatInt(ms, 10))
		}
	}
	return q, nil
}

func (t *timerTools) list(args []string, limit int, handles bool) error {
	if limit < 1 {
		return usagef("--limit is at least 1")
	}
	now := time.Now()
	q, err := t.window(args, now)
	if err != nil {
		return err
	}
	found := []doorhttp.Timer{}
	more := false
	for len(found) < limit {
		var page doorhttp.TimerList
		q.Set("limit", strconv.Itoa(min(limit-len(found), pageSize)))
		if err := t.get("/v1/timers", q, &page); err != nil {
			return err
		}
		found = append(found, page.Timers...)
		if more = page.Next != ""; !more {
			break
		}
		q.Set("after", page.Next)
	}
	head, last := "KEYS", func(r *doorhttp.Timer) string { return r.Keys }
	if handles {
		head, last = "HANDLE", func(r *doorhttp.Timer) string { return r.Handle }
	}
	return t.print(found, "DUE\tAT\tTOPIC\tQUEUE\tSIZE\tID\t"+head, func(w io.Writer) {
		for i := range found {
			r := &found[i]
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\t%s\n", dueIn(r.Due, now), stamp(r.Due), r.Topic, r.Queue, r.Size, r.ID, last(r))
		}
		if more {
			fmt.Fprintln(w, "…\tand more: --limit shows them, 'cairn timer histogram' counts them")
		}
	})
}

func (t *timerTools) recall(args []string) error {
	handles := make([]delay.Handle, len(args))
	for i, text := range args {
		h, err := delay.ParseHandle(text)
		if err != nil {
			return usagef("%s: %w; 'cairn timer list --handles' shows handles", text, err)
		}
		handles[i] = h
	}
	outcomes := make([]outcome, len(args))
	for i, h := range handles {
		var got doorhttp.Recalled
		outcomes[i].What = h.UniqueID
		if err := t.post("/v1/timers/recall", doorhttp.RecallRequest{Topic: h.Topic, Handle: args[i]}, &got); err != nil {
			outcomes[i].Error = err.Error()
		}
	}
	return t.report("recalled", outcomes)
}

// widths are the steps that a histogram chooses from. Each is a multiple of the one before, so that narrow steps add up to
// wide ones.
var widths = []time.Duration{
	100 * time.Millisecond, time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second,
	time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute,
	time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour, 240 * time.Hour,
}

const (
	mostRows = 25   // of a histogram whose width is found by itself
	mostFine = 1000 // buckets of one answer
	mostBar  = 50   // characters
)

// widthFor is the narrowest step of which so many cover a time (ms).
func widthFor(covered int64, steps int64) int64 {
	for _, w := range widths {
		if covered <= steps*w.Milliseconds() {
			return w.Milliseconds()
		}
	}
	return widths[len(widths)-1].Milliseconds()
}

func (t *timerTools) histogram(args []string, width time.Duration) error {
	now := time.Now()
	q, err := t.window(args, now)
	if err != nil {
		return err
	}
	var h doorhttp.TimerHistogram
	switch {
	case width >= time.Millisecond:
		h, err = t.count(q, width.Milliseconds())
	case width == 0:
		h, err = t.countFitting(q)
	default:
		return usagef("--width is at least 1ms")
	}
	if err != nil {
		return err
	}
	var total, most int64
	for _, b := range h.Buckets {
		total, most = total+b.Count, max(most, b.Count)
	}
	return t.print(h, "FROM\tDUE\tCOUNT\t", func(w io.Writer) {
		for _, b := range h.Buckets {
			bar := strings.Repeat("█", int((b.Count*mostBar+most-1)/max(1, most)))
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", stamp(b.From), dueIn(b.From, now), b.Count, bar)
		}
		fmt.Fprintf(w, "in all\tsteps of %s\t%d\t\n", time.Duration(h.Width)*time.Millisecond, total)
	})
}

func (t *timerTools) count(q url.Values, width int64) (h doorhttp.TimerHistogram, err error) {
	q.Set("width", strconv.FormatInt(width, 10))
	return h, t.get("/v1/timers/histogram", q, &h)
}

// countFitting counts in wide steps first, to learn how much time the timers take up, and then in narrow ones, which it adds
// up to as many rows as a person reads.
func (t *timerTools) countFitting(q url.Values) (doorhttp.TimerHistogram, error) {
	begin, to := number(q, "from"), number(q, "to")
	for width := widths[len(widths)-1].Milliseconds(); ; {
		h, err := t.count(q, width)
		if err != nil || len(h.Buckets) == 0 {
			return h, err
		}
		first, end := h.Buckets[0].From, h.Buckets[len(h.Buckets)-1].From+width
		narrow := widthFor(end-first, mostFine-1)
		if end-first >= mostRows*width || narrow >= width {
			return coarser(h, begin, max(widthFor(end-first, mostRows-1), width)), nil
		}
		width = narrow
		q.Set("from", strconv.FormatInt(first, 10)) // buckets begin there, which is a whole number of narrow ones from begin
		if end--; to == 0 || end < to {
			q.Set("to", strconv.FormatInt(end, 10))
		}
	}
}

func number(q url.Values, name string) int64 {
	v, _ := strconv.ParseInt(q.Get(name), 10, 64) // 0 when it is not there
	return v
}

// coarser adds buckets up to wider ones that begin at a time (ms), empty ones in between included.
func coarser(h doorhttp.TimerHistogram, begin, width int64) doorhttp.TimerHistogram {
	out := doorhttp.TimerHistogram{Width: width}
	for _, b := range h.Buckets {
		from := b.From - (b.From-begin)%width
		for n := len(out.Buckets); n == 0 || out.Buckets[n-1].From < from; n++ {
			next := from
			if n > 0 {
				next = out.Buckets[n-1].From + width
			}
			out.Buckets = append(out.Buckets, doorhttp.TimerBucket{From: next})
		}
		out.Buckets[len(out.Buckets)-1].Count += b.Count
	}
	return out
}
