package remoting

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/store"
)

// The broker of a benchmark is a process of its own (this test binary again, told by an environment variable), so that
// its processor time can be told from the client's. It serves until its standard input ends.
const (
	envServe   = "CAIRN_BENCH_SERVE"   // folder
	envMode    = "CAIRN_BENCH_MODE"    // commitlog.Mode
	envProfile = "CAIRN_BENCH_PROFILE" // file for a profile of the broker, may be empty
)

func serveForBenchmark(dir string) error {
	mode, err := strconv.Atoi(os.Getenv(envMode))
	if err != nil {
		return err
	}
	if name := os.Getenv(envProfile); name != "" {
		f, err := os.Create(name)
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	bo := broker.Options{
		Advertise: netip.MustParseAddrPort("127.0.0.1:10911"), AutoCreateTopics: true, AutoCreateGroups: true, Logger: zerolog.Nop(),
	}
	so := store.Options{FS: vfs.Default, Dir: dir, CacheBytes: 256 << 20, Mode: commitlog.Mode(mode), Logger: zerolog.Nop()}
	b, err := broker.Open(context.Background(), so, bo)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	d := New(b, Options{})
	fmt.Println(ln.Addr())
	ended := make(chan error, 1)
	go func() { ended <- d.Serve(ln) }()
	_, _ = bufio.NewReader(os.Stdin).ReadByte() // returns when the parent closes it
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := d.Close(ctx); err != nil {
		return err
	}
	if err := <-ended; err != nil {
		return err
	}
	return b.Close()
}

type benchBroker struct {
	addr string
	pid  int
}

func startBroker(b *testing.B, mode commitlog.Mode) benchBroker {
	b.Helper()
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), envServe+"="+b.TempDir(), fmt.Sprintf("%s=%d", envMode, mode))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			b.Errorf("the broker: %v", err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return benchBroker{addr: strings.TrimSpace(line), pid: cmd.Process.Pid}
}

