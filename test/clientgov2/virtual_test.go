package clientgov2

import (
	"context"
	"fmt"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

// Six consumers of a group with virtual queues share two queues: each gets work, and each message comes once, also those that a
// consumer has failed on.
func TestVirtualQueues(t *testing.T) {
	cairnOnly(t, "the reference has no virtual queues")
	c := startCairn(t)
	createTopic(t, c, "shared", 2)
	out, err := exec.Command(program(t), "group", "create", "shared-group", "--attributes", "+queues.virtual=true", "--nameserver", c.NameServer).CombinedOutput()
	if err != nil {
		t.Fatalf("make the group: %v\n%s", err, out)
	}
	got := newInbox()
	var mu sync.Mutex
	counts := map[string]int{}
	for i := range 6 {
		name := fmt.Sprintf("shared%d", i)
		startConsumer(t, c, "shared-group", name, "shared", consumer.MessageSelector{}, consumer.Clustering, func(ms ...*primitive.MessageExt) consumer.ConsumeResult {
			if string(ms[0].Body) == "fails" && ms[0].ReconsumeTimes == 0 {
				return consumer.ConsumeRetryLater
			}
			got.put(ms...)
			mu.Lock()
			defer mu.Unlock()
			counts[name] += len(ms)
			return consumer.ConsumeSuccess
		})
	}
	working := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(counts)
	}
	p := startProducer(t, c, "shared-producer")
	sent := map[string]string{}
	for i := 0; i < 4000 || working() < 6 && i < 40_000; i++ {
		body := fmt.Sprint("m", i)
		if i%1000 == 999 {
			body = "fails"
		}
		r, err := p.SendSync(context.Background(), primitive.NewMessage("shared", []byte(body)))
		if err != nil {
			t.Fatal(err)
		}
		sent[r.MsgID] = body
	}
	eventually(t, 60*time.Second, "all messages consumed", func() bool { return got.count() == len(sent) })
	got.check(t, sent)
	if working() < 6 || got.max != 1 {
		t.Errorf("six consumers got %v, reconsumed %d times", counts, got.max)
	}
}
