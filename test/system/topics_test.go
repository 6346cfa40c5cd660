package system

import (
	"context"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/message"
)

var manyTopics = flag.Int("topics", 2_000, "topics that TestIdleTopicsCostRowsOnly makes, beside a tenth and a hundredth of them")

// footprint is what a broker holds.
type footprint struct {
	goroutines, files, memory, heap, index float64
}

func (c *cairn) footprint() footprint {
	c.t.Helper()
	m := c.metrics()
	return footprint{m["go_goroutines"], m["process_open_fds"], m["process_resident_memory_bytes"], m["go_memstats_heap_inuse_bytes"], folderBytes(c.t, filepath.Join(c.data, "index"))}
}

// sample is the sum of a metric's samples that have all the labels, each as `name="value"`.
func (c *cairn) sample(metric string, labels ...string) (sum float64) {
	c.t.Helper()
	for series, value := range c.metrics() {
		name, set, _ := strings.Cut(strings.TrimSuffix(series, "}"), "{")
		if name == metric && !slices.ContainsFunc(labels, func(l string) bool { return !slices.Contains(strings.Split(set, ","), l) }) {
			sum += value
		}
	}
	return sum
}

// metrics are the samples by name and labels, as they stand in the text.
func (c *cairn) metrics() map[string]float64 {
	c.t.Helper()
	resp, err := http.Get("http://" + c.fixed.HTTP + "/metrics")
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	out := map[string]float64{}
	for _, line := range strings.Split(string(page), "\n") {
		name, value, ok := strings.Cut(line, " ")
		if ok && !strings.HasPrefix(line, "#") {
			if v, err := strconv.ParseFloat(value, 64); err == nil {
				out[name] = v
			}
		}
	}
	return out
}

func folderBytes(t *testing.T, dir string) (n float64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		n += float64(info.Size())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// oneMessageEach makes topics from..to-1 on demand by sending a message to each.
func oneMessageEach(t *testing.T, addr string, from, to int) {
	t.Helper()
	c, err := wire.Dial(context.Background(), addr, wire.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var next atomic.Int64
	next.Store(int64(from))
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(to); i = next.Add(1) - 1 {
				req := wire.NewRequest(wire.SendMessageV2)
				f := &req.Fields
				for k, v := range map[string]string{"a": "many", "b": fmt.Sprintf("many-%d", i), "c": "TBW102", "d": "1", "e": "0", "f": "0", "g": "1", "h": "0", "j": "0", "k": "false"} {
					f.Add(k, v)
				}
				f.Add("i", string(message.AppendProperty(nil, message.PropUniqueKey, message.NewUniqueID())))
				req.Body = []byte("one message")
				resp, err := c.Invoke(context.Background(), req)
				if err != nil || resp.Code != wire.Success {
					t.Errorf("topic %d: %v %+v", i, err, resp)
					return
				}
				resp.Release()
			}
		})
	}
	wg.Wait()
}

// Topics that nobody uses cost rows: no file, no goroutine, and memory within the caches' budget.
func TestIdleTopicsCostRowsOnly(t *testing.T) {
	cairnOnly(t, "it looks at the broker's metrics")
	c := startCairn(t, "--segment-size", "256MiB")
	show := func(topics int, f footprint) {
		t.Logf("%7d topics: %4.0f goroutines, %3.0f files, %6.1f MiB resident, heap in use %6.1f MiB, index %6.1f MiB on disk, ready %s after the start",
			topics, f.goroutines, f.files, f.memory/(1<<20), f.heap/(1<<20), f.index/(1<<20), c.ready.Round(time.Millisecond))
	}
	before := c.footprint()
	show(0, before)
	made := 0
	for _, n := range []int{*manyTopics / 100, *manyTopics / 10, *manyTopics} {
		began := time.Now()
		oneMessageEach(t, c.fixed.Remoting, made, n)
		t.Logf("%d topics made by their first message: %.0f/s", n-made, float64(n-made)/time.Since(began).Seconds())
		made = n
		show(n, c.footprint())
		c.stop()
		c.start()
		show(n, c.footprint())
	}
	after := c.footprint()
	if after.goroutines > before.goroutines+20 {
		t.Errorf("%.0f goroutines with %d topics, %.0f with none", after.goroutines, made, before.goroutines)
	}
	if after.files > before.files+60 {
		t.Errorf("%.0f open files with %d topics, %.0f with none", after.files, made, before.files)
	}
	c.kill()
	c.start()
	t.Logf("after a kill: ready %s after the start", c.ready.Round(time.Millisecond))
	if out := run(t, "topic", "show", fmt.Sprintf("many-%d", made-1), "-n", c.fixed.NameServer); !strings.Contains(out, "1 messages") {
		t.Errorf("the last topic: %s", out)
	}
}
