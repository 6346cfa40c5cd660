package remoting

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/message"
)

// What pipelining producers send comes to long-polling consumers once, without gaps and in the order of the queue, while it
// is being sent. CAIRN_FLOW sets another number of messages for a longer try.
func TestFlow(t *testing.T) {
	n := 20_000
	if s := os.Getenv("CAIRN_FLOW"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	const queues = 4
	r := newRig(t, commitlog.ModeSync, Options{}, nil)
	producer, consumer := r.dial(wire.ClientOptions{}), r.dial(wire.ClientOptions{})
	for q := range queues {
		if resp := invoke(t, producer, sendRequest("flow", strconv.Itoa(q), "first")); resp.Code != wire.Success {
			t.Fatal(resp.Code, resp.Remark)
		}
	}
	var want [queues]atomic.Int64 // how many messages were acknowledged
	var wg sync.WaitGroup
	for p := range 16 {
		wg.Go(func() {
			for i := p; i < n; i += 16 {
				q := i % queues
				resp, err := producer.Invoke(t.Context(), sendRequest("flow", strconv.Itoa(q), fmt.Sprint(i)))
				if err != nil || resp.Code != wire.Success {
					t.Errorf("%v %+v", err, resp)
					return
				}
				resp.Release()
				want[q].Add(1)
			}
		})
	}
	var consumers sync.WaitGroup
	for q := range queues {
		consumers.Go(func() { consumeQueue(t, consumer, q, n/queues+1) })
	}
	wg.Wait()
	consumers.Wait()
	for q := range want {
		if got := want[q].Load(); got != int64(n/queues) {
			t.Errorf("queue %d: %d acknowledged", q, got)
		}
	}
}

func consumeQueue(t *testing.T, c *wire.Client, q, n int) {
	seen := map[string]bool{}
	for offset := int64(0); offset < int64(n); {
		req := pullRequest("flow-group", "flow", strconv.FormatInt(offset, 10), "15000")
		req.Fields.Set("queueId", strconv.Itoa(q))
		resp, err := c.Invoke(t.Context(), req)
		if err != nil {
			t.Error(err)
			return
		}
		next, err := resp.Fields.Int64("nextBeginOffset")
		if err != nil || resp.Code != wire.Success {
			t.Errorf("queue %d at %d: %d %s, next %d, %v", q, offset, resp.Code, resp.Remark, next, err)
			return
		}
		from := offset
		for body := resp.Body; len(body) > 0; {
			m, size, err := message.Decode(body)
			if err != nil {
				t.Errorf("queue %d at %d: %v", q, offset, err)
				return
			}
			body = body[size:]
			if m.QueueOffset != offset || m.QueueID != int32(q) || seen[string(m.Body)] {
				t.Errorf("queue %d: offset %d of queue %d with %q when %d was next (pulled from %d)",
					q, m.QueueOffset, m.QueueID, m.Body, offset, from)
				return
			}
			seen[string(m.Body)] = true
			offset++
		}
		if next != offset {
			t.Errorf("queue %d: pulled from %d up to %d, told %d", q, from, offset, next)
			return
		}
		resp.Release()
	}
}
