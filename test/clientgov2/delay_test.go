package clientgov2

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

// arrivals notes which bodies came, when, and where in their queues they lie.
type arrivals struct {
	mu     sync.Mutex
	bodies []string
	at     map[string]time.Time
	offset map[string]int64
	props  map[string]map[string]string
}

func (a *arrivals) put(ms ...*primitive.MessageExt) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.at == nil {
		a.at, a.offset, a.props = map[string]time.Time{}, map[string]int64{}, map[string]map[string]string{}
	}
	for _, m := range ms {
		body := string(m.Body)
		a.bodies = append(a.bodies, body)
		a.at[body], a.offset[body], a.props[body] = now, m.QueueOffset, m.GetProperties()
	}
}

func (a *arrivals) list() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.bodies)
}

// inQueue are the bodies of one queue in the order in which they lie there.
func (a *arrivals) inQueue() []string {
	bodies := a.list()
	slices.SortFunc(bodies, func(x, y string) int { return int(a.offset[x] - a.offset[y]) })
	return bodies
}

func TestDelayLevelsAndTimers(t *testing.T) {
	c := start(t, shortDelays)
	createTopic(t, c, "delays", 1)
	p := startProducer(t, c, "delays-producer")
	var got arrivals
	startConsumer(t, c, "delays-group", "one", "delays", consumer.MessageSelector{}, consumer.Clustering, func(ms ...*primitive.MessageExt) consumer.ConsumeResult {
		got.put(ms...)
		return consumer.ConsumeSuccess
	})
	// The due times lie more than a second apart: the reference rounds them up to whole seconds, in which it keeps no order.
	began := time.Now().Truncate(time.Millisecond)
	deliver := strconv.FormatInt(began.Add(7500*time.Millisecond).UnixMilli(), 10)
	least := map[string]time.Duration{}
	for _, try := range []struct {
		body, property, value string
		delay                 time.Duration
	}{
		{"seconds", "TIMER_DELAY_SEC", "6", 6 * time.Second},
		{"deliver at", "TIMER_DELIVER_MS", deliver, 7500 * time.Millisecond},
		{"ms", "TIMER_DELAY_MS", "2500", 2500 * time.Millisecond},
		{"level 1", "DELAY", "1", time.Second},
		{"level 9", "DELAY", "9", 4 * time.Second}, // more than there are: it counts as the last one
	} {
		m := primitive.NewMessage("delays", []byte(try.body))
		m.WithProperty(try.property, try.value)
		if r, err := p.SendSync(context.Background(), m); err != nil || r.Status != primitive.SendOK {
			t.Fatalf("%s: %v %v", try.body, r, err)
		}
		least[try.body] = try.delay
	}
	inTime := time.Since(began) < 500*time.Millisecond // less than lies between their due times
	eventually(t, 40*time.Second, "all delayed ones consumed", func() bool { return len(got.list()) >= len(least) })
	var order error
	if want := []string{"level 1", "ms", "level 9", "seconds", "deliver at"}; len(got.list()) != len(want) || inTime && !slices.Equal(got.inQueue(), want) {
		order = fmt.Errorf("lie in the queue as %q, due as %q", got.inQueue(), want)
	}
	check(t, "in the order in which they are due", order)
	var early []error
	for body, delay := range least {
		after := got.at[body].Sub(began)
		if after < delay {
			early = append(early, fmt.Errorf("%s came after %s, before its %s", body, after, delay))
		}
		t.Logf("%s came after %s, due after %s", body, after.Round(time.Millisecond), delay)
	}
	check(t, "not before they are due", errors.Join(early...))
	for key, want := range map[string]string{"DELAY": "1", "REAL_TOPIC": "delays"} {
		if v := got.props["level 1"][key]; v != want {
			t.Errorf("after a delay level %s is %q, want %q", key, v, want)
		}
	}
}

// The consumer chooses the delay level of the next try.
func TestRetryWithDelayLevel(t *testing.T) {
	c := start(t, shortDelays)
	createTopic(t, c, "levels", 4)
	p := startProducer(t, c, "levels-producer")
	var mu sync.Mutex
	var tries []time.Time
	var times []int32
	// The group and its retry topic are to be there: else the client looks for the latter after 20 s.
	before := startConsumer(t, c, "levels-group", "before", "levels", consumer.MessageSelector{}, consumer.Clustering, func(...*primitive.MessageExt) consumer.ConsumeResult {
		return consumer.ConsumeSuccess
	})
	if err := before.Shutdown(); err != nil {
		t.Fatal(err)
	}
	pc := newConsumer(t, c, "levels-group", "one", consumer.Clustering)
	err := pc.Subscribe("levels", consumer.MessageSelector{}, func(ctx context.Context, ms ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		mu.Lock()
		defer mu.Unlock()
		tries, times = append(tries, time.Now()), append(times, ms[0].ReconsumeTimes)
		if len(tries) == 3 {
			return consumer.ConsumeSuccess, nil
		}
		concurrently, _ := primitive.GetConcurrentlyCtx(ctx)
		concurrently.DelayLevelWhenNextConsume = len(tries)
		return consumer.ConsumeRetryLater, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	startIt(t, pc)
	if _, err := p.SendSync(context.Background(), primitive.NewMessage("levels", []byte("stubborn"))); err != nil {
		t.Fatal(err)
	}
	eventually(t, 40*time.Second, "a third try", func() bool { mu.Lock(); defer mu.Unlock(); return len(tries) == 3 })
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(times, []int32{0, 1, 2}) {
		t.Errorf("reconsume counts %v", times)
	}
	for i, level := range []time.Duration{time.Second, 4 * time.Second} {
		if pause := tries[i+1].Sub(tries[i]); pause < level {
			t.Errorf("try %d came after %s, before its level's %s", i+2, pause, level)
		}
	}
}
