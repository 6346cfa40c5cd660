package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/tiered"
	"github.com/cairnmq/cairn/tiered/objects"
)

// slowStore is an object store whose reads wait while it is shut.
type slowStore struct {
	objects.Store
	mu   sync.Mutex
	shut chan struct{} // closed when it opens; nil: it is open
}

func (s *slowStore) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	s.mu.Lock()
	shut := s.shut
	s.mu.Unlock()
	if shut != nil {
		select {
		case <-shut:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return s.Store.ReadAt(ctx, name, p, off)
}

func (s *slowStore) setShut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shut = make(chan struct{})
}

func (s *slowStore) open() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.shut)
	s.shut = nil
}

// coldBroker is a broker whose log keeps two hours, and its object store.
func coldBroker(t *testing.T) (*testBroker, *slowStore, *clock.Fake) {
	t.Helper()
	folder, err := objects.OpenFolder(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	slow := &slowStore{Store: folder}
	tier, err := tiered.Open(context.Background(), slow, tiered.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tier.Manifests().Claim(context.Background(), tiered.StoreID{1}); err != nil {
		t.Fatal(err)
	}
	c := clock.NewFake(time.UnixMilli(1_700_000_000_000))
	tb := &testBroker{segment: 16 << 10, retain: 2 * time.Hour, tier: tier}
	tb.openOn(t, withClock(c))
	t.Cleanup(func() {
		if tb.Broker != nil {
			tb.close(t)
		}
		tier.Close()
		if err := folder.Close(); err != nil {
			t.Error(err)
		}
	})
	return tb, slow, c
}

// age stores n messages in each of so many queues of a topic and lets all but the last hours' leave the log for the tier.
func (tb *testBroker) age(t *testing.T, c *clock.Fake, topic string, queues int32, n int) {
	t.Helper()
	tb.topicOf(t, topic, queues)
	for i := range n {
		for q := range queues {
			tb.send(t, topic, q, plain(fmt.Sprintf("%d-%d", q, i)+strings.Repeat(".", 900)))
		}
		c.Advance(10 * time.Minute)
	}
	tb.topicOf(t, "filler", 1)
	for range 40 { // whatever was stored is in a sealed segment then
		tb.send(t, "filler", 0, plain(strings.Repeat("-", 900)))
	}
	c.Advance(4 * time.Hour)
	for done := false; !done; {
		var err error
		if _, done, err = tb.store.Upload(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if err := tb.store.Expire(context.Background(), c.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := tb.store.Here().Entries(mustTopicID(t, tb, topic), 0, 0, 1, nil); err == nil {
		t.Fatalf("queue 0 of %s is still here", topic)
	}
}

// Whoever reads what is here is answered while more pulls and pops than there are workers of any kind wait for the tier, and
// those get all that they asked for when it answers.
func TestColdReadersKeepNobodyWaiting(t *testing.T) {
	tb, slow, c := coldBroker(t)
	tb.age(t, c, "old", 1, 40)
	tb.sendBodies(t, "new", 0, 3)
	const pops, pulls = lookers + 40, 60
	for i := range pops {
		tb.group(t, fmt.Sprint("g", i))
	}
	tb.group(t, "reader")
	slow.setShut()
	var wg sync.WaitGroup
	popped := func(i int) (n int) {
		res, err := tb.Pop(context.Background(), &PopRequest{
			Group: fmt.Sprint("g", i), Topic: "old", Queue: -1, Max: 8, Invisible: time.Minute,
		})
		if err != nil {
			t.Errorf("pop: %v", err)
			return 0
		}
		defer res.Buffer.Release()
		return len(res.Ends)
	}
	for i := range pops {
		wg.Go(func() {
			if n := popped(i); n != 8 {
				t.Errorf("pop %d of what is in the tier: %d messages, want 8", i, n)
			}
		})
	}
	for i := range pulls {
		wg.Go(func() {
			if res := tb.pull(t, "reader", "old", 0, int64(i%20)); res.Status != PullFound {
				t.Errorf("pull of what is in the tier: %v", res.Status)
			} else {
				res.Buffer.Release()
			}
		})
	}
	for tb.cold.inside.Load() < pops+pulls {
		select {
		case <-t.Context().Done():
			t.Fatal("they do not come to the cold workers")
		case <-time.After(time.Millisecond):
		}
	}
	res := tb.pull(t, "reader", "new", 0, 0)
	if res.Status != PullFound || len(res.Ends) != 3 {
		t.Errorf("pull of what is here: %v, %d messages", res.Status, len(res.Ends))
	}
	res.Buffer.Release()
	got, err := tb.Pop(context.Background(), &PopRequest{Group: "g0", Topic: "new", Queue: 0, Max: 8, Invisible: time.Minute})
	if err != nil || len(got.Ends) != 3 {
		t.Errorf("pop of what is here: %+v, %v", got, err)
	}
	got.Buffer.Release()
	slow.open()
	wg.Wait()
}

// A group whose queues are partly in the tier is served from all of them, each message once.
func TestAColdQueueIsServedBesideOthers(t *testing.T) {
	tb, _, c := coldBroker(t)
	tb.age(t, c, "mixed", 2, 30)
	want := map[string]bool{}
	for q := range 2 {
		for i := range 30 {
			want[fmt.Sprintf("%d-%d", q, i)] = true
		}
	}
	for i := 30; i < 90; i++ { // of which queue 1 has more than the pops of a while take
		tb.send(t, "mixed", 1, plain(fmt.Sprintf("1-%d.", i)))
		want[fmt.Sprintf("1-%d", i)] = true
	}
	tb.group(t, "g")
	first := map[string]int{}
	for pop := 0; ; pop++ {
		res, err := tb.Pop(context.Background(), &PopRequest{Group: "g", Topic: "mixed", Queue: -1, Max: 8, Invisible: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		if len(res.Ends) == 0 {
			break
		}
		for _, m := range decodeAll(t, res.Buffer.B, res.Ends) {
			body, _, _ := strings.Cut(string(m.Body), ".")
			if !want[body] {
				t.Errorf("%s came, though it was not sent or came before", body)
			}
			delete(want, body)
			if _, ok := first[body[:1]]; !ok {
				first[body[:1]] = pop
			}
		}
		res.Buffer.Release()
	}
	if len(want) > 0 {
		t.Errorf("%d messages did not come: %v", len(want), want)
	}
	if first["0"] > 2 {
		t.Errorf("the first message of the queue in the tier came with pop %d", first["0"])
	}
}

// A broker that is closed does not wait for an object store that does not answer.
func TestCloseEndsColdReads(t *testing.T) {
	tb, slow, c := coldBroker(t)
	tb.age(t, c, "old", 1, 40)
	tb.group(t, "g")
	slow.setShut()
	defer slow.open()
	over := make(chan error, 1)
	tb.PopAsync(&PopRequest{Group: "g", Topic: "old", Queue: 0, Max: 1, Invisible: time.Minute, Wait: time.Hour},
		func(_ *PopResult, err error) { over <- err })
	for tb.cold.inside.Load() == 0 {
		<-time.After(time.Millisecond)
	}
	if err := tb.Close(); err != nil {
		t.Fatal(err)
	}
	tb.Broker = nil
	if err := <-over; err == nil {
		t.Error("a pop that was waiting for the tier was answered without an error")
	}
}

// Who reads what an object store does not give is told to try again, in the words of a broker that is busy.
func TestAReadOfATierOutOfReachMayBeTriedAgain(t *testing.T) {
	tb, slow, c := coldBroker(t)
	tb.age(t, c, "old", 1, 40)
	tb.group(t, "g")
	whole := slow.Store
	broken := &brokenStore{Store: whole}
	broken.fail(errors.New("no route to host"))
	slow.Store = broken
	_, err := tb.Pull(context.Background(), &PullRequest{Group: "g", Topic: "old", Offset: 0, CommitOffset: -1})
	wantCode(t, "pull", err, CodeBusy)
	_, err = tb.Pop(context.Background(), &PopRequest{Group: "g", Topic: "old", Queue: 0, Max: 1, Invisible: time.Minute})
	wantCode(t, "pop", err, CodeBusy)
	slow.Store = whole
	res := tb.pull(t, "g", "old", 0, 0)
	if res.Status != PullFound {
		t.Errorf("afterwards: %v", res.Status)
	}
	res.Buffer.Release()
}
