package system

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	client "github.com/apache/rocketmq-clients/golang/v5"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/test/faults"
	"github.com/cairnmq/cairn/test/gateway"
)

const (
	tierTopic  = "tiered"
	tierGroup  = "tiered-group"
	tierQueues = 4
	tierBody   = 64 << 10 // bytes; a segment of 16 MiB holds some 250
)

// tierFlags are those of a broker that keeps here what is younger than a second, as far as whole segments go.
func tierFlags(url string) []string {
	return []string{"--segment-size", "16MiB", "--retention", "1s", "--tiered.url", url, "--tiered.cache.memory", "8MiB", "--tiered.cache.disk", "16MiB"}
}

// bodyOf is the body of a message: its number, a checksum, and what no compression makes smaller.
func bodyOf(n int64) []byte {
	body := make([]byte, tierBody)
	random := rand.New(rand.NewPCG(uint64(n), 0))
	for i := 12; i < len(body); i += 8 {
		binary.LittleEndian.PutUint64(body[min(i, len(body)-8):], random.Uint64())
	}
	binary.BigEndian.PutUint64(body, uint64(n))
	binary.BigEndian.PutUint32(body[8:], crc32.ChecksumIEEE(body[12:]))
	return body
}

// checkBody returns the number of a message whose body is as it was sent.
func checkBody(t *testing.T, body []byte) int64 {
	t.Helper()
	if len(body) != tierBody || binary.BigEndian.Uint32(body[8:]) != crc32.ChecksumIEEE(body[12:]) {
		t.Fatalf("a body of %d bytes is not as it was sent", len(body))
	}
	return number(body)
}

// sendNumbered sends messages with the official client, from one number to before another.
func sendNumbered(t *testing.T, p client.Producer, from, to int64) {
	t.Helper()
	numbers := make(chan int64)
	var senders sync.WaitGroup
	for range 8 {
		senders.Go(func() {
			for n := range numbers {
				if _, err := p.Send(context.Background(), &client.Message{Topic: tierTopic, Body: bodyOf(n)}); err != nil {
					t.Errorf("send %d: %v", n, err)
				}
			}
		})
	}
	for n := from; n < to; n++ {
		numbers <- n
	}
	close(numbers)
	senders.Wait()
}

func (c *cairn) tier() (i broker.TierInfo) {
	c.t.Helper()
	if err := json.Unmarshal([]byte(run(c.t, "tier", "status", "-o", "json", "--http", c.fixed.HTTP)), &i); err != nil {
		c.t.Fatal(err)
	}
	return i
}

// pullNumbered reads every queue from offset 0 over Remoting: each of the first count numbers is there once.
func (c *cairn) pullNumbered(count int64) {
	c.t.Helper()
	conn := dial(c.t, c.fixed.Remoting, wire.ClientOptions{})
	defer conn.Close()
	seen := map[int64]bool{}
	for q := range tierQueues {
		for offset := int64(0); ; {
			n, err := pull(context.Background(), conn, tierTopic, q, offset, 0, func(m *message.Message) {
				if m.QueueOffset != offset {
					c.t.Fatalf("queue %d: offset %d where %d was to be", q, m.QueueOffset, offset)
				}
				seen[checkBody(c.t, m.Body)] = true
				offset++
			})
			if err != nil {
				c.t.Fatal(err)
			}
			if n == 0 {
				break
			}
		}
	}
	for n := range count {
		if !seen[n] {
			c.t.Errorf("message %d is lost", n)
		}
	}
	if int64(len(seen)) != count {
		c.t.Errorf("%d messages, not %d", len(seen), count)
	}
}

// receiveNumbered pops with the official client what the group has not had: each of the first count numbers comes.
func (c *cairn) receiveNumbered(count int64) {
	c.t.Helper()
	consumer := startSimple(c.t, c.place(), tierGroup, tierTopic, "*")
	seen := map[int64]bool{}
	eventually(c.t, 2*time.Minute, "every message was received", func() bool {
		some, err := receiveSome(context.Background(), consumer, 32, 15*time.Second)
		if err != nil {
			c.t.Logf("receive: %v; they come again", err)
		}
		for _, m := range some {
			seen[checkBody(c.t, m.GetBody())] = true
			if err := consumer.Ack(context.Background(), m); err != nil {
				c.t.Errorf("acknowledge: %v", err)
			}
		}
		return int64(len(seen)) >= count
	})
	for n := range count {
		if !seen[n] {
			c.t.Errorf("message %d did not come", n)
		}
	}
}

