package system

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/message"
)

// follower reads the queues of a topic as they grow, over restarts of the broker.
type follower struct {
	t      *testing.T
	c      *cairn
	topic  string
	wg     sync.WaitGroup
	cancel context.CancelFunc

	mu    sync.Mutex
	lines [][]int64       // queue → the numbers in it by offset
	when  map[int64]int64 // number → ms at which it was seen
}

func follow(t *testing.T, c *cairn, topic string, queues int) *follower {
	ctx, cancel := context.WithCancel(context.Background())
	f := &follower{t: t, c: c, topic: topic, cancel: cancel, lines: make([][]int64, queues), when: map[int64]int64{}}
	for q := range queues {
		f.wg.Go(func() { f.read(ctx, q) })
	}
	t.Cleanup(f.stop)
	return f
}

func (f *follower) stop() {
	f.cancel()
	f.wg.Wait()
}

// read follows one queue. While the broker is down it tries to connect again.
func (f *follower) read(ctx context.Context, queue int) {
	for pause := time.NewTicker(5 * time.Millisecond); ctx.Err() == nil; {
		if c, err := wire.Dial(ctx, f.c.fixed.Remoting, wire.ClientOptions{}); err == nil {
			for err == nil {
				_, err = pull(ctx, c, f.topic, queue, int64(len(f.lines[queue])), 2*time.Second, func(m *message.Message) { f.see(queue, m) })
			}
			c.Close()
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
}

func (f *follower) see(queue int, m *message.Message) {
	now, n := time.Now().UnixMilli(), number(m.Body)
	f.mu.Lock()
	defer f.mu.Unlock()
	if want := int64(len(f.lines[queue])); m.QueueOffset != want {
		f.t.Errorf("queue %d: offset %d follows on %d", queue, m.QueueOffset, want-1)
	}
	if _, twice := f.when[n]; twice {
		f.t.Errorf("message %d is in the queues twice, again in queue %d at %d", n, queue, m.QueueOffset)
	}
	f.lines[queue] = append(f.lines[queue], n)
	f.when[n] = now
}

// has says whether every one of the numbers was seen.
func (f *follower) has(numbers []int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !slices.ContainsFunc(numbers, func(n int64) bool { _, ok := f.when[n]; return !ok })
}

// again reads the queues from their beginning: they are still as they were seen.
func (f *follower) again() {
	f.t.Helper()
	c := dial(f.t, f.c.fixed.Remoting, wire.ClientOptions{})
	defer c.Close()
	for q, line := range f.lines {
		var got []int64
		for {
			n, err := pull(context.Background(), c, f.topic, q, int64(len(got)), 0, func(m *message.Message) { got = append(got, number(m.Body)) })
			if err != nil {
				f.t.Fatal(err)
			}
			if n == 0 {
				break
			}
		}
		if !slices.Equal(got, line) {
			f.t.Errorf("queue %d is not any more what was seen of it: %d messages, seen were %d", q, len(got), len(line))
		}
	}
}

// timers are numbered messages with a due time.
type timers struct {
	next  atomic.Int64
	mu    sync.Mutex
	due   map[int64]int64 // ms, of all that were sent
	acked []int64         // of the round
}

// send has count messages wait: the larger part until some time in the second after from, one in ten up to 1.5 s later.
func (s *timers) send(t *testing.T, addr string, count int64, from time.Time) {
	t.Helper()
	c := dial(t, addr, wire.ClientOptions{})
	defer c.Close()
	s.acked = nil
	flood(context.Background(), 256, count, func() error {
		n := s.next.Add(1)
		due := from.UnixMilli() + rand.Int64N(1000)
		if n%10 == 0 {
			due += 1000 + rand.Int64N(500)
		}
		s.mu.Lock()
		s.due[n] = due
		s.mu.Unlock()
		resp, err := c.Invoke(context.Background(), numbered("timers", "timers", killQueues, n, message.AppendProperty(nil, message.PropTimerDeliver, strconv.FormatInt(due, 10))))
		if err != nil {
			return err
		}
		defer resp.Release()
		if resp.Code != wire.Success {
			t.Errorf("message %d: code %d, %s", n, resp.Code, resp.Remark)
			return nil
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.acked = append(s.acked, n)
		return nil
	})
}

// check compares what was seen with the due times. It returns how late (ms, sorted) those were that were due while the broker
// was up again.
func (s *timers) check(f *follower, up time.Time) (late []int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for n, at := range f.when {
		if at < s.due[n] {
			f.t.Errorf("message %d came %d ms early", n, s.due[n]-at)
		}
	}
	for _, n := range s.acked {
		if s.due[n] > up.UnixMilli() {
			late = append(late, f.when[n]-s.due[n])
		}
	}
	slices.Sort(late)
	return late
}

// inOrder checks that the messages of a round lie in each queue in the order of their due times.
func (s *timers) inOrder(f *follower) {
	f.mu.Lock()
	defer f.mu.Unlock()
	first := slices.Min(s.acked)
	for q, line := range f.lines {
		var before int64
		for off, n := range line {
			if n < first {
				continue
			}
			if s.due[n] < before {
				f.t.Errorf("queue %d offset %d: due %d ms before the message ahead of it", q, off, before-s.due[n])
			}
			before = s.due[n]
		}
	}
}

func TestKilledWhileTimersFire(t *testing.T) {
	cairnOnly(t, "it kills the broker")
	c := startCairn(t, "--segment-size", "256MiB")
	run(t, "topic", "create", "timers", "--queues", fmt.Sprint(killQueues), "-n", c.fixed.NameServer)
	f := follow(t, c, "timers", killQueues)
	s := &timers{due: map[int64]int64{}}
	var slowest time.Duration
	for i := range *kills {
		from := time.Now().Add(time.Second)
		s.send(t, c.fixed.Remoting, int64(*firing), from)
		sorted := time.Now().Before(from)
		kill := from.Add(time.Duration(i*317%1200-100) * time.Millisecond)
		eventually(t, 30*time.Second, "it is time", func() bool { return time.Now().After(kill) })
		c.kill()
		c.start()
		up := time.Now()
		slowest = max(slowest, c.ready)
		eventually(t, 60*time.Second, "all fired", func() bool { return f.has(s.acked) })
		late := s.check(f, up)
		if sorted { // none was due before the last one was sent
			s.inOrder(f)
		}
		if len(late) > 0 {
			n := len(late)
			t.Logf("kill %d: ready %s after the start; %d due after it, ms late: p50 %d, p99 %d, most %d", i+1, c.ready.Round(time.Millisecond), n, late[n/2], late[n*99/100], late[n-1])
		}
	}
	f.stop()
	f.again()
	t.Logf("%d timers, slowest start %s", s.next.Load(), slowest.Round(time.Millisecond))
	c.stop()
	if out := run(t, "debug", "verify", "--data", c.data); out == "" {
		t.Fatal("verify said nothing")
	}
}

// transactions are numbered half messages of one producer group. A quarter each is committed and rolled back at once, and
// committed and rolled back when the broker asks; one in five of the questions is not answered at first.
type transactions struct {
	t     *testing.T
	next  atomic.Int64
	mu    sync.Mutex
	acked []int64
	asked map[int64]int
}

const (
	endUnknown  = 0
	endCommit   = message.FlagCommit
	endRollback = message.FlagRollback
)

func decision(n int64) int32 {
	if n%2 == 0 {
		return endCommit
	}
	return endRollback
}

// connect makes a connection of the producer group.
func (s *transactions) connect(addr string) *wire.Client {
	s.t.Helper()
	c := dial(s.t, addr, wire.ClientOptions{Serve: s.answer})
	beat := wire.NewRequest(wire.HeartBeat)
	beat.Body = []byte(`{"clientID":"transactions","producerDataSet":[{"groupName":"transactions"}],"consumerDataSet":[]}`)
	resp, err := c.Invoke(context.Background(), beat)
	if err != nil || resp.Code != wire.Success {
		s.t.Fatalf("heartbeat: %v %+v", err, resp)
	}
	resp.Release()
	return c
}

// end is the request that ends a transaction.
func end(position, tableOffset int64, id string, how int32, asked bool) *wire.Command {
	req := wire.NewRequest(wire.EndTransaction)
	f := &req.Fields
	f.Add("topic", "transactions")
	f.Add("producerGroup", "transactions")
	f.AddInt("tranStateTableOffset", tableOffset)
	f.AddInt("commitLogOffset", position)
	f.AddInt("commitOrRollback", int64(how))
	f.AddBool("fromTransactionCheck", asked)
	f.Add("msgId", id)
	f.Add("transactionId", id)
	return req
}

// answer serves the broker's questions.
func (s *transactions) answer(c *wire.Conn, req *wire.Command) {
	defer req.Release()
	m, _, err := message.Decode(req.Body)
	position, err1 := req.Fields.Int64("commitLogOffset")
	tableOffset, err2 := req.Fields.Int64("tranStateTableOffset")
	if req.Code != wire.CheckTransactionState || err != nil || err1 != nil || err2 != nil {
		s.t.Errorf("request %d of the broker: %v %v %v", req.Code, err, err1, err2)
		return
	}
	n := number(m.Body)
	s.mu.Lock()
	s.asked[n]++
	first := s.asked[n] == 1
	s.mu.Unlock()
	how := decision(n)
	if first && n%5 == 0 {
		how = endUnknown
	}
	_ = c.OneWay(end(position, tableOffset, req.Fields.Text("transactionId"), how, true)) // it is asked again when this is lost
}

// send opens count transactions and ends half of them.
func (s *transactions) send(ctx context.Context, c *wire.Client, count int64) {
	props := message.AppendProperty(message.AppendProperty(nil, message.PropTranMsg, "true"), message.PropProducerGroup, "transactions")
	flood(ctx, 16, count, func() error {
		n := s.next.Add(1)
		resp, err := c.Invoke(ctx, numbered("transactions", "transactions", killQueues, n, slices.Clone(props)))
		if err != nil {
			return err
		}
		defer resp.Release()
		if resp.Code != wire.Success {
			s.t.Errorf("half message %d: code %d, %s", n, resp.Code, resp.Remark)
			return nil
		}
		s.mu.Lock()
		s.acked = append(s.acked, n)
		s.mu.Unlock()
		if n%4 > 1 {
			return nil
		}
		_, position, err1 := message.ParseOffsetID(resp.Fields.Text("msgId"))
		tableOffset, err2 := resp.Fields.Int64("queueOffset")
		if err1 != nil || err2 != nil {
			s.t.Errorf("answer to half message %d: %v %v", n, err1, err2)
			return nil
		}
		ended, err := c.Invoke(ctx, end(position, tableOffset, resp.Fields.Text("transactionId"), decision(n), false))
		if err != nil {
			return err
		}
		defer ended.Release()
		if ended.Code != wire.Success {
			s.t.Errorf("end of %d: code %d, %s", n, ended.Code, ended.Remark)
		}
		return nil
	})
}

// committed are the numbers that are to arrive.
func (s *transactions) committed() (out []int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.acked {
		if decision(n) == endCommit {
			out = append(out, n)
		}
	}
	return out
}

func TestKilledDuringTransactions(t *testing.T) {
	cairnOnly(t, "it kills the broker")
	c := startCairn(t, "--segment-size", "256MiB", "--transaction-timeout", "1s", "--transaction-check-interval", "1s", "--transaction-max-checks", "100")
	run(t, "topic", "create", "transactions", "--queues", fmt.Sprint(killQueues), "-n", c.fixed.NameServer)
	f := follow(t, c, "transactions", killQueues)
	s := &transactions{t: t, asked: map[int64]int{}}
	const topic = `topic="transactions"`
	open := false // a transaction was, after a kill
	for i := range *kills {
		p := s.connect(c.fixed.Remoting)
		asked := s.questions()
		sent := make(chan struct{})
		ctx, cancel := context.WithCancel(context.Background())
		go func() { defer close(sent); s.send(ctx, p, int64(*firing)/2) }()
		least := 1 + i*317%(*firing/4) // half of the transactions are asked for
		eventually(t, 30*time.Second, "some are asked for", func() bool { return s.questions() >= asked+least })
		c.kill()
		cancel()
		<-sent
		p.Close()
		c.start()
		open = open || c.sample("rocketmq_half_messages", topic) > 0
		p = s.connect(c.fixed.Remoting)
		want := s.committed()
		eventually(t, 60*time.Second, "all committed ones are there", func() bool { return f.has(want) })
		t.Logf("kill %d: ready %s after the start, %d transactions, %d committed, %d asked for", i+1, c.ready.Round(time.Millisecond), s.next.Load(), len(want), s.questions())
		p.Close()
	}
	p := s.connect(c.fixed.Remoting)
	defer p.Close()
	if !open {
		t.Error("no transaction was open after a kill: what the metric says at the end tells nothing")
	}
	eventually(t, 30*time.Second, "no transaction is open", func() bool { return c.sample("rocketmq_half_messages", topic) == 0 })
	if n := c.sample("cairn_parked_half_messages", topic); n != 0 {
		t.Errorf("%.0f transactions were given up", n)
	}
	f.stop()
	for n := range f.when {
		if decision(n) != endCommit {
			t.Errorf("message %d was rolled back and is in a queue", n)
		}
	}
	f.again()
	p.Close()
	c.stop()
	if out := run(t, "debug", "verify", "--data", c.data); out == "" {
		t.Fatal("verify said nothing")
	}
}

func (s *transactions) questions() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.asked {
		n += k
	}
	return n
}
