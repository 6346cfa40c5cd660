package store

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// The kill tests run a store in a child process on the real disk and kill it. The child is this test binary again.

const (
	childDir  = "CAIRN_STORE_CHILD_DIR"
	childMode = "CAIRN_STORE_CHILD_MODE"
	childFill = "CAIRN_STORE_CHILD_FILL" // messages to store before it says that it is ready
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := runChild(dir); err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
		return
	}
	// A check of the model is a few hundred messages and some restarts; the flag on the command line still decides.
	if err := flag.Set("rapid.checks", "40"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

func childOptions(dir string, mode commitlog.Mode) Options {
	return Options{
		Dir: dir, Engine: testEngine, Mode: mode, SegmentSize: 64 << 20, Clock: clock.System, Logger: zerolog.Nop(),
	}
}

const childSenders = 4

// runChild stores what childFill says, prints "ready", and then sends until it is killed or stdin ends: each sender to a
// queue of its own, and a line "sender number" for each acknowledged message.
func runChild(dir string) error {
	mode, _ := strconv.Atoi(os.Getenv(childMode))
	s, err := open(context.Background(), childOptions(dir, commitlog.Mode(mode)), noFolds)
	if err != nil {
		return err
	}
	topic, err := childTopic(s)
	if err != nil {
		return err
	}
	if n, _ := strconv.Atoi(os.Getenv(childFill)); n > 0 {
		if err := childStore(s, topic, n); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	out := make(chan string, 1024)
	for sender := range int32(childSenders) {
		_, next, err := s.Bounds(topic, sender)
		if err != nil {
			return err
		}
		go func() {
			for n := next; ; n++ {
				m := benchMessage(int(n), sender)
				m.Body = strconv.AppendInt(nil, n, 10)
				r, err := MessageRecord(topic, &m)
				if err == nil {
					_, err = s.Append(context.Background(), r)
				}
				if err != nil {
					return // closing
				}
				out <- fmt.Sprintf("%d %d\n", sender, n)
			}
		}()
	}
	go func() {
		for line := range out {
			_, _ = os.Stdout.WriteString(line)
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent lets go or is gone
	return nil
}

func childTopic(s *Store) (kvindex.ID, error) {
	if t, err := s.Catalog.Topic("a"); err == nil {
		return t.ID, nil
	}
	out, err := s.Append(context.Background(), record.Record{Kind: record.KindTopicPut, Payload: []byte("\x00\x01a{}")})
	if err != nil {
		return 0, err
	}
	return kvindex.ID(out[0].Offset), nil
}

// childStore stores n messages in 8 further queues, from a few senders at once.
func childStore(s *Store, topic kvindex.ID, n int) error {
	const at, each = 4, 250
	errs := make(chan error, at)
	for w := range at {
		go func() {
			for done := 0; done < n/at; done += each {
				var recs []record.Record
				for i := range each {
					m := benchMessage(w*n+done+i, int32(childSenders+(done+i)%8))
					r, err := MessageRecord(topic, &m)
					if err != nil {
						errs <- err
						return
					}
					recs = append(recs, r)
				}
				if _, err := s.Append(context.Background(), recs...); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range at {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}

// child is a store in another process.
type child struct {
	cmd   *exec.Cmd
	stdin io.Closer
	mu    struct {
		sync.Mutex
		acked [childSenders]int64 // one more than the last number acknowledged
		lines int
	}
	ready chan struct{}
	done  chan struct{}
}

func startChild(t testing.TB, dir string, mode commitlog.Mode, fill int) *child {
	t.Helper()
	c := &child{cmd: exec.Command(os.Args[0]), ready: make(chan struct{}), done: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), childDir+"="+dir, fmt.Sprintf("%s=%d", childMode, mode),
		fmt.Sprintf("%s=%d", childFill, fill))
	c.cmd.Stderr = os.Stderr
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go c.listen(stdout)
	return c
}

// listen takes whole lines; the last one may have been cut by the kill.
func (c *child) listen(r io.Reader) {
	defer close(c.done)
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		if strings.TrimSpace(line) == "ready" {
			close(c.ready)
			continue
		}
		var sender int
		var n int64
		if _, err := fmt.Sscanf(line, "%d %d", &sender, &n); err != nil {
			continue
		}
		c.mu.Lock()
		c.mu.acked[sender] = n + 1
		c.mu.lines++
		c.mu.Unlock()
	}
}

func (c *child) lines() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.lines
}

// kill kills it and returns what it had acknowledged.
func (c *child) kill(t testing.TB) [childSenders]int64 {
	t.Helper()
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-c.done
	_ = c.cmd.Wait() // it was killed
	_ = c.stdin.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.acked
}

func TestNothingAcknowledgedIsLostWhenTheProcessIsKilled(t *testing.T) {
	rounds := 4
	if n, err := strconv.Atoi(os.Getenv("CAIRN_KILL_ROUNDS")); err == nil {
		rounds = n
	}
	for _, mode := range []commitlog.Mode{commitlog.ModeSync, commitlog.ModeInterval, commitlog.ModeOS} {
		t.Run(mode.String(), func(t *testing.T) {
			dir := t.TempDir()
			var longest time.Duration
			for round := range rounds {
				c := startChild(t, dir, mode, 0)
				<-c.ready
				want := 50 + rand.IntN(1500)
				eventually(t, "the child acknowledges", func() bool { return c.lines() >= want })
				acked := c.kill(t)
				began := time.Now()
				s := mustOpen(t, childOptions(dir, mode))
				longest = max(longest, time.Since(began))
				checkKilled(t, s, acked, round)
				mustClose(t, s)
			}
			t.Logf("%d kills, longest start %v", rounds, longest)
		})
	}
}

func checkKilled(t *testing.T, s *Store, acked [childSenders]int64, round int) {
	t.Helper()
	mustVerify(t, s)
	topic, err := s.Catalog.Topic("a")
	if err != nil {
		t.Fatal(err)
	}
	for sender := range int32(childSenders) {
		got := readAll(t, s, topic.ID, sender, 0, 1<<30)
		if int64(len(got)) < acked[sender] {
			t.Fatalf("round %d: sender %d had %d acknowledged, %d are there", round, sender, acked[sender], len(got))
		}
		for i, m := range got {
			if string(m.Body) != strconv.Itoa(i) {
				t.Fatalf("round %d: sender %d: message %d is %q", round, sender, i, m.Body)
			}
		}
	}
}

// BenchmarkTimeToReady says how long a start takes after the process was killed with two million messages stored, at
// moments that have nothing to do with the flushes of the index: the mean of ten kills, and the longest.
func BenchmarkTimeToReady(b *testing.B) {
	const messages, kills = 2_000_000, 10
	for b.Loop() {
		dir := b.TempDir()
		fill := messages
		var total, longest time.Duration
		var records int64
		for range kills {
			c := startChild(b, dir, commitlog.ModeSync, fill)
			<-c.ready
			c.kill(b)
			fill = 20_000 + rand.IntN(130_000)
			began := time.Now()
			s := mustOpen(b, childOptions(dir, commitlog.ModeSync))
			took := time.Since(began)
			total += took
			longest = max(longest, took)
			records = max(records, s.Recovery().Records)
			b.Logf("%v for %d records, %d log bytes", took, s.Recovery().Records, s.Recovery().LogBytes)
			killed(s)
		}
		b.ReportMetric(total.Seconds()*1000/kills, "ms/start")
		b.ReportMetric(longest.Seconds()*1000, "ms/longest")
		b.ReportMetric(float64(records), "records/longest")
	}
}

// killed lets go of a store without making anything of it durable, as a kill does.
func killed(s *Store) {
	s.failed.CompareAndSwap(nil, &errKilled)
	_ = s.Close()
}

var errKilled = fmt.Errorf("killed: %w", commitlog.ErrClosed)
