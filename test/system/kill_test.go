package system

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/message"
)

var (
	kills   = flag.Int("kills", 2, "how often each of the tests that kill the broker does so")
	firing  = flag.Int("firing", 5_000, "timers, and twice the transactions, of each kill")
	preload = flag.Int("preload", 20_000, "messages that are there before the first kill")
)

const killTopic, killQueues = "killed", 8

// load sends numbered messages to all queues, many at once, and remembers what was acknowledged where.
type load struct {
	t    *testing.T
	pad  []byte // behind the number and its room, of each body
	next atomic.Int64

	mu    sync.Mutex
	acked [killQueues]map[int64]int64 // queue → offset → number
}

func newLoad(t *testing.T) *load {
	l := &load{t: t}
	for q := range l.acked {
		l.acked[q] = map[int64]int64{}
	}
	return l
}

// numbered is a request that sends message n, which is its own body, to a queue.
func numbered(group, topic string, queues, n int64, props []byte) *wire.Command {
	req := wire.NewRequest(wire.SendMessageV2)
	f := &req.Fields
	f.Add("a", group)
	f.Add("b", topic)
	f.Add("c", "TBW102")
	f.AddInt("d", queues)
	f.AddInt("e", n%queues)
	f.AddInt("f", 0)
	f.AddInt("g", time.Now().UnixMilli())
	f.AddInt("h", 0)
	f.Add("i", string(message.AppendProperty(props, message.PropUniqueKey, message.NewUniqueID())))
	f.AddInt("j", 0)
	f.AddBool("k", false)
	req.Body = binary.BigEndian.AppendUint64(make([]byte, 0, 128), uint64(n))
	req.Body = req.Body[:128]
	return req
}

// number of a request or stored body.
func number(body []byte) int64 { return int64(binary.BigEndian.Uint64(body)) }