// cpu is what the broker has used, in clock ticks of 10 ms.
func (br benchBroker) cpu(b *testing.B) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", br.pid))
	if err != nil {
		b.Skip("needs /proc: ", err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// BenchmarkSend is the broker's processor time for a send of 128 bytes over loopback, with a number of sends under way on
// each connection. Run it with -benchtime 300000x or more: the broker's time is read in steps of 10 ms.
func BenchmarkSend(b *testing.B) {
	for _, mode := range []struct {
		name string
		mode commitlog.Mode
	}{{"sync", commitlog.ModeSync}, {"os", commitlog.ModeOS}} {
		for _, load := range []struct{ conns, depth int }{{1, 64}, {16, 16}, {64, 1}} {
			b.Run(fmt.Sprintf("%s/conns=%d/depth=%d", mode.name, load.conns, load.depth), func(b *testing.B) {
				br := startBroker(b, mode.mode)
				benchSend(b, br, load.conns, load.depth)
			})
		}
	}
}

func benchSend(b *testing.B, br benchBroker, conns, depth int) {
	var wg sync.WaitGroup
	clients := make([]*wire.Client, conns)
	for i := range clients {
		c, err := wire.Dial(b.Context(), br.addr, wire.ClientOptions{})
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		clients[i] = c
	}
	text := strings.Repeat("x", 128)
	if resp := invoke(b, clients[0], sendRequest("bench", "0", text)); resp.Code != wire.Success {
		b.Fatal(resp.Code, resp.Remark)
	}
	before := br.cpu(b)
	b.ResetTimer()
	for i, c := range clients {
		wg.Add(1)
		go func() {
			defer wg.Done()
			benchConn(b, c, i, b.N/conns, depth, text)
		}()
	}
	wg.Wait()
	b.StopTimer()
	n := float64(b.N / conns * conns)
	b.ReportMetric(float64((br.cpu(b)-before).Microseconds())/n, "broker-µs/msg")
	b.ReportMetric(n/b.Elapsed().Seconds(), "msg/s")
}

func benchConn(b *testing.B, c *wire.Client, i, n, depth int, text string) {
	window := make(chan struct{}, depth)
	req := sendRequest("bench", strconv.Itoa(i%4), text)
	for range n {
		window <- struct{}{}
		r := *req
		if err := c.InvokeAsync(&r, func(resp *wire.Command, err error) {
			if err != nil || resp.Code != wire.Success {
				b.Errorf("%+v %v", resp, err)
			}
			if err == nil {
				resp.Release()
			}
			<-window
		}); err != nil {
			b.Error(err)
			return
		}
	}
	for range depth {
		window <- struct{}{}
	}
}

// BenchmarkPull is the broker's processor time for a message that is pulled, 32 at a time as the Java client does it, from a
// queue of a hundred thousand that was stored one by one.
func BenchmarkPull(b *testing.B) {
	const stored = 100_000
	br := startBroker(b, commitlog.ModeOS)
	c, err := wire.Dial(b.Context(), br.addr, wire.ClientOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	text := strings.Repeat("x", 128)
	if resp := invoke(b, c, sendRequest("bench", "0", text)); resp.Code != wire.Success {
		b.Fatal(resp.Code, resp.Remark)
	}
	benchConn(b, c, 0, stored-1, 256, text)
	before := br.cpu(b)
	b.ResetTimer()
	pulled, offset := 0, int64(0)
	for pulled < b.N {
		resp := invoke(b, c, pullRequest("g", "bench", strconv.FormatInt(offset, 10), "0"))
		next, err := resp.Fields.Int64("nextBeginOffset")
		if err != nil || resp.Code != wire.Success {
			b.Fatal(resp.Code, resp.Remark, err)
		}
		pulled += int(next - offset)
		if offset = next; offset == stored {
			offset = 0
		}
		resp.Release()
	}
	b.StopTimer()
	b.ReportMetric(float64((br.cpu(b)-before).Microseconds())/float64(pulled), "broker-µs/msg")
	b.ReportMetric(float64(pulled)/b.Elapsed().Seconds(), "msg/s")
}

// BenchmarkPopAck is the broker's processor time for a message that is popped, 32 at a time as the Java client does it, and
// acknowledged by itself, all of them at the same time. The messages were stored one by one in a queue.
func BenchmarkPopAck(b *testing.B) {
	for _, mode := range []struct {
		name string
		mode commitlog.Mode
	}{{"sync", commitlog.ModeSync}, {"os", commitlog.ModeOS}} {
		b.Run(mode.name, func(b *testing.B) { benchPopAck(b, startBroker(b, mode.mode)) })
	}
}

func benchPopAck(b *testing.B, br benchBroker) {
	c, err := wire.Dial(b.Context(), br.addr, wire.ClientOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	text := strings.Repeat("x", 128)
	if resp := invoke(b, c, sendRequest("bench", "0", text)); resp.Code != wire.Success {
		b.Fatal(resp.Code, resp.Remark)
	}
	benchConn(b, c, 0, b.N-1, 256, text)
	before := br.cpu(b)
	b.ResetTimer()
	window := make(chan struct{}, 1024)
	for popped := 0; popped < b.N; {
		resp := invoke(b, c, popRequest("g", "bench", "1000"))
		if resp.Code != wire.Success {
			b.Fatal(resp.Code, resp.Remark)
		}
		places := offsetInfo(resp.Fields.Text("msgOffsetInfo"))
		for at, offsets := range places {
			queue := strings.TrimPrefix(at, "0@")
			popped += len(offsets)
			for _, offset := range offsets {
				window <- struct{}{}
				ack := request(wire.AckMessage, "consumerGroup", "g", "topic", "bench", "queueId", queue, "offset", offset,
					"extraInfo", receiptText(resp, offsets[0], queue, offset))
				if err := c.InvokeAsync(ack, func(resp *wire.Command, err error) {
					if err != nil || resp.Code != wire.Success {
						b.Errorf("%+v %v", resp, err)
					}
					if err == nil {
						resp.Release()
					}
					<-window
				}); err != nil {
					b.Fatal(err)
				}
			}
		}
		resp.Release()
	}
	for range cap(window) {
		window <- struct{}{}
	}
	b.StopTimer()
	b.ReportMetric(float64((br.cpu(b)-before).Microseconds())/float64(b.N), "broker-µs/msg")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}
