package system

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	client "github.com/apache/rocketmq-clients/golang/v5"
	"github.com/apache/rocketmq-clients/golang/v5/credentials"
	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
)

// The two tests here are the gRPC halves of test/import.sh; those over Remoting are in test/clientgov2/import_test.go. The first one
// leaves a Java broker with messages that a group has popped, the second one looks what `cairn import` made of all that is there.
//
//	CAIRN_IMPORT_NAMESRV, CAIRN_IMPORT_GRPC   the broker's addresses
//	CAIRN_IMPORT_NOTES                        the file of the notes of the Remoting half
//	CAIRN_IMPORT_POPS                         the file of the notes of this one
//	CAIRN_IMPORT_COUNT                        messages of the topic import-main

const (
	importPop      = "import-pop"
	importPopGroup = "import-pop-group"
	importTimed    = "import-timed"
)

// importSlack is how much earlier than its time a message may seem to come: a test notes when it asked, by a clock that it shares with
// the broker.
const importSlack = 5 * time.Millisecond

// importPops is what importPopGroup has before it when the Java broker stops, by body.
type importPops struct {
	Acked []string `json:"acked"`
	// Held is with a consumer until a time (ms), Left with none: never received, or in the Java broker's retry topic.
	Held map[string]int64 `json:"held"`
	Left []string         `json:"left"`
	// Timed are delayed messages of importTimed, with their times (ms).
	Timed map[string]int64 `json:"timed"`
}

// importPlace is a broker that test/import.sh has started.
type importPlace struct {
	nameServer, grpc, notes, pops string
	count                         int
}

func placeOfImport(t *testing.T) importPlace {
	t.Helper()
	p := importPlace{
		nameServer: os.Getenv("CAIRN_IMPORT_NAMESRV"), grpc: os.Getenv("CAIRN_IMPORT_GRPC"), notes: os.Getenv("CAIRN_IMPORT_NOTES"),
		pops: os.Getenv("CAIRN_IMPORT_POPS"),
	}
	var err error
	if p.count, err = strconv.Atoi(os.Getenv("CAIRN_IMPORT_COUNT")); err != nil || p.nameServer == "" || p.grpc == "" || p.pops == "" {
		t.Skip("a half of test/import.sh")
	}
	client.EnableSsl = false
	return p
}

func (p importPlace) producer(t *testing.T, topics ...string) client.Producer {
	t.Helper()
	s, err := client.NewProducer(&client.Config{Endpoint: p.grpc, Credentials: &credentials.SessionCredentials{}}, client.WithTopics(topics...))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.GracefulStop() })
	return s
}

func (p importPlace) consumer(t *testing.T, group, topic string) client.SimpleConsumer {
	t.Helper()
	s, err := client.NewSimpleConsumer(&client.Config{Endpoint: p.grpc, ConsumerGroup: group, Credentials: &credentials.SessionCredentials{}},
		client.WithSimpleAwaitDuration(5*time.Second), // the reference refuses less
		client.WithSimpleSubscriptionExpressions(map[string]*client.FilterExpression{topic: client.SUB_ALL}))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.GracefulStop() })
	return s
}

// receiveSome is one receive; that there is nothing is no error.
func receiveSome(ctx context.Context, s client.SimpleConsumer, most int32, invisible time.Duration) ([]*client.MessageView, error) {
	ms, err := s.Receive(ctx, most, invisible)
	var status *client.ErrRpcStatus
	if errors.As(err, &status) && status.Code == int32(v2.Code_MESSAGE_NOT_FOUND) {
		return nil, nil
	}
	return ms, err
}

