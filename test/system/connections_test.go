package system

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cairnmq/cairn/internal/wire"
)

var (
	connections = flag.Int("connections", 200, "Remoting connections of TestManyConnections")
	consumers   = flag.Int("consumers", 50, "how many of them are consumers of one group")
	idleTime    = flag.Duration("idle", 2*time.Second, "how long TestManyConnections measures connections that only send heartbeats")
	otherBroker = flag.String("broker", "", "Remoting address of a broker that is there already, in place of one of our own")
	otherPID    = flag.Int("broker-pid", 0, "process of -broker, for its memory and CPU")
)

const (
	heartbeatEvery = 30 * time.Second // as the Java client
	balanceAtMost  = time.Second      // a Java client of 5.x balances at most once in this time
	balanceAnyway  = 20 * time.Second // and at the latest after this time
	settleTimeout  = 2 * time.Minute
)

// crowd is many connections that behave as Java clients do, some of them as consumers of one group.
type crowd struct {
	t       *testing.T
	addr    string
	members []*member
	stop    context.CancelFunc
	running sync.WaitGroup

	notices, lists, listBytes atomic.Int64
}

// member is one connection with its client.
type member struct {
	id       string
	consumer bool
	conn     *wire.Client
	notified chan struct{}
	known    atomic.Int64 // the members of the group that it heard of last
	place    atomic.Int64 // its own among them
}

// TestManyConnections: a crowd of clients connects, each member of the group hears of all others and the queues are shared out
// among them without one that two have; one leaves; then all are idle. What that costs the broker is printed. The full size:
//
//	go test ./test/system -run TestManyConnections -v -connections 10000 -consumers 1000 -idle 60s
//	… -broker 127.0.0.1:10911 -broker-pid PID     beside another broker
//
// Each process needs a file for each connection; the Go runtime raises its own limit as far as the system allows.
func TestManyConnections(t *testing.T) {
	cairnOnly(t, "-broker names another one")
	addr, pid, ours := *otherBroker, *otherPID, *otherBroker == ""
	if ours {
		c := startCairn(t)
		addr, pid = c.fixed.Remoting, c.cmd.Process.Pid
	}
	before := usageOf(t, pid)
	w := &crowd{t: t, addr: addr}
	defer w.end()
	w.makeTopic("crowd-topic", 8)
	began := time.Now()
	w.connect(*connections, *consumers)
	joined := time.Since(began)
	w.settle(*consumers)
	t.Logf("%d connections, %d of them consumers of one group: joined after %v, each consumer knows all %v later", *connections, *consumers,
		joined.Round(time.Millisecond), (time.Since(began) - joined).Round(time.Millisecond))
	t.Logf("until then %d notices (%.1f for each consumer), %d lists of consumers, %.1f MB of them", w.notices.Load(),
		float64(w.notices.Load())/float64(*consumers), w.lists.Load(), float64(w.listBytes.Load())/1e6)
	if most := int64(20 * *consumers); ours && *consumers > 32 && w.notices.Load() > most {
		t.Errorf("%d notices, at most %d are due", w.notices.Load(), most)
	}
	w.checkShares(8)
	settled := usageOf(t, pid)
	t.Logf("CPU for that: %.2f s", (settled.cpu - before.cpu).Seconds())

	w.notices.Store(0)
	began = time.Now()
	w.members[0].conn.Close()
	w.settle(*consumers - 1)
	t.Logf("one left: the others know after %v, by %d notices", time.Since(began).Round(time.Millisecond), w.notices.Load())

	from, start := usageOf(t, pid), time.Now()
	wait(t, *idleTime)
	idle := usageOf(t, pid)
	t.Logf("idle for %v with heartbeats each %v: %.2f %% of a processor", *idleTime, heartbeatEvery,
		100*(idle.cpu-from.cpu).Seconds()/time.Since(start).Seconds())
	each := (idle.resident - before.resident) / float64(*connections)
	t.Logf("memory: %.0f MB before, %.0f MB now: %.1f KB for each connection", before.resident/1e6, idle.resident/1e6, each/1e3)
	if ours && *connections >= 1000 && each > 64<<10 {
		t.Errorf("%.0f bytes for each connection", each)
	}
}