func dial(t *testing.T, addr string, opts wire.ClientOptions) *wire.Client {
	t.Helper()
	c, err := wire.Dial(context.Background(), addr, opts)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// flood keeps window calls of one under way until count were made, ctx ends or a call fails.
func flood(ctx context.Context, window int, count int64, one func() error) {
	var wg sync.WaitGroup
	var left atomic.Int64
	left.Store(count)
	for range window {
		wg.Go(func() {
			for ctx.Err() == nil && left.Add(-1) >= 0 {
				if one() != nil {
					return // the connection broke
				}
			}
		})
	}
	wg.Wait()
}

// send keeps window requests under way until count were answered, ctx ends or the connection breaks.
func (l *load) send(ctx context.Context, addr string, window int, count int64) {
	c := dial(l.t, addr, wire.ClientOptions{})
	defer c.Close()
	flood(ctx, window, count, func() error { return l.one(ctx, c) })
}

// one sends the next message. An error says that the connection broke.
func (l *load) one(ctx context.Context, c *wire.Client) error {
	n := l.next.Add(1)
	req := numbered("load", killTopic, killQueues, n, nil)
	req.Body = append(req.Body, l.pad...)
	resp, err := c.Invoke(ctx, req)
	if err != nil {
		return err
	}
	defer resp.Release()
	if resp.Code != wire.Success {
		return nil
	}
	q, err1 := resp.Fields.Int32("queueId")
	off, err2 := resp.Fields.Int64("queueOffset")
	if err1 != nil || err2 != nil {
		l.t.Errorf("answer without queue and offset: %v %v", err1, err2)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if other, ok := l.acked[q][off]; ok {
		l.t.Errorf("queue %d offset %d was given to %d and to %d", q, off, other, n)
	}
	l.acked[q][off] = n
	return nil
}

// pull calls each for the messages of a queue from an offset on, and answers how many there were. It waits for the first one
// for so long.
func pull(ctx context.Context, c *wire.Client, topic string, queue int, offset int64, wait time.Duration, each func(*message.Message)) (n int, err error) {
	req := wire.NewRequest(wire.PullMessage)
	f := &req.Fields
	f.Add("consumerGroup", "check")
	f.Add("topic", topic)
	f.AddInt("queueId", int64(queue))
	f.AddInt("queueOffset", offset)
	f.AddInt("maxMsgNums", 32)
	sysFlag := int64(4) // with a subscription
	if wait > 0 {
		sysFlag |= 2
	}
	f.AddInt("sysFlag", sysFlag)
	f.AddInt("commitOffset", 0)
	f.AddInt("suspendTimeoutMillis", wait.Milliseconds())
	f.Add("subscription", "*")
	f.AddInt("subVersion", 0)
	f.Add("expressionType", "TAG")
	resp, err := c.Invoke(ctx, req)
	if err != nil {
		return 0, err
	}
	defer resp.Release()
	switch resp.Code {
	case wire.Success:
	case wire.PullNotFound, wire.PullRetryImmediately:
		return 0, nil
	default:
		return 0, fmt.Errorf("pull of queue %d at %d: code %d, %s", queue, offset, resp.Code, resp.Remark)
	}
	for rest := resp.Body; len(rest) > 0; n++ {
		m, size, err := message.Decode(rest)
		if err != nil {
			return n, err
		}
		rest = rest[size:]
		each(&m)
	}
	return n, nil
}

// check pulls every queue from its beginning: each acknowledged message is at its place, no number is there twice, offsets
// are dense.
func (l *load) check(addr string) (total int64) {
	l.t.Helper()
	c := dial(l.t, addr, wire.ClientOptions{})
	defer c.Close()
	for q := range killQueues {
		seen := map[int64]bool{}
		var off int64
		for {
			n, err := pull(context.Background(), c, killTopic, q, off, 0, func(m *message.Message) {
				num := number(m.Body)
				if want, ok := l.acked[q][off]; ok && want != num {
					l.t.Fatalf("queue %d offset %d holds %d, acknowledged was %d", q, off, num, want)
				}
				if m.QueueOffset != off || seen[num] {
					l.t.Fatalf("queue %d offset %d: message says offset %d, number %d (seen before: %v)", q, off, m.QueueOffset, num, seen[num])
				}
				seen[num] = true
				off++
			})
			if err != nil {
				l.t.Fatal(err)
			}
			if n == 0 {
				break
			}
		}
		for o := range l.acked[q] {
			if o >= off {
				l.t.Fatalf("queue %d ends at %d, but offset %d was acknowledged", q, off, o)
			}
		}
		total += off
	}
	return total
}

func TestKilledUnderLoad(t *testing.T) {
	cairnOnly(t, "it kills the broker")
	c := startCairn(t, "--segment-size", "256MiB")
	l := newLoad(t)
	run(t, "topic", "create", killTopic, "--queues", fmt.Sprint(killQueues), "-n", c.fixed.NameServer)
	l.send(context.Background(), c.fixed.Remoting, 512, int64(*preload))
	var slowest time.Duration
	for i := range *kills {
		ctx, cancel := context.WithCancel(context.Background())
		sent := make(chan struct{})
		before := l.next.Load()
		go func() { defer close(sent); l.send(ctx, c.fixed.Remoting, 64, 1<<40) }()
		least := int64(500 + i*317%4000)
		eventually(t, 30*time.Second, "some messages sent", func() bool { return l.next.Load() > before+least })
		c.kill()
		cancel()
		<-sent
		c.start()
		slowest = max(slowest, c.ready)
		total := l.check(c.fixed.Remoting)
		t.Logf("kill %d: ready %s after the start, %d messages", i+1, c.ready.Round(time.Millisecond), total)
	}
	t.Logf("slowest start %s", slowest.Round(time.Millisecond))
	c.stop()
	if out := run(t, "debug", "verify", "--data", c.data); out == "" {
		t.Fatal("verify said nothing")
	}
}
