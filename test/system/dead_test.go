package system

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	client "github.com/apache/rocketmq-clients/golang/v5"

	doorhttp "github.com/cairnmq/cairn/server/http"
)

// deadLetters lists what `cairn dlq` says of a group.
func (c *cairn) deadLetters(group string) (out []doorhttp.DeadLetter) {
	c.t.Helper()
	if err := json.Unmarshal([]byte(run(c.t, "dlq", "show", group, "--http", c.fixed.HTTP, "--limit", "100000", "-o", "json")), &out); err != nil {
		c.t.Fatal(err)
	}
	return out
}

func (c *cairn) deadCount() (n int64) {
	c.t.Helper()
	var groups []doorhttp.DeadGroup
	if err := json.Unmarshal([]byte(run(c.t, "dlq", "list", "--http", c.fixed.HTTP, "-o", "json")), &groups); err != nil {
		c.t.Fatal(err)
	}
	for _, g := range groups {
		n += g.Count
	}
	return n
}

// attempt is run for a command that may fail, since the broker is killed meanwhile.
func attempt(t *testing.T, args ...string) <-chan string {
	t.Helper()
	cmd := exec.Command(program(t), args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	over := make(chan string, 1)
	go func() {
		_ = cmd.Wait() // what matters is what the broker has afterwards
		over <- out.String()
	}()
	return over
}

// TestDeadLettersSurviveKills: a message that nobody acknowledges becomes a dead letter once, and is redriven once, whenever the broker
// is killed.
func TestDeadLettersSurviveKills(t *testing.T) {
	cairnOnly(t, "it kills the broker, and asks it for its dead letters")
	client.EnableSsl = false
	const n = 300
	c := startCairn(t, "--segment-size", "64MiB")
	run(t, "group", "create", "deaf", "-n", c.fixed.NameServer, "--retries", "0")
	run(t, "topic", "create", "poison", "-n", c.fixed.NameServer, "--queues", "2")
	p := startProducer(t, c.place(), "poison")
	for i := range n {
		if _, err := p.Send(t.Context(), &client.Message{Topic: "poison", Body: []byte(fmt.Sprint(i))}); err != nil {
			t.Fatal(err)
		}
	}
	s := startSimple(t, c.place(), "deaf", "poison", "*")
	for got := 0; got < n; {
		for _, m := range receive(t, s, 20*time.Second) {
			if err := s.ChangeInvisibleDuration(m, time.Millisecond); err != nil {
				t.Fatal(err)
			}
			got++
		}
	}
	for kill := range max(*kills, 1) {
		ctx, stop := context.WithCancel(t.Context())
		over := make(chan struct{})
		go func() {
			defer close(over)
			_, _ = s.Receive(ctx, 32, 20*time.Second) // which buries what it meets
		}()
		<-time.After(time.Duration(5+10*kill) * time.Millisecond)
		c.kill()
		stop()
		c.start()
		<-over
	}
	eventually(t, 60*time.Second, "all are dead letters", func() bool {
		_, _ = s.Receive(t.Context(), 32, 20*time.Second)
		return c.deadCount() == n
	})
	seen := map[string]bool{}
	for _, d := range c.deadLetters("deaf") {
		if d.Reason != "max-attempts" || d.Attempts != 1 || d.Topic != "poison" || seen[d.ID] {
			t.Fatalf("%+v", d)
		}
		seen[d.ID] = true
	}
	if len(seen) != n {
		t.Fatalf("%d dead letters are listed", len(seen))
	}
	for kill := range max(*kills, 1) {
		said := attempt(t, "dlq", "redrive", "deaf", "--http", c.fixed.HTTP, "--rate", "150")
		<-time.After(time.Duration(400+150*kill) * time.Millisecond)
		c.kill()
		c.start()
		t.Log(strings.TrimSpace(<-said))
	}
	if left := c.deadCount(); left > 0 { // else the broker was there again before the last run noticed
		said := run(t, "dlq", "redrive", "deaf", "--http", c.fixed.HTTP, "--rate", "0")
		if !strings.Contains(said, fmt.Sprintf("%d dead letters of group deaf redriven", left)) {
			t.Errorf("%d were left: %s", left, said)
		}
	}
	again := startSimple(t, c.place(), "counting", "poison", "*")
	times := map[string]int{}
	for got := 0; got < 2*n; {
		for _, m := range receive(t, again, 20*time.Second) {
			times[string(m.GetBody())]++
			got++
			if err := again.Ack(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
	}
	if more := receive(t, again, 20*time.Second); len(more) > 0 {
		t.Errorf("%d more messages", len(more))
	}
	for i := range n {
		if times[fmt.Sprint(i)] != 2 {
			t.Errorf("message %d is there %d times, want it as it was sent and as it was redriven", i, times[fmt.Sprint(i)])
		}
	}
}
