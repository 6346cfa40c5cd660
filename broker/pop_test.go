package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/message"
)

// popBodies pops and answers the bodies, and the handles of what it got.
func (r *popRig) popBodies(t testing.TB, req PopRequest) (bodies, handles []string) {
	t.Helper()
	res, err := r.Pop(context.Background(), &req)
	if err != nil {
		t.Fatalf("pop: %v", err)
	}
	return bodiesOf(t, res), res.Receipts()
}

func bodiesOf(t testing.TB, res *PopResult) (out []string) {
	t.Helper()
	if res.Buffer == nil {
		return nil
	}
	defer res.Buffer.Release()
	for _, m := range decodeAll(t, res.Buffer.B, res.Ends) {
		out = append(out, string(m.Body))
	}
	return out
}

func popOf(n int) PopRequest {
	return PopRequest{Group: "g", Topic: "t", Queue: -1, Max: n, Invisible: time.Minute}
}

func waitingPop(n int) *PopRequest {
	req := popOf(n)
	req.Wait = time.Hour
	return &req
}

func wantBodies(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// Many send and many pop and acknowledge at the same time, on a clock that stands still: each message is handed out exactly
// once, and nobody waits while there is something.
func TestManyConsumersGetEachMessageOnce(t *testing.T) {
	const producers, consumers, each = 4, 12, 500
	r := newPopRig(t)
	r.topicOf(t, "t", 4)
	r.group(t, "g")
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var got sync.Map
	var left atomic.Int64
	left.Store(producers * each)
	var wg sync.WaitGroup
	for p := range producers {
		wg.Go(func() {
			for i := 0; i < each; {
				n := min(1+rand.IntN(20), each-i)
				var messages []message.Message
				for range n {
					messages = append(messages, plain(fmt.Sprintf("%d-%d", p, i)))
					i++
				}
				if _, err := r.Send(ctx, &SendRequest{Topic: "t", QueueID: -1, Messages: messages}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range consumers {
		wg.Go(func() {
			for {
				res, err := r.Pop(ctx, waitingPop(1+rand.IntN(maxPop)))
				if errors.Is(err, context.Canceled) {
					return
				}
				if err != nil || res.Buffer == nil {
					t.Errorf("%v, %v", res, err)
					stop()
					return
				}
				n := len(res.Ends)
				for _, body := range bodiesOf(t, res) {
					if _, twice := got.LoadOrStore(body, true); twice {
						t.Errorf("%s came twice", body)
					}
				}
				for _, err := range r.Ack(context.Background(), "g", "t", res.Receipts()) {
					if err != nil {
						t.Error(err)
					}
				}
				if left.Add(-int64(n)) == 0 {
					stop()
				}
			}
		})
	}
	over := make(chan struct{})
	go func() { wg.Wait(); close(over) }()
	select {
	case <-over:
	case <-time.After(20 * time.Second):
		stop()
		t.Fatalf("%d messages were not handed out while %d wait", left.Load(), r.waiters.len())
	}
	if c, err := r.GroupCounters("g", "t"); err != nil || c != (GroupCounters{}) {
		t.Errorf("counters %+v, %v", c, err)
	}
}

func TestABatchWakesAsManyAsItHasMessages(t *testing.T) {
	r := newPopRig(t)
	r.topicOf(t, "t", 1)
	var all []chan popAnswer
	for range 20 {
		all = append(all, r.popLater(context.Background(), waitingPop(1)))
	}
	poll(t, "all to wait", func() bool { return r.waiters.len() == len(all) })
	r.sendBodies(t, "t", 0, len(all))
	seen := map[string]bool{}
	for _, one := range all {
		a := arriveOne(t, one)
		if a.err != nil {
			t.Fatal(a.err)
		}
		for _, body := range bodiesOf(t, a.res) {
			seen[body] = true
		}
	}
	if len(seen) != len(all) || r.waiters.len() != 0 {
		t.Errorf("%d messages for %d, %d still wait", len(seen), len(all), r.waiters.len())
	}
}

// One is woken for everything that expires, and wakes the next one for what it leaves.
func TestWhatExpiresIsSharedOut(t *testing.T) {
	r := newPopRig(t)
	r.topicOf(t, "t", 1)
	r.sendBodies(t, "t", 0, 10)
	if got, _ := r.popBodies(t, popOf(10)); len(got) != 10 {
		t.Fatalf("%v", got)
	}
	var all []chan popAnswer
	for range 4 {
		all = append(all, r.popLater(context.Background(), waitingPop(3)))
	}
	poll(t, "all to wait", func() bool { return r.waiters.len() == len(all) })
	r.clock.Advance(time.Minute)
	total := 0
	for _, one := range all {
		a := arriveOne(t, one)
		if a.err != nil {
			t.Fatal(a.err)
		}
		for _, n := range a.res.Attempts {
			if n != 2 {
				t.Errorf("attempt %d", n)
			}
		}
		total += len(bodiesOf(t, a.res))
	}
	if total != 10 {
		t.Errorf("%d messages came again, want 10", total)
	}
}

// syncGate is a disk whose syncs can be held up.
type syncGate struct {
	mu   sync.RWMutex // held by who holds up syncs
	fail atomic.Bool
}

func (g *syncGate) wrap(fs vfs.FS) vfs.FS {
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo {
			g.mu.RLock()
			defer g.mu.RUnlock()
			if g.fail.Load() {
				return errors.New("the disk has failed")
			}
		}
		return nil
	}))
}

// gatedRig is a broker on such a disk.
func gatedRig(t testing.TB) (*popRig, *syncGate) {
	r := openPopRig(t)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	g := &syncGate{}
	r.fs = g.wrap(r.disk)
	r.open(t)
	t.Cleanup(func() { r.shut(t) })
	return r, g
}

// pending is the number of records under way for a queue of topic t and group g.
func (r *popRig) pending(t testing.TB, queue int32) int {
	t.Helper()
	at := place{r.group(t, "g").ID, mustTopicID(t, r.testBroker, "t"), queue}
	s := r.pop.leases.shard(at)
	s.Lock()
	defer s.Unlock()
	if e := s.held[at]; e != nil {
		return e.pending
	}
	return 0
}

// A queue does not hand out one batch per sync: what was chosen is passed by before it is durable.
func TestPopsOfOneQueueShareSyncs(t *testing.T) {
	r, gate := gatedRig(t)
	r.topicOf(t, "t", 1)
	r.sendBodies(t, "t", 0, 8)
	r.popBodies(t, PopRequest{Group: "g", Topic: "t", Queue: 0, Max: 1, Invisible: time.Minute})
	gate.mu.Lock()
	var all []chan popAnswer
	for i := range 6 {
		req := popOf(1)
		all = append(all, r.popLater(context.Background(), &req))
		poll(t, "the pop to be proposed", func() bool { return r.pending(t, 0) == i+1 })
	}
	gate.mu.Unlock()
	for i, one := range all {
		a := arriveOne(t, one)
		if a.err != nil {
			t.Fatal(a.err)
		}
		wantBodies(t, "pop", bodiesOf(t, a.res), fmt.Sprint(i+1))
	}
	if n := r.pending(t, 0); n != 0 {
		t.Errorf("%d records under way", n)
	}
}

// A reset that comes between a choice and its record makes the fold refuse the record, and the pop looks again.
func TestAResetOvertakesAPop(t *testing.T) {
	r, gate := gatedRig(t)
	r.topicOf(t, "t", 1)
	r.sendBodies(t, "t", 0, 6)
	_, first := r.popBodies(t, popOf(1))
	gate.mu.Lock()
	one, two := popOf(2), popOf(2)
	before := r.popLater(context.Background(), &one)
	poll(t, "the first pop to be proposed", func() bool { return r.pending(t, 0) == 1 })
	reset := make(chan error, 1)
	go func() {
		_, err := r.ResetOffsets(context.Background(), "g", "t", 0, 0, 0, true)
		reset <- err
	}()
	poll(t, "the reset to be proposed", func() bool { return r.offsets.hasReset(r.placeOf(t, 0)) })
	after := r.popLater(context.Background(), &two)
	poll(t, "the second pop to be proposed", func() bool { return r.pending(t, 0) == 2 })
	gate.mu.Unlock()
	a := arriveOne(t, before)
	if a.err != nil {
		t.Fatal(a.err)
	}
	wantBodies(t, "before the reset", bodiesOf(t, a.res), "1", "2")
	if err := arriveOne(t, reset); err != nil {
		t.Fatal(err)
	}
	b := arriveOne(t, after)
	if b.err != nil {
		t.Fatal(b.err)
	}
	wantBodies(t, "after the reset", bodiesOf(t, b.res), "0", "1")
	for _, err := range r.Ack(context.Background(), "g", "t", append(first, a.res.Receipts()...)) {
		wantCode(t, "a handle from before the reset", err, CodeInvalidHandle)
	}
	if c, err := r.GroupCounters("g", "t"); err != nil || c != (GroupCounters{Ready: 4, InFlight: 2}) {
		t.Errorf("counters %+v, %v", c, err)
	}
}

func (r *popRig) placeOf(t testing.TB, queue int32) place {
	return place{r.group(t, "g").ID, mustTopicID(t, r.testBroker, "t"), queue}
}

// An acknowledgement that was accepted in time wins over a pop that takes the message as expired before it is applied: the pop
// gets the rest.
func TestAnAckOvertakesARedelivery(t *testing.T) {
	r, gate := gatedRig(t)
	r.topicOf(t, "t", 1)
	r.sendBodies(t, "t", 0, 5)
	_, handles := r.popBodies(t, popOf(3))
	gate.mu.Lock()
	acked := make(chan []error, 1)
	r.AckAsync("g", "t", []string{handles[0], handles[2]}, func(errs []error) { acked <- errs })
	r.clock.Advance(time.Minute)
	req := popOf(9)
	one := r.popLater(context.Background(), &req)
	poll(t, "the pop to be proposed", func() bool { return r.pending(t, 0) == 1 })
	gate.mu.Unlock()
	for _, err := range arriveOne(t, acked) {
		if err != nil {
			t.Error(err)
		}
	}
	a := arriveOne(t, one)
	if a.err != nil {
		t.Fatal(a.err)
	}
	if !slices.Equal(a.res.Attempts, []int32{2, 1, 1}) || len(a.res.Handles) != 3 {
		t.Errorf("attempts %v, %d handles", a.res.Attempts, len(a.res.Handles))
	}
	wantBodies(t, "the rest", bodiesOf(t, a.res), "1", "3", "4")
	for _, err := range r.Ack(context.Background(), "g", "t", a.res.Receipts()) {
		if err != nil {
			t.Error(err)
		}
	}
	r.clock.Advance(time.Hour)
	if got, _ := r.popBodies(t, popOf(9)); got != nil {
		t.Errorf("after everything was acknowledged: %v", got)
	}
}

// What nobody waits for any more is given back at once, and was no attempt.
func TestWhatNobodyReceivesIsGivenBack(t *testing.T) {
	r, gate := gatedRig(t)
	r.topicOf(t, "t", 1)
	r.sendBodies(t, "t", 0, 3)
	r.popBodies(t, popOf(1))
	ctx, cancel := context.WithCancel(context.Background())
	gate.mu.Lock()
	req := popOf(2)
	one := r.popLater(ctx, &req)
	poll(t, "the pop to be proposed", func() bool { return r.pending(t, 0) == 1 })
	cancel()
	gate.mu.Unlock()
	if a := arriveOne(t, one); !errors.Is(a.err, context.Canceled) {
		t.Fatalf("%+v", a)
	}
	a := arriveOne(t, r.popLater(context.Background(), waitingPop(5)))
	if a.err != nil {
		t.Fatal(a.err)
	}
	if !slices.Equal(a.res.Attempts, []int32{1, 1}) {
		t.Errorf("attempts %v", a.res.Attempts)
	}
	wantBodies(t, "given back", bodiesOf(t, a.res), "1", "2")
}

func TestPopOnAFailedDisk(t *testing.T) {
	r, gate := gatedRig(t)
	r.topicOf(t, "t", 1)
	r.sendBodies(t, "t", 0, 3)
	_, handles := r.popBodies(t, popOf(1))
	waiting := r.popLater(context.Background(), &PopRequest{Group: "idle", Topic: "t", Queue: -1, Max: 1, Invisible: time.Minute,
		Filter: tags(t, "none"), Wait: time.Hour})
	poll(t, "the other group to wait", func() bool { return r.waiters.len() == 1 })
	gate.fail.Store(true)
	req := popOf(1)
	_, err := r.Pop(context.Background(), &req)
	wantCode(t, "pop", err, CodeReadOnly)
	for _, err := range r.Ack(context.Background(), "g", "t", handles) {
		wantCode(t, "ack", err, CodeReadOnly)
	}
	_, err = r.ChangeInvisible(context.Background(), "g", "t", handles[0], time.Minute)
	wantCode(t, "change", err, CodeReadOnly)
	if n := r.pop.leases.len(); n != 0 {
		t.Errorf("%d leases are left", n)
	}
	gate.fail.Store(false)
	_ = r.Close() // says what has failed
	wantCode(t, "the one that waited", arriveOne(t, waiting).err, CodeClosing)
	r.disk = r.disk.CrashClone(vfs.CrashCloneCfg{})
	r.fs = r.disk
	r.open(t)
	if got, _ := r.popBodies(t, popOf(5)); len(got) != 2 {
		t.Errorf("after the failure: %v", got)
	}
}

func TestManyHandlesInOneAck(t *testing.T) {
	r := newPopRig(t)
	r.topicOf(t, "t", 1)
	r.sendBodies(t, "t", 0, 150)
	var handles []string
	for len(handles) < 150 {
		_, more := r.popBodies(t, popOf(maxPop))
		handles = append(handles, more...)
	}
	r.Ack(context.Background(), "g", "t", []string{handles[70]})
	handles[10] = "nonsense"
	errs := r.Ack(context.Background(), "g", "t", handles)
	for i, err := range errs {
		if bad := i == 10 || i == 70; bad != (err != nil) || bad && CodeOf(err) != CodeInvalidHandle {
			t.Errorf("handle %d: %v", i, err)
		}
	}
	if c, err := r.GroupCounters("g", "t"); err != nil || c.InFlight != 1 {
		t.Errorf("counters %+v, %v", c, err)
	}
	if errs := r.Ack(context.Background(), "g", "t", nil); len(errs) != 0 {
		t.Errorf("%v", errs)
	}
}

// A group that is new begins behind the last message of a queue that has lost some, and stays where it began.
func TestANewGroupOnAnOldQueue(t *testing.T) {
	r := newPopRig(t)
	r.topicOf(t, "t", 2)
	r.sendBodies(t, "t", 0, 3)
	r.clock.Advance(100 * time.Hour)
	if err := r.store.Expire(context.Background(), r.clock.Now()); err != nil {
		t.Fatal(err)
	}
	if low, err := r.MinOffset("t", 0); err != nil || low != 3 {
		t.Fatalf("the queue begins at %d, %v", low, err)
	}
	r.send(t, "t", 0, plain("before"))
	r.send(t, "t", 1, plain("young"))
	if c, err := r.GroupCounters("g", "t"); CodeOf(err) != CodeGroupNotFound {
		t.Errorf("counters of a group that is not there: %+v, %v", c, err)
	}
	r.group(t, "g")
	if c, err := r.GroupCounters("g", "t"); err != nil || c != (GroupCounters{Ready: 1}) {
		t.Errorf("counters %+v, %v", c, err)
	}
	// The first look takes what it wants from one queue, and is given its place in the other one too.
	got, _ := r.popBodies(t, popOf(1))
	wantBodies(t, "the young queue", got, "young")
	r.send(t, "t", 0, plain("after"))
	got, _ = r.popBodies(t, popOf(5))
	wantBodies(t, "the old queue", got, "after")
}

// A message whose segment was deleted cannot be handed out again, and does not stay in flight.
func TestWhatIsGoneIsPassedOver(t *testing.T) {
	r := newPopRig(t)
	r.topicOf(t, "t", 1)
	big := plain(strings.Repeat("x", 300_000))
	r.send(t, "t", 0, big, big, big)
	req := popOf(2)
	req.Invisible = 90 * time.Hour
	r.popBodies(t, req)
	for range 8 {
		r.send(t, "t", 0, big)
	}
	r.clock.Advance(80 * time.Hour)
	r.send(t, "t", 0, plain("young"))
	if err := r.store.Expire(context.Background(), r.clock.Now()); err != nil {
		t.Fatal(err)
	}
	if low := r.store.Stats().LogFirst; low == 0 {
		t.Fatal("no segment was deleted")
	}
	if c, err := r.GroupCounters("g", "t"); err != nil || c != (GroupCounters{Ready: 1, InFlight: 2}) {
		t.Errorf("counters %+v, %v", c, err)
	}
	r.clock.Advance(20 * time.Hour)
	got, _ := r.popBodies(t, popOf(5))
	wantBodies(t, "what is left", got, "young")
	if c, err := r.GroupCounters("g", "t"); err != nil || c != (GroupCounters{InFlight: 1}) {
		t.Errorf("counters %+v, %v", c, err)
	}
}

// A damaged message holds up its own queue, and says so; when it is expired, it holds up nothing but itself.
func TestADamagedMessage(t *testing.T) {
	r := newPopRig(t)
	r.topicOf(t, "t", 2)
	r.send(t, "t", 0, plain("good 0"), plain("DAMAGED-1"), plain("good 1"))
	r.send(t, "t", 1, plain("other"))
	r.send(t, "t", 0, plain("DAMAGED-2"))
	all := popOf(9)
	all.Queue = 0
	all.Invisible = time.Second
	got, _ := r.popBodies(t, all)
	if len(got) != 4 {
		t.Fatalf("%v", got)
	}
	r.damage(t, "DAMAGED-1")
	r.damage(t, "DAMAGED-2")
	r.clock.Advance(time.Second)
	got, _ = r.popBodies(t, popOf(9))
	wantBodies(t, "beside a damaged one that is expired", got, "good 0", "good 1", "other")
	req := popOf(9)
	_, err := r.Pop(context.Background(), &req)
	var corrupt *commitlog.CorruptError
	if !errors.As(err, &corrupt) {
		t.Errorf("nothing but damaged ones: %v", err)
	}
	fresh := PopRequest{Group: "fresh", Topic: "t", Queue: -1, Max: 9, Invisible: time.Minute}
	got, _ = r.popBodies(t, fresh)
	slices.Sort(got)
	wantBodies(t, "a fresh group", got, "good 0", "other")
	if _, err = r.Pop(context.Background(), &fresh); !errors.As(err, &corrupt) {
		t.Errorf("a fresh group's next pop: %v", err)
	}
	r.repair(t)
}

// damage flips a bit of a body in the log; repair flips them back, so that the log can be compared with the view.
func (r *popRig) damage(t testing.TB, body string) {
	t.Helper()
	names, err := r.disk.List("data/log")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		path := r.disk.PathJoin("data/log", name)
		raw := readFile(t, r.disk, path)
		at := bytes.Index(raw, []byte(body))
		if at < 0 {
			continue
		}
		f, err := r.disk.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{raw[at] ^ 0x20}, int64(at)); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("%s is not in the log", body)
}

func (r *popRig) repair(t testing.TB) {
	t.Helper()
	r.damage(t, "dAMAGED-1")
	r.damage(t, "dAMAGED-2")
}

func readFile(t testing.TB, fs vfs.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, info.Size())
	if len(raw) > 0 {
		if _, err := f.ReadAt(raw, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return raw
}

// A filter may pass over more than one look looks at; the pop goes on until it finds something or the end.
func TestALongWayToWhatMatches(t *testing.T) {
	r := newPopRig(t)
	r.topicOf(t, "t", 1)
	dull := make([]message.Message, 1000)
	for i := range dull {
		dull[i] = plain("dull", message.PropTags, "dull")
	}
	for range 2*popScan/len(dull) + 1 {
		r.send(t, "t", 0, dull...)
	}
	r.send(t, "t", 0, plain("found", message.PropTags, "x"))
	req := popOf(3)
	req.Filter = tags(t, "x")
	got, _ := r.popBodies(t, req)
	wantBodies(t, "after a long way", got, "found")
	none := PopRequest{Group: "none", Topic: "t", Queue: -1, Max: 3, Invisible: time.Minute, Filter: tags(t, "y")}
	if got, _ := r.popBodies(t, none); got != nil {
		t.Errorf("%v", got)
	}
	if c, err := r.GroupCounters("none", "t"); err != nil || c != (GroupCounters{}) {
		t.Errorf("counters %+v, %v", c, err)
	}
}

func TestPopRefusals(t *testing.T) {
	r := newPopRig(t)
	r.topicOf(t, "t", 2)
	ctx := context.Background()
	if err := r.PutTopic(ctx, catalog.Topic{Name: "blind", ReadQueues: 1, WriteQueues: 1, Perm: catalog.PermWrite}, ""); err != nil {
		t.Fatal(err)
	}
	off := catalog.DefaultGroup("off")
	off.ConsumeEnable = false
	if err := r.PutGroup(ctx, off, ""); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		change func(*PopRequest)
		want   Code
	}{
		"no message":     {func(q *PopRequest) { q.Max = 0 }, CodeParameter},
		"queue":          {func(q *PopRequest) { q.Queue = -2 }, CodeParameter},
		"negative time":  {func(q *PopRequest) { q.Invisible = -1 }, CodeParameter},
		"unreadable":     {func(q *PopRequest) { q.Topic = "blind" }, CodeNoPermission},
		"disabled group": {func(q *PopRequest) { q.Group = "off" }, CodeNoPermission},
	} {
		req := popOf(1)
		c.change(&req)
		_, err := r.Pop(ctx, &req)
		wantCode(t, what, err, c.want)
	}
	r.waiters.max = 0
	_, err := r.Pop(ctx, waitingPop(1))
	wantCode(t, "too many wait", err, CodeBusy)
	if _, err := r.ChangeInvisible(ctx, "g", "t", "x", -1); CodeOf(err) != CodeParameter {
		t.Error(err)
	}
	if _, err := r.GroupCounters("g", "nowhere"); CodeOf(err) != CodeTopicNotFound {
		t.Error(err)
	}
	// A time below a millisecond is one.
	r.send(t, "t", 0, plain("x"))
	req := popOf(1)
	req.Invisible = 1
	res, err := r.Pop(ctx, &req)
	if err != nil || res.Invisible != 1 {
		t.Fatalf("%+v, %v", res, err)
	}
	res.Buffer.Release()
}

// What an idle long poll costs beside the goroutine that waits in it.
func TestMemoryOfAWaitingPop(t *testing.T) {
	const n = 10_000
	r := newPopRig(t)
	r.topicOf(t, "t", 8)
	r.popBodies(t, popOf(1))
	ctx, cancel := context.WithCancel(context.Background())
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	over := make(chan error, n)
	for range n {
		go func() {
			_, err := r.Pop(ctx, waitingPop(32))
			over <- err
		}()
	}
	poll(t, "all to wait", func() bool { return r.waiters.len() == n && r.due.len() >= n })
	runtime.GC()
	runtime.ReadMemStats(&after)
	heap := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / n
	stack := (int64(after.StackInuse) - int64(before.StackInuse)) / n
	t.Logf("a waiting pop takes %d bytes of heap, and %d of stack", heap, stack)
	if heap > 4<<10 { // 335 bytes without the race detector, up to 1,600 with it
		t.Errorf("a waiting pop takes %d bytes", heap)
	}
	cancel()
	for range n {
		if err := arriveOne(t, over); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	if n := r.waiters.len(); n != 0 {
		t.Errorf("%d still wait", n)
	}
}

// Something that is visible again in a queue that the waiting one does not want must not keep it busy.
func TestNobodyIsKeptBusyByWhatItMayNotHave(t *testing.T) {
	r := newPopRig(t)
	r.topicOf(t, "t", 2)
	r.sendBodies(t, "t", 1, 1)
	r.popBodies(t, popOf(1))
	var waiting []chan popAnswer
	for range 3 {
		req := waitingPop(1)
		req.Queue = 0
		waiting = append(waiting, r.popLater(context.Background(), req))
	}
	poll(t, "all to wait and the alarm to be set", func() bool { return r.waiters.len() == 3 && r.pop.alarms.n.Load() == 1 })
	r.clock.Advance(2 * time.Minute)
	poll(t, "the alarm to go off and all to wait again", func() bool { return r.waiters.len() == 3 && r.pop.alarms.n.Load() == 0 })
	for range 1000 {
		runtime.Gosched()
		if n := r.pop.alarms.n.Load(); n != 0 {
			t.Fatal("an alarm was set for something that is visible already")
		}
	}
	got, _ := r.popBodies(t, popOf(5))
	wantBodies(t, "the other queue", got, "0")
	r.sendBodies(t, "t", 0, 3)
	for _, one := range waiting {
		a := arriveOne(t, one)
		if a.err != nil {
			t.Fatal(a.err)
		}
		if n := len(bodiesOf(t, a.res)); n != 1 {
			t.Errorf("%d messages", n)
		}
	}
}