func (c *cairn) uploadedAll(parts int) func() bool {
	return func() bool {
		i := c.tier()
		return i.State == "working" && i.Parts >= parts && i.BehindSegments == 0
	}
}

// firstSegment says whether the log's first segment is here.
func (c *cairn) firstSegment() bool {
	found, err := filepath.Glob(filepath.Join(c.data, "log", "00000000000000000000*"))
	return err != nil || len(found) > 0
}

// Messages whose segments left for a folder are read from offset 0 as if they were here, by both protocols, before and after a kill.
func TestTierInAFolder(t *testing.T) {
	client.EnableSsl = false
	url := "file://" + t.TempDir()
	c := startCairn(t, tierFlags(url)...)
	createTopic(t, c.place(), tierTopic, "NORMAL", tierQueues)
	createGroup(t, c.place(), tierGroup)
	const count = 1200
	sendNumbered(t, startProducer(t, c.place(), tierTopic), 0, count)
	eventually(t, time.Minute, "all that is sealed is uploaded", c.uploadedAll(3))
	eventually(t, 90*time.Second, "the first segment is here no more", func() bool { return !c.firstSegment() })
	c.receiveNumbered(count)
	c.pullNumbered(count)
	if i := c.tier(); i.ReadRequests == 0 || i.CacheHits == 0 {
		t.Errorf("nothing was read from the tier: %+v", i)
	}
	if c.times("the tier is there") != 1 || c.times("the tier") != 1 {
		t.Errorf("said %v", c.heard)
	}
	run(t, "tier", "verify", "--tiered.url", url)

	c.kill()
	c.start()
	c.pullNumbered(count)
}

// While a real S3 service is out of reach the broker works on, starts, and says so once; what was sealed meanwhile is uploaded
// afterwards, and nothing is lost.
func TestTierOutOfReach(t *testing.T) {
	client.EnableSsl = false
	server := gateway.Start(t)
	plan := faults.NewPlan(1)
	proxy := faults.StartProxy(t, server.Endpoint, plan)
	c := startCairn(t, tierFlags(gateway.Address(proxy.Endpoint, "outage"))...)
	createTopic(t, c.place(), tierTopic, "NORMAL", tierQueues)
	createGroup(t, c.place(), tierGroup)
	p := startProducer(t, c.place(), tierTopic)
	sendNumbered(t, p, 0, 400)
	eventually(t, time.Minute, "the first part is uploaded", c.uploadedAll(1))

	plan.Outage(true)
	sendNumbered(t, p, 400, 1200)
	eventually(t, time.Minute, "the outage is noticed", func() bool { return c.tier().State == "unreachable" })
	failed := c.tier().Failures
	eventually(t, time.Minute, "it is tried again", func() bool { return c.tier().Failures >= failed+3 })
	if i := c.tier(); i.BehindSegments < 2 || i.Error == "" {
		t.Errorf("%+v", i)
	}
	plan.Outage(false)
	eventually(t, 2*time.Minute, "all that is sealed is uploaded", c.uploadedAll(3))
	if out, back, all := c.times("the tier is out of reach"), c.times("the tier is back"), c.times("the tier"); out != 1 || back != 1 || all != 3 {
		t.Errorf("said %d times that it is out of reach, %d times that it is back, %d lines in all: %v", out, back, all, c.heard)
	}

	plan.Outage(true)
	c.kill()
	c.start()
	if limit := 5 * time.Second; c.ready > limit {
		t.Errorf("it took %s to start while the tier is out of reach", c.ready)
	}
	p = startProducer(t, c.place(), tierTopic)
	sendNumbered(t, p, 1200, 1300)
	plan.Outage(false)
	plan.Rates(0.03) // a service as it may be, but for requests that hang, for which clients do not wait
	plan.Rate(faults.Timeout, 0)
	plan.Rate(faults.WrongBytes, 0.001) // two in a row are damage, and said to be
	eventually(t, 2*time.Minute, "the tier works again", c.uploadedAll(3))
	c.receiveNumbered(1300)
	plan.Rates(0)
	c.pullNumbered(1300)
	run(t, "tier", "verify", "--tiered.url", gateway.Address(server.Endpoint, "outage"))
	if _, err := os.Stat(filepath.Join(c.data, "tier.json")); err != nil {
		t.Error(err)
	}
}