func TestImportFillGRPC(t *testing.T) {
	p := placeOfImport(t)
	run(t, "topic", "create", importPop, "--queues", "4", "-n", p.nameServer)
	run(t, "topic", "create", importTimed, "--queues", "1", "--attribute", "+message.type=DELAY", "-n", p.nameServer)
	run(t, "group", "create", importPopGroup, "-n", p.nameServer)
	notes := importPops{Held: map[string]int64{}, Timed: map[string]int64{}}
	// Longer than what follows takes until Cairn runs on the store: then it shows whether anything comes before its time.
	hold := time.Minute + time.Duration(p.count/10_000)*time.Second

	sender := p.producer(t, importPop, importTimed)
	send := func(m *client.Message) {
		t.Helper()
		if _, err := sender.Send(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	fill := func(from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			send(&client.Message{Topic: importPop, Body: fmt.Appendf(nil, "popped %d", i)})
		}
	}
	fill(0, 200)
	s := p.consumer(t, importPopGroup, importPop)
	p.holdSome(t, s, &notes, hold)
	p.retrySome(t, s, &notes, hold)
	fill(200, 240) // which nobody receives
	for i := range 240 {
		if body := fmt.Sprint("popped ", i); !slices.Contains(notes.Acked, body) && notes.Held[body] == 0 {
			notes.Left = append(notes.Left, body)
		}
	}
	for i := range 10 {
		due := time.Now().Add(hold + time.Duration(i)*100*time.Millisecond).Truncate(time.Millisecond)
		m := &client.Message{Topic: importTimed, Body: fmt.Appendf(nil, "timed %d", i)}
		m.SetDelayTimestamp(due)
		send(m)
		notes.Timed[string(m.Body)] = due.UnixMilli()
	}
	data, err := json.Marshal(notes)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.pops, data, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d messages acknowledged, %d held, %d left, %d delayed", len(notes.Acked), len(notes.Held), len(notes.Left), len(notes.Timed))
}

// holdSome receives most of the messages: 60 are acknowledged, 60 held, 20 of these for longer than they were received for, and 30 are
// to come again soon.
func (p importPlace) holdSome(t *testing.T, s client.SimpleConsumer, notes *importPops, hold time.Duration) {
	t.Helper()
	const soon = 10 * time.Second // the shortest time that the reference takes
	got := 0
	take := func(upTo int, invisible time.Duration, with func(m *client.MessageView, asked time.Time)) {
		t.Helper()
		eventually(t, time.Minute, fmt.Sprint(upTo, " messages received"), func() bool {
			asked := time.Now()
			ms, err := receiveSome(t.Context(), s, 10, invisible)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range ms {
				with(m, asked)
			}
			got += len(ms)
			return got >= upTo
		})
	}
	take(60, hold, func(m *client.MessageView, _ time.Time) {
		if err := s.Ack(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		notes.Acked = append(notes.Acked, string(m.GetBody()))
	})
	take(100, hold, func(m *client.MessageView, asked time.Time) {
		notes.Held[string(m.GetBody())] = asked.Add(hold).UnixMilli()
	})
	take(120, hold, func(m *client.MessageView, _ time.Time) {
		asked := time.Now()
		if err := s.ChangeInvisibleDuration(m, hold+10*time.Second); err != nil {
			t.Fatal(err)
		}
		notes.Held[string(m.GetBody())] = asked.Add(hold + 10*time.Second).UnixMilli()
	})
	take(150, soon, func(*client.MessageView, time.Time) {})
}

// retrySome waits until the Java broker has brought back what was to come again soon, and holds some of that.
func (p importPlace) retrySome(t *testing.T, s client.SimpleConsumer, notes *importPops, hold time.Duration) {
	t.Helper()
	again := 0
	eventually(t, time.Minute, "messages come again", func() bool {
		asked := time.Now()
		ms, err := receiveSome(t.Context(), s, 4, hold)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range ms {
			if m.GetDeliveryAttempt() > 1 {
				again++
			}
			notes.Held[string(m.GetBody())] = asked.Add(hold).UnixMilli()
		}
		return again >= 10
	})
}

func TestImportFindGRPC(t *testing.T) {
	p := placeOfImport(t)
	var pops importPops
	readNotes(t, p.pops, &pops)
	var notes struct {
		Due  map[string]int64 `json:"due"` // by unique id, ms
		Rest int              `json:"rest"`
	}
	readNotes(t, p.notes, &notes)
	for _, group := range []string{"import-late-grpc", "import-timed-grpc", "import-fresh"} {
		run(t, "group", "create", group, "-n", p.nameServer)
	}
	limit := 2*time.Minute + time.Duration(p.count/2000)*time.Second
	all := []*gathering{
		// 50 messages of two kinds were delivered by the Java broker, as many are still to come.
		p.gather(t, "import-late-grpc", "import-delay", 100+len(notes.Due), 1, func(m *client.MessageView) (string, int64) {
			return m.GetMessageId(), notes.Due[m.GetMessageId()]
		}),
		p.gather(t, "import-timed-grpc", importTimed, len(pops.Timed), 1, func(m *client.MessageView) (string, int64) {
			return string(m.GetBody()), pops.Timed[string(m.GetBody())]
		}),
		p.gather(t, importPopGroup, importPop, len(pops.Held)+len(pops.Left), 1, func(m *client.MessageView) (string, int64) {
			return string(m.GetBody()), pops.Held[string(m.GetBody())]
		}),
		p.gather(t, "import-place", "import-main", notes.Rest, 8, func(m *client.MessageView) (string, int64) { return string(m.GetBody()), 0 }),
		p.gather(t, "import-fresh", "import-main", p.count, 16, func(m *client.MessageView) (string, int64) { return string(m.GetBody()), 0 }),
	}
	for _, g := range all {
		g.wait(t, p, limit)
	}
	for _, body := range pops.Acked {
		if n := all[2].times[body]; n != 0 {
			t.Errorf("%s was acknowledged, and came %d times again", body, n)
		}
	}
	t.Logf("%d messages by a fresh group, %d by one that goes on at its place, %d that were popped, %d and %d delayed ones",
		len(all[4].times), len(all[3].times), len(all[2].times), len(all[0].times), len(all[1].times))
}

func readNotes(t *testing.T, file string, into any) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// gathering is a group that receives and acknowledges what a topic has for it.
type gathering struct {
	group, topic string
	want         int
	end          func()
	mu           sync.Mutex
	times        map[string]int // how often each message came
	faults       []string
}

// gather lets some workers of a group receive. keyOf tells a message from the others, and before when (ms) it must not come.
func (p importPlace) gather(t *testing.T, group, topic string, want, workers int, keyOf func(*client.MessageView) (string, int64)) *gathering {
	t.Helper()
	g := &gathering{group: group, topic: topic, want: want, times: make(map[string]int, want)}
	s := p.consumer(t, group, topic)
	ctx, cancel := context.WithCancel(t.Context())
	var workersLeft sync.WaitGroup
	for range workers {
		workersLeft.Go(func() {
			for ctx.Err() == nil {
				ms, err := receiveSome(ctx, s, 32, time.Minute)
				if err != nil && ctx.Err() == nil {
					g.fault("receive: %v", err)
					return
				}
				now := time.Now().Add(importSlack).UnixMilli()
				for _, m := range ms {
					if err := s.Ack(context.Background(), m); err != nil {
						g.fault("acknowledge: %v", err)
					}
					key, from := keyOf(m)
					g.mu.Lock()
					g.times[key]++
					g.mu.Unlock()
					if now < from {
						g.fault("%s came %d ms before its time", key, from-now)
					}
				}
			}
		})
	}
	g.end = func() { cancel(); workersLeft.Wait() }
	t.Cleanup(g.end)
	return g
}

// maxFaults are enough to see what is wrong.
const maxFaults = 10

func (g *gathering) fault(format string, args ...any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.faults) < maxFaults {
		g.faults = append(g.faults, fmt.Sprintf(format, args...))
	}
}

// wait ends when everything has come and the broker knows of nothing that is left for the group; each message must have come once.
func (g *gathering) wait(t *testing.T, p importPlace, limit time.Duration) {
	t.Helper()
	came := func() (n int, failed bool) {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.times), len(g.faults) > 0
	}
	defer func() {
		if t.Failed() {
			n, _ := came()
			t.Logf("group %s got %d messages of %s, of %d", g.group, n, g.topic, g.want)
		}
	}()
	eventually(t, limit, "all messages of "+g.group, func() bool {
		n, failed := came()
		return n >= g.want || failed
	})
	eventually(t, time.Minute, "nothing is left for "+g.group, func() bool {
		var v shown
		if err := json.Unmarshal([]byte(run(t, "group", "show", g.group, "-o", "json", "-n", p.nameServer)), &v); err != nil {
			t.Fatal(err)
		}
		_, failed := came()
		left := int64(0)
		for i := range v.Topics {
			left += v.Topics[i].Lag
		}
		return failed || len(v.Topics) > 0 && left == 0
	})
	g.end()
	if len(g.faults) > 0 {
		t.Errorf("group %s: %s", g.group, strings.Join(g.faults, "; "))
	}
	if len(g.times) != g.want {
		t.Errorf("group %s got %d messages of %s, of %d", g.group, len(g.times), g.topic, g.want)
	}
	twice := 0
	for key, n := range g.times {
		if n != 1 {
			if twice++; twice <= maxFaults {
				t.Errorf("%s came %d times to group %s", key, n, g.group)
			}
		}
	}
}
