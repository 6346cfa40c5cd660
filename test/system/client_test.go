package system

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	client "github.com/apache/rocketmq-clients/golang/v5"
	"github.com/apache/rocketmq-clients/golang/v5/credentials"
	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"

	"github.com/cairnmq/cairn/test/place"
)

func init() {
	dir, err := os.MkdirTemp("", "cairn-client-logs-")
	if err != nil {
		panic(err)
	}
	_ = os.Setenv(client.CLIENT_LOG_ROOT, dir)
	_ = os.Setenv(client.CLIENT_LOG_LEVEL, "error")
	client.ResetLogger()
}

func config(at place.Place, group string) *client.Config {
	return &client.Config{Endpoint: at.GRPC, ConsumerGroup: group, Credentials: &credentials.SessionCredentials{}}
}

func startProducer(t *testing.T, at place.Place, topic string) client.Producer {
	t.Helper()
	p, err := client.NewProducer(config(at, ""), client.WithTopics(topic))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.GracefulStop() })
	return p
}

func startSimple(t *testing.T, at place.Place, group, topic, tags string) client.SimpleConsumer {
	t.Helper()
	s, err := client.NewSimpleConsumer(config(at, group), client.WithSimpleAwaitDuration(5*time.Second),
		client.WithSimpleSubscriptionExpressions(map[string]*client.FilterExpression{topic: client.NewFilterExpression(tags)}))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.GracefulStop() })
	return s
}

func receive(t *testing.T, s client.SimpleConsumer, invisible time.Duration) []*client.MessageView {
	t.Helper()
	ms, err := s.Receive(context.Background(), 32, invisible)
	var status *client.ErrRpcStatus
	if errors.As(err, &status) && status.Code == int32(v2.Code_MESSAGE_NOT_FOUND) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return ms
}

// The official client begins with TLS unless it is told otherwise.
func TestOfficialClientOverTLSAndPlainText(t *testing.T) {
	at := start(t, plain)
	for _, tls := range []bool{true, false} {
		client.EnableSsl = tls
		topic := fmt.Sprintf("tls-%v", tls)
		createTopic(t, at, topic, "NORMAL", 8)
		createGroup(t, at, topic+"-group")
		p := startProducer(t, at, topic)
		want := map[string]string{}
		for i := range 50 {
			m := &client.Message{Topic: topic, Body: []byte(fmt.Sprint("body ", i))}
			m.SetTag("t")
			m.SetKeys("k", fmt.Sprint("key", i))
			m.AddProperty("colour", "red")
			r, err := p.Send(context.Background(), m)
			if err != nil {
				t.Fatal(err)
			}
			want[r[0].MessageID] = string(m.Body)
		}
		s := startSimple(t, at, topic+"-group", topic, "*")
		eventually(t, 30*time.Second, "all received", func() bool {
			for _, m := range receive(t, s, 20*time.Second) {
				if body, ok := want[m.GetMessageId()]; !ok || body != string(m.GetBody()) {
					t.Fatalf("message %s came as %q, sent as %q (or twice)", m.GetMessageId(), m.GetBody(), body)
				}
				if m.GetProperties()["colour"] != "red" || m.GetTag() == nil || *m.GetTag() != "t" || len(m.GetKeys()) != 2 || m.GetDeliveryAttempt() != 1 {
					t.Fatalf("%v", m)
				}
				if err := s.Ack(context.Background(), m); err != nil {
					t.Fatal(err)
				}
				delete(want, m.GetMessageId())
			}
			return len(want) == 0
		})
	}
}

