package system

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/test/faults"
	"github.com/cairnmq/cairn/test/gateway"
)

var tierFaults = flag.Duration("tier-faults", 20*time.Second, "how long TestTierUnderFaults breaks the object store and kills the broker")

const (
	faultBody = 8 << 10 // bytes; a segment of 16 MiB holds some 2,000
	faultRate = 300     // messages a second
)

// Whatever a real S3 service and the network do, while the broker is killed again and again, uploads catch up in the end: no message is
// lost, readers never get another one than was sent, the manifest is one line of generations, and gc leaves nothing that is not named.
func TestTierUnderFaults(t *testing.T) {
	server := gateway.Start(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	plan := faults.NewPlan(seed)
	proxy := faults.StartProxy(t, server.Endpoint, plan)
	c := startCairn(t, tierFlags(gateway.Address(proxy.Endpoint, "faults"))...)
	t.Cleanup(func() { // before it is stopped
		c.mu.Lock()
		defer c.mu.Unlock()
		c.errors = slices.DeleteFunc(c.errors, func(line string) bool {
			quota := strings.Contains(line, "the tier is not written to")
			return quota || twiceWrong(plan, line)
		})
	})
	run(t, "topic", "create", killTopic, "--queues", fmt.Sprint(killQueues), "-n", c.fixed.NameServer)
	l := newLoad(t)
	l.pad = make([]byte, faultBody)
	random := rand.New(rand.NewPCG(seed, 1))
	for i := range l.pad {
		l.pad[i] = byte(random.Uint32())
	}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { l.sendPaced(ctx, c) })
	wg.Go(func() { l.readAtRandom(ctx, c) })
	kills := breakThings(t, c, plan, random)
	stop()
	wg.Wait()
	plan.Rates(0)
	plan.Outage(false)
	t.Logf("%d kills; %s; %+v", kills, plan, c.tier())

	eventually(t, 5*time.Minute, "all that is sealed is uploaded", func() bool { i := c.tier(); return i.State == "working" && i.BehindSegments == 0 })
	total := l.check(c.fixed.Remoting)
	t.Logf("%d messages of %d sent, all that were acknowledged; %+v", total, l.next.Load(), c.tier())
	url := gateway.Address(server.Endpoint, "faults")
	run(t, "tier", "verify", "--tiered.url", url)
	oneLine(t, filepath.Join(server.Folder, gateway.Bucket, "faults"))

	eventually(t, time.Minute, "gc leaves nothing", func() bool {
		run(t, "tier", "gc", "--grace", "1s", "--tiered.url", url)
		var left struct {
			Objects    []any `json:"objects"`
			Unfinished int   `json:"unfinished"`
		}
		if err := json.Unmarshal([]byte(run(t, "tier", "gc", "--grace", "1s", "--dry-run", "-o", "json", "--tiered.url", url)), &left); err != nil {
			t.Fatal(err)
		}
		return len(left.Objects) == 0 && left.Unfinished == 0
	})
	run(t, "tier", "verify", "--tiered.url", url)
	if again := l.check(c.fixed.Remoting); again != total {
		t.Errorf("%d messages after gc, %d before", again, total)
	}
}

var damaged = regexp.MustCompile(`object (\S+) is damaged`)

// twiceWrong says whether a broker that calls an object damaged was given wrong bytes of it twice: one answer is not believed.
func twiceWrong(plan *faults.Plan, line string) bool {
	m := damaged.FindStringSubmatch(line)
	return m != nil && plan.WrongAnswers(m[1]) >= 2
}

// breakThings changes what goes wrong every few seconds and kills the broker in between, as long as the flag says.
func breakThings(t *testing.T, c *cairn, plan *faults.Plan, random *rand.Rand) (kills int) {
	t.Helper()
	step := max(3*time.Second, *tierFaults/120)
	tick := time.NewTicker(step)
	defer tick.Stop()
	end := time.Now().Add(*tierFaults)
	for i := 0; time.Now().Before(end); i++ {
		plan.Outage(false)
		plan.Rates(random.Float64() * 0.2)
		plan.Rate(faults.WrongBytes, random.Float64()*0.02)
		switch i % 6 {
		case 2:
			plan.Outage(true)
		case 4:
			plan.Rate(faults.QuotaFull, 1)
		case 5:
			c.kill()
			c.start()
			kills++
		}
		if i%40 == 20 { // an outage that is long beside everything else
			plan.Outage(true)
			for range 4 {
				<-tick.C
			}
		}
		<-tick.C
	}
	return kills
}

// sendPaced sends until ctx ends, whatever happens to the broker.
func (l *load) sendPaced(ctx context.Context, c *cairn) {
	pace := rate.NewLimiter(faultRate, 8)
	for ctx.Err() == nil {
		conn, err := wire.Dial(ctx, c.fixed.Remoting, wire.ClientOptions{})
		if err != nil {
			continue // it is being started
		}
		flood(ctx, 8, 1<<40, func() error {
			if err := pace.Wait(ctx); err != nil {
				return err
			}
			return l.one(ctx, conn)
		})
		conn.Close()
	}
}

// readAtRandom reads what was acknowledged, here and in the tier, and minds only what is wrong: a read may fail at any time.
func (l *load) readAtRandom(ctx context.Context, c *cairn) {
	pace := rate.NewLimiter(50, 1)
	for ctx.Err() == nil {
		conn, err := wire.Dial(ctx, c.fixed.Remoting, wire.ClientOptions{})
		if err != nil {
			continue
		}
		for pace.Wait(ctx) == nil {
			q, from, want := l.anywhere()
			if want < 0 {
				continue
			}
			first := true
			_, err := pull(ctx, conn, killTopic, q, from, 0, func(m *message.Message) {
				if first && (m.QueueOffset != from || number(m.Body) != want) {
					l.t.Errorf("queue %d at %d: message %d of offset %d, not %d", q, from, number(m.Body), m.QueueOffset, want)
				}
				first = false
			})
			if err != nil && ctx.Err() == nil && !strings.Contains(err.Error(), ": code ") {
				break // the connection
			}
		}
		conn.Close()
	}
}

// anywhere is a place whose message was acknowledged; its number is -1 when there is none yet.
func (l *load) anywhere() (q int, offset, number int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	q = rand.IntN(killQueues)
	if len(l.acked[q]) == 0 {
		return q, 0, -1
	}
	offset = rand.Int64N(int64(len(l.acked[q])))
	number, ok := l.acked[q][offset]
	if !ok {
		number = -1
	}
	return q, offset, number
}

// oneLine checks that the manifests follow each other without a gap.
func oneLine(t *testing.T, prefix string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(prefix, "*", "*", "manifest", "*"))
	if err != nil {
		t.Fatal(err)
	}
	var generations []uint64
	for _, name := range names {
		if g, err := strconv.ParseUint(filepath.Base(name), 10, 64); err == nil {
			if info, err := os.Stat(name); err != nil || info.Size() == 0 {
				t.Errorf("%s: %v, %v", name, info, err)
			}
			generations = append(generations, g)
		}
	}
	slices.Sort(generations)
	for i, g := range generations {
		if g != uint64(i+1) {
			t.Fatalf("generations %v", generations)
		}
	}
	t.Logf("%d generations of the manifest", len(generations))
}