// wait passes a time in which nothing is to happen but what is measured.
func wait(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

func (w *crowd) makeTopic(name string, queues int) {
	w.t.Helper()
	c, err := wire.Dial(w.t.Context(), w.addr, wire.ClientOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	req := wire.NewRequest(wire.UpdateAndCreateTopic)
	for _, f := range [][2]string{
		{"topic", name}, {"defaultTopic", "TBW102"}, {"readQueueNums", strconv.Itoa(queues)}, {"writeQueueNums", strconv.Itoa(queues)}, {"perm", "6"},
		{"topicFilterType", "SINGLE_TAG"}, {"topicSysFlag", "0"}, {"order", "false"},
	} {
		req.Fields.Add(f[0], f[1])
	}
	resp, err := c.Invoke(w.t.Context(), req)
	if err != nil || resp.Code != wire.Success {
		w.t.Fatalf("make the topic: %+v, %v", resp, err)
	}
}

// connect opens connections, some at a time; the first ones are the consumers.
func (w *crowd) connect(n, consumers int) {
	w.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	w.members = make([]*member, n)
	var g errgroup.Group
	g.SetLimit(64)
	for i := range w.members {
		m := &member{id: fmt.Sprintf("10.0.0.1@%d#crowd", i), consumer: i < consumers, notified: make(chan struct{}, 1)}
		w.members[i] = m
		g.Go(func() (err error) {
			if m.conn, err = wire.Dial(ctx, w.addr, wire.ClientOptions{Serve: func(c *wire.Conn, req *wire.Command) { w.serve(m, c, req) }}); err != nil {
				return err
			}
			if err := w.heartbeat(ctx, m); err != nil {
				return err
			}
			w.running.Go(func() { w.live(ctx, m, time.Duration(i)*heartbeatEvery/time.Duration(n)) })
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *crowd) end() {
	if w.stop == nil {
		return
	}
	w.stop()
	w.running.Wait()
	for _, m := range w.members {
		if m != nil && m.conn != nil {
			m.conn.Close()
		}
	}
}

// serve takes what the broker says unasked.
func (w *crowd) serve(m *member, c *wire.Conn, req *wire.Command) {
	if req.Code == wire.NotifyConsumerIDsChanged {
		w.notices.Add(1)
		select {
		case m.notified <- struct{}{}:
		default:
		}
	}
	if req.IsOneWay() {
		req.Release()
		return
	}
	c.Respond(req, req.Reply(wire.RequestCodeNotSupported, "not served"))
}

func (w *crowd) heartbeat(ctx context.Context, m *member) error {
	type data = map[string]any
	beat := data{"clientID": m.id, "consumerDataSet": []data{}, "producerDataSet": []data{{"groupName": "crowd-producers"}}}
	if m.consumer {
		beat["producerDataSet"] = []data{}
		beat["consumerDataSet"] = []data{{
			"groupName": "crowd-group", "consumeType": "CONSUME_PASSIVELY", "messageModel": "CLUSTERING", "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET",
			"subscriptionDataSet": []data{{"topic": "crowd-topic", "subString": "*", "subVersion": 1, "expressionType": "TAG"}},
		}}
	}
	text, err := json.Marshal(beat)
	if err != nil {
		return err
	}
	req := wire.NewRequest(wire.HeartBeat)
	req.Language, req.Body = wire.Java, text
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	resp, err := m.conn.Invoke(ctx, req)
	if err != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	defer resp.Release()
	if resp.Code != wire.Success {
		return fmt.Errorf("heartbeat: %d %s", resp.Code, resp.Remark)
	}
	return nil
}

// live sends heartbeats and, for a consumer, asks who is in the group whenever the broker says that this has changed.
func (w *crowd) live(ctx context.Context, m *member, phase time.Duration) {
	beat := time.NewTimer(phase)
	defer beat.Stop()
	balance := time.NewTimer(balanceAnyway)
	defer balance.Stop()
	notified, last := m.notified, time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.conn.Done():
			return
		case <-beat.C:
			if err := w.heartbeat(ctx, m); err != nil && ctx.Err() == nil && m.conn.Err() == nil {
				w.t.Error(err)
			}
			beat.Reset(heartbeatEvery)
		case <-notified:
			notified = nil // until it has balanced
			balance.Reset(time.Until(last.Add(balanceAtMost)))
		case <-balance.C:
			if last, notified = time.Now(), m.notified; m.consumer {
				w.balance(ctx, m)
			}
			balance.Reset(balanceAnyway)
		}
	}
}

// balance asks for the members of the group.
func (w *crowd) balance(ctx context.Context, m *member) {
	req := wire.NewRequest(wire.GetConsumerListByGroup)
	req.Fields.Add("consumerGroup", "crowd-group")
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	resp, err := m.conn.Invoke(ctx, req)
	if err != nil {
		return // the connection or the test has ended; otherwise it does not settle
	}
	defer resp.Release()
	var list struct {
		IDs []string `json:"consumerIdList"`
	}
	if err := json.Unmarshal(resp.Body, &list); err != nil {
		w.t.Errorf("list of consumers: %d %s %v", resp.Code, resp.Remark, err)
		return
	}
	w.lists.Add(1)
	w.listBytes.Add(int64(len(resp.Body)))
	slices.Sort(list.IDs)
	m.place.Store(int64(slices.Index(list.IDs, m.id)))
	m.known.Store(int64(len(list.IDs)))
}

// settle waits until each consumer that is there knows so many.
func (w *crowd) settle(want int) {
	w.t.Helper()
	deadline := time.After(settleTimeout)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		missing, some := 0, ""
		for _, m := range w.members {
			if m.consumer && m.conn.Err() == nil && m.known.Load() != int64(want) {
				missing++
				some = fmt.Sprintf("%s knows of %d", m.id, m.known.Load())
			}
		}
		if missing == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			w.t.Fatalf("%d consumers do not know that %d are there: %s", missing, want, some)
		}
	}
}

// checkShares gives each consumer its share of the queues as the Java client's strategy of averages does, and checks that each queue
// is one consumer's.
func (w *crowd) checkShares(queues int64) {
	w.t.Helper()
	owners := make([]int, queues)
	for _, m := range w.members {
		if !m.consumer {
			continue
		}
		n, at := m.known.Load(), m.place.Load()
		size := queues / n
		if at < queues%n {
			size++
		}
		first := at * size
		if queues%n > 0 && at >= queues%n {
			first += queues % n
		}
		for q := first; q < min(first+size, queues); q++ {
			owners[q]++
		}
	}
	if i := slices.IndexFunc(owners, func(n int) bool { return n != 1 }); i >= 0 {
		w.t.Errorf("%d consumers have queue %d", owners[i], i)
	}
}

// usage is what a process has taken.
type usage struct {
	cpu      time.Duration
	resident float64 // bytes
}

// usageOf reads what a process has taken since it began; nothing for process 0.
func usageOf(t *testing.T, pid int) (u usage) {
	t.Helper()
	if pid == 0 {
		return u
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	// Behind the name, which may have blanks: state is field 3, user and system time 14 and 15 in hundredths of a second, resident pages 24.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	number := func(i int) int64 {
		n, err := strconv.ParseInt(fields[i-3], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	u.cpu = time.Duration(number(14)+number(15)) * 10 * time.Millisecond
	u.resident = float64(number(24)) * float64(os.Getpagesize())
	return u
}
