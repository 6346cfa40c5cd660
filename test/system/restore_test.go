package system

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	client "github.com/apache/rocketmq-clients/golang/v5"

	"github.com/cairnmq/cairn/internal/wire"
)

// A machine is lost with its disk; another one starts from the object store, and has what was uploaded: messages at their offsets, and
// what a group has done and has not.
func TestRestoredFromTheTierAlone(t *testing.T) {
	cairnOnly(t, "it loses the broker")
	client.EnableSsl = false
	folder := t.TempDir()
	c := startCairn(t, "--segment-size", "16MiB", "--durability", "os", "--tiered.url", "file://"+folder)
	p := startProducer(t, c.place(), "popped")
	for i := range 20 {
		if _, err := p.Send(context.Background(), &client.Message{Topic: "popped", Body: fmt.Append(nil, i)}); err != nil {
			t.Fatal(err)
		}
	}
	s := startSimple(t, c.place(), "popped-group", "popped", "*")
	acked, held := map[string]bool{}, map[string]bool{}
	eventually(t, 30*time.Second, "all received", func() bool {
		for _, m := range receive(t, s, 15*time.Second) {
			if body := string(m.GetBody()); len(acked) < 10 {
				if err := s.Ack(context.Background(), m); err != nil {
					t.Fatal(err)
				}
				acked[body] = true
			} else {
				held[body] = true
			}
		}
		return len(acked)+len(held) == 20
	})
	l := newLoad(t)
	run(t, "topic", "create", killTopic, "--queues", fmt.Sprint(killQueues), "-n", c.fixed.NameServer)
	l.send(context.Background(), c.fixed.Remoting, 512, 200_000)
	eventually(t, 60*time.Second, "segments and snapshots are in the tier", func() bool {
		return len(inTier(t, folder, "parts", ".log")) >= 3 && len(inTier(t, folder, "snapshots", "")) >= 2
	})
	c.kill()
	if err := os.RemoveAll(c.data); err != nil {
		t.Fatal(err)
	}

	extra := c.extra
	c.extra = append(slices.Clone(extra), "--restore-from", "tier")
	c.start()
	lost := l.forget(c.fixed.Remoting)
	total := l.check(c.fixed.Remoting)
	t.Logf("ready %s after the start, %d messages, %d were not uploaded", c.ready.Round(time.Millisecond), total, lost)
	if total < 100_000 || c.ready > 20*time.Second {
		t.Errorf("%d messages, ready after %s", total, c.ready)
	}
	again := startSimple(t, c.place(), "popped-group", "popped", "*")
	eventually(t, 60*time.Second, "what was not acknowledged comes again", func() bool {
		for _, m := range receive(t, again, 60*time.Second) {
			body := string(m.GetBody())
			if acked[body] {
				t.Fatalf("%s came again although it had been acknowledged", body)
			}
			delete(held, body)
		}
		return len(held) == 0
	})

	// It goes on, and is a store like any other.
	l.send(context.Background(), c.fixed.Remoting, 512, 100_000)
	c.stop()
	out, err := exec.Command(program(t), "serve", "--data", c.data, "--tiered.url", "file://"+folder, "--restore-from", "tier").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "not empty") {
		t.Errorf("restored over a store: %v\n%s", err, out)
	}
	c.extra = extra
	c.start()
	if after := l.check(c.fixed.Remoting); after != total+100_000 {
		t.Errorf("%d messages, then %d", total, after)
	}
	c.stop()
	if out := run(t, "debug", "verify", "--data", c.data); out == "" {
		t.Fatal("verify said nothing")
	}
}

// inTier lists the objects of a kind.
func inTier(t *testing.T, folder, kind, ending string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(folder, "*", "*", kind, "*"+ending))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// forget drops what was acknowledged behind the ends that the queues have now, and says how much that is.
func (l *load) forget(addr string) (lost int) {
	l.t.Helper()
	c := dial(l.t, addr, wire.ClientOptions{})
	defer c.Close()
	for q := range killQueues {
		req := wire.NewRequest(wire.GetMaxOffset)
		req.Fields.Add("topic", killTopic)
		req.Fields.AddInt("queueId", int64(q))
		resp, err := c.Invoke(context.Background(), req)
		if err != nil {
			l.t.Fatal(err)
		}
		end, err := resp.Fields.Int64("offset")
		if err != nil {
			l.t.Fatal(err)
		}
		resp.Release()
		for o := range l.acked[q] {
			if o >= end {
				delete(l.acked[q], o)
				lost++
			}
		}
	}
	return lost
}