func TestPoppedAndAcknowledgedStateSurvivesKill(t *testing.T) {
	cairnOnly(t, "it kills the broker")
	client.EnableSsl = false
	c := startCairn(t, "--segment-size", "64MiB")
	p := startProducer(t, c.place(), "popped")
	for i := range 20 {
		if _, err := p.Send(context.Background(), &client.Message{Topic: "popped", Body: []byte(fmt.Sprint(i))}); err != nil {
			t.Fatal(err)
		}
	}
	s := startSimple(t, c.place(), "popped-group", "popped", "*")
	held := map[string]bool{}
	acked := map[string]bool{}
	eventually(t, 30*time.Second, "all received", func() bool {
		for _, m := range receive(t, s, 15*time.Second) {
			body := string(m.GetBody())
			if len(acked) < 10 {
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
	c.kill()
	c.start()
	again := startSimple(t, c.place(), "popped-group", "popped", "*")
	eventually(t, 60*time.Second, "what was not acknowledged comes again", func() bool {
		for _, m := range receive(t, again, 30*time.Second) {
			body := string(m.GetBody())
			if acked[body] {
				t.Fatalf("%s came again although it had been acknowledged", body)
			}
			if m.GetDeliveryAttempt() != 2 {
				t.Fatalf("attempt %d", m.GetDeliveryAttempt())
			}
			delete(held, body)
		}
		return len(held) == 0
	})
}

func TestPushConsumer(t *testing.T) {
	client.EnableSsl = false
	at := start(t, plain)
	createTopic(t, at, "pushed", "NORMAL", 8)
	createGroup(t, at, "pushed-group")
	p := startProducer(t, at, "pushed")
	var mu sync.Mutex
	got := map[string]int{}
	pc, err := client.NewPushConsumer(config(at, "pushed-group"), client.WithPushAwaitDuration(5*time.Second),
		client.WithPushSubscriptionExpressions(map[string]*client.FilterExpression{"pushed": client.SUB_ALL}),
		client.WithPushMessageListener(&client.FuncMessageListener{Consume: func(m *client.MessageView) client.ConsumerResult {
			mu.Lock()
			defer mu.Unlock()
			got[string(m.GetBody())]++
			return client.SUCCESS
		}}))
	if err != nil {
		t.Fatal(err)
	}
	if err := pc.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.GracefulStop() })
	for i := range 100 {
		if _, err := p.Send(context.Background(), &client.Message{Topic: "pushed", Body: []byte(fmt.Sprint(i))}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 40*time.Second, "all pushed", func() bool { mu.Lock(); defer mu.Unlock(); return len(got) == 100 })
	mu.Lock()
	defer mu.Unlock()
	for body, n := range got {
		if n != 1 {
			t.Errorf("%s came %d times", body, n)
		}
	}
}

func TestCommandLine(t *testing.T) {
	cairnOnly(t, "it is about Cairn's own program")
	c := startCairn(t, "--segment-size", "64MiB")
	ns := c.fixed.NameServer
	run(t, "topic", "create", "orders", "--queues", "4", "-n", ns)
	run(t, "message", "send", "orders", `{"id":7}`, "--tag", "paid", "--key", "7", "-n", ns)
	for _, try := range []struct {
		args []string
		want string
	}{
		{[]string{"topic", "list"}, "orders"},
		{[]string{"topic", "show", "orders"}, "1 messages"},
		{[]string{"message", "query", "orders", "--key", "7"}, `{"id":7}`},
		{[]string{"cluster", "list"}, "broker-a"},
		{[]string{"cluster", "status"}, "putTps"},
	} {
		if out := run(t, append(try.args, "-n", ns)...); !strings.Contains(out, try.want) {
			t.Errorf("cairn %s: no %q in\n%s", strings.Join(try.args, " "), try.want, out)
		}
	}
	run(t, "group", "create", "billing", "--retries", "3", "-n", ns)
	run(t, "group", "reset", "billing", "orders", "--to", "latest", "-n", ns)
	if out := run(t, "group", "show", "billing", "-n", ns, "-o", "json"); !strings.Contains(out, `"lag": 0`) {
		t.Errorf("group show: %s", out)
	}
	run(t, "topic", "delete", "orders", "-n", ns)
	if out := run(t, "topic", "list", "-n", ns); strings.Contains(out, "orders") {
		t.Errorf("a deleted topic is listed: %s", out)
	}
}

func TestQuickstart(t *testing.T) {
	cairnOnly(t, "it is about Cairn's own program")
	out := run(t, "quickstart", "--messages", "2000")
	for _, want := range []string{"received 2000, each acknowledged", "0 came twice", "Connect to it"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}
